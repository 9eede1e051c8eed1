//! `tidemill predict`: texts in from arguments, a file or standard input; labels and probabilities out, from a package
//! on disk or from a server by gRPC. Both ways print the same.

use std::io::{BufReader, IsTerminal, Write};
use std::path::PathBuf;

use anyhow::{Context, bail};
use tidemill_client::Client;
use tidemill_client::v1::{Classification, ClassifyRequest};
use tidemill_model::{Pipeline, PipelineOptions};

use crate::remote::TlsArguments;
use crate::texts::lines;

/// Ask a package, or a server, for the labels of texts
///
/// Texts come from the arguments, else from --file, else from standard input, one a line.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// The package's folder, or with --address the first text
    package: Option<String>,

    /// Texts; without any, --file or standard input is read, one text a line
    texts: Vec<String>,

    /// Read texts from this file, one a line
    #[arg(short, long, value_name = "FILE", conflicts_with = "texts")]
    file: Option<PathBuf>,

    /// How to print
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,

    /// Ask the server at this address instead of a package on disk; TIDEMILL_API_KEY holds its key, if it wants one
    #[arg(long, value_name = "[https://]HOST:PORT")]
    address: Option<String>,

    /// The model's name on that server; may be left out when it serves one model
    #[arg(long, value_name = "NAME", requires = "address")]
    model: Option<String>,

    #[command(flatten)]
    tls: TlsArguments,
}

const EXAMPLES: &str = "\
Examples:
  tidemill predict run/package 'a fine film' 'a dull one'
  tidemill predict run/package --file reviews.txt --format csv > labelled.csv
  zcat reviews.gz | tidemill predict run/package --format json
  tidemill predict --address 127.0.0.1:8080 --model sentiment 'a fine film'
  tidemill predict --address https://models.example.org:8080 --ca ca.pem 'a fine film'";

/// What is printed for each text.
#[derive(Clone, Copy, PartialEq, clap::ValueEnum)]
enum Format {
    /// Label, probability and text, aligned
    Text,
    /// One JSON object a line: text, label, probabilities
    Json,
    /// A header, then a row a text: label, a probability for each label, text
    Csv,
}

/// Texts asked at once: enough to fill batches, few enough to print as the input goes on.
const CHUNK: usize = 256;

pub(crate) fn run(mut arguments: Arguments, json: bool) -> anyhow::Result<()> {
    let format = if json { Format::Json } else { arguments.format };
    let mut model = open(&mut arguments)?;
    let texts = texts(arguments)?;
    let mut printer = Printer { format, out: std::io::stdout().lock(), header: false };
    let mut chunk = Vec::with_capacity(CHUNK);
    for text in texts {
        chunk.push(text?);
        if chunk.len() == CHUNK {
            printer.print(&chunk, model.ask(&chunk)?)?;
            chunk.clear();
        }
    }
    if !chunk.is_empty() {
        printer.print(&chunk, model.ask(&chunk)?)?;
    }
    Ok(())
}

/// A model here or behind a server.
enum Model {
    Local(Box<Pipeline>),
    Remote(Box<Remote>),
}

/// A model on a server, and the thread that waits for it.
struct Remote {
    runtime: tokio::runtime::Runtime,
    client: Client,
    name: String,
}

/// Probabilities of one text: label and probability, in the model's order here, most probable first from a server.
type Answer = Vec<(String, f32)>;

fn open(arguments: &mut Arguments) -> anyhow::Result<Model> {
    let Some(address) = &arguments.address else {
        let Some(package) = &arguments.package else {
            bail!("name a package's folder, or a server with --address; see tidemill predict --help");
        };
        return Ok(Model::Local(Box::new(Pipeline::open(package.as_ref(), &PipelineOptions::default())?)));
    };
    if let Some(first) = arguments.package.take() {
        arguments.texts.insert(0, first);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let client = runtime.block_on(crate::remote::connect(address, &arguments.tls))?;
    let name = arguments.model.clone().unwrap_or_default();
    Ok(Model::Remote(Box::new(Remote { runtime, client, name })))
}

impl Model {
    fn ask(&mut self, texts: &[String]) -> anyhow::Result<Vec<Answer>> {
        match self {
            Model::Local(pipeline) => {
                let views: Vec<&str> = texts.iter().map(String::as_str).collect();
                let answers = pipeline.classify(&views)?;
                let named = |c: tidemill_model::Classification| {
                    pipeline.labels().iter().cloned().zip(c.probabilities).collect()
                };
                Ok(answers.into_iter().map(named).collect())
            }
            Model::Remote(remote) => {
                let Remote { runtime, client, name } = remote.as_mut();
                let request = ClassifyRequest { model: name.clone(), texts: texts.to_vec(), ..Default::default() };
                let answer = runtime.block_on(client.classify(request))?;
                let named = |c: Classification| c.labels.into_iter().map(|l| (l.label, l.probability)).collect();
                Ok(answer.classifications.into_iter().map(named).collect())
            }
        }
    }
}

/// The texts, as a stream: standard input may be endless.
fn texts(arguments: Arguments) -> anyhow::Result<Box<dyn Iterator<Item = anyhow::Result<String>>>> {
    if !arguments.texts.is_empty() {
        return Ok(Box::new(arguments.texts.into_iter().map(Ok)));
    }
    if let Some(path) = arguments.file {
        let name = path.display().to_string();
        let file = std::fs::File::open(&path).with_context(|| format!("{name}: cannot be read"))?;
        if file.metadata().is_ok_and(|m| m.is_dir()) {
            bail!("{name}: is a folder; --file takes a file with one text a line");
        }
        return Ok(Box::new(lines(BufReader::new(file), name)));
    }
    if std::io::stdin().is_terminal() {
        eprintln!("reading texts, one a line, until end of input (Ctrl-D)");
    }
    Ok(Box::new(lines(std::io::stdin().lock(), "standard input".into())))
}

struct Printer<W: Write> {
    format: Format,
    out: W,
    header: bool,
}

impl<W: Write> Printer<W> {
    fn print(&mut self, texts: &[String], answers: Vec<Answer>) -> anyhow::Result<()> {
        for (text, mut answer) in texts.iter().zip(answers) {
            let Some(best) = answer.iter().max_by(|a, b| a.1.total_cmp(&b.1)).cloned() else {
                bail!("the model gave no labels");
            };
            match self.format {
                Format::Text => {
                    let label = crate::terminal::bold(&format!("{:<12}", best.0));
                    writeln!(self.out, "{label} {:.3}  {text}", best.1)?;
                }
                Format::Json => {
                    let probabilities: serde_json::Map<_, _> =
                        answer.into_iter().map(|(label, p)| (label, p.into())).collect();
                    let line = serde_json::json!({ "label": best.0, "probabilities": probabilities, "text": text });
                    writeln!(self.out, "{line}")?;
                }
                Format::Csv => {
                    answer.sort_by(|a, b| a.0.cmp(&b.0));
                    self.csv(text, &best.0, &answer)?;
                }
            }
        }
        Ok(self.out.flush()?)
    }

    fn csv(&mut self, text: &str, label: &str, answer: &[(String, f32)]) -> anyhow::Result<()> {
        if !std::mem::replace(&mut self.header, true) {
            let names = answer.iter().map(|(name, _)| quoted(name)).collect::<Vec<_>>().join(",");
            writeln!(self.out, "label,{names},text")?;
        }
        let probabilities = answer.iter().map(|(_, p)| p.to_string()).collect::<Vec<_>>().join(",");
        Ok(writeln!(self.out, "{},{probabilities},{}", quoted(label), quoted(text))?)
    }
}

/// A field as RFC 4180 wants it.
fn quoted(field: &str) -> String {
    if field.contains([',', '"', '\n', '\r']) {
        format!("\"{}\"", field.replace('"', "\"\""))
    } else {
        field.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_quoted_only_where_they_must_be() {
        assert_eq!(quoted("plain text"), "plain text");
        assert_eq!(quoted("a \"fine\", film"), "\"a \"\"fine\"\", film\"");
    }
}
