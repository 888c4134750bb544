//! Tar archives, plain or gzipped, read as a stream: nothing is unpacked to the disk.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Component, Path, PathBuf};

use flate2::bufread::MultiGzDecoder;
use tar::{Archive, Entry, EntryType};

use super::DataError;

/// Larger files in an archive are not pictures, nor anything else of interest.
const LARGEST: u64 = 1 << 30;

/// Whether the path names an archive.
pub(super) fn is_archive(path: &Path) -> bool {
    let name = path.to_string_lossy().to_lowercase();
    path.is_file()
        && [".tar.gz", ".tgz", ".tar"]
            .iter()
            .any(|end| name.ends_with(end))
}

/// What a member of an archive is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Folder,
    File,
    /// Its content is in another member, or elsewhere.
    Link,
    TooLarge,
}

/// Something in an archive.
pub(super) struct Member<'a> {
    entry: Entry<'a, Box<dyn Read>>,
    archive: &'a Path,
    path: PathBuf,
    kind: Kind,
    number: usize,
    read: u64,
}

impl Member<'_> {
    /// Where it is, below the archive.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn kind(&self) -> Kind {
        self.kind
    }

    /// Its position in the archive.
    pub(super) fn number(&self) -> usize {
        self.number
    }

    /// The next bytes, at most `count`.
    pub(super) fn start(&mut self, count: u64) -> Result<Vec<u8>, DataError> {
        // The header may lie about the size, so the vector grows with what is there.
        let mut content = Vec::new();
        let mut part = (&mut self.entry).take(count);
        let read = part.read_to_end(&mut content);
        self.read += read.map_err(|source| damaged(self.archive, source))? as u64;
        Ok(content)
    }

    /// All bytes that have not been read yet.
    pub(super) fn content(&mut self) -> Result<Vec<u8>, DataError> {
        self.start(u64::MAX)
    }

    /// Reads through the rest, because only this reveals an archive that is cut off.
    fn finish(mut self) -> io::Result<()> {
        self.read += io::copy(&mut self.entry, &mut io::sink())?;
        match self.read < self.entry.size() {
            true => Err(io::ErrorKind::UnexpectedEof.into()),
            false => Ok(()),
        }
    }
}

fn damaged(file: &Path, source: io::Error) -> DataError {
    DataError::Archive {
        file: file.into(),
        source,
    }
}

/// Hands every member to `each`, in the order of the archive.
pub(super) fn for_each(
    path: &Path,
    mut each: impl FnMut(&mut Member<'_>) -> Result<(), DataError>,
) -> Result<(), DataError> {
    let failed = |source| damaged(path, source);
    let file = File::open(path).map_err(|source| DataError::read(path, source))?;
    let mut file = BufReader::with_capacity(1 << 20, file);
    let start = file.fill_buf().map_err(failed)?;
    let input: Box<dyn Read> = if start.starts_with(&[0x1f, 0x8b]) {
        Box::new(MultiGzDecoder::new(file))
    } else {
        Box::new(file)
    };
    let mut archive = Archive::new(input);
    for (number, entry) in archive.entries().map_err(failed)?.enumerate() {
        let entry = entry.map_err(failed)?;
        let name = entry.path().map_err(failed)?;
        // Nothing is unpacked, so a path above the archive's root means nothing.
        let mut below = PathBuf::new();
        for part in name.components() {
            match part {
                Component::Normal(part) => below.push(part),
                Component::ParentDir => _ = below.pop(),
                _ => {}
            }
        }
        let kind = match entry.header().entry_type() {
            EntryType::Directory => Kind::Folder,
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                match entry.size() > LARGEST {
                    true => Kind::TooLarge,
                    false => Kind::File,
                }
            }
            EntryType::Link | EntryType::Symlink => Kind::Link,
            _ => continue,
        };
        let mut member = Member {
            entry,
            archive: path,
            path: below,
            kind,
            number,
            read: 0,
        };
        each(&mut member)?;
        member.finish().map_err(failed)?;
    }
    Ok(())
}

/// The named files of an archive or of a folder (or of a folder right below it), by file name.
pub(super) fn named_files(
    path: &Path,
    names: &[&str],
) -> Result<BTreeMap<String, Vec<u8>>, DataError> {
    let mut found = BTreeMap::new();
    if is_archive(path) {
        for_each(path, |member| {
            let name = member.path().file_name().and_then(|name| name.to_str());
            if let Some(name) = name.filter(|name| names.contains(name)).map(str::to_owned)
                && member.kind() == Kind::File
            {
                found.insert(name, member.content()?);
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

/// Folder and name of each file of an archive, or of a folder and the folders right below it.
pub(super) fn file_names(path: &Path) -> Result<Vec<(PathBuf, String)>, DataError> {
    let mut found = Vec::new();
    let mut add = |file: &Path| {
        let folder = file.parent().unwrap_or(Path::new("")).to_path_buf();
        let name = file.file_name().and_then(|name| name.to_str());
        found.extend(name.map(|name| (folder, name.to_owned())));
    };
    if is_archive(path) {
        for_each(path, |member| {
            if member.kind() == Kind::File {
                add(member.path());
            }
            Ok(())
        })?;
        return Ok(found);
    }
    for folder in with_subfolders(path)? {
        // The search for pictures reports folders that cannot be read.
        let entries = std::fs::read_dir(&folder).into_iter().flatten().flatten();
        entries.for_each(|entry| add(&entry.path()));
    }
    Ok(found)
}

/// Whether an archive, or a folder or one right below it, has all of these files side by side.
pub(super) fn has_files(path: &Path, names: &[&str]) -> Result<bool, DataError> {
    if !is_archive(path) {
        let has_all = |folder: PathBuf| names.iter().all(|name| folder.join(name).is_file());
        return Ok(with_subfolders(path)?.into_iter().any(has_all));
    }
    let mut found: BTreeMap<PathBuf, usize> = BTreeMap::new();
    for_each(path, |member| {
        let (folder, name) = (member.path().parent(), member.path().file_name());
        if member.kind() == Kind::File && names.iter().any(|known| name == Some(known.as_ref())) {
            *found
                .entry(folder.map(Path::to_path_buf).unwrap_or_default())
                .or_default() += 1;
        }
        Ok(())
    })?;
    Ok(found.values().any(|count| *count >= names.len()))
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
