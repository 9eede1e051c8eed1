//! LSTM (Hochreiter and Schmidhuber 1997) and GRU (Cho et al. 2014), one or two directions, one or more layers, with
//! the tensor names and gate orders of `torch.nn.LSTM` and `torch.nn.GRU`.

use tch::Tensor;
use tidemill_torch::RecurrentWeights;

use crate::error::ModelError;
use crate::init::Init;
use crate::layers::dropout;
use crate::parameters::Path;

/// The kind of recurrent cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cell {
    /// Gates in the order input, forget, cell, output.
    Lstm,
    /// Gates in the order reset, update, new.
    Gru,
}

impl Cell {
    fn gates(self) -> i64 {
        match self {
            Cell::Lstm => 4,
            Cell::Gru => 3,
        }
    }
}

/// A stack of bidirectional recurrent layers: parameters `weight_ih_l0`, `weight_hh_l0`, `bias_ih_l0`, `bias_hh_l0`,
/// the same with `_reverse`, and so on for every layer.
#[derive(Debug)]
pub struct Recurrent {
    cell: Cell,
    layers: Vec<[Direction; 2]>,
    dropout: f64,
}

#[derive(Debug)]
struct Direction {
    input: Tensor,
    hidden: Tensor,
    input_bias: Tensor,
    hidden_bias: Tensor,
}

impl Direction {
    /// `[gates · hidden, inputs]`, `[gates · hidden, hidden]` and two biases `[gates · hidden]`, all uniform within
    /// `1 / √hidden` as PyTorch starts them.
    fn new(path: &Path, suffix: &str, gates: i64, inputs: i64, hidden: i64) -> Result<Direction, ModelError> {
        let bound = 1.0 / (hidden as f64).sqrt();
        let init = Init::Uniform { low: -bound, high: bound };
        Ok(Direction {
            input: path.get(&format!("weight_ih_{suffix}"), &[gates * hidden, inputs], init)?,
            hidden: path.get(&format!("weight_hh_{suffix}"), &[gates * hidden, hidden], init)?,
            input_bias: path.get(&format!("bias_ih_{suffix}"), &[gates * hidden], init)?,
            hidden_bias: path.get(&format!("bias_hh_{suffix}"), &[gates * hidden], init)?,
        })
    }

    fn weights(&self) -> RecurrentWeights<'_> {
        RecurrentWeights {
            input: &self.input,
            hidden: &self.hidden,
            input_bias: &self.input_bias,
            hidden_bias: &self.hidden_bias,
        }
    }
}

impl Recurrent {
    /// Takes the parameters of `layers` layers of `hidden` units each way; dropout acts between layers.
    ///
    /// # Errors
    /// As [`Path::get`].
    pub fn new(
        path: &Path,
        cell: Cell,
        inputs: i64,
        hidden: i64,
        layers: i64,
        dropout: f64,
    ) -> Result<Recurrent, ModelError> {
        let layer = |index: i64| {
            let inputs = if index == 0 { inputs } else { 2 * hidden };
            let direction = |suffix: String| Direction::new(path, &suffix, cell.gates(), inputs, hidden);
            Ok([direction(format!("l{index}"))?, direction(format!("l{index}_reverse"))?])
        };
        let layers = (0..layers).map(layer).collect::<Result<_, ModelError>>()?;
        Ok(Recurrent { cell, layers, dropout })
    }

    /// Vectors with time first, `[time, batch, inputs]` → `[time, batch, 2 · hidden]`, forward then reverse. With
    /// `lengths` `[batch]` the reverse direction starts at each row's own end, and what lies beyond it is zero.
    ///
    /// # Errors
    /// [`ModelError::Torch`] when libtorch refuses.
    pub fn forward(&self, vectors: Tensor, lengths: Option<&Tensor>, train: bool) -> Result<Tensor, ModelError> {
        let run = match self.cell {
            Cell::Lstm => tidemill_torch::lstm,
            Cell::Gru => tidemill_torch::gru,
        };
        let mut hidden = vectors;
        for (index, [forward, reverse]) in self.layers.iter().enumerate() {
            if index > 0 {
                hidden = dropout(hidden, self.dropout, train)?;
            }
            hidden = run(&hidden, lengths, forward.weights(), Some(reverse.weights()))?;
        }
        Ok(hidden)
    }
}
