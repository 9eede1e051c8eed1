//! The thread that owns one batch model: takes batches from its line, runs them, answers. Plain synchronous code that
//! knows nothing of sockets. Where there are several instances each has a thread of its own, and all take from one line. A
//! panic of an instance ends its thread and the line; every caller that waits, or comes later, is told so.

use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use super::entry::{Answer, Entry, Failure};
use super::handle::{BatchHandle, PreparedLine};
use super::queue::{BatchSize, Queue};
use super::{BatchModel, Input, Opened, Schedule};
use crate::config::ServerConfig;
use crate::error::ServeError;
use crate::metrics::{BatchMetrics, Metrics};
use crate::model::Model;
use crate::model_info::ModelInfo;
use crate::statistics::Statistics;
use crate::thread::{self, Loading, Serving};

/// Starts a thread that opens a model and then serves it, with others beside it that do the same where the configuration
/// wants several instances. `label` names it until its own name is known; `wrap` says what kind of model it is.
pub(crate) fn spawn<I: Input, M: BatchModel>(
    label: String,
    config: &ServerConfig,
    metrics: Arc<Metrics>,
    wrap: impl FnOnce(BatchHandle<I, M::Answer>) -> Model + Send + 'static,
    open: impl Fn() -> Result<(ModelInfo, Opened<I, M>), ServeError> + Send + Sync + 'static,
) -> Result<Loading, ServeError> {
    let schedule = Schedule::new(config);
    thread::spawn(label.clone(), move |tell| {
        let (info, Opened { model, prepare }) = match open() {
            Ok(opened) => opened,
            Err(error) => return drop(tell.send(Err(error))),
        };
        let Schedule { size, max_delay, instances, .. } = schedule;
        let queue = Queue::new(schedule.max_queue, schedule.preferred.clone());
        let queue: Arc<Queue<M::Item, M::Answer>> = Arc::new(queue);
        let statistics = Statistics::new(metrics.requests(&info));
        let metrics = metrics.batch(&info);
        let (serving, readiness) = {
            let queue = Arc::clone(&queue);
            Serving::new(&info.name, move || queue.abort())
        };
        let line = PreparedLine { prepare, queue: Arc::clone(&queue), size, metrics: metrics.clone() };
        let handle = BatchHandle::new(info, schedule, line, readiness, statistics.clone());
        let executor = |model, serving| Executor {
            model,
            serving,
            queue: Arc::clone(&queue),
            metrics: metrics.clone(),
            statistics: statistics.clone(),
        };

        std::thread::scope(|scope| {
            // Each opens its own; they serve when all are open.
            let opened: Result<Vec<_>, ServeError> = (1..instances)
                .map(|instance| {
                    let (name, (say, hear)) = (format!("model {label} {instance}"), mpsc::channel());
                    let (open, serving, executor) = (&open, serving.another(), &executor);
                    let body = move || match open() {
                        Ok((_, opened)) => {
                            let mut executor = executor(opened.model, serving);
                            if say.send(Ok(())).is_ok() {
                                executor.serve(size, max_delay);
                            }
                        }
                        Err(error) => drop(say.send(Err(error))),
                    };
                    let started = std::thread::Builder::new().name(name).spawn_scoped(scope, body);
                    started.map_err(|source| ServeError::Thread { model: label.clone(), source })?;
                    Ok(hear)
                })
                .collect();
            let ready = opened.and_then(|opened| {
                let stopped = |_| Err(ServeError::Stopped { model: label.clone() });
                opened.into_iter().try_for_each(|instance| instance.recv().unwrap_or_else(stopped))
            });
            let told = match ready {
                Ok(()) => tell.send(Ok(wrap(handle))),
                // The others end when the handle, and the line with it, is gone.
                Err(error) => {
                    drop(handle);
                    tell.send(Err(error))
                }
            };
            if told.is_ok() {
                executor(model, serving).serve(size, max_delay);
            }
        });
    })
}

struct Executor<M: BatchModel> {
    model: M,
    serving: Serving,
    queue: Arc<Queue<M::Item, M::Answer>>,
    metrics: BatchMetrics,
    statistics: Statistics,
}

impl<M: BatchModel> Executor<M> {
    // Until the line is closed and empty.
    fn serve(&mut self, size: BatchSize, max_delay: Duration) {
        while let Some(batch) = self.queue.take(size, max_delay) {
            self.metrics.waiting.set(self.queue.waiting_items() as f64);
            self.run(batch);
        }
    }

    fn run(&mut self, batch: Vec<Entry<M::Item, M::Answer>>) {
        let started = Instant::now();
        let items: Vec<&M::Item> = batch.iter().flat_map(|entry| &entry.items).collect();
        let batch_size = M::size(&items);
        let result = {
            // A local: dropped before `batch`, which is a parameter.
            let _tell = self.serving.while_it_runs();
            answer(&mut self.model, &items)
        };
        drop(items);
        let computed = started.elapsed();
        self.metrics.batch_size.record(batch_size as f64);
        self.metrics.compute.record(computed);
        self.statistics.note_batch(batch_size, computed);

        match result {
            Ok(answers) => {
                let mut answers = answers.into_iter();
                for entry in batch {
                    let answers = answers.by_ref().take(entry.items.len()).collect();
                    let waited = started.saturating_duration_since(entry.terms.arrived);
                    self.metrics.queue.record(waited);
                    self.statistics.note_wait(waited);
                    self.metrics.tokens.increment(entry.tokens as u64);
                    // The caller may have left meanwhile.
                    let _ = entry.reply.send(Ok(Answer { answers, waited, computed, batch_size }));
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

fn answer<M: BatchModel>(model: &mut M, items: &[&M::Item]) -> Result<Vec<M::Answer>, String> {
    let answers = model.answer(items).map_err(|error| error.to_string())?;
    if answers.len() == items.len() {
        return Ok(answers);
    }
    Err(format!("it answered {} of {} texts", answers.len(), items.len()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use std::error::Error;
    use std::sync::Mutex;

    use super::*;
    use crate::admitted::Admitted;
    use crate::classifier::Classifier;
    use crate::model::ClassifierHandle;
    use crate::refusal::Refusal;
    use crate::source::ModelSource;

    type Rows = Result<Vec<Vec<f32>>, Box<dyn Error + Send + Sync>>;

    async fn model<C: Classifier + Send>(max_batch_size: usize, classifier: C) -> ClassifierHandle {
        let config = ServerConfig { max_batch_size, max_queue: 8, ..ServerConfig::default() };
        let labels = vec!["odd".to_owned(), "even".to_owned()];
        let info = ModelInfo { name: "parity".to_owned(), version: "1".to_owned(), labels };
        let source = ModelSource::classifier(info, || Ok(classifier));
        let metrics = Arc::new(Metrics::new().unwrap());
        match source.start(&config, metrics).unwrap().opened().await.unwrap().model {
            Model::Classifier(handle) => handle,
            other => panic!("{other:?}"),
        }
    }

    async fn classify(
        model: &ClassifierHandle,
        texts: Vec<String>,
        deadline: Option<Instant>,
    ) -> Result<Vec<Vec<f32>>, Refusal> {
        let admitted = Admitted { deadline, ..Admitted::default() };
        model.answer(texts, "texts", &admitted).await.map(|answered| answered.answers)
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
            tokio::spawn(async move { model.answer(texts, "texts", &Admitted::default()).await.unwrap() })
        };
        let first = call(&["a"]);
        until(|| seen.lock().unwrap().len() == 1).await;
        let others = [call(&["bb"]), call(&["c", "dd"]), call(&["e", "f"])];
        until(|| model.waiting() == 5).await;
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
        let running = tokio::spawn(async move { classify(&running, texts(&["runs"]), None).await });
        until(|| seen.lock().unwrap().len() == 1).await;

        let soon = Some(Instant::now() + Duration::from_millis(20));
        let late = classify(&model, texts(&["late"]), soon).await;
        assert_eq!(late, Err(Refusal::DeadlineExceeded));
        let leaver = model.clone();
        let leaver = tokio::spawn(async move { classify(&leaver, texts(&["left"]), None).await });
        until(|| model.waiting() == 2).await;
        leaver.abort();
        assert!(leaver.await.is_err());

        // Their places are free again: eight fit.
        let (caller, eight) = (model.clone(), texts(&["x"; 8]));
        let eight = tokio::spawn(async move { classify(&caller, eight, None).await });
        until(|| model.waiting() == 8).await;
        let full = classify(&model, texts(&["y"]), None).await;
        assert!(matches!(full, Err(Refusal::QueueFull { max: 8, .. })), "{full:?}");
        for _ in 0..3 {
            go.send(()).unwrap();
        }
        running.await.unwrap().unwrap();
        assert_eq!(eight.await.unwrap().unwrap().len(), 8);
        assert_eq!(seen.lock().unwrap().concat(), "runsxxxxxxxx");
    }

    #[tokio::test]
    async fn a_panic_is_told_to_those_who_wait_and_those_who_come() {
        let model = model(4, |_: &[&str]| -> Rows { panic!("as the test wants it") }).await;
        let during = classify(&model, texts(&["a"]), None).await;
        assert!(matches!(during, Err(Refusal::Stopped { .. })), "{during:?}");
        model.readiness().ended().await;
        let after = classify(&model, texts(&["a"]), None).await;
        assert!(matches!(after, Err(Refusal::NotReady { .. })), "{after:?}");
    }

    #[tokio::test]
    async fn an_answer_of_the_wrong_size_is_an_error() {
        let short = model(4, |_: &[&str]| -> Rows { Ok(Vec::new()) }).await;
        let result = classify(&short, texts(&["a"]), None).await;
        assert!(matches!(result, Err(Refusal::Failed { .. })), "{result:?}");
        let narrow = model(4, |_: &[&str]| -> Rows { Ok(vec![vec![1.0]]) }).await;
        let result = classify(&narrow, texts(&["a"]), None).await;
        assert!(matches!(result, Err(Refusal::Failed { .. })), "{result:?}");
    }
}
