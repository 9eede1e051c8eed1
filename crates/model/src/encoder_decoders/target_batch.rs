//! One step of a decoder in an encoder-decoder: the next tokens of all targets in one flat run, so that each weight is read
//! once for all of them.

use std::iter;

use tch::{Device, Kind, Tensor};

use super::{EncoderDecoderShape, Targets};
use crate::error::ModelError;
use crate::layers::{PositionTable, RelativePositions};

/// One part of a step: targets that were begun together.
#[derive(Debug)]
pub struct TargetStep<'a> {
    /// The targets, in which the step writes.
    pub targets: &'a mut Targets,
    /// The next tokens of all rows, row after row, as many for each and at least one.
    pub tokens: &'a [u32],
}

/// The tokens of one step.
#[derive(Debug)]
pub struct TargetBatch<'a, 'b> {
    steps: &'a mut [TargetStep<'b>],
    parts: Vec<Part>,
    ids: Tensor,
}

/// What a part of the step is, place by place.
#[derive(Debug)]
struct Part {
    /// Its tokens in the order of places.
    tokens: Vec<u32>,
    places: i64,
    each: i64,
    mask: Option<Tensor>,
}

impl<'a, 'b> TargetBatch<'a, 'b> {
    /// Checks the step and makes room for it.
    ///
    /// # Errors
    /// [`ModelError::Input`] when tokens are none, too many, or none that the model has.
    pub fn new(
        steps: &'a mut [TargetStep<'b>],
        shape: &EncoderDecoderShape,
    ) -> Result<TargetBatch<'a, 'b>, ModelError> {
        let (mut parts, mut ids) = (Vec::new(), Vec::new());
        let device = steps.first().map_or(Device::Cpu, |step| step.targets.device());
        for step in steps.iter_mut() {
            let (rows, length) = (step.targets.rows(), step.targets.length());
            let each = step.tokens.len() / rows.max(1);
            if each == 0 || each * rows != step.tokens.len() {
                let problem = format!("{} tokens are not as many for each of {rows} targets", step.tokens.len());
                return Err(ModelError::Input(problem));
            }
            if (length + each) as i64 > shape.target_positions {
                let problem = format!("the model writes at most {} tokens", shape.target_positions);
                return Err(ModelError::Input(problem));
            }
            shape.check_ids(step.tokens)?;
            let row_tokens = |&row: &usize| step.tokens.get(row * each..(row + 1) * each).unwrap_or_default();
            let tokens: Vec<u32> = step.targets.rows_by_place().iter().flat_map(row_tokens).copied().collect();
            ids.extend(tokens.iter().map(|&id| i64::from(id)));
            let (places, each) = (rows as i64, each as i64);
            let mask = if each == 1 { None } else { Some(causal(length as i64, each, device)?) };
            step.targets.reserve(each)?;
            parts.push(Part { tokens, places, each, mask });
        }
        if ids.is_empty() {
            return Err(ModelError::Input("a step needs at least one token".to_string()));
        }
        Ok(TargetBatch { steps, parts, ids: Tensor::f_from_slice(&ids)?.f_to_device(device)? })
    }

    /// Token ids, `[tokens]`.
    pub fn ids(&self) -> &Tensor {
        &self.ids
    }

    /// The vectors of the tokens' positions, `[tokens, width]`.
    ///
    /// # Errors
    /// [`ModelError::Torch`] when libtorch refuses.
    pub fn positions(&self, table: &PositionTable) -> Result<Tensor, ModelError> {
        let mut places = Vec::new();
        for (step, part) in iter::zip(self.steps.iter(), &self.parts) {
            for row in part.tokens.chunks(part.each as usize) {
                table.places(row, step.targets.length() as i64, &mut places);
            }
        }
        table.rows(&places)
    }

    /// Adds what `positions` say to the scores of self-attention from now on.
    ///
    /// # Errors
    /// [`ModelError::Torch`] when libtorch refuses.
    pub fn set_relative_positions(&mut self, positions: &RelativePositions) -> Result<(), ModelError> {
        for (step, part) in iter::zip(self.steps.iter(), &mut self.parts) {
            part.mask = Some(positions.bias(step.targets.length() as i64, part.each)?);
        }
        Ok(())
    }

    /// Self-attention in layer `layer`: `[tokens, 3, heads, head_dim]` → `[tokens, heads · head_dim]`.
    ///
    /// # Errors
    /// [`ModelError::Torch`] when libtorch refuses.
    pub(crate) fn attend_to_themselves(&self, layer: usize, qkv: &Tensor, scale: f64) -> Result<Tensor, ModelError> {
        self.by_part(qkv, |targets, part, qkv| targets.attend_to_themselves(layer, qkv, part.mask.as_ref(), scale))
    }

    /// Cross attention in layer `layer`: `[tokens, heads, head_dim]` → `[tokens, heads · head_dim]`.
    ///
    /// # Errors
    /// [`ModelError::Torch`] when libtorch refuses.
    pub(crate) fn attend_to_sources(&self, layer: usize, query: &Tensor, scale: f64) -> Result<Tensor, ModelError> {
        self.by_part(query, |targets, _, query| targets.attend_to_sources(layer, query, scale))
    }

    /// Ends the step: what the last layer says of each token, `[tokens, width]`, in the order of rows.
    ///
    /// # Errors
    /// [`ModelError::Torch`] when libtorch refuses.
    pub fn finish(self, hidden: &Tensor) -> Result<Tensor, ModelError> {
        let by_row = self.by_part(hidden, |targets, _, hidden| targets.by_row(hidden.shallow_clone()))?;
        for (step, part) in iter::zip(self.steps, self.parts) {
            step.targets.advance(part.each);
        }
        Ok(by_row)
    }

    /// Runs `run` on each part's rows of `flat` `[tokens, …]`, which it gets as `[places, tokens of each, …]`.
    fn by_part(
        &self,
        flat: &Tensor,
        run: impl Fn(&Targets, &Part, &Tensor) -> Result<Tensor, ModelError>,
    ) -> Result<Tensor, ModelError> {
        let (mut start, mut outputs) = (0, Vec::with_capacity(self.parts.len()));
        for (step, part) in iter::zip(self.steps.iter(), &self.parts) {
            let Part { places, each, .. } = *part;
            let rows = flat.f_narrow(0, start, places * each)?.f_unflatten(0, [places, each])?;
            outputs.push(run(step.targets, part, &rows)?.f_flatten(0, 1)?);
            start += places * each;
        }
        match outputs.as_slice() {
            [only] => Ok(only.shallow_clone()),
            several => Ok(Tensor::f_cat(several, 0)?),
        }
    }
}

/// What hides from each of `queries` tokens, which come after `before` others, those that come after it, `[queries, keys]`.
fn causal(before: i64, queries: i64, device: Device) -> Result<Tensor, ModelError> {
    let hidden = Tensor::f_full([queries, before + queries], f64::NEG_INFINITY, (Kind::Float, device))?;
    Ok(hidden.f_triu(before + 1)?)
}
