//! From a request as people make it to one that the engine runs: the template filled in, the text tokenised, the format
//! compiled, every bound checked.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use tokenizers::Tokenizer;

use super::{GeneratorError, TokenChoice};
use crate::checkpoint::Checkpoint;
use crate::encoder_decoders::EncoderDecoderShape;
use crate::engine::{Request, Turn};
use crate::generation::{
    ChatInput, ChatTemplate, Chosen, Constraint, ConstraintCompiler, ConstraintError, ConstraintLimits, ConstraintSpec,
    SamplingConfig, SamplingError, TemplateError, TemplateLimits, TextDecoder, TextStream, ToolFormat,
};
use crate::tasks::text_to_text::TextToTextInput;
use crate::tasks::text_to_text::source_format::SourceFormat;

/// What is to be continued or answered.
#[derive(Clone, Debug)]
pub enum Input {
    /// A text to continue.
    Text(String),
    /// Tokens to continue.
    Tokens(Vec<u32>),
    /// A conversation, by the checkpoint's chat template.
    Chat(ChatInput),
}

/// One request.
#[derive(Clone, Debug)]
pub struct GenerateRequest {
    /// What is to be continued or answered.
    pub input: Input,
    /// How tokens are chosen, and when it ends.
    pub sampling: SamplingConfig,
    /// What the answer must look like.
    pub format: Option<ConstraintSpec>,
    /// When it is let in, beside others that wait.
    pub turn: Turn,
}

impl GenerateRequest {
    /// With the default way to choose tokens.
    pub fn of(input: Input) -> GenerateRequest {
        GenerateRequest { input, sampling: SamplingConfig::default(), format: None, turn: Turn::default() }
    }
}

/// A request that has been checked.
#[derive(Debug)]
pub struct Prepared {
    pub(super) request: Request,
    pub(super) tools: Option<ToolFormat>,
    pub(super) echo: String,
}

impl Prepared {
    /// Tokens of the prompt; an encoder-decoder's is its source.
    pub fn prompt_tokens(&self) -> usize {
        self.request.read_tokens()
    }
}

/// Why a request cannot run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PrepareError {
    /// How tokens are chosen.
    #[error(transparent)]
    Sampling(#[from] SamplingError),
    /// The conversation does not fit the template.
    #[error("messages: {0}")]
    Template(#[from] TemplateError),
    /// The format cannot be met.
    #[error("format: {0}")]
    Format(#[from] ConstraintError),
    /// A conversation for a model that has no chat template.
    #[error("messages: this model has no chat template, so it cannot chat; give it a prompt to continue")]
    NoTemplate,
    /// The tokeniser refuses the text.
    #[error("prompt: the tokenizer refuses it: {0}")]
    Tokenizer(String),
    /// A text for a model that continues texts.
    #[error("model: it continues texts, and does not turn them into others; ask it for text generation")]
    NotTextToText,
    /// A language that the model does not have, or must be told.
    #[error("{field}: {problem}")]
    Language {
        /// `source_language` or `target_language`.
        field: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// There is nothing to read.
    #[error("text: it has no tokens; give at least one word")]
    EmptySource,
    /// An encoder-decoder reads no more.
    #[error(
        "text: it has {tokens} tokens and the model reads at most {longest}; shorten it, split it or have it cut off"
    )]
    SourceTooLong {
        /// Its tokens.
        tokens: usize,
        /// The most that are read.
        longest: usize,
    },
    /// There is nothing to continue.
    #[error("prompt: it has no tokens; give at least one word")]
    Empty,
    /// A token that the model does not have.
    #[error("prompt: the token {token} is not one of the model's {vocabulary}")]
    UnknownToken {
        /// The token.
        token: u32,
        /// The model's tokens.
        vocabulary: usize,
    },
    /// It leaves no room for an answer.
    #[error("prompt: it has {tokens} tokens and the context holds {longest}, the answer included; shorten it")]
    TooLong {
        /// Its tokens.
        tokens: usize,
        /// The longest context.
        longest: usize,
    },
}

/// Checks and prepares requests for one model.
pub struct Preparation {
    tokenizer: Arc<Tokenizer>,
    template: Option<ChatTemplate>,
    tools: Option<ToolFormat>,
    /// Made when the first format comes: it indexes the whole vocabulary.
    compiler: OnceLock<Result<ConstraintCompiler, ConstraintError>>,
    eos: Vec<u32>,
    vocabulary: usize,
    longest: usize,
    defaults: SamplingConfig,
    /// How an encoder-decoder's sources are written.
    sources: Option<SourceFormat>,
    name: String,
}

impl Preparation {
    pub(super) fn new(
        checkpoint: &Checkpoint,
        vocabulary: usize,
        longest: usize,
    ) -> Result<Preparation, GeneratorError> {
        let tokenizer = checkpoint.tokenizer()?;
        let last = tokenizer.get_vocab(true).into_values().max().unwrap_or_default();
        if last as usize >= vocabulary {
            return Err(GeneratorError::Tokenizer { token: last, vocabulary });
        }
        let special = checkpoint.special_tokens();
        let named = [("bos_token", &special.bos), ("pad_token", &special.pad), ("unk_token", &special.unk)];
        let mut texts: BTreeMap<String, String> = named
            .into_iter()
            .filter_map(|(name, token)| Some((name.to_string(), token.as_ref()?.text.clone())))
            .collect();
        if let Some(eos) = special.eos.first() {
            texts.insert("eos_token".to_string(), eos.text.clone());
        }
        let template = checkpoint.chat_template();
        let tools = template.and_then(ToolFormat::detect);
        let template =
            template.map(|source| ChatTemplate::new(source, texts, TemplateLimits::default())).transpose()?;
        let defaults = checkpoint.generation_config();
        let defaults = defaults.map(|keys| SamplingConfig::from_generation_config(keys, None)).transpose()?;
        let name = |path: &Path| path.file_stem().map(|name| name.to_string_lossy().into_owned());
        Ok(Preparation {
            tokenizer: Arc::new(tokenizer),
            template,
            tools,
            compiler: OnceLock::new(),
            eos: special.eos.iter().map(|token| token.id).collect(),
            vocabulary,
            longest,
            defaults: defaults.unwrap_or_default(),
            sources: None,
            name: name(checkpoint.path()).unwrap_or_default(),
        })
    }

    pub(super) fn of_encoder_decoder(
        checkpoint: &Checkpoint,
        shape: &EncoderDecoderShape,
    ) -> Result<Preparation, GeneratorError> {
        let size = |size: i64| usize::try_from(size).unwrap_or_default();
        let vocabulary = size(shape.source_vocabulary.max(shape.vocabulary));
        let mut preparation = Preparation::new(checkpoint, vocabulary, size(shape.target_positions))?;
        let sources = SourceFormat::new(checkpoint, &preparation.tokenizer, size(shape.source_positions))?;
        preparation.vocabulary = size(shape.vocabulary);
        preparation.defaults = sources.defaults()?;
        // Answers are no turns of a conversation.
        (preparation.template, preparation.tools) = (None, None);
        preparation.sources = Some(sources);
        Ok(preparation)
    }

    /// Whether the model reads a text as a whole and writes another.
    pub fn is_text_to_text(&self) -> bool {
        self.sources.is_some()
    }

    /// What the checkpoint's file or folder is called.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The longest context, prompt and answer together.
    pub fn context_length(&self) -> usize {
        self.longest
    }

    /// Whether the model can chat.
    pub fn has_chat_template(&self) -> bool {
        self.template.is_some()
    }

    /// How the checkpoint's authors would choose tokens.
    pub fn defaults(&self) -> &SamplingConfig {
        &self.defaults
    }

    /// How many tokens a text has.
    ///
    /// # Errors
    /// [`PrepareError::Tokenizer`] when the tokeniser refuses it.
    pub fn count_tokens(&self, text: &str) -> Result<usize, PrepareError> {
        Ok(self.encode(text, true)?.len())
    }

    /// Checks a request and makes it ready to run.
    ///
    /// # Errors
    /// [`PrepareError`] that names the field.
    pub fn prepare(&self, request: &GenerateRequest) -> Result<Prepared, PrepareError> {
        if let Some(sources) = &self.sources {
            return self.prepare_source(request, sources);
        }
        request.sampling.check()?;
        request.sampling.check_tokens(self.vocabulary)?;
        let mut tools = None;
        let prompt = match &request.input {
            Input::Text(text) => self.encode(text, true)?,
            Input::Tokens(tokens) => tokens.clone(),
            Input::Chat(chat) => {
                tools = self.tools.filter(|_| !chat.tools.is_empty());
                let text = self.template.as_ref().ok_or(PrepareError::NoTemplate)?.render(chat)?;
                // The template writes the special tokens itself.
                self.encode(&text, false)?
            }
        };
        let (tokens, longest, vocabulary) = (prompt.len(), self.longest, self.vocabulary);
        if tokens == 0 {
            return Err(PrepareError::Empty);
        }
        if let Some(&token) = prompt.iter().find(|token| **token as usize >= vocabulary) {
            return Err(PrepareError::UnknownToken { token, vocabulary });
        }
        if tokens >= longest {
            return Err(PrepareError::TooLong { tokens, longest });
        }
        let echo = if request.sampling.echo { self.decode(&prompt)? } else { String::new() };
        let constraint = request.format.as_ref().map(|format| self.constraint(format)).transpose()?;
        let request = Request {
            source: Vec::new(),
            prompt,
            sampling: request.sampling.clone(),
            end_tokens: self.eos.clone(),
            constraint,
            turn: request.turn.clone(),
        };
        Ok(Prepared { request, tools, echo })
    }

    /// Checks a text to be summarised or translated, and makes it ready to run.
    ///
    /// # Errors
    /// [`PrepareError`] that names the field; [`PrepareError::NotTextToText`] from a model that does neither.
    pub fn prepare_text_to_text(&self, input: &TextToTextInput) -> Result<Prepared, PrepareError> {
        let sources = self.sources.as_ref().ok_or(PrepareError::NotTextToText)?;
        let framed = sources.source(&self.tokenizer, input)?;
        let request = Request {
            source: framed.source,
            prompt: vec![framed.start],
            sampling: framed.sampling,
            end_tokens: self.eos.clone(),
            constraint: None,
            turn: input.turn.clone(),
        };
        Ok(Prepared { request, tools: None, echo: String::new() })
    }

    /// A prompt for an encoder-decoder: it is its source, as it is.
    fn prepare_source(&self, request: &GenerateRequest, sources: &SourceFormat) -> Result<Prepared, PrepareError> {
        let source = match &request.input {
            Input::Text(text) => sources.plain(&self.tokenizer, text)?,
            Input::Tokens(tokens) => tokens.clone(),
            Input::Chat(_) => return Err(PrepareError::NoTemplate),
        };
        let (tokens, longest) = (source.len(), sources.longest());
        if tokens > longest {
            return Err(PrepareError::SourceTooLong { tokens, longest });
        }
        let mut sampling = request.sampling.clone();
        // The authors' least length was meant for answers of the usual length.
        if sampling.min_tokens == self.defaults.min_tokens {
            sampling.min_tokens = sampling.max_tokens.map_or(sampling.min_tokens, |most| most.min(sampling.min_tokens));
        }
        sampling.check()?;
        sampling.check_tokens(self.vocabulary)?;
        let echo = if sampling.echo { self.decode(&source)? } else { String::new() };
        let constraint = request.format.as_ref().map(|format| self.constraint(format)).transpose()?;
        let mut prompt = vec![sources.start()?];
        if constraint.is_some() {
            // Forced tokens are no part of what the format says: the first becomes one that the answer begins with.
            prompt.extend(sampling.forced_bos_token_id.take());
            sampling.forced_eos_token_id = None;
        }
        let request =
            Request { source, prompt, sampling, end_tokens: self.eos.clone(), constraint, turn: request.turn.clone() };
        Ok(Prepared { request, tools: None, echo })
    }

    /// What turns an answer's tokens into text; the marks of calls are shown where there are tools to call.
    pub(super) fn text_stream(&self, tools: Option<ToolFormat>) -> TextStream<Arc<Tokenizer>> {
        let shown = tools.map_or(&[][..], ToolFormat::special_tokens);
        let shown: Vec<u32> = shown.iter().filter_map(|text| self.tokenizer.token_to_id(text)).collect();
        TextStream::new(Arc::clone(&self.tokenizer)).skip_special(true).showing(&shown)
    }

    pub(super) fn describe(&self, chosen: &Chosen) -> TokenChoice {
        let text = |token: u32| TextDecoder::decode(&self.tokenizer, &[token]).unwrap_or_default();
        TokenChoice {
            token: chosen.token,
            text: text(chosen.token),
            logprob: chosen.logprob,
            top: chosen.top.iter().map(|&(token, logprob)| (token, text(token), logprob)).collect(),
        }
    }

    fn decode(&self, tokens: &[u32]) -> Result<String, PrepareError> {
        self.tokenizer.as_ref().decode(tokens).map_err(|error| PrepareError::Tokenizer(error.to_string()))
    }

    fn encode(&self, text: &str, special: bool) -> Result<Vec<u32>, PrepareError> {
        let encoded = self.tokenizer.encode_fast(text, special);
        Ok(encoded.map_err(|error| PrepareError::Tokenizer(error.to_string()))?.get_ids().to_vec())
    }

    fn constraint(&self, format: &ConstraintSpec) -> Result<Constraint, PrepareError> {
        let new = || ConstraintCompiler::new(&self.tokenizer, self.vocabulary, &self.eos, ConstraintLimits::default());
        match self.compiler.get_or_init(new) {
            Ok(compiler) => Ok(compiler.compile(format)?),
            Err(error) => Err(PrepareError::Format(ConstraintError::Tokenizer(error.to_string()))),
        }
    }
}

impl std::fmt::Debug for Preparation {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "Preparation({}, {} tokens, context {})", self.name, self.vocabulary, self.longest)
    }
}
