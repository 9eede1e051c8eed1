//! The pieces that architectures are built of, one file each. Every layer takes its parameters from a
//! [`Path`](crate::Path) under the field's usual tensor names, and its forward is fallible: libtorch's errors travel.
//! Layers know nothing of texts, batches or losses.

mod attention;
mod causal_attention;
mod convolution;
mod dropout;
mod embedding;
mod embedding_bag;
pub mod flat;
mod gated_mlp;
mod layer_norm;
mod linear;
mod plain_mlp;
mod pooling;
mod projection;
mod recurrent;
mod rms_norm;
mod rotary;

pub use attention::{SelfAttention, key_bias};
pub use causal_attention::{CausalAttention, Heads};
pub use convolution::TextConvolution;
pub use dropout::dropout;
pub use embedding::Embedding;
pub use embedding_bag::{BagPooling, EmbeddingBag};
pub use gated_mlp::{Experts, FeedForward, GatedMlp};
pub use layer_norm::LayerNorm;
pub use linear::Linear;
pub use plain_mlp::PlainMlp;
pub use pooling::{AttentionPooling, max_over_time, mean_over_time};
pub use projection::{Projection, TokenTable};
pub use recurrent::{Cell, Recurrent};
pub use rms_norm::{ResidualStream, RmsNorm};
pub use rotary::Rotary;
