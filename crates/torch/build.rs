//! Compiles the shim against the libtorch that `torch-sys` found, and tells dependents where its libraries are.
use std::path::PathBuf;

fn main() {
    let lib = std::env::var("DEP_TCH_LIBTORCH_LIB").unwrap_or_default();
    println!("cargo:libtorch_lib={lib}");
    println!("cargo:rustc-link-arg=-Wl,-rpath,{}", PathBuf::from(&lib).display());
}
