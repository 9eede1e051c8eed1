//! What is compared, within what bounds, and how it is told.

use std::fmt;

use serde_json::{Value, json};
use tch::Tensor;

use crate::case::{Beam, Case, CaseKind};
use crate::subject::{self, Failure};

/// Largest difference of a logit, in float32.
const LOGITS: f64 = 1e-4;
/// Largest difference of a beam's score, and above 1 its share of it: sums of at most 24 logarithms, by their length.
const SCORE: f32 = 1e-3;

/// How many of something agree.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Count {
    same: usize,
    of: usize,
}

impl Count {
    fn add(&mut self, same: bool) {
        self.same += usize::from(same);
        self.of += 1;
    }

    fn is_whole(self) -> bool {
        self.same == self.of
    }
}

impl fmt::Display for Count {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} of {}", self.same, self.of)
    }
}

/// What came out of one case.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) case: String,
    pub(crate) architecture: String,
    /// Whether there is code for it.
    pub(crate) built: bool,
    /// What differs or went wrong.
    pub(crate) problem: Option<String>,
    logits: Option<f64>,
    cached: Option<f64>,
    greedy: Count,
    beams: Count,
    texts: Count,
    exported: bool,
}

impl Report {
    /// Compares all that the case holds.
    pub(crate) fn of(case: &Case) -> Report {
        let mut report = Report {
            case: case.expected.case.clone(),
            architecture: case.expected.architecture.clone(),
            built: true,
            problem: None,
            logits: None,
            cached: None,
            greedy: Count::default(),
            beams: Count::default(),
            texts: Count::default(),
            exported: false,
        };
        let compared = report.compare(case);
        match compared {
            Ok(()) => report.problem = report.difference(),
            Err(Failure::NotBuilt) => {
                report.built = false;
                report.problem = report.difference();
            }
            Err(Failure::Problem(problem)) => report.problem = Some(problem),
        }
        report
    }

    fn compare(&mut self, case: &Case) -> Result<(), Failure> {
        self.compare_texts(case)?;
        if case.expected.kind == CaseKind::Tokenizer {
            return Ok(());
        }
        let subject = subject::open(case)?;
        if !subject.unused.is_empty() {
            return Err(Failure::Problem(format!("tensors that nothing reads: {}", subject.unused.join(", "))));
        }
        if let Some(expected) = &case.logits {
            self.logits = Some(difference(&subject.logits()?, expected)?);
            if case.expected.kind != CaseKind::Encoder {
                self.cached = Some(difference(&subject.cached_logits()?, expected)?);
            }
        }
        self.export(case)?;
        if case.expected.kind == CaseKind::Encoder {
            return Ok(());
        }
        let mut generator = subject.into_generator()?;
        for search in &case.expected.greedy {
            for (found, expected) in generator.greedy(search)?.iter().zip(&search.outputs) {
                self.greedy.add(found == expected);
            }
        }
        for search in &case.expected.beams {
            for (found, expected) in generator.beams(search)?.iter().zip(&search.outputs) {
                self.beams.add(are_same(found, expected));
            }
        }
        Ok(())
    }

    /// Writes the checkpoint for `transformers`, only beside cases that were made for this run: the repository's are not
    /// written to.
    fn export(&mut self, case: &Case) -> Result<(), Failure> {
        if std::env::var_os("TIDEMILL_PARITY").is_some_and(|folder| case.folder.starts_with(folder)) {
            subject::export(case, &case.folder.join("exported"))?;
            self.exported = true;
        }
        Ok(())
    }

    /// Ids with and without special tokens, and the text that ids stand for.
    fn compare_texts(&mut self, case: &Case) -> Result<(), Failure> {
        let tokenizer = subject::tokenizer(case)?;
        for text in &case.expected.texts {
            let encode = |special| tokenizer.encode(text.text.as_str(), special).map(|found| found.get_ids().to_vec());
            let ids = encode(true).map_err(|error| Failure::Problem(error.to_string()))?;
            let plain = encode(false).map_err(|error| Failure::Problem(error.to_string()))?;
            let decoded = tokenizer.decode(&ids, true).map_err(|error| Failure::Problem(error.to_string()))?;
            self.texts.add(ids == text.ids && plain == text.ids_without_special && decoded == text.decoded);
        }
        Ok(())
    }

    fn difference(&self) -> Option<String> {
        let far = |found: Option<f64>| found.is_some_and(|found| found.is_nan() || found > LOGITS);
        let checks = [
            ("logits", !far(self.logits)),
            ("logits with a cache", !far(self.cached)),
            ("greedy search", self.greedy.is_whole()),
            ("beam search", self.beams.is_whole()),
            ("tokeniser ids", self.texts.is_whole()),
        ];
        let differing: Vec<&str> = checks.iter().filter(|(_, agrees)| !agrees).map(|(what, _)| *what).collect();
        (!differing.is_empty()).then(|| format!("{} differ: {self}", differing.join(", ")))
    }

    /// For `cargo xtask parity`.
    pub(crate) fn as_json(&self) -> Value {
        let outcome = match (&self.problem, self.built) {
            (Some(_), _) => "differs",
            (None, false) => "not built yet",
            (None, true) => "agrees",
        };
        let count = |count: Count| (count.of > 0).then(|| count.to_string());
        json!({
            "case": self.case,
            "outcome": outcome,
            "logits": self.logits,
            "cached": self.cached,
            "greedy": count(self.greedy),
            "beams": count(self.beams),
            "texts": count(self.texts),
            "exported": self.exported,
            "problem": self.problem,
        })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let figure = |figure: Option<f64>| figure.map_or_else(|| "-".to_string(), |figure| format!("{figure:.1e}"));
        write!(formatter, "{}: ", self.case)?;
        if !self.built {
            return write!(formatter, "not built yet; tokeniser ids {}", self.texts);
        }
        write!(
            formatter,
            "logits {}, with a cache {}, greedy {}, beams {}, tokeniser ids {}",
            figure(self.logits),
            figure(self.cached),
            self.greedy,
            self.beams,
            self.texts
        )
    }
}

/// The largest absolute difference.
fn difference(found: &Tensor, expected: &Tensor) -> Result<f64, Failure> {
    if found.size() != expected.size() {
        return Err(Failure::Problem(format!("logits {:?} in the place of {:?}", found.size(), expected.size())));
    }
    Ok((found - expected).abs().max().double_value(&[]))
}

fn are_same(found: &[Beam], expected: &[Beam]) -> bool {
    let is_same = |(found, expected): (&Beam, &Beam)| {
        found.tokens == expected.tokens && (found.score - expected.score).abs() <= SCORE * expected.score.abs().max(1.0)
    };
    found.len() == expected.len() && found.iter().zip(expected).all(is_same)
}
