//! Pictures in one folder for each class, as files or in an archive.
//!
//! `[train/|test/|val/]CLASS/picture.png`, at any depth. Without parts, a share of each class is
//! set aside as test pictures. Where there are both `test` and `val`, the latter are trained on,
//! for the validation split is taken from the training pictures.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use super::archive::{self, Member};
use super::cache::PixelStore;
use super::decode::{decode, probe};
use super::interleave::interleave;
use super::meter::Meter;
use super::{DataError, DataSet, Picture, PictureShape, memory_budget, stratified_split};

/// Pictures that are decoded together, at most as many bytes of files as `CHUNK_BYTES`.
const CHUNK: usize = 1024;
const CHUNK_BYTES: usize = 64 << 20;
/// Side that pictures are scaled to where their own sizes differ or are large.
const SIDE: usize = 64;
/// Largest side of pictures that are taken as they are.
const LARGEST_SIDE: usize = 224;
/// The halvings of three branches need sides that 4 divides.
const DIVISOR: usize = 4;
/// Seed of the split into training and test pictures: the same for all runs, so that no run sees
/// the test pictures of another.
const TEST_SPLIT_SEED: u64 = 0;

/// How the pictures are read.
#[derive(Clone, Debug)]
pub(super) struct Options {
    /// Height and width; `None`: the pictures' own where it is one and small, or else 64 x 64.
    pub(super) size: Option<[usize; 2]>,
    /// 1 or 3; `None`: 1 where the pictures are grey.
    pub(super) channels: Option<usize>,
    /// Share of each class that becomes test pictures where there is no test part.
    pub(super) test_fraction: f64,
    /// Share of the pictures that may be damaged; one always may.
    pub(super) max_corrupt: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    Train,
    Test,
    Valid,
    None,
}

/// Part and class of a picture or of a class folder.
type Place = (Part, String);

struct Entry {
    place: Place,
    name: String,
    content: Content,
}

enum Content {
    File(PathBuf),
    Bytes(Vec<u8>),
}

impl Content {
    fn len(&self) -> usize {
        match self {
            // Files are read one at a time and kept no longer than they are decoded.
            Self::File(_) => 0,
            Self::Bytes(bytes) => bytes.len(),
        }
    }

    fn read(self, name: &str) -> Result<Vec<u8>, String> {
        match self {
            Self::File(path) => fs::read(&path).map_err(|error| format!("{name}: {error}")),
            Self::Bytes(bytes) => Ok(bytes),
        }
    }
}

pub(super) fn is_picture(path: &Path) -> bool {
    const ENDINGS: [&str; 6] = ["png", "jpg", "jpeg", "bmp", "gif", "webp"];
    let ending = path.extension().and_then(OsStr::to_str).unwrap_or_default();
    let hidden = path
        .components()
        .any(|part| is_hidden(part.as_os_str().to_str().unwrap_or_default()));
    !hidden && ENDINGS.contains(&ending.to_lowercase().as_str())
}

fn is_hidden(name: &str) -> bool {
    name == "__MACOSX" || (name.starts_with('.') && name != "." && name != "..")
}

/// Part and class of a class folder, from its path below the root.
fn place(folder: &Path) -> Option<Place> {
    let part_of = |name: &str| match name.to_lowercase().as_str() {
        "train" | "training" => Part::Train,
        "test" | "testing" => Part::Test,
        "val" | "valid" | "validation" => Part::Valid,
        _ => Part::None,
    };
    let names: Vec<&str> = folder
        .components()
        .filter_map(|part| part.as_os_str().to_str())
        .filter(|name| *name != ".")
        .collect();
    let (class, above) = names.split_last()?;
    if part_of(class) != Part::None {
        return None;
    }
    let part = above.last().map_or(Part::None, |name| part_of(name));
    Some((part, (*class).to_owned()))
}

/// Reads everything below a folder, or in an archive.
pub(super) fn load(path: &Path, options: &Options) -> Result<DataSet, DataError> {
    let mut reader = Reader::new(path, options);
    if archive::is_archive(path) {
        let mut folders = Vec::new();
        archive::for_each(path, is_picture, |member| match member {
            Member::Folder(folder) => {
                folders.push(folder);
                Ok(())
            }
            Member::File(file, bytes) => {
                if let Some(place) = file.parent().and_then(place) {
                    let (name, content) = (file.display().to_string(), Content::Bytes(bytes));
                    reader.add(Entry {
                        place,
                        name,
                        content,
                    })?;
                }
                Ok(())
            }
        })?;
        let is_leaf = |folder: &&PathBuf| {
            let inside = |other: &PathBuf| other != *folder && other.starts_with(folder);
            !folders.iter().any(inside)
        };
        let leaves = folders.iter().filter(is_leaf);
        reader
            .expected
            .extend(leaves.filter_map(|folder| place(folder)));
    } else {
        let mut files = Vec::new();
        walk(path, &mut files, &mut reader.expected)?;
        reader.meter.total(files.len() as u64);
        files.sort();
        for (folder, file) in files {
            reader.add(Entry {
                place: folder,
                name: file.display().to_string(),
                content: Content::File(file),
            })?;
        }
    }
    reader.finish()
}

/// Finds the pictures, and the class folders: those without folders in them.
fn walk(
    root: &Path,
    files: &mut Vec<(Place, PathBuf)>,
    leaves: &mut BTreeSet<Place>,
) -> Result<(), DataError> {
    let real = fs::canonicalize(root).map_err(|source| DataError::read(root, source))?;
    let mut walk = Walk {
        root,
        entered: BTreeSet::from([real.clone()]),
        real,
        files,
        leaves,
    };
    walk.enter(root)
}

struct Walk<'a> {
    root: &'a Path,
    /// The root without links in its path.
    real: PathBuf,
    /// Folders that were read, likewise.
    entered: BTreeSet<PathBuf>,
    files: &'a mut Vec<(Place, PathBuf)>,
    leaves: &'a mut BTreeSet<Place>,
}

impl Walk<'_> {
    fn enter(&mut self, folder: &Path) -> Result<(), DataError> {
        let here = folder.strip_prefix(self.root).ok().and_then(place);
        let mut leaf = true;
        let entries = fs::read_dir(folder).map_err(|source| DataError::read(folder, source))?;
        let entries: Result<Vec<_>, _> = entries.collect();
        let mut entries = entries.map_err(|source| DataError::read(folder, source))?;
        // So that an error, too, does not depend on the order on the disk.
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            let (path, name) = (entry.path(), entry.file_name());
            if is_hidden(&name.to_string_lossy()) {
                continue;
            }
            if path.is_dir() {
                leaf = false;
                self.check_link(&path)?;
                self.enter(&path)?;
            } else if is_picture(Path::new(&name))
                && let Some(here) = &here
            {
                self.files.push((here.clone(), path));
            }
        }
        if leaf {
            self.leaves.extend(here);
        }
        Ok(())
    }

    /// A link may lead to a folder elsewhere. One into the data, above them, or to where another
    /// one led would never end, or have pictures count twice, maybe for training and for the test.
    fn check_link(&mut self, path: &Path) -> Result<(), DataError> {
        let real = fs::canonicalize(path).map_err(|source| DataError::read(path, source))?;
        let is_link = path.is_symlink();
        let again = is_link && (real.starts_with(&self.real) || self.real.starts_with(&real));
        if !self.entered.insert(real.clone()) || again {
            return Err(DataError::Link {
                path: path.into(),
                target: real,
            });
        }
        Ok(())
    }
}

/// A decoded picture before its class has a number.
struct Decoded {
    place: Place,
    name: String,
    pixels: super::Pixels,
}

struct Reader<'a> {
    path: &'a Path,
    options: &'a Options,
    /// Known once the first pictures have been looked at.
    shape: Option<PictureShape>,
    waiting: Vec<Entry>,
    store: PixelStore,
    decoded: Vec<Decoded>,
    skipped: Vec<String>,
    /// Class folders, with or without pictures.
    expected: BTreeSet<Place>,
    meter: Meter,
}

impl<'a> Reader<'a> {
    fn new(path: &'a Path, options: &'a Options) -> Self {
        Self {
            path,
            options,
            shape: None,
            waiting: Vec::new(),
            store: PixelStore::new(memory_budget()),
            decoded: Vec::new(),
            skipped: Vec::new(),
            expected: BTreeSet::new(),
            meter: Meter::count("pictures decoded"),
        }
    }

    fn add(&mut self, entry: Entry) -> Result<(), DataError> {
        self.waiting.push(entry);
        let bytes: usize = match self.waiting.len() % 64 {
            0 => self.waiting.iter().map(|entry| entry.content.len()).sum(),
            _ => 0,
        };
        if self.waiting.len() >= CHUNK || bytes >= CHUNK_BYTES {
            self.decode_waiting()?;
        }
        Ok(())
    }

    fn decode_waiting(&mut self) -> Result<(), DataError> {
        let entries = std::mem::take(&mut self.waiting);
        let read: Vec<(Place, String, Result<Vec<u8>, String>)> = entries
            .into_par_iter()
            .map(|entry| {
                let content = entry.content.read(&entry.name);
                (entry.place, entry.name, content)
            })
            .collect();
        let shape = *self.shape.get_or_insert_with(|| {
            let probes = read
                .iter()
                .filter_map(|(_, _, bytes)| probe(bytes.as_ref().ok()?));
            choose_shape(probes, self.options)
        });
        let decoded: Vec<_> = read
            .into_par_iter()
            .map(|(place, name, bytes)| {
                let values = bytes.and_then(|bytes| {
                    decode(&name, &bytes, shape).map_err(|error| error.to_string())
                });
                (place, name, values)
            })
            .collect();
        for (place, name, values) in decoded {
            match values {
                Ok(values) => {
                    let pixels = self.store.push(values)?;
                    self.decoded.push(Decoded {
                        place,
                        name,
                        pixels,
                    });
                }
                Err(reason) => self.skipped.push(reason),
            }
        }
        self.meter
            .set((self.decoded.len() + self.skipped.len()) as u64);
        Ok(())
    }

    fn finish(mut self) -> Result<DataSet, DataError> {
        self.decode_waiting()?;
        self.meter.clear();
        let total = self.decoded.len() + self.skipped.len();
        let layout = |reason: &str| DataError::Layout {
            path: self.path.into(),
            reason: reason.into(),
        };
        if total == 0 {
            let reason = "there is no picture in a folder with the name of its class";
            return Err(match self.expected.first() {
                Some((_, class)) if self.expected.len() > 1 => self.empty(class, ""),
                _ => layout(reason),
            });
        }
        let allowed = ((self.options.max_corrupt * total as f64).floor() as usize).max(1);
        if self.skipped.len() > allowed {
            return Err(DataError::Corrupt {
                path: self.path.into(),
                damaged: self.skipped.len(),
                total,
                allowed,
                first: self.skipped.swap_remove(0),
            });
        }

        let has = |part| self.decoded.iter().any(|picture| picture.place.0 == part);
        let parts = has(Part::Train);
        if !parts && (has(Part::Test) || has(Part::Valid)) {
            return Err(layout("there is a test part, but no folder 'train'"));
        }
        // Beside parts, other folders are something else.
        let counts = |place: &Place| (place.0 == Part::None) != parts;
        let valid_is_test = !has(Part::Test);
        let is_test = |part: Part| part == Part::Test || (part == Part::Valid && valid_is_test);

        let mut found: BTreeMap<&str, [usize; 2]> = BTreeMap::new();
        for picture in self.decoded.iter().filter(|picture| counts(&picture.place)) {
            let (part, class) = &picture.place;
            found.entry(class).or_default()[usize::from(is_test(*part))] += 1;
        }
        for (part, class) in self.expected.iter().filter(|place| counts(place)) {
            if found
                .get(class.as_str())
                .is_none_or(|found| found[usize::from(is_test(*part))] == 0)
            {
                let part = match (parts, is_test(*part)) {
                    (false, _) => "",
                    (true, true) => "test",
                    (true, false) => "training",
                };
                return Err(self.empty(class, part));
            }
        }
        if let Some((class, _)) = found.iter().find(|(_, [train, _])| *train == 0) {
            return Err(self.empty(class, "training"));
        }
        let classes: Vec<String> = found.keys().map(|class| (*class).to_owned()).collect();
        if classes.len() < 2 {
            return Err(layout(
                "there is only one class; a classifier needs two or more",
            ));
        }

        // An archive has its own order; the files of a folder are sorted.
        let mut decoded: Vec<Decoded> = self
            .decoded
            .into_iter()
            .filter(|picture| counts(&picture.place))
            .collect();
        decoded.sort_by(|a, b| (&a.place, &a.name).cmp(&(&b.place, &b.name)));
        let (mut train, mut test) = (Vec::new(), Vec::new());
        for Decoded {
            place: (part, class),
            pixels,
            ..
        } in decoded
        {
            // Sorted, as the keys of the map were.
            let label = classes.binary_search(&class).unwrap_or(0);
            let part = if is_test(part) { &mut test } else { &mut train };
            part.push(Picture { pixels, label });
        }
        if test.is_empty() {
            let split = stratified_split(train, self.options.test_fraction, TEST_SPLIT_SEED);
            (train, test) = (split.train, split.valid);
        }
        if test.is_empty() {
            let reason = "no picture is left to test on; add some, or raise --test-fraction";
            return Err(DataError::Layout {
                path: self.path.into(),
                reason: reason.into(),
            });
        }
        let shape = self.shape.unwrap_or(PictureShape {
            channels: 3,
            height: SIDE,
            width: SIDE,
        });
        Ok(DataSet {
            shape,
            classes,
            train: interleave(train),
            test: interleave(test),
            skipped: self.skipped,
        })
    }

    fn empty(&self, class: &str, part: &'static str) -> DataError {
        DataError::EmptyClass {
            path: self.path.into(),
            class: class.into(),
            part,
        }
    }
}

/// The shape that all pictures are brought to.
fn choose_shape(
    probes: impl Iterator<Item = (usize, usize, bool)>,
    options: &Options,
) -> PictureShape {
    let probes: Vec<_> = probes.collect();
    let grey = !probes.is_empty() && probes.iter().all(|(_, _, grey)| *grey);
    let own = probes
        .first()
        .map(|(width, height, _)| [*height, *width])
        .filter(|[height, width]| {
            let fits = |side: usize| side <= LARGEST_SIDE && side.is_multiple_of(DIVISOR);
            fits(*height) && fits(*width) && probes.iter().all(|p| [p.1, p.0] == [*height, *width])
        });
    let [height, width] = options.size.or(own).unwrap_or([SIDE, SIDE]);
    PictureShape {
        channels: options.channels.unwrap_or(if grey { 1 } else { 3 }),
        height,
        width,
    }
}

/// Names of the class folders below a folder or in an archive, without decoding anything.
pub(super) fn class_names(path: &Path) -> Result<BTreeSet<String>, DataError> {
    let mut names = BTreeSet::new();
    if archive::is_archive(path) {
        archive::for_each(path, is_picture, |member| {
            if let Member::File(file, _) = member {
                names.extend(file.parent().and_then(place).map(|(_, class)| class));
            }
            Ok(())
        })?;
    } else {
        let (mut files, mut leaves) = (Vec::new(), BTreeSet::new());
        walk(path, &mut files, &mut leaves)?;
        names.extend(files.into_iter().map(|((_, class), _)| class));
    }
    Ok(names)
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    /// Two classes of three pictures each.
    fn pictures(root: &Path) {
        for class in ["a", "b"] {
            fs::create_dir_all(root.join(class)).unwrap();
            for number in 0..3 {
                let file = root.join(class).join(format!("{number}.png"));
                image::GrayImage::new(4, 4).save(file).unwrap();
            }
        }
    }

    fn counted(root: &Path) -> Result<usize, DataError> {
        let (mut files, mut leaves) = (Vec::new(), BTreeSet::new());
        walk(root, &mut files, &mut leaves)?;
        Ok(files.len())
    }

    fn refused(root: &Path, link: &Path, target: &Path) {
        symlink(target, link).unwrap();
        let error = counted(root).unwrap_err();
        assert!(matches!(&error, DataError::Link { path, .. } if path == link));
        let message = error.to_string();
        assert!(message.contains("remove the link"), "{message}");
        fs::remove_file(link).unwrap();
    }

    #[test]
    fn links_that_lead_back_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let (root, elsewhere) = (folder.path().join("data"), folder.path().join("more"));
        pictures(&root);
        pictures(&elsewhere);
        refused(&root, &root.join("a/up"), Path::new(".."));
        refused(&root, &root.join("a/itself"), Path::new("."));
        refused(&root, &root.join("c"), Path::new("b"));
        refused(&root, &root.join("a/far"), folder.path());
        // By way of another folder, and two ways to one folder.
        symlink(&elsewhere, root.join("c")).unwrap();
        assert_eq!(counted(&root).unwrap(), 12);
        refused(&root, &root.join("d"), &elsewhere.join("a"));
        symlink(&root, elsewhere.join("back")).unwrap();
        let error = counted(&root).unwrap_err();
        assert!(error.to_string().contains("c/back: links to"), "{error}");
    }

    #[test]
    fn links_to_elsewhere_are_followed_and_a_broken_one_is_no_folder() {
        let folder = tempfile::tempdir().unwrap();
        let (root, elsewhere) = (folder.path().join("data"), folder.path().join("more"));
        pictures(&elsewhere);
        fs::create_dir(&root).unwrap();
        symlink(elsewhere.join("a"), root.join("a")).unwrap();
        symlink(folder.path().join("nowhere"), root.join("z")).unwrap();
        // The data themselves may be a link, too.
        let way = folder.path().join("way");
        symlink(&root, &way).unwrap();
        assert_eq!((counted(&root).unwrap(), counted(&way).unwrap()), (3, 3));
    }
}
