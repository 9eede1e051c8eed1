//! The models of one server, by name. Knows nothing of how they are loaded or run.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::error::ServeError;
use crate::keys::Caller;
use crate::model::{Kind, Model};
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
        self.iter().all(|model| model.readiness().is_ready())
    }

    /// Those that the caller may use.
    pub(crate) fn of<'a>(&'a self, caller: &'a Caller) -> Allowed<'a> {
        Allowed { models: self, caller }
    }
}

/// The models that one caller may use. The others are as if they were not there, but that asking for one is forbidden.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Allowed<'a> {
    models: &'a Models,
    caller: &'a Caller,
}

impl<'a> Allowed<'a> {
    /// Every model, by name.
    pub(crate) fn iter(self) -> impl Iterator<Item = &'a Model> {
        self.models.iter().filter(move |model| self.caller.may_use(&model.info().name))
    }

    /// The model of this name and version, whatever its kind. An empty version is any; an empty name is the only model,
    /// if there is one. `name_field` is what the request calls the name.
    pub(crate) fn find_any(self, name: &str, version: &str, name_field: &str) -> Result<&'a Model, Refusal> {
        let model = if name.is_empty() { self.only(self.iter(), name_field)? } else { self.named(name)? };
        check_version(model, version)?;
        Ok(model)
    }

    /// The model of this name, version and kind. An empty version is any; an empty name is the only model of the kind.
    /// `name_field` is what the request calls the name.
    pub(crate) fn find<K: Kind>(self, name: &str, version: &str, name_field: &str) -> Result<&'a K, Refusal> {
        let of_kind = self.iter().filter(|model| K::of(model).is_some());
        let model = if name.is_empty() { self.only(of_kind, name_field)? } else { self.named(name)? };
        check_version(model, version)?;
        K::of(model).ok_or_else(|| {
            let (name, does) = (&model.info().name, model.does());
            Refusal::invalid(name_field, format!("is {name:?}, which {does}; a model that {} is needed", K::DOES))
        })
    }

    fn named(self, name: &str) -> Result<&'a Model, Refusal> {
        // Before the look-up, so that nobody learns what else there is.
        if !self.caller.may_use(name) {
            let problem = format!("this key may not use a model {:?}", shortened(name));
            return Err(Refusal::Forbidden { problem });
        }
        if let Some(model) = self.models.by_name.get(name) {
            return Ok(model);
        }
        let name = shortened(name);
        let known = self.iter().map(|model| model.info().name.as_str());
        let hint = match tidemill_data::nearest(&name, known) {
            Some(nearest) => format!("did you mean {nearest:?}?"),
            None => format!("this server has {}", self.names()),
        };
        let message = format!("there is no model {name:?}; {hint}");
        Err(Refusal::UnknownModel { name, message })
    }

    fn only(self, mut models: impl Iterator<Item = &'a Model>, field: &str) -> Result<&'a Model, Refusal> {
        match (models.next(), models.next()) {
            (Some(model), None) => Ok(model),
            _ => Err(Refusal::invalid(field, format!("is empty; name one of the models: {}", self.names()))),
        }
    }

    fn names(self) -> String {
        let names: Vec<String> = self.iter().take(20).map(|model| format!("{:?}", model.info().name)).collect();
        names.join(", ")
    }
}

fn check_version(model: &Model, version: &str) -> Result<(), Refusal> {
    let info = model.info();
    if version.is_empty() || version == info.version {
        return Ok(());
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

// A stranger's name in an answer: never the whole of a megabyte.
fn shortened(name: &str) -> String {
    name.chars().take(80).collect()
}
