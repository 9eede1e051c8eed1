//! The linear layer by every kernel against libtorch's own autograd, on seeded random shapes, strides and types.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use tch::{Device, Kind, TchError, Tensor};
use tidemill_torch::{Kernel, LinearKernels, PackedWeight, choice, linear};

const KERNELS: [Kernel; 4] = [Kernel::Libtorch, Kernel::Onednn, Kernel::Blocked, Kernel::Packed];

/// A small generator of our own, so that the cases are the same everywhere.
struct Cases(u64);

impl Cases {
    fn below(&mut self, bound: i64) -> i64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) % bound as u64) as i64
    }
}

fn random(size: &[i64], kind: Kind) -> Tensor {
    Tensor::randn(size, (Kind::Float, Device::Cpu)).to_kind(kind)
}

/// Largest difference relative to the largest number.
fn difference(ours: &Tensor, theirs: &Tensor) -> f64 {
    assert_eq!(ours.size(), theirs.size());
    assert_eq!(ours.kind(), theirs.kind());
    if ours.numel() == 0 {
        return 0.0;
    }
    let (ours, theirs) = (ours.to_kind(Kind::Double), theirs.to_kind(Kind::Double));
    let scale = theirs.abs().max().double_value(&[]).max(1e-6);
    (ours - theirs).abs().max().double_value(&[]) / scale
}

#[test]
fn every_kernel_agrees_with_libtorch_on_random_shapes() {
    tch::manual_seed(4);
    let mut cases = Cases(4);
    for case in 0..60 {
        let (rows, inputs, outputs) = (1 + cases.below(70), 1 + cases.below(90), 1 + cases.below(150));
        let kind = [Kind::Float, Kind::BFloat16, Kind::Double][cases.below(3) as usize];
        let weight =
            if cases.below(2) == 0 { random(&[outputs, inputs], kind) } else { random(&[inputs, outputs], kind).tr() };
        let input = match cases.below(4) {
            0 => random(&[rows, inputs], kind),
            1 => random(&[inputs, rows], kind).tr(),
            2 => random(&[3, rows, inputs], kind).transpose(0, 1),
            _ => random(&[rows, 2 * inputs], kind).narrow(1, inputs, inputs),
        };
        let bias = (cases.below(2) == 0).then(|| random(&[outputs], kind).set_requires_grad(true));
        let (input, weight) = (input.set_requires_grad(true), weight.set_requires_grad(true));
        let kernels = LinearKernels {
            forward: KERNELS[cases.below(4) as usize],
            grad_input: KERNELS[cases.below(4) as usize],
            grad_weight: KERNELS[cases.below(4) as usize],
        };
        let ours = linear(&input, &weight, bias.as_ref(), kernels).unwrap();
        let theirs = input.linear(&weight, bias.as_ref());
        let tolerance = if kind == Kind::BFloat16 { 2e-2 } else { 2e-6 };
        let what = format!("case {case}: {rows}x{inputs}x{outputs} {kind:?} {kernels:?}");
        assert!(difference(&ours, &theirs) < tolerance, "{what}");
        let gradient = random(&theirs.size(), kind);
        let mut leaves = vec![&input, &weight];
        leaves.extend(bias.as_ref());
        let [ours, theirs] = [ours, theirs]
            .map(|output| Tensor::run_backward(&[(output * &gradient).sum(Kind::Float)], &leaves, false, false));
        for (ours, theirs) in ours.iter().zip(&theirs) {
            assert!(difference(ours, theirs) < tolerance, "{what}: a gradient");
        }
    }
}

#[test]
fn inputs_that_need_no_gradient_get_none() {
    let input = random(&[40, 30], Kind::Float);
    let weight = random(&[20, 30], Kind::Float).set_requires_grad(true);
    for kernel in KERNELS {
        let output = linear(&input, &weight, None, LinearKernels::all(kernel)).unwrap();
        output.sum(Kind::Float).backward();
        assert!(!input.grad().defined());
        assert_eq!(weight.grad().size(), [20, 30]);
        let output = tch::no_grad(|| linear(&input, &weight, None, LinearKernels::all(kernel)));
        assert!(!output.unwrap().requires_grad());
    }
}

#[test]
fn empty_inputs_and_single_vectors_work() {
    let weight = random(&[20, 30], Kind::Float).set_requires_grad(true);
    let bias = random(&[20], Kind::Float);
    for kernel in KERNELS {
        let kernels = LinearKernels::all(kernel);
        let none = linear(&random(&[0, 30], Kind::Float), &weight, Some(&bias), kernels).unwrap();
        assert_eq!(none.size(), [0, 20]);
        none.sum(Kind::Float).backward();
        let one = random(&[30], Kind::Float);
        let output = linear(&one, &weight, Some(&bias), kernels).unwrap();
        assert!(difference(&output, &one.linear(&weight, Some(&bias))) < 2e-6);
    }
}

#[test]
fn second_derivatives_are_those_of_libtorch() {
    let input = random(&[6, 5], Kind::Float).set_requires_grad(true);
    let weight = random(&[4, 5], Kind::Float).set_requires_grad(true);
    let second = |output: Tensor| {
        let first = Tensor::run_backward(&[(&output * &output).sum(Kind::Float)], &[&input], true, true);
        let norm = (&first[0] * &first[0]).sum(Kind::Float);
        Tensor::run_backward(&[norm], &[&weight], false, false).remove(0)
    };
    let theirs = second(input.linear(&weight, None::<Tensor>));
    for kernel in KERNELS {
        let ours = second(linear(&input, &weight, None, LinearKernels::all(kernel)).unwrap());
        assert!(difference(&ours, &theirs) < 1e-5, "{kernel:?}");
    }
}

#[test]
fn float32_stays_float32() {
    // 1 + 2^-12 is lost in bfloat16 (8 bits) and TF32 (10 bits), but not in float32.
    let value = 1.0 + f64::powi(2.0, -12);
    let input = Tensor::full([64, 64], value, (Kind::Float, Device::Cpu));
    let weight = Tensor::eye(64, (Kind::Float, Device::Cpu));
    for kernel in KERNELS {
        let output = linear(&input, &weight, None, LinearKernels::all(kernel)).unwrap();
        assert_eq!(output.double_value(&[7, 9]), value, "{kernel:?}");
    }
}

#[test]
fn what_does_not_fit_is_an_error_with_a_sentence() {
    let weight = random(&[20, 30], Kind::Float);
    let cases = [
        (random(&[4, 31], Kind::Float), None, "31 features"),
        (random(&[4, 30], Kind::Double), None, "Double"),
        (random(&[4, 30], Kind::Float), Some(random(&[21], Kind::Float)), "bias must be [20]"),
    ];
    for (input, bias, part) in cases {
        for kernel in KERNELS {
            let error = linear(&input, &weight, bias.as_ref(), LinearKernels::all(kernel));
            let TchError::Torch(message) = error.unwrap_err() else { panic!("another error") };
            assert!(message.contains(part), "{message}");
        }
    }
    let flat = random(&[30], Kind::Float);
    assert!(choice::linear(&random(&[4, 30], Kind::Float), &flat, None).is_err());
    assert!(PackedWeight::new(&flat, 4).is_err());
}

#[test]
fn a_table_restores_what_it_held() {
    let key = choice::Key {
        pass: choice::Pass::Forward,
        rows: 1024,
        inputs: 1001,
        outputs: 1003,
        bfloat16: false,
        threads: tidemill_torch::threads(),
    };
    // A choice that no measurement makes for a forward pass.
    choice::restore(&choice::KernelTable { choices: vec![(key, Kernel::Packed)] });
    let kernels = choice::kernels_for(1000, 1001, 1003, Kind::Float, false);
    assert_eq!(kernels.forward, Kernel::Packed);
    let table = choice::table();
    assert!(table.choices.contains(&(key, Kernel::Packed)));
    let json = serde_json::to_string(&table).unwrap();
    assert_eq!(serde_json::from_str::<choice::KernelTable>(&json).unwrap(), table);
}

#[test]
fn small_products_are_not_measured() {
    let kernels = choice::kernels_for(2, 3, 4, Kind::Float, true);
    assert_eq!(kernels, LinearKernels::default());
    assert!(choice::table().choices.iter().all(|(key, _)| key.inputs != 3));
}

#[test]
fn a_packed_weight_gives_the_plain_weight_s_results() {
    for (kind, tolerance) in [(Kind::Float, 2e-6), (Kind::BFloat16, 2e-2), (Kind::Double, 1e-12)] {
        let weight = random(&[130, 70], kind).set_requires_grad(true);
        let bias = random(&[130], kind);
        let packed = PackedWeight::new(&weight, 64).unwrap();
        for size in [vec![70], vec![1, 70], vec![64, 70], vec![2, 65, 70], vec![0, 70]] {
            let input = random(&size, kind);
            let ours = packed.linear(&input, Some(&bias)).unwrap();
            assert!(!ours.requires_grad());
            assert!(difference(&ours, &input.linear(&weight, Some(&bias))) < tolerance, "{kind:?} {size:?}");
        }
        assert!(packed.linear(&random(&[4, 71], kind), None).is_err());
    }
}
