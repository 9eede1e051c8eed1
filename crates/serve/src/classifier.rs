//! What the server asks of a model: texts in, a row of probabilities for each out. The executor knows this trait and not
//! libtorch, so that queues, batches and deadlines can be tried with any function.

use std::error::Error;

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
