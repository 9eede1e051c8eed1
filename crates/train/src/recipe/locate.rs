//! Where a key stands in a recipe's text.

use std::path::Path;
use toml::de::{DeTable, DeValue};

/// `file, line, column` of `section.key` in `text`; of the section where the key is not written; else the file alone.
pub(super) fn place(text: &str, path: &Path, section: &str, key: &str) -> String {
    match offset(text, section, key) {
        Some(offset) => {
            let before = text.get(..offset).unwrap_or(text);
            let line = before.matches('\n').count() + 1;
            let column = before.rsplit('\n').next().map_or(0, |last| last.chars().count()) + 1;
            format!("{}, line {line}, column {column}", path.display())
        }
        None => path.display().to_string(),
    }
}

fn offset(text: &str, section: &str, key: &str) -> Option<usize> {
    let root = DeTable::parse(text).ok()?.into_inner();
    if section.is_empty() {
        return find(&root, key);
    }
    let (name, value) = root.iter().find(|(name, _)| name.get_ref() == section)?;
    let inner = match value.get_ref() {
        DeValue::Table(table) => find(table, key),
        _ => None,
    };
    inner.or(Some(name.span().start))
}

/// `key` in `table`, or in a table within it.
fn find(table: &DeTable<'_>, key: &str) -> Option<usize> {
    let own = table.iter().find(|(name, _)| name.get_ref() == key);
    own.map(|(name, _)| name.span().start).or_else(|| {
        table.values().find_map(|value| match value.get_ref() {
            DeValue::Table(inner) => find(inner, key),
            _ => None,
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_found_where_it_stands() {
        let text = "name = \"x\"\n\n[training]\n  epochs = 3\n[training.early_stopping]\nmin_delta = -1\n";
        let at = |section, key| place(text, Path::new("r.toml"), section, key);
        assert_eq!(at("training", "epochs"), "r.toml, line 4, column 3");
        assert_eq!(at("training", "min_delta"), "r.toml, line 6, column 1");
        assert_eq!(at("training", "steps"), "r.toml, line 3, column 2");
        assert_eq!(at("", "name"), "r.toml, line 1, column 1");
        assert_eq!(at("model", "x"), "r.toml");
    }
}
