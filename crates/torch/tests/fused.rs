//! The fused optimiser steps against their published equations, written out with plain operations in double precision.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use tch::{Device, Kind, Tensor};
use tidemill_torch::fused::{self, Adagrad, Adam, Sgd};

fn lists(count: usize) -> Vec<Vec<Tensor>> {
    let sizes = [vec![7, 5], vec![11]];
    let zeros = |size: &Vec<i64>| Tensor::zeros(size, (Kind::Float, Device::Cpu));
    (0..count).map(|_| sizes.iter().map(zeros).collect()).collect()
}

fn leaves() -> Vec<Tensor> {
    let sizes = [vec![7, 5], vec![11]];
    sizes.iter().map(|size| Tensor::randn(size, (Kind::Float, Device::Cpu)).set_requires_grad(true)).collect()
}

fn gradients() -> Vec<Tensor> {
    leaves().iter().map(Tensor::detach).collect()
}

fn steps() -> Vec<Tensor> {
    (0..2).map(|_| Tensor::zeros([0_i64; 0], (Kind::Float, Device::Cpu))).collect()
}

fn double(list: &[Tensor]) -> Vec<Tensor> {
    list.iter().map(|tensor| tensor.detach().to_kind(Kind::Double)).collect()
}

fn assert_close(ours: &[Tensor], theirs: &[Tensor]) {
    for (ours, theirs) in ours.iter().zip(theirs) {
        let difference = (ours.detach().to_kind(Kind::Double) - theirs).abs().max().double_value(&[]);
        assert!(difference < 1e-5, "{difference}");
    }
}

#[test]
fn adam_and_adamw_follow_their_equations() {
    for decoupled in [false, true] {
        let options = Adam { learning_rate: 0.1, beta1: 0.9, beta2: 0.99, eps: 1e-8, weight_decay: 0.2, decoupled };
        let (params, mut state, steps) = (leaves(), lists(2), steps());
        let (mut expected, mut m, mut v) = (double(&params), double(&state[0]), double(&state[0]));
        for step in 1..=3 {
            let grads = gradients();
            fused::adam(&params, &grads, &state[0], &state[1], &steps, options).unwrap();
            for (i, grad) in double(&grads).into_iter().enumerate() {
                let grad = if decoupled { grad } else { grad + &expected[i] * 0.2 };
                if decoupled {
                    expected[i] = &expected[i] * (1.0 - 0.1 * 0.2);
                }
                m[i] = &m[i] * 0.9 + &grad * 0.1;
                v[i] = &v[i] * 0.99 + &grad * &grad * 0.01;
                let (m, v) = (&m[i] / (1.0 - 0.9_f64.powi(step)), &v[i] / (1.0 - 0.99_f64.powi(step)));
                expected[i] = &expected[i] - m * 0.1 / (v.sqrt() + 1e-8);
            }
        }
        assert_close(&params, &expected);
        assert_eq!(steps[1].double_value(&[]), 3.0);
        assert!(params[0].requires_grad() && params[0].is_leaf());
        state.clear();
    }
}

#[test]
fn sgd_follows_its_equations_with_and_without_momentum() {
    for (momentum, nesterov) in [(0.0, false), (0.9, false), (0.9, true)] {
        let options = Sgd { learning_rate: 0.1, momentum, dampening: 0.0, nesterov, weight_decay: 0.01 };
        let params = leaves();
        let buffers = if momentum == 0.0 { Vec::new() } else { lists(1).remove(0) };
        let (mut expected, mut velocity) = (double(&params), double(&lists(1)[0]));
        for step in 0..3 {
            let grads = gradients();
            fused::sgd(&params, &grads, &buffers, step == 0, options).unwrap();
            for (i, grad) in double(&grads).into_iter().enumerate() {
                let grad = grad + &expected[i] * 0.01;
                velocity[i] = &velocity[i] * momentum + &grad;
                let update = if nesterov { grad + &velocity[i] * momentum } else { velocity[i].shallow_clone() };
                expected[i] = &expected[i] - update * 0.1;
            }
        }
        assert_close(&params, &expected);
    }
}

#[test]
fn adagrad_follows_its_equations() {
    let options = Adagrad { learning_rate: 0.1, learning_rate_decay: 0.5, weight_decay: 0.01, eps: 1e-10 };
    let (params, sums, steps) = (leaves(), lists(1).remove(0), steps());
    let (mut expected, mut total) = (double(&params), double(&sums));
    for step in 0..3 {
        let grads = gradients();
        fused::adagrad(&params, &grads, &sums, &steps, options).unwrap();
        for (i, grad) in double(&grads).into_iter().enumerate() {
            let grad = grad + &expected[i] * 0.01;
            total[i] = &total[i] + &grad * &grad;
            let rate = 0.1 / (1.0 + f64::from(step) * 0.5);
            expected[i] = &expected[i] - grad * rate / (total[i].sqrt() + 1e-10);
        }
    }
    assert_close(&params, &expected);
}

#[test]
fn lists_that_do_not_fit_are_errors_and_change_nothing() {
    let options = Sgd { learning_rate: 0.1, momentum: 0.0, dampening: 0.0, nesterov: false, weight_decay: 0.0 };
    let (params, before) = (leaves(), double(&leaves()));
    let before = {
        drop(before);
        double(&params)
    };
    let mut grads = gradients();
    grads.truncate(1);
    assert!(fused::sgd(&params, &grads, &[], true, options).is_err());
    let swapped = [params[1].detach(), params[0].detach()];
    let error = fused::sgd(&params, &swapped, &[], true, options).unwrap_err();
    assert!(error.to_string().contains("gradient number 0"), "{error}");
    assert!(fused::sgd(&params, &[Tensor::new(), Tensor::new()], &[], true, options).is_err());
    assert!(fused::sgd(&[], &[], &[], true, options).is_ok());
    assert_close(&params, &before);
}

#[test]
fn a_gradient_that_lies_otherwise_in_memory_is_taken_right() {
    let options = Sgd { learning_rate: 1.0, momentum: 0.0, dampening: 0.0, nesterov: false, weight_decay: 0.0 };
    let param = Tensor::zeros([3, 4], (Kind::Float, Device::Cpu));
    let grad = Tensor::arange(12, (Kind::Float, Device::Cpu)).view([4, 3]).tr();
    fused::sgd(&[param.shallow_clone()], &[grad.shallow_clone()], &[], true, options).unwrap();
    assert_close(&[param], &[-grad.to_kind(Kind::Double)]);
}

#[test]
fn cleared_gradients_are_undefined() {
    let params = leaves();
    params[0].sum(Kind::Float).backward();
    assert!(params[0].grad().defined());
    fused::clear_gradients(&params).unwrap();
    assert!(!params[0].grad().defined() && !params[1].grad().defined());
}
