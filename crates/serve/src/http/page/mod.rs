//! The page at `/`: files that say nothing of this server and are given to everyone. What the page shows it asks for with
//! its reader's key: the list of models here, all else of the interfaces that other clients have.

mod files;
mod models;

use std::future::ready;

use axum::Router;
use axum::http::HeaderMap;
use axum::routing::get;

use super::Http;

/// The paths of the page.
pub(super) fn routes() -> Router<Http> {
    let router = Router::new().route("/tidemill/models", get(models::list));
    files::all().fold(router, |router, file| {
        let tag = file.tag();
        router.route(file.path, get(move |asked: HeaderMap| ready(file.answer(&tag, &asked))))
    })
}
