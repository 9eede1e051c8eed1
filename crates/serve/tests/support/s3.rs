//! An S3-compatible server over a folder, in this process, for the tests beside this folder. It checks signatures, and it
//! can be told to misbehave.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse as _, Response};
use futures::stream;
use s3s::auth::SimpleAuth;
use s3s::service::{S3Service, S3ServiceBuilder};
use tempfile::TempDir;
use tidemill_serve::{RepositoryConfig, StoreOptions};

pub(crate) const KEY: &str = "the-tests-key";
pub(crate) const SECRET: &str = "the-tests-secret";
const BUCKET: &str = "bucket";

/// What the server does besides.
#[derive(Default)]
pub(crate) struct Behaviour {
    /// What the keys of objects end with whose bodies break off in the middle.
    pub(crate) cut: Option<String>,
    /// A key that every listing of its model has besides.
    pub(crate) lists: Option<String>,
    /// Whether nothing is answered but an error.
    pub(crate) is_gone: bool,
    /// The keys of the objects that were asked for.
    pub(crate) asked: Vec<String>,
}

/// A running server.
pub(crate) struct S3 {
    folder: TempDir,
    address: SocketAddr,
    behaviour: Arc<Mutex<Behaviour>>,
}

impl S3 {
    pub(crate) async fn start() -> S3 {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join(BUCKET)).unwrap();
        let mut service = S3ServiceBuilder::new(s3s_fs::FileSystem::new(folder.path()).unwrap());
        service.set_auth(SimpleAuth::from_single(KEY, SECRET));
        let behaviour = Arc::default();
        let state = (service.build(), Arc::clone(&behaviour));
        let router = axum::Router::new().fallback(answer).with_state(state);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        S3 { folder, address, behaviour }
    }

    /// What is written here is in the bucket.
    pub(crate) fn models(&self) -> PathBuf {
        self.folder.path().join(BUCKET).join("models")
    }

    pub(crate) fn behaviour(&self) -> MutexGuard<'_, Behaviour> {
        self.behaviour.lock().unwrap()
    }

    /// The models of the bucket, by this secret.
    pub(crate) fn repository(&self, secret: &str, cache: &TempDir) -> RepositoryConfig {
        let endpoint = format!("http://{}", self.address);
        let store = [
            ("endpoint", endpoint.as_str()),
            ("region", "us-east-1"),
            ("allow_http", "true"),
            ("access_key_id", KEY),
            ("secret_access_key", secret),
        ];
        RepositoryConfig {
            path: format!("s3://{BUCKET}/models").into(),
            store: StoreOptions::from_iter(store),
            cache: Some(cache.path().to_owned()),
            ..RepositoryConfig::default()
        }
    }
}

async fn answer(State((s3, behaviour)): State<(S3Service, Arc<Mutex<Behaviour>>)>, request: Request) -> Response {
    let is_listing = request.uri().query().is_some_and(|query| query.contains("list-type=2"));
    let query = request.uri().query().unwrap_or_default().to_owned();
    let key = request.uri().path().trim_start_matches(&format!("/{BUCKET}/")).to_owned();
    let is_object = request.method() == Method::GET && !is_listing;
    let (is_gone, is_cut, lists) = {
        let mut behaviour = behaviour.lock().unwrap();
        if is_object {
            behaviour.asked.push(key.clone());
        }
        let is_cut = is_object && behaviour.cut.as_ref().is_some_and(|cut| key.ends_with(cut.as_str()));
        (behaviour.is_gone, is_cut, behaviour.lists.clone().filter(|_| is_listing && !query.contains("delimiter")))
    };
    if is_gone {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    }
    let response = s3.call(request.map(s3s::Body::http_body_unsync)).await.unwrap();
    if !is_cut && lists.is_none() {
        return response.map(Body::new);
    }
    let (mut head, body) = response.into_parts();
    let bytes = axum::body::to_bytes(Body::new(body), usize::MAX).await.unwrap();
    if is_cut {
        let half = bytes.slice(..bytes.len() / 2);
        return Response::from_parts(head, Body::from_stream(stream::iter([Ok(half), Err("it breaks off")])));
    }
    head.headers.remove("content-length");
    let text = String::from_utf8(bytes.to_vec()).unwrap();
    let model = lists.iter().filter(|key| {
        let prefix: String = query.split('&').filter_map(|pair| pair.strip_prefix("prefix=")).collect();
        key.starts_with(&prefix.replace("%2F", "/"))
    });
    let more: String = model
        .map(|key| {
            format!(
                "<Contents><Key>{key}</Key><Size>1</Size><LastModified>2024-01-01T00:00:00.000Z</LastModified></Contents>"
            )
        })
        .collect();
    Response::from_parts(head, Body::from(text.replace("</ListBucketResult>", &format!("{more}</ListBucketResult>"))))
}
