//! Why there is no load.

/// Why requests cannot be made, sent or drawn.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// Nothing answers there.
    #[error("no server answers at {address}: {reason}")]
    Unreachable {
        /// Where.
        address: String,
        /// The operating system's reason.
        reason: String,
    },
    /// A setting does not make sense.
    #[error("{name} {problem}")]
    Setting {
        /// Its name.
        name: &'static str,
        /// What is wrong and what to write.
        problem: String,
    },
    /// A model's input cannot be filled.
    #[error("the input {name:?} of the model {problem}")]
    Input {
        /// Its name.
        name: String,
        /// What is wrong and what to do.
        problem: String,
    },
    /// The curves cannot be drawn.
    #[error("the plot cannot be drawn: {0}")]
    Plot(String),
}

impl LoadError {
    pub(crate) fn input(name: &str, problem: impl Into<String>) -> LoadError {
        LoadError::Input { name: name.to_owned(), problem: problem.into() }
    }
}
