//! The learning rate stays at its base.
//!
//! With a warm-up this is `get_constant_schedule_with_warmup` of `transformers`.

use super::{Entry, Schedule};
use crate::settings;
use serde::{Deserialize, Serialize};

pub(super) const ENTRY: Entry = Entry {
    name: "constant",
    summary: "stays at the base learning rate",
    defaults: settings::defaults::<Config>,
    build: |settings, _| {
        let _: Config = settings::parse(settings)?;
        Ok(Box::new(Constant))
    },
};

#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {}

struct Constant;

impl Schedule for Constant {
    fn factor(&self, _: u64) -> f64 {
        1.0
    }
}
