//! Any bytes as a `ModelInfer` request: the message, its tensors' types and shapes, and their contents, raw and typed.
#![no_main]

use libfuzzer_sys::fuzz_target;
use prost::Message;
use tidemill_proto::inference::ModelInferRequest;
use tidemill_proto::tensor::{Datatype, decode_bytes, decode_fp32, element_count, filled_lists};

fuzz_target!(|bytes: &[u8]| {
    let Ok(request) = ModelInferRequest::decode(bytes) else {
        return;
    };
    for (at, input) in request.inputs.iter().enumerate() {
        let _ = input.datatype.parse::<Datatype>();
        let _ = input.contents.as_ref().map(filled_lists);
        let (Ok(count), Some(raw)) = (element_count(&input.shape), request.raw_input_contents.get(at)) else {
            continue;
        };
        if let Ok(texts) = decode_bytes(raw, count) {
            assert_eq!(texts.len(), count);
        }
        if let Ok(numbers) = decode_fp32(raw, count) {
            assert_eq!(numbers.len(), count);
        }
    }
});
