//! Texts to vectors, as the `sentence-transformers` library makes them: pooling, further layers and the length of the
//! vectors by the checkpoint's `modules.json`.

use std::borrow::Cow;
use std::path::Path;
use std::sync::Arc;

use tch::{Kind, Tensor};
use tidemill_torch::Activation;
use tidemill_torch::encode::{self, Pooling};

use super::text_model::{TextModel, check_finite, rows_of};
use super::{TaskError, TaskOptions, TextPreparation, TooLong};
use crate::checkpoint::{self, Checkpoint, SentenceModule, SentenceModuleKind, SentenceTransformer};
use crate::layers::flat::{FusedLinear, TokenRow};
use crate::parameters::Parameters;

/// How token vectors become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EmbeddingPooling {
    /// The mean.
    Mean,
    /// The first token's.
    Cls,
    /// The last token's.
    LastToken,
    /// The largest of every number.
    Max,
}

/// How a checkpoint is opened for embedding.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EmbeddingOptions {
    /// What every task has.
    pub model: TaskOptions,
    /// Instead of what the checkpoint says; the mean where it says nothing.
    pub pooling: Option<EmbeddingPooling>,
    /// Whether vectors have the length 1, instead of what the checkpoint says; not where it says nothing.
    pub normalised: Option<bool>,
}

/// A checkpoint that gives every text a vector.
///
/// # Example
/// ```no_run
/// use tidemill_model::tasks::{Embedder, EmbeddingOptions};
///
/// let embedder = Embedder::open("models/all-MiniLM-L6-v2".as_ref(), &EmbeddingOptions::default())?;
/// let vectors = embedder.embed(&["a good film", "an enjoyable movie"])?;
/// let alike: f32 = vectors[0].iter().zip(&vectors[1]).map(|(a, b)| a * b).sum();
/// assert!(alike > 0.7);
/// # Ok::<(), tidemill_model::tasks::TaskError>(())
/// ```
pub struct Embedder {
    model: TextModel,
    poolings: Vec<Pooling>,
    /// What follows on pooling.
    layers: Vec<FusedLinear>,
    normalised: bool,
    preparation: Arc<EmbeddingPreparation>,
    dimension: usize,
}

/// From texts to the ids that an [`Embedder`] reads, with the checkpoint's prompts and letter case; on any thread.
#[derive(Debug)]
pub struct EmbeddingPreparation {
    texts: Arc<TextPreparation>,
    about: SentenceTransformer,
}

impl EmbeddingPreparation {
    /// The ids of a text, with the checkpoint's usual prompt if it has one.
    ///
    /// # Errors
    /// As [`TextPreparation::ids`], and when the usual prompt is not one of the prompts.
    pub fn ids(&self, text: &str, too_long: TooLong) -> Result<Vec<u32>, TaskError> {
        self.texts.ids(&self.dressed(text, self.prompt(None)?), too_long)
    }

    /// The ids of a text that comes as tokens, without special ones and without a prompt.
    ///
    /// # Errors
    /// As [`TextPreparation::framed`].
    pub fn framed(&self, tokens: &[u32], too_long: TooLong) -> Result<Vec<u32>, TaskError> {
        self.texts.framed(tokens, too_long)
    }

    /// The prompt of this name, or the usual one.
    fn prompt(&self, name: Option<&str>) -> Result<&str, TaskError> {
        let Some(name) = name.or(self.about.default_prompt_name.as_deref()) else { return Ok("") };
        self.about.prompts.get(name).map(String::as_str).ok_or_else(|| {
            let names: Vec<&str> = self.about.prompts.keys().map(String::as_str).collect();
            let nearest = tidemill_data::nearest(name, names.iter().copied());
            let nearest = nearest.map(|nearest| format!("; did you mean \"{nearest}\"?")).unwrap_or_default();
            TaskError::Input(format!("there is no prompt \"{name}\"{nearest} (there are: {})", names.join(", ")))
        })
    }

    /// As the library hands it to the tokeniser: behind the prompt, without white space around it.
    fn dressed<'a>(&self, text: &'a str, prompt: &str) -> Cow<'a, str> {
        let trimmed = match prompt {
            "" => Cow::Borrowed(text.trim()),
            prompt => Cow::Owned(format!("{prompt}{text}").trim().to_string()),
        };
        if self.about.do_lower_case { Cow::Owned(trimmed.to_lowercase()) } else { trimmed }
    }
}

impl Embedder {
    /// Opens the checkpoint in a folder.
    ///
    /// # Errors
    /// [`TaskError`] that names the file, key or tensor and says what to do.
    pub fn open(folder: &Path, options: &EmbeddingOptions) -> Result<Embedder, TaskError> {
        Embedder::from_checkpoint(&Checkpoint::open(folder)?, options)
    }

    /// The same for one that is open.
    ///
    /// # Errors
    /// As [`Embedder::open`].
    pub fn from_checkpoint(checkpoint: &Checkpoint, options: &EmbeddingOptions) -> Result<Embedder, TaskError> {
        let model = TextModel::open(checkpoint, None, &options.model)?;
        let about = checkpoint.sentence_transformer().cloned().unwrap_or_default();
        let width = usize::try_from(model.model.shape().width).unwrap_or_default();
        let (mut poolings, mut layers, mut normalised, mut dimension) = (Vec::new(), Vec::new(), false, width);
        for module in &about.modules {
            match &module.kind {
                SentenceModuleKind::Transformer => {}
                SentenceModuleKind::Pooling(pooling) => {
                    poolings = poolings_of(*pooling, &about)?;
                    dimension = width * poolings.len();
                }
                SentenceModuleKind::Dense(dense) => {
                    layers.push(layer_of(checkpoint, module, dense, dimension, &options.model)?);
                    dimension = dense.out_features;
                }
                SentenceModuleKind::Normalize => normalised = true,
                SentenceModuleKind::Other(class) => {
                    return Err(TaskError::Input(format!(
                        "modules.json has a step {class}, which is not known; known are Transformer, Pooling, Dense and \
                         Normalize"
                    )));
                }
            }
        }
        if let Some(chosen) = options.pooling {
            if !layers.is_empty() && poolings.len() != 1 {
                let problem = "the checkpoint's layers behind pooling fit its own pooling alone";
                return Err(TaskError::Input(problem.to_string()));
            }
            dimension = if layers.is_empty() { width } else { dimension };
            poolings = vec![match chosen {
                EmbeddingPooling::Mean => Pooling::Mean,
                EmbeddingPooling::Cls => Pooling::First,
                EmbeddingPooling::LastToken => Pooling::Last,
                EmbeddingPooling::Max => Pooling::Max,
            }];
        }
        if poolings.is_empty() {
            poolings.push(Pooling::Mean);
        }
        let normalised = options.normalised.unwrap_or(normalised);
        let preparation = Arc::new(EmbeddingPreparation { texts: Arc::clone(&model.preparation), about });
        Ok(Embedder { model, poolings, layers, normalised, preparation, dimension })
    }

    /// Numbers in a vector.
    pub fn dimension(&self) -> usize {
        self.dimension
    }

    /// Whether vectors have the length 1.
    pub fn is_normalised(&self) -> bool {
        self.normalised
    }

    /// Tokens that are kept of a text, special ones included.
    pub fn max_length(&self) -> usize {
        self.model.preparation.max_length()
    }

    /// What makes ids of texts; for any thread.
    pub fn preparation(&self) -> Arc<EmbeddingPreparation> {
        Arc::clone(&self.preparation)
    }

    /// The names of the prompts that the checkpoint has: "query", "passage".
    pub fn prompts(&self) -> impl Iterator<Item = &str> {
        self.preparation.about.prompts.keys().map(String::as_str)
    }

    /// One vector a text, in the order given, with the checkpoint's usual prompt if it has one. Texts that are too long
    /// are cut.
    ///
    /// # Errors
    /// [`TaskError`]; the embedder stays usable.
    pub fn embed(&self, texts: &[&str]) -> Result<Vec<Vec<f32>>, TaskError> {
        self.embed_behind(texts, self.preparation.prompt(None)?)
    }

    /// As [`Embedder::embed`], with the prompt of this name.
    ///
    /// # Errors
    /// [`TaskError::Input`] when there is none of this name.
    pub fn embed_with_prompt(&self, texts: &[&str], prompt: &str) -> Result<Vec<Vec<f32>>, TaskError> {
        self.embed_behind(texts, self.preparation.prompt(Some(prompt))?)
    }

    fn embed_behind(&self, texts: &[&str], prompt: &str) -> Result<Vec<Vec<f32>>, TaskError> {
        let dressed: Vec<Cow<'_, str>> = texts.iter().map(|text| self.preparation.dressed(text, prompt)).collect();
        let ids = self.model.preparation.tokenizer.ids(&dressed, self.max_length())?;
        self.embed_ids(&ids.iter().collect::<Vec<_>>())
    }

    /// One vector for each list of ids, special ones included, as [`Embedder::preparation`] makes them.
    ///
    /// # Errors
    /// [`TaskError`]; the embedder stays usable.
    pub fn embed_ids(&self, ids: &[&[u32]]) -> Result<Vec<Vec<f32>>, TaskError> {
        let rows: Vec<TokenRow<'_>> = ids.iter().map(|ids| TokenRow::of(ids)).collect();
        let mut vectors: Vec<Vec<f32>> = vec![Vec::new(); ids.len()];
        self.model.each_pass(&rows, |pass| {
            let pooled = self.pool(pass.hidden, pass.batch.bounds())?;
            for (&text, vector) in pass.texts.iter().zip(rows_of(&pooled)?) {
                check_finite(&vector, text, ids.len())?;
                if let Some(place) = vectors.get_mut(text) {
                    *place = vector;
                }
            }
            Ok(())
        })?;
        Ok(vectors)
    }

    /// `[tokens, width]` → `[texts, dimension]`, float32.
    fn pool(&self, hidden: &Tensor, bounds: &[i64]) -> Result<Tensor, TaskError> {
        let at_once = self.normalised && self.layers.is_empty() && self.poolings.len() == 1;
        let pooled = self.poolings.iter().map(|&pooling| encode::pool(hidden, bounds, pooling, at_once));
        let mut pooled = pooled.collect::<Result<Vec<_>, _>>()?;
        let mut vectors = match (pooled.pop(), pooled.is_empty()) {
            (Some(only), true) => only,
            (Some(last), false) => {
                pooled.push(last);
                Tensor::f_cat(&pooled, 1)?
            }
            (None, _) => return Err(TaskError::Input("the model has no pooling".to_string())),
        };
        for layer in &self.layers {
            vectors = layer.forward(&vectors)?;
        }
        if self.normalised && !at_once {
            vectors = vectors.f_to_kind(Kind::Float)?.f_contiguous()?;
            encode::normalise_rows(&mut vectors)?;
        }
        Ok(vectors)
    }
}

impl std::fmt::Debug for Embedder {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "Embedder({} numbers a text)", self.dimension)
    }
}

/// Several poolings are put one after another, in the library's order.
fn poolings_of(pooling: checkpoint::Pooling, about: &SentenceTransformer) -> Result<Vec<Pooling>, TaskError> {
    if pooling.weighted_mean {
        let problem = "the checkpoint's pooling is \"weightedmean\", which is not known here";
        return Err(TaskError::Input(problem.to_string()));
    }
    if !pooling.include_prompt && about.prompts.values().any(|prompt| !prompt.is_empty()) {
        let problem = "the checkpoint leaves prompts out of its pooling, which is not known here";
        return Err(TaskError::Input(problem.to_string()));
    }
    let modes = [
        (pooling.cls, Pooling::First),
        (pooling.max, Pooling::Max),
        (pooling.mean, Pooling::Mean),
        (pooling.mean_sqrt_len, Pooling::MeanSquareRoot),
        (pooling.last_token, Pooling::Last),
    ];
    Ok(modes.into_iter().filter(|(chosen, _)| *chosen).map(|(_, pooling)| pooling).collect())
}

/// A linear layer behind pooling, float32 whatever the model is.
fn layer_of(
    checkpoint: &Checkpoint,
    module: &SentenceModule,
    dense: &checkpoint::Dense,
    inputs: usize,
    options: &TaskOptions,
) -> Result<FusedLinear, TaskError> {
    let refuse = |problem: String| TaskError::Input(format!("the step {}: {problem}", module.folder));
    if dense.in_features != inputs {
        let wanted = dense.in_features;
        return Err(refuse(format!("takes vectors of {wanted} numbers, and those before it have {inputs}")));
    }
    let class = dense.activation_function.rsplit('.').next().unwrap_or_default();
    let activation = match class {
        "Identity" => None,
        "Tanh" => Some(Activation::Tanh),
        "ReLU" => Some(Activation::Relu),
        "GELU" => Some(Activation::Gelu),
        "SiLU" => Some(Activation::Silu),
        other => return Err(refuse(format!("its activation {other} is none of Identity, Tanh, ReLU, GELU, SiLU"))),
    };
    let parameters = Parameters::stored(Box::new(checkpoint.module_weights(module)?), options.device);
    let (inputs, outputs) = (dense.in_features as i64, dense.out_features as i64);
    let linear = FusedLinear::new(&parameters.root().sub("linear"), inputs, outputs, dense.bias, Kind::Float)?;
    Ok(match activation {
        Some(activation) => linear.activated(activation),
        None => linear,
    })
}
