//! One model as the services see it: what it is called, what kind it is, whether it is ready. Each kind has its handle.

use crate::batch::{BatchHandle, Schedule};
use crate::generation::GeneratorHandle;
use crate::identity::IdentityHandle;
use crate::model_info::ModelInfo;
use crate::opaque::OpaqueHandle;
use crate::statistics::Statistics;
use crate::tasks::{EmbedInput, Entity, FoundAnswer, QuestionInput, RerankInput, TextToTextAnswer, TextToTextInput};
use crate::thread::Readiness;

/// A row of probabilities for a text.
pub(crate) type ClassifierHandle = BatchHandle<String, Vec<f32>>;
/// A vector for a text.
pub(crate) type EmbedderHandle = BatchHandle<EmbedInput, Vec<f32>>;
/// A score, any number, for a query and a text.
pub(crate) type RerankerHandle = BatchHandle<RerankInput, f32>;
/// The entities of a text.
pub(crate) type EntitiesHandle = BatchHandle<String, Vec<Entity>>;
/// What a document says to a question.
pub(crate) type AnswererHandle = BatchHandle<QuestionInput, FoundAnswer>;

/// A text for a text.
#[derive(Clone, Debug)]
pub(crate) enum TextToTextHandle {
    /// A model of the program's own that answers whole batches.
    Batch(BatchHandle<TextToTextInput, TextToTextAnswer>),
    /// A checkpoint's, which writes many texts at once token by token.
    Generator(GeneratorHandle),
}

impl TextToTextHandle {
    pub(crate) fn info(&self) -> &ModelInfo {
        match self {
            TextToTextHandle::Batch(handle) => handle.info(),
            TextToTextHandle::Generator(handle) => handle.info(),
        }
    }

    pub(crate) fn readiness(&self) -> &Readiness {
        match self {
            TextToTextHandle::Batch(handle) => handle.readiness(),
            TextToTextHandle::Generator(handle) => handle.readiness(),
        }
    }

    pub(crate) fn statistics(&self) -> &Statistics {
        match self {
            TextToTextHandle::Batch(handle) => handle.statistics(),
            TextToTextHandle::Generator(handle) => handle.statistics(),
        }
    }

    pub(crate) fn close(&self) {
        match self {
            TextToTextHandle::Batch(handle) => handle.close(),
            TextToTextHandle::Generator(handle) => handle.close(),
        }
    }
}

/// A model of any kind.
#[derive(Clone, Debug)]
pub(crate) enum Model {
    Classifier(ClassifierHandle),
    Embedder(EmbedderHandle),
    Reranker(RerankerHandle),
    Entities(EntitiesHandle),
    Answerer(AnswererHandle),
    TextToText(TextToTextHandle),
    Generator(GeneratorHandle),
    Opaque(OpaqueHandle),
    Identity(IdentityHandle),
}

macro_rules! each {
    ($model:expr, $handle:ident => $body:expr) => {
        match $model {
            Model::Classifier($handle) => $body,
            Model::Embedder($handle) => $body,
            Model::Reranker($handle) => $body,
            Model::Entities($handle) => $body,
            Model::Answerer($handle) => $body,
            Model::TextToText($handle) => $body,
            Model::Generator($handle) => $body,
            Model::Opaque($handle) => $body,
            Model::Identity($handle) => $body,
        }
    };
}

impl Model {
    pub(crate) fn info(&self) -> &ModelInfo {
        each!(self, handle => handle.info())
    }

    pub(crate) fn readiness(&self) -> &Readiness {
        each!(self, handle => handle.readiness())
    }

    /// How its requests are scheduled, where they run in batches.
    pub(crate) fn schedule(&self) -> Option<&Schedule> {
        match self {
            Model::Classifier(handle) => Some(handle.schedule()),
            Model::Embedder(handle) => Some(handle.schedule()),
            Model::Reranker(handle) => Some(handle.schedule()),
            Model::Entities(handle) => Some(handle.schedule()),
            Model::Answerer(handle) => Some(handle.schedule()),
            Model::TextToText(TextToTextHandle::Batch(handle)) => Some(handle.schedule()),
            Model::Opaque(handle) => Some(handle.batch.schedule()),
            Model::TextToText(TextToTextHandle::Generator(_)) | Model::Generator(_) | Model::Identity(_) => None,
        }
    }

    /// What it has done.
    pub(crate) fn statistics(&self) -> &Statistics {
        each!(self, handle => handle.statistics())
    }

    /// Takes no more requests; what it has is still served, then the thread ends.
    pub(crate) fn close(&self) {
        each!(self, handle => handle.close());
    }

    /// Leaves what it has: for when there is no more time.
    pub(crate) fn abort(&self) {
        if let Some(handle) = GeneratorHandle::of(self) {
            handle.abort();
        }
    }

    /// What it is for, in the word that the page and its list of models have for it.
    pub(crate) fn task(&self) -> &'static str {
        match self {
            Model::Classifier(_) => ClassifierHandle::TASK,
            Model::Embedder(_) => EmbedderHandle::TASK,
            Model::Reranker(_) => RerankerHandle::TASK,
            Model::Entities(_) => EntitiesHandle::TASK,
            Model::Answerer(_) => AnswererHandle::TASK,
            Model::TextToText(_) => TextToTextHandle::TASK,
            Model::Generator(_) => GeneratorHandle::TASK,
            Model::Opaque(_) => OpaqueHandle::TASK,
            Model::Identity(_) => IdentityHandle::TASK,
        }
    }

    /// What it does, for messages.
    pub(crate) fn does(&self) -> &'static str {
        match self {
            Model::Classifier(_) => ClassifierHandle::DOES,
            Model::Embedder(_) => EmbedderHandle::DOES,
            Model::Reranker(_) => RerankerHandle::DOES,
            Model::Entities(_) => EntitiesHandle::DOES,
            Model::Answerer(_) => AnswererHandle::DOES,
            Model::TextToText(_) => TextToTextHandle::DOES,
            Model::Generator(_) => GeneratorHandle::DOES,
            Model::Opaque(_) => OpaqueHandle::DOES,
            Model::Identity(_) => IdentityHandle::DOES,
        }
    }
}

/// A kind of model that a service can ask for.
pub(crate) trait Kind: Sized {
    /// What such a model does: "the model … {DOES}".
    const DOES: &'static str;

    /// What such a model is for, in one word.
    const TASK: &'static str;

    /// The handle of a model of this kind.
    fn of(model: &Model) -> Option<&Self>;
}

macro_rules! kind {
    ($handle:ty, $variant:ident, $task:literal, $does:literal) => {
        impl Kind for $handle {
            const DOES: &'static str = $does;
            const TASK: &'static str = $task;

            fn of(model: &Model) -> Option<&Self> {
                match model {
                    Model::$variant(handle) => Some(handle),
                    _ => None,
                }
            }
        }
    };
}

kind!(ClassifierHandle, Classifier, "text-classification", "classifies texts");
kind!(EmbedderHandle, Embedder, "embedding", "embeds texts");
kind!(RerankerHandle, Reranker, "rerank", "scores texts by a query");
kind!(EntitiesHandle, Entities, "entities", "finds entities");
kind!(AnswererHandle, Answerer, "question-answering", "answers questions out of documents");
kind!(TextToTextHandle, TextToText, "text-to-text", "turns texts into texts");
kind!(OpaqueHandle, Opaque, "tensors", "takes and gives tensors");
kind!(IdentityHandle, Identity, "identity", "gives tensors back");

impl Kind for GeneratorHandle {
    const DOES: &'static str = "generates text";
    const TASK: &'static str = "generation";

    fn of(model: &Model) -> Option<&Self> {
        match model {
            Model::Generator(handle) | Model::TextToText(TextToTextHandle::Generator(handle)) => Some(handle),
            _ => None,
        }
    }
}
