//! What cases came to: the lines in which scripts say so, the table's rows, and the count of all.

/// What a case came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Passed,
    /// It answers as it should, and otherwise than Triton.
    Differs,
    Failed,
}

impl Outcome {
    /// Reads `ok NAME`, `differs NAME: how` or `FAILED NAME: why`: the outcome, and all that follows it. Other lines are
    /// none.
    pub(super) fn read(line: &str) -> Option<(Outcome, &str)> {
        let (word, case) = line.split_once(' ')?;
        let outcome = match word {
            "ok" => Outcome::Passed,
            "differs" => Outcome::Differs,
            "FAILED" => Outcome::Failed,
            _ => return None,
        };
        Some((outcome, case.trim()))
    }
}

/// A row of the table.
pub(super) fn row(client: &str, outcome: Outcome, case: &str) -> String {
    let outcome = match outcome {
        Outcome::Passed => "passed",
        Outcome::Differs => "differs",
        Outcome::Failed => "FAILED",
    };
    format!("{client:<27}{outcome:<9}{case}")
}

/// How many cases came to what; those that failed in their own words.
#[derive(Debug, Default)]
pub(super) struct Tally {
    passed: usize,
    differing: usize,
    failed: Vec<String>,
}

impl Tally {
    pub(super) fn add(&mut self, client: &str, outcome: Outcome, case: &str) {
        match outcome {
            Outcome::Passed => self.passed += 1,
            Outcome::Differs => self.differing += 1,
            Outcome::Failed => self.failed.push(row(client, outcome, case)),
        }
    }

    pub(super) fn failures(&self) -> usize {
        self.failed.len()
    }

    /// One line, and below it what failed.
    pub(super) fn summary(&self) -> String {
        let all = self.passed + self.differing + self.failed.len();
        let mut text = format!("{} of {all} cases passed", self.passed + self.differing);
        if self.differing > 0 {
            text.push_str(&format!(", {} of them answered otherwise than by Triton", self.differing));
        }
        for failed in &self.failed {
            text.push_str("\n    ");
            text.push_str(failed);
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_and_anything_else_is_not_a_case() {
        assert_eq!(Outcome::read("ok ModelInfer: an id"), Some((Outcome::Passed, "ModelInfer: an id")));
        assert_eq!(Outcome::read("FAILED a: it is b"), Some((Outcome::Failed, "a: it is b")));
        assert_eq!(Outcome::read("differs a: here b"), Some((Outcome::Differs, "a: here b")));
        for other in ["", "ok", "okay it is", "npm notice", "failed a"] {
            assert_eq!(Outcome::read(other), None, "{other}");
        }
    }

    #[test]
    fn the_count_ends_with_what_failed() {
        let mut tally = Tally::default();
        tally.add("openai", Outcome::Passed, "chat");
        tally.add("beside Triton", Outcome::Differs, "BOOL: here 1, Triton 2");
        assert_eq!(tally.summary(), "2 of 2 cases passed, 1 of them answered otherwise than by Triton");
        tally.add("openai", Outcome::Failed, "errors: it was answered");
        assert_eq!(tally.failures(), 1);
        assert!(tally.summary().starts_with("2 of 3 cases passed"));
        assert!(tally.summary().ends_with("\n    openai                     FAILED   errors: it was answered"));
    }
}
