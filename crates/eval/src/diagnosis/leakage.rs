//! Leakage: what is evaluated was seen in training.

use super::{Evidence, Finding, Kind, Severity, count, percent};

/// Human readers of the same text disagree on more than one label in two hundred; a model that does
/// not has most likely seen the answers. Below this many examples it may be luck.
const TOO_GOOD: f64 = 0.995;
const ENOUGH: u64 = 200;

pub(super) fn find(evidence: &Evidence) -> Option<Finding> {
    kept(evidence).or_else(|| too_good(evidence)).or_else(|| dropped(evidence))
}

/// One leaked text is one answer known beforehand, so there is no threshold.
fn kept(evidence: &Evidence) -> Option<Finding> {
    let leaked = evidence.data.as_ref().map(|data| data.leaked).filter(|&leaked| leaked > 0)?;
    let sentence = format!(
        "{} on one side of the split again on another: the evaluation asks about texts that \
         training has seen, and its numbers are too good.",
        if leaked == 1 { "1 text stands".into() } else { count(leaked, "text") + " stand" }
    );
    let advice = "Set split.leakage = \"drop\" (the default), or mend the files at their source, \
                  and train again.";
    let figures = [("leaked", leaked as f64)];
    Some(Finding::new(Kind::Leakage, Severity::Serious, sentence, advice, &figures))
}

fn dropped(evidence: &Evidence) -> Option<Finding> {
    let dropped = evidence.data.as_ref()?.leaked_and_dropped;
    if dropped == 0 {
        return None;
    }
    let sentence = format!(
        "{} stood on more than one side of the split and {} taken off the side that learns; \
         otherwise the evaluation would have asked about texts seen in training.",
        count(dropped, "text"),
        if dropped == 1 { "was" } else { "were" }
    );
    let advice = "Nothing needs doing for this report. Compare with published numbers with care: \
                  those may include the overlap.";
    let figures = [("dropped", dropped as f64)];
    Some(Finding::new(Kind::Leakage, Severity::Note, sentence, advice, &figures))
}

fn too_good(evidence: &Evidence) -> Option<Finding> {
    let (accuracy, n) = (evidence.accuracy(), evidence.examples());
    if accuracy < TOO_GOOD || n < ENOUGH || evidence.majority() >= TOO_GOOD {
        return None;
    }
    let sentence = format!(
        "{} of {} are right, which is more than labels of text usually allow: the answer may be in \
         the text, or the same sources on both sides of the split.",
        percent(accuracy),
        count(n, "example")
    );
    let advice = "Look for the label's own words in the texts, and split by group (author, \
                  document, thread) so that one source stays on one side.";
    let figures = [("accuracy", accuracy), ("examples", n as f64)];
    Some(Finding::new(Kind::Leakage, Severity::Warning, sentence, advice, &figures))
}
