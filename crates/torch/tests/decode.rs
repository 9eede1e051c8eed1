//! The steps of a decoder against libtorch's operators.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod reference;

use reference::{Attended, AttentionCase, Cases, difference, ids, random};
use tch::{Device, Kind, TchError, Tensor};
use tidemill_torch::decode::{AttentionBatch, PagedCache, add_rms_norm, attention, rms_norm, rotate, store};

fn norm(x: &Tensor, weight: &Tensor, eps: f64, offset: f64) -> Tensor {
    let x = x.to_kind(Kind::Double);
    let mean = x.square().mean_dim([-1i64].as_slice(), true, Kind::Double);
    &x * (mean + eps).rsqrt() * (weight.to_kind(Kind::Double) + offset)
}

#[test]
fn norms_agree_with_float64() {
    for size in [vec![1, 576], vec![40, 7], vec![2, 3, 100], vec![300, 576], vec![0, 8], vec![16]] {
        let weight = random(&[*size.last().unwrap()]);
        let x = random(&size);
        assert!(difference(&rms_norm(&x, &weight, 1e-5, 1.0).unwrap(), &norm(&x, &weight, 1e-5, 1.0)) < 1e-6);
        let mut residual = random(&size);
        let sum = &residual + &x;
        let ours = add_rms_norm(&mut residual, &x, &weight, 1e-6, 0.0).unwrap();
        assert_eq!(residual, sum);
        assert!(difference(&ours, &norm(&sum, &weight, 1e-6, 0.0)) < 1e-6, "{size:?}");
    }
    let wide = random(&[5, 64]);
    let weight = random(&[32]);
    let part = wide.narrow(1, 16, 32);
    assert!(difference(&rms_norm(&part, &weight, 1e-5, 0.0).unwrap(), &norm(&part, &weight, 1e-5, 0.0)) < 1e-6);
    // Another kind goes to libtorch's operators.
    let double = wide.to_kind(Kind::Double).narrow(1, 0, 32);
    assert!(
        difference(
            &rms_norm(&double, &weight.to_kind(Kind::Double), 1e-5, 0.0).unwrap(),
            &norm(&double, &weight, 1e-5, 0.0)
        ) < 1e-12
    );
    assert!(rms_norm(&wide, &weight, 1e-5, 0.0).is_err());
    let mut residual = random(&[4, 32]);
    let before = residual.copy();
    assert!(add_rms_norm(&mut residual, &part, &weight, 1e-5, 0.0).is_err());
    assert_eq!(residual, before);
}

#[test]
fn rotations_agree_with_libtorch_and_change_nothing_else() {
    for (head_dim, half, interleaved) in [(64, 32, false), (64, 32, true), (80, 16, false), (10, 2, true)] {
        let angles = random(&[50, half]);
        let (cos, sin) = (angles.cos(), angles.sin());
        let positions = ids(&[0, 49, 7, 7, 30]);
        // Queries, keys and values in one row, as a joint projection gives them.
        let joint = random(&[5, 8, head_dim]);
        let before = joint.copy();
        rotate(&mut joint.narrow(1, 2, 5), &cos, &sin, &positions, interleaved).unwrap();
        let x = before.narrow(1, 2, 5);
        let (c, s) = (cos.index_select(0, &positions).unsqueeze(1), sin.index_select(0, &positions).unsqueeze(1));
        let (first, second) = if interleaved {
            (x.narrow(2, 0, 2 * half).slice(2, 0, None, 2), x.narrow(2, 0, 2 * half).slice(2, 1, None, 2))
        } else {
            (x.narrow(2, 0, half), x.narrow(2, half, half))
        };
        let pair = [&first * &c - &second * &s, &second * &c + &first * &s];
        let turned = if interleaved { Tensor::stack(&pair, -1).flatten(2, 3) } else { Tensor::cat(&pair, 2) };
        let rest = x.narrow(2, 2 * half, head_dim - 2 * half);
        let expected =
            Tensor::cat(&[before.narrow(1, 0, 2), Tensor::cat(&[turned, rest], 2), before.narrow(1, 7, 1)], 1);
        assert!(difference(&joint, &expected) < 1e-6);
        let mut double = before.to_kind(Kind::Double);
        rotate(
            &mut double.narrow(1, 2, 5),
            &cos.to_kind(Kind::Double),
            &sin.to_kind(Kind::Double),
            &positions,
            interleaved,
        )
        .unwrap();
        assert!(difference(&double, &expected) < 1e-6);
        double = before.copy();
        assert!(rotate(&mut double, &cos, &sin, &ids(&[0, 1, 2, 3, 50]), interleaved).is_err());
        assert!(rotate(&mut double, &cos, &sin, &ids(&[0, 1, 2, -1, 4]), interleaved).is_err());
        assert!(rotate(&mut double, &cos, &sin, &ids(&[0, 1]), interleaved).is_err());
        assert_eq!(double, before);
    }
}

#[test]
fn stored_tokens_lie_in_their_slots() {
    for kind in [Kind::Float, Kind::BFloat16, Kind::Half] {
        let zeros = || Tensor::zeros([5, 4, 2, 24], (kind, Device::Cpu));
        let cache = PagedCache { keys: zeros(), values: zeros() };
        let joint = random(&[3, 6, 24]);
        let (keys, values) = (joint.narrow(1, 1, 2), joint.narrow(1, 4, 2));
        store(&cache, &keys, &values, &ids(&[17, -1, 2])).unwrap();
        for (held, given) in [(&cache.keys, &keys), (&cache.values, &values)] {
            let held = held.flatten(0, 1);
            for (slot, token) in [(17, 0), (2, 2)] {
                assert_eq!(held.get(slot), given.get(token).to_kind(kind));
            }
            assert_eq!(
                held.abs().sum_dim_intlist([1i64, 2].as_slice(), false, Kind::Float).count_nonzero(0).int64_value(&[]),
                2
            );
        }
        let before = cache.keys.copy();
        assert!(store(&cache, &keys, &values, &ids(&[0, 20, 1])).is_err());
        assert!(store(&cache, &keys, &values, &ids(&[0, 1])).is_err());
        assert!(store(&cache, &joint, &values, &ids(&[0, 1, 2])).is_err());
        assert_eq!(cache.keys, before);
    }
}

const CASE: AttentionCase = AttentionCase { kv_heads: 3, group: 3, head_dim: 64, block_size: 16, kind: Kind::Float };

#[test]
fn attention_agrees_with_float64() {
    tch::manual_seed(6);
    let mut cases = Cases(6);
    for number in 0..60 {
        let case = AttentionCase {
            kv_heads: cases.pick(&[1, 2, 3]),
            group: cases.pick(&[1, 3, 4, 13]),
            head_dim: cases.pick(&[64, 64, 20, 80, 96, 128, 256, 7]),
            block_size: cases.pick(&[16, 32, 5, 64, 1]),
            kind: cases.pick(&[Kind::Float, Kind::BFloat16]),
        };
        let mut sequences: Vec<(i64, i64)> = Vec::new();
        for _ in 0..1 + cases.below(4) {
            let context = cases.pick(&[1, 2, 31, 63, 64, 65, 130, 300, 700]);
            sequences.push((cases.pick(&[0, 1, 1, 5, 33, 100]).min(context), context));
        }
        let attended = Attended::new(&mut cases, case, &sequences);
        let scale = 1.0 / (case.head_dim as f64).sqrt();
        let window = cases.pick(&[None, None, Some(1), Some(40), Some(64), Some(100)]);
        let softcap = cases.pick(&[None, None, Some(2.0), Some(50.0)]);
        let ours = attention(&attended.queries, &attended.cache, &attended.batch, scale, window, softcap).unwrap();
        let theirs = attended.expected(scale, window, softcap);
        let away = difference(&ours, &theirs);
        assert!(away < 3e-6, "{number}: {case:?} {sequences:?} {window:?} {softcap:?}: {away}");
    }
}

#[test]
fn large_scores_and_other_kinds_are_no_trouble() {
    let mut cases = Cases(7);
    let attended = Attended::new(&mut cases, CASE, &[(3, 200), (1, 70)]);
    let ours = attention(&attended.queries, &attended.cache, &attended.batch, 30.0, None, None).unwrap();
    assert!(difference(&ours, &attended.expected(30.0, None, None)) < 2e-5);
    // float16 caches and float64 queries go to libtorch's operators.
    let halves = AttentionCase { kind: Kind::Half, ..CASE };
    let attended = Attended::new(&mut cases, halves, &[(3, 200), (0, 5), (1, 70)]);
    let ours = attention(&attended.queries, &attended.cache, &attended.batch, 0.1, Some(50), Some(3.0)).unwrap();
    assert!(difference(&ours, &attended.expected(0.1, Some(50), Some(3.0))) < 1e-5);
}

#[test]
fn a_query_gives_the_same_numbers_alone_and_among_others() {
    tch::manual_seed(8);
    let mut cases = Cases(8);
    for (case, window) in [
        (CASE, None),
        (CASE, Some(90)),
        (AttentionCase { kv_heads: 1, group: 8, head_dim: 80, kind: Kind::BFloat16, ..CASE }, None),
    ] {
        let attended = Attended::new(&mut cases, case, &[(300, 300), (1, 411), (90, 500)]);
        let all = attention(&attended.queries, &attended.cache, &attended.batch, 0.125, window, None).unwrap();
        let starts = [0, 300, 301];
        for (sequence, first, count) in
            [(0, 0, 1), (0, 63, 1), (0, 64, 1), (0, 299, 1), (0, 100, 70), (1, 0, 1), (2, 89, 1), (2, 3, 40)]
        {
            let end = attended.contexts[sequence] - attended.counts[sequence] + first + count;
            let batch = AttentionBatch {
                block_tables: attended.batch.block_tables.narrow(0, sequence as i64, 1),
                query_starts: ids(&[0, count]),
                contexts: ids(&[end]),
            };
            let token = starts[sequence] + first;
            let queries = attended.queries.narrow(0, token, count);
            let alone = attention(&queries, &attended.cache, &batch, 0.125, window, None).unwrap();
            assert_eq!(alone, all.narrow(0, token, count), "{case:?} {window:?} {sequence} {first} {count}");
        }
    }
}

#[test]
fn batches_that_do_not_fit_are_refused() {
    let mut cases = Cases(9);
    let attended = Attended::new(&mut cases, CASE, &[(2, 40), (1, 20)]);
    let refused = |queries: &Tensor, tables: &Tensor, starts: &[i64], contexts: &[i64], part: &str| {
        let batch =
            AttentionBatch { block_tables: tables.shallow_clone(), query_starts: ids(starts), contexts: ids(contexts) };
        let result = attention(queries, &attended.cache, &batch, 0.1, None, None);
        let TchError::Torch(message) = result.unwrap_err() else { panic!("another error") };
        assert!(message.contains(part), "{message}");
    };
    let (queries, tables) = (&attended.queries, &attended.batch.block_tables);
    refused(queries, tables, &[0, 2, 3], &[40, 0], "a context of 0");
    refused(queries, tables, &[0, 2, 3], &[1, 20], "2 queries but a context of 1");
    refused(queries, tables, &[0, 2, 3], &[40, 1000], "does not fit the block table of sequence 1");
    refused(queries, tables, &[0, 2, 4], &[40, 20], "there are 3 queries");
    refused(queries, tables, &[0, 4, 3], &[40, 20], "falls at sequence 1");
    refused(queries, tables, &[0, 3], &[40, 20], "not of the same sequences");
    refused(queries, &(tables + 100), &[0, 2, 3], &[40, 20], "outside the cache");
    refused(&random(&[3, 7, 64]), tables, &[0, 2, 3], &[40, 20], "7 heads cannot share 3");
    refused(&random(&[3, 9, 60]), tables, &[0, 2, 3], &[40, 20], "must be [tokens, heads, 64]");
    let none = attention(queries, &attended.cache, &attended.batch, 0.1, Some(0), None);
    assert!(none.is_err());
}
