//! Text and chat generation over a checkpoint: texts or conversations in, pieces of text out as they come. A [`Generator`]
//! belongs to one thread, which steps it; its [`Preparation`] may be used from any thread, so that everything about a
//! request is checked before it waits for its turn. Knows nothing of sockets.

mod preparation;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;
use tch::{Device, Kind};
use tidemill_torch::Precision;
use tokenizers::Tokenizer;

use crate::checkpoint::{Checkpoint, CheckpointError};
use crate::decoders::{self, Decoder};
use crate::encoder_decoders::{self, is_encoder_decoder};
use crate::engine::{EncoderDecoderEngine, Engine, EngineConfig, EngineState, Event, Refused, RequestId, TokenEngine};
use crate::error::ModelError;
use crate::generation::{
    Chosen, FinishReason, Output as TextOutput, ParsedToolCall, SamplingError, TemplateError, ToolEvent, ToolParser,
};
use crate::parameters::Parameters;

pub use preparation::{GenerateRequest, Input, Preparation, PrepareError, Prepared};

/// How a checkpoint is opened for generation.
#[derive(Clone, Debug)]
pub struct GeneratorOptions {
    /// Where the model runs. Default the CPU.
    pub device: Device,
    /// The precision that matrices are held in; absent, as they are stored.
    pub precision: Option<Precision>,
    /// The longest context, prompt and answer together; absent, as long as the model allows, up to 8,192.
    pub max_context: Option<usize>,
    /// Bytes that keys and values may take, a draft model's included. Default 1 GiB; memory is taken as it is used.
    pub cache_bytes: usize,
    /// A smaller checkpoint of the same tokens that drafts what the model then checks: the answers do not change. Its weights
    /// are held as they are stored. Default none.
    pub draft: Option<PathBuf>,
    /// How much is done at once; its `cache_tokens` and `cache_kind` follow from the keys above.
    pub engine: EngineConfig,
}

impl Default for GeneratorOptions {
    fn default() -> GeneratorOptions {
        GeneratorOptions {
            device: Device::Cpu,
            precision: None,
            max_context: None,
            cache_bytes: 1 << 30,
            draft: None,
            engine: EngineConfig::default(),
        }
    }
}

impl GeneratorOptions {
    /// Positions that caches have room for which take so many bytes for each.
    fn cache_tokens(&self, bytes: usize) -> usize {
        self.cache_bytes / bytes.max(1)
    }
}

/// Bytes of one position's keys and values, of `width` numbers each in all layers together.
fn position_bytes(width: i64, kind: Kind) -> usize {
    usize::try_from(2 * width).unwrap_or_default() * kind.elt_size_in_bytes()
}

/// The longest context where none is asked for.
const DEFAULT_CONTEXT: usize = 8192;

/// Why a checkpoint cannot generate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GeneratorError {
    /// Its files.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// Its model.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// Its chat template.
    #[error(transparent)]
    Template(#[from] TemplateError),
    /// It was to summarise or translate.
    #[error(
        "the model continues texts, and does not turn them into others: only encoder-decoders do, such as T5 or NLLB"
    )]
    NotTextToText,
    /// Nothing says what its decoder starts with.
    #[error("generation_config.json: \"decoder_start_token_id\" is missing; the model's card says which token it is")]
    NoStart,
    /// Its `generation_config.json`.
    #[error("generation_config.json: {0}")]
    Sampling(#[from] SamplingError),
    /// A draft model for, or that is, an encoder-decoder.
    #[error("{}: an encoder-decoder takes no part in drafting; draft with a decoder for a decoder", path.display())]
    NoDrafts {
        /// The encoder-decoder's folder.
        path: PathBuf,
    },
    /// The draft model has other tokens.
    #[error(
        "{}: its tokens are not those of {}, so it cannot draft for it; take a smaller checkpoint of the same family",
        draft.display(),
        model.display()
    )]
    DraftTokens {
        /// The draft model's folder or file.
        draft: PathBuf,
        /// The model's.
        model: PathBuf,
    },
    /// Its tokeniser and its table of token vectors are not of one model.
    #[error(
        "the tokenizer has the token {token}, and the model has only {vocabulary} tokens: they do not belong together"
    )]
    Tokenizer {
        /// The tokeniser's last token.
        token: u32,
        /// The model's tokens.
        vocabulary: usize,
    },
}

/// How many tokens a request took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Those of them whose keys and values were in the cache already; an encoder's never are.
    pub shared_tokens: Option<usize>,
    /// Tokens that all answers have together.
    pub completion_tokens: usize,
}

/// A token that was chosen.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenChoice {
    /// The token.
    pub token: u32,
    /// What it says, by itself.
    pub text: String,
    /// Its log-probability, if those were asked for.
    pub logprob: Option<f32>,
    /// The likeliest tokens in its place with their texts and log-probabilities, likeliest first.
    pub top: Vec<(u32, String, f32)>,
}

/// A piece of one answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Output {
    /// Of which request.
    pub request: RequestId,
    /// Which of its answers, from 0.
    pub sample: usize,
    /// What is new of its text; often nothing.
    pub text: String,
    /// Calls of tools that are complete with this piece.
    pub tool_calls: Vec<ParsedToolCall>,
    /// The tokens that were chosen since the last piece; only where log-probabilities were asked for.
    pub tokens: Vec<TokenChoice>,
    /// Why the answer ends here, if it does.
    pub finish: Option<FinishReason>,
    /// What went wrong, where `finish` is [`FinishReason::Error`].
    pub problem: Option<String>,
    /// With the last piece of the last answer: what it all took.
    pub usage: Option<Usage>,
}

/// A checkpoint that generates.
///
/// ```no_run
/// use tidemill_model::generation::SamplingConfig;
/// use tidemill_model::tasks::generation::{GenerateRequest, Generator, GeneratorOptions, Input};
///
/// let mut generator = Generator::open("SmolLM2-135M-Instruct.Q4_1.gguf".as_ref(), &GeneratorOptions::default())?;
/// let sampling = SamplingConfig { max_tokens: Some(40), ..SamplingConfig::greedy() };
/// let request = GenerateRequest { sampling, ..GenerateRequest::of(Input::Text("The tide".to_string())) };
/// let prepared = generator.preparation().prepare(&request)?;
/// generator.submit(prepared)?;
/// while !generator.is_idle() {
///     for output in generator.step()? {
///         print!("{}", output.text);
///     }
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Generator {
    engine: Box<dyn TokenEngine>,
    preparation: Arc<Preparation>,
    active: BTreeMap<RequestId, Active>,
    max_waiting: usize,
}

/// What is kept of a request that runs.
struct Active {
    answers: Vec<Answer>,
    usage: Usage,
    wants_tokens: bool,
}

/// One answer on its way from tokens to text.
struct Answer {
    text: TextOutput<Arc<Tokenizer>>,
    tools: Option<ToolParser>,
    /// Said before anything else: the prompt, where it is to be echoed.
    echo: String,
    done: bool,
}

impl Generator {
    /// Opens a checkpoint: maps its weights, builds its tokeniser and template, allocates its cache.
    ///
    /// # Errors
    /// [`GeneratorError`] that names the file, key or tensor that is wrong.
    pub fn open(path: &Path, options: &GeneratorOptions) -> Result<Generator, GeneratorError> {
        let checkpoint = Checkpoint::open(path)?;
        let parameters = Parameters::stored(checkpoint.source()?, options.device).with_precision(options.precision);
        if is_encoder_decoder(model_type(&checkpoint)) {
            return Generator::open_encoder_decoder(&checkpoint, &parameters, options);
        }
        let model = OpenDecoder::new(&checkpoint, &parameters, options)?;
        let draft = options.draft.as_ref().map(|path| open_draft(path, &checkpoint, options)).transpose()?;
        let drafting = draft.as_ref().map_or(0, OpenDecoder::position_bytes);
        let tokens = options.cache_tokens(model.position_bytes() + drafting);
        let shape = model.decoder.shape();
        let positions = usize::try_from(shape.positions).unwrap_or_default();
        let most = positions.saturating_mul(options.engine.max_sequences);
        let cache_tokens = tokens.clamp(options.engine.block_size, most.max(options.engine.block_size));
        let config = EngineConfig { cache_tokens, cache_kind: model.cache_kind, ..options.engine };
        let mut engine = Engine::new(model.decoder, config, options.device)?;
        if let Some(draft) = draft {
            engine = engine.with_draft(draft.decoder, draft.cache_kind)?;
        }
        let vocabulary = usize::try_from(shape.vocabulary).unwrap_or_default();
        let preparation = Arc::new(Preparation::new(&checkpoint, vocabulary, engine.longest())?);
        Ok(Generator::new(Box::new(engine), preparation, options))
    }

    fn open_encoder_decoder(
        checkpoint: &Checkpoint,
        parameters: &Parameters,
        options: &GeneratorOptions,
    ) -> Result<Generator, GeneratorError> {
        if options.draft.is_some() {
            return Err(GeneratorError::NoDrafts { path: checkpoint.path().to_path_buf() });
        }
        // What the tokeniser's files bound is what the model was trained on; relative positions allow more on demand.
        let longest = options.max_context.or(checkpoint.model_max_length()).unwrap_or(DEFAULT_CONTEXT);
        let model = encoder_decoders::build(&parameters.root(), checkpoint.config(), longest as i64)?;
        let shape = model.shape();
        let bytes = position_bytes(shape.layers * shape.heads * shape.head_dim, Kind::Float);
        let cache_tokens = options.cache_tokens(bytes);
        let engine = EncoderDecoderEngine::new(model, EngineConfig { cache_tokens, ..options.engine })?;
        let preparation = Arc::new(Preparation::of_encoder_decoder(checkpoint, &shape)?);
        Ok(Generator::new(Box::new(engine), preparation, options))
    }

    fn new(engine: Box<dyn TokenEngine>, preparation: Arc<Preparation>, options: &GeneratorOptions) -> Generator {
        Generator { engine, preparation, active: BTreeMap::new(), max_waiting: options.engine.max_waiting }
    }

    /// What checks and prepares requests; for any thread.
    pub fn preparation(&self) -> Arc<Preparation> {
        Arc::clone(&self.preparation)
    }

    /// Puts a request in line.
    ///
    /// # Errors
    /// [`Refused`] when it can never run, or too many wait.
    pub fn submit(&mut self, prepared: Prepared) -> Result<RequestId, Refused> {
        let Prepared { request, tools, echo } = prepared;
        let (sampling, eos) = (request.sampling.clone(), request.end_tokens.clone());
        let usage = Usage { prompt_tokens: request.read_tokens(), ..Usage::default() };
        let room = self.engine.longest().saturating_sub(request.prompt.len());
        let id = self.engine.submit(request)?;
        let answer = || Answer {
            text: TextOutput::new(self.preparation.text_stream(tools), &sampling, &eos, room),
            tools: tools.map(ToolParser::new),
            echo: echo.clone(),
            done: false,
        };
        let answers = (0..sampling.n.max(1)).map(|_| answer()).collect();
        self.active.insert(id, Active { answers, usage, wants_tokens: sampling.logprobs.is_some() });
        Ok(id)
    }

    /// Forgets a request; its memory is free for the next step.
    pub fn cancel(&mut self, request: RequestId) {
        self.engine.cancel(request);
        self.active.remove(&request);
    }

    /// Forgets all requests.
    pub fn cancel_all(&mut self) {
        for (request, _) in std::mem::take(&mut self.active) {
            self.engine.cancel(request);
        }
    }

    /// Whether another request may wait.
    pub fn has_room(&self) -> bool {
        self.engine.state().waiting < self.max_waiting
    }

    /// Whether there is nothing to do.
    pub fn is_idle(&self) -> bool {
        self.engine.is_idle()
    }

    /// Whether a request waits for its turn.
    pub fn is_waiting(&self, request: RequestId) -> bool {
        self.engine.is_waiting(request)
    }

    /// What it is doing, for metrics.
    pub fn state(&self) -> EngineState {
        self.engine.state()
    }

    /// Runs one step and gives what came of it.
    ///
    /// # Errors
    /// [`ModelError`] when the model fails. What was running is then forgotten; the caller has to tell whoever waits.
    pub fn step(&mut self) -> Result<Vec<Output>, ModelError> {
        let events = self.engine.step().inspect_err(|_| self.active.clear())?;
        let mut outputs = Vec::with_capacity(events.len());
        for event in events {
            match event {
                Event::Started { request, shared_tokens } => {
                    if let Some(active) = self.active.get_mut(&request) {
                        active.usage.shared_tokens = Some(shared_tokens);
                    }
                }
                Event::Token { request, sample, chosen, finish } => {
                    outputs.extend(self.token(request, sample, chosen, finish));
                }
                Event::Beams { request, hypotheses } => {
                    for (sample, hypothesis) in hypotheses.into_iter().enumerate() {
                        outputs.extend(self.whole(request, sample, &hypothesis.tokens));
                    }
                    self.active.remove(&request);
                }
                Event::Failed { request, problem } => outputs.extend(self.failed(request, problem)),
            }
        }
        Ok(outputs)
    }

    fn token(
        &mut self,
        request: RequestId,
        sample: usize,
        chosen: Chosen,
        finish: Option<FinishReason>,
    ) -> Option<Output> {
        let active = self.active.get_mut(&request)?;
        let answer = active.answers.get_mut(sample).filter(|answer| !answer.done)?;
        active.usage.completion_tokens += 1;
        let mut output = Output::empty(request, sample);
        match answer.push(chosen.token, finish) {
            Ok(piece) => (output.text, output.tool_calls, output.finish) = piece,
            Err(problem) => (output.finish, output.problem) = (Some(FinishReason::Error), Some(problem)),
        }
        if active.wants_tokens {
            output.tokens.push(self.preparation.describe(&chosen));
        }
        if output.finish.is_some() {
            answer.done = true;
            if finish.is_none() {
                self.engine.finish(request, sample);
            }
            if active.answers.iter().all(|answer| answer.done) {
                output.usage = Some(active.usage);
                self.active.remove(&request);
            }
        } else if output.text.is_empty() && output.tool_calls.is_empty() && output.tokens.is_empty() {
            return None;
        }
        Some(output)
    }

    /// An answer that came all at once.
    fn whole(&mut self, request: RequestId, sample: usize, tokens: &[u32]) -> Option<Output> {
        let active = self.active.get_mut(&request)?;
        let answer = active.answers.get_mut(sample)?;
        let mut output = Output::empty(request, sample);
        for (i, token) in tokens.iter().enumerate() {
            let last = i + 1 == tokens.len();
            match answer.push(*token, last.then_some(FinishReason::Length)) {
                Ok((text, calls, finish)) => {
                    output.text += &text;
                    output.tool_calls.extend(calls);
                    output.finish = output.finish.or(finish);
                }
                Err(problem) => (output.finish, output.problem) = (Some(FinishReason::Error), Some(problem)),
            }
        }
        answer.done = true;
        output.finish = output.finish.or(Some(FinishReason::Stop));
        active.usage.completion_tokens += tokens.len();
        if active.answers.iter().all(|answer| answer.done) {
            output.usage = Some(active.usage);
        }
        Some(output)
    }

    fn failed(&mut self, request: RequestId, problem: String) -> Vec<Output> {
        let Some(active) = self.active.remove(&request) else { return Vec::new() };
        let unfinished = active.answers.iter().enumerate().filter(|(_, answer)| !answer.done);
        let output = |(sample, _)| Output {
            finish: Some(FinishReason::Error),
            problem: Some(problem.clone()),
            usage: Some(active.usage),
            ..Output::empty(request, sample)
        };
        unfinished.map(output).collect()
    }
}

/// A decoder, and what its keys and values are held in.
struct OpenDecoder {
    decoder: Box<dyn Decoder>,
    cache_kind: Kind,
}

impl OpenDecoder {
    fn new(
        checkpoint: &Checkpoint,
        parameters: &Parameters,
        options: &GeneratorOptions,
    ) -> Result<OpenDecoder, GeneratorError> {
        let longest = options.max_context.unwrap_or(DEFAULT_CONTEXT);
        let longest = checkpoint.model_max_length().map_or(longest, |most| most.min(longest));
        let decoder = decoders::build(&parameters.root(), checkpoint.config(), longest as i64)?;
        // Keys and values are rounded where the weights are.
        let cache_kind = match parameters.holds_float32() {
            true => Kind::Float,
            false => Kind::BFloat16,
        };
        Ok(OpenDecoder { decoder, cache_kind })
    }

    fn position_bytes(&self) -> usize {
        let shape = self.decoder.shape();
        position_bytes(shape.layers * shape.kv_heads * shape.head_dim, self.cache_kind)
    }
}

/// Opens the checkpoint that drafts for `model`, and makes sure that both have the same tokens.
fn open_draft(path: &Path, model: &Checkpoint, options: &GeneratorOptions) -> Result<OpenDecoder, GeneratorError> {
    let draft = Checkpoint::open(path)?;
    if is_encoder_decoder(model_type(&draft)) {
        return Err(GeneratorError::NoDrafts { path: draft.path().to_path_buf() });
    }
    if draft.tokenizer()?.get_vocab(true) != model.tokenizer()?.get_vocab(true) {
        let (draft, model) = (draft.path().to_path_buf(), model.path().to_path_buf());
        return Err(GeneratorError::DraftTokens { draft, model });
    }
    let parameters = Parameters::stored(draft.source()?, options.device);
    OpenDecoder::new(&draft, &parameters, options)
}

fn model_type(checkpoint: &Checkpoint) -> &str {
    checkpoint.config().get("model_type").and_then(Value::as_str).unwrap_or_default()
}

impl Answer {
    /// What a token adds: text, calls, and whether it is the last.
    fn push(
        &mut self,
        token: u32,
        finish: Option<FinishReason>,
    ) -> Result<(String, Vec<ParsedToolCall>, Option<FinishReason>), String> {
        let mut piece = self.text.push(token).map_err(|error| error.to_string())?;
        if let (None, Some(finish)) = (piece.finish, finish) {
            let rest = self.text.end(finish).map_err(|error| error.to_string())?;
            piece.text += &rest.text;
            piece.finish = rest.finish;
        }
        let mut text = std::mem::take(&mut self.echo);
        let Some(tools) = &mut self.tools else {
            return Ok((text + &piece.text, Vec::new(), piece.finish));
        };
        let mut events = tools.push(&piece.text);
        if piece.finish.is_some() {
            events.extend(tools.finish());
        }
        let mut calls = Vec::new();
        for event in events {
            match event {
                ToolEvent::Text(more) => text += &more,
                ToolEvent::Call(call) => calls.push(call),
            }
        }
        Ok((text, calls, piece.finish))
    }
}

impl Output {
    fn empty(request: RequestId, sample: usize) -> Output {
        Output {
            request,
            sample,
            text: String::new(),
            tool_calls: Vec::new(),
            tokens: Vec::new(),
            finish: None,
            problem: None,
            usage: None,
        }
    }
}

impl std::fmt::Debug for Generator {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "Generator({:?})", self.engine.state())
    }
}
