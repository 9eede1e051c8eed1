//! The report of the cleaning steps: how many rows each touched, and the first few of them.

use super::Kept;
use crate::clean::{Case, CleanConfig, Missing, Step, TextCleaning, TooLong, Unicode};
use crate::schema::DataConfig;
use crate::summary::{Effect, StepReport};

/// Steps that drop a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Which {
    MissingText,
    MissingLabel,
    MissingTime,
    Outside,
    Empty,
    TooShort,
    TooLong,
}

impl Which {
    const ALL: [Self; 7] = [
        Self::MissingText,
        Self::MissingLabel,
        Self::MissingTime,
        Self::Outside,
        Self::Empty,
        Self::TooShort,
        Self::TooLong,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::MissingText => "text missing",
            Self::MissingLabel => "label missing",
            Self::MissingTime => "time missing",
            Self::Outside => "label in none of the intervals",
            Self::Empty => "empty",
            Self::TooShort => "too short",
            Self::TooLong => "too long",
        }
    }
}

/// The report of every step that is on.
pub(super) struct Steps {
    filled: [StepReport; 2],
    changed: [StepReport; 6],
    dropped: [StepReport; 7],
    on: Vec<String>,
}

impl Steps {
    pub(super) fn new(data: &DataConfig, clean: &CleanConfig, needs_time: bool) -> Self {
        let filled = ["text filled in", "label filled in"];
        let fills = match &clean.missing {
            Missing::Fill { text, label } => [text.is_some(), label.is_some()],
            _ => [false; 2],
        };
        let labelled = data.label.is_some();
        let text = clean.text();
        let mut on: Vec<String> = Vec::new();
        on.extend(filled.iter().zip(fills).filter(|(_, on)| *on).map(|(name, _)| (*name).to_owned()));
        on.extend(Step::ALL.iter().filter(|step| is_on(**step, &text)).map(|step| step.summary().to_owned()));
        on.extend(Which::ALL.iter().filter_map(|which| {
            let on = match which {
                Which::MissingText => clean.missing != Missing::Stop,
                Which::MissingLabel => labelled && clean.missing != Missing::Stop,
                Which::MissingTime => needs_time && clean.missing != Missing::Stop,
                Which::Outside => data.label.as_ref().is_some_and(|label| !label.cut.is_empty()),
                Which::Empty => clean.min_chars > 0,
                Which::TooShort => clean.min_chars > 1,
                Which::TooLong => clean.max_chars.is_some() && clean.too_long == TooLong::Drop,
            };
            on.then(|| which.name().to_owned())
        }));
        Self {
            filled: filled.map(|name| StepReport::new(name, Effect::Filled)),
            changed: Step::ALL.map(|step| StepReport::new(step.summary(), Effect::Changed)),
            dropped: Which::ALL.map(|which| StepReport::new(which.name(), Effect::Dropped)),
            on,
        }
    }

    pub(super) fn wants(&self, which: Which) -> bool {
        self.dropped.get(which as usize).is_some_and(StepReport::wants_example)
    }

    pub(super) fn dropped(&mut self, which: Which, row: Option<String>, raw: &str) {
        if let Some(step) = self.dropped.get_mut(which as usize) {
            step.rows += 1;
            if let Some(row) = row {
                step.example(row, raw, "");
            }
        }
    }

    pub(super) fn kept(&mut self, kept: &Kept<'_>, row: impl Fn() -> String, raw: &str, cleaning: &TextCleaning) {
        for (step, filled) in self.filled.iter_mut().zip(kept.filled) {
            if filled {
                step.rows += 1;
                step.example(row(), "", &kept.text);
            }
        }
        let mut wanted = false;
        for (i, step) in self.changed.iter_mut().enumerate() {
            if kept.touched & 1 << i != 0 {
                step.rows += 1;
                wanted |= step.wants_example();
            }
        }
        if wanted {
            cleaning.traced(raw, |step, before, after| {
                if let Some(step) = self.changed.get_mut(step as usize) {
                    step.example(row(), before, after);
                }
            });
        }
    }

    pub(super) fn finish(self) -> Vec<StepReport> {
        let all = self.filled.into_iter().chain(self.changed).chain(self.dropped);
        all.filter(|step| step.rows > 0 || self.on.contains(&step.step)).collect()
    }
}

pub(super) fn is_on(step: Step, cleaning: &TextCleaning) -> bool {
    match step {
        Step::Html => cleaning.html,
        Step::Unicode => cleaning.unicode != Unicode::None,
        Step::Control => cleaning.control,
        Step::WhiteSpace => cleaning.white_space,
        Step::Case => cleaning.case != Case::Keep,
        Step::Truncate => cleaning.max_chars.is_some(),
    }
}
