//! A package's manifest, `tidemill.toml`: what the package is called, what it takes and gives, how texts are
//! preprocessed, where it came from, and the digest of every file beside it. Its first line is the digest of all that
//! follows, so that a changed byte shows anywhere. Knows nothing of tensors.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use tidemill_data::Preprocessing;

use crate::Scheduling;
use crate::files::sha256;

/// The manifest's file name.
pub const MANIFEST: &str = "tidemill.toml";

/// The one task so far.
pub const TEXT_CLASSIFICATION: &str = "text-classification";

/// The manifest format that this version writes, and the only one that it reads.
const FORMAT: u32 = 1;

/// The digest's line: `digest = "sha256:…"`, of every byte after the line.
const DIGEST_START: &str = "digest = \"sha256:";

/// What a package says about itself.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// The manifest's own format; 1.
    pub format: u32,
    /// The model's name, also on the wire: letters, digits, `.`, `_` and `-`.
    pub name: String,
    /// The model's version, with the same characters.
    pub version: String,
    /// What the model does: `text-classification`.
    pub task: String,
    /// The labels, in the order of the probabilities.
    pub labels: Vec<String>,
    /// What goes in and comes out, in the terms of the Open Inference Protocol.
    pub signature: Signature,
    /// How texts become ids, beyond `tokenizer.json`.
    pub preprocessing: Preprocessing,
    /// How its requests are scheduled when it is served; what is left out is the server's to say.
    #[serde(default, skip_serializing_if = "Scheduling::is_empty")]
    pub scheduling: Scheduling,
    /// Where the model came from.
    pub source: Source,
    /// Length and digest of every file of the package but the manifest.
    pub files: BTreeMap<String, FileRecord>,
}

/// Inputs and outputs of a model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Signature {
    /// What goes in.
    pub inputs: Vec<TensorSignature>,
    /// What comes out.
    pub outputs: Vec<TensorSignature>,
}

/// One tensor of a signature.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TensorSignature {
    /// Its name on the wire.
    pub name: String,
    /// Its element type in the Open Inference Protocol: `BYTES`, `FP32`.
    pub datatype: String,
    /// Its shape; -1 is the batch.
    pub shape: Vec<i64>,
}

impl Signature {
    /// Texts in, probabilities and the likeliest label out.
    pub fn text_classification(labels: usize) -> Signature {
        let tensor = |name: &str, datatype: &str, shape: Vec<i64>| TensorSignature {
            name: name.to_string(),
            datatype: datatype.to_string(),
            shape,
        };
        Signature {
            inputs: vec![tensor("text", "BYTES", vec![-1])],
            outputs: vec![tensor("probabilities", "FP32", vec![-1, labels as i64]), tensor("label", "BYTES", vec![-1])],
        }
    }
}

/// Where a model came from. No clock and no machine's name: the same recipe, data and seed give the same bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// The program and version that wrote the package.
    pub tool: String,
    /// Digest of the recipe's keys as they took effect, but for where files lie.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recipe_sha256: Option<String>,
    /// The seed of the run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    /// The data files that were read.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub data: Vec<DataFile>,
}

impl Default for Source {
    fn default() -> Source {
        let tool = concat!("tidemill ", env!("CARGO_PKG_VERSION")).to_string();
        Source { tool, recipe_sha256: None, seed: None, data: Vec::new() }
    }
}

/// One data file that a model was trained on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataFile {
    /// Its name without folders.
    pub file: String,
    /// Its length.
    pub bytes: u64,
    /// Its digest.
    pub sha256: String,
}

/// One file of a package.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileRecord {
    /// Its length.
    pub bytes: u64,
    /// Its SHA-256, in lower-case hexadecimal.
    pub sha256: String,
}

impl Manifest {
    /// A manifest of this format for texts in and labels out, that lists no files yet.
    pub fn text_classification(
        name: &str,
        version: &str,
        labels: &[String],
        preprocessing: Preprocessing,
        source: Source,
    ) -> Manifest {
        Manifest {
            format: FORMAT,
            name: name.to_string(),
            version: version.to_string(),
            task: TEXT_CLASSIFICATION.to_string(),
            labels: labels.to_vec(),
            signature: Signature::text_classification(labels.len()),
            preprocessing,
            scheduling: Scheduling::default(),
            source,
            files: BTreeMap::new(),
        }
    }

    /// The text of `tidemill.toml`, digest first.
    pub(crate) fn to_text(&self) -> Result<String, String> {
        self.check()?;
        let body = toml::to_string(self).map_err(|error| error.to_string())?;
        Ok(format!("{DIGEST_START}{}\"\n{body}", sha256(body.as_bytes())))
    }

    /// Reads the text of `tidemill.toml`.
    pub(crate) fn from_text(text: &str, verify: bool) -> Result<Manifest, String> {
        let (first, body) = text.split_once('\n').unwrap_or((text, ""));
        let stated = first
            .strip_prefix(DIGEST_START)
            .and_then(|rest| rest.trim_end_matches('\r').strip_suffix('"'))
            .ok_or("its first line is not its digest: it was changed, or it is not a package's manifest")?;
        if verify && stated != sha256(body.as_bytes()) {
            return Err("it was changed after the package was written: its digest is not the one in its first \
                        line; take an unchanged copy, or pack the model again"
                .to_string());
        }
        // A later format may have keys that this version would call unknown, so its number is read first.
        #[derive(Deserialize)]
        struct Format {
            format: u32,
        }
        let describe = |error: toml::de::Error| format!("it cannot be read: {}", error.to_string().trim_end());
        let Format { format } = toml::from_str(body).map_err(describe)?;
        if format != FORMAT {
            return Err(format!(
                "its format is {format}, and this version of tidemill reads format {FORMAT}; pack the model again"
            ));
        }
        let manifest: Manifest = toml::from_str(body).map_err(describe)?;
        manifest.check()?;
        Ok(manifest)
    }

    fn check(&self) -> Result<(), String> {
        check_name("name", &self.name)?;
        check_name("version", &self.version)?;
        if self.task != TEXT_CLASSIFICATION {
            return Err(format!("its task is {:?}, and only {TEXT_CLASSIFICATION:?} is known", self.task));
        }
        self.scheduling.check().map_err(|(key, problem)| format!("its scheduling.{key} {problem}"))?;
        if self.labels.is_empty() {
            return Err("it names no labels".to_string());
        }
        let mut sorted: Vec<&String> = self.labels.iter().collect();
        sorted.sort();
        if let Some(pair) = sorted.windows(2).find(|pair| pair.first() == pair.last()) {
            return Err(format!("it names the label {:?} twice", pair.first().map_or("", |label| label)));
        }
        self.files.keys().try_for_each(|file| {
            check_name("file", file)?;
            if file == MANIFEST { Err(format!("it lists itself, {MANIFEST}, as a file")) } else { Ok(()) }
        })
    }
}

/// Checks a name that becomes a wire name or a file in a folder: never a path, never hidden. `what` is its role, for the
/// message: `name`, `version`.
///
/// # Errors
/// A sentence that says which characters are allowed.
///
/// ```
/// use tidemill_model::manifest::check_name;
/// assert!(check_name("name", "reviews-2").is_ok());
/// assert!(check_name("name", "../reviews").unwrap_err().contains("is refused"));
/// ```
pub fn check_name(what: &str, name: &str) -> Result<(), String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if (1..=128).contains(&name.len()) && name.chars().all(plain) && !name.starts_with('.') {
        return Ok(());
    }
    Err(format!(
        "the {what} {name:?} is refused: use 1 to 128 letters, digits, \".\", \"_\" and \"-\", not starting with \".\""
    ))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;
    use tidemill_data::{Encoder, TextCleaning, TokenizerConfig};

    fn manifest() -> Manifest {
        let encoder = Encoder::train(&TokenizerConfig::default(), TextCleaning::default(), &mut ["a b"].into_iter());
        let labels = ["no".to_string(), "yes".to_string()];
        let source = Source { seed: Some(7), recipe_sha256: Some("00ff".to_string()), ..Source::default() };
        let preprocessing = encoder.unwrap().preprocessing();
        let mut manifest = Manifest::text_classification("reviews", "1", &labels, preprocessing, source);
        let record = FileRecord { bytes: 3, sha256: sha256(b"abc") };
        manifest.files.insert("config.json".to_string(), record);
        manifest.scheduling.max_batch_size = Some(8);
        manifest
    }

    #[test]
    fn a_manifest_reads_back_as_it_was_written() {
        let text = manifest().to_text().unwrap();
        let again = Manifest::from_text(&text, true).unwrap();
        assert_eq!(again.to_text().unwrap(), text);
        assert_eq!((again.name.as_str(), again.source.seed), ("reviews", Some(7)));
        assert_eq!(again.signature.outputs[0].shape, [-1, 2]);
        assert_eq!(again.scheduling.max_batch_size, Some(8));
    }

    #[test]
    fn every_changed_byte_is_noticed() {
        let text = manifest().to_text().unwrap();
        for at in 0..text.len() {
            let mut bytes = text.clone().into_bytes();
            bytes[at] ^= 1;
            let noticed = String::from_utf8(bytes).is_ok_and(|text| Manifest::from_text(&text, true).is_err());
            assert!(noticed, "byte {at}");
        }
    }

    #[test]
    fn names_that_could_be_paths_and_foreign_formats_are_refused() {
        for name in ["../up", "a/b", ".hidden", "", "a\\b", "a b", "naïve"] {
            let mut wrong = manifest();
            wrong.name = name.to_string();
            assert!(wrong.to_text().unwrap_err().contains("is refused"), "{name}");
            let mut wrong = manifest();
            wrong.files.insert(name.to_string(), FileRecord { bytes: 0, sha256: String::new() });
            assert!(wrong.to_text().is_err(), "{name}");
        }
        let text = manifest().to_text().unwrap().replace("format = 1", "format = 2");
        assert!(Manifest::from_text(&text, false).unwrap_err().contains("format is 2"));
    }
}
