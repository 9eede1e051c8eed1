//! `tidemill convert SOURCE TARGET`: a checkpoint in another form or precision, with what that does to its perplexity.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, bail};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;
use tidemill_model::checkpoint::gguf::{self, GgufOptions, GgufType};
use tidemill_model::checkpoint::{ExportOptions, StoredType, Written, export};
use tidemill_model::decoders;
use tidemill_model::tasks::perplexity::{Perplexity, Windows, of_checkpoint};
use tidemill_model::{Checkpoint, CheckpointForm};

use crate::commands::print_json;
use crate::terminal::{bold, interactive};

/// Write a checkpoint in another form or precision
///
/// From a Hugging Face folder (one file or shards of safetensors) or a .gguf file to either. A folder of floats is what
/// transformers loads; one of int8 or int4 is what tidemill loads. The target appears whole or not at all, and no more
/// than one tensor is in memory at a time.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// A Hugging Face folder, or a .gguf file
    source: PathBuf,

    /// The folder or .gguf file to write
    target: PathBuf,

    /// The form; by default what the target's name says: gguf where it ends so, else safetensors
    #[arg(long, value_name = "FORM")]
    to: Option<Form>,

    /// The type of the weights; by default that of the source's floats, and bfloat16 where it has none
    #[arg(long = "type", value_name = "TYPE", value_enum)]
    stored: Option<Type>,

    /// No file of safetensors is larger; 500MB, 5GB
    #[arg(long, value_name = "SIZE", default_value = "5GB", value_parser = size)]
    max_shard_size: u64,

    /// Measure the perplexity of both on this text
    #[arg(long, value_name = "FILE")]
    perplexity: Option<PathBuf>,

    /// Tokens that the model sees at once when perplexity is measured
    #[arg(long, value_name = "TOKENS", default_value_t = Windows::default().window, requires = "perplexity")]
    window: usize,

    /// Replace the checkpoint that is at the target
    #[arg(long)]
    force: bool,
}

const EXAMPLES: &str = "\
Examples:
  tidemill convert SmolLM2-135M-Instruct.Q4_1.gguf smol           for transformers, in bfloat16
  tidemill convert model-folder model.gguf --type q8_0
  tidemill convert model-folder model-int4 --type int4 --perplexity text.txt
  tidemill convert model-folder shards --type float16 --max-shard-size 2GB

Types: float32, float16 and bfloat16 in both forms; int8 and int4 in safetensors; q8_0, q5_1, q5_0, q4_1 and q4_0 in gguf";

#[derive(Clone, Copy, PartialEq, clap::ValueEnum)]
enum Form {
    /// A Hugging Face folder
    Safetensors,
    /// llama.cpp's single file
    Gguf,
}

#[allow(non_camel_case_types, reason = "the names are the formats' own")]
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Type {
    /// 32 bits
    Float32,
    /// 16 bits, with more digits and less range than bfloat16
    Float16,
    /// 16 bits, with float32's range
    Bfloat16,
    /// Safetensors: 8 bits, in groups
    Int8,
    /// Safetensors: 4 bits, in groups
    Int4,
    /// GGUF: 8 bits
    #[value(name = "q8_0")]
    Q8_0,
    /// GGUF: 5 bits with a minimum
    #[value(name = "q5_1")]
    Q5_1,
    /// GGUF: 5 bits
    #[value(name = "q5_0")]
    Q5_0,
    /// GGUF: 4 bits with a minimum
    #[value(name = "q4_1")]
    Q4_1,
    /// GGUF: 4 bits
    #[value(name = "q4_0")]
    Q4_0,
}

impl Type {
    fn name(self) -> String {
        clap::ValueEnum::to_possible_value(&self).map(|value| value.get_name().to_owned()).unwrap_or_default()
    }

    fn in_safetensors(self) -> anyhow::Result<StoredType> {
        Ok(match self {
            Type::Float32 => StoredType::Float32,
            Type::Float16 => StoredType::Float16,
            Type::Bfloat16 => StoredType::BFloat16,
            Type::Int8 => StoredType::Int8,
            Type::Int4 => StoredType::Int4,
            other => bail!("{} is a type of GGUF; take int8 or int4, or a target that ends with .gguf", other.name()),
        })
    }

    fn in_gguf(self) -> anyhow::Result<GgufType> {
        Ok(match self {
            Type::Float32 => GgufType::F32,
            Type::Float16 => GgufType::F16,
            Type::Bfloat16 => GgufType::BF16,
            Type::Q8_0 => GgufType::Q8_0,
            Type::Q5_1 => GgufType::Q5_1,
            Type::Q5_0 => GgufType::Q5_0,
            Type::Q4_1 => GgufType::Q4_1,
            Type::Q4_0 => GgufType::Q4_0,
            other => bail!("{} is a type of safetensors; in GGUF take q8_0, q4_1 or q4_0", other.name()),
        })
    }
}

/// A size as people write it: a number of bytes, or of KB, MB, GB (powers of ten).
fn size(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic() || c == ' ');
    let factor = match text.get(digits.len()..).map(|unit| unit.trim().to_ascii_uppercase()).as_deref() {
        Some("" | "B") => 1.0,
        Some("KB") => 1e3,
        Some("MB") => 1e6,
        Some("GB") => 1e9,
        _ => return Err("give a size such as 500MB or 5GB".to_owned()),
    };
    match digits.parse::<f64>() {
        Ok(number) if number > 0.0 && number * factor < 1e18 => Ok((number * factor) as u64),
        _ => Err("give a size such as 500MB or 5GB".to_owned()),
    }
}

/// The longest text that perplexity is measured on, in bytes.
const LONGEST_TEXT: u64 = 1 << 30;

pub(crate) fn run(arguments: Arguments, json: bool) -> anyhow::Result<()> {
    let threads = std::thread::available_parallelism().map_or(1, |count| count.get() as i32);
    tidemill_torch::set_threads(threads);
    let Arguments { source, target, max_shard_size, force, .. } = &arguments;
    let ends_so = target.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("gguf"));
    let form = arguments.to.unwrap_or(if ends_so { Form::Gguf } else { Form::Safetensors });
    let checkpoint = Checkpoint::open(source)?;
    let kind = arguments.stored.unwrap_or_else(|| own_type(&checkpoint));
    // What can be refused is refused before anything is written.
    let text = arguments.perplexity.as_deref().map(|file| tokens_of(&checkpoint, file)).transpose()?;
    if target.exists() && !force && !is_empty_folder(target) {
        bail!("{} is there; --force replaces it", target.display());
    }
    let started = Instant::now();
    let bar = Bar::new(json, "B");
    match form {
        Form::Safetensors => {
            let options =
                ExportOptions { stored: kind.in_safetensors()?, shard_bytes: *max_shard_size, replace: *force };
            export(&checkpoint, target, &options, &mut |written| bar.written(written))?;
        }
        Form::Gguf => {
            let options = GgufOptions { stored: kind.in_gguf()?, replace: *force };
            gguf::export(&checkpoint, target, &options, &mut |written| bar.written(written))?;
        }
    }
    drop(bar);
    let (before, after) = (bytes(source)?, bytes(target)?);
    let seconds = started.elapsed().as_secs_f64();
    if !json {
        println!(
            "{}  {} in {}: {} ({} before), {seconds:.1} s",
            bold("written"),
            kind.name(),
            target.display(),
            indicatif::HumanBytes(after),
            indicatif::HumanBytes(before)
        );
    }
    let measured = text.map(|text| measure(&checkpoint, target, &text, arguments.window, json)).transpose()?;
    if let Some((of_source, of_target)) = measured.filter(|_| !json) {
        let (one, other) = (of_source.value(), of_target.value());
        println!("{}  on {} tokens, windows of {}", bold("perplexity"), of_source.tokens, arguments.window);
        println!("  source  {one:.4}\n  target  {other:.4}");
        println!("  loss    {:+.4} ({:+.3} %)", other - one, (other / one - 1.0) * 100.0);
    }
    if json {
        let perplexity = measured.map(|(source, target)| {
            json!({
                "tokens": source.tokens, "window": arguments.window, "source": source.value(),
                "target": target.value(), "loss": target.value() - source.value(),
            })
        });
        print_json(&json!({
            "target": target, "type": kind.name(), "bytes": after, "source_bytes": before, "seconds": seconds,
            "perplexity": perplexity,
        }))?;
    }
    Ok(())
}

/// The type of the source's floats, as its configuration says; bfloat16 for one in blocks.
fn own_type(checkpoint: &Checkpoint) -> Type {
    let config = checkpoint.config();
    match config.get("dtype").or(config.get("torch_dtype")).and_then(|name| name.as_str()) {
        _ if checkpoint.form() == CheckpointForm::Gguf => Type::Bfloat16,
        Some("float32") => Type::Float32,
        Some("float16") => Type::Float16,
        _ => Type::Bfloat16,
    }
}

/// The tokens of a text, by the source's tokeniser.
fn tokens_of(checkpoint: &Checkpoint, file: &Path) -> anyhow::Result<Vec<u32>> {
    let model_type = checkpoint.config().get("model_type").and_then(|name| name.as_str()).unwrap_or_default();
    if !decoders::is_decoder(model_type) {
        bail!("perplexity is of models that go on with a text, and \"{model_type}\" is none; leave --perplexity out");
    }
    let about = fs::metadata(file).with_context(|| file.display().to_string())?;
    if about.len() > LONGEST_TEXT {
        bail!("{}: is longer than {LONGEST_TEXT} bytes; give a part of it", file.display());
    }
    let text = fs::read_to_string(file).with_context(|| file.display().to_string())?;
    let encoding = checkpoint.tokenizer()?.encode(text, true);
    let encoding = encoding.map_err(|error| anyhow::anyhow!("{}: {error}", file.display()))?;
    let tokens = encoding.get_ids().to_vec();
    if tokens.len() < 2 {
        bail!("{}: has {} tokens, too few to measure perplexity", file.display(), tokens.len());
    }
    Ok(tokens)
}

/// The source's perplexity and the target's on the same tokens, each in the precision that it is stored in.
fn measure(
    source: &Checkpoint,
    target: &Path,
    tokens: &[u32],
    window: usize,
    json: bool,
) -> anyhow::Result<(Perplexity, Perplexity)> {
    let windows = Windows { window, stride: (window / 2).max(1) };
    let of = |checkpoint: &Checkpoint| {
        let bar = Bar::new(json, "tokens");
        of_checkpoint(checkpoint, None, tokens, windows, &mut |done, all| bar.at(done as u64, all as u64))
    };
    Ok((of(source)?, of(&Checkpoint::open(target)?)?))
}

fn is_empty_folder(path: &Path) -> bool {
    fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_none())
}

/// The length of a file, or of those directly in a folder.
fn bytes(path: &Path) -> anyhow::Result<u64> {
    let about = fs::metadata(path)?;
    if about.is_file() {
        return Ok(about.len());
    }
    let mut sum = 0;
    for entry in fs::read_dir(path)? {
        let about = entry?.metadata()?;
        sum += if about.is_file() { about.len() } else { 0 };
    }
    Ok(sum)
}

/// How far it is, on standard error, where a person looks on.
struct Bar(ProgressBar);

impl Bar {
    fn new(json: bool, unit: &str) -> Bar {
        if json || !interactive() {
            return Bar(ProgressBar::hidden());
        }
        let counts = if unit == "B" { "{bytes}/{total_bytes}".to_owned() } else { format!("{{pos}}/{{len}} {unit}") };
        let style = ProgressStyle::with_template(&format!("{{bar:24.cyan/dim}} {counts}  {{eta}} left"));
        let style = style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("━╸─");
        Bar(ProgressBar::new(0).with_style(style))
    }

    fn written(&self, written: Written) {
        self.at(written.bytes, written.of);
    }

    fn at(&self, done: u64, all: u64) {
        self.0.set_length(all);
        self.0.set_position(done);
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_people_write_them() {
        assert_eq!((size("5GB"), size("1.5 MB"), size("100")), (Ok(5_000_000_000), Ok(1_500_000), Ok(100)));
        assert!(["", "GB", "-1GB", "5GiB", "many", "1e30GB"].iter().all(|text| size(text).is_err()));
    }
}
