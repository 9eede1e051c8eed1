//! How soon a request is wanted, beside others that wait for the same model.

/// What is wrong with a number that is none.
pub(crate) const PROBLEM: &str = "is no priority; they go from 1, before all others, to 5";

/// From 1, before all others, to [`Priority::LEVELS`]; 3 where nobody says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Priority(u8);

impl Priority {
    /// How many there are.
    pub(crate) const LEVELS: usize = 5;

    /// The priority of this number; `None` where there is none.
    pub(crate) fn new(number: u64) -> Option<Priority> {
        let number = u8::try_from(number).ok()?;
        (1..=Priority::LEVELS).contains(&usize::from(number)).then_some(Priority(number))
    }

    /// Its place among all, from 0.
    pub(crate) fn level(self) -> usize {
        usize::from(self.0 - 1)
    }
}

impl Default for Priority {
    fn default() -> Priority {
        Priority(3)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_from_one_to_the_last_are_priorities() {
        let levels: Vec<_> = (0..=6).filter_map(Priority::new).map(Priority::level).collect();
        assert_eq!(levels, [0, 1, 2, 3, 4]);
        assert_eq!((Priority::new(257), Priority::default().level()), (None, 2));
    }
}
