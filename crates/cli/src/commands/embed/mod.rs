//! `tidemill embed MODEL FILE`: texts in, a vector for each out, as JSON lines or as one array that NumPy reads.

mod array_file;

use std::fs::File;
use std::io::{BufReader, BufWriter, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, bail};
use serde_json::{Map, Value, json};
use tidemill_model::Checkpoint;
use tidemill_model::tasks::{Embedder, EmbeddingOptions, EmbeddingPooling, TaskError, TaskOptions};
use tidemill_torch::Precision;

use crate::commands::{print_json, use_threads};
use crate::exit::Internal;
use crate::texts::lines;
use array_file::ArrayFile;

/// Turn texts into vectors by an encoder
///
/// Texts come from FILE or standard input: one a line, or with --column (and from files that end in .jsonl) one a JSON
/// object. Pooling, further layers, the length of vectors, prompts and the longest text are as the checkpoint's
/// modules.json and its other files say; longer texts are cut.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// The checkpoint: a Hugging Face folder of BERT, DistilBERT, RoBERTa, XLM-RoBERTa or ModernBERT
    model: PathBuf,

    /// The texts; without it, or with -, standard input
    file: Option<PathBuf>,

    /// The texts are JSON objects, one a line, and this is the key of the text
    #[arg(long, value_name = "KEY")]
    column: Option<String>,

    /// Where the vectors go: .npy, .safetensors (a tensor "embeddings") or .jsonl; without it JSON lines are printed
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,

    /// The checkpoint's prompt of this name before every text
    #[arg(long, value_name = "NAME")]
    prompt: Option<String>,

    /// How token vectors become one, instead of what the checkpoint says
    #[arg(long, value_enum)]
    pooling: Option<Pooling>,

    /// Give vectors the length 1, whatever the checkpoint says
    #[arg(long, conflicts_with = "no_normalise")]
    normalise: bool,

    /// Leave vectors the length that they have
    #[arg(long)]
    no_normalise: bool,

    /// The precision of the model; by default as its weights are stored
    #[arg(long, value_enum)]
    precision: Option<PrecisionArgument>,

    /// Tokens that are kept of a text
    #[arg(long, value_name = "TOKENS")]
    max_length: Option<usize>,

    /// Threads that libtorch uses; by default all that this process may use
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(i32).range(1..))]
    threads: Option<i32>,
}

const EXAMPLES: &str = "\
Examples:
  tidemill embed all-MiniLM-L6-v2 texts.txt --output vectors.npy
  tidemill embed e5-base queries.jsonl --column question --prompt query > vectors.jsonl
  echo 'a fine film' | tidemill embed all-MiniLM-L6-v2 --precision bfloat16

From texts a line of output is {\"text\": …, \"embedding\": […]}, from JSON objects the object with \"embedding\" added.";

#[derive(Clone, Copy, clap::ValueEnum)]
enum Pooling {
    /// The mean of all tokens
    Mean,
    /// The first token's
    Cls,
    /// The last token's
    LastToken,
    /// The largest of every number
    Max,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum PrecisionArgument {
    /// 32 bits
    Float32,
    /// 16 bits, with float32's range: about half the time where the processor has it
    Bfloat16,
}

/// Texts embedded at once: enough to sort by length, few enough to print as the input goes on.
const CHUNK: usize = 1024;

/// Where the text is in an object of a file that ends in .jsonl.
const USUAL_COLUMN: &str = "text";

pub(crate) fn run(arguments: Arguments, json: bool) -> anyhow::Result<()> {
    use_threads(arguments.threads);
    let embedder = open(&arguments)?;
    let mut sink = Sink::open(arguments.output.as_deref(), embedder.dimension())?;
    let started = Instant::now();
    let mut chunk = Vec::with_capacity(CHUNK);
    let mut count = 0_usize;
    for row in rows(&arguments)? {
        chunk.push(row?);
        if chunk.len() == CHUNK {
            count += embed(&embedder, &arguments, &mut chunk, count, &mut sink)?;
        }
    }
    count += embed(&embedder, &arguments, &mut chunk, count, &mut sink)?;
    sink.finish()?;
    let (seconds, dimension) = (started.elapsed().as_secs_f64(), embedder.dimension());
    if json && arguments.output.is_some() {
        return print_json(&json!({ "texts": count, "dimension": dimension, "seconds": seconds }));
    }
    if std::io::stderr().is_terminal() {
        let speed = count as f64 / seconds.max(1e-9);
        eprintln!("{count} texts, {dimension} numbers each, in {seconds:.1} s ({speed:.0} texts/s)");
    }
    Ok(())
}

fn open(arguments: &Arguments) -> anyhow::Result<Embedder> {
    let checkpoint = Checkpoint::open(&arguments.model)?;
    let precision = arguments.precision.map(|precision| match precision {
        PrecisionArgument::Float32 => Precision::Float32,
        PrecisionArgument::Bfloat16 => Precision::BFloat16,
    });
    let pooling = arguments.pooling.map(|pooling| match pooling {
        Pooling::Mean => EmbeddingPooling::Mean,
        Pooling::Cls => EmbeddingPooling::Cls,
        Pooling::LastToken => EmbeddingPooling::LastToken,
        Pooling::Max => EmbeddingPooling::Max,
    });
    let model = TaskOptions::for_checkpoint(&checkpoint, precision)?;
    let model = TaskOptions { max_length: arguments.max_length, ..model };
    let normalised = arguments.normalise.then_some(true).or(arguments.no_normalise.then_some(false));
    Ok(Embedder::from_checkpoint(&checkpoint, &EmbeddingOptions { model, pooling, normalised })?)
}

/// One text, and the object that it stands in.
struct Row {
    text: String,
    object: Map<String, Value>,
}

/// The texts, as a stream: standard input may be endless.
fn rows(arguments: &Arguments) -> anyhow::Result<Box<dyn Iterator<Item = anyhow::Result<Row>>>> {
    let file = arguments.file.as_deref().filter(|file| *file != Path::new("-"));
    let is_json = file.is_some_and(|file| file.extension().is_some_and(|ending| ending == "jsonl"));
    let column = arguments.column.clone().or(is_json.then(|| USUAL_COLUMN.to_owned()));
    let name = file.map_or("standard input".to_owned(), |file| file.display().to_string());
    let lines: Box<dyn Iterator<Item = anyhow::Result<String>>> = match file {
        Some(path) => {
            let opened = File::open(path).with_context(|| format!("{name}: cannot be read"))?;
            if opened.metadata().is_ok_and(|about| about.is_dir()) {
                bail!("{name}: is a folder; give a file of texts");
            }
            Box::new(lines(BufReader::new(opened), name.clone()))
        }
        None => {
            if std::io::stdin().is_terminal() {
                eprintln!("reading texts, one a line, until end of input (Ctrl-D)");
            }
            Box::new(lines(std::io::stdin().lock(), name.clone()))
        }
    };
    Ok(Box::new(lines.enumerate().map(move |(index, line)| match &column {
        None => line.map(|text| Row { object: Map::from_iter([("text".to_owned(), json!(text))]), text }),
        Some(column) => object(&line?, column).with_context(|| format!("{name}, line {}", index + 1)),
    })))
}

fn object(line: &str, column: &str) -> anyhow::Result<Row> {
    let object: Map<String, Value> = serde_json::from_str(line).context("not a JSON object")?;
    match object.get(column) {
        Some(Value::String(text)) => Ok(Row { text: text.clone(), object }),
        Some(_) => bail!("{column:?} is not a text"),
        None => {
            let keys: Vec<&str> = object.keys().map(String::as_str).take(20).collect();
            bail!("there is no {column:?}; there are: {}. Name the text's key with --column", keys.join(", "))
        }
    }
}

/// Embeds what has gathered and writes it; gives how many texts there were.
fn embed(
    embedder: &Embedder,
    arguments: &Arguments,
    chunk: &mut Vec<Row>,
    before: usize,
    sink: &mut Sink,
) -> anyhow::Result<usize> {
    let texts: Vec<&str> = chunk.iter().map(|row| row.text.as_str()).collect();
    let vectors = match &arguments.prompt {
        Some(prompt) => embedder.embed_with_prompt(&texts, prompt),
        None => embedder.embed(&texts),
    };
    let vectors = vectors.map_err(|error| match error {
        TaskError::Model(error) => Internal(error.to_string()).into(),
        other => anyhow::Error::from(other).context(format!("texts {} to {}", before + 1, before + texts.len())),
    })?;
    let count = chunk.len();
    for (row, vector) in chunk.drain(..).zip(vectors) {
        sink.write(row, &vector)?;
    }
    sink.flush()?;
    Ok(count)
}

/// A line of output: the object, and its vector in numbers of 32 bits.
#[derive(serde::Serialize)]
struct Embedded<'a> {
    #[serde(flatten)]
    object: &'a Map<String, Value>,
    embedding: &'a [f32],
}

/// Where vectors go.
enum Sink {
    Lines(Box<dyn Write>),
    Array(ArrayFile),
}

impl Sink {
    fn open(output: Option<&Path>, width: usize) -> anyhow::Result<Sink> {
        let Some(path) = output else { return Ok(Sink::Lines(Box::new(std::io::stdout().lock()))) };
        let context = || format!("{}: cannot be written", path.display());
        match path.extension().and_then(|ending| ending.to_str()) {
            Some("npy") => Ok(Sink::Array(ArrayFile::npy(path, width).with_context(context)?)),
            Some("safetensors") => Ok(Sink::Array(ArrayFile::safetensors(path, width).with_context(context)?)),
            Some("jsonl") => Ok(Sink::Lines(Box::new(BufWriter::new(File::create(path).with_context(context)?)))),
            _ => bail!("{}: give a file that ends in .npy, .safetensors or .jsonl", path.display()),
        }
    }

    fn write(&mut self, mut row: Row, vector: &[f32]) -> anyhow::Result<()> {
        match self {
            Sink::Array(array) => Ok(array.push(vector)?),
            Sink::Lines(out) => {
                row.object.remove("embedding");
                serde_json::to_writer(&mut *out, &Embedded { object: &row.object, embedding: vector })?;
                Ok(writeln!(out)?)
            }
        }
    }

    fn flush(&mut self) -> anyhow::Result<()> {
        match self {
            Sink::Lines(out) => Ok(out.flush()?),
            Sink::Array(_) => Ok(()),
        }
    }

    fn finish(self) -> anyhow::Result<()> {
        match self {
            Sink::Lines(mut out) => Ok(out.flush()?),
            Sink::Array(array) => Ok(array.finish()?),
        }
    }
}
