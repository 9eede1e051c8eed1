//! The element types of GGML: what a block holds, and how it becomes numbers. Every block format is unpacked in one place
//! into integers with a scale and a minimum a group; floats are made from those, in the order of operations of the
//! reference (`ggml-quants.c`), so that they agree to the bit. Knows nothing of files or tensors' meanings.

use half::{bf16, f16};
use rayon::iter::{IndexedParallelIterator, ParallelIterator};
use rayon::slice::ParallelSliceMut;

use super::problem::Problem;
use crate::weights::Quantised;

/// One element type.
#[derive(Debug)]
pub(crate) struct GgmlType {
    id: u32,
    pub(crate) name: &'static str,
    /// Numbers in a block: 1 where there are no blocks.
    pub(crate) elements: usize,
    /// Bytes of a block.
    pub(crate) bytes: usize,
    pub(crate) format: Format,
}

/// How a block is read.
#[allow(non_camel_case_types, reason = "the names are the format's own")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    F32,
    F16,
    BF16,
    F64,
    I8,
    I16,
    I32,
    I64,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q2_K,
    Q3_K,
    Q4_K,
    Q5_K,
    Q6_K,
    Q8_K,
    IQ4_NL,
    IQ4_XS,
    Unsupported,
}

const fn of(id: u32, name: &'static str, elements: usize, bytes: usize, format: Format) -> GgmlType {
    GgmlType { id, name, elements, bytes, format }
}

/// Those without a reader are here so that a file that has one is measured rightly and the error names it.
static TYPES: &[GgmlType] = &[
    of(0, "F32", 1, 4, Format::F32),
    of(1, "F16", 1, 2, Format::F16),
    of(2, "Q4_0", 32, 18, Format::Q4_0),
    of(3, "Q4_1", 32, 20, Format::Q4_1),
    of(6, "Q5_0", 32, 22, Format::Q5_0),
    of(7, "Q5_1", 32, 24, Format::Q5_1),
    of(8, "Q8_0", 32, 34, Format::Q8_0),
    of(9, "Q8_1", 32, 40, Format::Unsupported),
    of(10, "Q2_K", 256, 84, Format::Q2_K),
    of(11, "Q3_K", 256, 110, Format::Q3_K),
    of(12, "Q4_K", 256, 144, Format::Q4_K),
    of(13, "Q5_K", 256, 176, Format::Q5_K),
    of(14, "Q6_K", 256, 210, Format::Q6_K),
    of(15, "Q8_K", 256, 292, Format::Q8_K),
    of(16, "IQ2_XXS", 256, 66, Format::Unsupported),
    of(17, "IQ2_XS", 256, 74, Format::Unsupported),
    of(18, "IQ3_XXS", 256, 98, Format::Unsupported),
    of(19, "IQ1_S", 256, 50, Format::Unsupported),
    of(20, "IQ4_NL", 32, 18, Format::IQ4_NL),
    of(21, "IQ3_S", 256, 110, Format::Unsupported),
    of(22, "IQ2_S", 256, 82, Format::Unsupported),
    of(23, "IQ4_XS", 256, 136, Format::IQ4_XS),
    of(24, "I8", 1, 1, Format::I8),
    of(25, "I16", 1, 2, Format::I16),
    of(26, "I32", 1, 4, Format::I32),
    of(27, "I64", 1, 8, Format::I64),
    of(28, "F64", 1, 8, Format::F64),
    of(29, "IQ1_M", 256, 56, Format::Unsupported),
    of(30, "BF16", 1, 2, Format::BF16),
    of(34, "TQ1_0", 256, 54, Format::Unsupported),
    of(35, "TQ2_0", 256, 66, Format::Unsupported),
    of(39, "MXFP4", 32, 17, Format::Unsupported),
    of(40, "NVFP4", 64, 36, Format::Unsupported),
    of(41, "Q1_0", 128, 18, Format::Unsupported),
];

/// Rows are spread over threads in pieces of at least so many numbers.
const PIECE: usize = 1 << 15;

/// Calls a generic function with the block format's sizes and unpacker; `$otherwise` where there are no blocks.
macro_rules! with_blocks {
    ($format:expr, $function:ident($($argument:expr),*), $otherwise:expr) => {
        match $format {
            Format::Q4_0 => Some($function::<18, 32, 1>($($argument,)* unpack_q4_0)),
            Format::Q4_1 => Some($function::<20, 32, 1>($($argument,)* unpack_q4_1)),
            Format::Q5_0 => Some($function::<22, 32, 1>($($argument,)* unpack_q5_0)),
            Format::Q5_1 => Some($function::<24, 32, 1>($($argument,)* unpack_q5_1)),
            Format::Q8_0 => Some($function::<34, 32, 1>($($argument,)* unpack_q8_0)),
            Format::Q2_K => Some($function::<84, 256, 16>($($argument,)* unpack_q2_k)),
            Format::Q3_K => Some($function::<110, 256, 16>($($argument,)* unpack_q3_k)),
            Format::Q4_K => Some($function::<144, 256, 8>($($argument,)* unpack_q4_k)),
            Format::Q5_K => Some($function::<176, 256, 8>($($argument,)* unpack_q5_k)),
            Format::Q6_K => Some($function::<210, 256, 16>($($argument,)* unpack_q6_k)),
            Format::Q8_K => Some($function::<292, 256, 8>($($argument,)* unpack_q8_k)),
            Format::IQ4_NL => Some($function::<18, 32, 1>($($argument,)* unpack_iq4_nl)),
            Format::IQ4_XS => Some($function::<136, 256, 8>($($argument,)* unpack_iq4_xs)),
            _ => $otherwise,
        }
    };
}

impl GgmlType {
    pub(crate) fn from_id(id: u32) -> Option<&'static GgmlType> {
        TYPES.iter().find(|kind| kind.id == id)
    }

    /// Its number in files.
    pub(crate) fn id(&self) -> u32 {
        self.id
    }

    /// Bytes of a tensor of this shape, whose rows are whole blocks.
    pub(crate) fn bytes_of(&self, shape: &[usize]) -> u64 {
        (shape.iter().product::<usize>() / self.elements * self.bytes) as u64
    }

    /// Whether its numbers are integers in blocks with scales.
    pub(crate) fn is_quantised(&self) -> bool {
        self.elements > 1
    }

    /// Refuses a type that has no reader here.
    pub(crate) fn check_readable(&self) -> Result<(), Problem> {
        if self.format != Format::Unsupported {
            return Ok(());
        }
        let readable: Vec<&str> =
            TYPES.iter().filter(|kind| kind.format != Format::Unsupported).map(|kind| kind.name).collect();
        Err(Problem::new(format!(
            "has the type {}, which is not supported; take a file of the same model in Q4_K_M, Q6_K or Q8_0 (supported \
             are {})",
            self.name,
            readable.join(", ")
        )))
    }

    /// Rows of `row` numbers as float32: row `r` of `out` is row `order(r)` of `bytes`.
    pub(crate) fn dequantise(
        &self,
        bytes: &[u8],
        row: usize,
        order: impl Fn(usize) -> usize + Sync,
        out: &mut [f32],
    ) -> Result<(), Problem> {
        self.check_readable()?;
        self.check_rows(bytes, row, out.len() / row.max(1), &order)?;
        with_blocks!(self.format, rows_to_floats(bytes, row, order, out), {
            plain_to_floats(self, bytes, row, order, out);
            Some(())
        });
        Ok(())
    }

    /// `outputs` rows of `inputs` numbers, in the same order, as their integers; nothing when there are none.
    pub(crate) fn quantised(
        &self,
        bytes: &[u8],
        outputs: usize,
        inputs: usize,
        order: impl Fn(usize) -> usize + Sync,
    ) -> Result<Option<Quantised>, Problem> {
        self.check_readable()?;
        self.check_rows(bytes, inputs, outputs, &order)?;
        let quantised = with_blocks!(self.format, rows_to_integers(bytes, outputs, inputs, order), None);
        let has_minima =
            matches!(self.format, Format::Q4_1 | Format::Q5_1 | Format::Q2_K | Format::Q4_K | Format::Q5_K);
        Ok(quantised.map(|mut quantised| {
            quantised.minima = quantised.minima.filter(|_| has_minima);
            quantised
        }))
    }

    /// That every row that will be read is there.
    fn check_rows(
        &self,
        bytes: &[u8],
        row: usize,
        rows: usize,
        order: &impl Fn(usize) -> usize,
    ) -> Result<(), Problem> {
        let row_bytes = row / self.elements * self.bytes;
        let there = bytes.len().checked_div(row_bytes).unwrap_or_default();
        let whole = row.is_multiple_of(self.elements) && (0..rows).all(|row| order(row) < there);
        if whole { Ok(()) } else { Err(Problem::new(format!("does not hold {rows} rows of {row} numbers"))) }
    }
}

/// A block as integers: number `i` is `scales[g] * values[i] + minima[g]` in group `g` of `ELEMENTS / GROUPS` numbers.
struct Unpacked<const ELEMENTS: usize, const GROUPS: usize> {
    values: [i8; ELEMENTS],
    scales: [f32; GROUPS],
    minima: [f32; GROUPS],
}

impl<const ELEMENTS: usize, const GROUPS: usize> Unpacked<ELEMENTS, GROUPS> {
    /// Minima of minus zero change no number when they are added, not even the sign of a zero.
    fn new() -> Self {
        Unpacked { values: [0; ELEMENTS], scales: [0.0; GROUPS], minima: [-0.0; GROUPS] }
    }
}

fn rows_to_floats<const BYTES: usize, const ELEMENTS: usize, const GROUPS: usize>(
    bytes: &[u8],
    row: usize,
    order: impl Fn(usize) -> usize + Sync,
    out: &mut [f32],
    unpack: impl Fn(&[u8; BYTES], &mut Unpacked<ELEMENTS, GROUPS>) + Sync,
) {
    let group = ELEMENTS / GROUPS;
    let blocks = bytes.as_chunks::<BYTES>().0;
    let in_row = row / ELEMENTS;
    let rows = out.par_chunks_exact_mut(row.max(1)).enumerate().with_min_len(PIECE / row.max(1) + 1);
    rows.for_each_init(Unpacked::new, |unpacked, (at, out)| {
        let start = order(at) * in_row;
        let blocks = blocks.get(start..start + in_row).unwrap_or_default();
        for (block, out) in blocks.iter().zip(out.chunks_exact_mut(ELEMENTS)) {
            unpack(block, unpacked);
            let scales = unpacked.scales.iter().zip(&unpacked.minima);
            let groups = out.chunks_exact_mut(group).zip(unpacked.values.chunks_exact(group));
            for ((out, values), (scale, minimum)) in groups.zip(scales) {
                for (out, value) in out.iter_mut().zip(values) {
                    *out = scale * f32::from(*value) + minimum;
                }
            }
        }
    });
}

fn rows_to_integers<const BYTES: usize, const ELEMENTS: usize, const GROUPS: usize>(
    bytes: &[u8],
    outputs: usize,
    inputs: usize,
    order: impl Fn(usize) -> usize + Sync,
    unpack: impl Fn(&[u8; BYTES], &mut Unpacked<ELEMENTS, GROUPS>) + Sync,
) -> Quantised {
    let blocks = bytes.as_chunks::<BYTES>().0;
    let in_row = inputs / ELEMENTS;
    let mut values = vec![0_i8; outputs * inputs];
    let mut scales = vec![0.0_f32; outputs * in_row * GROUPS];
    let mut minima = scales.clone();
    let rows = values
        .par_chunks_exact_mut(inputs.max(1))
        .zip(scales.par_chunks_exact_mut((in_row * GROUPS).max(1)))
        .zip(minima.par_chunks_exact_mut((in_row * GROUPS).max(1)))
        .enumerate()
        .with_min_len(PIECE / inputs.max(1) + 1);
    rows.for_each_init(Unpacked::new, |unpacked, (at, ((values, scales), minima))| {
        let start = order(at) * in_row;
        let blocks = blocks.get(start..start + in_row).unwrap_or_default();
        let groups = scales.as_chunks_mut::<GROUPS>().0.iter_mut().zip(minima.as_chunks_mut::<GROUPS>().0);
        for ((block, values), (scales, minima)) in blocks.iter().zip(values.as_chunks_mut::<ELEMENTS>().0).zip(groups) {
            unpack(block, unpacked);
            *values = unpacked.values;
            *scales = unpacked.scales;
            *minima = unpacked.minima;
        }
    });
    Quantised { outputs, inputs, group: ELEMENTS / GROUPS, values, scales, minima: Some(minima) }
}

fn plain_to_floats(kind: &GgmlType, bytes: &[u8], row: usize, order: impl Fn(usize) -> usize + Sync, out: &mut [f32]) {
    match kind.format {
        Format::F16 => copy_rows::<2>(bytes, row, order, out, |b| f16::from_le_bytes(b).to_f32()),
        Format::BF16 => copy_rows::<2>(bytes, row, order, out, |b| bf16::from_le_bytes(b).to_f32()),
        Format::F64 => copy_rows::<8>(bytes, row, order, out, |b| f64::from_le_bytes(b) as f32),
        Format::I8 => copy_rows::<1>(bytes, row, order, out, |b| i8::from_le_bytes(b).into()),
        Format::I16 => copy_rows::<2>(bytes, row, order, out, |b| i16::from_le_bytes(b).into()),
        Format::I32 => copy_rows::<4>(bytes, row, order, out, |b| i32::from_le_bytes(b) as f32),
        Format::I64 => copy_rows::<8>(bytes, row, order, out, |b| i64::from_le_bytes(b) as f32),
        _ => copy_rows::<4>(bytes, row, order, out, f32::from_le_bytes),
    }
}

fn copy_rows<const BYTES: usize>(
    bytes: &[u8],
    row: usize,
    order: impl Fn(usize) -> usize + Sync,
    out: &mut [f32],
    number: impl Fn([u8; BYTES]) -> f32 + Sync,
) {
    let numbers = bytes.as_chunks::<BYTES>().0;
    for (at, out) in out.chunks_exact_mut(row.max(1)).enumerate() {
        let start = order(at) * row;
        for (out, bytes) in out.iter_mut().zip(numbers.get(start..start + row).unwrap_or_default()) {
            *out = number(*bytes);
        }
    }
}

fn half(low: u8, high: u8) -> f32 {
    f16::from_le_bytes([low, high]).to_f32()
}

/// Low halves of the bytes to the first half of `values`, high halves to the second.
fn unpack_nibbles(packed: &[u8], values: &mut [i8], number: impl Fn(u8) -> i8) {
    let (low, high) = values.split_at_mut(packed.len().min(values.len()));
    for ((byte, low), high) in packed.iter().zip(low).zip(high) {
        *low = number(byte & 15);
        *high = number(byte >> 4);
    }
}

fn unpack_q4_0(block: &[u8; 18], unpacked: &mut Unpacked<32, 1>) {
    let [d0, d1, packed @ ..] = block;
    unpacked.scales = [half(*d0, *d1)];
    unpack_nibbles(packed, &mut unpacked.values, |nibble| nibble as i8 - 8);
}

fn unpack_q4_1(block: &[u8; 20], unpacked: &mut Unpacked<32, 1>) {
    let [d0, d1, m0, m1, packed @ ..] = block;
    unpacked.scales = [half(*d0, *d1)];
    unpacked.minima = [half(*m0, *m1)];
    unpack_nibbles(packed, &mut unpacked.values, |nibble| nibble as i8);
}

/// Adds the fifth bits, one a value, lowest bit first.
fn add_fifth_bits(bits: u32, values: &mut [i8; 32]) {
    for (at, value) in values.iter_mut().enumerate() {
        *value += ((bits >> at & 1) << 4) as i8;
    }
}

fn unpack_q5_0(block: &[u8; 22], unpacked: &mut Unpacked<32, 1>) {
    let [d0, d1, h0, h1, h2, h3, packed @ ..] = block;
    unpacked.scales = [half(*d0, *d1)];
    unpack_nibbles(packed, &mut unpacked.values, |nibble| nibble as i8 - 16);
    add_fifth_bits(u32::from_le_bytes([*h0, *h1, *h2, *h3]), &mut unpacked.values);
}

fn unpack_q5_1(block: &[u8; 24], unpacked: &mut Unpacked<32, 1>) {
    let [d0, d1, m0, m1, h0, h1, h2, h3, packed @ ..] = block;
    unpacked.scales = [half(*d0, *d1)];
    unpacked.minima = [half(*m0, *m1)];
    unpack_nibbles(packed, &mut unpacked.values, |nibble| nibble as i8);
    add_fifth_bits(u32::from_le_bytes([*h0, *h1, *h2, *h3]), &mut unpacked.values);
}

fn unpack_q8_0(block: &[u8; 34], unpacked: &mut Unpacked<32, 1>) {
    let [d0, d1, values @ ..] = block;
    unpacked.scales = [half(*d0, *d1)];
    unpacked.values = values.map(|byte| byte as i8);
}

/// 64 bytes of four 2-bit values each: 32 bytes give 128 values, those of the lowest bits first.
fn unpack_crumbs(packed: &[u8], values: &mut [i8]) {
    for (packed, values) in packed.chunks_exact(32).zip(values.chunks_exact_mut(128)) {
        for (shift, values) in values.chunks_exact_mut(32).enumerate() {
            for (value, byte) in values.iter_mut().zip(packed) {
                *value = (byte >> (2 * shift) & 3) as i8;
            }
        }
    }
}

fn unpack_q2_k(block: &[u8; 84], unpacked: &mut Unpacked<256, 16>) {
    let [rest @ .., d0, d1, m0, m1] = block;
    let (scales, packed) = rest.split_at(16);
    let (scale, minimum) = (half(*d0, *d1), half(*m0, *m1));
    for ((byte, s), m) in scales.iter().zip(&mut unpacked.scales).zip(&mut unpacked.minima) {
        *s = scale * f32::from(byte & 15);
        *m = -(minimum * f32::from(byte >> 4));
    }
    unpack_crumbs(packed, &mut unpacked.values);
}

fn unpack_q3_k(block: &[u8; 110], unpacked: &mut Unpacked<256, 16>) {
    let [rest @ .., d0, d1] = block;
    let (high_bits, rest) = rest.split_at(32);
    let (packed, scales) = rest.split_at(64);
    let (low, high) = scales.split_at(8);
    let scale = half(*d0, *d1);
    // Six bits a scale: four in `low` (first halves, then second halves of its bytes), two in `high`.
    let fours = low.iter().map(|byte| byte & 15).chain(low.iter().map(|byte| byte >> 4));
    let twos = [0, 2, 4, 6].into_iter().flat_map(|shift| high.iter().map(move |byte| byte >> shift & 3));
    for (s, (four, two)) in unpacked.scales.iter_mut().zip(fours.zip(twos)) {
        *s = scale * f32::from((four | two << 4) as i8 - 32);
    }
    unpack_crumbs(packed, &mut unpacked.values);
    for (bit, values) in unpacked.values.chunks_exact_mut(32).enumerate() {
        for (value, byte) in values.iter_mut().zip(high_bits) {
            *value -= if byte >> bit & 1 == 1 { 0 } else { 4 };
        }
    }
}

/// The 6-bit scales and minima of Q4_K and Q5_K: eight of each in twelve bytes.
fn unpack_scales(packed: &[u8], scale: f32, minimum: f32, unpacked: &mut Unpacked<256, 8>) {
    let (scales, rest) = packed.split_at(4);
    let (minima, high) = rest.split_at(4);
    let lower = scales.iter().zip(minima).map(|(s, m)| (s & 63, m & 63));
    let upper = scales.iter().zip(minima).zip(high).map(|((s, m), h)| (h & 15 | s >> 6 << 4, h >> 4 | m >> 6 << 4));
    let both = unpacked.scales.iter_mut().zip(&mut unpacked.minima);
    for ((s, m), (six, other)) in both.zip(lower.chain(upper)) {
        *s = scale * f32::from(six);
        *m = -(minimum * f32::from(other));
    }
}

fn unpack_q4_k(block: &[u8; 144], unpacked: &mut Unpacked<256, 8>) {
    let [d0, d1, m0, m1, rest @ ..] = block;
    let (scales, packed) = rest.split_at(12);
    unpack_scales(scales, half(*d0, *d1), half(*m0, *m1), unpacked);
    for (packed, values) in packed.chunks_exact(32).zip(unpacked.values.chunks_exact_mut(64)) {
        unpack_nibbles(packed, values, |nibble| nibble as i8);
    }
}

fn unpack_q5_k(block: &[u8; 176], unpacked: &mut Unpacked<256, 8>) {
    let [d0, d1, m0, m1, rest @ ..] = block;
    let (scales, rest) = rest.split_at(12);
    let (fifth_bits, packed) = rest.split_at(32);
    unpack_scales(scales, half(*d0, *d1), half(*m0, *m1), unpacked);
    for (packed, values) in packed.chunks_exact(32).zip(unpacked.values.chunks_exact_mut(64)) {
        unpack_nibbles(packed, values, |nibble| nibble as i8);
    }
    for (bit, values) in unpacked.values.chunks_exact_mut(32).enumerate() {
        for (value, byte) in values.iter_mut().zip(fifth_bits) {
            *value += ((byte >> bit & 1) << 4) as i8;
        }
    }
}

fn unpack_q6_k(block: &[u8; 210], unpacked: &mut Unpacked<256, 16>) {
    let [rest @ .., d0, d1] = block;
    let (low, rest) = rest.split_at(128);
    let (high, scales) = rest.split_at(64);
    let scale = half(*d0, *d1);
    for (s, byte) in unpacked.scales.iter_mut().zip(scales) {
        *s = scale * f32::from(*byte as i8);
    }
    for ((low, high), values) in
        low.chunks_exact(64).zip(high.chunks_exact(32)).zip(unpacked.values.chunks_exact_mut(128))
    {
        unpack_nibbles(low, values, |nibble| nibble as i8 - 32);
        for (shift, values) in values.chunks_exact_mut(32).enumerate() {
            for (value, byte) in values.iter_mut().zip(high) {
                *value += ((byte >> (2 * shift) & 3) << 4) as i8;
            }
        }
    }
}

fn unpack_q8_k(block: &[u8; 292], unpacked: &mut Unpacked<256, 8>) {
    let [d0, d1, d2, d3, rest @ ..] = block;
    unpacked.scales = [f32::from_le_bytes([*d0, *d1, *d2, *d3]); 8];
    for (value, byte) in unpacked.values.iter_mut().zip(rest) {
        *value = *byte as i8;
    }
}

/// The sixteen values that a nibble of the IQ4 formats stands for.
const IQ4_VALUES: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

fn iq4_value(nibble: u8) -> i8 {
    IQ4_VALUES.get(usize::from(nibble)).copied().unwrap_or_default()
}

fn unpack_iq4_nl(block: &[u8; 18], unpacked: &mut Unpacked<32, 1>) {
    let [d0, d1, packed @ ..] = block;
    unpacked.scales = [half(*d0, *d1)];
    unpack_nibbles(packed, &mut unpacked.values, iq4_value);
}

fn unpack_iq4_xs(block: &[u8; 136], unpacked: &mut Unpacked<256, 8>) {
    let [d0, d1, h0, h1, l0, l1, l2, l3, packed @ ..] = block;
    let scale = half(*d0, *d1);
    let high = u16::from_le_bytes([*h0, *h1]);
    let low = [l0, l1, l2, l3].into_iter().flat_map(|byte| [byte & 15, byte >> 4]);
    for (at, (s, low)) in unpacked.scales.iter_mut().zip(low).enumerate() {
        *s = scale * f32::from((low | ((high >> (2 * at) & 3) << 4) as u8) as i8 - 32);
    }
    for (packed, values) in packed.chunks_exact(16).zip(unpacked.values.chunks_exact_mut(32)) {
        unpack_nibbles(packed, values, iq4_value);
    }
}
