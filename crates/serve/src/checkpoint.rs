//! Opening a checkpoint for serving: what it is served as is decided by its config.

use std::error::Error;
use std::sync::Arc;

use tidemill_model::Checkpoint;
use tidemill_model::decoders::is_decoder;
use tidemill_model::encoder_decoders::is_encoder_decoder;
use tidemill_model::encoders::is_encoder;
use tidemill_model::engine::EngineConfig;
use tidemill_model::tasks::generation::{GenerateRequest, Generator, GeneratorOptions, Input};
use tidemill_model::tasks::{
    Embedder, EmbeddingOptions, EncoderTask, QuestionAnswerer, Reranker, SequenceClassifier, TaskError, TaskOptions,
    TokenClassifier,
};
use tidemill_torch::Precision;

use crate::batch;
use crate::config::{CheckpointPrecision, ServerConfig};
use crate::encoder;
use crate::error::ServeError;
use crate::generation::{self, OpenedGenerator, SamplingConfig};
use crate::metrics::Metrics;
use crate::model::{Model, TextToTextHandle};
use crate::model_info::ModelInfo;
use crate::model_path::ModelPath;
use crate::thread::Loading;

/// The version of every checkpoint: it has none of its own.
const VERSION: &str = "1";

/// Starts a thread that opens the checkpoint and serves it.
pub(crate) fn start(path: ModelPath, config: &ServerConfig, metrics: Arc<Metrics>) -> Result<Loading, ServeError> {
    let checkpoint = Checkpoint::open(&path.path).map_err(|error| fail(&path, &error))?;
    let model_type = checkpoint.config().get("model_type").and_then(|value| value.as_str()).unwrap_or_default();
    if is_decoder(model_type) || is_encoder_decoder(model_type) {
        let wrap = match is_decoder(model_type) {
            true => Model::Generator,
            false => |handle| Model::TextToText(TextToTextHandle::Generator(handle)),
        };
        let (mut options, threads) = (options(config), config.threads().most());
        options.draft = config.draft.clone().filter(|_| is_decoder(model_type));
        return generation::spawn(path.label(), config, metrics, wrap, move || {
            open_generator(&path, &options, threads)
        });
    }
    if is_encoder(model_type) {
        return start_encoder(path, checkpoint, config, metrics);
    }
    let reason = format!("no model of the type {model_type:?} is served");
    Err(ServeError::Open { path: path.path, reason })
}

/// By the task that it was trained for. Opened on the thread that will own it: libtorch and OpenMP keep the number of
/// threads for each calling thread.
fn start_encoder(
    path: ModelPath,
    checkpoint: Checkpoint,
    config: &ServerConfig,
    metrics: Arc<Metrics>,
) -> Result<Loading, ServeError> {
    let precision = config.precision.map(precision);
    let options = TaskOptions::for_checkpoint(&checkpoint, precision).map_err(|error| fail(&path, &error))?;
    let (label, threads) = (path.label(), config.threads().most());
    let info = move |labels: Vec<String>| ModelInfo { name: path.label(), version: version(&path), labels };
    let place = checkpoint.path().to_path_buf();
    let failed = move |error: TaskError| ServeError::Open { path: place.clone(), reason: error.to_string() };
    match EncoderTask::of(&checkpoint) {
        EncoderTask::Embedding => batch::spawn(label, config, metrics, Model::Embedder, move || {
            tidemill_torch::set_threads(threads);
            let options = EmbeddingOptions { model: options, ..EmbeddingOptions::default() };
            let opened = Embedder::from_checkpoint(&checkpoint, &options).and_then(encoder::embedder);
            Ok((info(Vec::new()), opened.map_err(&failed)?))
        }),
        EncoderTask::Reranking => batch::spawn(label, config, metrics, Model::Reranker, move || {
            tidemill_torch::set_threads(threads);
            let opened = Reranker::from_checkpoint(&checkpoint, &options).and_then(encoder::reranker);
            Ok((info(Vec::new()), opened.map_err(&failed)?))
        }),
        EncoderTask::SequenceClassification => batch::spawn(label, config, metrics, Model::Classifier, move || {
            tidemill_torch::set_threads(threads);
            let classifier = SequenceClassifier::from_checkpoint(&checkpoint, &options).map_err(&failed)?;
            let labels = classifier.labels().to_vec();
            Ok((info(labels), encoder::classifier(classifier).map_err(&failed)?))
        }),
        EncoderTask::TokenClassification => batch::spawn(label, config, metrics, Model::Entities, move || {
            tidemill_torch::set_threads(threads);
            let tagger = TokenClassifier::from_checkpoint(&checkpoint, &options).map_err(&failed)?;
            let kinds = tagger.kinds();
            Ok((info(kinds), encoder::entities(tagger).map_err(&failed)?))
        }),
        EncoderTask::QuestionAnswering => batch::spawn(label, config, metrics, Model::Answerer, move || {
            tidemill_torch::set_threads(threads);
            let opened = QuestionAnswerer::from_checkpoint(&checkpoint, &options).and_then(encoder::answerer);
            Ok((info(Vec::new()), opened.map_err(&failed)?))
        }),
    }
}

fn options(config: &ServerConfig) -> GeneratorOptions {
    let mut options = GeneratorOptions {
        precision: config.precision.map(precision),
        max_context: config.max_context,
        engine: EngineConfig {
            max_sequences: config.max_sequences,
            max_waiting: config.max_waiting,
            ..EngineConfig::default()
        },
        ..GeneratorOptions::default()
    };
    options.cache_bytes = config.cache_bytes.unwrap_or(options.cache_bytes);
    options
}

fn precision(precision: CheckpointPrecision) -> Precision {
    match precision {
        CheckpointPrecision::Float32 => Precision::Float32,
        CheckpointPrecision::Bfloat16 => Precision::BFloat16,
        CheckpointPrecision::Int8 => Precision::Int8,
        CheckpointPrecision::Int4 => Precision::Int4,
    }
}

/// Opens a model that generates and lets it do so once, so that what is done once (packing weights, measuring kernels) is done before
/// the first caller waits for it. To be called on the thread that will own the model: libtorch and OpenMP keep the number
/// of threads for each calling thread.
fn open_generator(
    path: &ModelPath,
    options: &GeneratorOptions,
    threads: i32,
) -> Result<(ModelInfo, OpenedGenerator<Generator>), ServeError> {
    tidemill_torch::set_threads(threads);
    let mut generator = Generator::open(&path.path, options).map_err(|error| fail(path, &error))?;
    let preparation = generator.preparation();
    let sampling = SamplingConfig { max_tokens: Some(2), ..SamplingConfig::greedy() };
    let first = GenerateRequest { sampling, ..GenerateRequest::of(Input::Tokens(vec![0])) };
    let prepared = preparation.prepare(&first).map_err(|error| fail(path, &error))?;
    generator.submit(prepared).map_err(|error| fail(path, &error))?;
    while !generator.is_idle() {
        generator.step().map_err(|error| fail(path, &error))?;
    }
    let info = ModelInfo { name: path.label(), version: version(path), labels: Vec::new() };
    Ok((info, OpenedGenerator { generator, preparation }))
}

fn version(path: &ModelPath) -> String {
    path.version.clone().unwrap_or_else(|| VERSION.to_owned())
}

fn fail(path: &ModelPath, error: &dyn Error) -> ServeError {
    ServeError::Open { path: path.path.clone(), reason: error.to_string() }
}
