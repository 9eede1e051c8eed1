//! What follows a step's logits: tokens are chosen, and every sequence moves on, branches or ends.

use tch::Tensor;

use super::blocks::Blocks;
use super::group::{Group, Sequence};
use super::plan::Plan;
use super::{Engine, Event, RequestId};
use crate::generation::{BeamSearch, Sampler, SamplingConfig, SamplingError};

impl Engine {
    /// Chooses tokens from the logits, and moves every sequence on.
    pub(super) fn choose(&mut self, plan: &Plan, logits: Option<Tensor>, events: &mut Vec<Event>) {
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
pub(super) fn start_samples(
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
pub(super) fn fail(
    id: RequestId,
    sequences: &mut [Sequence],
    problem: &impl std::fmt::Display,
    events: &mut Vec<Event>,
) {
    sequences.iter_mut().for_each(|sequence| sequence.finished = true);
    events.push(Event::Failed { request: id, problem: problem.to_string() });
}

/// Chooses the next token, and after it as many as were guessed right. Gives how many that were.
pub(super) fn advance(
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
pub(super) fn advance_beams(
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
