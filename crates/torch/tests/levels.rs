//! The kernels for every level of processor up to this one's: what runs elsewhere must be right here.
//!
//! One test, alone in its program: the level is that of the whole process.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod reference;

use reference::{Attended, AttentionCase, Cases, PRECISIONS, Quantised, difference, product, random};
use tch::Kind;
use tidemill_torch::{Matrix, decode, limit_level};

#[test]
fn every_level_agrees_with_float64() {
    let best = limit_level(i32::MAX);
    for level in 0..=best {
        assert_eq!(limit_level(level), level);
        tch::manual_seed(10);
        let mut cases = Cases(10);
        for case in 0..60 {
            let matrix = if case % 3 == 0 {
                let (outputs, groups) = (cases.pick(&[1, 40, 100]), cases.pick(&[1, 7, 20]));
                Matrix::from_groups(&Quantised::random(&mut cases, outputs, groups).groups()).unwrap()
            } else {
                let (outputs, inputs) = (cases.pick(&[1, 33, 64, 130]), cases.pick(&[1, 40, 255, 576]));
                Matrix::from_tensor(&random(&[outputs, inputs]), cases.pick(&PRECISIONS)).unwrap()
            };
            let x = random(&[30, matrix.inputs()]);
            let all = matrix.linear(&x, None).unwrap();
            let what = format!("level {level}, {:?} {}x{}", matrix.precision(), matrix.outputs(), matrix.inputs());
            let away = difference(&all, &product(&matrix, &x, None, level));
            assert!(away < 5e-6, "{what}: {away}");
            for rows in [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14] {
                assert_eq!(matrix.linear(&x.narrow(0, 1, rows), None).unwrap(), all.narrow(0, 1, rows), "{what}");
            }
        }
        for kind in [Kind::Float, Kind::BFloat16] {
            for (head_dim, group) in [(64, 3), (20, 1), (80, 5)] {
                let case = AttentionCase { kv_heads: 2, group, head_dim, block_size: 16, kind };
                let attended = Attended::new(&mut cases, case, &[(1, 200), (70, 130), (1, 3)]);
                let ours = decode::attention(&attended.queries, &attended.cache, &attended.batch, 0.2, Some(99), None);
                let away = difference(&ours.unwrap(), &attended.expected(0.2, Some(99), None));
                assert!(away < 3e-6, "level {level}, {case:?}: {away}");
            }
        }
    }
}
