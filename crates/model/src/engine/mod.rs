//! The generation engine: many requests at once on one decoder, token by token. Between any two steps requests join and
//! leave; prompts are run in pieces beside the sequences that are already answering (Yu et al. 2022, "Orca"; Agrawal et al.
//! 2023, "Sarathi"); keys and values live in a paged cache of fixed size (Kwon et al. 2023) and are shared between prompts
//! that begin alike. Plain synchronous code: submit, step, read what came out. Knows nothing of text, sockets or threads.

mod blocks;
mod choose;
mod draft;
mod encoder_decoder;
mod group;
mod plan;
mod token_engine;
mod waiting;

use tch::{Device, Kind, Tensor};

use self::blocks::Blocks;
use self::draft::Drafter;
use self::group::Group;
use self::plan::Plan;
use self::waiting::Waiting;
use crate::decoders::{Decoder, DecoderShape, LayerCache, SequenceStep, Step};
use crate::error::ModelError;

pub use self::encoder_decoder::EncoderDecoderEngine;
pub use self::token_engine::{EngineConfig, EngineState, Event, Refused, Request, RequestId, TokenEngine, Turn};

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
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "Engine({:?})", self.state())
    }
}
