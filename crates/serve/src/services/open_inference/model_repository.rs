//! The repository's index, and loading and unloading on request. Whether a caller may is the gate's.

use std::collections::BTreeMap;

use tidemill_proto::inference::repository_index_response::ModelIndex;
use tidemill_proto::inference::{
    ModelRepositoryParameter, RepositoryIndexRequest, RepositoryIndexResponse, RepositoryModelLoadRequest,
    RepositoryModelUnloadRequest,
};

use crate::refusal::Refusal;
use crate::repository::{Entry, Repository, State};
use crate::services::Base;

impl Base {
    /// Every model: those of the repository, and those that are served from outside it.
    pub(super) async fn index(&self, request: &RepositoryIndexRequest) -> Result<RepositoryIndexResponse, Refusal> {
        only(&request.repository_name)?;
        let mut entries = match &self.repository {
            Some(repository) => repository.index().await?,
            None => Vec::new(),
        };
        let listed: Vec<String> = entries.iter().map(|entry| entry.name.clone()).collect();
        let mut models: Vec<ModelIndex> = entries.drain(..).map(line).collect();
        for model in self.models.all() {
            let info = model.info();
            if !listed.contains(&info.name) {
                let is_ready = model.readiness().is_ready();
                let (state, reason) = if is_ready { ("READY", "") } else { ("UNAVAILABLE", "it stopped") };
                let (name, version) = (info.name.clone(), info.version.clone());
                models.push(ModelIndex { name, version, state: state.to_owned(), reason: reason.to_owned() });
            }
        }
        models.retain(|model| !request.ready || model.state == "READY");
        models.sort_by(|left, right| left.name.cmp(&right.name));
        Ok(RepositoryIndexResponse { models })
    }

    /// Loads a model, or what changed of it.
    pub(super) async fn load(&self, request: &RepositoryModelLoadRequest) -> Result<(), Refusal> {
        only(&request.repository_name)?;
        without_parameters(&request.parameters)?;
        self.repository("load")?.load(&request.model_name).await
    }

    /// Lets go of a model.
    pub(super) async fn unload(&self, request: &RepositoryModelUnloadRequest) -> Result<(), Refusal> {
        only(&request.repository_name)?;
        self.repository("unload")?.unload(&request.model_name).await
    }

    fn repository(&self, what: &str) -> Result<&Repository, Refusal> {
        self.repository.as_ref().ok_or_else(|| {
            let problem = format!("there is no repository to {what} from; the server was started on models alone");
            Refusal::invalid("model_name", problem)
        })
    }
}

fn only(repository: &str) -> Result<(), Refusal> {
    if repository.is_empty() {
        return Ok(());
    }
    Err(Refusal::invalid("repository_name", "is set; there is one repository, so leave it empty"))
}

// Triton takes a configuration and files of a model in the request itself. Here only the operator says what is served.
fn without_parameters(parameters: &BTreeMap<String, ModelRepositoryParameter>) -> Result<(), Refusal> {
    match parameters.keys().next() {
        None => Ok(()),
        Some(name) => {
            let name: String = name.chars().take(40).collect();
            let problem = format!("has {name:?}; models are loaded as they lie in the repository");
            Err(Refusal::invalid("parameters", problem))
        }
    }
}

fn line(entry: Entry) -> ModelIndex {
    let (state, reason) = match entry.state {
        State::Ready => ("READY", String::new()),
        State::Loading => ("LOADING", String::new()),
        State::Unloading => ("UNLOADING", String::new()),
        State::Unavailable { reason } => ("UNAVAILABLE", reason),
    };
    let version = entry.version.map(|version| version.to_string()).unwrap_or_default();
    ModelIndex { name: entry.name, version, state: state.to_owned(), reason }
}
