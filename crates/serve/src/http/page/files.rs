//! The page's files, held in the program, and the headers that they are given with: nothing comes from elsewhere, nothing
//! inline runs, and no other page may frame it.

use axum::http::StatusCode;
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, HeaderMap, HeaderName, HeaderValue, IF_NONE_MATCH,
    REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
};
use axum::response::{IntoResponse, Response};
use sha2::{Digest as _, Sha256};

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const JS: &str = "text/javascript; charset=utf-8";
const SVG: &str = "image/svg+xml";

/// What the page may do: load its own files and call its own server. No text ever becomes markup.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; \
                      trusted-types 'none'";

/// Sent with every file. A browser asks every time whether it has changed, so that page and server never differ.
const HEADERS: [(HeaderName, &str); 6] = [
    (CONTENT_SECURITY_POLICY, POLICY),
    (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (REFERRER_POLICY, "no-referrer"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    (CACHE_CONTROL, "no-cache"),
];

macro_rules! under_page {
    ($kind:expr, $file:literal) => {
        File { path: concat!("/page/", $file), kind: $kind, content: include_str!($file) }
    };
}

const FILES: [File; 22] = [
    File { path: "/", kind: HTML, content: include_str!("page.html") },
    under_page!(SVG, "icon.svg"),
    under_page!(CSS, "page.css"),
    under_page!(JS, "page.js"),
    under_page!(JS, "code.js"),
    under_page!(JS, "dom.js"),
    under_page!(JS, "figures.js"),
    under_page!(JS, "form.js"),
    under_page!(JS, "models.js"),
    under_page!(JS, "panel.js"),
    under_page!(JS, "prometheus.js"),
    under_page!(JS, "samples.js"),
    under_page!(JS, "server.js"),
    under_page!(JS, "tasks.js"),
    under_page!(JS, "tasks/embedding.js"),
    under_page!(JS, "tasks/entities.js"),
    under_page!(JS, "tasks/generation.js"),
    under_page!(JS, "tasks/question_answering.js"),
    under_page!(JS, "tasks/rerank.js"),
    under_page!(JS, "tasks/tensors.js"),
    under_page!(JS, "tasks/text_classification.js"),
    under_page!(JS, "tasks/text_to_text.js"),
];

/// All files of the page.
pub(super) fn all() -> impl Iterator<Item = File> {
    FILES.into_iter()
}

/// A file of the page.
#[derive(Clone, Copy, Debug)]
pub(super) struct File {
    pub(super) path: &'static str,
    kind: &'static str,
    content: &'static str,
}

impl File {
    /// What stands for its content.
    pub(super) fn tag(&self) -> String {
        let digest = Sha256::digest(self.content);
        let digits: String = digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
        format!("\"{digits}\"")
    }

    /// The file, or that it is as the asker has it.
    pub(super) fn answer(&self, tag: &str, asked: &HeaderMap) -> Response {
        let mut response = if has(asked, tag) {
            StatusCode::NOT_MODIFIED.into_response()
        } else {
            ([(CONTENT_TYPE, self.kind)], self.content).into_response()
        };
        let headers = response.headers_mut();
        headers.extend(HEADERS.map(|(name, value)| (name, HeaderValue::from_static(value))));
        headers.extend(HeaderValue::from_str(tag).ok().map(|tag| (ETAG, tag)));
        response
    }
}

// Whether one of the tags that the asker has is this; whether weak or strong does not matter for a file that is given whole.
fn has(asked: &HeaderMap, tag: &str) -> bool {
    let lists = asked.get_all(IF_NONE_MATCH).iter().filter_map(|list| list.to_str().ok());
    lists.flat_map(|list| list.split(',')).map(str::trim).any(|own| own == "*" || own.trim_start_matches("W/") == tag)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    // The quoted names behind this word in a file's text, as paths on the server.
    fn names(file: &File, word: &str) -> Vec<String> {
        let folder = &file.path[..=file.path.rfind('/').unwrap()];
        let quoted = file.content.split(word).skip(1).filter_map(|rest| rest.split('"').next());
        quoted
            .map(|name| match name.strip_prefix("../") {
                Some(above) => format!("/page/{above}"),
                None => format!("{folder}{}", name.trim_start_matches("./")),
            })
            .collect()
    }

    #[test]
    fn whatever_a_file_names_is_there_and_is_loaded_with_the_page() {
        let paths: Vec<&str> = all().map(|file| file.path).collect();
        let page = FILES[0];
        let loaded: Vec<String> = ["href=\"", "src=\""].iter().flat_map(|word| names(&page, word)).collect();
        for path in loaded.iter().filter(|path| !path.contains('#')) {
            assert!(paths.contains(&path.as_str()), "page.html names {path}");
        }
        for file in all().filter(|file| file.kind == JS) {
            assert!(loaded.iter().any(|path| path == file.path), "page.html does not load {} in advance", file.path);
            for path in names(&file, "from \"") {
                assert!(paths.contains(&path.as_str()), "{} names {path}", file.path);
            }
        }
    }

    #[test]
    fn a_file_is_sent_once() {
        let file = FILES[0];
        let asked = |tags: &str| HeaderMap::from_iter([(IF_NONE_MATCH, tags.parse().unwrap())]);
        let tag = file.tag();
        for (tags, status) in [
            (tag.clone(), StatusCode::NOT_MODIFIED),
            (format!("\"other\", W/{tag}"), StatusCode::NOT_MODIFIED),
            ("*".to_owned(), StatusCode::NOT_MODIFIED),
            ("\"other\"".to_owned(), StatusCode::OK),
        ] {
            assert_eq!(file.answer(&tag, &asked(&tags)).status(), status, "{tags}");
        }
        assert_ne!(FILES[1].tag(), tag);
    }
}
