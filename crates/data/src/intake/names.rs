//! Labels as they come in, numbered; and their final order.

use std::collections::HashMap;

use crate::error::{RowProblem, listed, nearest, shortened};
use crate::examples::NO_LABEL;

/// Labels at most; more mean that another column was named.
pub(super) const MOST_LABELS: usize = 10_000;

/// Labels as they come, numbered.
pub(super) struct Names {
    numbers: HashMap<String, u32>,
    names: Vec<String>,
    fixed: bool,
}

pub(super) enum Numbered {
    Known(u32),
    Unknown,
    Full,
}

impl Names {
    pub(super) fn new(fixed: Option<&[String]>) -> Self {
        let names = fixed.unwrap_or_default().to_vec();
        let numbers = names.iter().cloned().zip(0..).collect();
        Self { numbers, names, fixed: fixed.is_some() }
    }

    pub(super) fn number(&mut self, label: &str, may_be_new: bool) -> Numbered {
        if let Some(number) = self.numbers.get(label) {
            return Numbered::Known(*number);
        }
        if self.fixed || !may_be_new {
            return Numbered::Unknown;
        }
        if self.names.len() >= MOST_LABELS {
            return Numbered::Full;
        }
        let number = u32::try_from(self.names.len()).unwrap_or(NO_LABEL);
        self.names.push(label.to_owned());
        self.numbers.insert(label.to_owned(), number);
        Numbered::Known(number)
    }

    pub(super) fn unknown(&self, label: &str) -> RowProblem {
        let names = || self.names.iter().map(String::as_str);
        RowProblem::UnknownLabel {
            label: shortened(label).into(),
            known: listed(names()).into(),
            nearest: nearest(label, names()).map(Into::into),
        }
    }

    /// The names in their final order (fixed, or sorted: numbers by value, then texts), and old numbers to new.
    pub(super) fn finish(self) -> (Vec<String>, Vec<u32>) {
        let mut order: Vec<usize> = (0..self.names.len()).collect();
        if !self.fixed {
            let numbers: Option<Vec<f64>> =
                self.names.iter().map(|name| name.parse().ok().filter(|number: &f64| number.is_finite())).collect();
            match numbers {
                Some(numbers) => order.sort_by(|a, b| numbers[*a].total_cmp(&numbers[*b]).then(a.cmp(b))),
                None => order.sort_by(|a, b| self.names[*a].cmp(&self.names[*b])),
            }
        }
        let mut renumbered = vec![0; order.len()];
        for (new, old) in (0..).zip(&order) {
            renumbered[*old] = new;
        }
        (order.into_iter().map(|old| self.names[old].clone()).collect(), renumbered)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_sorted_as_numbers_or_as_texts() {
        let order = |names: &[&str]| {
            let mut table = Names::new(None);
            for name in names {
                table.number(name, true);
            }
            table.finish()
        };
        assert_eq!(order(&["10", "9", "-1"]), (vec!["-1".into(), "9".into(), "10".into()], vec![2, 1, 0]));
        assert_eq!(order(&["b", "10", "9"]).0, ["10", "9", "b"]);
        let fixed = ["z".to_owned(), "a".to_owned()];
        let mut table = Names::new(Some(&fixed));
        assert!(matches!(table.number("q", true), Numbered::Unknown));
        assert_eq!(table.finish().0, fixed);
    }
}
