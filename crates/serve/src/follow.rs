//! Files that are read again while the server runs, when they change. What cannot be used changes nothing and is logged.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use crate::error::ServeError;
use crate::keys::Keys;
use crate::tls::Tls;

/// How often to look whether a file has changed.
const INTERVAL: Duration = Duration::from_secs(1);

/// What stands in files and can take them again.
pub(crate) trait Reload: Send + Sync + 'static {
    /// What it is, for the log.
    const WHAT: &'static str;

    /// The files.
    fn files(&self) -> Vec<PathBuf>;

    /// Reads them again, all or nothing.
    fn reload(&self) -> Result<(), ServeError>;
}

impl Reload for Keys {
    const WHAT: &'static str = "API keys";

    fn files(&self) -> Vec<PathBuf> {
        vec![self.path().to_owned()]
    }

    fn reload(&self) -> Result<(), ServeError> {
        Ok(Keys::reload(self)?)
    }
}

impl Reload for Tls {
    const WHAT: &'static str = "TLS's files";

    fn files(&self) -> Vec<PathBuf> {
        Tls::files(self)
    }

    fn reload(&self) -> Result<(), ServeError> {
        Ok(Tls::reload(self)?)
    }
}

/// Reads again, and logs how that went.
pub(crate) fn reload<R: Reload>(followed: &R) {
    match followed.reload() {
        Ok(()) => tracing::info!(what = R::WHAT, "read again"),
        Err(error) => tracing::error!(what = R::WHAT, %error, "cannot be read again; they stay as they were"),
    }
}

/// Reads again whenever a file changes.
pub(crate) async fn follow<R: Reload>(followed: R) {
    let mut seen = stamps(&followed);
    loop {
        tokio::time::sleep(INTERVAL).await;
        let now = stamps(&followed);
        if now != seen {
            reload(&followed);
            seen = now;
        }
    }
}

// When each file was written, and its length; nothing of one that is not there.
fn stamps<R: Reload>(followed: &R) -> Vec<Option<(SystemTime, u64)>> {
    let stamp = |path: PathBuf| {
        let metadata = std::fs::metadata(path).ok()?;
        Some((metadata.modified().ok()?, metadata.len()))
    };
    followed.files().into_iter().map(stamp).collect()
}
