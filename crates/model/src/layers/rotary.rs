//! Rotary position embedding, Su et al. 2021, with the ways to stretch it that checkpoints ask for: linear (Chen et al. 2023),
//! Llama 3's by wavelength, YaRN (Peng et al. 2023), LongRoPE (Ding et al. 2024). Tables of cosines and sines are made once.

use std::f64::consts::PI;

use tch::{Device, Tensor};
use tidemill_torch::decode;

use crate::config::Config;
use crate::decoders::Step;
use crate::error::ModelError;

/// The tables of one kind of rotation.
#[derive(Debug)]
pub struct Rotary {
    cos: Tensor,
    sin: Tensor,
    interleaved: bool,
    /// LongRoPE: contexts longer than this take the second half of the tables.
    short_contexts: Option<i64>,
    positions: i64,
}

impl Rotary {
    /// The tables that a configuration asks for, for positions below `positions`. `head_dim` is a head's width, of which
    /// the share `partial_rotary_factor` (or `rotary_pct`) is turned.
    ///
    /// # Errors
    /// [`ModelError::Config`] when a key is missing, out of range or of a kind that does not exist.
    pub fn new(config: Config, head_dim: i64, positions: i64, device: Device) -> Result<Rotary, ModelError> {
        // transformers 5 writes everything under `rope_parameters`, 4 wrote `rope_theta` and `rope_scaling`.
        let scaling = config.section("rope_parameters").or(config.section("rope_scaling"));
        let key = |name: &str, default: f64| -> Result<f64, ModelError> {
            let own = scaling.map(|scaling| scaling.number(name)).transpose()?.flatten();
            own.map_or_else(|| config.number_or(name, default), Ok)
        };
        let base = key("rope_theta", config.number_or("rotary_emb_base", 10_000.0)?)?;
        let share = key("partial_rotary_factor", config.number_or("rotary_pct", 1.0)?)?;
        if !(base > 0.0 && share > 0.0 && share <= 1.0) {
            return Err(config.refuse("\"rope_theta\" must be above 0 and \"partial_rotary_factor\" from 0 to 1"));
        }
        let width = (head_dim as f64 * share) as i64 / 2 * 2;
        let plain: Vec<f64> = (0..width / 2).map(|i| base.powf(-2.0 * i as f64 / width.max(1) as f64)).collect();
        let kind = match scaling {
            Some(scaling) => scaling.text_or("rope_type", scaling.text_or("type", "default")?)?,
            None => "default",
        };
        let trained = config.size_or("max_position_embeddings", positions)?;
        let stretch = Stretch { config, scaling: scaling.unwrap_or(config), base, width, trained };
        let (tables, factor, short_contexts) = match kind {
            // The dynamic kind changes nothing up to the length that the model was trained on, which is where we stop.
            "default" | "dynamic" => (vec![plain], 1.0, None),
            "linear" => {
                let factor = stretch.factor()?;
                (vec![plain.iter().map(|f| f / factor).collect()], 1.0, None)
            }
            "llama3" => (vec![stretch.llama3(&plain)?], 1.0, None),
            "yarn" => {
                let (frequencies, factor) = stretch.yarn(&plain)?;
                (vec![frequencies], factor, None)
            }
            "longrope" | "su" => {
                let (short, long, factor, original) = stretch.longrope(&plain)?;
                (vec![short, long], factor, Some(original))
            }
            other => {
                return Err(config.refuse(format!(
                    "the rotary scaling \"{other}\" is unknown (there are default, linear, dynamic, llama3, yarn, longrope)"
                )));
            }
        };
        let mut angles = Vec::new();
        for frequencies in tables {
            let frequencies: Vec<f32> = frequencies.iter().map(|&f| f as f32).collect();
            let at = Tensor::f_arange(positions, (tch::Kind::Float, Device::Cpu))?;
            angles.push(at.f_outer(&Tensor::f_from_slice(&frequencies)?)?);
        }
        let angles = Tensor::f_cat(&angles, 0)?; // [positions (twice), width / 2]
        Ok(Rotary {
            cos: angles.f_cos()?.f_mul_scalar(factor)?.f_to_device(device)?,
            sin: angles.f_sin()?.f_mul_scalar(factor)?.f_to_device(device)?,
            interleaved: false,
            short_contexts,
            positions,
        })
    }

    /// Turns neighbours instead of halves, as GPT-J does.
    pub fn interleaved(self) -> Rotary {
        Rotary { interleaved: true, ..self }
    }

    /// LongRoPE's longest context with short factors; none for the other kinds.
    pub fn short_contexts(&self) -> Option<usize> {
        self.short_contexts.and_then(|short| usize::try_from(short).ok())
    }

    /// The tables' rows for the tokens of a step, `[tokens]`. LongRoPE's factors are one choice for the whole of a sequence.
    ///
    /// # Errors
    /// [`ModelError::Torch`] when libtorch refuses.
    pub fn rows(&self, step: &Step) -> Result<Tensor, ModelError> {
        let Some(short) = self.short_contexts.filter(|short| step.lengths().iter().any(|length| length > short)) else {
            return Ok(step.positions().shallow_clone());
        };
        let mut rows: Vec<i64> = Vec::try_from(step.positions().f_to_device(Device::Cpu)?)?;
        for (sequence, length) in step.lengths().iter().enumerate() {
            if *length > short {
                for row in rows.get_mut(step.queries(sequence)).unwrap_or_default() {
                    *row += self.positions;
                }
            }
        }
        Ok(Tensor::f_from_slice(&rows)?.f_to_device(step.positions().device())?)
    }

    /// Turns `heads` `[tokens, heads, head_dim]` in place, by what [`Rotary::rows`] gave.
    ///
    /// # Errors
    /// [`ModelError::Torch`] when libtorch refuses.
    pub fn rotate(&self, heads: &mut Tensor, rows: &Tensor) -> Result<(), ModelError> {
        Ok(decode::rotate(heads, &self.cos, &self.sin, rows, self.interleaved)?)
    }
}

/// What the stretched kinds are computed from.
struct Stretch<'a> {
    config: Config<'a>,
    scaling: Config<'a>,
    base: f64,
    width: i64,
    /// Positions that the configuration allows.
    trained: i64,
}

impl Stretch<'_> {
    fn factor(&self) -> Result<f64, ModelError> {
        let factor = self.scaling.number("factor")?.filter(|factor| *factor > 0.0);
        factor.ok_or_else(|| self.config.refuse("the rotary scaling needs a \"factor\" above 0"))
    }

    /// Positions before stretching.
    fn original(&self) -> Result<f64, ModelError> {
        let outer = self.config.size_or("original_max_position_embeddings", self.trained)?;
        Ok(self.scaling.size_or("original_max_position_embeddings", outer)? as f64)
    }

    fn llama3(&self, plain: &[f64]) -> Result<Vec<f64>, ModelError> {
        let (factor, original) = (self.factor()?, self.original()?);
        let low = self.scaling.number_or("low_freq_factor", 1.0)?;
        let high = self.scaling.number_or("high_freq_factor", 4.0)?;
        if !(low > 0.0 && high > low) {
            return Err(self.config.refuse("\"high_freq_factor\" must be above \"low_freq_factor\", and that above 0"));
        }
        let stretched = |&frequency: &f64| {
            let wavelength = 2.0 * PI / frequency;
            if wavelength < original / high {
                frequency
            } else if wavelength > original / low {
                frequency / factor
            } else {
                let smooth = (original / wavelength - low) / (high - low);
                (1.0 - smooth) * frequency / factor + smooth * frequency
            }
        };
        Ok(plain.iter().map(stretched).collect())
    }

    fn yarn(&self, plain: &[f64]) -> Result<(Vec<f64>, f64), ModelError> {
        let original = self.original()?;
        let factor = match self.scaling.number("factor")? {
            Some(_) => self.factor()?,
            None => self.trained as f64 / original,
        };
        let magnitude = |scale: f64| if factor <= 1.0 { 1.0 } else { 0.1 * scale * factor.ln() + 1.0 };
        let attention = match (self.scaling.number("mscale")?, self.scaling.number("mscale_all_dim")?) {
            (Some(one), Some(all)) if one != 0.0 && all != 0.0 => magnitude(one) / magnitude(all),
            _ => magnitude(1.0),
        };
        let attention = self.scaling.number_or("attention_factor", attention)?;
        let width = self.width as f64;
        let dimension = |turns: f64| width * (original / (turns * 2.0 * PI)).ln() / (2.0 * self.base.ln());
        let mut low = dimension(self.scaling.number_or("beta_fast", 32.0)?);
        let mut high = dimension(self.scaling.number_or("beta_slow", 1.0)?);
        if self.scaling.flag_or("truncate", true)? {
            (low, high) = (low.floor(), high.ceil());
        }
        let low = low.max(0.0);
        let mut high = high.min(width - 1.0);
        if low == high {
            high += 0.001;
        }
        let frequencies = plain.iter().enumerate().map(|(i, frequency)| {
            let keep = 1.0 - ((i as f64 - low) / (high - low)).clamp(0.0, 1.0);
            frequency / factor * (1.0 - keep) + frequency * keep
        });
        Ok((frequencies.collect(), attention))
    }

    fn longrope(&self, plain: &[f64]) -> Result<(Vec<f64>, Vec<f64>, f64, i64), ModelError> {
        let original = self.original()?;
        let divided = |key: &str| -> Result<Vec<f64>, ModelError> {
            let factors = self.scaling.numbers(key)?.unwrap_or_default();
            if factors.len() != plain.len() || factors.iter().any(|factor| *factor <= 0.0) {
                let problem = format!("\"{key}\" must be {} numbers above 0, one each pair turned", plain.len());
                return Err(self.config.refuse(problem));
            }
            Ok(plain.iter().zip(factors).map(|(frequency, factor)| frequency / factor).collect())
        };
        let factor = self.scaling.number_or("factor", self.trained as f64 / original)?;
        let attention = if factor <= 1.0 { 1.0 } else { (1.0 + factor.ln() / original.ln()).sqrt() };
        let attention = self.scaling.number_or("attention_factor", attention)?;
        Ok((divided("short_factor")?, divided("long_factor")?, attention, original as i64))
    }
}
