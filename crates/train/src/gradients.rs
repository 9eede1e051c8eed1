//! Gradients of a loss by their parameters: taken, added up, measured and clipped.
//!
//! Knows nothing of optimisers. Gradients are taken as values (`torch.autograd.grad`), never left on the parameters, so that
//! nothing has to be zeroed.

use tch::{Kind, TchError, Tensor};

/// The gradient of `loss` by each of `parameters`; undefined where the loss does not depend on one.
pub(crate) fn of(loss: &Tensor, parameters: &[Tensor]) -> Result<Vec<Tensor>, TchError> {
    Tensor::f_run_backward(&[loss], parameters, false, false)
}

/// Adds `more` to `sum`, one by one, in place where both are there.
pub(crate) fn add(sum: &mut [Tensor], more: Vec<Tensor>) -> Result<(), TchError> {
    for (sum, more) in sum.iter_mut().zip(more) {
        if !more.defined() {
            continue;
        }
        if sum.defined() {
            let _ = sum.f_add_(&more)?;
        } else {
            *sum = more;
        }
    }
    Ok(())
}

/// The Euclidean norm of all gradients together. Not finite if any number among them is not.
pub(crate) fn global_norm(gradients: &[Tensor]) -> Result<f64, TchError> {
    let defined = gradients.iter().filter(|gradient| gradient.defined());
    let norms = defined.map(|gradient| gradient.f_norm()).collect::<Result<Vec<_>, _>>()?;
    if norms.is_empty() {
        return Ok(0.0);
    }
    Tensor::f_stack(&norms, 0)?.f_to_kind(Kind::Float)?.f_norm()?.f_double_value(&[])
}

/// Scales gradients of the global norm `norm` down to `limit`, as `torch.nn.utils.clip_grad_norm_` does.
pub(crate) fn clip(gradients: &mut [Tensor], norm: f64, limit: f64) -> Result<(), TchError> {
    let scale = limit / (norm + 1e-6);
    if scale >= 1.0 {
        return Ok(());
    }
    for gradient in gradients.iter_mut().filter(|gradient| gradient.defined()) {
        let _ = gradient.f_mul_scalar_(scale)?;
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;
    use tch::Device;

    #[test]
    fn gradients_add_up_and_are_clipped() {
        let a = Tensor::from_slice(&[3.0f32]).set_requires_grad(true);
        let unused = Tensor::from_slice(&[1.0f32]).set_requires_grad(true);
        let parameters = [a.shallow_clone(), unused];
        let mut sum = of(&(&a * 3.0).sum(Kind::Float), &parameters).unwrap();
        assert!(!sum[1].defined());
        add(&mut sum, of(&a.square().sum(Kind::Float), &parameters).unwrap()).unwrap();
        assert_eq!(sum[0].double_value(&[0]), 9.0);
        let norm = global_norm(&sum).unwrap();
        assert_eq!(norm, 9.0);
        clip(&mut sum, norm, 1.0).unwrap();
        assert!((sum[0].double_value(&[0]) - 1.0).abs() < 1e-5);
        assert!(!a.grad().defined());
    }

    #[test]
    fn a_gradient_that_is_no_number_shows_in_the_norm() {
        let bad = Tensor::from_slice(&[1.0f32, f32::NAN]);
        let good = Tensor::ones([2, 2], (Kind::Float, Device::Cpu));
        assert!(global_norm(&[good, bad]).unwrap().is_nan());
    }
}
