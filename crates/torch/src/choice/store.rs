//! The choices of this machine in the user's cache folder, so that every run here rounds alike.
//!
//! Only a convenience: where there is no such folder, or it cannot be read or written, choices live in the process alone.

use super::{KernelTable, Key};
use crate::Kernel;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::{env, fs, process};

/// Raised when a kernel changes, so that its old measurements are forgotten.
const VERSION: u32 = 2;

/// The stored choices; none where there is no readable file.
pub(super) fn load() -> KernelTable {
    file()
        .and_then(|file| fs::read(file).ok())
        .and_then(|bytes| serde_json::from_slice(&bytes).ok())
        .unwrap_or_default()
}

/// Stores `kernel` for `key` unless another process was first, and returns what is stored.
pub(super) fn agree(key: Key, kernel: Kernel) -> Kernel {
    let Some(file) = file() else { return kernel };
    // Held until it is dropped: of two processes that store at once neither may undo the other's choice.
    let _turn = lock(&file);
    let mut table = load();
    if let Some((_, first)) = table.choices.iter().find(|(stored, _)| *stored == key) {
        return *first;
    }
    table.choices.push((key, kernel));
    table.choices.sort_unstable();
    let beside = file.with_extension(format!("{}.tmp", process::id()));
    let written = serde_json::to_vec(&table)
        .is_ok_and(|bytes| fs::write(&beside, bytes).is_ok() && fs::rename(&beside, &file).is_ok());
    if !written {
        let _ = fs::remove_file(&beside);
    }
    kernel
}

/// The right to change the stored choices; nothing where the folder cannot be written, and then nothing will be.
fn lock(file: &Path) -> Option<File> {
    fs::create_dir_all(file.parent()?).ok()?;
    let lock = File::create(file.with_extension("lock")).ok()?;
    lock.lock().ok()?;
    Some(lock)
}

/// One file per processor model, libtorch and version of these kernels.
fn file() -> Option<PathBuf> {
    let folder = env::var_os("XDG_CACHE_HOME").filter(|path| !path.is_empty()).map(PathBuf::from);
    let folder = folder.or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".cache")))?;
    if !folder.is_absolute() {
        return None;
    }
    let name = format!("kernels-{VERSION}-{:016x}.json", machine());
    Some(folder.join("tidemill").join(name))
}

/// A number for the processor: FNV-1a of its description, of oneDNN's presence and of the count of its cores.
fn machine() -> u64 {
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu.split("\n\n").next().unwrap_or_default().lines();
    let stable = ["vendor_id", "cpu family", "model", "stepping", "flags", "CPU part", "Features"];
    let mut text: String = model.filter(|line| stable.iter().any(|key| line.starts_with(key))).collect();
    text.push_str(&format!("{} {}", crate::onednn_available(), crate::blocked_available()));
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}
