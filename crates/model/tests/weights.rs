//! Safetensors files: agreement with the format's own library, and files that lie.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::path::PathBuf;

use tch::{Device, Kind, Tensor};
use tidemill_model::weights::write;
use tidemill_model::{Init, Parameters, Weights};

fn tensors() -> Vec<(String, Tensor)> {
    let cpu = (Kind::Float, Device::Cpu);
    vec![
        ("z.weight".to_string(), Tensor::arange(12, cpu).view([3, 4])),
        ("a.bias".to_string(), Tensor::from_slice(&[1_i64, -2])),
        ("half".to_string(), Tensor::from_slice(&[0.5_f32, 2.0, 1.5]).to_kind(Kind::BFloat16)),
        ("scalar".to_string(), Tensor::from(3.5_f32)),
        ("empty".to_string(), Tensor::zeros([0, 4], cpu)),
        ("transposed".to_string(), Tensor::arange(6, cpu).view([2, 3]).transpose(0, 1)),
        ("flag".to_string(), Tensor::from_slice(&[true, false, true])),
    ]
}

/// A file with this header and as many bytes of tensors.
fn file_with(header: &str, data: usize) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("lying.safetensors");
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.resize(bytes.len() + data, 0);
    fs::write(&path, bytes).unwrap();
    (folder, path)
}

#[test]
fn what_is_written_reads_back_here_and_in_the_formats_own_library() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    write(&path, &tensors()).unwrap();
    let bytes = fs::read(&path).unwrap();
    let theirs = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let ours = Weights::open(&path).unwrap();
    assert_eq!(ours.metadata()["format"], "pt");
    assert_eq!(theirs.names().len(), tensors().len());
    for (name, tensor) in tensors() {
        let read = ours.tensor(&name, Device::Cpu).unwrap();
        assert_eq!((read.size(), read.kind()), (tensor.size(), tensor.kind()), "{name}");
        assert!(read.equal(&tensor), "{name}");
        let view = theirs.tensor(&name).unwrap();
        let mut raw = vec![0; view.data().len()];
        let flat = tensor.contiguous().view(-1).view_dtype(Kind::Uint8);
        let count = raw.len();
        flat.copy_data_u8(&mut raw, count);
        assert_eq!(raw, view.data(), "{name}");
    }
}

#[test]
fn the_same_tensors_in_any_order_give_the_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let (one, two) = (folder.path().join("one"), folder.path().join("two"));
    write(&one, &tensors()).unwrap();
    let mut reversed = tensors();
    reversed.reverse();
    write(&two, &reversed).unwrap();
    assert_eq!(fs::read(&one).unwrap(), fs::read(&two).unwrap());
}

#[test]
fn what_the_formats_own_library_writes_reads_here() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("theirs.safetensors");
    let data: Vec<u8> = [1.5_f32, -2.0].iter().flat_map(|value| value.to_le_bytes()).collect();
    let view = safetensors::tensor::TensorView::new(safetensors::Dtype::F32, vec![2, 1], &data).unwrap();
    safetensors::serialize_to_file([("w", view)], None, &path).unwrap();
    let read = Weights::open(&path).unwrap().tensor("w", Device::Cpu).unwrap();
    assert!(read.equal(&Tensor::from_slice(&[1.5_f32, -2.0]).view([2, 1])));
}

#[test]
fn tensors_outlive_the_weights_and_never_write_to_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    write(&path, &tensors()).unwrap();
    let before = fs::read(&path).unwrap();
    let mut tensor = {
        let weights = Weights::open(&path).unwrap();
        weights.tensor("z.weight", Device::Cpu).unwrap()
    };
    let _ = tensor.fill_(7.0);
    assert_eq!(tensor.sum(Kind::Float).double_value(&[]), 84.0);
    assert_eq!(fs::read(&path).unwrap(), before);
}

#[test]
fn a_file_that_is_cut_off_changes_no_tensor_and_is_an_error_from_then_on() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    write(&path, &tensors()).unwrap();
    let weights = Weights::open(&path).unwrap();
    let read = weights.tensor("z.weight", Device::Cpu).unwrap();
    fs::File::options().write(true).open(&path).unwrap().set_len(0).unwrap();
    assert_eq!(read.sum(Kind::Float).double_value(&[]), 66.0);
    let problem = weights.tensor("z.weight", Device::Cpu).unwrap_err().to_string();
    assert!(problem.contains("model.safetensors") && problem.contains("cut off"), "{problem}");
}

#[test]
fn an_unaligned_tensor_is_right() {
    let (_folder, path) = {
        let header = r#"{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"b":{"dtype":"F32","shape":[1],"data_offsets":[1,5]}}"#;
        file_with(header, 5)
    };
    let mut bytes = fs::read(&path).unwrap();
    let end = bytes.len();
    bytes[end - 4..].copy_from_slice(&2.5_f32.to_le_bytes());
    fs::write(&path, bytes).unwrap();
    let tensor = Weights::open(&path).unwrap().tensor("b", Device::Cpu).unwrap();
    assert_eq!(tensor.double_value(&[0]), 2.5);
}

#[test]
fn headers_that_lie_are_refused_by_name() {
    let cases = [
        (r#"{"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#, 4, "\"w\" claims the bytes 0 to 8"),
        (r#"{"w":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}}"#, 8, "claims 8 bytes, but its shape [3]"),
        (r#"{"w":{"dtype":"F32","shape":[2],"data_offsets":[8,0]}}"#, 8, "claims the bytes 8 to 0"),
        (r#"{"w":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}}"#, 12, "leaves a gap before it"),
        (r#"{"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#, 9, "1 bytes after its last tensor"),
        (
            r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}}"#,
            12,
            "\"b\" overlaps the tensor before it",
        ),
        (r#"{"w":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]}}"#, 0, "absurd shape"),
        (r#"{"w":{"dtype":"F32","shape":[0,18446744073709551615],"data_offsets":[0,0]}}"#, 0, "absurd shape"),
        (r#"{"w":{"dtype":"F31","shape":[1],"data_offsets":[0,4]}}"#, 4, "element type \"F31\""),
        (r#"{"w":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}"#, 4, "not the JSON of a safetensors file"),
        (
            r#"{"w":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"w":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}"#,
            1,
            "\"w\" comes twice",
        ),
        ("[]", 0, "not the JSON of a safetensors file"),
        ("{\"w\":", 0, "not the JSON of a safetensors file"),
    ];
    for (header, data, expected) in cases {
        let (_folder, path) = file_with(header, data);
        let message = Weights::open(&path).unwrap_err().to_string();
        assert!(message.contains(expected) && message.contains("lying.safetensors"), "{header}: {message}");
    }
}

#[test]
fn files_cut_anywhere_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    write(&path, &tensors()).unwrap();
    let whole = fs::read(&path).unwrap();
    for length in 0..whole.len() {
        fs::write(&path, &whole[..length]).unwrap();
        assert!(Weights::open(&path).is_err(), "{length} of {} bytes", whole.len());
    }
    fs::write(&path, u64::MAX.to_le_bytes()).unwrap();
    assert!(Weights::open(&path).unwrap_err().to_string().contains("more than the format allows"));
    let missing = Weights::open(&folder.path().join("none")).unwrap_err().to_string();
    assert!(missing.contains("none") && missing.contains("No such file"), "{missing}");
    assert!(Weights::open(folder.path()).unwrap_err().to_string().contains("is not a file"));
}

#[test]
fn loading_in_place_keeps_the_tensors_and_refuses_what_does_not_fit() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    let model = |seed, rows| {
        let parameters = Parameters::new(seed, Device::Cpu);
        let layer = parameters.root().sub("layer");
        let _ = layer.get("weight", &[rows, 4], Init::XavierUniform).unwrap();
        let _ = layer.get("bias", &[rows], Init::Zeros).unwrap();
        parameters
    };
    let (one, two) = (model(1, 3), model(2, 3));
    one.save(&path).unwrap();
    let held = two.named();
    let weights = Weights::open(&path).unwrap();
    two.load_from(&weights).unwrap();
    assert!(held[0].1.equal(&one.named()[0].1) && held[0].1.requires_grad());

    let message = model(1, 5).load_from(&weights).unwrap_err().to_string();
    assert!(message.contains("\"layer.weight\" has the shape [3, 4], and the model's has [5, 4]"), "{message}");
    let more = model(1, 3);
    let _ = more.root().get("extra", &[1], Init::Zeros).unwrap();
    assert!(more.load_from(&weights).unwrap_err().to_string().contains("\"extra\" is missing"));
    let fewer = Parameters::new(1, Device::Cpu);
    assert!(fewer.load_from(&weights).unwrap_err().to_string().contains("is not a tensor of the model"));
    assert!(one.root().sub("layer").get("bias", &[3], Init::Zeros).is_err(), "a name is taken once");
}
