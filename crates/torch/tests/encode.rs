//! What encoders do between their products, against the same by libtorch's plain operators, on seeded random shapes.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use tch::{Device, Kind, TchError, Tensor};
use tidemill_torch::encode::{self, Norm, Pooling};
use tidemill_torch::{Activation, PackedWeight};

const KINDS: [(Kind, f64); 2] = [(Kind::Float, 4e-6), (Kind::BFloat16, 2e-2)];
fn random(size: &[i64], kind: Kind) -> Tensor {
    Tensor::randn(size, (Kind::Float, Device::Cpu)).to_kind(kind)
}

/// Largest difference relative to the largest number.
fn difference(ours: &Tensor, theirs: &Tensor) -> f64 {
    assert_eq!(ours.size(), theirs.size());
    let (ours, theirs) = (ours.to_kind(Kind::Double), theirs.to_kind(Kind::Double));
    let scale = theirs.abs().max().double_value(&[]).max(1e-6);
    (ours - theirs).abs().max().double_value(&[]) / scale
}

#[test]
fn a_packed_weight_activates_as_libtorch_does() {
    tch::manual_seed(1);
    for (kind, tolerance) in KINDS {
        for (rows, inputs, outputs) in [(1, 384, 1152), (9, 128, 3200), (23, 700, 50), (131, 66, 97), (300, 64, 49)] {
            let (weight, bias) = (random(&[outputs, inputs], kind), random(&[outputs], Kind::Float));
            let packed = PackedWeight::new(&weight, rows).unwrap();
            let input = random(&[rows, inputs], kind);
            for activation in [None, Some(Activation::Gelu), Some(Activation::Relu)] {
                for float_output in [false, true] {
                    let ours = packed.activated(&input, Some(&bias), activation, float_output).unwrap();
                    assert_eq!(ours.kind(), if float_output { Kind::Float } else { kind });
                    let plain = input.to_kind(Kind::Float).linear(&weight.to_kind(Kind::Float), Some(&bias));
                    let theirs = activation.map_or(plain.shallow_clone(), |activation| activation.of(&plain).unwrap());
                    let apart = difference(&ours, &theirs);
                    assert!(apart < tolerance, "{rows}x{inputs}x{outputs} {kind:?} {activation:?}: {apart}");
                }
            }
        }
    }
}

#[test]
fn embeddings_are_added_and_normalised() {
    tch::manual_seed(2);
    let (words, places) = (random(&[50, 33], Kind::Float), random(&[20, 33], Kind::BFloat16));
    let (weight, bias) = (random(&[33], Kind::Float), random(&[33], Kind::Float));
    let ids = Tensor::from_slice(&[3_i64, 49, 0, 7]);
    let positions = Tensor::from_slice(&[0_i64, 1, 19, 0]);
    for (kind, tolerance) in KINDS {
        let norm = Norm { weight: &weight, bias: Some(&bias), epsilon: 1e-5 };
        let ours = encode::embed(&[(&words, &ids), (&places, &positions)], Some(norm), kind).unwrap();
        let sum = words.index_select(0, &ids) + places.to_kind(Kind::Float).index_select(0, &positions);
        let theirs = sum.layer_norm([33], Some(&weight), Some(&bias), 1e-5, false);
        assert!(difference(&ours, &theirs) < tolerance && ours.kind() == kind);
        let bare = encode::embed(&[(&words, &ids)], None, kind).unwrap();
        assert!(difference(&bare, &words.index_select(0, &ids)) < tolerance);
    }
    for wrong in [-1_i64, 50] {
        let ids = Tensor::from_slice(&[3, wrong]);
        let TchError::Torch(message) = encode::embed(&[(&words, &ids)], None, Kind::Float).unwrap_err() else {
            panic!()
        };
        assert!(message.contains("is outside a table of 50 rows"), "{message}");
    }
}

#[test]
fn residuals_are_added_normalised_and_kept() {
    tch::manual_seed(3);
    for (kind, tolerance) in KINDS {
        for width in [5, 48, 384] {
            let (x, residual) = (random(&[7, width], kind), random(&[7, width], Kind::Float) * 3.0 + 1.0);
            let (weight, bias) = (random(&[width], Kind::Float), random(&[width], Kind::Float));
            for bias in [None, Some(&bias)] {
                let norm = Norm { weight: &weight, bias, epsilon: 1e-12 };
                let sum = x.to_kind(Kind::Float) + &residual;
                let theirs = sum.layer_norm([width], Some(&weight), bias, 1e-12, false);
                let ours = encode::add_layer_norm(&x, &residual, norm, kind).unwrap();
                assert!(difference(&ours, &theirs) < tolerance);
                let mut kept = residual.copy();
                let ours = encode::accumulate_layer_norm(&x, &mut kept, norm, kind).unwrap();
                assert!(difference(&ours, &theirs) < tolerance && difference(&kept, &sum) < 1e-6);
                let alone = encode::layer_norm(&x, norm, Kind::Float).unwrap();
                let theirs = x.to_kind(Kind::Float).layer_norm([width], Some(&weight), bias, 1e-12, false);
                assert!(difference(&alone, &theirs) < 1e-5);
            }
        }
    }
}

/// Each text alone, by plain operators in double precision.
fn plain_attention(qkv: &Tensor, bounds: &[i64], heads: i64, scale: f64, window: Option<i64>) -> Tensor {
    let head_dim = qkv.size()[1] / (3 * heads);
    let texts = bounds.windows(2).map(|pair| {
        let length = pair[1] - pair[0];
        let text = qkv.narrow(0, pair[0], length).to_kind(Kind::Double).view([length, 3, heads, head_dim]);
        let part = |i: i64| text.select(1, i).transpose(0, 1); // [heads, length, head_dim]
        let mut scores = part(0).matmul(&part(1).transpose(1, 2)) * scale;
        if let Some(window) = window {
            let places = Tensor::arange(length, (Kind::Int64, Device::Cpu));
            let far = (places.unsqueeze(0) - places.unsqueeze(1)).abs().gt(window);
            scores = scores.masked_fill(&far, f64::NEG_INFINITY);
        }
        scores.softmax(-1, Kind::Double).matmul(&part(2)).transpose(0, 1).reshape([length, -1])
    });
    Tensor::cat(&texts.collect::<Vec<_>>(), 0)
}

#[test]
fn attention_sees_each_text_alone() {
    tch::manual_seed(4);
    let lengths: [&[i64]; 5] = [&[1], &[3, 17, 1, 40], &[64, 65, 130], &[1, 700, 2], &[5, 5, 5]];
    for head_dim in [8, 16, 32, 48, 64, 128] {
        for lengths in lengths {
            let bounds: Vec<i64> = std::iter::once(0)
                .chain(lengths.iter().scan(0, |end, length| {
                    *end += length;
                    Some(*end)
                }))
                .collect();
            let tokens = bounds[bounds.len() - 1];
            for window in [None, Some(0), Some(2), Some(64), Some(600)] {
                for (kind, tolerance) in KINDS {
                    let qkv = random(&[tokens, 3 * 2 * head_dim], kind) * 2.0;
                    let scale = (head_dim as f64).powf(-0.5);
                    let ours = encode::attention(&qkv, &bounds, 2, scale, window).unwrap();
                    let apart = difference(&ours, &plain_attention(&qkv, &bounds, 2, scale, window));
                    assert!(apart < tolerance, "{lengths:?} of {head_dim}, window {window:?}, {kind:?}: {apart}");
                    assert_eq!(ours.kind(), kind);
                }
            }
        }
    }
}

#[test]
fn attention_and_its_neighbours_have_gradients_by_libtorch() {
    tch::manual_seed(5);
    let qkv = random(&[6, 3 * 2 * 16], Kind::Float).set_requires_grad(true);
    for window in [None, Some(1)] {
        let ours = encode::attention(&qkv, &[0, 2, 6], 2, 0.25, window).unwrap();
        assert!(difference(&ours.detach(), &plain_attention(&qkv.detach(), &[0, 2, 6], 2, 0.25, window)) < 4e-6);
        assert!(Tensor::run_backward(&[ours.sum(Kind::Float)], &[&qkv], false, false)[0].defined());
    }
    let pooled = encode::pool(&qkv, &[0, 2, 6], Pooling::Mean, false).unwrap();
    assert!(pooled.requires_grad());
}

#[test]
fn rotary_positions_turn_queries_and_keys_alone() {
    tch::manual_seed(6);
    let (heads, head_dim, tokens) = (3, 16, 5);
    let positions = Tensor::from_slice(&[0_i64, 1, 2, 0, 9]);
    let angles = random(&[10, head_dim / 2], Kind::Float);
    let (cosine, sine) = (angles.cos(), angles.sin());
    for (kind, tolerance) in KINDS {
        let qkv = random(&[tokens, 3 * heads * head_dim], kind);
        let parts = qkv.to_kind(Kind::Float).view([tokens, 3, heads, head_dim]);
        let both = parts.narrow(1, 0, 2);
        let (left, right) = (both.narrow(-1, 0, head_dim / 2), both.narrow(-1, head_dim / 2, head_dim / 2));
        let at = |table: &Tensor| table.index_select(0, &positions).unsqueeze(1).unsqueeze(1);
        let (c, s) = (at(&cosine), at(&sine));
        let turned = Tensor::cat(&[&left * &c - &right * &s, &right * &c + &left * &s], -1);
        let theirs = Tensor::cat(&[turned, parts.narrow(1, 2, 1)], 1).view([tokens, -1]);
        let ours = encode::rotated(qkv, heads, &cosine, &sine, &positions).unwrap();
        assert!(difference(&ours, &theirs) < tolerance);
    }
    let outside = Tensor::from_slice(&[0_i64, 1, 2, 0, 10]);
    let qkv = random(&[tokens, 3 * heads * head_dim], Kind::Float);
    assert!(encode::rotated(qkv, heads, &cosine, &sine, &outside).is_err());
}

#[test]
fn token_vectors_are_pooled() {
    tch::manual_seed(7);
    for (kind, _) in KINDS {
        let x = random(&[9, 74], kind);
        let plain = x.to_kind(Kind::Float);
        let bounds = [0, 4, 5, 9];
        for pooling in [Pooling::Mean, Pooling::Max, Pooling::First, Pooling::Last, Pooling::MeanSquareRoot] {
            let texts = bounds.windows(2).map(|pair| {
                let text = plain.narrow(0, pair[0], pair[1] - pair[0]);
                match pooling {
                    Pooling::Mean => text.mean_dim(0, false, Kind::Float),
                    Pooling::Max => text.max_dim(0, false).0,
                    Pooling::First => text.get(0),
                    Pooling::Last => text.get(-1),
                    Pooling::MeanSquareRoot => {
                        text.mean_dim(0, false, Kind::Float) * ((pair[1] - pair[0]) as f64).sqrt()
                    }
                }
            });
            let theirs = Tensor::stack(&texts.collect::<Vec<_>>(), 0);
            let ours = encode::pool(&x, &bounds, pooling, false).unwrap();
            assert!(difference(&ours, &theirs) < 1e-6, "{pooling:?}");
            let ours = encode::pool(&x, &bounds, pooling, true).unwrap();
            let norms = theirs.norm_scalaropt_dim(2.0, [1], true);
            assert!(difference(&ours, &(theirs / norms)) < 1e-6, "{pooling:?}");
        }
    }
    let mut rows = Tensor::from_slice2(&[[3.0_f32, 4.0], [0.0, 0.0]]);
    encode::normalise_rows(&mut rows).unwrap();
    assert_eq!(Vec::<f32>::try_from(rows.view(-1)).unwrap(), [0.6, 0.8, 0.0, 0.0]);
}

#[test]
fn what_does_not_fit_is_an_error_with_a_sentence() {
    let qkv = random(&[6, 96], Kind::Float);
    for bounds in [&[][..], &[0], &[0, 5], &[1, 6], &[0, 4, 4, 6], &[0, 7, 6]] {
        assert!(encode::attention(&qkv, bounds, 2, 1.0, None).is_err(), "{bounds:?}");
        assert!(encode::pool(&qkv, bounds, Pooling::Mean, false).is_err(), "{bounds:?}");
    }
    assert!(encode::attention(&qkv, &[0, 6], 5, 1.0, None).is_err());
    assert!(encode::attention(&qkv, &[0, 6], 0, 1.0, None).is_err());
    let weight = random(&[95], Kind::Float);
    let norm = Norm { weight: &weight, bias: None, epsilon: 1e-5 };
    assert!(encode::layer_norm(&qkv, norm, Kind::Float).unwrap_err().to_string().contains("96 float32 numbers"));
    assert!(encode::layer_norm(&qkv, norm, Kind::Half).is_err());
}
