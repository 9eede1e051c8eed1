//! What a decoder does between its matrix products: norms, rotary positions, the paged key-value
//! cache and attention on it.
//!
//! Each is one call that writes one output (or works in place), without gradients. On a processor, in float32, they run in
//! the shim's kernels; elsewhere by libtorch's operators. A row's numbers never depend on the rows beside it.

mod attention;
mod elementwise;

pub use attention::{AttentionBatch, PagedCache, attention, store};
pub use elementwise::{add_rms_norm, rms_norm, rotate};
