//! What stands on an encoder: mostly a layer with its activation and norm, then a linear layer that gives scores. Where
//! the parameters are is each architecture's own; the arithmetic is here.

use tch::Tensor;
use tidemill_torch::encode::{self, Pooling};

use crate::error::ModelError;
use crate::layers::flat::{FlatBatch, FusedLinear, RowNorm};

/// What a head tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeadKind {
    /// One row of scores a text, a score a label.
    SequenceClassification,
    /// One row of scores a token, a score a label.
    TokenClassification,
    /// Two scores a token: that an answer begins, and that it ends here.
    QuestionAnswering,
    /// A score for every token of the vocabulary.
    MaskedLanguageModel,
}

/// `output(norm(dense(rows)))`, on one row a text where there is a pooling and else on every row that is given.
#[derive(Debug)]
pub struct Head {
    /// From token vectors to one a text; nothing for heads on tokens.
    pub pooling: Option<Pooling>,
    /// A first layer with its activation.
    pub dense: Option<FusedLinear>,
    /// A norm behind it.
    pub norm: Option<RowNorm>,
    /// The layer that gives scores.
    pub output: FusedLinear,
}

impl Head {
    /// A linear layer on token vectors and nothing else.
    pub fn plain(output: FusedLinear) -> Head {
        Head { pooling: None, dense: None, norm: None, output: output.with_float_output() }
    }

    /// Scores, float32 `[rows, labels]`; with a pooling the rows must be all tokens of `batch`.
    ///
    /// # Errors
    /// [`ModelError::Torch`] when libtorch refuses.
    pub fn forward(&self, hidden: &Tensor, batch: &FlatBatch) -> Result<Tensor, ModelError> {
        let mut rows = match self.pooling {
            Some(pooling) => encode::pool(hidden, batch.bounds(), pooling, false)?, // [texts, width]
            None => hidden.shallow_clone(),
        };
        if let Some(dense) = &self.dense {
            rows = dense.forward(&rows)?;
        }
        if let Some(norm) = &self.norm {
            rows = norm.forward(&rows)?;
        }
        self.output.forward(&rows)
    }
}
