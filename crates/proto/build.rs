//! Generates the messages and services from `proto/` with protox, a Protocol Buffers compiler in Rust: no `protoc`.

use std::error::Error;
use std::path::PathBuf;

use prost::Message as _;
use prost_types::FileDescriptorSet;

const FILES: [&str; 7] = [
    "tidemill/v1/chat.proto",
    "tidemill/v1/embedding.proto",
    "tidemill/v1/entities.proto",
    "tidemill/v1/generation.proto",
    "tidemill/v1/text_classification.proto",
    "tidemill/v1/text_to_text.proto",
    "inference/grpc_service.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    let root = PathBuf::from("../../proto");
    println!("cargo::rerun-if-changed={}", root.display());

    let descriptors = protox::compile(FILES, [&root])?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("tidemill_descriptor.bin"), descriptors.encode_to_vec())?;

    // Each package for itself: what is not implemented of the open protocol answers UNIMPLEMENTED, of our own it is an error
    // of the compiler.
    let (open, own): (Vec<_>, Vec<_>) = descriptors.file.into_iter().partition(|file| file.package() == "inference");
    let configure = || {
        // A map in key order: the same message gives the same bytes.
        tonic_prost_build::configure().emit_rerun_if_changed(false).btree_map(".")
    };
    configure().compile_fds(FileDescriptorSet { file: own })?;
    configure()
        // Tensor bytes are slices of the received message, not copies of it.
        .bytes(".inference")
        .generate_default_stubs(true)
        .compile_fds(FileDescriptorSet { file: open })?;
    Ok(())
}
