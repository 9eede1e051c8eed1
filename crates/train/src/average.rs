//! An exponential moving average of the weights: what is validated and packed in the place of the weights themselves.
//!
//! Polyak and Juditsky 1992; with the usual short start, as `torch_ema` and `timm` have it, so that the first steps do not
//! weigh for ever: the decay at step t is at most `(1 + t) / (10 + t)`.

use tch::{TchError, Tensor};

/// The average of some parameters.
pub(crate) struct Average {
    decay: f64,
    names: Vec<String>,
    parameters: Vec<Tensor>,
    averages: Vec<Tensor>,
}

impl Average {
    /// Starts at the parameters as they are.
    pub(crate) fn new(decay: f64, parameters: &[(String, Tensor)]) -> Result<Self, TchError> {
        let detached = parameters.iter().map(|(_, tensor)| tensor.f_detach());
        let parameters_cut = detached.collect::<Result<Vec<_>, _>>()?;
        let averages = parameters_cut.iter().map(copied).collect::<Result<_, _>>()?;
        let names = parameters.iter().map(|(name, _)| name.clone()).collect();
        Ok(Self { decay, names, parameters: parameters_cut, averages })
    }

    /// Takes in the parameters after `step` steps.
    pub(crate) fn update(&mut self, step: u64) -> Result<(), TchError> {
        let decay = self.decay.min((1 + step) as f64 / (10 + step) as f64);
        for (average, parameter) in self.averages.iter_mut().zip(&self.parameters) {
            let _ = average.f_lerp_(parameter, 1.0 - decay)?;
        }
        Ok(())
    }

    /// Exchanges the parameters' numbers and the averages; a second call changes them back, bit for bit.
    pub(crate) fn swap(&mut self) -> Result<(), TchError> {
        for (average, parameter) in self.averages.iter_mut().zip(&mut self.parameters) {
            let held = copied(parameter)?;
            parameter.f_copy_(average)?;
            average.f_copy_(&held)?;
        }
        Ok(())
    }

    /// The averages by name, sharing memory.
    pub(crate) fn named(&self) -> Vec<(String, Tensor)> {
        let averages = self.averages.iter().map(Tensor::shallow_clone);
        self.names.iter().cloned().zip(averages).collect()
    }
}

/// The same numbers in memory of their own.
fn copied(tensor: &Tensor) -> Result<Tensor, TchError> {
    let mut copy = tensor.f_empty_like()?;
    copy.f_copy_(tensor)?;
    Ok(copy)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;

    #[test]
    fn the_average_follows_and_swaps() {
        let mut weight = Tensor::from_slice(&[1.0f32]);
        let named = [("weight".to_owned(), weight.shallow_clone())];
        let mut average = Average::new(0.99, &named).unwrap();
        let _ = weight.fill_(2.0);
        average.update(0).unwrap();
        let value = |tensor: &Tensor| tensor.double_value(&[0]);
        assert!((value(&average.named()[0].1) - 1.9).abs() < 1e-6);
        average.swap().unwrap();
        assert!((value(&weight) - 1.9).abs() < 1e-6);
        average.swap().unwrap();
        assert_eq!(value(&weight), 2.0);
    }
}
