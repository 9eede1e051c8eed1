//! Encoders of checkpoints as models that answer batches: the tokeniser works where the request comes in, and the model's
//! thread sees tokens alone, so that batches are measured by them.

use std::error::Error;
use std::sync::Arc;

use tidemill_data::EncodedText;
use tidemill_model::tasks::{
    self, Aggregation, AnswerOptions, Embedder, Question, QuestionAnswerer, Reranker, SequenceClassifier,
    TokenClassifier, TooLong,
};

use crate::batch::{BatchModel, Opened, Prepared};
use crate::tasks::{EmbedInput, Entity, FoundAnswer, QuestionInput, RerankInput, TextOrTokens};

type OwnError = Box<dyn Error + Send + Sync>;

fn too_long(truncate: bool) -> TooLong {
    if truncate { TooLong::Cut } else { TooLong::Refuse }
}

/// An embedder; its items are ids.
pub(crate) struct EmbedderModel(Embedder);

impl BatchModel for EmbedderModel {
    type Item = Vec<u32>;
    type Answer = Vec<f32>;

    fn answer(&mut self, items: &[&Vec<u32>]) -> Result<Vec<Vec<f32>>, OwnError> {
        let ids: Vec<&[u32]> = items.iter().map(|ids| ids.as_slice()).collect();
        Ok(self.0.embed_ids(&ids)?)
    }
}

pub(crate) fn embedder(embedder: Embedder) -> Result<Opened<EmbedInput, EmbedderModel>, tasks::TaskError> {
    embedder.embed(&["A first text."])?;
    let preparation = embedder.preparation();
    let prepare = Arc::new(move |input: EmbedInput| {
        let too_long = too_long(input.truncate);
        let ids = match &input.text {
            TextOrTokens::Text(text) => preparation.ids(text, too_long),
            TextOrTokens::Tokens(tokens) => preparation.framed(tokens, too_long),
        };
        let item = ids.map_err(|error| error.to_string())?;
        Ok(Prepared { tokens: item.len(), item })
    });
    Ok(Opened { model: EmbedderModel(embedder), prepare })
}

/// A reranker; its items are a query and a text.
pub(crate) struct RerankerModel(Reranker);

impl BatchModel for RerankerModel {
    type Item = EncodedText;
    type Answer = f32;

    fn answer(&mut self, items: &[&EncodedText]) -> Result<Vec<f32>, OwnError> {
        Ok(self.0.logits(items)?)
    }
}

pub(crate) fn reranker(reranker: Reranker) -> Result<Opened<RerankInput, RerankerModel>, tasks::TaskError> {
    reranker.rerank("A first query.", &["A first text."])?;
    let preparation = reranker.preparation();
    let prepare = Arc::new(move |input: RerankInput| {
        let encoded = preparation.encode(&input.query, Some(&input.text), too_long(input.truncate));
        counted(encoded)
    });
    Ok(Opened { model: RerankerModel(reranker), prepare })
}

/// A classifier of whole texts.
pub(crate) struct ClassifierModel(SequenceClassifier);

impl BatchModel for ClassifierModel {
    type Item = EncodedText;
    type Answer = Vec<f32>;

    fn answer(&mut self, items: &[&EncodedText]) -> Result<Vec<Vec<f32>>, OwnError> {
        Ok(self.0.classify_encoded(items)?.into_iter().map(|answer| answer.scores).collect())
    }
}

pub(crate) fn classifier(classifier: SequenceClassifier) -> Result<Opened<String, ClassifierModel>, tasks::TaskError> {
    classifier.classify(&["A first text."])?;
    let preparation = classifier.preparation();
    let prepare = Arc::new(move |text: String| counted(preparation.encode(&text, None, TooLong::Cut)));
    Ok(Opened { model: ClassifierModel(classifier), prepare })
}

/// A finder of entities; its items are texts with their tokens.
pub(crate) struct EntitiesModel(TokenClassifier);

impl BatchModel for EntitiesModel {
    type Item = (String, EncodedText);
    type Answer = Vec<Entity>;

    fn answer(&mut self, items: &[&(String, EncodedText)]) -> Result<Vec<Vec<Entity>>, OwnError> {
        let texts: Vec<(&str, &EncodedText)> = items.iter().map(|(text, encoded)| (text.as_str(), encoded)).collect();
        let found = self.0.entities_of(&texts, Aggregation::Simple)?;
        Ok(found.into_iter().map(|entities| entities.into_iter().map(entity).collect()).collect())
    }
}

fn entity(entity: tasks::Entity) -> Entity {
    Entity { label: entity.label, score: entity.score, start: entity.start, end: entity.end }
}

pub(crate) fn entities(tagger: TokenClassifier) -> Result<Opened<String, EntitiesModel>, tasks::TaskError> {
    tagger.entities(&["A first text."], Aggregation::Simple)?;
    let preparation = tagger.preparation();
    let prepare = Arc::new(move |text: String| {
        let Prepared { item, tokens } = counted(preparation.encode(&text, None, TooLong::Cut))?;
        Ok(Prepared { item: (text, item), tokens })
    });
    Ok(Opened { model: EntitiesModel(tagger), prepare })
}

/// A finder of answers; its items are documents, in windows with their questions, so that they may be of any length.
pub(crate) struct AnswererModel(QuestionAnswerer);

impl BatchModel for AnswererModel {
    type Item = (String, Vec<EncodedText>);
    type Answer = FoundAnswer;

    fn answer(&mut self, items: &[&(String, Vec<EncodedText>)]) -> Result<Vec<FoundAnswer>, OwnError> {
        let read: Vec<(&str, &[EncodedText])> =
            items.iter().map(|(document, windows)| (document.as_str(), windows.as_slice())).collect();
        let found = self.0.answer_windows(&read, &AnswerOptions::default())?;
        let best = |answers: Vec<tasks::Answer>| answers.into_iter().next();
        let answer = |answer: tasks::Answer| FoundAnswer { text: answer.text, score: answer.score };
        Ok(found.into_iter().map(|answers| best(answers).map(answer).unwrap_or_default()).collect())
    }
}

pub(crate) fn answerer(answerer: QuestionAnswerer) -> Result<Opened<QuestionInput, AnswererModel>, tasks::TaskError> {
    let first = Question { question: "Which text is it?", document: "A first text." };
    answerer.answer(&[first], &AnswerOptions::default())?;
    let preparation = answerer.preparation();
    let prepare = Arc::new(move |QuestionInput { question, document }: QuestionInput| {
        let asked = Question { question: &question, document: &document };
        let windows = preparation.windows(asked, &AnswerOptions::default()).map_err(|error| error.to_string())?;
        let tokens = windows.iter().map(|window| window.ids.len()).sum();
        Ok(Prepared { tokens, item: (document, windows) })
    });
    Ok(Opened { model: AnswererModel(answerer), prepare })
}

fn counted(encoded: Result<EncodedText, tasks::TaskError>) -> Result<Prepared<EncodedText>, String> {
    let item = encoded.map_err(|error| error.to_string())?;
    Ok(Prepared { tokens: item.ids.len(), item })
}
