//! Token ids to vectors, alone or with the vectors of their character n-grams: Bojanowski et al. 2017, "Enriching Word
//! Vectors with Subword Information".

use tch::Tensor;

use crate::error::ModelError;
use crate::init::Init;
use crate::parameters::Path;
use crate::text_input::{Layout, TextInput};

/// A table `weight` `[vocabulary, width]`. The padding token's row starts at zero and gets no gradient.
#[derive(Debug)]
pub struct Embedding {
    weight: Tensor,
    padding: Option<i64>,
}

impl Embedding {
    /// Takes `weight`; `padding` is the padding token's id, if there is one.
    ///
    /// # Errors
    /// As [`Path::get`].
    pub fn new(
        path: &Path,
        vocabulary: i64,
        width: i64,
        padding: Option<i64>,
        init: Init,
    ) -> Result<Embedding, ModelError> {
        let weight = path.get("weight", &[vocabulary, width], init)?;
        if let Some(row) = padding.filter(|_| weight.requires_grad()) {
            zero_row(&weight, row)?;
        }
        Ok(Embedding { weight, padding })
    }

    /// Ids of any shape `[…]` → `[…, width]`.
    ///
    /// # Errors
    /// [`ModelError::Torch`] when an id lies outside the table.
    pub fn forward(&self, ids: &Tensor) -> Result<Tensor, ModelError> {
        Ok(tidemill_torch::embedding(&self.weight, ids, self.padding)?)
    }

    /// The vectors of a batch's positions in `layout`, `[batch, time, width]` or `[time, batch, width]`. A token that has
    /// n-grams is the sum of its own vector and theirs over the square root of their number, which keeps the variance.
    ///
    /// # Errors
    /// [`ModelError::Torch`] when an id lies outside the table.
    pub fn positions(&self, input: &TextInput, layout: Layout) -> Result<Tensor, ModelError> {
        let Some(bags) = input.bags(layout)? else {
            return self.forward(&input.laid_out(layout)?);
        };
        let padding = self.padding.unwrap_or(-1);
        let (sums, ..) = Tensor::f_embedding_bag_padding_idx(
            &self.weight,
            &bags.ids,
            &bags.bounds,
            false,
            SUM,
            false,
            None::<&Tensor>,
            true,
            padding,
        )?;
        let [first, second] = bags.shape;
        Ok((sums.f_mul(&bags.scale)?).f_view([first, second, -1])?)
    }
}

/// libtorch's number for the sum of a bag.
const SUM: i64 = 0;

fn zero_row(weight: &Tensor, row: i64) -> Result<(), ModelError> {
    Ok(tch::no_grad(|| weight.f_narrow(0, row, 1)?.f_zero_().map(drop))?)
}
