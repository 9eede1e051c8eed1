//! From a CSV file to batches of ids: read, clean, split, learn a vocabulary, batch.
//!
//! `cargo run -p tidemill-data --example batches`

use std::sync::Arc;

use tidemill_data::{
    CleanConfig, Column, DataConfig, Encoder, LabelColumn, Loader, LoaderConfig, SplitConfig, TokenizerConfig, prepare,
};

const REVIEWS: &str = "\
review,verdict
A warm and <b>funny</b> film,good
\"Dull, far too long\",bad
It isn't   bad at all!,good
I slept through it,bad
What a lovely story,good
Nothing works here,bad
The cast is a joy,good
A waste of an evening,bad
";

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("reviews.csv");
    std::fs::write(&path, REVIEWS)?;

    let data =
        DataConfig { text: Column::from("review"), label: Some(LabelColumn::new("verdict")), ..DataConfig::new(path) };
    let clean = CleanConfig { html: true, ..CleanConfig::default() };
    let prepared = prepare(&data, &clean, &SplitConfig::default(), 1, folder.path())?;
    println!("{}", prepared.report);

    let train = &prepared.train;
    let mut texts = (0..train.len()).map(|row| train.text(row));
    let encoder = Encoder::train(&TokenizerConfig::default(), clean.text(), &mut texts)?;
    println!("vocabulary: {} tokens", encoder.vocab_size());

    let config = LoaderConfig { batch_size: 2, ..LoaderConfig::default() };
    let loader = Loader::new(Arc::clone(train), Arc::new(encoder), None, config);
    for batch in loader.epoch(0, 0) {
        let batch = batch?;
        let (ids, time) = batch.padded(0);
        println!("labels {:?}, {} x {time} ids {ids:?}", batch.labels, batch.len());
    }
    Ok(())
}
