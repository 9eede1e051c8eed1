//! The fused recurrent layers against libtorch's own, with autograd, on seeded random shapes and lengths.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use tch::{Device, Kind, Tensor};
use tidemill_torch::{RecurrentWeights, gru, lstm};

struct Case {
    gru: bool,
    directions: i64,
    time: i64,
    batch: i64,
    inputs: i64,
    hidden: i64,
    kind: Kind,
}

impl Case {
    fn parameters(&self) -> Vec<Tensor> {
        let gates = if self.gru { 3 } else { 4 } * self.hidden;
        (0..self.directions)
            .flat_map(|_| [vec![gates, self.inputs], vec![gates, self.hidden], vec![gates], vec![gates]])
            .map(|size| (Tensor::randn(size, (self.kind, Device::Cpu)) * 0.3).set_requires_grad(true))
            .collect()
    }

    fn ours(&self, input: &Tensor, lengths: Option<&Tensor>, parameters: &[Tensor]) -> Tensor {
        let mut weights = parameters.chunks(4).map(|w| RecurrentWeights {
            input: &w[0],
            hidden: &w[1],
            input_bias: &w[2],
            hidden_bias: &w[3],
        });
        let first = weights.next().unwrap();
        let layer = if self.gru { gru } else { lstm };
        layer(input, lengths, first, weights.next()).unwrap()
    }

    /// Each row alone through libtorch's layer, cut to its length: the plainest meaning of lengths.
    fn theirs(&self, input: &Tensor, lengths: &[i64], parameters: &[Tensor]) -> Tensor {
        let both = self.directions == 2;
        let rows = lengths.iter().enumerate().map(|(row, &length)| {
            let width = self.directions * self.hidden;
            if length == 0 {
                return Tensor::zeros([self.time, 1, width], (self.kind, Device::Cpu));
            }
            let state = Tensor::zeros([self.directions, 1, self.hidden], (self.kind, Device::Cpu));
            let row = input.narrow(1, row as i64, 1).narrow(0, 0, length);
            let output = if self.gru {
                row.gru(&state, parameters, true, 1, 0.0, false, both, false).0
            } else {
                row.lstm::<Tensor>(
                    &[state.shallow_clone(), state.shallow_clone()],
                    parameters,
                    true,
                    1,
                    0.0,
                    false,
                    both,
                    false,
                )
                .0
            };
            output.constant_pad_nd([0, 0, 0, 0, 0, self.time - length])
        });
        Tensor::cat(&rows.collect::<Vec<_>>(), 1)
    }

    fn check(&self, lengths: Option<&[i64]>) {
        let input =
            Tensor::randn([self.time, self.batch, self.inputs], (self.kind, Device::Cpu)).set_requires_grad(true);
        let parameters = self.parameters();
        let full = vec![self.time; self.batch as usize];
        let given = lengths.map(Tensor::from_slice);
        let theirs = self.theirs(&input, lengths.unwrap_or(&full), &parameters);
        let ours = self.ours(&input, given.as_ref(), &parameters);
        let close = |ours: &Tensor, theirs: &Tensor| {
            assert_eq!(ours.size(), theirs.size());
            let scale = theirs.abs().max().double_value(&[]).max(1e-3);
            (ours - theirs).abs().max().double_value(&[]) / scale < 1e-5
        };
        let what = format!("gru {}, {} directions, {} steps", self.gru, self.directions, self.time);
        assert!(close(&ours, &theirs), "{what}");
        let inference = tch::no_grad(|| self.ours(&input, given.as_ref(), &parameters));
        assert!(close(&inference, &theirs), "{what}: without gradient");
        let gradient = Tensor::randn_like(&theirs);
        let mut leaves = vec![&input];
        leaves.extend(&parameters);
        let [ours, theirs] = [ours, theirs]
            .map(|output| Tensor::run_backward(&[(output * &gradient).sum(self.kind)], &leaves, false, false));
        for (index, (ours, theirs)) in ours.iter().zip(&theirs).enumerate() {
            assert!(close(ours, theirs), "{what}: gradient {index}");
        }
    }
}

#[test]
fn layers_and_gradients_agree_with_libtorch() {
    tch::manual_seed(5);
    for gru in [false, true] {
        for directions in [1, 2] {
            for (time, batch, inputs, hidden) in [(5, 3, 7, 6), (7, 18, 16, 33), (1, 4, 8, 8), (6, 17, 5, 70)] {
                let case = Case { gru, directions, time, batch, inputs, hidden, kind: Kind::Float };
                case.check(None);
                let lengths: Vec<i64> = (0..batch).map(|row| (row * 5 + 3) % (time + 1)).collect();
                case.check(Some(&lengths));
            }
        }
    }
}

#[test]
fn other_types_take_libtorchs_layer_and_agree() {
    for gru in [false, true] {
        let case = Case { gru, directions: 2, time: 4, batch: 3, inputs: 5, hidden: 6, kind: Kind::Double };
        case.check(None);
        case.check(Some(&[4, 0, 2]));
    }
}

#[test]
fn wrong_shapes_and_a_second_derivative_are_errors() {
    let case = Case { gru: false, directions: 1, time: 4, batch: 3, inputs: 5, hidden: 6, kind: Kind::Float };
    let parameters = case.parameters();
    let weights = RecurrentWeights {
        input: &parameters[0],
        hidden: &parameters[1],
        input_bias: &parameters[2],
        hidden_bias: &parameters[3],
    };
    let input = Tensor::randn([4, 3, 5], (Kind::Float, Device::Cpu)).set_requires_grad(true);
    assert!(lstm(&input.narrow(2, 0, 4), None, weights, None).is_err());
    assert!(lstm(&input, Some(&Tensor::from_slice(&[1_i64, 2])), weights, None).is_err());
    assert!(lstm(&input, Some(&Tensor::from_slice(&[1_f32, 2.0, 3.0])), weights, None).is_err());
    assert!(gru(&input, None, weights, None).is_err(), "an LSTM's weights for a GRU");
    if tidemill_torch::blocked_available() {
        let output = lstm(&input, None, weights, None).unwrap().sum(Kind::Float);
        let error = Tensor::f_run_backward(&[output], &[&input], true, true).unwrap_err();
        assert!(error.to_string().contains("only once"), "{error}");
    }
}
