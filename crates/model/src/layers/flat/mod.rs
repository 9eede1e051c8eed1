//! Layers over a flat batch: the tokens of all texts are the rows of one matrix `[tokens, width]`, so that nothing is
//! computed for padding. For encoders of frozen weights, in float32 or bfloat16; where weights are being trained, the same
//! layers run in float32 on libtorch's differentiable operators. The arithmetic is in `tidemill_torch::encode`.

mod attention;
mod batch;
mod embeddings;
mod fused_linear;
mod post_norm;
mod rotary;
mod row_norm;

pub use attention::FlatAttention;
pub use batch::{FlatBatch, TokenRow};
pub use embeddings::EmbeddingSum;
pub use fused_linear::FusedLinear;
pub(crate) use fused_linear::check_kind;
pub use post_norm::{PostNormLayer, PostNormPaths, PostNormSizes};
pub use rotary::RotaryTable;
pub use row_norm::RowNorm;
