//! The generation engine of encoder-decoders: many requests at once, token by token. Requests that are let in together are
//! encoded together and begin together; such a wave keeps in step until its last answer ends, and all waves share every step
//! of the decoder, so that each weight is read once for all of them. How tokens are chosen is the decoders' engine's. Knows
//! nothing of text, sockets or threads.

use std::iter;

use tch::{Device, Kind, Tensor};

use super::blocks::Blocks;
use super::choose::{advance, advance_beams, fail, start_samples};
use super::group::{Group, Sequence};
use super::waiting::Waiting;
use super::{EngineConfig, EngineState, Event, Refused, Request, RequestId, TokenEngine};
use crate::encoder_decoders::{EncoderDecoder, EncoderDecoderShape, TargetStep, Targets};
use crate::error::ModelError;

/// Most tokens, padding included, that one step encodes; a longer source is encoded alone. It bounds how long answers that
/// are being written wait for those that begin.
const SOURCE_TOKENS: usize = 4096;

/// Many requests at once on one encoder-decoder.
pub struct EncoderDecoderEngine {
    model: Box<dyn EncoderDecoder>,
    shape: EncoderDecoderShape,
    config: EngineConfig,
    waiting: Waiting,
    waves: Vec<Wave>,
    next: u64,
    state: EngineState,
    /// None: caches of targets are not paged.
    blocks: Blocks,
}

/// Requests that began together.
struct Wave {
    groups: Vec<Group>,
    targets: Targets,
    /// Whose each row of the targets is, and which of its answers; those of a request stand together.
    rows: Vec<(RequestId, usize)>,
}

impl EncoderDecoderEngine {
    /// An engine for `model`. Of the configuration it heeds the most sequences, the most requests that wait, and the tokens
    /// that the cache holds: those of sources and those that answers may come to, of which it never begins more.
    ///
    /// # Errors
    /// [`ModelError`] when the configuration is absurd.
    pub fn new(model: Box<dyn EncoderDecoder>, config: EngineConfig) -> Result<EncoderDecoderEngine, ModelError> {
        if config.max_sequences == 0 || config.cache_tokens == 0 {
            return Err(ModelError::Input("an engine's sizes must be at least 1".to_string()));
        }
        Ok(EncoderDecoderEngine {
            shape: model.shape(),
            model,
            config,
            waiting: Waiting::default(),
            waves: Vec::new(),
            next: 0,
            state: EngineState { blocks: config.cache_tokens, ..EngineState::default() },
            blocks: Blocks::new(0, 1),
        })
    }

    fn groups(&self) -> impl Iterator<Item = &Group> {
        self.waves.iter().flat_map(|wave| &wave.groups)
    }

    /// Positions of the caches that a request may come to fill.
    fn positions(&self, group: &Group) -> usize {
        group.request.source.len() + group.width() * self.target_positions(&group.request)
    }

    fn target_positions(&self, request: &Request) -> usize {
        let longest = self.longest();
        request.sampling.max_tokens.map_or(longest, |most| longest.min(most.saturating_add(request.prompt.len())))
    }

    /// Takes requests that wait and fit, and begins them together.
    fn admit(&mut self) -> Result<(), ModelError> {
        let mut width: usize = self.groups().map(Group::width).sum();
        let mut positions: usize = self.groups().map(|group| self.positions(group)).sum();
        let (mut groups, mut longest) = (Vec::<Group>::new(), 0);
        while let Some(next) = self.waiting.next() {
            let (wide, filled, source) = (next.width(), self.positions(next), next.request.source.len());
            let fits = width + wide <= self.config.max_sequences && positions + filled <= self.config.cache_tokens;
            let together = groups.first().is_none_or(|first| {
                next.request.prompt.len() == first.request.prompt.len()
                    && (groups.len() + 1) * source.max(longest) <= SOURCE_TOKENS
            });
            if !fits || !together {
                break;
            }
            let Some(group) = self.waiting.take() else { break };
            (width, positions, longest) = (width + wide, positions + filled, longest.max(source));
            groups.push(group);
        }
        if groups.is_empty() {
            return Ok(());
        }
        // Neighbours of one length attend in one call.
        groups.sort_by_key(|group| group.request.source.len());
        let sources: Vec<&[u32]> = groups.iter().map(|group| group.request.source.as_slice()).collect();
        let memory = tch::no_grad(|| self.model.encode(&sources))?;
        self.state.prompt_tokens += sources.iter().map(|source| source.len() as u64).sum::<u64>();
        let targets = Targets::new(memory, &self.shape)?;
        let rows = groups.iter().map(|group| (group.id, 0)).collect();
        self.waves.push(Wave { groups, targets, rows });
        Ok(())
    }

    fn go_on(&mut self, events: &mut Vec<Event>) -> Result<(), ModelError> {
        self.waves.iter_mut().try_for_each(Wave::drop_rows)?;
        self.admit()?;
        self.state.steps += u64::from(!self.waves.is_empty());
        match tch::no_grad(|| self.run())? {
            Some(logits) => self.choose(logits, events),
            None => Ok(()),
        }
    }

    /// Runs the next tokens of all waves; gives the logits of each row's last, `[rows, vocabulary]`.
    fn run(&mut self) -> Result<Option<Tensor>, ModelError> {
        let tokens: Vec<Vec<u32>> = self.waves.iter().map(Wave::next_tokens).collect();
        let mut last = Vec::new();
        let mut start = 0;
        for (wave, tokens) in iter::zip(&self.waves, &tokens) {
            let each = tokens.len() / wave.rows.len().max(1);
            last.extend((1..=wave.rows.len()).map(|row| (start + row * each) as i64 - 1));
            start += tokens.len();
        }
        if start == 0 {
            return Ok(None);
        }
        let mut steps: Vec<TargetStep> = iter::zip(&mut self.waves, &tokens)
            .map(|(wave, tokens)| TargetStep { targets: &mut wave.targets, tokens })
            .collect();
        let mut hidden = self.model.decode(&mut steps)?;
        if last.len() != start {
            hidden = hidden.f_index_select(0, &Tensor::f_from_slice(&last)?.f_to_device(hidden.device())?)?;
        }
        let logits = self.model.logits(&hidden)?;
        Ok(Some(logits.f_to_device(Device::Cpu)?.f_to_kind(Kind::Float)?.f_contiguous()?))
    }

    fn choose(&mut self, mut logits: Tensor, events: &mut Vec<Event>) -> Result<(), ModelError> {
        let (longest, vocabulary) = (self.longest(), self.vocabulary().max(1));
        let mut rest: &mut [f32] = tidemill_torch::floats(&mut logits).unwrap_or_default();
        for wave in &mut self.waves {
            let Some((own, others)) = std::mem::take(&mut rest).split_at_mut_checked(wave.rows.len() * vocabulary)
            else {
                return Err(ModelError::Input("the model scores another number of tokens than it has".to_string()));
            };
            rest = others;
            self.state.generated_tokens += wave.choose(own, vocabulary, (&mut self.blocks, longest), events)?;
        }
        self.waves.retain(|wave| !wave.rows.is_empty());
        Ok(())
    }

    fn vocabulary(&self) -> usize {
        usize::try_from(self.shape.vocabulary).unwrap_or_default()
    }
}

impl TokenEngine for EncoderDecoderEngine {
    fn longest(&self) -> usize {
        usize::try_from(self.shape.target_positions).unwrap_or_default()
    }

    fn submit(&mut self, request: Request) -> Result<RequestId, Refused> {
        if self.waiting.len() >= self.config.max_waiting {
            return Err(Refused::Full { max: self.config.max_waiting });
        }
        let unknown = |ids: &[u32], vocabulary: i64| match ids.iter().find(|&&token| i64::from(token) >= vocabulary) {
            Some(&token) => Err(Refused::UnknownToken { token, vocabulary: vocabulary as usize }),
            None => Ok(()),
        };
        let (tokens, longest) = (request.source.len(), self.shape.source_positions as usize);
        if tokens == 0 || request.prompt.is_empty() {
            return Err(Refused::Empty);
        }
        unknown(&request.source, self.shape.source_vocabulary)?;
        unknown(&request.prompt, self.shape.vocabulary)?;
        if tokens > longest {
            return Err(Refused::TooLong { tokens, max: longest });
        }
        if request.prompt.len() >= self.longest() {
            return Err(Refused::TooLong { tokens: request.prompt.len(), max: self.longest().saturating_sub(1) });
        }
        let group = Group::new(RequestId(self.next), request);
        let (asked, max) = (group.width(), self.config.max_sequences);
        if asked > max {
            return Err(Refused::TooMany { asked, max });
        }
        let over = self.positions(&group).saturating_sub(self.config.cache_tokens);
        if over > 0 {
            return Err(Refused::TooLong { tokens, max: tokens.saturating_sub(over) });
        }
        self.next += 1;
        let id = group.id;
        self.waiting.push(group);
        Ok(id)
    }

    fn cancel(&mut self, request: RequestId) {
        if self.waiting.remove(request).is_none() {
            self.waves.iter_mut().for_each(|wave| wave.groups.retain(|group| group.id != request));
            self.waves.retain(|wave| !wave.groups.is_empty());
        }
    }

    fn finish(&mut self, request: RequestId, sample: usize) {
        for wave in &mut self.waves {
            for group in wave.groups.iter_mut().filter(|group| group.id == request) {
                let sequences = group.sequences.iter_mut().filter(|sequence| sequence.sample == sample);
                sequences.for_each(|sequence| sequence.finished = true);
            }
            wave.groups.retain(|group| !group.is_finished());
        }
        self.waves.retain(|wave| !wave.groups.is_empty());
    }

    fn is_idle(&self) -> bool {
        self.waves.is_empty() && self.waiting.len() == 0
    }

    fn is_waiting(&self, request: RequestId) -> bool {
        self.waiting.has(request)
    }

    fn state(&self) -> EngineState {
        EngineState {
            waiting: self.waiting.len(),
            running: self.waves.iter().map(|wave| wave.rows.len()).sum(),
            blocks_held: self.groups().map(|group| self.positions(group)).sum(),
            ..self.state
        }
    }

    fn step(&mut self) -> Result<Vec<Event>, ModelError> {
        let mut events = Vec::new();
        self.go_on(&mut events).inspect_err(|_| self.waves.clear())?;
        Ok(events)
    }
}

impl Wave {
    /// The answer that a row writes, while it is wanted.
    fn sequence(&self, (request, sample): (RequestId, usize)) -> Option<&Sequence> {
        let group = self.groups.iter().find(|group| group.id == request)?;
        group.sequences.iter().find(|sequence| sequence.sample == sample && !sequence.finished)
    }

    /// Drops the rows of answers that nobody wants any more.
    fn drop_rows(&mut self) -> Result<(), ModelError> {
        let kept: Vec<usize> =
            (0..).zip(&self.rows).filter(|(_, row)| self.sequence(**row).is_some()).map(|(i, _)| i).collect();
        if kept.len() < self.rows.len() && !kept.is_empty() {
            self.targets.select(&kept)?;
            self.rows = kept.iter().filter_map(|&row| self.rows.get(row).copied()).collect();
        }
        Ok(())
    }

    /// What no step has run yet, row after row.
    fn next_tokens(&self) -> Vec<u32> {
        let new = |row: &(RequestId, usize)| {
            let tokens = self.sequence(*row).map(|sequence| sequence.tokens.as_slice()).unwrap_or_default();
            tokens.get(self.targets.length()..).unwrap_or_default()
        };
        self.rows.iter().flat_map(new).copied().collect()
    }

    /// Chooses tokens from the logits `[rows · vocabulary]`, and lays the targets out for the next step. Gives how many
    /// answers went on.
    fn choose(
        &mut self,
        logits: &mut [f32],
        vocabulary: usize,
        (blocks, longest): (&mut Blocks, usize),
        events: &mut Vec<Event>,
    ) -> Result<u64, ModelError> {
        let (mut rest, mut start, mut parents, mut rows) = (logits, 0, Vec::new(), Vec::new());
        for group in &mut self.groups {
            let id = group.id;
            let own = self.rows.iter().filter(|(request, _)| *request == id).count();
            let Some((logits, others)) = std::mem::take(&mut rest).split_at_mut_checked(own * vocabulary) else {
                break;
            };
            rest = others;
            let from = events.len();
            let next = next_rows(group, logits, vocabulary, (&mut *blocks, longest), events);
            let failed = |event: &Event| matches!(event, Event::Failed { request, .. } if *request == id);
            if events.iter().skip(from).any(failed) {
                group.sequences.iter_mut().for_each(|sequence| sequence.finished = true);
            } else {
                parents.extend(next.iter().map(|(parent, _)| start + parent));
                rows.extend(next.iter().map(|&(_, sample)| (id, sample)));
            }
            start += own;
        }
        self.groups.retain(|group| !group.is_finished());
        if !rows.is_empty() && !parents.iter().copied().eq(0..self.rows.len()) {
            self.targets.select(&parents)?;
        }
        self.rows = rows;
        Ok(start as u64)
    }
}

/// Moves a request's answers on. Gives those that go on further: from which of its rows each does, and its number.
fn next_rows(
    group: &mut Group,
    logits: &mut [f32],
    vocabulary: usize,
    (blocks, longest): (&mut Blocks, usize),
    events: &mut Vec<Event>,
) -> Vec<(usize, usize)> {
    if group.request.sampling.beams > 1 {
        return match advance_beams(group, logits, vocabulary, (blocks, longest), events) {
            Ok(parents) => iter::zip(parents, 0..).collect(),
            Err(error) => {
                fail(group.id, &mut group.sequences, &error, events);
                Vec::new()
            }
        };
    }
    let mut rows: Vec<&mut [f32]> = logits.chunks_exact_mut(vocabulary).collect();
    let begins = group.sequences.first().is_some_and(|sequence| sequence.sampler.is_none());
    if begins {
        start_samples(group, 0, rows, (blocks, longest), events);
        let going = group.sequences.iter().filter(|sequence| !sequence.finished);
        return going.map(|sequence| (0, sequence.sample)).collect();
    }
    let mut going = Vec::new();
    let live = group.sequences.iter_mut().filter(|sequence| !sequence.finished);
    for (row, (sequence, scores)) in iter::zip(live, rows.drain(..)).enumerate() {
        let _ = advance(group.id, sequence, &group.request.sampling, vec![scores], longest, events);
        if !sequence.finished {
            going.push((row, sequence.sample));
        }
    }
    going
}

impl std::fmt::Debug for EncoderDecoderEngine {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "EncoderDecoderEngine({:?})", self.state())
    }
}
