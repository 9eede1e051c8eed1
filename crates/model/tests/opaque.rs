//! Opaque models against the modules of `fixtures/opaque`, which `fixtures/make_opaque.py` made.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::fs;
use std::path::{Path, PathBuf};

use tidemill_model::opaque::{Element, Form, NamedTensor, OpaqueError, OpaqueModel, Signature};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/opaque").join(name)
}

fn open(name: &str) -> OpaqueModel {
    OpaqueModel::open(&fixture(name), Form::TorchScript).unwrap()
}

fn tensor(name: &str, element: Element, shape: &[i64], bytes: Vec<u8>) -> NamedTensor<Vec<u8>> {
    NamedTensor { name: name.to_owned(), element, shape: shape.to_vec(), bytes }
}

fn floats(name: &str, shape: &[i64], values: &[f32]) -> NamedTensor<Vec<u8>> {
    tensor(name, Element::Fp32, shape, values.iter().flat_map(|value| value.to_le_bytes()).collect())
}

#[test]
fn rows_of_several_requests_run_as_one_and_come_back_apart() {
    let mut model = open("linear.pt");
    let requests =
        [[floats("x", &[1, 3], &[1.0, 2.0, 3.0])], [floats("x", &[0, 3], &[])], [floats("x", &[2, 3], &[0.0; 6])]];
    for (request, rows) in requests.iter().zip([1, 0, 2]) {
        assert_eq!(model.signature().check(request).unwrap(), rows);
    }
    let answers = model.run(&requests.each_ref().map(|request| request.as_slice())).unwrap();
    assert_eq!(answers[0], [floats("y", &[1, 2], &[1.0 - 3.0 + 0.25, 4.0 + 1.5 - 1.0])]);
    assert_eq!(answers[1], [floats("y", &[0, 2], &[])]);
    assert_eq!(answers[2], [floats("y", &[2, 2], &[0.25, -1.0, 0.25, -1.0])]);
}

#[test]
fn a_dictionary_is_given_by_its_keys_and_a_failure_leaves_the_model_well() {
    let mut model = open("pair.pt");
    let names: Vec<&str> = model.signature().inputs.iter().map(|input| input.name.as_str()).collect();
    assert_eq!(names, ["left", "right"]);

    // In any order, by name.
    let (left, right) = (floats("left", &[2], &[3.0, 5.0]), floats("right", &[], &[1.0]));
    let answers = model.run(&[&[right.clone(), left.clone()]]).unwrap();
    let answer = |name: &str| answers[0].iter().find(|output| output.name == name).unwrap().clone();
    assert_eq!(answer("sum"), floats("sum", &[2], &[4.0, 6.0]));
    assert_eq!(answer("difference"), floats("difference", &[2], &[2.0, 4.0]));

    let error = model.run(&[&[left.clone(), floats("right", &[3], &[0.0; 3])]]).unwrap_err();
    assert!(matches!(&error, OpaqueError::Run(reason) if reason.contains("size of tensor")), "{error}");
    assert!(model.run(&[&[left, right]]).is_ok());
}

#[test]
fn every_type_of_element_goes_in_and_comes_out() {
    use Element::*;
    let mut model = open("echo.pt");
    for element in [Bool, Uint8, Uint16, Uint32, Uint64, Int8, Int16, Int32, Int64, Fp16, Fp32, Fp64, Bf16] {
        for shape in [vec![], vec![2], vec![2, 0, 3], vec![1, 2]] {
            let count = shape.iter().product::<i64>() as usize;
            let bytes: Vec<u8> = (0..count * element.bytes()).map(|byte| (byte % 2) as u8).collect();
            let input = [tensor("x", element, &shape, bytes.clone())];
            assert_eq!(model.signature().check(&input).unwrap(), 1);
            let answers = model.run(&[&input]).unwrap();
            assert_eq!(answers[0][0], tensor("output_0", element, &shape, bytes));
            assert_eq!((answers[0][1].name.as_str(), answers[0][1].element), ("output_1", Int64));
        }
    }
}

#[test]
fn what_does_not_fit_the_signature_is_refused_by_the_tensor_s_name() {
    let signature = open("linear.pt").signature().clone();
    let x = |shape: &[i64]| floats("x", shape, &vec![0.0; shape.iter().product::<i64>().max(0) as usize]);
    let cases = [
        (vec![], "is missing"),
        (vec![x(&[1, 3]), floats("z", &[1], &[0.0])], "not an input"),
        (vec![x(&[1, 3]), x(&[1, 3])], "twice"),
        (vec![tensor("x", Element::Fp64, &[1, 3], vec![0; 24])], "is FP64; the model's is FP32"),
        (vec![x(&[1, 4])], "[1, 4]; the model's is [-1, 3]"),
        (vec![x(&[3])], "[3]; the model's is [-1, 3]"),
        (vec![x(&[-1, 3])], "the shape"),
        (vec![x(&[9, 3])], "9 rows; a request may have 8"),
        (vec![floats("x", &[2, 3], &[0.0; 5])], "24 bytes by its shape and has 20"),
        (vec![floats("x", &[i64::MAX, 3], &[])], "more bytes than can be counted"),
    ];
    for (tensors, part) in cases {
        let message = signature.check(&tensors).unwrap_err().to_string();
        assert!(message.contains(part), "{part}: {message}");
    }
    let free = open("echo.pt").signature().clone();
    let huge = tensor("x", Element::Int8, &[0, i64::MAX, 2], Vec::new());
    assert!(free.check(&[huge]).unwrap_err().to_string().contains("counted"));
    let no_bool = tensor("x", Element::Bool, &[1], vec![2]);
    assert!(free.check(&[no_bool]).unwrap_err().to_string().contains("neither 0 nor 1"));
    let deep = tensor("x", Element::Int8, &[1; 33], vec![0]);
    assert!(free.check(&[deep]).unwrap_err().to_string().contains("33 dimensions"));
}

#[test]
fn a_wrong_file_beside_a_model_is_named_with_its_key() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("linear.pt");
    fs::copy(fixture("linear.pt"), &model).unwrap();
    let x = "[[inputs]]\nname = \"x\"\n";
    let cases = [
        ("max_batch = 8\n".to_owned(), "max_batch"),
        ("[[inputs]]\nname = \"z\"\n".to_owned(), "the module's forward takes x"),
        (String::new(), "has 0 tensors"),
        (format!("max_batch_size = 8\n{x}[[outputs]]\nname = \"y\"\n"), "begins with -1"),
        (format!("max_batch_size = 8\n{x}shape = [-1, 3]\n"), "`max_batch_size` needs"),
        (format!("{x}datatype = \"BYTES\"\n"), "BYTES"),
        (format!("{x}shape = [-2]\n"), "wrong shape"),
        (format!("{x}{x}"), "of another"),
    ];
    for (text, part) in cases {
        fs::write(model.with_extension("toml"), text).unwrap();
        let message = OpaqueModel::open(&model, Form::TorchScript).unwrap_err().to_string();
        assert!(message.contains("linear.toml") && message.contains(part), "{part}: {message}");
    }

    // Outputs that are not as it says are an error of the call, not an answer.
    fs::write(model.with_extension("toml"), format!("{x}[[outputs]]\nname = \"y\"\ndatatype = \"INT64\"\n")).unwrap();
    let mut opened = OpaqueModel::open(&model, Form::TorchScript).unwrap();
    let error = opened.run(&[&[floats("x", &[1, 3], &[0.0; 3])]]).unwrap_err().to_string();
    assert!(error.contains("\"y\" is FP32; the model's is INT64"), "{error}");
}

#[test]
fn damaged_files_and_packages_without_a_signature_are_errors() {
    let folder = tempfile::tempdir().unwrap();
    let whole = fs::read(fixture("linear.pt")).unwrap();
    for (name, form) in [("cut.pt", Form::TorchScript), ("cut.pt2", Form::AotInductor)] {
        let path = folder.path().join(name);
        fs::write(&path, &whole[..whole.len() / 2]).unwrap();
        fs::write(path.with_extension("toml"), "[[inputs]]\nname = \"x\"\n").unwrap();
        let message = OpaqueModel::open(&path, form).unwrap_err().to_string();
        assert!(message.contains(name) && message.contains("libtorch cannot open"), "{message}");
        fs::remove_file(path.with_extension("toml")).unwrap();
    }
    let message = OpaqueModel::open(&folder.path().join("cut.pt2"), Form::AotInductor).unwrap_err().to_string();
    assert!(message.contains("cut.toml") && message.contains("must name the inputs"), "{message}");
    assert_eq!(Signature::beside(&folder.path().join("cut.pt")).unwrap(), None);
}

/// A package is a library for one kind of processor, so none is stored: `cargo xtask parity` has one made and runs this.
#[test]
#[ignore = "run by cargo xtask parity, which has the package compiled"]
fn a_compiled_package_gives_what_the_module_does() {
    let folder = std::env::var_os("TIDEMILL_PT2").expect("TIDEMILL_PT2 names the folder of linear.pt2");
    let mut model = OpaqueModel::open(&Path::new(&folder).join("linear.pt2"), Form::AotInductor).unwrap();
    let request = [floats("x", &[2, 3], &[1.0, 2.0, 3.0, 0.0, 0.0, 0.0])];
    let expected = open("linear.pt").run(&[&request]).unwrap();
    assert_eq!(model.run(&[&request]).unwrap(), expected);

    // A file beside it that does not tell the truth: the package itself refuses, and goes on.
    let other = tempfile::tempdir().unwrap();
    let path = other.path().join("linear.pt2");
    fs::copy(Path::new(&folder).join("linear.pt2"), &path).unwrap();
    fs::write(path.with_extension("toml"), "[[inputs]]\nname = \"x\"\ndatatype = \"FP32\"\nshape = [-1, -1]\n")
        .unwrap();
    let mut model = OpaqueModel::open(&path, Form::AotInductor).unwrap();
    let error = model.run(&[&[floats("x", &[2, 2], &[0.0; 4])]]).unwrap_err();
    assert!(matches!(error, OpaqueError::Run(_)), "{error}");
    let answers = model.run(&[&request]).unwrap();
    assert_eq!(answers[0][0].bytes, expected[0][0].bytes);
}
