//! Over-fitting: the training side is learnt by heart.

use super::{Evidence, Finding, Kind, Severity, percent};

/// A gap in accuracy that text classifiers of every kind show when they generalise is a few points;
/// from 10 on regularisation usually pays, from 20 on the training accuracy says nothing any more.
const GAP: f64 = 0.10;
const LARGE_GAP: f64 = 0.20;

/// The validation loss must have risen by a tenth above its lowest point: less is within what
/// batches of another order give.
const RISE: f64 = 0.10;

pub(super) fn find(evidence: &Evidence) -> Option<Finding> {
    by_gap(evidence).or_else(|| by_loss(evidence))
}

/// The training accuracy is far above the evaluated one, and by more than the latter's own
/// uncertainty.
fn by_gap(evidence: &Evidence) -> Option<Finding> {
    let (train, new) = (evidence.train_accuracy()?, evidence.accuracy());
    let gap = train - new;
    if gap < GAP || gap < evidence.half_width(new, evidence.examples()) {
        return None;
    }
    let severity = if gap >= LARGE_GAP { Severity::Serious } else { Severity::Warning };
    let mut sentence = format!(
        "The model gets {} of the training examples right but only {} of the evaluated ones, {:.1} \
         points fewer: it has learnt training examples by heart.",
        percent(train),
        percent(new),
        100.0 * gap
    );
    if let Some((step, best, last)) = risen(evidence) {
        sentence += &format!(" The validation loss was lowest at step {step} ({best:.3}) and ended at {last:.3}.");
    }
    let figures = [("train_accuracy", train), ("accuracy", new), ("gap", gap)];
    Some(Finding::new(Kind::OverFitting, severity, sentence, ADVICE, &figures))
}

/// The validation loss has turned while the training loss went on falling.
fn by_loss(evidence: &Evidence) -> Option<Finding> {
    let (step, best, last) = risen(evidence)?;
    let sentence = format!(
        "The validation loss was lowest at step {step} ({best:.3}) and has risen to {last:.3} \
         since, while the training loss went on falling: what was learnt after that step does not \
         carry over."
    );
    let figures = [("best_step", step as f64), ("best_loss", best), ("last_loss", last)];
    Some(Finding::new(Kind::OverFitting, Severity::Warning, sentence, ADVICE, &figures))
}

const ADVICE: &str = "Stop earlier (early stopping keeps the best checkpoint), raise dropout or \
                      weight decay, take a smaller model, augment the texts, or add training data.";

fn risen(evidence: &Evidence) -> Option<(u64, f64, f64)> {
    let losses = evidence.validation_losses();
    let &(step, best) = losses.iter().min_by(|a, b| a.1.total_cmp(&b.1))?;
    let &(_, last) = losses.last()?;
    let at_best = evidence.history.iter().find(|point| point.step >= step)?.train_loss;
    let at_end = evidence.history.last()?.train_loss;
    (last > best * (1.0 + RISE) && at_end < at_best).then_some((step, best, last))
}
