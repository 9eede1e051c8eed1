//! What is wrong with a GGUF file, before the file's own name is put to it.

use std::path::Path;

use crate::error::WeightsError;

/// What is wrong, and with which tensor if it is one's.
#[derive(Debug)]
pub(crate) struct Problem {
    tensor: Option<String>,
    text: String,
}

impl Problem {
    pub(crate) fn new(text: impl Into<String>) -> Problem {
        Problem { tensor: None, text: text.into() }
    }

    pub(crate) fn of_tensor(mut self, name: &str) -> Problem {
        self.tensor = Some(name.to_string());
        self
    }

    pub(crate) fn in_file(self, file: &Path) -> WeightsError {
        let (file, problem) = (file.to_path_buf(), self.text);
        match self.tensor {
            Some(tensor) => WeightsError::Tensor { file, tensor, problem },
            None => WeightsError::Header { file, problem },
        }
    }
}
