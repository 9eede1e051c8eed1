//! The thread that owns one model: takes batches from its line, runs them, answers. Plain synchronous code that knows
//! nothing of sockets. A panic of the model ends the thread; every caller that waits, or comes later, is told so.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Instant;

use tokio::sync::{oneshot, watch};

use crate::classifier::Classifier;
use crate::config::ServerConfig;
use crate::error::ServeError;
use crate::model::{Model, ModelInfo};
use crate::queue::{Answer, Entry, Failure, Queue};

/// A model that is being loaded on its thread.
pub(crate) struct Loading {
    opened: oneshot::Receiver<Result<Model, ServeError>>,
    thread: JoinHandle<()>,
    label: String,
}

/// A model that is ready, and its thread.
pub(crate) struct Running {
    pub(crate) model: Model,
    pub(crate) thread: JoinHandle<()>,
}

/// Starts a thread that opens a model and then serves it. `label` names it until its own name is known.
pub(crate) fn spawn<C: Classifier>(
    label: String,
    config: &ServerConfig,
    open: impl FnOnce() -> Result<(ModelInfo, C), ServeError> + Send + 'static,
) -> Result<Loading, ServeError> {
    let queue = Arc::new(Queue::new(config.max_queue));
    let (max_batch_size, max_delay) = (config.max_batch_size, config.max_delay);
    let (tell, opened) = oneshot::channel();
    let body = move || {
        let (info, classifier) = match open() {
            Ok(opened) => opened,
            Err(error) => return drop(tell.send(Err(error))),
        };
        let (ready, watched) = watch::channel(true);
        let (labels, name) = (info.labels.len(), info.name.clone());
        let model = Model::new(info, Arc::clone(&queue), watched, max_batch_size);
        let end = End { queue: Arc::clone(&queue), ready, name };
        let mut executor = Executor { classifier, labels, end };
        if tell.send(Ok(model)).is_ok() {
            while let Some(batch) = queue.take(max_batch_size, max_delay) {
                executor.run(batch);
            }
        }
    };
    let thread = std::thread::Builder::new()
        .name(format!("model {label}"))
        .spawn(body)
        .map_err(|source| ServeError::Thread { model: label.clone(), source })?;
    Ok(Loading { opened, thread, label })
}

impl Loading {
    /// Waits until the model is open.
    pub(crate) async fn opened(self) -> Result<Running, ServeError> {
        match self.opened.await {
            Ok(Ok(model)) => Ok(Running { model, thread: self.thread }),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(ServeError::Stopped { model: self.label }),
        }
    }
}

// Whatever ends the thread, a panic included, ends the line and the readiness with it.
struct End {
    queue: Arc<Queue>,
    ready: watch::Sender<bool>,
    name: String,
}

impl End {
    fn tell(&self) {
        self.ready.send_replace(false);
        self.queue.abort();
    }
}

impl Drop for End {
    fn drop(&mut self) {
        self.tell();
        if std::thread::panicking() {
            tracing::error!(model = self.name, "the model's thread panicked; the model is not ready");
        }
    }
}

// In a panic, tells everybody before the callers of the batch learn of it: who calls again is told that the model is not
// ready, not that it stopped once more.
struct TellBeforeBatch<'a>(&'a End);

impl Drop for TellBeforeBatch<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.tell();
        }
    }
}

struct Executor<C> {
    classifier: C,
    labels: usize,
    end: End,
}

impl<C: Classifier> Executor<C> {
    fn run(&mut self, batch: Vec<Entry>) {
        let started = Instant::now();
        let texts: Vec<&str> = batch.iter().flat_map(|entry| entry.texts.iter().map(String::as_str)).collect();
        let batch_size = texts.len();
        let result = {
            // A local: dropped before `batch`, which is a parameter.
            let _tell = TellBeforeBatch(&self.end);
            classify(&mut self.classifier, self.labels, &texts)
        };
        drop(texts);
        let computed = started.elapsed();

        match result {
            Ok(probabilities) => {
                let mut rows = probabilities.into_iter();
                for entry in batch {
                    let probabilities = rows.by_ref().take(entry.texts.len()).collect();
                    let waited = started.saturating_duration_since(entry.arrived);
                    let answer = Answer { probabilities, waited, computed, batch_size };
                    // The caller may have left meanwhile.
                    let _ = entry.reply.send(Ok(answer));
                }
            }
            // One bad request must not cost its neighbours their answers.
            Err(_) if batch.len() > 1 => {
                for entry in batch {
                    if entry.is_wanted(Instant::now()) {
                        self.run(vec![entry]);
                    }
                }
            }
            Err(reason) => {
                for entry in batch {
                    let _ = entry.reply.send(Err(Failure(reason.clone())));
                }
            }
        }
    }
}

fn classify<C: Classifier>(classifier: &mut C, labels: usize, texts: &[&str]) -> Result<Vec<Vec<f32>>, String> {
    let rows = classifier.classify(texts).map_err(|error| error.to_string())?;
    if rows.len() != texts.len() {
        return Err(format!("it answered {} of {} texts", rows.len(), texts.len()));
    }
    if let Some(row) = rows.iter().find(|row| row.len() != labels) {
        return Err(format!("it gave {} probabilities for {labels} labels", row.len()));
    }
    Ok(rows)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use std::error::Error;
    use std::sync::{Mutex, mpsc};
    use std::time::Duration;

    use super::*;
    use crate::refusal::Refusal;

    type Rows = Result<Vec<Vec<f32>>, Box<dyn Error + Send + Sync>>;

    async fn model<C: Classifier + Send>(max_batch_size: usize, classifier: C) -> Model {
        let config = ServerConfig { max_batch_size, max_queue: 8, ..ServerConfig::default() };
        let labels = vec!["odd".to_owned(), "even".to_owned()];
        let info = ModelInfo { name: "parity".to_owned(), version: "1".to_owned(), labels };
        let loading = spawn("parity".to_owned(), &config, || Ok((info, classifier))).unwrap();
        loading.opened().await.unwrap().model
    }

    fn parity(texts: &[&str]) -> Rows {
        Ok(texts.iter().map(|text| vec![f32::from(text.len() % 2 == 1), 0.0]).collect())
    }

    fn texts(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|text| text.to_string()).collect()
    }

    async fn until(condition: impl Fn() -> bool) {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    #[tokio::test]
    async fn what_waits_while_a_batch_runs_is_the_next_batch() {
        let (go, wait) = mpsc::channel::<()>();
        let seen: Arc<Mutex<Vec<usize>>> = Arc::default();
        let noted = Arc::clone(&seen);
        let model = model(4, move |batch: &[&str]| -> Rows {
            noted.lock().unwrap().push(batch.len());
            wait.recv()?;
            parity(batch)
        })
        .await;
        let call = |words: &[&str]| {
            let (model, texts) = (model.clone(), texts(words));
            tokio::spawn(async move { model.classify(texts, None).await.unwrap() })
        };
        let first = call(&["a"]);
        until(|| seen.lock().unwrap().len() == 1).await;
        let others = [call(&["bb"]), call(&["c", "dd"]), call(&["e", "f"])];
        until(|| model.queue().waiting_texts() == 5).await;
        for _ in 0..3 {
            go.send(()).unwrap();
        }
        assert_eq!(first.await.unwrap().batch_size, 1);
        let mut sizes = Vec::new();
        for other in others {
            sizes.push(other.await.unwrap().batch_size);
        }
        assert_eq!(sizes, [3, 3, 2]);
        assert_eq!(*seen.lock().unwrap(), [1, 3, 2]);
    }

    #[tokio::test]
    async fn a_caller_that_leaves_and_one_that_is_late_cost_the_model_nothing() {
        let (go, wait) = mpsc::channel::<()>();
        let seen: Arc<Mutex<Vec<String>>> = Arc::default();
        let noted = Arc::clone(&seen);
        let model = model(4, move |batch: &[&str]| -> Rows {
            noted.lock().unwrap().extend(texts(batch));
            wait.recv()?;
            parity(batch)
        })
        .await;
        let running = model.clone();
        let running = tokio::spawn(async move { running.classify(texts(&["runs"]), None).await });
        until(|| seen.lock().unwrap().len() == 1).await;

        let soon = Some(Instant::now() + Duration::from_millis(20));
        let late = model.classify(texts(&["late"]), soon).await;
        assert_eq!(late, Err(Refusal::DeadlineExceeded));
        let leaver = model.clone();
        let leaver = tokio::spawn(async move { leaver.classify(texts(&["left"]), None).await });
        until(|| model.queue().waiting_texts() == 2).await;
        leaver.abort();
        assert!(leaver.await.is_err());

        // Their places are free again: eight fit.
        let (caller, eight) = (model.clone(), texts(&["x"; 8]));
        let eight = tokio::spawn(async move { caller.classify(eight, None).await });
        until(|| model.queue().waiting_texts() == 8).await;
        let full = model.classify(texts(&["y"]), None).await;
        assert!(matches!(full, Err(Refusal::QueueFull { max: 8, .. })), "{full:?}");
        for _ in 0..3 {
            go.send(()).unwrap();
        }
        running.await.unwrap().unwrap();
        assert_eq!(eight.await.unwrap().unwrap().probabilities.len(), 8);
        assert_eq!(seen.lock().unwrap().concat(), "runsxxxxxxxx");
    }

    #[tokio::test]
    async fn a_panic_is_told_to_those_who_wait_and_those_who_come() {
        let model = model(4, |_: &[&str]| -> Rows { panic!("as the test wants it") }).await;
        let during = model.classify(texts(&["a"]), None).await;
        assert!(matches!(during, Err(Refusal::Stopped { .. })), "{during:?}");
        model.stopped().await;
        let after = model.classify(texts(&["a"]), None).await;
        assert!(matches!(after, Err(Refusal::NotReady { .. })), "{after:?}");
    }

    #[tokio::test]
    async fn an_answer_of_the_wrong_size_is_an_error() {
        let short = model(4, |_: &[&str]| -> Rows { Ok(Vec::new()) }).await;
        let result = short.classify(texts(&["a"]), None).await;
        assert!(matches!(result, Err(Refusal::Failed { .. })), "{result:?}");
        let narrow = model(4, |_: &[&str]| -> Rows { Ok(vec![vec![1.0]]) }).await;
        let result = narrow.classify(texts(&["a"]), None).await;
        assert!(matches!(result, Err(Refusal::Failed { .. })), "{result:?}");
    }
}
