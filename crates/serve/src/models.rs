//! The models of one server, by name. Knows nothing of how they are loaded or run.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::error::ServeError;
use crate::model::Model;
use crate::refusal::Refusal;

/// The models of one server. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Models {
    by_name: Arc<BTreeMap<String, Model>>,
}

impl Models {
    /// Models with different names. `places` says where each comes from, for the complaint about two of one name.
    pub(crate) fn new(models: Vec<(Model, String)>) -> Result<Models, ServeError> {
        let mut by_name = BTreeMap::new();
        let mut places: BTreeMap<String, String> = BTreeMap::new();
        for (model, place) in models {
            let name = model.info().name.clone();
            if let Some(other) = places.insert(name.clone(), place.clone()) {
                let places = match (other.as_str(), place.as_str()) {
                    ("", _) | (_, "") => String::new(),
                    (other, place) => format!(", in {other} and in {place}"),
                };
                return Err(ServeError::DuplicateModel { name, places });
            }
            by_name.insert(name, model);
        }
        Ok(Models { by_name: Arc::new(by_name) })
    }

    /// Every model, by name.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Model> {
        self.by_name.values()
    }

    /// Whether every model is ready.
    pub(crate) fn all_ready(&self) -> bool {
        self.iter().all(Model::is_ready)
    }

    /// The model of this name and version. An empty version is any; an empty name is the only model, if there is one.
    /// `name_field` and `version_field` are what the request calls them.
    pub(crate) fn find(&self, name: &str, version: &str, name_field: &str) -> Result<&Model, Refusal> {
        let model = if name.is_empty() { self.only(name_field)? } else { self.named(name)? };
        let info = model.info();
        if version.is_empty() || version == info.version {
            return Ok(model);
        }
        let asked = format!("{}, version {}", info.name, shortened(version));
        let message = format!(
            "the model {:?} has no version {:?}; the version {:?} is loaded",
            info.name,
            shortened(version),
            info.version
        );
        Err(Refusal::UnknownModel { name: asked, message })
    }

    fn named(&self, name: &str) -> Result<&Model, Refusal> {
        if let Some(model) = self.by_name.get(name) {
            return Ok(model);
        }
        let name = shortened(name);
        let known = self.by_name.keys().map(String::as_str);
        let hint = match tidemill_data::nearest(&name, known) {
            Some(nearest) => format!("did you mean {nearest:?}?"),
            None => format!("this server has {}", self.names()),
        };
        let message = format!("there is no model {name:?}; {hint}");
        Err(Refusal::UnknownModel { name, message })
    }

    fn only(&self, name_field: &str) -> Result<&Model, Refusal> {
        let mut models = self.iter();
        match (models.next(), models.next()) {
            (Some(model), None) => Ok(model),
            _ => Err(Refusal::invalid(name_field, format!("is empty; name one of the models: {}", self.names()))),
        }
    }

    fn names(&self) -> String {
        let names: Vec<String> = self.by_name.keys().take(20).map(|name| format!("{name:?}")).collect();
        names.join(", ")
    }
}

// A stranger's name in an answer: never the whole of a megabyte.
fn shortened(name: &str) -> String {
    name.chars().take(80).collect()
}
