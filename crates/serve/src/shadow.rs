//! Shadow traffic: a version of a model that a share of the requests is also put to, whose answers nobody gets. What comes
//! of it is counted. The caller waits for none of it: a request is put to the shadow on a task of its own, and not at all
//! while as many are under way as may be.

use std::fmt;
use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use crate::admitted::Admitted;
use crate::batch::{BatchHandle, Input};
use crate::metrics::{Metrics, ShadowMetrics};
use crate::model::{Model, TextToTextHandle};
use crate::opaque::OpaqueHandle;
use crate::refusal::Refusal;
use crate::services::most_probable;
use crate::tasks::Entity;

/// Most requests of one shadow that are under way at once.
const MAX_UNDER_WAY: usize = 32;

/// The cosine from which on two vectors agree.
const CLOSE_VECTORS: f32 = 0.99;
/// How far apart two scores that agree may be, as a part of the larger one, or of 1.
const CLOSE_SCORES: f32 = 0.01;

/// Which version is asked beside the others, and how often.
#[derive(Clone, Debug)]
pub(crate) struct Shadow {
    /// Its version.
    pub(crate) version: String,
    /// The part of the requests, up to 1.
    pub(crate) share: f64,
    under_way: Arc<Semaphore>,
    metrics: ShadowMetrics,
}

/// Whether the second answer agrees with the first.
type Agree<A> = Arc<dyn Fn(&A, &A) -> bool + Send + Sync>;

/// A version that is asked beside another one of its kind. Cheap to clone.
pub(crate) struct Beside<I, A> {
    handle: BatchHandle<I, A>,
    agree: Option<Agree<A>>,
    under_way: Arc<Semaphore>,
    metrics: ShadowMetrics,
}

/// A request that was put to a shadow, which waits for the answer that the caller got. Dropped, there was none.
pub(crate) struct Asked<A> {
    answered: Option<oneshot::Sender<Vec<A>>>,
}

impl Shadow {
    /// The version of a model of this name.
    pub(crate) fn new(model: &str, version: String, share: f64, metrics: &Metrics) -> Shadow {
        let metrics = metrics.shadow(model, &version);
        Shadow { version, share, under_way: Arc::new(Semaphore::new(MAX_UNDER_WAY)), metrics }
    }

    /// `served` as a model whose requests are put to `shadow` too; none where the two are of different kinds, or of one whose
    /// answers are not whole.
    pub(crate) fn beside(&self, served: &Model, shadow: &Model) -> Option<Model> {
        Some(match (served, shadow) {
            (Model::Classifier(served), Model::Classifier(shadow)) => {
                let (ours, theirs) = (served.info().labels.clone(), shadow.info().labels.clone());
                let agree =
                    move |a: &Vec<f32>, b: &Vec<f32>| ours.get(most_probable(a)) == theirs.get(most_probable(b));
                Model::Classifier(self.compared(served, shadow, agree))
            }
            (Model::Embedder(served), Model::Embedder(shadow)) => {
                Model::Embedder(self.compared(served, shadow, |a, b| cosine(a, b) >= CLOSE_VECTORS))
            }
            (Model::Reranker(served), Model::Reranker(shadow)) => {
                let agree = |a: &f32, b: &f32| (a - b).abs() <= CLOSE_SCORES * a.abs().max(b.abs()).max(1.0);
                Model::Reranker(self.compared(served, shadow, agree))
            }
            (Model::Entities(served), Model::Entities(shadow)) => {
                let spans = |found: &[Entity]| -> Vec<_> {
                    found.iter().map(|entity| (entity.label.clone(), entity.start, entity.end)).collect()
                };
                Model::Entities(self.compared(served, shadow, move |a, b| spans(a) == spans(b)))
            }
            (Model::Answerer(served), Model::Answerer(shadow)) => {
                Model::Answerer(self.compared(served, shadow, |a, b| a.text == b.text))
            }
            (
                Model::TextToText(TextToTextHandle::Batch(served)),
                Model::TextToText(TextToTextHandle::Batch(shadow)),
            ) => {
                let handle = self.compared(served, shadow, |a, b| a.text == b.text);
                Model::TextToText(TextToTextHandle::Batch(handle))
            }
            (Model::Opaque(served), Model::Opaque(shadow)) if served.signature == shadow.signature => {
                let batch = self.attach(&served.batch, &shadow.batch, None);
                Model::Opaque(OpaqueHandle { batch, ..served.clone() })
            }
            _ => return None,
        })
    }

    fn compared<I: Input, A: Send + 'static>(
        &self,
        served: &BatchHandle<I, A>,
        shadow: &BatchHandle<I, A>,
        agree: impl Fn(&A, &A) -> bool + Send + Sync + 'static,
    ) -> BatchHandle<I, A> {
        self.attach(served, shadow, Some(Arc::new(agree)))
    }

    fn attach<I: Input, A: Send + 'static>(
        &self,
        served: &BatchHandle<I, A>,
        shadow: &BatchHandle<I, A>,
        agree: Option<Agree<A>>,
    ) -> BatchHandle<I, A> {
        served.with_shadow(Beside {
            handle: shadow.clone(),
            agree,
            under_way: Arc::clone(&self.under_way),
            metrics: self.metrics.clone(),
        })
    }
}

impl<I, A> Clone for Beside<I, A> {
    fn clone(&self) -> Self {
        Beside {
            handle: self.handle.clone(),
            agree: self.agree.clone(),
            under_way: Arc::clone(&self.under_way),
            metrics: self.metrics.clone(),
        }
    }
}

impl<I, A> fmt::Debug for Beside<I, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Beside").field("handle", &self.handle).finish_non_exhaustive()
    }
}

impl<I: Input + Clone, A: Send + Clone + 'static> Beside<I, A> {
    /// Puts a copy of a request to the shadow, unless it has as many as it may. It has the caller's time at most.
    pub(crate) fn ask(&self, inputs: &[I], field: &'static str, admitted: &Admitted) -> Asked<A> {
        let Ok(place) = Arc::clone(&self.under_way).try_acquire_owned() else {
            self.metrics.dropped.increment(1);
            return Asked { answered: None };
        };
        let (answered, answers) = oneshot::channel();
        tokio::spawn(self.clone().compare(inputs.to_vec(), field, admitted.clone(), answers, place));
        Asked { answered: self.agree.is_some().then_some(answered) }
    }

    async fn compare(
        self,
        inputs: Vec<I>,
        field: &'static str,
        admitted: Admitted,
        answers: oneshot::Receiver<Vec<A>>,
        _place: OwnedSemaphorePermit,
    ) {
        let own = match self.handle.answer(inputs, field, &admitted).await {
            Ok(answered) => answered.answers,
            Err(Refusal::QueueFull { .. }) => return self.metrics.dropped.increment(1),
            Err(refusal) => {
                let info = self.handle.info();
                tracing::debug!(model = info.name, version = info.version, %refusal, "the shadow did not answer");
                return self.metrics.failed.increment(1);
            }
        };
        let outcome = match (&self.agree, answers.await) {
            (Some(agree), Ok(served)) => {
                let agreed =
                    served.len() == own.len() && served.iter().zip(&own).all(|(served, own)| agree(served, own));
                if agreed { &self.metrics.agreed } else { &self.metrics.differed }
            }
            _ => &self.metrics.uncompared,
        };
        outcome.increment(1);
    }
}

impl<A: Clone> Asked<A> {
    /// What the caller got.
    pub(crate) fn answered(self, answers: &[A]) {
        if let Some(answered) = self.answered {
            let _ = answered.send(answers.to_vec());
        }
    }
}

fn cosine(a: &[f32], b: &[f32]) -> f32 {
    if a.len() != b.len() {
        return f32::NAN;
    }
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use std::error::Error;
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;
    use crate::classifier::Classifier;
    use crate::config::ServerConfig;
    use crate::model::{ClassifierHandle, Kind as _};
    use crate::model_info::ModelInfo;
    use crate::source::ModelSource;

    type Rows = Result<Vec<Vec<f32>>, Box<dyn Error + Send + Sync>>;

    // The first label for texts of odd length, as `labels` have it.
    async fn model<C: Classifier + Send>(version: &str, labels: [&str; 2], classifier: C) -> Model {
        let labels = labels.map(str::to_owned).to_vec();
        let info = ModelInfo { name: "parity".to_owned(), version: version.to_owned(), labels };
        let source = ModelSource::classifier(info, || Ok(classifier));
        let metrics = Arc::new(Metrics::new().unwrap());
        source.start(&ServerConfig::default(), metrics).unwrap().opened().await.unwrap().model
    }

    fn parity(texts: &[&str]) -> Rows {
        Ok(texts.iter().map(|text| vec![f32::from(text.len() % 2 == 1), 0.5]).collect())
    }

    async fn ask(model: &ClassifierHandle, texts: &[&str]) -> Vec<Vec<f32>> {
        let texts: Vec<String> = texts.iter().map(|text| text.to_string()).collect();
        let admitted = Admitted::default();
        let asked = model.shadow().unwrap().ask(&texts, "texts", &admitted);
        let answers = model.answer(texts, "texts", &admitted).await.unwrap().answers;
        asked.answered(&answers);
        answers
    }

    async fn until_counted(metrics: &Metrics, outcome: &str, count: usize) {
        let line =
            format!("tidemill_shadow_requests_total{{model=\"parity\",version=\"2\",outcome=\"{outcome}\"}} {count}\n");
        for _ in 0..1000 {
            if metrics.render().contains(&line) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("no {line} in {}", metrics.render());
    }

    #[tokio::test]
    async fn answers_are_compared_by_their_labels_whatever_their_order() {
        let metrics = Metrics::new().unwrap();
        let shadow = Shadow::new("parity", "2".to_owned(), 1.0, &metrics);
        let served = model("1", ["odd", "even"], parity).await;
        // The same labels but for texts of four bytes.
        let other = |texts: &[&str]| -> Rows {
            Ok(texts.iter().map(|text| vec![f32::from(text.len() % 4 == 2), 0.5]).collect())
        };
        let own = model("2", ["even", "odd"], other).await;
        let beside = shadow.beside(&served, &own).unwrap();
        let beside = ClassifierHandle::of(&beside).unwrap();
        ask(beside, &["a", "bb", "ccc"]).await;
        until_counted(&metrics, "agreed", 1).await;
        ask(beside, &["a", "bb", "dddd"]).await;
        until_counted(&metrics, "differed", 1).await;
        let failing = model("2", ["even", "odd"], |_: &[&str]| -> Rows { Err("no".into()) }).await;
        let beside = shadow.beside(&served, &failing).unwrap();
        ask(ClassifierHandle::of(&beside).unwrap(), &["a"]).await;
        until_counted(&metrics, "failed", 1).await;
    }

    #[tokio::test]
    async fn a_shadow_that_hangs_holds_nobody_up_and_is_asked_no_more() {
        let metrics = Metrics::new().unwrap();
        let shadow = Shadow::new("parity", "2".to_owned(), 1.0, &metrics);
        let served = model("1", ["odd", "even"], parity).await;
        let (go, wait) = mpsc::channel::<()>();
        let slow = move |texts: &[&str]| -> Rows {
            let _ = wait.recv();
            parity(texts)
        };
        let own = model("2", ["odd", "even"], slow).await;
        let beside = shadow.beside(&served, &own).unwrap();
        let beside = ClassifierHandle::of(&beside).unwrap();
        for _ in 0..MAX_UNDER_WAY + 3 {
            let answers = tokio::time::timeout(Duration::from_secs(20), ask(beside, &["a"])).await.unwrap();
            assert_eq!(answers, [[1.0, 0.5]]);
        }
        until_counted(&metrics, "dropped", 3).await;
        until_counted(&metrics, "agreed", 0).await;
        drop(go);
        until_counted(&metrics, "agreed", MAX_UNDER_WAY).await;
    }

    #[test]
    fn vectors_agree_by_their_direction() {
        assert!(cosine(&[1.0, 2.0], &[2.0, 4.0]) >= CLOSE_VECTORS);
        assert!(cosine(&[1.0, 0.0], &[0.0, 1.0]) < CLOSE_VECTORS);
        assert!(cosine(&[1.0], &[1.0, 0.0]).is_nan());
    }
}
