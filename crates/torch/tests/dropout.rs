//! Fused dropout: its arithmetic against libtorch's operators, its masks by what they must hold.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::sync::{Mutex, MutexGuard, PoisonError};
use tch::{Device, Kind, Tensor};
use tidemill_torch::{dropout_add_layer_norm, gelu_dropout, set_threads, threads};

/// libtorch has one generator, which tests that seed it must not share.
fn alone() -> MutexGuard<'static, ()> {
    static GENERATOR: Mutex<()> = Mutex::new(());
    GENERATOR.lock().unwrap_or_else(PoisonError::into_inner)
}

fn leaf(size: &[i64], kind: Kind) -> Tensor {
    Tensor::randn(size, (kind, Device::Cpu)).set_requires_grad(true)
}

fn close(ours: &Tensor, theirs: &Tensor) -> bool {
    assert_eq!(ours.size(), theirs.size());
    let scale = theirs.abs().max().double_value(&[]).max(1.0);
    (ours - theirs).abs().max().double_value(&[]) / scale < 1e-5
}

/// The gradients of a loss that weighs every number of the outputs differently.
fn gradients(outputs: &[&Tensor], leaves: &[&Tensor]) -> Vec<Tensor> {
    tch::manual_seed(3);
    let terms = outputs.iter().map(|output| (*output * Tensor::randn_like(output)).sum(output.kind()));
    let loss = terms.reduce(|a, b| a + b).unwrap();
    Tensor::run_backward(&[loss], leaves, true, false)
}

/// What a dropout of 0.3 left and scaled, as a mask of 0 and 1 / 0.7, found by sending ones through.
fn mask(seed: i64, size: &[i64]) -> Tensor {
    tch::manual_seed(seed);
    let ones = Tensor::ones(size, (Kind::Float, Device::Cpu));
    let width = *size.last().unwrap();
    let (weight, bias) =
        (ones.get(0).view([-1]).narrow(0, 0, width), Tensor::zeros([width], (Kind::Float, Device::Cpu)));
    dropout_add_layer_norm(&ones, &ones.zeros_like(), 0.3, (&weight, &bias), 1e-5).unwrap().0
}

#[test]
fn without_dropout_they_are_the_operators_of_libtorch() {
    let _alone = alone();
    tch::manual_seed(1);
    for kind in [Kind::Float, Kind::Double] {
        for size in [[7, 256], [3, 65], [70, 2], [1, 1000]] {
            let (x, residual) = (leaf(&size, kind), leaf(&size, kind));
            let (weight, bias) = (leaf(&size[1..], kind), leaf(&size[1..], kind));
            let wide = &x * 5.0;
            let (ours, theirs) = (gelu_dropout(&wide, 0.0).unwrap(), wide.gelu("none"));
            assert!(close(&ours, &theirs), "{size:?}");
            assert!(close(&gradients(&[&ours], &[&x])[0], &gradients(&[&theirs], &[&x])[0]), "{size:?}");

            let (sum, normed) = dropout_add_layer_norm(&x, &residual, 0.0, (&weight, &bias), 1e-3).unwrap();
            let plain_sum = &x + &residual;
            let plain = plain_sum.layer_norm([size[1]], Some(&weight), Some(&bias), 1e-3, false);
            assert!(close(&sum, &plain_sum) && close(&normed, &plain), "{size:?}");
            let leaves = [&x, &residual, &weight, &bias];
            let pairs: [(&[&Tensor], &[&Tensor]); 2] =
                [(&[&sum, &normed], &[&plain_sum, &plain]), (&[&normed], &[&plain])];
            for (ours, theirs) in pairs {
                let (ours, theirs) = (gradients(ours, &leaves), gradients(theirs, &leaves));
                assert!(ours.iter().zip(&theirs).all(|(ours, theirs)| close(ours, theirs)), "{kind:?} {size:?}");
            }
        }
    }
}

#[test]
fn a_mask_has_its_share_and_follows_the_seed_alone() {
    let _alone = alone();
    let size = [400, 130];
    let first = mask(5, &size);
    let kept = first.gt(0.0).to_kind(Kind::Double);
    assert!((kept.mean(Kind::Double).double_value(&[]) - 0.7).abs() < 0.01); // 5 deviations of 52,000 draws
    for dim in [0, 1] {
        let means = kept.mean_dim([dim].as_slice(), false, Kind::Double);
        let spread = (means - 0.7).abs().max().double_value(&[]);
        assert!(spread < 5.0 * (0.21 / size[dim as usize] as f64).sqrt(), "along {dim}: {spread}");
    }
    let values = first.masked_select(&first.gt(0.0));
    assert!(close(&values, &values.full_like(1.0 / 0.7)));
    assert_eq!(first, mask(5, &size));
    assert_ne!(first, mask(6, &size));
    let before = threads();
    set_threads(1);
    let by_one = mask(5, &size);
    set_threads(before);
    assert_eq!(first, by_one);
}

#[test]
fn the_backward_pass_drops_what_the_forward_pass_dropped() {
    let _alone = alone();
    let size = [9, 70];
    tch::manual_seed(1);
    let (x, residual) = (leaf(&size, Kind::Float), leaf(&size, Kind::Float));
    let (weight, bias) = (leaf(&size[1..], Kind::Float), leaf(&size[1..], Kind::Float));
    let kept = mask(8, &size);
    tch::manual_seed(8);
    let (sum, normed) = dropout_add_layer_norm(&x, &residual, 0.3, (&weight, &bias), 1e-5).unwrap();
    let plain_sum = &x * &kept + &residual;
    let plain = plain_sum.layer_norm([size[1]], Some(&weight), Some(&bias), 1e-5, false);
    let leaves = [&x, &residual, &weight, &bias];
    let (ours, theirs) = (gradients(&[&sum, &normed], &leaves), gradients(&[&plain_sum, &plain], &leaves));
    assert!(ours.iter().zip(&theirs).all(|(ours, theirs)| close(ours, theirs)));
    let (ours, theirs) = (gradients(&[&sum], &leaves[..2]), gradients(&[&plain_sum], &leaves[..2]));
    assert!(ours.iter().zip(&theirs).all(|(ours, theirs)| close(ours, theirs)));

    tch::manual_seed(8);
    let dropped = gelu_dropout(&x, 0.3).unwrap();
    let plain = x.gelu("none") * &kept;
    assert!(close(&dropped, &plain));
    assert!(close(&gradients(&[&dropped], &[&x])[0], &gradients(&[&plain], &[&x])[0]));
}

#[test]
fn everything_or_nothing_can_fall_and_other_probabilities_are_refused() {
    let _alone = alone();
    let x = leaf(&[4, 8], Kind::Float);
    assert_eq!(gelu_dropout(&x, 1.0).unwrap(), x.zeros_like());
    for wrong in [-0.1, 1.5, f64::NAN] {
        let said = gelu_dropout(&x, wrong).unwrap_err().to_string();
        assert!(said.contains("between 0 and 1"), "{said}");
    }
    let narrow = leaf(&[7], Kind::Float);
    let said = dropout_add_layer_norm(&x, &x, 0.0, (&narrow, &narrow), 1e-5).unwrap_err().to_string();
    assert!(said.contains("must be [8]"), "{said}");
}
