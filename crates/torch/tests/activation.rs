//! Activations and gates against libtorch's operators in float64.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod reference;

use reference::{difference, random};
use tch::{Device, Kind, Tensor};
use tidemill_torch::Activation;

const ACTIVATIONS: [Activation; 6] = [
    Activation::Gelu,
    Activation::GeluTanh,
    Activation::Relu,
    Activation::Silu,
    Activation::Tanh,
    Activation::QuickGelu,
];

fn activated(x: &Tensor, activation: Activation) -> Tensor {
    match activation {
        Activation::Gelu => x.gelu("none"),
        Activation::GeluTanh => x.gelu("tanh"),
        Activation::Relu => x.relu(),
        Activation::Silu => x.silu(),
        Activation::Tanh => x.tanh(),
        Activation::QuickGelu => x * (x * 1.702).sigmoid(),
    }
}

#[test]
fn activations_are_exact_over_the_whole_line() {
    let line = Tensor::linspace(-30.0, 30.0, 60_001, (Kind::Float, Device::Cpu));
    for activation in ACTIVATIONS {
        let ours = activation.of(&line).unwrap().to_kind(Kind::Double);
        let theirs = activated(&line.to_kind(Kind::Double), activation);
        let apart = ((ours - &theirs).abs() / (theirs.abs() + 1.0)).max().double_value(&[]);
        assert!(apart < 1.2e-6, "{activation:?}: {apart}");
    }
    let broken = Tensor::from_slice(&[f32::NAN, f32::INFINITY, f32::NEG_INFINITY]);
    for activation in ACTIVATIONS {
        let ours = Vec::<f32>::try_from(activation.of(&broken).unwrap()).unwrap();
        assert!(ours[0].is_nan() && ours[1] > 0.9, "{activation:?}: {ours:?}");
    }
}

#[test]
fn gates_agree_with_float64() {
    for size in [vec![1, 3072], vec![7, 26], vec![100, 3072], vec![2, 3, 40]] {
        let x = random(&size) * 3.0;
        let n = size.last().unwrap() / 2;
        let (gate, up) = (x.narrow(-1, 0, n).to_kind(Kind::Double), x.narrow(-1, n, n).to_kind(Kind::Double));
        for activation in ACTIVATIONS {
            let ours = activation.gate(&x).unwrap();
            let theirs = activated(&gate, activation) * &up;
            assert!(difference(&ours, &theirs) < 1e-6, "{activation:?} {size:?}");
            let double = activation.gate(&x.to_kind(Kind::Double)).unwrap();
            assert!(difference(&double, &ours) < 1e-6);
            let bfloat = activation.gate(&x.to_kind(Kind::BFloat16)).unwrap();
            assert!(bfloat.kind() == Kind::BFloat16 && difference(&bfloat, &theirs) < 2e-2, "{activation:?}");
        }
    }
    let far = Tensor::from_slice(&[-1e30f32, -200.0, 200.0, 1e30, 1.0, 1.0, 1.0, 1.0]).view([1, 8]);
    for activation in [Activation::Silu, Activation::Gelu, Activation::GeluTanh] {
        let ours = Vec::<f32>::try_from(activation.gate(&far).unwrap().flatten(0, 1)).unwrap();
        assert!(ours[0].abs() < 1e-6 && ours[1].abs() < 1e-6 && ours[2] == 200.0 && ours[3] == 1e30, "{ours:?}");
    }
    assert!(Activation::Silu.gate(&random(&[2, 7])).is_err());
}
