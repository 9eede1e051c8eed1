//! The engine on a model that can be computed by hand: what it says next follows from every token of the context, read
//! back from the paged cache, so that a wrong block, position or order shows at once.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::BTreeMap;

use tch::{Device, Kind, Tensor};
use tidemill_model::ModelError;
use tidemill_model::decoders::{Decoder, DecoderShape, LayerCache, Step};
use tidemill_model::engine::{Engine, EngineConfig, Event, Refused, Request, RequestId, TokenEngine, Turn};
use tidemill_model::generation::{FinishReason, PromptLookup, SamplingConfig};

const VOCABULARY: i64 = 50;
const LONGEST: i64 = 120;

/// What follows a context.
fn next(context: &[i64]) -> i64 {
    context.iter().fold(7, |hash, token| (hash * 31 + token + 1) % 1009) % VOCABULARY
}

/// What follows a context of a model that reads those above `short` differently.
fn next_of(context: &[i64], short: i64) -> i64 {
    let context: Vec<i64> = context.iter().map(|token| key(*token, context.len() as i64, short)).collect();
    next(&context)
}

/// The key of a token of a context of this length.
fn key(token: i64, length: i64, short: i64) -> i64 {
    token + if length > short { VOCABULARY } else { 0 }
}

/// Keeps tokens as keys, and reads the whole context back to say what follows; one that errs is wrong after some.
struct ByHand {
    /// Above this length all keys of a context are others.
    short: i64,
    errs: bool,
    vocabulary: i64,
    positions: i64,
}

const SOUND: ByHand = ByHand { short: LONGEST, errs: false, vocabulary: VOCABULARY, positions: LONGEST };

impl Decoder for ByHand {
    fn shape(&self) -> DecoderShape {
        DecoderShape { layers: 1, kv_heads: 1, head_dim: 1, vocabulary: self.vocabulary, positions: self.positions }
    }

    fn short_contexts(&self) -> Option<usize> {
        (self.short < LONGEST).then_some(self.short as usize)
    }

    fn forward(&self, step: &Step, caches: &[LayerCache]) -> Result<Tensor, ModelError> {
        let cache = &caches[0];
        let size = cache.keys.size()[1];
        let ids: Vec<i64> = Vec::try_from(step.ids()).unwrap();
        let lengths = step.lengths().iter().enumerate();
        let of = |(i, &length): (usize, &i64)| ids[step.queries(i)].iter().map(move |id| key(*id, length, self.short));
        let ids: Vec<f32> = lengths.flat_map(of).map(|key| key as f32).collect();
        let ids = Tensor::from_slice(&ids);
        let mut keys = cache.keys.view(-1);
        let _ = keys.index_copy_(0, step.slots(), &ids);
        let keys: Vec<f32> = Vec::try_from(&keys).unwrap();
        let mut said = Vec::new();
        for (sequence, context) in step.contexts().iter().enumerate() {
            let table: Vec<i64> = Vec::try_from(step.attention().block_tables.get(sequence as i64)).unwrap();
            let token =
                |position: i64| keys[(table[(position / size) as usize] * size + position % size) as usize] as i64;
            let all: Vec<i64> = (0..*context).map(token).collect();
            let queries = step.queries(sequence).len();
            for query in 0..queries {
                let context = &all[..all.len() - queries + 1 + query];
                let wrong = i64::from(self.errs && context.iter().sum::<i64>() % 3 == 0);
                said.push(((next(context) + wrong) % VOCABULARY) as f32);
            }
        }
        Ok(Tensor::from_slice(&said).unsqueeze(1))
    }

    fn logits(&self, hidden: &Tensor) -> Result<Tensor, ModelError> {
        // The token that follows is the likeliest, its neighbours come next.
        let said = hidden.to_kind(Kind::Int64).view(-1);
        let scores = Tensor::zeros([said.size()[0], self.vocabulary], (Kind::Float, Device::Cpu));
        let _ = scores.shallow_clone().scatter_value_(1, &said.unsqueeze(1), 5.0);
        let neighbour = (said + 1).remainder(VOCABULARY).unsqueeze(1);
        Ok(scores.scatter_value(1, &neighbour, 4.0))
    }
}

fn engine(config: EngineConfig) -> Engine {
    engine_of(LONGEST, config)
}

fn engine_of(short: i64, config: EngineConfig) -> Engine {
    Engine::new(Box::new(ByHand { short, ..SOUND }), config, Device::Cpu).unwrap()
}

fn drafted(config: EngineConfig, draft: ByHand) -> Engine {
    engine(config).with_draft(Box::new(draft), Kind::Float).unwrap()
}

fn small() -> EngineConfig {
    EngineConfig {
        max_sequences: 8,
        max_waiting: 64,
        step_tokens: 16,
        block_size: 4,
        cache_tokens: 160,
        ..EngineConfig::default()
    }
}

fn request(prompt: &[u32], tokens: usize) -> Request {
    let sampling = SamplingConfig { max_tokens: Some(tokens), ..SamplingConfig::greedy() };
    Request { prompt: prompt.to_vec(), sampling, ..Request::default() }
}

/// What greedy choice must give.
fn expected(prompt: &[u32], tokens: usize) -> Vec<u32> {
    expected_of(LONGEST, prompt, tokens)
}

fn expected_of(short: i64, prompt: &[u32], tokens: usize) -> Vec<u32> {
    let mut context: Vec<i64> = prompt.iter().map(|&token| i64::from(token)).collect();
    for _ in 0..tokens {
        context.push(next_of(&context, short));
    }
    context[prompt.len()..].iter().map(|&token| token as u32).collect()
}

/// Everything an engine gives, by request and answer.
fn run(engine: &mut Engine) -> BTreeMap<(RequestId, usize), (Vec<u32>, Option<FinishReason>)> {
    let mut answers: BTreeMap<_, (Vec<u32>, Option<FinishReason>)> = BTreeMap::new();
    for _ in 0..10_000 {
        if engine.is_idle() {
            return answers;
        }
        for event in engine.step().unwrap() {
            match event {
                Event::Token { request, sample, chosen, finish } => {
                    let answer = answers.entry((request, sample)).or_default();
                    answer.0.push(chosen.token);
                    answer.1 = finish;
                }
                Event::Beams { request, hypotheses } => {
                    for (sample, hypothesis) in hypotheses.into_iter().enumerate() {
                        answers.insert((request, sample), (hypothesis.tokens, Some(FinishReason::Length)));
                    }
                }
                Event::Started { .. } => {}
                Event::Failed { problem, .. } => panic!("{problem}"),
            }
        }
    }
    panic!("the engine does not come to an end");
}

fn prompt(seed: u32, length: usize) -> Vec<u32> {
    (0..length as u32).map(|i| (seed * 17 + i * i * 3 + i) % VOCABULARY as u32).collect()
}

#[test]
fn many_requests_get_what_each_would_get_alone() {
    let mut engine = engine(small());
    let mut wanted = BTreeMap::new();
    for seed in 0..20 {
        let (length, tokens) = (1 + (seed as usize * 7) % 40, 1 + (seed as usize * 5) % 30);
        let prompt = prompt(seed, length);
        let id = engine.submit(request(&prompt, tokens)).unwrap();
        wanted.insert((id, 0), (expected(&prompt, tokens), Some(FinishReason::Length)));
    }
    assert_eq!(run(&mut engine), wanted);
    let state = engine.state();
    assert!(state.preemptions > 0, "the cache is too small for all: {state:?}");
    assert_eq!((state.blocks_held, state.running, state.waiting), (0, 0, 0), "{state:?}");
}

#[test]
fn prompts_that_begin_alike_are_read_once() {
    let mut engine = engine(small());
    let begins = prompt(1, 24);
    for last in 0..3 {
        let prompt = [begins.as_slice(), &[last]].concat();
        let id = engine.submit(request(&prompt, 5)).unwrap();
        assert_eq!(run(&mut engine)[&(id, 0)].0, expected(&prompt, 5));
    }
    assert_eq!(engine.state().shared_tokens, 48);
    assert_eq!(engine.state().prompt_tokens, 25 + 1 + 1);

    // Each is told its own share, once, whatever it loses later.
    let mut shares = BTreeMap::new();
    let other = prompt(2, 24);
    let asked = [&begins, &other].map(|prompt| engine.submit(request(prompt, 5)).unwrap());
    while !engine.is_idle() {
        for event in engine.step().unwrap() {
            if let Event::Started { request, shared_tokens } = event {
                assert_eq!(shares.insert(request, shared_tokens), None);
            }
        }
    }
    // One token of the prompt is always run, and blocks are shared whole.
    let block = small().block_size;
    assert_eq!(shares, BTreeMap::from([(asked[0], 23 / block * block), (asked[1], 0)]));
}

#[test]
fn several_answers_share_a_prompt_and_part() {
    let mut engine = engine(EngineConfig { cache_tokens: 400, ..small() });
    let prompt = prompt(3, 10);
    let sampling =
        SamplingConfig { max_tokens: Some(12), n: 4, temperature: 2.0, seed: Some(5), ..SamplingConfig::default() };
    let asked = Request { prompt: prompt.clone(), sampling, ..Request::default() };
    let id = engine.submit(asked.clone()).unwrap();
    let alone = run(&mut engine);
    assert_eq!(alone.len(), 4);
    let texts: std::collections::BTreeSet<_> = alone.values().map(|answer| answer.0.clone()).collect();
    assert_eq!(texts.len(), 4, "four draws of twelve tokens that are all alike");
    // The same again beside others: the draws do not change.
    let others: Vec<_> = (0..3).map(|seed| engine.submit(request(&self::prompt(seed, 20), 20)).unwrap()).collect();
    let again = engine.submit(asked).unwrap();
    let together = run(&mut engine);
    for sample in 0..4 {
        assert_eq!(alone[&(id, sample)], together[&(again, sample)]);
    }
    assert_eq!(together.len(), others.len() + 4);
    assert_eq!(engine.state().blocks_held, 0);
}

#[test]
fn guesses_change_nothing_but_the_number_of_steps() {
    let prompt = [4, 9, 4, 9, 4, 9, 4, 9];
    let mut plain = engine(small());
    plain.submit(request(&prompt, 60)).unwrap();
    let mut guessing = engine(EngineConfig { lookup: Some(PromptLookup::default()), ..small() });
    guessing.submit(request(&prompt, 60)).unwrap();
    let answer = |engine: &mut Engine| run(engine).into_values().next().unwrap();
    assert_eq!(answer(&mut plain), answer(&mut guessing));
    let (plain, guessing) = (plain.state(), guessing.state());
    assert_eq!(plain.generated_tokens, guessing.generated_tokens);
    assert_eq!(guessing.steps + guessing.accepted_tokens, plain.steps, "{guessing:?}");
}

/// Requests of all kinds: greedy and drawn, one answer and several, short and up to the end of the context.
fn mixed() -> Vec<Request> {
    let mut requests = Vec::new();
    for seed in 0..16 {
        let (length, tokens) = (1 + (seed as usize * 7) % 40, 1 + (seed as usize * 5) % 30);
        let greedy = request(&prompt(seed, length), tokens);
        let drawn = SamplingConfig { temperature: 1.5, seed: Some(seed.into()), ..SamplingConfig::default() };
        let (max_tokens, n) = (Some(tokens), 1 + seed as usize % 2);
        let drawn = SamplingConfig { max_tokens, repetition_penalty: 1.2, n, ..drawn };
        requests.push(if seed % 3 == 0 { Request { sampling: drawn, ..greedy } } else { greedy });
    }
    requests.push(request(&prompt(16, LONGEST as usize - 9), 500));
    let sampling = SamplingConfig { max_tokens: Some(6), beams: 2, ..SamplingConfig::greedy() };
    requests.push(Request { sampling, ..request(&prompt(17, 8), 6) });
    requests
}

#[test]
fn a_draft_model_changes_no_answer() {
    let answers = |engine: &mut Engine| {
        for request in mixed() {
            engine.submit(request).unwrap();
        }
        run(engine)
    };
    let lookup = EngineConfig { lookup: Some(PromptLookup::default()), ..small() };
    let roomy = EngineConfig { cache_tokens: 4000, ..small() };
    let narrow = ByHand { positions: 30, ..SOUND };
    for (what, config, draft) in [
        ("sound", small(), SOUND),
        ("with room", roomy, SOUND),
        ("errs", roomy, ByHand { errs: true, ..SOUND }),
        ("short context", roomy, narrow),
        ("more tokens", roomy, ByHand { vocabulary: VOCABULARY + 14, ..SOUND }),
        ("look-up first", lookup, ByHand { errs: true, ..SOUND }),
        ("unshared", EngineConfig { share_prefixes: false, ..small() }, SOUND),
        ("one at a time", EngineConfig { max_sequences: 2, step_tokens: 5, ..small() }, SOUND),
    ] {
        let mut plain = engine(config);
        let mut drafted = drafted(config, draft);
        assert_eq!(answers(&mut plain), answers(&mut drafted), "{what}");
        let (plain, drafted) = (plain.state(), drafted.state());
        if config.max_sequences > 2 {
            assert_eq!(plain.preemptions > 0, config.cache_tokens < 4000, "{what}: {plain:?}");
        }
        assert!(drafted.accepted_tokens > 0, "{what}: {drafted:?}");
        assert!(drafted.accepted_tokens <= drafted.drafted_tokens, "{what}: {drafted:?}");
        assert_eq!(drafted.blocks_held, 0, "{what}");
    }
}

#[test]
fn drafts_of_the_same_weights_all_stand() {
    let mut plain = engine(small());
    let mut drafted = drafted(small(), SOUND);
    for engine in [&mut plain, &mut drafted] {
        engine.submit(request(&prompt(4, 30), 80)).unwrap();
    }
    assert_eq!(run(&mut plain), run(&mut drafted));
    let (plain, drafted) = (plain.state(), drafted.state());
    assert_eq!(drafted.accepted_tokens, drafted.drafted_tokens, "{drafted:?}");
    assert_eq!(drafted.steps + drafted.accepted_tokens, plain.steps, "{drafted:?}");
    assert!(drafted.steps * 5 < plain.steps, "eight tokens are drafted a step: {drafted:?}");
}

#[test]
fn beams_read_their_own_pasts() {
    let mut engine = engine(EngineConfig { cache_tokens: 400, ..small() });
    let prompt = prompt(2, 9);
    let sampling = SamplingConfig { max_tokens: Some(8), beams: 3, n: 3, ..SamplingConfig::greedy() };
    let id = engine.submit(Request { prompt: prompt.clone(), sampling, ..Request::default() }).unwrap();
    let answers = run(&mut engine);
    // Every step has the same best score, so the likeliest sequence is the greedy one.
    assert_eq!(answers[&(id, 0)].0, expected(&prompt, 8));
    assert_ne!(answers[&(id, 1)].0, answers[&(id, 0)].0);
    assert_eq!(engine.state().blocks_held, 0);
}

#[test]
fn contexts_that_outgrow_the_short_ones_are_read_again() {
    for lookup in [None, Some(PromptLookup::default())] {
        let mut engine = engine_of(24, EngineConfig { lookup, ..small() });
        let mut wanted = BTreeMap::new();
        // Some stay short, some cross, some are long from the first; several begin alike.
        for seed in 0..16 {
            let (length, tokens) = (1 + (seed as usize * 7) % 40, 1 + (seed as usize * 5) % 30);
            let prompt = prompt(seed % 3, length);
            let id = engine.submit(request(&prompt, tokens)).unwrap();
            wanted.insert((id, 0), (expected_of(24, &prompt, tokens), Some(FinishReason::Length)));
        }
        assert_eq!(run(&mut engine), wanted);
        let state = engine.state();
        assert!(state.preemptions > 0 && state.shared_tokens > 0, "{state:?}");
        assert_eq!((state.blocks_held, state.running, state.waiting), (0, 0, 0), "{state:?}");
    }
}

#[test]
fn guesses_end_where_long_contexts_begin() {
    // A prompt that repeats itself is guessed to go on so: 20 tokens and 8 guesses would end beyond 24.
    let prompt: Vec<u32> = (0..20).map(|i| if i % 2 == 0 { 4 } else { 9 }).collect();
    let mut engine = engine_of(24, EngineConfig { lookup: Some(PromptLookup::default()), ..small() });
    let id = engine.submit(request(&prompt, 20)).unwrap();
    assert_eq!(run(&mut engine)[&(id, 0)].0, expected_of(24, &prompt, 20));
}

#[test]
fn answers_that_outgrow_the_short_contexts_share_what_they_read_again() {
    let prompt = prompt(3, 20);
    let sampling =
        SamplingConfig { max_tokens: Some(12), n: 4, temperature: 2.0, seed: Some(5), ..SamplingConfig::default() };
    let beams = SamplingConfig { max_tokens: Some(12), beams: 3, n: 3, ..SamplingConfig::greedy() };
    let answers = |share_prefixes, sampling: &SamplingConfig| {
        let mut engine = engine_of(24, EngineConfig { cache_tokens: 240, share_prefixes, ..small() });
        let request = Request { prompt: prompt.clone(), sampling: sampling.clone(), ..Request::default() };
        engine.submit(request).unwrap();
        let answers: Vec<_> = run(&mut engine).into_values().map(|answer| answer.0).collect();
        assert_eq!(engine.state().blocks_held, 0);
        (answers, engine.state().shared_tokens)
    };
    for sampling in [&sampling, &beams] {
        let (alone, unshared) = answers(false, sampling);
        let (together, shared) = answers(true, sampling);
        assert_eq!(alone, together);
        // At least the prompt's five blocks, for each answer but the first.
        assert_eq!(unshared, 0);
        assert!(shared >= 20 * (sampling.n as u64 - 1), "{shared}");
    }
    assert_eq!(answers(true, &beams).0[0], expected_of(24, &prompt, 12));
}

#[test]
fn what_is_cancelled_is_free_at_once() {
    let mut engine = engine(small());
    let first = engine.submit(request(&prompt(1, 20), 50)).unwrap();
    let second = engine.submit(request(&prompt(2, 20), 4)).unwrap();
    engine.step().unwrap();
    engine.cancel(first);
    engine.cancel(first);
    let answers = run(&mut engine);
    assert_eq!(answers.keys().collect::<Vec<_>>(), [&(second, 0)]);
    assert_eq!(engine.state().blocks_held, 0);
}

#[test]
fn keys_take_turns_within_a_priority() {
    let mut engine = engine(EngineConfig { max_sequences: 1, ..small() });
    let mut submit = |key: &str, priority, seed| {
        let turn = Turn { key: key.to_owned(), priority };
        engine.submit(Request { turn, ..request(&prompt(seed, 4), 2) }).unwrap()
    };
    let later = submit("patient", 2, 8);
    let many: Vec<_> = (0..3).map(|seed| submit("many", 1, seed)).collect();
    let one = submit("one", 1, 9);
    let urgent = submit("many", 0, 7);
    let mut order = Vec::new();
    while !engine.is_idle() {
        for event in engine.step().unwrap() {
            if let Event::Token { request, finish: Some(_), .. } = event {
                order.push(request);
            }
        }
    }
    assert_eq!(order, [urgent, many[0], one, many[1], many[2], later]);
}

#[test]
fn what_can_never_run_is_refused_at_once() {
    let mut engine = engine(EngineConfig { max_waiting: 1, ..small() });
    assert_eq!(engine.submit(request(&[], 1)), Err(Refused::Empty));
    assert_eq!(engine.submit(request(&[50], 1)), Err(Refused::UnknownToken { token: 50, vocabulary: 50 }));
    assert_eq!(engine.submit(request(&prompt(1, 120), 1)), Err(Refused::TooLong { tokens: 120, max: 119 }));
    let many = SamplingConfig { n: 9, ..SamplingConfig::default() };
    let many = Request { sampling: many, ..request(&[1], 1) };
    assert_eq!(engine.submit(many), Err(Refused::TooMany { asked: 9, max: 8 }));
    engine.submit(request(&[1], 1)).unwrap();
    assert_eq!(engine.submit(request(&[1], 1)), Err(Refused::Full { max: 1 }));
}
