//! What can go wrong when a model is built, loaded or run, as typed errors whose messages are sentences for people.
//! Knows nothing of packages (see `package.rs`) and never repeats what a user's text said.

use std::path::PathBuf;

use tch::TchError;

/// Why a model could not be built or run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    /// libtorch refused an operation: shapes, memory, a device that is not there.
    #[error("libtorch refused an operation: {}", first_line(.0))]
    Torch(#[from] TchError),

    /// No architecture has this name.
    #[error("there is no architecture \"{name}\"; {hint}")]
    UnknownArchitecture {
        /// The name that was asked for.
        name: String,
        /// The nearest name, and all that exist.
        hint: String,
    },

    /// A key of the architecture's configuration is missing, unknown or out of range.
    #[error("configuration of {architecture}: {problem}")]
    Config {
        /// The architecture's name.
        architecture: String,
        /// What is wrong and what to write instead, naming the key.
        problem: String,
    },

    /// A tensor is missing, has another shape than the configuration asks for, or is named twice.
    #[error("tensor \"{tensor}\": {problem}")]
    Tensor {
        /// The tensor's name, as in the checkpoint.
        tensor: String,
        /// What is wrong with it.
        problem: String,
    },

    /// A file of weights could not be read or written.
    #[error(transparent)]
    Weights(#[from] WeightsError),

    /// The input cannot be run: an empty batch, an offset that lies, a sequence that is too long.
    #[error("{0}")]
    Input(String),
}

/// Why a file of tensors could not be read or written. Every message names the file, and the tensor where there is
/// one.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WeightsError {
    /// The operating system refused.
    #[error("{}: {source}", file.display())]
    Io {
        /// The file.
        file: PathBuf,
        /// The operating system's reason.
        source: std::io::Error,
    },

    /// The file is not of its format, or it is cut short.
    #[error("{}: {problem}", file.display())]
    Header {
        /// The file.
        file: PathBuf,
        /// What is wrong with its header.
        problem: String,
    },

    /// One tensor of the file cannot be right.
    #[error("{}: tensor \"{tensor}\" {problem}", file.display())]
    Tensor {
        /// The file.
        file: PathBuf,
        /// The tensor's name.
        tensor: String,
        /// What is wrong with it.
        problem: String,
    },

    /// libtorch could not map or copy the file's tensors.
    #[error("{}: libtorch refused: {}", file.display(), first_line(source))]
    Torch {
        /// The file.
        file: PathBuf,
        /// libtorch's reason.
        source: TchError,
    },
}

/// libtorch's messages carry a C++ stack trace; people need the first line.
pub(crate) fn first_line(error: &TchError) -> String {
    let text = match error {
        TchError::Torch(message) => message.clone(),
        other => other.to_string(),
    };
    let line = text.lines().find(|line| !line.trim().is_empty()).unwrap_or_default();
    line.trim().trim_end_matches('.').to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libtorch_messages_lose_their_stack_trace() {
        let error = TchError::Torch("shapes differ\nException raised from foo at bar.cpp:3".to_string());
        assert_eq!(ModelError::from(error).to_string(), "libtorch refused an operation: shapes differ");
    }
}
