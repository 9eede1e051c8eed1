//! How Tidemill runs a case: the one place that changes as architectures are built.

use std::collections::BTreeMap;
use std::path::Path;

use tch::{Device, Kind, Tensor};
use tidemill_model::checkpoint::{self, ExportOptions, StoredType};
use tidemill_model::decoders::{self, Decoder, LayerCache, SequenceStep, Step};
use tidemill_model::encoder_decoders::{self, EncoderDecoder, TargetStep, Targets};
use tidemill_model::encoders::{self, EncoderModel, HeadKind};
use tidemill_model::engine::{EncoderDecoderEngine, Engine, EngineConfig, Event, Request, RequestId, TokenEngine};
use tidemill_model::generation::SamplingConfig;
use tidemill_model::layers::flat::{FlatBatch, TokenRow};
use tidemill_model::{Checkpoint, Parameters};
use tidemill_torch::Precision;
use tokenizers::Tokenizer;

use crate::case::{Beam, Case, CaseKind, Search};

/// The longest context of any case.
const LONGEST: i64 = 160;
/// Small, and no divisor of the rows' lengths: contexts cross from block to block.
const BLOCK: usize = 8;
const BLOCKS: usize = LONGEST as usize / BLOCK;

/// Why a case's results could not be had.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Its architecture, or what it asks for, is not there yet.
    NotBuilt,
    /// What went wrong.
    Problem(String),
}

impl<E: std::error::Error> From<E> for Failure {
    fn from(error: E) -> Failure {
        Failure::Problem(error.to_string())
    }
}

/// An open model and the prompts of its case.
pub(crate) struct Subject {
    model: Model,
    rows: Vec<Vec<u32>>,
    /// What an encoder-decoder's decoder is given beside each row.
    targets: Vec<Vec<u32>>,
    /// Tensors on disk that no layer asked for.
    pub(crate) unused: Vec<String>,
}

enum Model {
    Decoder(Box<dyn Decoder>),
    Encoder(EncoderModel),
    EncoderDecoder(Box<dyn EncoderDecoder>),
}

/// Opens the checkpoint of a case as float32.
pub(crate) fn open(case: &Case) -> Result<Subject, Failure> {
    let architecture = case.expected.architecture.as_str();
    let built = match case.expected.kind {
        CaseKind::Decoder => decoders::is_decoder(architecture),
        CaseKind::EncoderDecoder => encoder_decoders::is_encoder_decoder(architecture),
        CaseKind::Encoder => encoders::is_encoder(architecture),
        CaseKind::Tokenizer => false,
    };
    if !built {
        return Err(Failure::NotBuilt);
    }
    let checkpoint = Checkpoint::open(&case.folder)?;
    if case.expected.kind == CaseKind::Encoder {
        let head = Some(HeadKind::MaskedLanguageModel);
        let model = EncoderModel::open(checkpoint.source()?, checkpoint.config(), head, Device::Cpu, Kind::Float)?;
        let (rows, targets, unused) = (case.rows.clone(), Vec::new(), Vec::new());
        return Ok(Subject { model: Model::Encoder(model), rows, targets, unused });
    }
    let parameters = Parameters::stored(checkpoint.source()?, Device::Cpu).with_precision(Some(Precision::Float32));
    let (root, config) = (parameters.root(), checkpoint.config());
    let model = match case.expected.kind {
        CaseKind::EncoderDecoder => Model::EncoderDecoder(encoder_decoders::build(&root, config, LONGEST)?),
        _ => Model::Decoder(decoders::build(&root, config, LONGEST)?),
    };
    let mut unused = parameters.unused(checkpoint.source()?.as_ref());
    // GPT-2's first files hold their causal masks.
    unused.retain(|name| !name.ends_with(".attn.bias") && !name.ends_with(".attn.masked_bias"));
    Ok(Subject { model, rows: case.rows.clone(), targets: case.targets.clone(), unused })
}

/// The tokeniser of a case, as the checkpoint gives it; cases that are tokenisers have no checkpoint around them.
pub(crate) fn tokenizer(case: &Case) -> Result<Tokenizer, Failure> {
    match case.expected.kind {
        CaseKind::Tokenizer => Tokenizer::from_file(case.folder.join("tokenizer.json"))
            .map_err(|error| Failure::Problem(error.to_string())),
        _ => Ok(Checkpoint::open(&case.folder)?.tokenizer()?),
    }
}

/// Writes what was read as a folder for `transformers`, in float32.
pub(crate) fn export(case: &Case, folder: &Path) -> Result<(), Failure> {
    let checkpoint = Checkpoint::open(&case.folder)?;
    let options = ExportOptions { stored: StoredType::Float32, ..ExportOptions::default() };
    Ok(checkpoint::export(&checkpoint, folder, &options, &mut |_| ())?)
}

/// A decoder and its prompts.
struct Prompts<'a> {
    model: &'a dyn Decoder,
    rows: &'a [Vec<u32>],
}

impl Prompts<'_> {
    fn caches(&self) -> Result<Vec<LayerCache>, Failure> {
        let shape = self.model.shape();
        let blocks = (self.rows.len() * BLOCKS) as i64;
        let size = [blocks, BLOCK as i64, shape.kv_heads, shape.head_dim];
        Ok((0..shape.layers).map(|_| LayerCache::new(size, Kind::Float, Device::Cpu)).collect::<Result<_, _>>()?)
    }

    /// Each row's blocks, none of them next to one another.
    fn blocks(&self) -> Vec<Vec<u32>> {
        let rows = self.rows.len();
        (0..rows).map(|row| (0..BLOCKS).rev().map(|block| (block * rows + row) as u32).collect()).collect()
    }

    /// Runs one step of tokens at `[from, to)` of every row that has them, and gives the logits of each row.
    fn step(&self, caches: &[LayerCache], ranges: &[(usize, usize)]) -> Result<Vec<Option<Tensor>>, Failure> {
        let blocks = self.blocks();
        let mut sequences = Vec::new();
        for ((row, blocks), &(from, to)) in self.rows.iter().zip(&blocks).zip(ranges) {
            if from < to {
                sequences.push(SequenceStep { tokens: &row[from..to], cached: from, length: row.len(), blocks });
            }
        }
        let step = Step::new(&sequences, BLOCK, Device::Cpu)?;
        let logits = tch::no_grad(|| self.model.forward(&step, caches).and_then(|hidden| self.model.logits(&hidden)))?;
        let mut start = 0;
        let part = |&(from, to): &(usize, usize)| {
            let length = to.saturating_sub(from) as i64;
            start += length;
            (length > 0).then(|| logits.narrow(0, start - length, length))
        };
        Ok(ranges.iter().map(part).collect())
    }

    /// Logits of every token of every row, `[tokens, vocabulary]`, all rows in one step.
    fn logits(&self) -> Result<Tensor, Failure> {
        let ranges: Vec<_> = self.rows.iter().map(|row| (0, row.len())).collect();
        let rows: Vec<Tensor> = self.step(&self.caches()?, &ranges)?.into_iter().flatten().collect();
        Ok(Tensor::cat(&rows, 0))
    }

    /// The same through the cache: a third of each row at once, the rest token by token, rows of different ages together.
    fn cached_logits(&self) -> Result<Tensor, Failure> {
        let caches = self.caches()?;
        let mut done = vec![0; self.rows.len()];
        let mut found: Vec<Vec<Tensor>> = self.rows.iter().map(|_| Vec::new()).collect();
        while self.rows.iter().zip(&done).any(|(row, &done)| done < row.len()) {
            let to = |(row, &done): (&Vec<u32>, &usize)| match done {
                0 => (0, (row.len() / 3).max(1)),
                _ => (done, (done + 1).min(row.len())),
            };
            let ranges: Vec<(usize, usize)> = self.rows.iter().zip(&done).map(to).collect();
            for (row, logits) in self.step(&caches, &ranges)?.into_iter().enumerate() {
                found[row].extend(logits);
                done[row] = ranges[row].1;
            }
        }
        let found: Vec<Tensor> = found.into_iter().flatten().collect();
        Ok(Tensor::cat(&found, 0))
    }
}

impl Subject {
    /// Logits of every token of every row, `[tokens, vocabulary]`, all rows in one step.
    pub(crate) fn logits(&self) -> Result<Tensor, Failure> {
        match &self.model {
            Model::Decoder(model) => Prompts { model: model.as_ref(), rows: &self.rows }.logits(),
            Model::Encoder(model) => {
                let row = |row| TokenRow { ids: row, type_ids: None };
                let rows: Vec<TokenRow<'_>> = self.rows.iter().map(Vec::as_slice).map(row).collect();
                let batch = FlatBatch::new(&rows, Device::Cpu)?;
                Ok(model.scores(&model.forward(&batch)?, &batch)?)
            }
            Model::EncoderDecoder(model) => self.written(model.as_ref(), |length| length),
        }
    }

    /// The same through the cache: a part of each row at once, the rest token by token, rows of different ages together.
    pub(crate) fn cached_logits(&self) -> Result<Tensor, Failure> {
        match &self.model {
            Model::Decoder(model) => Prompts { model: model.as_ref(), rows: &self.rows }.cached_logits(),
            Model::Encoder(_) => Err(Failure::Problem("an encoder has no cache".to_string())),
            Model::EncoderDecoder(model) => self.written(model.as_ref(), |_| 1),
        }
    }

    /// Logits of an encoder-decoder's targets after `at_once` of as many tokens as are left, sources padded together. All
    /// targets of a batch take a step together: the shorter ones go on with their last token, which is not looked at.
    fn written(&self, model: &dyn EncoderDecoder, at_once: impl Fn(usize) -> usize) -> Result<Tensor, Failure> {
        let sources: Vec<&[u32]> = self.rows.iter().map(Vec::as_slice).collect();
        let longest = self.targets.iter().map(Vec::len).max().unwrap_or_default();
        let padded =
            |target: &Vec<u32>| -> Vec<u32> { (0..longest).map(|i| target[i.min(target.len() - 1)]).collect() };
        let padded: Vec<Vec<u32>> = self.targets.iter().map(padded).collect();
        let logits = tch::no_grad(|| -> Result<Tensor, Failure> {
            let mut targets = Targets::new(model.encode(&sources)?, &model.shape())?;
            let (mut done, mut found) = (0, Vec::new());
            while done < longest {
                let each = at_once(longest - done);
                let tokens: Vec<u32> = padded.iter().flat_map(|row| &row[done..done + each]).copied().collect();
                let hidden = model.decode(&mut [TargetStep { targets: &mut targets, tokens: &tokens }])?;
                found.push(model.logits(&hidden)?.view([padded.len() as i64, each as i64, -1]));
                done += each;
            }
            Ok(Tensor::cat(&found, 1)) // [rows, longest, vocabulary]
        })?;
        let row = |(i, target): (i64, &Vec<u32>)| logits.get(i).narrow(0, 0, target.len() as i64);
        let rows: Vec<Tensor> = (0..).zip(&self.targets).map(row).collect();
        Ok(Tensor::cat(&rows, 0))
    }

    /// The engine, for what follows.
    pub(crate) fn into_generator(self) -> Result<Generator, Failure> {
        let config = EngineConfig {
            block_size: BLOCK,
            cache_tokens: 4096,
            // Prompts are run in pieces, beside rows that generate already.
            step_tokens: 16,
            ..EngineConfig::default()
        };
        let (engine, reads): (Box<dyn TokenEngine>, _) = match self.model {
            Model::Decoder(model) => (Box::new(Engine::new(model, config, Device::Cpu)?), false),
            Model::Encoder(_) => return Err(Failure::Problem("an encoder does not generate".to_string())),
            Model::EncoderDecoder(model) => (Box::new(EncoderDecoderEngine::new(model, config)?), true),
        };
        Ok(Generator { engine, rows: self.rows, reads })
    }
}

/// Generates for all prompts of a case together.
pub(crate) struct Generator {
    engine: Box<dyn TokenEngine>,
    rows: Vec<Vec<u32>>,
    /// Whether rows are sources.
    reads: bool,
}

impl Generator {
    pub(crate) fn greedy(&mut self, search: &Search<Vec<u32>>) -> Result<Vec<Vec<u32>>, Failure> {
        let found = self.run(search)?;
        Ok(found.into_iter().map(|mut outputs| outputs.pop().map(|beam| beam.tokens).unwrap_or_default()).collect())
    }

    pub(crate) fn beams(&mut self, search: &Search<Vec<Beam>>) -> Result<Vec<Vec<Beam>>, Failure> {
        self.run(search)
    }

    /// Every row's outputs; a greedy row has one.
    fn run<Output>(&mut self, search: &Search<Output>) -> Result<Vec<Vec<Beam>>, Failure> {
        let sampling = SamplingConfig::from_generation_config(&search.settings, None)?;
        let mut outputs: BTreeMap<RequestId, Vec<Beam>> = BTreeMap::new();
        let mut requests = Vec::new();
        for row in &self.rows {
            let (source, prompt) = match self.reads {
                true => (row.clone(), vec![search.start()]),
                false => (Vec::new(), row.clone()),
            };
            let request = Request {
                source,
                prompt,
                sampling: sampling.clone(),
                end_tokens: search.end_tokens(),
                ..Request::default()
            };
            requests.push(self.engine.submit(request)?);
        }
        while !self.engine.is_idle() {
            for event in self.engine.step()? {
                match event {
                    Event::Token { request, chosen, .. } => {
                        let outputs = outputs.entry(request).or_default();
                        if outputs.is_empty() {
                            outputs.push(Beam { tokens: Vec::new(), score: 0.0 });
                        }
                        outputs[0].tokens.push(chosen.token);
                    }
                    Event::Beams { request, hypotheses } => {
                        let beams =
                            hypotheses.into_iter().map(|found| Beam { tokens: found.tokens, score: found.score });
                        outputs.insert(request, beams.collect());
                    }
                    Event::Started { .. } => {}
                    Event::Failed { problem, .. } => return Err(Failure::Problem(problem)),
                }
            }
        }
        Ok(requests.iter().map(|request| outputs.remove(request).unwrap_or_default()).collect())
    }
}
