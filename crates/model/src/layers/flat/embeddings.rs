//! The first layer of an encoder: vectors of tokens, positions and types, added and normalised in one pass.

use tch::Tensor;
use tidemill_torch::encode;

use super::RowNorm;
use crate::error::ModelError;
use crate::init::Init;
use crate::parameters::Path;

/// Tables `weight` `[rows, width]`, each asked for one row a token, and the norm of their sum.
#[derive(Debug)]
pub struct EmbeddingSum {
    tables: Vec<Tensor>,
    norm: RowNorm,
}

impl EmbeddingSum {
    /// Takes the tables: each a place with its number of rows.
    ///
    /// # Errors
    /// As [`Path::get`].
    pub fn new(tables: &[(Path, i64)], width: i64, norm: RowNorm) -> Result<EmbeddingSum, ModelError> {
        let init = Init::Normal { mean: 0.0, std: 0.02 };
        let tables = tables.iter().map(|(path, rows)| path.get("weight", &[*rows, width], init));
        Ok(EmbeddingSum { tables: tables.collect::<Result<_, _>>()?, norm })
    }

    /// Ids `[tokens]` for each table, in their order → `[tokens, width]`.
    ///
    /// # Errors
    /// [`ModelError::Torch`] when an id lies outside its table.
    pub fn forward(&self, ids: &[&Tensor]) -> Result<Tensor, ModelError> {
        let pairs: Vec<(&Tensor, &Tensor)> = self.tables.iter().zip(ids.iter().copied()).collect();
        Ok(encode::embed(&pairs, Some(self.norm.parts()), self.norm.kind())?)
    }

    /// The first table, `[vocabulary, width]`, for an output layer that shares it.
    pub fn tokens(&self) -> Option<&Tensor> {
        self.tables.first()
    }
}
