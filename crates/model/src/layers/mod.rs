//! The pieces that architectures are built of, one file each. Every layer takes its parameters from a
//! [`Path`](crate::Path) under the field's usual tensor names, and its forward is fallible: libtorch's errors travel.
//! Layers know nothing of texts, batches or losses.

mod attention;
mod causal_attention;
mod convolution;
mod cross_attention;
mod dropout;
mod embedding;
mod embedding_bag;
pub mod flat;
mod gated_mlp;
mod layer_norm;
mod linear;
mod plain_mlp;
mod pooling;
mod position_table;
mod projection;
mod recurrent;
mod relative_positions;
mod residual_stream;
mod rms_norm;
mod rotary;
mod source_attention;
mod target_attention;

pub use attention::{SelfAttention, key_bias};
pub use causal_attention::{CausalAttention, Heads};
pub use convolution::TextConvolution;
pub use cross_attention::CrossAttention;
pub use dropout::dropout;
pub use embedding::Embedding;
pub use embedding_bag::{BagPooling, EmbeddingBag};
pub use gated_mlp::{Experts, FeedForward, GatedMlp};
pub use layer_norm::LayerNorm;
pub use linear::Linear;
pub use plain_mlp::PlainMlp;
pub use pooling::{AttentionPooling, max_over_time, mean_over_time};
pub use position_table::PositionTable;
pub use projection::{Projection, TokenTable};
pub use recurrent::{Cell, Recurrent};
pub use relative_positions::RelativePositions;
pub use residual_stream::{ResidualStream, StreamNorm};
pub use rms_norm::RmsNorm;
pub use rotary::Rotary;
pub use source_attention::SourceAttention;
pub(crate) use source_attention::attend;
pub use target_attention::TargetAttention;
