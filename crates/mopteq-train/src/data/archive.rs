//! Tar archives, plain or gzipped, read as a stream: nothing is unpacked to the disk.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use flate2::bufread::MultiGzDecoder;
use tar::{Archive, EntryType};

use super::DataError;

/// Larger files in an archive are no pictures, nor anything else that is looked for.
const LARGEST: u64 = 1 << 30;

/// Whether the path names an archive.
pub(super) fn is_archive(path: &Path) -> bool {
    let name = path.to_string_lossy().to_lowercase();
    path.is_file()
        && [".tar.gz", ".tgz", ".tar"]
            .iter()
            .any(|end| name.ends_with(end))
}

/// Something in an archive, in the order of the archive.
pub(super) enum Member {
    /// A folder.
    Folder(PathBuf),
    /// A file that was wanted, with its content.
    File(PathBuf, Vec<u8>),
}

/// Hands every folder, and every file whose path is `wanted`, to `each`.
pub(super) fn for_each(
    path: &Path,
    wanted: impl Fn(&Path) -> bool,
    mut each: impl FnMut(Member) -> Result<(), DataError>,
) -> Result<(), DataError> {
    let damaged = |source| DataError::Archive {
        file: path.into(),
        source,
    };
    let file = File::open(path).map_err(|source| DataError::read(path, source))?;
    let mut file = BufReader::with_capacity(1 << 20, file);
    let start = file.fill_buf().map_err(damaged)?;
    let input: Box<dyn Read> = if start.starts_with(&[0x1f, 0x8b]) {
        Box::new(MultiGzDecoder::new(file))
    } else {
        Box::new(file)
    };
    let mut archive = Archive::new(input);
    for entry in archive.entries().map_err(damaged)? {
        let mut entry = entry.map_err(damaged)?;
        let name = entry.path().map_err(damaged)?.into_owned();
        match entry.header().entry_type() {
            EntryType::Directory => each(Member::Folder(name))?,
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse if wanted(&name) => {
                let size = entry.size();
                if size > LARGEST {
                    continue;
                }
                // The header may lie about the size, so the vector grows with what is there.
                let mut content = Vec::new();
                entry.read_to_end(&mut content).map_err(damaged)?;
                if (content.len() as u64) < size {
                    return Err(damaged(std::io::ErrorKind::UnexpectedEof.into()));
                }
                each(Member::File(name, content))?;
            }
            _ => {}
        }
    }
    Ok(())
}

/// The named files of an archive or of a folder (or of a folder right below it), by file name.
pub(super) fn named_files(
    path: &Path,
    names: &[&str],
) -> Result<BTreeMap<String, Vec<u8>>, DataError> {
    let mut found = BTreeMap::new();
    let is_wanted = |file: &Path| {
        let name = file.file_name().and_then(|name| name.to_str());
        name.is_some_and(|name| names.contains(&name))
    };
    if is_archive(path) {
        for_each(path, is_wanted, |member| {
            if let Member::File(file, content) = member
                && let Some(name) = file.file_name()
            {
                found.insert(name.to_string_lossy().into_owned(), content);
            }
            Ok(())
        })?;
        return Ok(found);
    }
    for folder in with_subfolders(path)? {
        for name in names {
            let file = folder.join(name);
            if file.is_file() && !found.contains_key(*name) {
                let content =
                    std::fs::read(&file).map_err(|source| DataError::read(&file, source))?;
                found.insert((*name).to_owned(), content);
            }
        }
    }
    Ok(found)
}

/// The folder itself and the folders in it, in order of their names.
pub(super) fn with_subfolders(path: &Path) -> Result<Vec<PathBuf>, DataError> {
    let mut below = Vec::new();
    for entry in std::fs::read_dir(path).map_err(|source| DataError::read(path, source))? {
        let entry = entry.map_err(|source| DataError::read(path, source))?;
        if entry.path().is_dir() {
            below.push(entry.path());
        }
    }
    below.sort();
    below.insert(0, path.into());
    Ok(below)
}
