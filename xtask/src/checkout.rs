//! The checkout and the commands that run in it.
//!
//! Owns the repository's root and the `cargo` command that every other part starts. `cargo run`
//! sets variables for `xtask` itself (`CARGO_PKG_…`, and `LIBTORCH` from `.cargo/config.toml`): an
//! inner cargo must not see them, or it would build again what it has built already.
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

/// Where `cargo xtask setup` links libtorch, below the root.
pub(crate) const LIBTORCH_LINK: &str = ".libtorch";

/// The repository's root: the folder above `xtask/`.
pub(crate) fn root() -> Result<PathBuf> {
    let manifest =
        std::env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    let folder = manifest.parent().context("xtask's folder has no parent")?;
    folder.canonicalize().with_context(|| format!("The checkout {} is gone.", folder.display()))
}

/// A `cargo` command in the root, with the environment that a person at a prompt there would give
/// it.
pub(crate) fn cargo(root: &Path) -> Command {
    let program = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(program);
    command.current_dir(root);
    for (name, value) in std::env::vars_os() {
        let text = name.to_string_lossy();
        let of_this_package = ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_", "CARGO_CRATE_"]
            .iter()
            .any(|prefix| text.starts_with(prefix));
        if of_this_package || (text == "LIBTORCH" && is_link(root, Path::new(&value))) {
            command.env_remove(&name);
        }
    }
    command
}

/// Whether `path` is the link in this checkout, which is what `.cargo/config.toml` sets `LIBTORCH`
/// to, and not a folder of the user's.
pub(crate) fn is_link(root: &Path, path: &Path) -> bool {
    path == root.join(LIBTORCH_LINK)
        || path.file_name().is_some_and(|name| name == LIBTORCH_LINK)
            && path.parent().and_then(|parent| parent.canonicalize().ok()).is_some_and(|parent| parent == root)
}

/// Where cargo puts what it builds.
pub(crate) fn target_folder(root: &Path) -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), |path| root.join(path))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_link_of_this_checkout_is_not_the_users_libtorch() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        std::fs::create_dir(root.join("inner")).unwrap();
        assert!(is_link(&root, &root.join(".libtorch")));
        assert!(is_link(&root, &root.join("inner/../.libtorch")));
        assert!(!is_link(&root, &root.join("inner/.libtorch")));
        assert!(!is_link(&root, Path::new("/opt/libtorch")));
    }
}
