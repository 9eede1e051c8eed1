//! Compiles the shim against the libtorch that `torch-sys` found, and tells dependents where its libraries are.
use std::path::PathBuf;

const SOURCES: [&str; 15] = [
    "attention",
    "crew",
    "decode",
    "dropout",
    "encode",
    "fused",
    "linear",
    "matrix",
    "opaque",
    "panel_linear",
    "panels",
    "product",
    "recurrent",
    "text",
    "varlen_attention",
];

// A library of nothing but the name `libtorch.so`. What AOTInductor compiles asks for that name, and set-up has no library
// to it: see `shim/opaque.cpp`. Only where the dynamic linker goes by such names.
fn name_libtorch(build: &cc::Build, stub: &std::path::Path) -> std::io::Result<()> {
    if std::env::var("CARGO_CFG_TARGET_OS").as_deref() != Ok("linux") {
        return std::fs::write(stub, []);
    }
    let source = stub.with_extension("cpp");
    std::fs::write(&source, "")?;
    let mut compile = build.try_get_compiler().map_err(std::io::Error::other)?.to_command();
    compile.args(["-shared", "-nostdlib", "-Wl,-soname,libtorch.so", "-o"]).arg(stub).arg(&source);
    match compile.status()?.success() {
        true => Ok(()),
        false => Err(std::io::Error::other("the compiler refused")),
    }
}

fn main() {
    println!("cargo:rerun-if-changed=shim");
    println!("cargo:rerun-if-env-changed=LIBTORCH_INCLUDE");
    let lib = PathBuf::from(std::env::var("DEP_TCH_LIBTORCH_LIB").unwrap_or_default());
    println!("cargo:libtorch_lib={}", lib.display());
    println!("cargo:rustc-link-arg=-Wl,-rpath,{}", lib.display());

    let root = std::env::var("LIBTORCH_INCLUDE").map_or_else(|_| lib.join(".."), PathBuf::from);
    let include = root.join("include");
    let mut build = cc::Build::new();
    build
        .cpp(true)
        .std("c++20")
        .opt_level(3)
        .pic(true)
        .debug(false)
        .warnings(false)
        .flag_if_supported("-fopenmp")
        // Without these the loops over exp and tanh do not become vector code; no result changes.
        .flag_if_supported("-fno-math-errno")
        .flag_if_supported("-fno-trapping-math")
        .define("NDEBUG", None)
        // The headers of libtorch are not ours to warn about.
        .flag(format!("-isystem{}", include.display()))
        .flag(format!("-isystem{}", include.join("torch/csrc/api/include").display()));
    // Most of the time goes into libtorch's headers: one unit reads them once.
    let unit = PathBuf::from(std::env::var("OUT_DIR").unwrap_or_default()).join("shim.cpp");
    let here = PathBuf::from(std::env::var("CARGO_MANIFEST_DIR").unwrap_or_default()).join("shim");
    let lines = SOURCES.map(|source| format!("#include \"{}/{source}.cpp\"\n", here.display()));
    if let Err(error) = std::fs::write(&unit, lines.concat()) {
        println!("cargo:error=cannot write {}: {error}", unit.display());
        return;
    }
    build.file(unit);
    let stub = PathBuf::from(std::env::var("OUT_DIR").unwrap_or_default()).join("libtorch_name.so");
    if let Err(error) = name_libtorch(&build, &stub) {
        println!("cargo:error=cannot write {}: {error}", stub.display());
        return;
    }
    build.compile("tidemill_torch");
    // After the shim's archive, which needs them.
    println!("cargo:rustc-link-lib=torch_cpu");
    println!("cargo:rustc-link-lib=c10");
}
