//! What lies below a picture folder or in an archive, before anything is decoded.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::Read;
use std::path::{Component, Path, PathBuf};

use serde::de::IgnoredAny;

use super::DataError;
use super::archive::{self, Kind};
use super::decode::{Head, head, looks_like_a_picture};

/// Endings of the files that are read as pictures, and of those that hold pictures but are not.
const READ: [&str; 10] = [
    "png", "apng", "jpg", "jpeg", "jpe", "jfif", "bmp", "dib", "gif", "webp",
];
const NOT_READ: [&str; 24] = [
    "tif", "tiff", "heic", "heif", "hif", "avif", "jxl", "jp2", "j2k", "jpx", "pbm", "pgm", "ppm",
    "pnm", "tga", "ico", "svg", "psd", "exr", "hdr", "dng", "cr2", "nef", "arw",
];
/// Folders that systems and programs leave beside pictures, in lower case. Those whose names start
/// with a dot need not be here.
const LITTER: [&str; 18] = [
    "__macosx",
    "@eadir",
    "@tmp",
    "@recycle",
    "@recently-snapshot",
    "#recycle",
    "#snapshot",
    "lost+found",
    "lost.dir",
    "found.000",
    "$recycle.bin",
    "recycler",
    "recycled",
    "system volume information",
    "thumbs.db",
    "network trash folder",
    "temporary items",
    "__pycache__",
];
/// Files that mark a folder of this program, and fields that such a file has: a run, and what
/// `inspect` writes.
const MARKS: [(&str, &[&str]); 2] = [
    (
        "config.json",
        &["format", "data", "classes", "normalisation", "model"],
    ),
    (
        "inspection.json",
        &["prediction", "solver_residuals", "branches"],
    ),
];
/// Bytes at the start of a file that tell what it is.
const START: u64 = 16;

/// A picture file.
#[derive(Debug)]
pub(super) struct Found {
    /// Below the root, as the system spells it.
    pub(super) path: PathBuf,
    /// Position in an archive: of two members of one name, the later counts.
    pub(super) number: usize,
    /// Of a picture in an archive, if heads were asked for.
    pub(super) head: Option<Head>,
}

/// A folder with the pictures that are directly in it.
#[derive(Debug, Default)]
pub(super) struct Folder {
    pub(super) pictures: Vec<Found>,
    pub(super) folders: BTreeMap<OsString, Folder>,
    /// This program wrote it, or everything in it.
    pub(super) ours: bool,
}

/// Everything that was found.
#[derive(Debug, Default)]
pub(super) struct Listing {
    pub(super) root: Folder,
    /// Pictures that cannot be taken, each with the reason.
    pub(super) skipped: Vec<String>,
    /// What systems and this program leave, which is not looked into.
    pub(super) ignored: BTreeSet<String>,
    /// Files of a folder that are no pictures.
    pub(super) others: Vec<String>,
}

impl Folder {
    /// Number of pictures at any depth.
    pub(super) fn count(&self) -> usize {
        let inside: usize = self.folders.values().map(Self::count).sum();
        self.pictures.len() + inside
    }

    /// A folder that holds nothing but runs is as little a class as a run is.
    fn settle(&mut self) {
        self.folders.values_mut().for_each(Self::settle);
        let runs = !self.folders.is_empty() && self.folders.values().all(|folder| folder.ours);
        self.ours |= runs && self.pictures.is_empty();
        self.folders.retain(|_, folder| !folder.ours);
    }
}

/// The pictures below a folder, at any depth and in order, and why other files are none: pictures
/// that cannot be read, and files that are something else.
pub(crate) fn pictures_below(path: &Path) -> Result<(Vec<PathBuf>, [Vec<String>; 2]), DataError> {
    fn collect(folder: Folder, into: &mut Vec<PathBuf>) {
        into.extend(folder.pictures.into_iter().map(|found| found.path));
        folder
            .folders
            .into_values()
            .for_each(|inside| collect(inside, into));
    }
    let listing = list(path, false)?;
    let mut pictures = Vec::new();
    collect(listing.root, &mut pictures);
    pictures.sort();
    let pictures = pictures.into_iter().map(|below| path.join(below));
    let full = |lines: Vec<String>| -> Vec<String> {
        let line = |line| path.join(line).display().to_string();
        lines.into_iter().map(line).collect()
    };
    let left_out = [full(listing.skipped), full(listing.others)];
    Ok((pictures.collect(), left_out))
}

/// A path as it is shown and compared: with slashes, what is no UTF-8 replaced.
pub(super) fn readable(path: &Path) -> String {
    let parts = path.components().filter_map(|part| match part {
        Component::Normal(name) => Some(name.to_string_lossy()),
        _ => None,
    });
    parts.collect::<Vec<_>>().join("/")
}

/// Lists a folder or an archive. `heads` asks for size and colour of an archive's pictures.
pub(super) fn list(path: &Path, heads: bool) -> Result<Listing, DataError> {
    let mut listing = if archive::is_archive(path) {
        list_archive(path, heads)?
    } else {
        list_folder(path)?
    };
    listing.root.settle();
    Ok(listing)
}

/// What a name says about a file.
enum Name {
    Picture,
    NotRead,
    Hidden,
    /// What a system keeps beside files: no picture, whatever is in it.
    Litter,
    Other,
}

fn classify(name: &OsStr) -> Name {
    let text = name.to_string_lossy();
    let ending = Path::new(name).extension().unwrap_or_default();
    let ending = ending.to_string_lossy().to_lowercase();
    match (READ.contains(&&*ending), text.starts_with('.')) {
        (true, true) if !text.starts_with("._") => Name::Hidden,
        (_, true) => Name::Litter,
        (true, false) => Name::Picture,
        _ if NOT_READ.contains(&&*ending) => Name::NotRead,
        _ => Name::Other,
    }
}

fn not_read(path: &Path) -> String {
    let ending = path.extension().unwrap_or_default().to_string_lossy();
    format!(
        "{}: .{ending} files are not read; convert it to PNG or JPEG",
        readable(path)
    )
}

fn is_litter(name: &OsStr) -> bool {
    let name = name.to_string_lossy().to_lowercase();
    name.starts_with('.') || LITTER.contains(&&*name)
}

/// Whether a file marks its folder as one that this program wrote.
fn is_mark(name: &OsStr, content: impl FnOnce() -> Option<Vec<u8>>) -> bool {
    let fields = MARKS.iter().find(|(mark, _)| name == *mark);
    fields.is_some_and(|(_, fields)| {
        let found = content()
            .and_then(|bytes| serde_json::from_slice::<BTreeMap<String, IgnoredAny>>(&bytes).ok());
        found.is_some_and(|found| fields.iter().all(|field| found.contains_key(*field)))
    })
}

fn list_folder(root: &Path) -> Result<Listing, DataError> {
    let real = fs::canonicalize(root).map_err(|source| DataError::read(root, source))?;
    let mut walk = Walk {
        root,
        entered: BTreeSet::from([real.clone()]),
        real,
        listing: Listing::default(),
    };
    walk.listing.root = walk.enter(root)?;
    Ok(walk.listing)
}

struct Walk<'a> {
    root: &'a Path,
    /// The root without links in its path.
    real: PathBuf,
    /// Folders that were read and files that links led to, likewise.
    entered: BTreeSet<PathBuf>,
    listing: Listing,
}

impl Walk<'_> {
    fn enter(&mut self, folder: &Path) -> Result<Folder, DataError> {
        let mut here = Folder::default();
        let entries = fs::read_dir(folder).map_err(|source| DataError::read(folder, source))?;
        let entries: Result<Vec<_>, _> = entries.collect();
        let mut entries = entries.map_err(|source| DataError::read(folder, source))?;
        // So that an error, too, does not depend on the order on the disk.
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            let (path, name) = (entry.path(), entry.file_name());
            let below = path.strip_prefix(self.root).unwrap_or(&path).to_path_buf();
            if !path.is_dir() {
                if self.is_taken(&path, &below, &name) {
                    here.pictures.push(Found {
                        path: below,
                        number: 0,
                        head: None,
                    });
                }
                continue;
            }
            let marked = |(mark, _): &(&str, &[&str])| {
                let file = path.join(mark);
                is_mark(OsStr::new(mark), || fs::read(&file).ok())
            };
            if is_litter(&name) {
                self.listing.ignored.insert(readable(&below));
                continue;
            }
            let inside = if MARKS.iter().any(marked) {
                self.listing.ignored.insert(readable(&below));
                Folder {
                    ours: true,
                    ..Folder::default()
                }
            } else {
                self.check_link(&path)?;
                self.enter(&path)?
            };
            here.folders.insert(name, inside);
        }
        Ok(here)
    }

    /// Whether a file is a picture that counts. If it is one that does not, this is noted.
    fn is_taken(&mut self, path: &Path, below: &Path, name: &OsStr) -> bool {
        let found = fs::metadata(path);
        let regular = found.as_ref().is_ok_and(fs::Metadata::is_file);
        match classify(name) {
            Name::Picture => {}
            Name::NotRead => {
                self.listing.skipped.push(not_read(below));
                return false;
            }
            Name::Hidden => {
                self.listing.ignored.insert(readable(below));
                return false;
            }
            Name::Litter => return false,
            Name::Other => {
                let mut start = Vec::new();
                let read = regular
                    && File::open(path)
                        .is_ok_and(|file| file.take(START).read_to_end(&mut start).is_ok());
                if !read || !looks_like_a_picture(&start) {
                    self.listing.others.push(readable(below));
                    return false;
                }
            }
        }
        let reason = match fs::canonicalize(path) {
            // To read from a pipe might never end.
            _ if found.is_ok() && !regular => "it is no regular file".to_owned(),
            Ok(real) if path.is_symlink() => {
                let again = self.is_read(&real) || !self.entered.insert(real.clone());
                if !again {
                    return true;
                }
                let target = real.strip_prefix(&self.real).unwrap_or(&real);
                format!("a link to {}, which counts already", target.display())
            }
            // A link that leads nowhere is like a damaged picture.
            _ => return true,
        };
        let line = format!("{}: {reason}", readable(below));
        self.listing.skipped.push(line);
        false
    }

    /// Whether a path is among the data: not so in a hidden folder, where git-annex and its like
    /// keep what their links lead to.
    fn is_read(&self, real: &Path) -> bool {
        let below = real.strip_prefix(&self.real);
        below.is_ok_and(|below| !below.components().any(|part| is_litter(part.as_os_str())))
    }

    /// A link may lead to a folder elsewhere. One into the data, above them, or to where another
    /// one led would never end, or have pictures count twice, maybe for training and for the test.
    fn check_link(&mut self, path: &Path) -> Result<(), DataError> {
        let real = fs::canonicalize(path).map_err(|source| DataError::read(path, source))?;
        let is_link = path.is_symlink();
        let again = is_link && (self.is_read(&real) || self.real.starts_with(&real));
        if !self.entered.insert(real.clone()) || again {
            return Err(DataError::Link {
                path: path.into(),
                target: real,
            });
        }
        Ok(())
    }
}

fn list_archive(path: &Path, heads: bool) -> Result<Listing, DataError> {
    let mut listing = Listing::default();
    let mut pictures: BTreeMap<PathBuf, Found> = BTreeMap::new();
    let mut folders: BTreeSet<PathBuf> = BTreeSet::new();
    let mut ours: BTreeSet<PathBuf> = BTreeSet::new();
    let mut skipped: Vec<(PathBuf, String)> = Vec::new();
    archive::for_each(path, |member| {
        let below = member.path().to_path_buf();
        let name = below.file_name().unwrap_or_default().to_owned();
        let folder = below.parent().unwrap_or(Path::new(""));
        if folder.components().any(|part| is_litter(part.as_os_str())) {
            folders.insert(folder.to_path_buf());
            return Ok(());
        }
        let mut start = Vec::new();
        let reason = match (classify(&name), member.kind()) {
            (_, Kind::Folder) => {
                folders.insert(below);
                return Ok(());
            }
            (Name::Hidden, _) => {
                listing.ignored.insert(readable(&below));
                return Ok(());
            }
            (Name::NotRead, _) => Some(not_read(&below)),
            (Name::Picture, Kind::Link) => Some(format!(
                "{}: a link in an archive; pack it with the files that links lead to (tar \
                 --dereference --hard-dereference)",
                readable(&below)
            )),
            (Name::Picture, Kind::TooLarge) => {
                Some(format!("{}: larger than any picture", readable(&below)))
            }
            (Name::Picture, Kind::File) => None,
            (Name::Other, Kind::File) => {
                start = member.start(START)?;
                if !looks_like_a_picture(&start) {
                    let mark = MARKS.iter().any(|(mark, _)| name == *mark);
                    let rest = if mark { member.content()? } else { Vec::new() };
                    if is_mark(&name, || Some([start, rest].concat())) {
                        ours.insert(folder.to_path_buf());
                    }
                    return Ok(());
                }
                None
            }
            (Name::Other | Name::Litter, _) => return Ok(()),
        };
        if let Some(reason) = reason {
            skipped.push((folder.to_path_buf(), reason));
            return Ok(());
        }
        let head = match heads {
            true => head(&[start, member.content()?].concat()),
            false => None,
        };
        let (path, number) = (below.clone(), member.number());
        pictures.insert(below, Found { path, number, head });
        Ok(())
    })?;
    // The archive itself may be that of a run, in which case there are no pictures anyway.
    ours.remove(Path::new(""));
    for folder in folders {
        listing.put(&folder, &ours);
    }
    for (folder, reason) in skipped {
        if listing.put(&folder, &ours).is_some() {
            listing.skipped.push(reason);
        }
    }
    for (path, found) in pictures {
        let folder = path.parent().unwrap_or(Path::new(""));
        if let Some(folder) = listing.put(folder, &ours) {
            folder.pictures.push(found);
        }
    }
    Ok(listing)
}

impl Listing {
    /// The folder of that path, made if need be; `None` where it is not looked into.
    fn put(&mut self, path: &Path, ours: &BTreeSet<PathBuf>) -> Option<&mut Folder> {
        let mut folder = &mut self.root;
        let mut so_far = PathBuf::new();
        for part in path.components() {
            let name = part.as_os_str();
            so_far.push(name);
            if is_litter(name) {
                self.ignored.insert(readable(&so_far));
                return None;
            }
            folder = folder.folders.entry(name.to_owned()).or_default();
            if ours.contains(&so_far) {
                folder.ours = true;
                self.ignored.insert(readable(&so_far));
                return None;
            }
        }
        Some(folder)
    }
}
