//! Models on libtorch: layers, text classifiers, encoders and their tasks, weights on disk, packages and pipelines.
//!
//! A model is built from a configuration and [`Parameters`]; a [`Package`] is a folder that holds a trained one with its
//! tokeniser; a [`Pipeline`] is an open package that turns texts into probabilities; the [`tasks`] open a [`Checkpoint`]
//! of an encoder and turn texts into vectors, labels, entities, answers or words. This crate knows nothing of sockets
//! or optimisers, and every libtorch error becomes a typed error.

pub mod architectures;
pub mod checkpoint;
pub mod config;
pub mod decoders;
pub mod encoder_decoders;
pub mod encoders;
pub mod engine;
mod error;
pub mod files;
pub mod generation;
mod init;
pub mod layers;
pub mod manifest;
pub mod opaque;
pub mod package;
mod parameters;
mod pipeline;
pub mod tasks;
mod text_input;
pub mod weights;

pub use architectures::TextClassifier;
pub use checkpoint::{Checkpoint, CheckpointError, CheckpointForm};
pub use error::{ModelError, WeightsError};
pub use init::{Init, UnknownInit};
pub use manifest::Manifest;
pub use package::{Package, PackageError, PackageParts};
pub use parameters::{Parameters, Path};
pub use pipeline::{Classification, Pipeline, PipelineError, PipelineOptions};
pub use text_input::TextInput;
pub use weights::{TensorSource, Weights};
