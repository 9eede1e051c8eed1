//! One optimiser step: forward, loss, backward, accumulation, clipping, update.
//!
//! Owns the model, its parameters and the optimiser, and the rule that a step's random numbers come from the run's seed and
//! the step's number alone, so that resuming needs no generator state. Knows nothing of epochs, files or schedules: batches
//! and learning rates come from [`crate::training_loop`], or from a loop of one's own.

use crate::TrainError;
use crate::error::Rows;
use crate::gradients;
use crate::loss::Loss;
use crate::optimisers::{self, Optimiser, Parameter};
use crate::settings::Settings;
use tch::{Device, Tensor};
use tidemill_data::TextBatch;
use tidemill_model::{Parameters, TextClassifier, TextInput};

/// Makes optimiser steps on one model.
///
/// ```
/// use serde_json::{Map, json};
/// use tch::Device;
/// use tidemill_data::TextBatch;
/// use tidemill_model::{Parameters, architectures};
/// use tidemill_train::{Loss, Trainer};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let labels = ["bad".to_owned(), "good".to_owned()];
/// let config = architectures::complete_config("bag_of_embeddings", &Map::new(), architectures::Vocabulary::of_tokens(10), &labels)?;
/// let parameters = Parameters::new(1, Device::Cpu);
/// let model = architectures::build(&parameters.root(), &config)?;
/// let loss = Loss::new(0.0, None, Device::Cpu)?;
/// let settings = json!({"weight_decay": 0.0}).as_object().unwrap().clone();
/// let mut trainer = Trainer::new(parameters, model, loss, 0, 7)?.optimise("adam", &settings)?;
/// let mut batch = TextBatch::default();
/// batch.push(&[2, 3], Some(0), 0);
/// batch.push(&[4, 5], Some(1), 1);
/// let first = trainer.step(&[batch.clone()], 0.1, 0)?.loss;
/// for step in 1..20 {
///     trainer.step(&[batch.clone()], 0.1, step)?;
/// }
/// assert!(trainer.step(&[batch], 0.1, 20)?.loss < first);
/// # Ok(()) }
/// ```
pub struct Trainer {
    parameters: Parameters,
    model: Box<dyn TextClassifier>,
    trainable: Vec<Tensor>,
    optimiser: Option<Box<dyn Optimiser>>,
    loss: Loss,
    clip_norm: Option<f64>,
    pad_id: i64,
    seed: u64,
}

/// What one step measured, before its update.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepFigures {
    /// Mean loss over the step's rows.
    pub loss: f64,
    /// Rows that were labelled right.
    pub correct: u64,
    /// Rows.
    pub rows: u64,
    /// Norm of all gradients together, before clipping.
    pub gradient_norm: f64,
}

impl Trainer {
    /// A trainer of `model`, which was built on `parameters`. `pad_id` fills batches up; `seed` is the run's.
    pub fn new(
        parameters: Parameters,
        model: Box<dyn TextClassifier>,
        loss: Loss,
        pad_id: i64,
        seed: u64,
    ) -> Result<Self, TrainError> {
        let trainable = parameters.trainable().into_iter().map(|(_, tensor)| tensor).collect();
        let (optimiser, clip_norm) = (None, None);
        Ok(Self { parameters, model, trainable, optimiser, loss, clip_norm, pad_id, seed })
    }

    /// Updates by the optimiser `name` with `settings` (see [`optimisers::build`]). Without it steps only measure.
    pub fn optimise(mut self, name: &str, settings: &Settings) -> Result<Self, TrainError> {
        let named = self.parameters.trainable().into_iter();
        let parameters = named.map(|(name, tensor)| Parameter { name, tensor }).collect();
        self.optimiser = Some(optimisers::build(name, settings, parameters)?);
        Ok(self)
    }

    /// Cuts the gradients' global norm to `limit`, if there is one.
    pub fn clip(mut self, limit: Option<f64>) -> Self {
        self.clip_norm = limit;
        self
    }

    /// The parameters, shared with the model.
    pub fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    /// The optimiser's state by name, sharing memory.
    pub fn optimiser_state(&self) -> Vec<(String, Tensor)> {
        self.optimiser.as_ref().map_or_else(Vec::new, |optimiser| optimiser.state())
    }

    /// Step number `step` (from 0) at `learning_rate` on `batches`, whose gradients make one update: the same as one batch
    /// of all their rows would make, however unequal they are.
    ///
    /// A loss or a gradient that is not finite leaves every weight as it was; the error's rows are numbers within the
    /// examples, which whoever has the examples can replace by names.
    pub fn step(&mut self, batches: &[TextBatch], learning_rate: f64, step: u64) -> Result<StepFigures, TrainError> {
        let not_finite = |what| TrainError::NonFinite {
            what,
            step: step + 1,
            learning_rate,
            rows: Rows(batches.iter().flat_map(|batch| &batch.rows).map(usize::to_string).collect()),
        };
        tch::manual_seed(mix(self.seed, step) as i64);
        let total: f64 = batches.iter().map(|batch| self.loss.weight(&batch.labels)).sum();
        let mut figures = StepFigures { loss: 0.0, correct: 0, rows: 0, gradient_norm: 0.0 };
        let mut sum: Vec<Tensor> = Vec::new();
        for batch in batches {
            let (loss, correct) = self.forward(batch, total)?;
            let more = gradients::of(&loss, &self.trainable)?;
            figures.loss += loss.f_double_value(&[])?;
            figures.correct += correct;
            figures.rows += batch.len() as u64;
            if !figures.loss.is_finite() {
                return Err(not_finite("loss"));
            }
            if sum.is_empty() {
                sum = more;
            } else {
                gradients::add(&mut sum, more)?;
            }
        }
        figures.gradient_norm = gradients::global_norm(&sum)?;
        if !figures.gradient_norm.is_finite() {
            return Err(not_finite("gradient"));
        }
        if let Some(limit) = self.clip_norm {
            gradients::clip(&mut sum, figures.gradient_norm, limit)?;
        }
        if let Some(optimiser) = &mut self.optimiser {
            tch::no_grad(|| optimiser.step(&sum, learning_rate))?;
        }
        Ok(figures)
    }

    /// The batch's part of the mean loss, and how many rows came out right.
    fn forward(&self, batch: &TextBatch, total: f64) -> Result<(Tensor, u64), TrainError> {
        let input = TextInput::new(batch, self.pad_id, self.device())?;
        let members = self.model.members(&input)?;
        let losses: Vec<Tensor> = members
            .iter()
            .map(|logits| self.loss.mean(logits, &batch.labels, total)) // logits: [batch, labels]
            .collect::<Result<_, _>>()?;
        match (losses.as_slice(), members.as_slice()) {
            ([loss], [logits]) => Ok((loss.shallow_clone(), right(logits, &batch.labels)?)),
            _ => {
                let mean = |parts: &[Tensor]| Tensor::f_stack(parts, 0)?.f_mean_dim(0_i64, false, None);
                Ok((mean(&losses)?, right(&mean(&members)?, &batch.labels)?))
            }
        }
    }

    fn device(&self) -> Device {
        self.parameters.device()
    }
}

/// How many rows of `logits` have their greatest at their label.
fn right(logits: &Tensor, labels: &[i64]) -> Result<u64, TrainError> {
    let answers: Vec<i64> = Vec::try_from(logits.f_detach()?.f_argmax(-1, false)?)?;
    Ok(answers.iter().zip(labels).filter(|(answer, label)| answer == label).count() as u64)
}

/// One seed from two, by SplitMix64: neighbouring steps have nothing in common.
pub(crate) fn mix(seed: u64, step: u64) -> u64 {
    let mut z = seed.wrapping_add(step.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ z >> 31
}
