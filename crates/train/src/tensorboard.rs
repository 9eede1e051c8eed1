//! TensorBoard event files: scalars by name and step, as any TensorBoard shows them.
//!
//! Owns the two formats: records with masked CRC-32C (TensorFlow's `record_writer.cc`) around `tensorflow.Event` messages
//! (`event.proto`, `summary.proto`), encoded by hand as they are this small. Knows nothing of training.

use crate::TrainError;
use crate::history::open_at;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// Appends scalars to one event file.
///
/// ```
/// use tidemill_train::tensorboard::EventFile;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = tempfile::tempdir()?;
/// let mut events = EventFile::open(&folder.path().join("events.out.tfevents.1.run"), 0)?;
/// events.scalar("loss/train", 0.7, 1)?;
/// let bytes = events.sync()?;
/// assert!(bytes > 50);
/// # Ok(()) }
/// ```
pub struct EventFile {
    path: PathBuf,
    file: File,
    bytes: u64,
}

impl EventFile {
    /// Opens `path`, keeping its first `bytes` (0 for a new file) and dropping what follows.
    pub fn open(path: &Path, bytes: u64) -> Result<Self, TrainError> {
        let mut events = Self { path: path.to_owned(), file: open_at(path, bytes)?, bytes };
        if bytes == 0 {
            let mut event = Vec::new();
            fixed64(&mut event, 1, now().to_bits());
            length_delimited(&mut event, 3, b"brain.Event:2");
            events.record(&event)?;
        }
        Ok(events)
    }

    /// Adds `value` under `tag` at `step`.
    pub fn scalar(&mut self, tag: &str, value: f64, step: u64) -> Result<(), TrainError> {
        self.record(&scalar_event(now(), tag, value as f32, step))
    }

    /// Makes the file durable and gives its length in bytes.
    pub fn sync(&mut self) -> Result<u64, TrainError> {
        self.file.sync_data().map_err(TrainError::write(&self.path))?;
        Ok(self.bytes)
    }

    fn record(&mut self, event: &[u8]) -> Result<(), TrainError> {
        let length = (event.len() as u64).to_le_bytes();
        let mut record = Vec::with_capacity(event.len() + 16);
        record.extend(length);
        record.extend(masked_crc32c(&length).to_le_bytes());
        record.extend(event);
        record.extend(masked_crc32c(event).to_le_bytes());
        self.file.write_all(&record).map_err(TrainError::write(&self.path))?;
        self.bytes += record.len() as u64;
        Ok(())
    }
}

/// `Event { wall_time, step, summary { value { tag, simple_value } } }`.
fn scalar_event(wall_time: f64, tag: &str, value: f32, step: u64) -> Vec<u8> {
    let mut inner = Vec::new();
    length_delimited(&mut inner, 1, tag.as_bytes());
    inner.push(2 << 3 | 5);
    inner.extend(value.to_le_bytes());
    let mut summary = Vec::new();
    length_delimited(&mut summary, 1, &inner);
    let mut event = Vec::new();
    fixed64(&mut event, 1, wall_time.to_bits());
    event.push(2 << 3);
    varint(&mut event, step);
    length_delimited(&mut event, 5, &summary);
    event
}

fn fixed64(out: &mut Vec<u8>, field: u8, bits: u64) {
    out.push(field << 3 | 1);
    out.extend(bits.to_le_bytes());
}

fn length_delimited(out: &mut Vec<u8>, field: u8, bytes: &[u8]) {
    out.push(field << 3 | 2);
    varint(out, bytes.len() as u64);
    out.extend(bytes);
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

/// TensorFlow's mask: a checksum of data that hold checksums would be weak.
fn masked_crc32c(bytes: &[u8]) -> u32 {
    crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8)
}

/// CRC-32C (Castagnoli), RFC 3720 appendix B.4.
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, byte| {
        let index = usize::from(crc as u8 ^ byte);
        TABLE.get(index).copied().unwrap_or_default() ^ (crc >> 8)
    })
}

static TABLE: [u32; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let (mut crc, mut bit) = (byte as u32, 0);
        while bit < 8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 };
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
    }
    table
};

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_that_of_rfc_3720() {
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(&[0xff; 32]), 0x62a8_ab43);
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }

    /// `tensorboard.compat.proto.event_pb2.Event(wall_time=1.5, step=300, summary=Summary(value=[Summary.Value(
    /// tag="loss", simple_value=0.25)])).SerializeToString()`, tensorboard 2.21.0.
    #[test]
    fn an_event_is_encoded_as_tensorboard_does() {
        let expected = "09000000000000f83f10ac022a0d0a0b0a046c6f7373150000803e";
        let bytes = scalar_event(1.5, "loss", 0.25, 300);
        let hexadecimal: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hexadecimal, expected);
    }

    #[test]
    fn a_file_goes_on_where_it_was_cut() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("events.out.tfevents.x");
        let mut events = EventFile::open(&path, 0).unwrap();
        events.scalar("a", 1.0, 1).unwrap();
        let bytes = events.sync().unwrap();
        events.scalar("a", 2.0, 2).unwrap();
        let mut events = EventFile::open(&path, bytes).unwrap();
        events.scalar("a", 3.0, 2).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().len(), events.sync().unwrap());
    }
}
