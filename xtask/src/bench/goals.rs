//! One goal of a bench: the line in which a bench states it, and the table in which people read it.
use anyhow::Result;
use serde::{Deserialize, Serialize};

/// What was measured, and what was wanted.
#[derive(Debug, Deserialize, PartialEq, Serialize)]
pub(crate) struct Goal {
    /// What: shown as it is.
    pub(crate) name: String,
    /// Unit of `peer` and `ours`.
    #[serde(default)]
    pub(crate) unit: String,
    /// The peer's figure; nothing when there is no peer.
    #[serde(default)]
    pub(crate) peer: Option<f64>,
    /// Our figure.
    pub(crate) ours: f64,
    /// The figure that the goal is about, mostly ours by the peer's.
    #[serde(default)]
    pub(crate) ratio: Option<f64>,
    /// The bound.
    #[serde(default)]
    pub(crate) goal: Option<f64>,
    /// Whether it was reached; nothing for a figure without a goal.
    #[serde(default)]
    pub(crate) met: Option<bool>,
    /// Which way is better, `lower` or `higher`.
    #[serde(default)]
    pub(crate) better: Option<String>,
}

/// Reads a line of a bench's output: a goal, or nothing when it is some other line.
pub(crate) fn read(line: &str) -> Result<Option<Goal>> {
    let line = line.trim();
    let is_goal = line.starts_with('{') && line.contains("\"ours\"");
    Ok(if is_goal { Some(serde_json::from_str(line)?) } else { None })
}

/// The goals as aligned lines below a heading.
pub(crate) fn table(goals: &[&Goal]) -> String {
    let heading = ["goal", "peer", "ours", "ratio", "wanted", ""].map(str::to_owned);
    let rows: Vec<[String; 6]> = std::iter::once(heading).chain(goals.iter().map(|goal| row(goal))).collect();
    let mut widths = [0; 6];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
    }
    let lines: Vec<String> = rows
        .iter()
        .map(|row| {
            let cells = row.iter().zip(widths).enumerate().map(|(column, (cell, width))| match column {
                0 | 5 => format!("{cell:<width$}"),
                _ => format!("{cell:>width$}"),
            });
            cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
        })
        .collect();
    lines.join("\n")
}

fn row(goal: &Goal) -> [String; 6] {
    let with_unit = |value: f64| format!("{} {}", figure(value), goal.unit).trim_end().to_owned();
    let sign = match goal.better.as_deref() {
        Some("lower") => "≤ ",
        Some("higher") => "≥ ",
        _ => "",
    };
    let dash = || "-".to_owned();
    [
        goal.name.clone(),
        goal.peer.map_or_else(dash, with_unit),
        with_unit(goal.ours),
        goal.ratio.map_or_else(dash, figure),
        goal.goal.map_or_else(dash, |bound| format!("{sign}{}", figure(bound))),
        match goal.met {
            Some(true) => "met".to_owned(),
            Some(false) => "missed".to_owned(),
            None => String::new(),
        },
    ]
}

/// Four significant digits at most, without an exponent for ordinary sizes.
fn figure(value: f64) -> String {
    let size = value.abs();
    let places = match size {
        _ if size >= 1000.0 => 0,
        _ if size >= 100.0 => 1,
        _ if size >= 10.0 => 2,
        _ => 3,
    };
    if size != 0.0 && size < 0.001 { format!("{value:.2e}") } else { format!("{value:.places$}") }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const LINE: &str = concat!(
        r#"{"name":"text_cnn step","unit":"ms","peer":23.0,"ours":15.25,"#,
        r#""ratio":0.663,"goal":0.75,"met":true,"better":"lower"}"#,
    );

    #[test]
    fn a_goal_is_read_and_other_lines_are_not() {
        let goal = read(LINE).unwrap().unwrap();
        assert_eq!((goal.name.as_str(), goal.peer, goal.met), ("text_cnn step", Some(23.0), Some(true)));
        assert_eq!(read("running 1 test").unwrap(), None);
        assert_eq!(read(r#"{"event":"step"}"#).unwrap(), None);
        assert!(read(r#"{"name":"x","ours":"fast"}"#).is_err());
        let plain = read(r#"{"name":"accuracy","ours":0.812,"peer":null}"#).unwrap().unwrap();
        assert_eq!((plain.peer, plain.met), (None, None));
    }

    #[test]
    fn the_table_is_aligned_and_says_met_or_missed() {
        let goal = read(LINE).unwrap().unwrap();
        let other = Goal {
            name: "x".into(),
            met: Some(false),
            peer: None,
            better: Some("higher".into()),
            ..read(LINE).unwrap().unwrap()
        };
        let text = table(&[&goal, &other]);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[1], "text_cnn step  23.00 ms  15.25 ms  0.663  ≤ 0.750  met");
        assert_eq!(lines[2], "x                     -  15.25 ms  0.663  ≥ 0.750  missed");
    }

    #[test]
    fn figures_have_the_digits_that_matter() {
        assert_eq!(
            ["1234.5", "517.2", "15.25", "0.663"].map(|text| figure(text.parse().unwrap())),
            ["1234", "517.2", "15.25", "0.663"]
        );
        assert_eq!(figure(0.000_012), "1.20e-5");
    }
}
