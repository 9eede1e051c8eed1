//! A training run as a person or a program follows it: a live bar on a terminal, plain lines elsewhere, JSON lines with
//! `--json`. What happens is the run's; only how it looks is decided here.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;
use tidemill_eval::HistoryPoint;
use tidemill_train::{Event, Observer};

use crate::terminal::{bold, green, yellow};

/// The observer for this terminal: a bar, lines or JSON.
pub(crate) fn observer(json: bool) -> Box<dyn Observer> {
    if json {
        Box::new(Json { last: Instant::now() })
    } else {
        Box::new(Screen { bar: None, last: Instant::now(), live: crate::terminal::interactive() })
    }
}

/// How often a line is printed where no bar can be drawn.
const LINE_EVERY: Duration = Duration::from_secs(10);

struct Screen {
    bar: Option<ProgressBar>,
    last: Instant,
    live: bool,
}

impl Observer for Screen {
    fn event(&mut self, event: &Event<'_>) {
        match event {
            Event::Prepared { report } => self.say(format!("{}\n{report}", bold("Data"))),
            Event::Started { step, steps, steps_per_epoch, rows, parameters } => {
                let from = if *step > 0 { format!(", resumed at step {step}") } else { String::new() };
                self.say(format!(
                    "{}  {rows} rows, {parameters} parameters, {steps} steps, {steps_per_epoch} an epoch{from}",
                    bold("Training")
                ));
                self.bar = self.live.then(|| bar(*steps, *step));
            }
            Event::Step { step, of, epoch, loss, accuracy, samples_per_second, time_left, .. } => {
                let figures = format!(
                    "epoch {epoch}  loss {loss:.4}  accuracy {:5.1} %  {samples_per_second:.0} samples/s  {}",
                    accuracy * 100.0,
                    left(*time_left)
                );
                if let Some(bar) = &self.bar {
                    bar.set_position(*step);
                    bar.set_message(figures);
                } else if self.last.elapsed() >= LINE_EVERY || step == of {
                    self.last = Instant::now();
                    self.say(format!("step {step}/{of}  {figures}"));
                }
            }
            Event::Validated { step, point, best } => {
                let mark = if *best { green("best so far") } else { String::new() };
                self.say(format!("  step {step:>6}  {}  {mark}", validation(point)));
            }
            Event::Warning { message } => self.say(format!("{} {message}", yellow("warning:"))),
            Event::Evaluating { side, rows } => {
                if let Some(bar) = self.bar.take() {
                    bar.finish_and_clear();
                }
                self.say(format!("{}  on the {side} side, {rows} rows", bold("Evaluation")));
            }
            _ => {}
        }
    }
}

impl Screen {
    fn say(&self, text: String) {
        match &self.bar {
            Some(bar) => bar.println(text.trim_end()),
            None => eprintln!("{}", text.trim_end()),
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

fn bar(steps: u64, at: u64) -> ProgressBar {
    let bar = ProgressBar::new(steps).with_position(at);
    let style = ProgressStyle::with_template("{bar:24.cyan/dim} {pos}/{len}  {wide_msg}");
    bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("━╸─"))
}

fn left(time: Option<Duration>) -> String {
    match time.map(|t| t.as_secs()) {
        None => String::new(),
        Some(seconds) if seconds < 60 => format!("{seconds} s left"),
        Some(seconds) => format!("{} min {:02} s left", seconds / 60, seconds % 60),
    }
}

fn validation(point: &HistoryPoint) -> String {
    let loss = point.validation_loss.map(|loss| format!("validation loss {loss:.4}"));
    let metrics = point.validation_metrics.iter().map(|(name, value)| format!("{name} {value:.4}"));
    loss.into_iter().chain(metrics).collect::<Vec<_>>().join("  ")
}

struct Json {
    last: Instant,
}

impl Observer for Json {
    fn event(&mut self, event: &Event<'_>) {
        let line = match event {
            Event::Prepared { report } => json!({ "event": "prepared", "report": report }),
            Event::Started { step, steps, steps_per_epoch, rows, parameters } => json!({
                "event": "started", "step": step, "steps": steps, "steps_per_epoch": steps_per_epoch, "rows": rows,
                "parameters": parameters,
            }),
            Event::Step { step, of, epoch, loss, accuracy, learning_rate, samples_per_second, time_left } => {
                if self.last.elapsed() < Duration::from_secs(1) && step != of {
                    return;
                }
                self.last = Instant::now();
                json!({
                    "event": "step", "step": step, "of": of, "epoch": epoch, "loss": loss, "accuracy": accuracy,
                    "learning_rate": learning_rate, "samples_per_second": samples_per_second,
                    "seconds_left": time_left.map(|t| t.as_secs_f64()),
                })
            }
            Event::Validated { step, point, best } => {
                json!({ "event": "validated", "step": step, "best": best, "point": point })
            }
            Event::Saved { step, .. } => json!({ "event": "saved", "step": step }),
            Event::Warning { message } => json!({ "event": "warning", "message": message }),
            Event::Evaluating { side, rows } => json!({ "event": "evaluating", "side": side, "rows": rows }),
            _ => return,
        };
        println!("{line}");
    }
}
