//! Builds the request that a client of the Open Inference Protocol sends to classify texts, and reads it back.
//!
//! `cargo run -p tidemill-proto --example bytes_tensor`

use tidemill_proto::inference::{ModelInferRequest, model_infer_request::InferInputTensor};
use tidemill_proto::tensor::{Datatype, TensorError, decode_bytes, element_count, encode_bytes};

fn main() -> Result<(), TensorError> {
    let texts = ["A quiet, lovely film.", "Two hours that I want back."];
    let request = ModelInferRequest {
        model_name: "sentiment".to_owned(),
        inputs: vec![InferInputTensor {
            name: "text".to_owned(),
            datatype: Datatype::Bytes.name().to_owned(),
            shape: vec![2],
            ..InferInputTensor::default()
        }],
        raw_input_contents: vec![encode_bytes(texts)?],
        ..ModelInferRequest::default()
    };

    for (input, raw) in request.inputs.iter().zip(&request.raw_input_contents) {
        println!("{} {} {:?}, {} bytes", input.name, input.datatype, input.shape, raw.len());
        for text in decode_bytes(raw, element_count(&input.shape)?)? {
            println!("  {}", String::from_utf8_lossy(text));
        }
    }
    Ok(())
}
