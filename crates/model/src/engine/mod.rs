//! The generation engine: many requests at once on one decoder, token by token. Between any two steps requests join and
//! leave; prompts are run in pieces beside the sequences that are already answering (Yu et al. 2022, "Orca"; Agrawal et al.
//! 2023, "Sarathi"); keys and values live in a paged cache of fixed size (Kwon et al. 2023) and are shared between prompts
//! that begin alike. Plain synchronous code: submit, step, read what came out. Knows nothing of text, sockets or threads.

mod blocks;
mod draft;
mod encoder_decoder;
mod group;
mod plan;
mod waiting;

use tch::{Device, Kind, Tensor};

use self::blocks::Blocks;
use self::draft::Drafter;
use self::group::{Group, Sequence};
use self::plan::Plan;
use self::waiting::Waiting;
use crate::decoders::{Decoder, DecoderShape, LayerCache, SequenceStep, Step};
use crate::error::ModelError;
use crate::generation::{
    BeamSearch, Chosen, Constraint, FinishReason, Hypothesis, PromptLookup, Sampler, SamplingConfig, SamplingError,
};

pub use self::encoder_decoder::EncoderDecoderEngine;

/// The number of a request, unique within an engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(u64);

/// How much an engine does at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EngineConfig {
    /// Most sequences that generate at once. Default 64.
    pub max_sequences: usize,
    /// Most requests that wait. Default 256.
    pub max_waiting: usize,
    /// Most tokens that one step runs; a longer prompt is run in pieces. Default 512.
    pub step_tokens: usize,
    /// Tokens in a block of the cache. Default 32.
    pub block_size: usize,
    /// Tokens that the cache holds in all. Default 65,536.
    pub cache_tokens: usize,
    /// The element type of keys and values: float32 or bfloat16. Default float32.
    pub cache_kind: Kind,
    /// Whether prompts that begin alike share their beginning's blocks. Default yes.
    pub share_prefixes: bool,
    /// Guesses the next tokens by looking the last ones up earlier in the sequence, and checks them all in one step. The
    /// answers do not change. Default none.
    pub lookup: Option<PromptLookup>,
    /// Most tokens that a draft model guesses at once, where there is one. Default 8.
    pub draft_tokens: usize,
}

impl Default for EngineConfig {
    fn default() -> EngineConfig {
        EngineConfig {
            max_sequences: 64,
            max_waiting: 256,
            step_tokens: 512,
            block_size: 32,
            cache_tokens: 65_536,
            cache_kind: Kind::Float,
            share_prefixes: true,
            lookup: None,
            draft_tokens: 8,
        }
    }
}

/// What to generate.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// What an encoder-decoder reads; a decoder reads none.
    pub source: Vec<u32>,
    /// The prompt's tokens, at least one; an encoder-decoder's are those that its answers begin with.
    pub prompt: Vec<u32>,
    /// How tokens are chosen, and when it ends.
    pub sampling: SamplingConfig,
    /// Tokens that end an answer.
    pub end_tokens: Vec<u32>,
    /// What the answer must look like.
    pub constraint: Option<Constraint>,
    /// On whose behalf: keys take turns.
    pub key: String,
}

impl Request {
    /// How many tokens of it the model reads: the source's, or where there is none the prompt's.
    pub fn read_tokens(&self) -> usize {
        if self.source.is_empty() { self.prompt.len() } else { self.source.len() }
    }
}

/// What a step brought.
#[derive(Clone, Debug)]
pub enum Event {
    /// A decoder's request has its turn, for the first time.
    Started {
        /// Which.
        request: RequestId,
        /// How many of its prompt's tokens were found in the cache.
        shared_tokens: usize,
    },
    /// The next token of an answer.
    Token {
        /// Of which request.
        request: RequestId,
        /// Which of its answers, from 0.
        sample: usize,
        /// The token and its log-probabilities.
        chosen: Chosen,
        /// Why the answer ends with it, if it does.
        finish: Option<FinishReason>,
    },
    /// The answers of a beam search, all at once, the best first.
    Beams {
        /// Of which request.
        request: RequestId,
        /// The answers' tokens without the prompt, and their scores.
        hypotheses: Vec<Hypothesis>,
    },
    /// A request that could not be carried to its end.
    Failed {
        /// Which.
        request: RequestId,
        /// Why, as a sentence.
        problem: String,
    },
}

/// Why a request was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refused {
    /// Too many wait already.
    #[error("{max} requests are waiting already; try again later")]
    Full {
        /// How many may wait.
        max: usize,
    },
    /// Its prompt has no token.
    #[error("the prompt has no token")]
    Empty,
    /// A source for a model that has no encoder.
    #[error("the model continues prompts and has no encoder that could read a source")]
    NoSources,
    /// A token that the model does not have.
    #[error("the prompt has the token {token}, and the model's tokens are those below {vocabulary}")]
    UnknownToken {
        /// The token.
        token: u32,
        /// How many tokens there are.
        vocabulary: usize,
    },
    /// More than the model or the cache can hold.
    #[error("the prompt has {tokens} tokens and at most {max} fit with room for an answer; shorten it")]
    TooLong {
        /// The prompt's tokens.
        tokens: usize,
        /// The most that fit.
        max: usize,
    },
    /// More answers at once than the engine runs sequences.
    #[error("{asked} answers at once were asked for and the engine runs at most {max} sequences")]
    TooMany {
        /// How many were asked for.
        asked: usize,
        /// The most.
        max: usize,
    },
}

/// What an engine is doing, for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EngineState {
    /// Requests that wait.
    pub waiting: usize,
    /// Sequences that run.
    pub running: usize,
    /// Blocks of the cache that are held.
    pub blocks_held: usize,
    /// Blocks of the cache in all.
    pub blocks: usize,
    /// Steps so far.
    pub steps: u64,
    /// Prompt tokens that were run.
    pub prompt_tokens: u64,
    /// Prompt tokens whose keys and values were found in the cache.
    pub shared_tokens: u64,
    /// Tokens that were generated.
    pub generated_tokens: u64,
    /// Tokens that were guessed ahead, by look-up or by a draft model.
    pub drafted_tokens: u64,
    /// Those among them that turned out right.
    pub accepted_tokens: u64,
    /// Requests that lost their memory to others and had to start again.
    pub preemptions: u64,
}

/// What runs requests of tokens together, whatever kind of model it has.
pub trait TokenEngine {
    /// The longest context: of a decoder, prompt and answer together; of an encoder-decoder, the longest answer with what it
    /// begins with.
    fn longest(&self) -> usize;

    /// Puts a request in line.
    ///
    /// # Errors
    /// [`Refused`] when it can never run, or too many wait.
    fn submit(&mut self, request: Request) -> Result<RequestId, Refused>;

    /// Forgets a request; its memory is free for the next step. One that is not known any more is no error.
    fn cancel(&mut self, request: RequestId);

    /// Ends one answer of a request, as when a stop string was found in its text; the others go on.
    fn finish(&mut self, request: RequestId, sample: usize);

    /// Whether there is nothing to do.
    fn is_idle(&self) -> bool;

    /// Whether a request waits for its turn.
    fn is_waiting(&self, request: RequestId) -> bool;

    /// What it is doing.
    fn state(&self) -> EngineState;

    /// Runs one step, and gives what came out.
    ///
    /// # Errors
    /// [`ModelError`] when the model fails. Everything that was running is then forgotten; what waits is not.
    fn step(&mut self) -> Result<Vec<Event>, ModelError>;
}

/// Many requests at once on one decoder.
pub struct Engine {
    model: Box<dyn Decoder>,
    caches: Vec<LayerCache>,
    blocks: Blocks,
    config: EngineConfig,
    drafter: Option<Drafter>,
    waiting: Waiting,
    running: Vec<Group>,
    next: u64,
    device: Device,
    vocabulary: usize,
    longest: usize,
    short_contexts: Option<usize>,
    state: EngineState,
}

impl Engine {
    /// An engine for `model`, with all of its cache allocated.
    ///
    /// # Errors
    /// [`ModelError`] when the configuration is absurd or there is no memory.
    pub fn new(model: Box<dyn Decoder>, config: EngineConfig, device: Device) -> Result<Engine, ModelError> {
        let sizes = [config.max_sequences, config.step_tokens, config.block_size, config.cache_tokens];
        if sizes.contains(&0) || config.cache_tokens < config.block_size {
            return Err(ModelError::Input("an engine's sizes must be at least 1, and its cache one block".to_string()));
        }
        let shape = model.shape();
        let count = config.cache_tokens / config.block_size;
        let positions = usize::try_from(shape.positions).unwrap_or_default();
        Ok(Engine {
            caches: allocate(&shape, &config, device)?,
            blocks: Blocks::new(count, config.block_size),
            drafter: None,
            waiting: Waiting::default(),
            running: Vec::new(),
            next: 0,
            device,
            vocabulary: usize::try_from(shape.vocabulary).unwrap_or_default(),
            longest: positions.min(count * config.block_size),
            short_contexts: model.short_contexts(),
            state: EngineState { blocks: count, ..EngineState::default() },
            model,
            config,
        })
    }

    /// Has `model`, a smaller one of the same tokens, guess what follows, and checks its guesses in one step. The answers do
    /// not change. Its cache has as many tokens as the engine's own, of the element type `cache_kind`.
    ///
    /// # Errors
    /// [`ModelError`] when there is no memory.
    pub fn with_draft(self, model: Box<dyn Decoder>, cache_kind: Kind) -> Result<Engine, ModelError> {
        let config = EngineConfig { cache_kind, ..self.config };
        let drafter = Drafter::new(model, config, self.vocabulary, self.device)?;
        Ok(Engine { drafter: Some(drafter), ..self })
    }
}

/// The cache of a decoder of this shape, one a layer.
fn allocate(shape: &DecoderShape, config: &EngineConfig, device: Device) -> Result<Vec<LayerCache>, ModelError> {
    let blocks = config.cache_tokens / config.block_size;
    let size = [blocks as i64, config.block_size as i64, shape.kv_heads, shape.head_dim];
    let caches = (0..shape.layers).map(|_| LayerCache::new(size, config.cache_kind, device));
    Ok(caches.collect::<Result<_, _>>()?)
}

impl TokenEngine for Engine {
    fn longest(&self) -> usize {
        self.longest
    }

    fn submit(&mut self, request: Request) -> Result<RequestId, Refused> {
        if self.waiting.len() >= self.config.max_waiting {
            return Err(Refused::Full { max: self.config.max_waiting });
        }
        let unknown = |token: &&u32| **token as usize >= self.vocabulary;
        match request.prompt.iter().find(unknown) {
            _ if !request.source.is_empty() => return Err(Refused::NoSources),
            _ if request.prompt.is_empty() => return Err(Refused::Empty),
            Some(&token) => return Err(Refused::UnknownToken { token, vocabulary: self.vocabulary }),
            None => {}
        }
        let mut group = Group::new(RequestId(self.next), request);
        if let (Some(short), [first]) = (self.short_contexts, group.sequences.as_mut_slice()) {
            first.outgrow(short, &mut self.blocks);
        }
        let (tokens, asked) = (group.request.prompt.len(), group.width());
        let max = self.config.max_sequences.min(self.config.step_tokens);
        if asked > max {
            return Err(Refused::TooMany { asked, max });
        }
        // Every answer may come to hold its own copy of the prompt's last block and one more.
        let room = self.longest.saturating_sub(2 * self.config.block_size * (asked - 1));
        if tokens >= room {
            return Err(Refused::TooLong { tokens, max: room.saturating_sub(1) });
        }
        self.next += 1;
        let id = group.id;
        self.waiting.push(group);
        Ok(id)
    }

    fn cancel(&mut self, request: RequestId) {
        if self.waiting.remove(request).is_none()
            && let Some(place) = self.running.iter().position(|group| group.id == request)
        {
            let mut group = self.running.remove(place);
            group.leave_blocks(&mut self.blocks);
        }
    }

    fn finish(&mut self, request: RequestId, sample: usize) {
        let group = self.running.iter_mut().find(|group| group.id == request);
        let sequence = group.and_then(|group| group.sequences.iter_mut().find(|sequence| sequence.sample == sample));
        if let Some(sequence) = sequence {
            sequence.finished = true;
            sequence.leave_blocks(&mut self.blocks);
        }
        self.running.retain(|group| !group.is_finished());
    }

    fn is_idle(&self) -> bool {
        self.running.is_empty() && self.waiting.len() == 0
    }

    fn is_waiting(&self, request: RequestId) -> bool {
        self.waiting.has(request)
    }

    fn state(&self) -> EngineState {
        EngineState {
            waiting: self.waiting.len(),
            running: self.running.iter().map(|group| group.sequences.len()).sum(),
            blocks_held: self.blocks.total() - self.blocks.available(),
            ..self.state
        }
    }

    fn step(&mut self) -> Result<Vec<Event>, ModelError> {
        let mut events = Vec::new();
        self.admit(&mut events);
        tch::no_grad(|| self.guess()).or_else(|error| self.give_up(error))?;
        let plan = self.plan(&mut events);
        if plan.parts.is_empty() {
            return Ok(events);
        }
        self.state.steps += 1;
        match tch::no_grad(|| self.run(&plan)) {
            Ok(logits) => {
                self.choose(&plan, logits, &mut events);
                Ok(events)
            }
            Err(error) => self.give_up(error),
        }
    }
}

impl Engine {
    /// The model failed: forgets everything that was running.
    fn give_up<Output>(&mut self, error: ModelError) -> Result<Output, ModelError> {
        self.running.drain(..).for_each(|mut group| group.leave_blocks(&mut self.blocks));
        Err(error)
    }

    /// Lets requests in while there is room, each with what the cache has of its beginning.
    fn admit(&mut self, events: &mut Vec<Event>) {
        let mut running: usize = self.running.iter().map(Group::width).sum();
        while let Some(next) = self.waiting.next() {
            let wanted =
                self.blocks.needed(next.sequences.iter().map(|sequence| sequence.tokens.len()).sum::<usize>() + 1);
            let fits = running + next.width() <= self.config.max_sequences && wanted <= self.blocks.available();
            if !fits && !self.running.is_empty() {
                return;
            }
            let Some(mut group) = self.waiting.take() else { return };
            running += group.width();
            if self.config.share_prefixes {
                for sequence in group.sequences.iter_mut().filter(|sequence| !sequence.finished) {
                    sequence.find_prefix(&mut self.blocks);
                    self.state.shared_tokens += sequence.cached as u64;
                }
            }
            if !group.started {
                group.started = true;
                let shared_tokens = group.sequences.iter().map(|sequence| sequence.cached).sum();
                events.push(Event::Started { request: group.id, shared_tokens });
            }
            self.running.push(group);
        }
    }

    /// Runs the plan's tokens; gives the logits of the rows that tokens are chosen from, `[rows, vocabulary]`.
    fn run(&self, plan: &Plan) -> Result<Option<Tensor>, ModelError> {
        let runs: Vec<Vec<u32>> = plan.parts.iter().map(|part| part.tokens(&self.running)).collect();
        let sequences = plan.parts.iter().zip(&runs).filter_map(|(part, tokens)| {
            let sequence = part.sequence(&self.running)?;
            Some(SequenceStep {
                tokens,
                cached: sequence.cached,
                length: sequence.tokens.len(),
                blocks: &sequence.blocks,
            })
        });
        let step = Step::new(&sequences.collect::<Vec<_>>(), self.config.block_size, self.device)?;
        let hidden = self.model.forward(&step, &self.caches)?; // [tokens, width]
        let rows: Vec<i64> = (0..plan.parts.len())
            .zip(&plan.parts)
            .flat_map(|(i, part)| step.queries(i).rev().take(part.chosen).rev().map(|row| row as i64))
            .collect();
        if rows.is_empty() {
            return Ok(None);
        }
        let all = rows.len() as i64 == step.ids().numel() as i64;
        let hidden = match all {
            true => hidden,
            false => hidden.f_index_select(0, &Tensor::f_from_slice(&rows)?.f_to_device(self.device)?)?,
        };
        let logits = self.model.logits(&hidden)?;
        Ok(Some(logits.f_to_device(Device::Cpu)?.f_to_kind(Kind::Float)?.f_contiguous()?))
    }

    /// Chooses tokens from the logits, and moves every sequence on.
    fn choose(&mut self, plan: &Plan, logits: Option<Tensor>, events: &mut Vec<Event>) {
        let mut logits = logits;
        let all = match &mut logits {
            Some(logits) => tidemill_torch::floats(logits).unwrap_or_default(),
            None => &mut [],
        };
        let vocabulary = self.vocabulary.max(1);
        let mut rest = all;
        // The beams of a group stand together in the plan, and so do their rows.
        let mut parts = plan.parts.iter().peekable();
        while let Some(part) = parts.next() {
            let Some(group) = self.running.iter_mut().find(|group| group.id == part.group) else { continue };
            let searches = group.request.sampling.beams > 1;
            let others = std::iter::from_fn(|| parts.next_if(|next| searches && next.group == part.group));
            let mut chosen = 0;
            for part in std::iter::once(part).chain(others) {
                chosen += part.chosen;
                let Some(sequence) = group.sequences.get_mut(part.index) else { continue };
                let run = part.count - sequence.guessed.len();
                sequence.cached += run;
                if sequence.tokens.len() <= group.request.prompt.len() {
                    self.state.prompt_tokens += run as u64;
                }
            }
            let Some((own, others)) = std::mem::take(&mut rest).split_at_mut_checked(chosen * vocabulary) else {
                return;
            };
            rest = others;
            if own.is_empty() {
                continue;
            }
            self.state.generated_tokens += 1;
            let place = (&mut self.blocks, self.longest);
            if searches {
                if let Err(error) = advance_beams(group, own, vocabulary, place, events) {
                    fail(group.id, &mut group.sequences, &error, events);
                }
                continue;
            }
            let rows: Vec<&mut [f32]> = own.chunks_exact_mut(vocabulary).collect();
            let Some(sequence) = group.sequences.get_mut(part.index) else { continue };
            if sequence.sampler.is_none() {
                start_samples(group, part.index, rows, place, events);
            } else {
                self.state.drafted_tokens += sequence.guessed.len() as u64;
                let right = advance(group.id, sequence, &group.request.sampling, rows, self.longest, events);
                self.state.accepted_tokens += right;
                self.state.generated_tokens += right;
            }
        }
        let failed =
            |id: RequestId| events.iter().any(|event| matches!(event, Event::Failed { request, .. } if *request == id));
        for group in &mut self.running {
            let failed = failed(group.id);
            for sequence in &mut group.sequences {
                sequence.finished |= failed;
                if sequence.finished {
                    sequence.leave_blocks(&mut self.blocks);
                } else {
                    sequence.name_full_blocks(&mut self.blocks);
                    if let Some(short) = self.short_contexts {
                        sequence.outgrow(short, &mut self.blocks);
                    }
                }
            }
        }
        self.running.retain(|group| !group.is_finished());
    }
}

/// The prompt has been run: every answer gets its first token, and goes its own way from there.
fn start_samples(
    group: &mut Group,
    index: usize,
    rows: Vec<&mut [f32]>,
    (blocks, longest): (&mut Blocks, usize),
    events: &mut Vec<Event>,
) {
    let Some(row) = rows.into_iter().last() else { return };
    let Group { id, request, sequences, .. } = group;
    let sampler = match Sampler::new(&request.sampling, &request.prompt, &request.end_tokens, row.len()) {
        Ok(sampler) => sampler,
        Err(error) => return fail(*id, sequences, &error, events),
    };
    for sample in (1_u32..).take(request.sampling.n.saturating_sub(1)) {
        let Some(first) = sequences.get(index) else { return };
        let mut answer = first.fork(blocks);
        answer.sample = sample as usize;
        answer.sampler = Some(sampler.for_sample(sample));
        sequences.push(answer);
    }
    if let Some(first) = sequences.get_mut(index) {
        first.sampler = Some(sampler);
    }
    let scores = row.to_vec();
    for sequence in sequences {
        row.copy_from_slice(&scores);
        advance(*id, sequence, &request.sampling, vec![&mut *row], longest, events);
    }
}

/// Ends a request that cannot go on.
fn fail(id: RequestId, sequences: &mut [Sequence], problem: &impl std::fmt::Display, events: &mut Vec<Event>) {
    sequences.iter_mut().for_each(|sequence| sequence.finished = true);
    events.push(Event::Failed { request: id, problem: problem.to_string() });
}

/// Chooses the next token, and after it as many as were guessed right. Gives how many that were.
fn advance(
    id: RequestId,
    sequence: &mut Sequence,
    sampling: &SamplingConfig,
    rows: Vec<&mut [f32]>,
    longest: usize,
    events: &mut Vec<Event>,
) -> u64 {
    let guessed = std::mem::take(&mut sequence.guessed);
    let mut right = 0;
    for (i, row) in rows.into_iter().enumerate() {
        let step = sequence.choose(row).and_then(|chosen| {
            let finish = sequence.accept(chosen.token, sampling, longest)?;
            Ok((chosen, finish))
        });
        let (chosen, finish) = match step {
            Ok(step) => step,
            Err(problem) => {
                fail(id, std::slice::from_mut(sequence), &problem, events);
                return right;
            }
        };
        let token = chosen.token;
        sequence.finished = finish.is_some();
        events.push(Event::Token { request: id, sample: sequence.sample, chosen, finish });
        if sequence.finished || guessed.get(i) != Some(&token) {
            break;
        }
        // The guess is in the cache already.
        sequence.cached += 1;
        right += 1;
    }
    right
}

/// Chooses the next tokens of all beams together; each goes on from the beam it came from. Gives the places of those.
fn advance_beams(
    group: &mut Group,
    logits: &mut [f32],
    vocabulary: usize,
    (blocks, longest): (&mut Blocks, usize),
    events: &mut Vec<Event>,
) -> Result<Vec<usize>, SamplingError> {
    let Group { id, request, sequences, beams, .. } = group;
    let search = match beams {
        Some(search) => search,
        None => beams.insert(BeamSearch::new(
            &request.sampling,
            &request.prompt,
            &request.end_tokens,
            vocabulary,
            longest - request.prompt.len(),
        )?),
    };
    let next = search.step(logits, None)?;
    let parents = next.iter().map(|beam| beam.parent).collect();
    let mut following: Vec<Sequence> = Vec::with_capacity(next.len());
    for beam in next {
        if let Some(parent) = sequences.get(beam.parent) {
            let mut sequence = parent.fork(blocks);
            sequence.tokens.push(beam.token);
            sequence.sample = following.len();
            following.push(sequence);
        }
    }
    sequences.iter_mut().for_each(|sequence| sequence.leave_blocks(blocks));
    if following.is_empty() {
        sequences.iter_mut().for_each(|sequence| sequence.finished = true);
        let hypotheses = beams.take().map(BeamSearch::into_hypotheses).unwrap_or_default();
        events.push(Event::Beams { request: *id, hypotheses });
    } else {
        *sequences = following;
    }
    Ok(parents)
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "Engine({:?})", self.state())
    }
}
