//! Opening a `tokenizer.json` with the `tokenizers` library, whose faults become sentences.

use std::panic::{AssertUnwindSafe, catch_unwind};

use tokenizers::{ModelWrapper, Tokenizer};

/// The library's tokenizer out of a `tokenizer.json`. It neither pads nor truncates nor drops merges, whatever the file
/// says: files carry the settings of whoever saved them last, and `transformers` ignores them too.
///
/// # Errors
/// A sentence about what is wrong with the file. The library panics on some files that contradict themselves; that is an
/// error here.
///
/// ```
/// assert!(tidemill_data::load_tokenizer(b"{}").is_err());
/// ```
pub fn load_tokenizer(json: &[u8]) -> Result<Tokenizer, String> {
    let loaded = catch_unwind(AssertUnwindSafe(|| Tokenizer::from_bytes(json)));
    let loaded = loaded.map_err(|_| "the tokenizers library cannot make sense of it".to_owned())?;
    let mut tokenizer = loaded.map_err(|error| error.to_string())?;
    tokenizer.with_padding(None);
    tokenizer.with_truncation(None).map_err(|error| error.to_string())?;
    if let ModelWrapper::BPE(model) = tokenizer.get_model()
        && model.dropout.is_some()
    {
        let mut model = model.clone();
        model.dropout = None;
        tokenizer.with_model(model);
    }
    Ok(tokenizer)
}
