//! Any bytes as a GGUF file: container, configuration, tokeniser and blocks.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tidemill_model::checkpoint::gguf::Gguf;

fuzz_target!(|bytes: &[u8]| {
    let Ok(gguf) = Gguf::from_bytes("fuzzed.gguf", bytes.to_vec()) else {
        return;
    };
    let _ = gguf.config();
    let _ = gguf.chat_templates();
    let _ = gguf.tokenizer_json();
    for name in gguf.tensor_names() {
        let _ = gguf.floats(name);
    }
});
