//! The text primitives against dense operations with autograd.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use tch::{Device, Kind, Tensor};
use tidemill_torch::{embedding, text_conv_max};

fn close(ours: &Tensor, theirs: &Tensor) -> bool {
    assert_eq!(ours.size(), theirs.size());
    let scale = theirs.abs().max().double_value(&[]).max(1e-3);
    (ours - theirs).abs().max().double_value(&[]) / scale < 1e-5
}

/// Row by row: cut to the positions that count, convolve, take the maximum.
fn dense(embedded: &Tensor, weight: &Tensor, bias: &Tensor, lengths: &[i64]) -> Tensor {
    let (width, time) = (weight.size()[2], embedded.size()[1]);
    let rows = lengths.iter().enumerate().map(|(row, &length)| {
        let counted = embedded.narrow(0, row as i64, 1).narrow(1, 0, length.max(width).min(time));
        let values = counted.transpose(1, 2).conv1d(weight, Some(bias), [1], [0], [1], 1);
        values.relu().amax([2], false)
    });
    Tensor::cat(&rows.collect::<Vec<_>>(), 0)
}

#[test]
fn convolution_and_maximum_agree_with_the_dense_operations() {
    tch::manual_seed(6);
    for kind in [Kind::Float, Kind::Double] {
        for (width, filters, time, dim) in [(1, 5, 4, 3), (3, 100, 70, 20), (5, 64, 13, 16), (4, 7, 4, 9)] {
            let leaf = |size: &[i64]| Tensor::randn(size, (kind, Device::Cpu)).set_requires_grad(true);
            let (embedded, weight, bias) = (leaf(&[6, time, dim]), leaf(&[filters, dim, width]), leaf(&[filters]));
            let lengths: Vec<i64> = (0..6).map(|row| row * time / 5).collect();
            let given = Tensor::from_slice(&lengths);
            let theirs = dense(&embedded, &weight, &bias, &lengths);
            let ours = text_conv_max(&embedded, &weight, &bias, Some(&given)).unwrap();
            assert!(close(&ours, &theirs), "{kind:?} width {width}");
            let flat = weight.transpose(1, 2).reshape([filters, width * dim]);
            let ours_flat = tch::no_grad(|| text_conv_max(&embedded, &flat, &bias, Some(&given)));
            assert!(close(&ours_flat.unwrap(), &theirs));
            let gradient = Tensor::randn_like(&theirs);
            let [ours, theirs] = [ours, theirs].map(|output| {
                let loss = (output * &gradient).sum(kind);
                Tensor::run_backward(&[loss], &[&embedded, &weight, &bias], false, false)
            });
            for (ours, theirs) in ours.iter().zip(&theirs) {
                assert!(close(ours, theirs), "{kind:?} width {width}: a gradient");
            }
        }
    }
}

#[test]
fn a_text_s_result_does_not_depend_on_its_padding() {
    let leaf = |size: &[i64]| Tensor::randn(size, (Kind::Float, Device::Cpu));
    let (text, weight, bias) = (leaf(&[1, 9, 8]), leaf(&[10, 8, 3]), leaf(&[10]));
    let alone = text_conv_max(&text, &weight, &bias, None).unwrap();
    let padded = Tensor::cat(&[&text, &(leaf(&[1, 5, 8]) * 100.0)], 1);
    let length = Tensor::from_slice(&[9_i64]);
    let among = text_conv_max(&padded, &weight, &bias, Some(&length)).unwrap();
    assert!(close(&among, &alone));
    let short = text_conv_max(&text.narrow(1, 0, 2), &weight, &bias, None).unwrap();
    assert_eq!(short.size(), [1, 10]);
}

#[test]
fn a_number_that_is_not_finite_is_not_hidden_by_the_maximum() {
    let embedded = Tensor::ones([2, 9, 8], (Kind::Float, Device::Cpu));
    let _ = embedded.get(1).get(4).fill_(f64::NAN);
    let weight = Tensor::ones([3, 8, 2], (Kind::Float, Device::Cpu));
    let output = text_conv_max(&embedded, &weight, &Tensor::zeros([3], (Kind::Float, Device::Cpu)), None).unwrap();
    assert_eq!(output.double_value(&[0, 0]), 16.0);
    assert!(output.double_value(&[1, 2]).is_nan());
}

#[test]
fn embedding_gradients_agree_with_libtorch() {
    tch::manual_seed(7);
    let weight = Tensor::randn([50, 37], (Kind::Float, Device::Cpu)).set_requires_grad(true);
    let ids = Tensor::randint(50, [6, 9], (Kind::Int64, Device::Cpu));
    for padding in [None, Some(3)] {
        let ours = embedding(&weight, &ids, padding).unwrap();
        let theirs = Tensor::embedding(&weight, &ids, padding.unwrap_or(-1), false, false);
        assert!(close(&ours, &theirs));
        let gradient = Tensor::randn_like(&theirs);
        let [ours, theirs] = [ours, theirs].map(|output| {
            Tensor::run_backward(&[(output * &gradient).sum(Kind::Float)], &[&weight], false, false).remove(0)
        });
        assert!(close(&ours, &theirs));
    }
}

#[test]
fn what_does_not_fit_is_an_error() {
    let weight = Tensor::randn([50, 4], (Kind::Float, Device::Cpu)).set_requires_grad(true);
    assert!(embedding(&weight, &Tensor::from_slice(&[50_i64]), None).is_err(), "outside the vocabulary");
    assert!(embedding(&weight, &Tensor::from_slice(&[-1_i64]), None).is_err());
    assert!(embedding(&weight, &Tensor::from_slice(&[1_f32]), None).is_err());
    let zeros = |size: &[i64]| Tensor::zeros(size, (Kind::Float, Device::Cpu));
    let (embedded, bias) = (zeros(&[2, 5, 4]), zeros(&[3]));
    for filters in [zeros(&[3, 5, 2]), zeros(&[3, 6]), zeros(&[2, 4, 2]), zeros(&[3])] {
        assert!(text_conv_max(&embedded, &filters, &bias, None).is_err());
    }
    let lengths = Tensor::from_slice(&[5_i64]);
    assert!(text_conv_max(&embedded, &zeros(&[3, 4, 2]), &bias, Some(&lengths)).is_err());
}
