//! Under-fitting: not even the training side is learnt.

use super::{Evidence, Finding, Kind, Severity, percent};

/// Skill is the share of the way from always guessing the largest class (0) to no mistakes (1). A
/// model with enough capacity and steps passes half of the way on its own training examples unless
/// the labels are noise; below a fifth it has hardly learnt anything.
const LITTLE_SKILL: f64 = 0.5;
const NO_SKILL: f64 = 0.2;

pub(super) fn find(evidence: &Evidence) -> Option<Finding> {
    let train = evidence.train_accuracy()?;
    let (sizes, side) = evidence.class_sizes();
    let total: u64 = sizes.iter().sum();
    let majority = sizes.iter().max().copied()? as f64 / total.max(1) as f64;
    if majority >= 1.0 {
        return None;
    }
    let skill = (train - majority) / (1.0 - majority);
    if skill >= LITTLE_SKILL {
        return None;
    }
    let severity = if skill < NO_SKILL { Severity::Serious } else { Severity::Warning };
    let sentence = format!(
        "The model gets only {} of its own training examples right, where always guessing the \
         largest class ({} of the {side} ones) gets {}: it has not fitted the data.",
        percent(train),
        percent(majority),
        if skill < NO_SKILL { "about as much" } else { "most of that" },
    );
    let advice = "Train longer, raise the learning rate or check that its schedule does not end \
                  too early, take a larger model, lower dropout and weight decay, and look at some \
                  labels: they may be wrong.";
    let figures = [("train_accuracy", train), ("majority_share", majority), ("skill", skill)];
    Some(Finding::new(Kind::UnderFitting, severity, sentence, advice, &figures))
}
