//! The feed-forward layers of decoders: gated (Shazeer 2020, "GLU Variants Improve Transformer"), and a mixture of such
//! experts of which each token takes a few (Shazeer et al. 2017; Jiang et al. 2024).

use tch::{Kind, Tensor};
use tidemill_torch::Activation;

use crate::error::ModelError;
use crate::layers::{PlainMlp, Projection};
use crate::parameters::Path;

/// What a decoder's layer does to each token by itself.
#[derive(Debug)]
pub enum FeedForward {
    /// One for all tokens, without a gate.
    Plain(PlainMlp),
    /// One for all tokens.
    Gated(GatedMlp),
    /// A few of many.
    Experts(Experts),
}

impl FeedForward {
    /// `[tokens, width]` → `[tokens, width]`.
    ///
    /// # Errors
    /// [`ModelError::Torch`] when libtorch refuses.
    pub fn forward(&self, input: &Tensor) -> Result<Tensor, ModelError> {
        match self {
            FeedForward::Plain(mlp) => mlp.forward(input),
            FeedForward::Gated(mlp) => mlp.forward(input),
            FeedForward::Experts(experts) => experts.forward(input),
        }
    }
}

/// `down(activation(gate(x)) · up(x))`.
#[derive(Debug)]
pub struct GatedMlp {
    gate_up: Projection,
    down: Projection,
    activation: Activation,
}

impl GatedMlp {
    /// From the product that gives gate and up side by side, and the one that comes back.
    pub fn new(gate_up: Projection, down: Projection, activation: Activation) -> GatedMlp {
        GatedMlp { gate_up, down, activation }
    }

    /// Takes three matrices by their names, without biases unless `biased`.
    ///
    /// # Errors
    /// As [`Path::get`].
    pub fn separate(
        path: &Path,
        names: [&str; 3],
        (width, inner): (i64, i64),
        activation: Activation,
        biased: bool,
    ) -> Result<GatedMlp, ModelError> {
        let [gate, up, down] = names.map(|name| path.sub(name));
        let gate_up = Projection::beside(&[(gate, inner), (up, inner)], width, biased)?;
        Ok(GatedMlp::new(gate_up, Projection::new(&down, inner, width, biased)?, activation))
    }

    fn forward(&self, input: &Tensor) -> Result<Tensor, ModelError> {
        let gate_up = self.gate_up.forward(input)?; // [tokens, 2 · inner]
        self.down.forward(&self.activation.gate(&gate_up)?)
    }
}

/// Experts, and the router that sends each token to its best few.
#[derive(Debug)]
pub struct Experts {
    router: Projection,
    experts: Vec<GatedMlp>,
    chosen: i64,
    normalised: bool,
}

impl Experts {
    /// Each token goes to its `chosen` likeliest experts; their weights sum to one where `normalised`.
    pub fn new(router: Projection, experts: Vec<GatedMlp>, chosen: i64, normalised: bool) -> Experts {
        Experts { router, experts, chosen, normalised }
    }

    fn forward(&self, input: &Tensor) -> Result<Tensor, ModelError> {
        let likely = self.router.forward(input)?.f_softmax(-1, Kind::Float)?; // [tokens, experts]
        let (mut weights, chosen) = likely.f_topk(self.chosen, -1, true, true)?; // [tokens, chosen]
        if self.normalised {
            weights = weights.f_div(&weights.f_sum_dim_intlist(-1_i64, true, None::<Kind>)?)?;
        }
        let mut output = input.f_zeros_like()?;
        let places: Vec<i64> = Vec::try_from(chosen.f_flatten(0, -1)?)?;
        for (expert, mlp) in (0_i64..).zip(&self.experts) {
            let mine: Vec<i64> =
                (0_i64..).zip(&places).filter(|(_, chosen)| **chosen == expert).map(|(i, _)| i).collect();
            if mine.is_empty() {
                continue;
            }
            let tokens: Vec<i64> = mine.iter().map(|place| place / self.chosen).collect();
            let (mine, tokens) = (Tensor::f_from_slice(&mine)?, Tensor::f_from_slice(&tokens)?);
            let answer = mlp.forward(&input.f_index_select(0, &tokens)?)?;
            let weight = weights.f_flatten(0, -1)?.f_index_select(0, &mine)?.f_unsqueeze(1)?;
            output = output.f_index_add(0, &tokens, &answer.f_mul(&weight)?)?;
        }
        Ok(output)
    }
}
