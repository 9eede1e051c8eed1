//! What everybody knows of a model, before and after it is open.

/// What a model is called and what it answers with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelInfo {
    /// Its name on the wire.
    pub name: String,
    /// Its version.
    pub version: String,
    /// A classifier's labels, in the order of the probabilities; the labels of entities; otherwise none.
    pub labels: Vec<String>,
}
