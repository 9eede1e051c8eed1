//! Training that stopped while the model was still getting better.

use super::{Evidence, Finding, Kind, Severity};

/// Measurements of the validation loss that make a trend.
const POINTS: usize = 4;

/// The last quarter of the run must have brought the loss down by this share; less is not worth the
/// time.
const STILL: f64 = 0.02;

pub(super) fn find(evidence: &Evidence) -> Option<Finding> {
    let losses = evidence.validation_losses();
    let &(step, last) = losses.last().filter(|_| losses.len() >= POINTS)?;
    let lowest = losses.iter().map(|(_, loss)| *loss).fold(f64::INFINITY, f64::min);
    let (from, before) = losses[losses.len() - 1 - (losses.len() / 4).max(1)];
    let fall = (before - last) / before;
    if last > lowest || before <= 0.0 || fall < STILL {
        return None;
    }
    let sentence = format!(
        "The validation loss was lowest at the very end (step {step}, {last:.3}) and fell by {:.1} \
         % since step {from} ({before:.3}): training stopped while it still helped.",
        100.0 * fall
    );
    let advice = "Train longer; with early stopping a larger number of epochs costs nothing when \
                  it does not help.";
    let figures = [("last_loss", last), ("earlier_loss", before), ("fall", fall)];
    Some(Finding::new(Kind::StillImproving, Severity::Warning, sentence, advice, &figures))
}
