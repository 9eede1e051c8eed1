//! Complaints about TOML files: each names file, line, column, key, and the key that was meant.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::Path;

use serde::Deserialize;
use tidemill_data::toml_file::{TomlError, parse, read};
use tidemill_data::{AugmentConfig, CleanConfig, DataConfig, SplitConfig};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(dead_code)]
struct Recipe {
    name: String,
    data: DataConfig,
    #[serde(default)]
    clean: CleanConfig,
    #[serde(default)]
    split: SplitConfig,
    #[serde(default)]
    augment: AugmentConfig,
}

fn complaint(text: &str) -> String {
    parse::<Recipe>(text, Path::new("r.toml")).unwrap_err().to_string()
}

const HEAD: &str = "name = \"x\"\n\n[data]\ntrain = \"a.csv\"\n";

#[test]
fn a_full_recipe_is_read_and_written_again() {
    let text = format!(
        "{HEAD}text = 2\nlabel = {{ column = \"y\", map = {{ 0 = \"no\" }} }}\nquote = \"\"\n\n\
         [clean]\nmissing = {{ text = \"-\" }}\nunicode = \"nfkc\"\n\n[split]\nby = \"k-fold\"\nfold = 2\n"
    );
    let recipe: Recipe = parse(&text, Path::new("r.toml")).unwrap();
    let data = toml::to_string(&recipe.data).unwrap();
    assert_eq!(toml::from_str::<DataConfig>(&data).unwrap(), recipe.data);
    let clean = toml::to_string(&recipe.clean).unwrap();
    assert_eq!(toml::from_str::<CleanConfig>(&clean).unwrap(), recipe.clean);
    let split = toml::to_string(&recipe.split).unwrap();
    assert_eq!(toml::from_str::<SplitConfig>(&split).unwrap(), recipe.split);
}

#[test]
fn an_unknown_key_names_its_place_and_the_nearest() {
    for (text, wanted) in [
        (
            "[clean]\nhtlm = true\n",
            "r.toml, line 6, column 1: unknown key `clean.htlm`; did you mean `html`? (known here: ",
        ),
        ("[clen]\nhtml = true\n", "line 5, column 2: unknown key `clen`; did you mean `clean`?"),
        ("lables = [\"a\"]\n", "line 5, column 1: unknown key `data.lables`; did you mean `labels`?"),
        ("label = { column = 1, cuts = [] }\n", "unknown key `data.label.cuts`; did you mean `cut`?"),
        (
            "label = { column = 1, cut = [{ belo = 1, label = \"a\" }] }\n",
            "unknown key `data.label.cut.1.belo`; did you mean `below`?",
        ),
        ("[clean.missing]\ntxt = \"\"\n", "unknown key `clean.missing.txt`; did you mean `text`?"),
        ("[augment]\nword-drop = 0.1\n", "unknown key `augment.word-drop`; did you mean `word_drop`?"),
    ] {
        let sentence = complaint(&format!("{HEAD}{text}"));
        assert!(sentence.contains(wanted), "{sentence}");
    }
}

#[test]
fn wrong_values_and_missing_keys_name_their_place() {
    for (text, wanted) in [
        ("text = -1\n", "r.toml, line 5, column 8, key `data.text`: "),
        ("[split]\nby = \"rndom\"\n", "line 6, column 6, key `split.by`: unknown variant `rndom`"),
        ("[clean]\nhtml = 3\n", "line 6, column 8, key `clean.html`: invalid type: integer `3`, expected a boolean"),
        ("[clean]\nhtml = \n", "line 6"),
        ("[clean]\nhtml = true\nhtml = true\n", "line 7"),
    ] {
        let sentence = complaint(&format!("{HEAD}{text}"));
        assert!(sentence.contains(wanted), "{sentence}");
    }
    let sentence = complaint("name = \"x\"\n[data]\ntext = 1\n");
    assert!(sentence.contains("line 2") && sentence.contains("missing field `train`"), "{sentence}");
}

#[test]
fn a_file_that_is_not_there_or_no_text_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let error = read::<Recipe>(&folder.path().join("none.toml")).unwrap_err();
    assert!(matches!(error, TomlError::NoSuchFile { .. }), "{error}");
    let error = read::<Recipe>(folder.path()).unwrap_err();
    assert!(matches!(error, TomlError::IsAFolder { .. }), "{error}");
    let path = folder.path().join("r.toml");
    std::fs::write(&path, b"name = 'x'\n# caf\xE9\n").unwrap();
    let error = read::<Recipe>(&path).unwrap_err();
    assert!(matches!(error, TomlError::InvalidUtf8 { line: 2, .. }), "{error}");
}
