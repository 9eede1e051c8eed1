//! Matrices in every precision against float64 products of the numbers that they hold.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod reference;

use reference::{Cases, PRECISIONS, Quantised, difference, ids, product, random};
use tch::{Device, Kind, TchError, Tensor};
use tidemill_torch::{Groups, Matrix, Precision};

fn level() -> i32 {
    tidemill_torch::limit_level(3)
}

#[test]
fn products_agree_with_float64_on_random_shapes() {
    tch::manual_seed(1);
    let mut cases = Cases(1);
    for case in 0..120 {
        let precision = cases.pick(&PRECISIONS);
        let rows = cases.pick(&[1, 1, 2, 3, 7, 12, 13, 17, 25, 64, 200]);
        let inputs = cases.pick(&[1, 2, 31, 32, 33, 64, 100, 255, 256, 257, 576, 1000]);
        let outputs = cases.pick(&[1, 3, 31, 32, 33, 64, 100, 193, 576]);
        let kind = cases.pick(&[Kind::Float, Kind::BFloat16, Kind::Half, Kind::Double]);
        let weight = match cases.below(3) {
            0 => random(&[inputs, outputs]).tr(),
            1 => random(&[outputs, 2 * inputs]).narrow(1, inputs, inputs),
            _ => random(&[outputs, inputs]),
        };
        let matrix = Matrix::from_tensor(&weight.to_kind(kind), precision).unwrap();
        let x = match cases.below(3) {
            0 => random(&[inputs, rows]).tr(),
            1 => random(&[rows, 2 * inputs]).narrow(1, 0, inputs),
            _ => random(&[rows, inputs]),
        };
        let bias = (cases.below(2) == 0).then(|| random(&[outputs]));
        let ours = matrix.linear(&x, bias.as_ref()).unwrap();
        let theirs = product(&matrix, &x, bias.as_ref(), level());
        let what = format!("case {case}: {rows}x{inputs}x{outputs} {precision:?} from {kind:?}");
        assert_eq!(ours.kind(), Kind::Float);
        assert!(!ours.requires_grad());
        let away = difference(&ours, &theirs);
        assert!(away < 3e-6, "{what}: {away}");
    }
}

#[test]
fn quantised_numbers_are_held_without_loss() {
    let mut cases = Cases(2);
    for case in 0..40 {
        let (outputs, groups) = (cases.pick(&[1, 5, 32, 70]), cases.pick(&[1, 3, 8, 20]));
        let given = Quantised::random(&mut cases, outputs, groups);
        let matrix = Matrix::from_groups(&given.groups()).unwrap();
        let numbers = Vec::<f32>::try_from(matrix.to_tensor().unwrap().flatten(0, 1)).unwrap();
        for output in 0..given.outputs {
            for input in 0..given.inputs {
                assert_eq!(numbers[output * given.inputs + input], given.number(output, input), "case {case}");
            }
        }
        let rows = cases.pick(&[1, 3, 12, 40]);
        let x = random(&[rows, given.inputs as i64]);
        let away = difference(&matrix.linear(&x, None).unwrap(), &product(&matrix, &x, None, level()));
        assert!(away < 5e-6, "case {case}: {away}");
    }
}

#[test]
fn four_bits_take_four_bits() {
    let (outputs, inputs) = (64, 64);
    let mut values = vec![0i8; outputs * inputs];
    let scales = vec![0.25f32; outputs * inputs / 32];
    for (least, most, expected) in [(0, 15, Precision::Int4), (-8, 7, Precision::Int4), (-8, 8, Precision::Int8)] {
        values[3] = least;
        values[4] = most;
        let groups = Groups { outputs, inputs, group: 32, values: &values, scales: &scales, minima: None };
        let matrix = Matrix::from_groups(&groups).unwrap();
        assert_eq!(matrix.precision(), expected);
        let bits = if expected == Precision::Int4 { 4 } else { 8 };
        // A float16 scale for every 32.
        assert_eq!(matrix.bytes(), outputs * inputs * bits / 8 + outputs * inputs / 32 * 2);
    }
}

#[test]
fn rounding_is_as_small_as_the_precision_allows() {
    tch::manual_seed(3);
    let weight = random(&[96, 320]);
    let error = |precision| {
        let held = Matrix::from_tensor(&weight, precision).unwrap().to_tensor().unwrap();
        (held - &weight).square().mean(Kind::Double).double_value(&[]).sqrt()
    };
    assert_eq!(error(Precision::Float32), 0.0);
    let bfloat16 = Matrix::from_tensor(&weight, Precision::BFloat16).unwrap().to_tensor().unwrap();
    assert_eq!(bfloat16, weight.to_kind(Kind::BFloat16).to_kind(Kind::Float));
    assert!(error(Precision::Int8) < 0.0065, "{}", error(Precision::Int8));
    // 15 steps between the least and the largest of 32 normal numbers give 0.083.
    assert!(error(Precision::Int4) < 0.076, "{}", error(Precision::Int4));
    for constant in [0.0, 1.5, -3.0, 1e-9, 50_000.0] {
        let weight = Tensor::full([3, 40], constant, (Kind::Float, Device::Cpu));
        for precision in [Precision::Int8, Precision::Int4] {
            let held = Matrix::from_tensor(&weight, precision).unwrap().to_tensor().unwrap();
            assert!((held - &weight).abs().max().double_value(&[]) <= 1e-7 + constant.abs() * 1e-3, "{precision:?}");
        }
    }
}

#[test]
fn a_row_does_not_depend_on_the_rows_beside_it() {
    tch::manual_seed(4);
    let mut cases = Cases(4);
    for (inputs, outputs) in [(320, 70), (576, 1536), (1536, 576)] {
        let weight = random(&[outputs, inputs]);
        let mut matrices: Vec<Matrix> =
            PRECISIONS.iter().map(|precision| Matrix::from_tensor(&weight, *precision).unwrap()).collect();
        let given = Quantised::random(&mut cases, outputs, inputs / 32);
        matrices.push(Matrix::from_groups(&given.groups()).unwrap());
        for matrix in matrices {
            let x = random(&[600, matrix.inputs()]);
            let all = matrix.linear(&x, None).unwrap();
            for (first, count) in [(0, 1), (1, 2), (5, 11), (17, 13), (40, 40), (199, 1), (90, 510), (599, 1)] {
                let some = matrix.linear(&x.narrow(0, first, count), None).unwrap();
                let what = format!("{inputs} {outputs} {:?} rows {first} + {count}", matrix.precision());
                assert_eq!(some, all.narrow(0, first, count), "{what}");
            }
        }
    }
}

#[test]
fn parts_lie_one_after_another() {
    tch::manual_seed(5);
    let mut cases = Cases(5);
    let given = Quantised::random(&mut cases, 37, 8);
    let inputs = given.inputs as i64;
    let mut parts: Vec<Matrix> = [(40, Precision::Int4), (64, Precision::Float32), (1, Precision::BFloat16)]
        .map(|(outputs, precision)| Matrix::from_tensor(&random(&[outputs, inputs]), precision).unwrap())
        .into();
    parts.push(Matrix::from_groups(&given.groups()).unwrap());
    let whole = Matrix::concatenated(&parts).unwrap();
    assert_eq!((whole.outputs(), whole.inputs()), (142, inputs));
    assert_eq!(whole.bytes(), parts.iter().map(Matrix::bytes).sum::<usize>());
    let bias = random(&[142]);
    for rows in [1, 5, 30, 300] {
        let x = random(&[rows, inputs]);
        let products: Vec<Tensor> = parts.iter().map(|part| part.linear(&x, None).unwrap()).collect();
        assert_eq!(whole.linear(&x, Some(&bias)).unwrap(), Tensor::cat(&products, 1) + &bias);
    }
    let numbers: Vec<Tensor> = parts.iter().map(|part| part.to_tensor().unwrap()).collect();
    assert_eq!(whole.to_tensor().unwrap(), Tensor::cat(&numbers, 0));
    drop(parts);
    let nested = Matrix::concatenated(&[whole.clone(), whole]).unwrap();
    let wanted = ids(&[0, 283, 141, 142, 39, 40, 41, 3]);
    assert_eq!(nested.rows(&wanted).unwrap(), nested.to_tensor().unwrap().index_select(0, &wanted));
    assert!(Matrix::concatenated(&[]).is_err());
    let other = Matrix::from_tensor(&random(&[4, inputs + 1]), Precision::Float32).unwrap();
    assert!(Matrix::concatenated(&[nested, other]).is_err());
}

#[test]
fn inputs_of_any_shape_and_kind_work() {
    for precision in PRECISIONS {
        let matrix = Matrix::from_tensor(&random(&[20, 64]), precision).unwrap();
        let bias = random(&[20]);
        for size in [vec![64], vec![0, 64], vec![2, 3, 64], vec![2, 0, 64]] {
            let x = random(&size);
            let ours = matrix.linear(&x, Some(&bias)).unwrap();
            assert!(difference(&ours, &product(&matrix, &x, Some(&bias), level())) < 3e-6, "{precision:?} {size:?}");
        }
        let x = random(&[5, 64]);
        let theirs = x.matmul(&matrix.to_tensor().unwrap().tr());
        let double = matrix.linear(&x.to_kind(Kind::Double), None).unwrap();
        assert_eq!(double.kind(), Kind::Double);
        assert!(difference(&double, &theirs) < 1e-6);
        assert!(difference(&matrix.linear(&x.to_kind(Kind::BFloat16), None).unwrap(), &theirs) < 2e-2);
        assert_eq!(matrix.rows(&ids(&[])).unwrap().size(), [0, 64]);
    }
}

#[test]
fn callers_on_many_threads_at_once_get_what_each_gets_alone() {
    std::thread::scope(|scope| {
        for rows in [1, 2, 30, 70] {
            scope.spawn(move || {
                let matrix = Matrix::from_tensor(&random(&[576, 1536]), Precision::Float32).unwrap();
                let x = random(&[rows, 1536]);
                let each = (0..rows).map(|row| matrix.linear(&x.narrow(0, row, 1), None).unwrap());
                let alone = Tensor::cat(&each.collect::<Vec<_>>(), 0);
                for _ in 0..100 {
                    assert_eq!(matrix.linear(&x, None).unwrap(), alone);
                }
            });
        }
    });
}

#[test]
fn what_does_not_fit_is_an_error_with_a_sentence() {
    let refused = |result: Result<Tensor, TchError>, part: &str| {
        let TchError::Torch(message) = result.unwrap_err() else { panic!("another error") };
        assert!(message.contains(part), "{message}");
    };
    for precision in PRECISIONS {
        let matrix = Matrix::from_tensor(&random(&[20, 64]), precision).unwrap();
        refused(matrix.linear(&random(&[4, 63]), None), "takes 64 features");
        refused(matrix.linear(&random(&[4, 64]), Some(&random(&[21]))), "the bias must be [20]");
        refused(matrix.rows(&ids(&[3, 20])), "id 20 is not among the 20 rows");
        refused(matrix.rows(&ids(&[-1])), "id -1");
        refused(matrix.rows(&random(&[2])), "must be [n] int64");
        for weight in [random(&[64]), random(&[0, 64]), random(&[64, 0]), random(&[4, 4]).to_kind(Kind::Int64)] {
            assert!(Matrix::from_tensor(&weight, precision).is_err());
        }
    }
    let endless = Tensor::full([2, 32], f64::INFINITY, (Kind::Float, Device::Cpu));
    refused(Matrix::from_tensor(&endless, Precision::Int4).and_then(|m| m.to_tensor()), "scaled integers");
    let groups = Groups { outputs: 2, inputs: 32, group: 32, values: &[1; 64], scales: &[1.0; 3], minima: None };
    refused(Matrix::from_groups(&groups).and_then(|m| m.to_tensor()), "64 quantised values and 3 scales");
    for group in [0, 8, 64] {
        assert!(Matrix::from_groups(&Groups { group, scales: &[1.0; 2], ..groups }).is_err());
    }
}
