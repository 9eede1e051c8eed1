//! The program: arguments in, sentences and exit codes out. What it does is done by the crates below it; nothing here
//! is missing from a program that uses those crates directly.

mod commands;
mod exit;
mod progress;
mod remote;
mod terminal;
mod texts;

use clap::{Parser, Subcommand};
use commands::{
    bench, chat, completions, convert, data, embed, eval, generate, health, inspect, key, new, predict, serve, train,
};

/// Raw data or a checkpoint in, a fast, guarded endpoint out.
///
/// A run starts from a recipe, one TOML file that says everything from source files to metrics. Training leaves a
/// package: a folder that can be evaluated, asked and served.
#[derive(Parser)]
#[command(name = "tidemill", version, after_help = EXAMPLES, propagate_version = true)]
struct Cli {
    /// What to do
    #[command(subcommand)]
    command: Command,

    /// Machine-readable output: one JSON value, or one JSON object a line for what takes time
    #[arg(long, global = true)]
    json: bool,

    /// When to use colour
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto")]
    color: terminal::Colour,
}

const EXAMPLES: &str = "\
Examples:
  tidemill new text-classification > recipe.toml   write a commented recipe, then edit it
  tidemill data recipe.toml                        see what cleaning and splitting would do
  tidemill train recipe.toml --output run          train; again with the same folder: resume
  tidemill eval run/package test.tsv --text 1 --label 2
  tidemill predict run/package 'a fine film'
  tidemill chat SmolLM2-135M-Instruct.Q4_1.gguf    talk to a checkpoint
  tidemill embed all-MiniLM-L6-v2 texts.txt --output vectors.npy
  tidemill convert model-folder model.gguf --type q8_0
  tidemill serve run/package --address 127.0.0.1:8080
  tidemill predict --address 127.0.0.1:8080 --model sentiment 'a fine film'
  tidemill bench 127.0.0.1:8080 --model sentiment --concurrency 1,8,64

Exit codes: 0 done · 1 failed within · 2 input, files or machine refused, with a sentence saying why · 130 interrupted";

#[derive(Subcommand)]
enum Command {
    Train(train::Arguments),
    Eval(eval::Arguments),
    Predict(predict::Arguments),
    Embed(embed::Arguments),
    Generate(Box<generate::Arguments>),
    Chat(Box<chat::Arguments>),
    Convert(convert::Arguments),
    Serve(serve::Arguments),
    Health(health::Arguments),
    Bench(bench::Arguments),
    Key(key::Arguments),
    Inspect(inspect::Arguments),
    Data(data::Arguments),
    New(new::Arguments),
    Completions(completions::Arguments),
}

fn main() -> std::process::ExitCode {
    let cli = Cli::parse();
    terminal::set_colour(cli.color);
    let json = cli.json;
    let outcome = match cli.command {
        Command::Train(arguments) => train::run(arguments, json),
        Command::Eval(arguments) => eval::run(arguments, json),
        Command::Predict(arguments) => predict::run(arguments, json),
        Command::Embed(arguments) => embed::run(arguments, json),
        Command::Generate(arguments) => generate::run(*arguments, json),
        Command::Chat(arguments) => chat::run(*arguments, json),
        Command::Convert(arguments) => convert::run(arguments, json),
        Command::Serve(arguments) => serve::run(arguments, json),
        Command::Health(arguments) => health::run(arguments, json),
        Command::Bench(arguments) => bench::run(arguments, json),
        Command::Key(arguments) => key::run(arguments, json),
        Command::Inspect(arguments) => inspect::run(arguments, json),
        Command::Data(arguments) => data::run(arguments, json),
        Command::New(arguments) => new::run(arguments),
        Command::Completions(arguments) => completions::run(arguments),
    };
    exit::report(outcome, json)
}
