//! Every complaint about a recipe names its place and its key.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::Path;
use tidemill_train::{Override, Recipe};

const GOOD: &str = "name = \"r\"\n[data]\ntrain = \"a.csv\"\nlabel = \"label\"\n[model]\narchitecture = \"text_cnn\"\n";

fn problem(more: &str) -> String {
    let text = format!("{GOOD}{more}");
    Recipe::parse(&text, Path::new("r.toml"), &[]).unwrap_err().to_string()
}

#[test]
fn complaints_name_file_line_and_key() {
    let cases = [
        ("[training]\nbatch_sise = 3", "line 8", "`batch_size`"),
        ("[training]\nepochs = 3\nsteps = 4", "line 9", "`epochs`"),
        ("[training]\nbatch_size = 0", "line 8", "`batch_size` must be at least 1"),
        ("[training]\nselect = \"acuracy\"", "line 8", "accuracy"),
        ("[optimiser]\nname = \"adamm\"", "line 8", "`adam`"),
        ("[optimiser]\nlearning_rate = -1", "line 8", "`learning_rate` must be"),
        ("[optimiser]\nmomentum = 0.5", "line 8", "`momentum` is not a key"),
        ("[schedule]\nname = \"cosin\"", "line 8", "`cosine`"),
        ("[schedule]\nname = \"cosine\"\nwarmup = -3", "line 9", "`warmup` must be"),
        ("filter = 3", "line 7", "filters"),
        ("[model2]", "line 7", "model"),
        ("[augment]\nword_drop = 2", "line 7", "word_drop"),
        ("[evaluation]\nmetrics = [\"acuracy\"]", "line 8", "accuracy"),
    ];
    for (more, line, part) in cases {
        let problem = problem(more);
        let all = ["r.toml", line, part].iter().all(|part| problem.contains(part));
        assert!(all, "{more}\ngives: {problem}\nwanted: {line}, {part}");
    }
}

#[test]
fn an_unknown_architecture_names_the_nearest() {
    let text = GOOD.replace("text_cnn", "textcnn");
    let problem = Recipe::parse(&text, Path::new("r.toml"), &[]).unwrap_err().to_string();
    assert!(problem.contains("line 6") && problem.contains("text_cnn"), "{problem}");
}

#[test]
fn overrides_lie_over_the_file() {
    let set = |text: &str| text.parse::<Override>().unwrap();
    let parse = |overrides: &[Override]| Recipe::parse(GOOD, Path::new("folder/r.toml"), overrides);
    let recipe = parse(&[set("training.epochs=3"), set("data.train=/data/b.csv"), set("model.filters=7")]);
    let recipe = recipe.unwrap();
    assert_eq!(recipe.training.epochs, Some(3));
    assert_eq!(recipe.data.train.paths(), [Path::new("/data/b.csv")]);
    assert_eq!(recipe.model.settings["filters"], 7);
    assert_ne!(recipe.digest(), parse(&[]).unwrap().digest());
    for elsewhere in ["data.train=b.csv", "training.prefetch=9", "training.loader_threads=3"] {
        assert_eq!(parse(&[set(elsewhere)]).unwrap().digest(), parse(&[]).unwrap().digest(), "{elsewhere}");
    }
    let error = parse(&[set("training.epoch=3")]).unwrap_err().to_string();
    assert!(error.contains("--set training.epoch=3") && error.contains("epochs"), "{error}");
    assert_eq!(parse(&[]).unwrap().data.train.paths(), [Path::new("folder/a.csv")]);
    let twice = parse(&[set("training.epochs=3"), set("training.epochs=")]).unwrap();
    assert_eq!(twice.training.epochs, None);
}
