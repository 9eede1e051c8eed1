//! Build script of every crate whose programs or tests load libtorch: gives them a run path to its libraries, so that
//! they start from any folder and with any target folder.
fn main() {
    println!("cargo:rerun-if-changed=../torch/run_path.rs");
    if let Ok(lib) = std::env::var("DEP_TIDEMILL_TORCH_LIBTORCH_LIB") {
        let lib = std::fs::canonicalize(&lib).unwrap_or_else(|_| lib.into());
        println!("cargo:rustc-link-arg=-Wl,-rpath,{}", lib.display());
    }
}
