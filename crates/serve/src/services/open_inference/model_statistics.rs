//! What models have done, as Triton's clients read it.

use std::time::{Duration, UNIX_EPOCH};

use tidemill_proto::inference::{InferBatchStatistics, InferStatistics, ModelStatistics, StatisticDuration};

use crate::model::Model;
use crate::statistics::{Numbers, Total};

/// The statistics of one version of a model.
pub(super) fn of(model: &Model) -> ModelStatistics {
    let (info, numbers) = (model.info(), model.statistics().now());
    let Numbers { answered, failed, queued, computed, items, batches, last } = numbers;
    let last = last.and_then(|time| time.duration_since(UNIX_EPOCH).ok()).unwrap_or_default();
    let batch = |(size, total): (usize, Total)| InferBatchStatistics {
        batch_size: size as u64,
        compute_input: Some(beside(total)),
        compute_infer: Some(duration(total)),
        compute_output: Some(beside(total)),
    };
    ModelStatistics {
        name: info.name.clone(),
        version: info.version.clone(),
        last_inference: u64::try_from(last.as_millis()).unwrap_or(u64::MAX),
        inference_count: items,
        execution_count: computed.count,
        inference_stats: Some(InferStatistics {
            success: Some(duration(answered)),
            fail: Some(duration(failed)),
            queue: Some(duration(queued)),
            compute_input: Some(beside(computed)),
            compute_infer: Some(duration(computed)),
            compute_output: Some(beside(computed)),
            cache_hit: Some(StatisticDuration::default()),
            cache_miss: Some(StatisticDuration::default()),
        }),
        batch_stats: batches.into_iter().map(batch).collect(),
        memory_usage: Vec::new(),
    }
}

fn duration(total: Total) -> StatisticDuration {
    StatisticDuration { count: total.count, ns: nanoseconds(total.time) }
}

// Putting a batch together and taking it apart is not measured by itself, but perf_analyzer ends unless all three parts of
// computing happened as often.
fn beside(computed: Total) -> StatisticDuration {
    StatisticDuration { count: computed.count, ns: 0 }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
