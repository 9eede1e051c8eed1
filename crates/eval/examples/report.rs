//! Metrics with their intervals, and a report, from plain arrays: no model is needed.
//!
//!     cargo run -p tidemill-eval --example report            # prints the report
//!     cargo run -p tidemill-eval --example report page.html  # and writes it as a page

use std::collections::BTreeMap;
use std::error::Error;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tidemill_eval::{Bootstrap, Context, EvaluationConfig, HistoryPoint, Predictions, Report, Shown, metrics};

const LABELS: [&str; 3] = ["negative", "neutral", "positive"];

fn main() -> Result<(), Box<dyn Error>> {
    let predictions = made_up(600)?;

    let f1 = metrics::find("f1_macro")?;
    let interval = Bootstrap::default().interval(&predictions, f1);
    println!("{} {:.4}, {interval:?}\n", f1.name, (f1.compute)(&predictions)?);

    let context = Context {
        name: "reviews 1".into(),
        side: "test".into(),
        train: BTreeMap::from([("accuracy".into(), 0.97)]),
        history: history(),
        data: None,
    };
    let shown = |example: usize| {
        let text = format!("Made-up review number {example}, with <b>markup</b> that must not show as such.");
        Some(Shown { row: format!("reviews.csv:{}", example + 2), text })
    };
    let config = EvaluationConfig { mistakes: 5, ..EvaluationConfig::default() };
    let report = Report::new(&predictions, &config, context, shown)?;
    println!("{report}");
    if let Some(path) = std::env::args().nth(1) {
        std::fs::write(&path, report.to_html()?)?;
        println!("\nwrote {path}");
    }
    Ok(())
}

/// What a fair classifier that is too sure of itself might say.
fn made_up(n: usize) -> Result<Predictions, Box<dyn Error>> {
    let mut random = ChaCha8Rng::seed_from_u64(1);
    let mut targets = Vec::new();
    let mut probabilities = Vec::new();
    for _ in 0..n {
        let target = [0, 0, 0, 1, 2, 2, 2, 2][random.random_range(0..8)];
        let mut logits = [0.0, -0.6, 0.0].map(|bias| bias + 2.2 * (random.random::<f64>() - 0.5) * 2.0);
        logits[target] += 2.1;
        let exponentials = logits.map(|logit| (1.6 * logit).exp());
        let sum: f64 = exponentials.iter().sum();
        probabilities.extend(exponentials.map(|e| e / sum));
        targets.push(target);
    }
    Ok(Predictions::new(LABELS.map(String::from).to_vec(), targets, probabilities)?)
}

/// A run that learns for six epochs and then learns by heart.
fn history() -> Vec<HistoryPoint> {
    let point = |at: u32| {
        let epoch = f64::from(at) / 2.0;
        let train_loss = 1.1 * (-0.35 * epoch).exp() + 0.03;
        let validation_loss = 0.5 + 0.6 * (-0.6 * epoch).exp() + 0.012 * (epoch - 4.0).max(0.0).powi(2);
        HistoryPoint {
            step: u64::from(at) * 50,
            epoch,
            learning_rate: 1e-3 * (1.0 - epoch / 10.5),
            train_loss,
            train_accuracy: Some(1.0 - 0.62 * (-0.3 * epoch).exp()),
            validation_loss: Some(validation_loss),
            validation_metrics: BTreeMap::from([
                ("accuracy".into(), 0.82 - 0.4 * (-0.6 * epoch).exp()),
                ("f1_macro".into(), 0.78 - 0.45 * (-0.6 * epoch).exp()),
            ]),
        }
    };
    (0..=20).map(point).collect()
}
