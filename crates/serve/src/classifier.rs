//! What the server asks of a model: texts in, a row of probabilities for each out. The executor knows this trait and not
//! libtorch, so that queues, batches and deadlines can be tried with any function.

use std::error::Error;

use crate::batch::BatchModel;

/// A text classifier that one thread owns and calls.
pub trait Classifier: 'static {
    /// The probabilities of every text: one row a text, in order; one value a label, in the labels' order.
    ///
    /// # Errors
    /// Anything that keeps these texts from being classified. The server then tries the requests of the batch one by
    /// one, so that a bad one fails alone. The message reaches the caller: it must not repeat the texts.
    fn classify(&mut self, texts: &[&str]) -> Result<Vec<Vec<f32>>, Box<dyn Error + Send + Sync>>;
}

/// Any function of this form is a classifier.
impl<F> Classifier for F
where
    F: FnMut(&[&str]) -> Result<Vec<Vec<f32>>, Box<dyn Error + Send + Sync>> + 'static,
{
    fn classify(&mut self, texts: &[&str]) -> Result<Vec<Vec<f32>>, Box<dyn Error + Send + Sync>> {
        self(texts)
    }
}

/// A classifier as a model that answers batches; its rows are checked to have a value for each label.
pub(crate) struct Classifying<C> {
    pub(crate) classifier: C,
    pub(crate) labels: usize,
}

impl<C: Classifier> BatchModel for Classifying<C> {
    type Item = String;
    type Answer = Vec<f32>;

    fn answer(&mut self, items: &[&String]) -> Result<Vec<Vec<f32>>, Box<dyn Error + Send + Sync>> {
        let texts: Vec<&str> = items.iter().map(|text| text.as_str()).collect();
        let rows = self.classifier.classify(&texts)?;
        match rows.iter().find(|row| row.len() != self.labels) {
            Some(row) => Err(format!("it gave {} probabilities for {} labels", row.len(), self.labels).into()),
            None => Ok(rows),
        }
    }
}
