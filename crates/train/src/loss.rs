//! The loss: cross entropy with label smoothing and class weights, weighted right over unequal batches.
//!
//! Owns the arithmetic of `torch.nn.CrossEntropyLoss`: the same numbers. Knows nothing of models or optimisers.

use crate::recipe::{ClassWeights, ListOrTable, NamedWeights, TrainingConfig};
use crate::settings::SettingError;
use tch::{Device, Reduction, TchError, Tensor};

/// Cross entropy with label smoothing and class weights.
///
/// ```
/// use tch::{Device, Kind, Tensor};
/// use tidemill_train::Loss;
///
/// # fn main() -> Result<(), tch::TchError> {
/// let loss = Loss::new(0.0, None, Device::Cpu)?;
/// let logits = Tensor::f_zeros([4, 2], (Kind::Float, Device::Cpu))?;
/// let total = loss.weight(&[0, 1, 1, 0]);
/// let mean = loss.mean(&logits, &[0, 1, 1, 0], total)?;
/// assert!((mean.double_value(&[]) - 2f64.ln()).abs() < 1e-6);
/// # Ok(()) }
/// ```
pub struct Loss {
    smoothing: f64,
    weights: Option<(Vec<f64>, Tensor)>,
    device: Device,
}

impl Loss {
    /// Cross entropy with `smoothing` (from 0 to below 1) and one weight a label, or none.
    pub fn new(smoothing: f64, weights: Option<Vec<f64>>, device: Device) -> Result<Self, TchError> {
        let tensor = |weights: Vec<f64>| -> Result<_, TchError> {
            let single: Vec<f32> = weights.iter().map(|weight| *weight as f32).collect();
            Ok((weights, Tensor::f_from_slice(&single)?.f_to(device)?))
        };
        Ok(Self { smoothing, weights: weights.map(tensor).transpose()?, device })
    }

    /// What rows with these labels weigh together: their number, without class weights.
    pub fn weight(&self, labels: &[i64]) -> f64 {
        let Some((weights, _)) = &self.weights else {
            return labels.len() as f64;
        };
        let of = |label: &i64| usize::try_from(*label).ok().and_then(|label| weights.get(label));
        labels.iter().filter_map(of).sum()
    }

    /// The part of these rows in a mean over rows that weigh `total` together.
    ///
    /// `logits` `[batch, labels]`; gives a scalar. Where `total` is the rows' own [`Loss::weight`] this is
    /// `torch.nn.CrossEntropyLoss`; summed over the batches of an accumulated step, it is the loss of one large batch.
    pub fn mean(&self, logits: &Tensor, labels: &[i64], total: f64) -> Result<Tensor, TchError> {
        let targets = Tensor::f_from_slice(labels)?.f_to(self.device)?;
        let weights = self.weights.as_ref().map(|(_, tensor)| tensor);
        let sum = logits.f_cross_entropy_loss(&targets, weights, Reduction::Sum, -100, self.smoothing)?;
        sum.f_div_scalar(if total > 0.0 { total } else { 1.0 })
    }
}

/// One weight a label by the recipe, or none; `counts` are the training side's rows of each label.
pub(crate) fn class_weights(
    config: &TrainingConfig,
    labels: &[String],
    counts: &[u64],
) -> Result<Option<Vec<f64>>, SettingError> {
    let error = |problem: String| SettingError::new("class_weights", problem);
    match &config.class_weights {
        ClassWeights::Named(NamedWeights::None) => Ok(None),
        ClassWeights::Named(NamedWeights::Balanced) => {
            let (rows, present) = (counts.iter().sum::<u64>(), counts.iter().filter(|n| **n > 0));
            let share = rows as f64 / present.count().max(1) as f64;
            let weight = |count: &u64| {
                if *count > 0 { share / *count as f64 } else { 0.0 }
            };
            Ok(Some(counts.iter().map(weight).collect()))
        }
        ClassWeights::Given(ListOrTable::List(list)) if list.len() == labels.len() => Ok(Some(list.clone())),
        ClassWeights::Given(ListOrTable::List(list)) => Err(error(format!(
            "has {} weights, but the data have {} labels: {}",
            list.len(),
            labels.len(),
            labels.join(", ")
        ))),
        ClassWeights::Given(ListOrTable::Table(table)) => {
            if let Some(stranger) = table.keys().find(|name| !labels.contains(name)) {
                let known = labels.join(", ");
                return Err(error(format!("names `{stranger}`, but the labels are {known}")));
            }
            let weight = |label: &String| table.get(label).copied().unwrap_or(1.0);
            Ok(Some(labels.iter().map(weight).collect()))
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;
    use tch::Kind;

    fn logits() -> Tensor {
        Tensor::from_slice(&[0.5f32, -1.0, 2.0, 0.1, 0.2, 0.3, -0.4, 1.5, 0.0, 1.0, 1.0, -2.0]).view([4, 3])
    }

    /// `torch.nn.functional.cross_entropy(logits, tensor([0, 2, 1, 0]), tensor([1., 2., 0.5]), label_smoothing=0.1)`,
    /// torch 2.13.0.
    #[test]
    fn it_is_the_loss_of_torch() {
        let loss = Loss::new(0.1, Some(vec![1.0, 2.0, 0.5]), Device::Cpu).unwrap();
        let labels = [0, 2, 1, 0];
        let mean = loss.mean(&logits(), &labels, loss.weight(&labels)).unwrap();
        assert!((mean.double_value(&[]) - EXPECTED).abs() < 1e-6, "{mean:?}");
    }

    const EXPECTED: f64 = 0.867_027_737_374_687_1;

    #[test]
    fn unequal_parts_make_the_mean_of_the_whole() {
        let loss = Loss::new(0.1, Some(vec![1.0, 2.0, 0.5]), Device::Cpu).unwrap();
        let (labels, logits) = ([0, 2, 1, 0], logits());
        let total = loss.weight(&labels);
        let whole = loss.mean(&logits, &labels, total).unwrap().double_value(&[]);
        let first = loss.mean(&logits.narrow(0, 0, 3), &labels[..3], total).unwrap();
        let second = loss.mean(&logits.narrow(0, 3, 1), &labels[3..], total).unwrap();
        let parts = (first + second).to_kind(Kind::Double).double_value(&[]);
        assert!((whole - parts).abs() < 1e-6, "{whole} {parts}");
    }

    #[test]
    fn balanced_weights_are_those_of_scikit_learn() {
        let config =
            TrainingConfig { class_weights: ClassWeights::Named(NamedWeights::Balanced), ..TrainingConfig::default() };
        let labels = ["a".to_owned(), "b".to_owned()];
        let weights = class_weights(&config, &labels, &[30, 10]).unwrap().unwrap();
        assert_eq!(weights, [40.0 / 60.0, 2.0]);
    }

    #[test]
    fn a_label_that_is_not_there_is_named() {
        let table = [("c".to_owned(), 2.0)].into_iter().collect();
        let config = TrainingConfig {
            class_weights: ClassWeights::Given(ListOrTable::Table(table)),
            ..TrainingConfig::default()
        };
        let error = class_weights(&config, &["a".to_owned(), "b".to_owned()], &[1, 1]);
        assert!(error.unwrap_err().to_string().contains("`c`"));
    }
}
