//! A quantised matrix as a file holds it, so that it can be used as integers without loss.

/// A matrix whose number `i` of row `o` is `scales[o][i / group] * values[o][i] + minima[o][i / group]`.
///
/// The integers are those of the file's blocks, whatever its format; products of scales that a format keeps apart are
/// multiplied out, which float32 holds exactly.
#[derive(Clone, Debug, PartialEq)]
pub struct Quantised {
    /// Rows.
    pub outputs: usize,
    /// Numbers in a row: a multiple of `group`.
    pub inputs: usize,
    /// How many neighbours in a row share a scale: 16 or 32.
    pub group: usize,
    /// `[outputs, inputs]`.
    pub values: Vec<i8>,
    /// `[outputs, inputs / group]`.
    pub scales: Vec<f32>,
    /// `[outputs, inputs / group]`, or nothing when the format has no minima.
    pub minima: Option<Vec<f32>>,
}

impl Quantised {
    /// The same numbers as float32, `[outputs, inputs]`.
    pub fn to_floats(&self) -> Vec<f32> {
        let group = self.group.max(1);
        // Minus zero, which added changes no number, not even the sign of a zero.
        let zeros = vec![-0.0; if self.minima.is_none() { self.scales.len() } else { 0 }];
        let minima = self.minima.as_deref().unwrap_or(&zeros);
        let groups = self.values.chunks(group).zip(self.scales.iter().zip(minima));
        groups
            .flat_map(|(values, (scale, minimum))| values.iter().map(move |v| scale * f32::from(*v) + minimum))
            .collect()
    }
}
