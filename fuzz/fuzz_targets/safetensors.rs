//! Any bytes as a safetensors file: header and tensors.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tch::Device;
use tidemill_model::{TensorSource, Weights};

fuzz_target!(|bytes: &[u8]| {
    let Ok(file) = tempfile::NamedTempFile::new() else {
        return;
    };
    if std::fs::write(file.path(), bytes).is_err() {
        return;
    }
    let Ok(weights) = Weights::open(file.path()) else {
        return;
    };
    for name in TensorSource::names(&weights) {
        let _ = weights.tensor(name, Device::Cpu);
    }
});
