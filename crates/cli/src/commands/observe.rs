//! What the server says of itself while it runs: logs on standard error, and traces to a collector if there is one.

use anyhow::Context as _;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::{SpanExporter, WithExportConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{Sampler, SdkTracerProvider};
use std::time::Duration;
use tidemill_serve::TracesConfig;
use tokio::runtime::Runtime;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer as _};

/// How long spans that are not sent yet may take at the end.
const SENDING_TIME: Duration = Duration::from_secs(2);

/// Sends what is left when it is dropped. To be dropped before the runtime.
pub(super) struct Watch {
    traces: Option<SdkTracerProvider>,
}

impl Drop for Watch {
    fn drop(&mut self) {
        if let Some(traces) = self.traces.take() {
            // Nobody is left to be told.
            let _ = traces.shutdown_with_timeout(SENDING_TIME);
        }
    }
}

/// Starts logs, and traces if they are wanted; spans are sent on `runtime`.
pub(super) fn start(traces: Option<&TracesConfig>, json: bool, runtime: &Runtime) -> anyhow::Result<Watch> {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let log = match json {
        true => log.json().with_span_list(false).with_filter(filter).boxed(),
        false => log.with_ansi(crate::terminal::interactive()).with_filter(filter).boxed(),
    };
    let provider = traces.map(|traces| provider(traces, runtime)).transpose()?;
    let spans = provider.as_ref().map(|provider| {
        opentelemetry::global::set_text_map_propagator(TraceContextPropagator::new());
        opentelemetry::global::set_tracer_provider(provider.clone());
        let tracer = provider.tracer("tidemill");
        tracing_opentelemetry::layer().with_tracer(tracer).with_filter(LevelFilter::INFO)
    });
    tracing_subscriber::registry().with(log).with(spans).init();
    Ok(Watch { traces: provider })
}

fn provider(traces: &TracesConfig, runtime: &Runtime) -> anyhow::Result<SdkTracerProvider> {
    let _runtime = runtime.enter();
    let exporter = SpanExporter::builder().with_tonic().with_endpoint(&traces.endpoint).build();
    let exporter = exporter.with_context(|| format!("traces.endpoint: spans cannot be sent to {}", traces.endpoint))?;
    let resource = match std::env::var_os("OTEL_SERVICE_NAME") {
        Some(_) => Resource::builder(),
        None => Resource::builder().with_service_name("tidemill"),
    };
    Ok(SdkTracerProvider::builder()
        .with_batch_exporter(exporter)
        .with_sampler(Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(traces.share))))
        .with_resource(resource.build())
        .build())
}
