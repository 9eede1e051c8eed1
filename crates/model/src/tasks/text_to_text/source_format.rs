//! How one checkpoint's sources are written and its answers begun: the tokens around a text, prefixes such as T5's
//! "summarize: ", languages, the token that the decoder starts with, and what `generation_config.json` and
//! `task_specific_params` say of answers. The rules are those of each family's tokenizer in `transformers` and of its
//! summarisation and translation pipelines.

use serde_json::{Map, Value};
use tokenizers::Tokenizer;

use super::languages::{LanguageMark, Languages, code, english_name};
use super::{Purpose, TextToTextInput};
use crate::checkpoint::Checkpoint;
use crate::generation::{SamplingConfig, SamplingError};
use crate::tasks::generation::{GeneratorError, PrepareError};

const SOURCE: &str = "source_language";
const TARGET: &str = "target_language";

/// What a request for text from a text becomes.
#[derive(Debug)]
pub(crate) struct FramedSource {
    /// What the encoder reads.
    pub(crate) source: Vec<u32>,
    /// What the decoder starts with.
    pub(crate) start: u32,
    /// How the answer's tokens are chosen.
    pub(crate) sampling: SamplingConfig,
}

/// How one checkpoint's sources are written and its answers begun.
#[derive(Debug)]
pub(crate) struct SourceFormat {
    model_type: String,
    /// Tokens before and after every text.
    before: Vec<u32>,
    after: Vec<u32>,
    languages: Languages,
    /// The one pair of languages, as `tokenizer_config.json` names it.
    own_languages: [Option<String>; 2],
    /// What the decoder starts with where no language says so.
    start: Option<u32>,
    /// `prefix` of the configuration.
    prefix: String,
    /// How answers are generated, by the names of `generation_config.json`.
    generation: Map<String, Value>,
    /// What changes with the task: `summarization`, `translation_en_to_de`.
    tasks: Map<String, Value>,
    longest: usize,
}

impl SourceFormat {
    /// Of a checkpoint whose sources may have `longest` tokens.
    pub(crate) fn new(
        checkpoint: &Checkpoint,
        tokenizer: &Tokenizer,
        longest: usize,
    ) -> Result<SourceFormat, GeneratorError> {
        let config = checkpoint.config();
        // Before there was a generation_config.json its keys stood in config.json.
        let generation = checkpoint.generation_config().unwrap_or(config).clone();
        let token = |key: &str| {
            let value = generation.get(key).filter(|value| !value.is_null()).or_else(|| config.get(key));
            value.and_then(Value::as_u64).and_then(|id| u32::try_from(id).ok())
        };
        let text = |key: &str| config.get(key).and_then(Value::as_str).unwrap_or_default().to_string();
        let model_type = text("model_type");
        let special = checkpoint.special_tokens();
        let named = |key: &str| {
            let language = checkpoint.tokenizer_config().and_then(|keys| keys.get(key)).and_then(Value::as_str);
            language.map(str::to_string)
        };
        let tasks = config.get("task_specific_params").and_then(Value::as_object).cloned().unwrap_or_default();
        let format = SourceFormat {
            languages: Languages::of(tokenizer, &model_type),
            before: special.before.clone(),
            after: special.after.clone(),
            own_languages: [named("source_lang").or_else(|| named("src_lang")), named("target_lang")],
            start: token("decoder_start_token_id").or_else(|| token("bos_token_id")),
            prefix: text("prefix"),
            model_type,
            generation,
            tasks,
            longest,
        };
        format.defaults()?;
        if format.start.is_none() && format.languages.mark.is_none() {
            return Err(GeneratorError::NoStart);
        }
        Ok(format)
    }

    /// How answers are generated where a request does not say.
    pub(crate) fn defaults(&self) -> Result<SamplingConfig, SamplingError> {
        SamplingConfig::from_generation_config(&self.generation, Some(1))
    }

    /// The most tokens of a source.
    pub(crate) fn longest(&self) -> usize {
        self.longest
    }

    /// What the decoder starts with where no language says so.
    pub(crate) fn start(&self) -> Result<u32, PrepareError> {
        self.start.ok_or_else(|| self.language_needed(TARGET))
    }

    /// A text as it is, with what the tokeniser puts around every text.
    pub(crate) fn plain(&self, tokenizer: &Tokenizer, text: &str) -> Result<Vec<u32>, PrepareError> {
        let source = self.framed(&self.before, encode(tokenizer, text)?, &self.after, false)?;
        Ok(source)
    }

    /// A text for what is wanted of it.
    pub(crate) fn source(&self, tokenizer: &Tokenizer, input: &TextToTextInput) -> Result<FramedSource, PrepareError> {
        let (source, target) = match &input.purpose {
            Purpose::Summary => ("", ""),
            Purpose::Translation { source, target } => (source.as_str(), target.as_str()),
        };
        let task = self.task(&input.purpose);
        let mut sampling = self.sampling(task, input)?;
        let (mut before, mut after, mut start) = (self.before.clone(), self.after.clone(), self.start);
        let mut prefix = task.and_then(|task| task.get("prefix")).and_then(Value::as_str).map(str::to_string);
        match self.languages.mark {
            Some(LanguageMark::Framing) => {
                if !source.is_empty() {
                    let language = self.languages.find(SOURCE, source)?;
                    let mut framing = before.iter_mut().chain(&mut after);
                    match framing.find(|token| self.languages.has(**token)) {
                        Some(token) => *token = language,
                        None => before.insert(0, language),
                    }
                }
                let begins_with_language = self.model_type == "mbart" && self.ends_with_language();
                if !target.is_empty() {
                    let language = self.languages.find(TARGET, target)?;
                    match begins_with_language {
                        true => (start, sampling.forced_bos_token_id) = (Some(language), None),
                        false => sampling.forced_bos_token_id = Some(language),
                    }
                } else if input.purpose != Purpose::Summary
                    && sampling.forced_bos_token_id.is_none()
                    && !start.is_some_and(|start| begins_with_language && self.languages.has(start))
                {
                    return Err(self.language_needed(TARGET));
                }
            }
            Some(LanguageMark::Leading) => {
                self.check_own(SOURCE, source)?;
                if !target.is_empty() {
                    before.push(self.languages.find(TARGET, target)?);
                }
            }
            None if self.model_type == "t5" && input.purpose != Purpose::Summary => {
                if prefix.is_none() {
                    let [source, target] = [(SOURCE, source), (TARGET, target)].map(|(field, name)| named(field, name));
                    prefix = Some(format!("translate {} to {}: ", source?, target?));
                }
            }
            None => {
                self.check_own(SOURCE, source)?;
                self.check_own(TARGET, target)?;
            }
        }
        let prefix = prefix.unwrap_or_else(|| match (self.prefix.as_str(), self.model_type.as_str(), &input.purpose) {
            ("", "t5", Purpose::Summary) => "summarize: ".to_string(),
            (prefix, ..) => prefix.to_string(),
        });
        let tokens = encode(tokenizer, &(prefix + &input.text))?;
        Ok(FramedSource {
            source: self.framed(&before, tokens, &after, input.truncate)?,
            start: start.ok_or_else(|| self.language_needed(TARGET))?,
            sampling,
        })
    }

    /// What the configuration says of this task alone.
    fn task(&self, purpose: &Purpose) -> Option<&Map<String, Value>> {
        let of = |name: &str| self.tasks.get(name).and_then(Value::as_object);
        match purpose {
            Purpose::Summary => of("summarization"),
            Purpose::Translation { source, target } if source.is_empty() && target.is_empty() => {
                let mut translations = self.tasks.iter().filter(|(name, _)| name.starts_with("translation"));
                match (translations.next(), translations.next()) {
                    (Some((_, only)), None) => only.as_object(),
                    _ => None,
                }
            }
            Purpose::Translation { source, target } => {
                let [source, target] = [source, target].map(|language| code(language).unwrap_or(language));
                of(&format!("translation_{source}_to_{target}"))
            }
        }
    }

    /// The checkpoint's own keys, those of the task over them, and what is asked for over those.
    fn sampling(
        &self,
        task: Option<&Map<String, Value>>,
        input: &TextToTextInput,
    ) -> Result<SamplingConfig, PrepareError> {
        let mut keys = self.generation.clone();
        keys.extend(task.into_iter().flatten().map(|(key, value)| (key.clone(), value.clone())));
        if let Some(beams) = input.beams {
            keys.insert("num_beams".to_string(), Value::from(beams));
        }
        if let Some(max_tokens) = input.max_tokens {
            keys.insert("max_new_tokens".to_string(), Value::from(max_tokens));
            // The least length was meant for answers of the usual length.
            for (key, first) in [("min_new_tokens", 0), ("min_length", 1)] {
                if keys.get(key).and_then(Value::as_u64).is_some_and(|least| least > (max_tokens + first) as u64) {
                    keys.insert(key.to_string(), Value::from(max_tokens + first));
                }
            }
        }
        keys.insert("num_return_sequences".to_string(), Value::from(1));
        Ok(SamplingConfig::from_generation_config(&keys, Some(1))?)
    }

    /// Whether the tokeniser puts the source's language after a text, as mBART's first does.
    fn ends_with_language(&self) -> bool {
        self.after.iter().any(|token| self.languages.has(*token))
    }

    fn framed(
        &self,
        before: &[u32],
        mut tokens: Vec<u32>,
        after: &[u32],
        truncate: bool,
    ) -> Result<Vec<u32>, PrepareError> {
        let around = before.len() + after.len();
        if tokens.is_empty() {
            return Err(PrepareError::EmptySource);
        }
        if tokens.len() + around > self.longest {
            if !truncate {
                return Err(PrepareError::SourceTooLong { tokens: tokens.len() + around, longest: self.longest });
            }
            tokens.truncate(self.longest.saturating_sub(around));
        }
        Ok([before, &tokens, after].concat())
    }

    fn language_needed(&self, field: &'static str) -> PrepareError {
        let problem = format!("is empty, and the model must be told; it has {}", self.languages.some());
        PrepareError::Language { field, problem }
    }

    /// A checkpoint of one pair of languages may be asked for those, and for no others.
    fn check_own(&self, field: &'static str, name: &str) -> Result<(), PrepareError> {
        let own = match field {
            SOURCE => &self.own_languages[0],
            _ => &self.own_languages[1],
        };
        match own {
            _ if name.is_empty() => Ok(()),
            Some(own) if own == name => Ok(()),
            Some(own) => {
                let problem = format!("is not the model's, which is {own:?}; name that, or leave it empty");
                Err(PrepareError::Language { field, problem })
            }
            None => {
                let problem = "cannot be chosen: the model has none to choose from; leave it empty".to_string();
                Err(PrepareError::Language { field, problem })
            }
        }
    }
}

/// What T5 calls a language.
fn named(field: &'static str, language: &str) -> Result<&'static str, PrepareError> {
    english_name(language).ok_or_else(|| {
        let problem =
            "must name a language, as \"de\" or \"German\"; for another, write the model's own prefix into the \
                       text and ask for text generation"
                .to_string();
        PrepareError::Language { field, problem }
    })
}

fn encode(tokenizer: &Tokenizer, text: &str) -> Result<Vec<u32>, PrepareError> {
    let encoded = tokenizer.encode_fast(text, false);
    Ok(encoded.map_err(|error| PrepareError::Tokenizer(error.to_string()))?.get_ids().to_vec())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use std::path::Path;

    use serde_json::json;
    use tempfile::TempDir;

    use super::*;

    /// Files of the tests' fixtures together in a folder, with keys added to its config.json.
    fn folder(parts: &[(&str, &[&str])], config: Value) -> TempDir {
        let (fixtures, folder) =
            (Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures"), tempfile::tempdir().unwrap());
        for (from, files) in parts {
            for file in *files {
                std::fs::copy(fixtures.join(from).join(file), folder.path().join(file)).unwrap();
            }
        }
        let file = folder.path().join("config.json");
        let mut keys: Map<String, Value> = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
        keys.extend(config.as_object().unwrap().clone());
        std::fs::write(&file, serde_json::to_vec(&keys).unwrap()).unwrap();
        folder
    }

    fn framed(folder: &TempDir, input: &TextToTextInput) -> Result<FramedSource, PrepareError> {
        let checkpoint = Checkpoint::open(folder.path()).unwrap();
        let tokenizer = checkpoint.tokenizer().unwrap();
        SourceFormat::new(&checkpoint, &tokenizer, 96).unwrap().source(&tokenizer, input)
    }

    fn translation(text: &str, source: &str, target: &str) -> TextToTextInput {
        let purpose = Purpose::Translation { source: source.to_string(), target: target.to_string() };
        TextToTextInput { text: text.to_string(), purpose, ..TextToTextInput::default() }
    }

    #[test]
    fn marians_target_language_leads_the_text() {
        let folder = folder(
            &[
                ("encoder_decoders/marian", &["config.json", "generation_config.json", "model.safetensors"]),
                ("marian_tokenizer", &["source.spm", "vocab.json", "tokenizer_config.json"]),
            ],
            json!({}),
        );
        // As MarianTokenizer has ">>deu<< The tide comes in."
        let tide = [4, 60, 81, 76, 84, 13, 14, 26, 4, 83, 10, 0];
        let found = framed(&folder, &translation("The tide comes in.", "en", "deu")).unwrap();
        assert_eq!((found.source, found.start), ([&[2][..], &tide].concat(), 63));
        let found = framed(&folder, &translation("The tide comes in.", "", "")).unwrap();
        assert_eq!(found.source, tide);
        let problem = |source, target| framed(&folder, &translation("a", source, target)).unwrap_err().to_string();
        assert!(problem("de", "").contains("source_language: is not the model's, which is \"en\""));
        assert!(problem("", "fra").contains("target_language: is not one of the model's languages"));
    }

    #[test]
    fn mbarts_answers_start_with_their_language_and_others_are_forced_to() {
        const FILES: &[&str] =
            &["config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"];
        let of = |model_type: &str| folder(&[("checkpoints/m2m_100", FILES)], json!({"model_type": model_type}));
        let input = translation("The tide", "ja", "de_DE");
        let mbart = framed(&of("mbart"), &input).unwrap();
        assert_eq!((mbart.start, mbart.sampling.forced_bos_token_id), (125, None));
        let m2m = framed(&of("m2m_100"), &input).unwrap();
        assert_eq!((m2m.start, m2m.sampling.forced_bos_token_id), (2, Some(125)));
        assert_eq!(mbart.source, m2m.source);
        assert_eq!(m2m.source.last(), Some(&126));
    }
}
