//! What `xtask` says while it works: bars on a terminal, plain lines anywhere else (CI, a pipe).
//! All of it on standard error.
use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

const PLAIN_EVERY: Duration = Duration::from_secs(10);

/// One long step with a known number of bytes.
#[derive(Debug)]
pub(crate) struct Progress {
    ended: String,
    total: u64,
    position: u64,
    bar: Option<ProgressBar>,
    started: Instant,
    spoken: Instant,
}

impl Progress {
    /// Begins: a bar on a terminal, one line elsewhere. `verbs` is how it is called meanwhile and
    /// afterwards.
    pub(crate) fn begin(verbs: (&str, &str), what: &str, total: u64) -> Progress {
        let label = format!("{} {what}", verbs.0);
        let bar = std::io::stderr().is_terminal().then(|| {
            let style = ProgressStyle::with_template(
                "{msg:<36} {bar:26.cyan/dim} {decimal_bytes:>10} of {decimal_total_bytes} \
                 {decimal_bytes_per_sec:>12} {eta:>4}",
            )
            .unwrap_or_else(|_| ProgressStyle::default_bar());
            ProgressBar::new(total).with_style(style).with_message(label.clone())
        });
        if bar.is_none() {
            eprintln!("  {label} ({})", bytes(total));
        }
        let now = Instant::now();
        Progress { ended: format!("{} {what}", verbs.1), total, position: 0, bar, started: now, spoken: now }
    }

    /// The number of bytes done so far.
    pub(crate) fn set(&mut self, position: u64) {
        self.position = position;
        match &self.bar {
            Some(bar) => {
                bar.set_length(self.total.max(position));
                bar.set_position(position);
            }
            None if self.spoken.elapsed() >= PLAIN_EVERY => {
                self.spoken = Instant::now();
                eprintln!("    {} of {}", bytes(position), bytes(self.total.max(position)));
            }
            None => {}
        }
    }

    /// That many bytes more.
    pub(crate) fn advance(&mut self, more: u64) {
        self.set(self.position.saturating_add(more));
    }

    /// Ends it with one line that stays.
    pub(crate) fn done(self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        done(&format!("{} ({}, {})", self.ended, bytes(self.position), seconds(self.started.elapsed())));
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// A heading between steps.
pub(crate) fn heading(text: &str) {
    eprintln!("\n{}", paint(text, "1"));
}

/// A line that says that something is done.
pub(crate) fn done(text: &str) {
    eprintln!("  {} {text}", paint("✓", "32"));
}

/// A line worth knowing.
pub(crate) fn note(text: &str) {
    eprintln!("  {} {text}", paint("·", "33"));
}

/// The lines with which a failed run ends: what went wrong, and below it why.
pub(crate) fn error(error: &anyhow::Error) {
    eprintln!("{} {error}", paint("error:", "31;1"));
    for cause in error.chain().skip(1) {
        eprintln!("  because: {cause}");
    }
}

/// `text` in an ANSI style where standard error is a terminal that wants colour.
fn paint(text: &str, style: &str) -> String {
    let wanted = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    if wanted && std::io::stderr().is_terminal() { format!("\x1b[{style}m{text}\x1b[0m") } else { text.to_owned() }
}

/// A duration as people say it: `0.4 s`, `12.3 s`, `3 min 07 s`.
pub(crate) fn seconds(duration: Duration) -> String {
    let seconds = duration.as_secs_f64();
    if seconds < 99.95 {
        format!("{seconds:.1} s")
    } else {
        let whole = duration.as_secs();
        format!("{} min {:02} s", whole / 60, whole % 60)
    }
}

/// A size in decimal units: `23 B`, `1.2 kB`, `526.6 MB`.
pub(crate) fn bytes(count: u64) -> String {
    let mut value = count as f64;
    for unit in ["B", "kB", "MB"] {
        if value < 999.95 {
            return if unit == "B" { format!("{count} B") } else { format!("{value:.1} {unit}") };
        }
        value /= 1000.0;
    }
    format!("{value:.1} GB")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_times_read_well() {
        assert_eq!(bytes(23), "23 B");
        assert_eq!(bytes(526_574_961), "526.6 MB");
        assert_eq!(bytes(1_050_000_000), "1.1 GB");
        assert_eq!(seconds(Duration::from_millis(412)), "0.4 s");
        assert_eq!(seconds(Duration::from_secs(187)), "3 min 07 s");
    }
}
