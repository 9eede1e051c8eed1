//! What the server counts and measures, as Prometheus reads it at `/metrics`. One registry a server, so that two servers
//! of one process do not mix. Labels are models, versions, methods, outcomes, statuses and reasons: nothing that a caller can
//! make up.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use metrics::{Counter, Gauge, Histogram, Key, KeyName, Label, Level, Metadata, Recorder as _, SharedString};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusRecorder};
use metrics_process::Collector;
use tonic::Code;

use crate::model_info::ModelInfo;
use crate::refusal::status_name;

/// Seconds, from a step of the engine to a long answer.
const SECONDS: [f64; 17] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0];
/// Texts in a batch, or sequences in a step.
const SIZES: [f64; 10] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0];

/// How often samples are folded into their histograms, so that they do not pile up on a server that nobody reads.
pub(crate) const UPKEEP: Duration = Duration::from_secs(5);

const METADATA: Metadata<'static> = Metadata::new("tidemill_serve", Level::INFO, None);

/// The registry of one server.
pub(crate) struct Metrics {
    recorder: PrometheusRecorder,
    process: Collector,
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Metrics")
    }
}

impl Metrics {
    /// An empty registry, its metrics described.
    pub(crate) fn new() -> Result<Metrics, BuildError> {
        let recorder = PrometheusBuilder::new()
            .set_buckets(&SECONDS)?
            .set_buckets_for_metric(Matcher::Full("tidemill_batch_size".to_owned()), &SIZES)?
            .build_recorder();
        let metrics = Metrics { recorder, process: Collector::default() };
        metrics.describe();
        Ok(metrics)
    }

    /// Everything, in Prometheus's text format; what the process takes is looked up now.
    pub(crate) fn render(&self) -> String {
        metrics::with_local_recorder(&self.recorder, || self.process.collect());
        self.recorder.handle().render()
    }

    /// To be called every [`UPKEEP`].
    pub(crate) fn upkeep(&self) {
        self.recorder.handle().run_upkeep();
    }

    /// The requests of one version of a model.
    pub(crate) fn requests(self: &Arc<Metrics>, info: &ModelInfo) -> RequestMetrics {
        let seconds = self.histogram("tidemill_model_request_seconds", of(info));
        RequestMetrics { metrics: Arc::clone(self), labels: of(info), seconds }
    }

    /// What one version of a model keeps in memory: 0 when it is let go.
    pub(crate) fn memory(&self, info: &ModelInfo) -> Gauge {
        self.gauge("tidemill_model_memory_bytes", of(info))
    }

    /// Of one version of a model that answers batches.
    pub(crate) fn batch(&self, info: &ModelInfo) -> BatchMetrics {
        let labels = || of(info);
        BatchMetrics {
            waiting: self.gauge("tidemill_requests_waiting", labels()),
            queue: self.histogram("tidemill_queue_seconds", labels()),
            compute: self.histogram("tidemill_compute_seconds", labels()),
            batch_size: self.histogram("tidemill_batch_size", labels()),
            tokens: self.counter("tidemill_prompt_tokens_total", labels()),
        }
    }

    /// Of one version of a model that generates.
    pub(crate) fn generation(&self, info: &ModelInfo) -> GenerationMetrics {
        let labels = || of(info);
        GenerationMetrics {
            waiting: self.gauge("tidemill_requests_waiting", labels()),
            running: self.gauge("tidemill_sequences_running", labels()),
            cache_used: self.gauge("tidemill_cache_used_ratio", labels()),
            cache_blocks: self.gauge("tidemill_cache_blocks", labels()),
            queue: self.histogram("tidemill_queue_seconds", labels()),
            first_token: self.histogram("tidemill_time_to_first_token_seconds", labels()),
            per_token: self.histogram("tidemill_time_per_token_seconds", labels()),
            step: self.histogram("tidemill_compute_seconds", labels()),
            batch_size: self.histogram("tidemill_batch_size", labels()),
            prompt_tokens: self.counter("tidemill_prompt_tokens_total", labels()),
            shared_tokens: self.counter("tidemill_shared_prompt_tokens_total", labels()),
            generated_tokens: self.counter("tidemill_generated_tokens_total", labels()),
            drafted_tokens: self.counter("tidemill_drafted_tokens_total", labels()),
            accepted_tokens: self.counter("tidemill_accepted_tokens_total", labels()),
            preemptions: self.counter("tidemill_preemptions_total", labels()),
        }
    }

    /// Of a version that is asked beside those that answer.
    pub(crate) fn shadow(&self, model: &str, version: &str) -> ShadowMetrics {
        let outcome = |outcome| {
            let labels = vec![
                Label::new("model", model.to_owned()),
                Label::new("version", version.to_owned()),
                Label::from_static_parts("outcome", outcome),
            ];
            self.counter("tidemill_shadow_requests_total", labels)
        };
        ShadowMetrics {
            agreed: outcome("agreed"),
            differed: outcome("differed"),
            uncompared: outcome("uncompared"),
            failed: outcome("failed"),
            dropped: outcome("dropped"),
        }
    }

    /// Requests that are open.
    pub(crate) fn open_requests(&self) -> Gauge {
        self.gauge("tidemill_open_requests", Vec::new())
    }

    /// A request of `method` that ended after `took`: `outcome` is `ok`, or why it was rejected.
    pub(crate) fn ended(&self, method: &'static str, outcome: &'static str, took: Duration) {
        let labels = vec![Label::from_static_parts("method", method), Label::from_static_parts("outcome", outcome)];
        self.counter("tidemill_requests_total", labels).increment(1);
        self.histogram("tidemill_request_seconds", vec![Label::from_static_parts("method", method)]).record(took);
        if outcome != "ok" {
            let labels = vec![Label::from_static_parts("reason", outcome)];
            self.counter("tidemill_rejections_total", labels).increment(1);
        }
    }

    /// A request that was refused before its method was looked at.
    pub(crate) fn refused(&self, reason: &'static str) {
        self.counter("tidemill_rejections_total", vec![Label::from_static_parts("reason", reason)]).increment(1);
    }

    fn counter(&self, name: &'static str, labels: Vec<Label>) -> Counter {
        self.recorder.register_counter(&Key::from_parts(name, labels), &METADATA)
    }

    fn gauge(&self, name: &'static str, labels: Vec<Label>) -> Gauge {
        self.recorder.register_gauge(&Key::from_parts(name, labels), &METADATA)
    }

    fn histogram(&self, name: &'static str, labels: Vec<Label>) -> Histogram {
        self.recorder.register_histogram(&Key::from_parts(name, labels), &METADATA)
    }

    fn describe(&self) {
        metrics::with_local_recorder(&self.recorder, || self.process.describe());
        let text = SharedString::const_str;
        let counters = [
            ("tidemill_requests_total", "Inference requests that ended, by method and outcome"),
            (
                "tidemill_model_requests_total",
                "Requests of a model that ended, by the gRPC status that they ended with",
            ),
            ("tidemill_rejections_total", "Inference requests that were not answered, by reason"),
            ("tidemill_prompt_tokens_total", "Tokens that were read"),
            ("tidemill_shared_prompt_tokens_total", "Prompt tokens whose keys and values were in the cache already"),
            ("tidemill_generated_tokens_total", "Tokens that were generated"),
            ("tidemill_drafted_tokens_total", "Tokens that were guessed ahead"),
            ("tidemill_accepted_tokens_total", "Tokens that were guessed ahead and turned out right"),
            ("tidemill_shadow_requests_total", "Requests put to a shadow version besides, by what came of it"),
            ("tidemill_preemptions_total", "Requests that gave their cache up to others and started again"),
        ];
        for (name, help) in counters {
            self.recorder.describe_counter(KeyName::from_const_str(name), None, text(help));
        }
        let gauges = [
            ("tidemill_open_requests", "Inference requests that are open"),
            ("tidemill_requests_waiting", "Texts or requests that wait for the model"),
            ("tidemill_sequences_running", "Sequences that generate"),
            ("tidemill_cache_used_ratio", "The part of the key-value cache that is held"),
            ("tidemill_cache_blocks", "Blocks of the key-value cache"),
            ("tidemill_model_memory_bytes", "What a model keeps in memory: its weights, and the cache that it holds"),
        ];
        for (name, help) in gauges {
            self.recorder.describe_gauge(KeyName::from_const_str(name), None, text(help));
        }
        let histograms = [
            ("tidemill_request_seconds", "From a request's headers to the end of its answer"),
            ("tidemill_model_request_seconds", "From a request's arrival at a model to the end of its answer"),
            ("tidemill_queue_seconds", "From a request's arrival to the start of work on it"),
            ("tidemill_compute_seconds", "A batch, or a step of the engine, in the model"),
            ("tidemill_batch_size", "Texts in a batch, or sequences in a step"),
            ("tidemill_time_to_first_token_seconds", "From a request's arrival to its first token"),
            ("tidemill_time_per_token_seconds", "From a token of an answer to the next"),
        ];
        for (name, help) in histograms {
            self.recorder.describe_histogram(KeyName::from_const_str(name), None, text(help));
        }
    }
}

fn of(info: &ModelInfo) -> Vec<Label> {
    vec![Label::new("model", info.name.clone()), Label::new("version", info.version.clone())]
}

/// The requests of one version of a model.
#[derive(Clone, Debug)]
pub(crate) struct RequestMetrics {
    metrics: Arc<Metrics>,
    labels: Vec<Label>,
    seconds: Histogram,
}

impl RequestMetrics {
    /// One ended, with this status, after `took`.
    pub(crate) fn ended(&self, status: Code, took: Duration) {
        let mut labels = self.labels.clone();
        labels.push(Label::from_static_parts("status", status_name(status)));
        self.metrics.counter("tidemill_model_requests_total", labels).increment(1);
        self.seconds.record(took);
    }
}

/// Of one version of a model that answers batches.
#[derive(Clone)]
pub(crate) struct BatchMetrics {
    pub(crate) waiting: Gauge,
    pub(crate) queue: Histogram,
    pub(crate) compute: Histogram,
    pub(crate) batch_size: Histogram,
    pub(crate) tokens: Counter,
}

/// Of a version that is asked beside those that answer.
#[derive(Clone)]
pub(crate) struct ShadowMetrics {
    /// Its answer was that of the version that answered.
    pub(crate) agreed: Counter,
    /// It was another.
    pub(crate) differed: Counter,
    /// It answered, and the two are not compared.
    pub(crate) uncompared: Counter,
    /// It did not answer.
    pub(crate) failed: Counter,
    /// It was not asked: it has as many requests as it takes.
    pub(crate) dropped: Counter,
}

impl fmt::Debug for ShadowMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ShadowMetrics")
    }
}

/// Of one version of a model that generates.
#[derive(Clone)]
pub(crate) struct GenerationMetrics {
    pub(crate) waiting: Gauge,
    pub(crate) running: Gauge,
    pub(crate) cache_used: Gauge,
    pub(crate) cache_blocks: Gauge,
    pub(crate) queue: Histogram,
    pub(crate) first_token: Histogram,
    pub(crate) per_token: Histogram,
    pub(crate) step: Histogram,
    pub(crate) batch_size: Histogram,
    pub(crate) prompt_tokens: Counter,
    pub(crate) shared_tokens: Counter,
    pub(crate) generated_tokens: Counter,
    pub(crate) drafted_tokens: Counter,
    pub(crate) accepted_tokens: Counter,
    pub(crate) preemptions: Counter,
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_is_measured_is_rendered_with_its_description() {
        let metrics = Arc::new(Metrics::new().unwrap());
        let info = ModelInfo { name: "a \"model\"".to_owned(), version: "2".to_owned(), labels: Vec::new() };
        metrics.batch(&info).batch_size.record(3.0);
        metrics.requests(&info).ended(Code::ResourceExhausted, Duration::from_millis(2));
        metrics.ended("/v1/rerank", "invalid", Duration::from_millis(20));
        metrics.upkeep();
        let text = metrics.render();
        for line in [
            "# HELP tidemill_batch_size Texts in a batch, or sequences in a step",
            "# TYPE tidemill_batch_size histogram",
            r#"tidemill_batch_size_bucket{model="a \"model\"",version="2",le="4"} 1"#,
            r#"tidemill_model_requests_total{model="a \"model\"",version="2",status="RESOURCE_EXHAUSTED"} 1"#,
            r#"tidemill_model_request_seconds_bucket{model="a \"model\"",version="2",le="0.0025"} 1"#,
            "# TYPE process_resident_memory_bytes gauge",
            r#"tidemill_requests_total{method="/v1/rerank",outcome="invalid"} 1"#,
            r#"tidemill_rejections_total{reason="invalid"} 1"#,
            r#"tidemill_request_seconds_bucket{method="/v1/rerank",le="0.01"} 0"#,
            r#"tidemill_request_seconds_bucket{method="/v1/rerank",le="0.025"} 1"#,
        ] {
            assert!(text.contains(line), "{line}\n{text}");
        }
    }
}
