//! Pictures in one folder for each class, as files or in an archive.
//!
//! `[train/|test/|val/]CLASS/picture.png`; [`layout`] says what is a part and what a class. Without
//! parts, a share of each class is set aside as test pictures. Where there are both `test` and
//! `val`, the latter are trained on, because the validation split is taken from the training
//! pictures.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rayon::prelude::*;

use super::archive;
use super::cache::PixelStore;
use super::decode::{Head, decode, head_of_file};
use super::interleave::interleave;
use super::layout::{Layout, Part, Placed, arrange};
use super::listing::list;
use super::meter::Meter;
use super::origin::{Digest, Origin};
use super::{DataError, DataSet, Picture, PictureShape, Pixels, memory_budget, stratified_split};
use crate::files::is_drawn;
use crate::names::counted;

/// Pictures that are decoded together. Their files hold at most `CHUNK_BYTES` bytes.
const CHUNK: usize = 1024;
const CHUNK_BYTES: usize = 64 << 20;
/// Side that pictures are scaled to where their own sizes differ or are large.
const SIDE: usize = 64;
/// Largest side of pictures that are taken as they are.
const LARGEST_SIDE: usize = 224;
/// The three branches halve the sides, so 4 must divide the sides.
const DIVISOR: usize = 4;
/// Seed of the split into training and test pictures: the same for all runs, so that no run sees
/// the test pictures of another.
const TEST_SPLIT_SEED: u64 = 0x7e57;

/// What pictures are read for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// A new training, which needs all parts and classes.
    Train,
    /// A test. Only the test part counts, or all pictures if there is no test part.
    Test,
    /// A run that has a list of its pictures. Missing and new pictures do not matter here.
    Again,
}

/// How the pictures are read.
#[derive(Clone, Debug)]
pub(super) struct Options {
    /// Height and width; `None`: the pictures' own if they share one that is small, or else 64 x
    /// 64.
    pub(super) size: Option<[usize; 2]>,
    /// 1 or 3; `None`: 1 if the pictures are grey.
    pub(super) channels: Option<usize>,
    /// Share of each class that becomes test pictures if there is no test part.
    pub(super) test_fraction: f64,
    /// Share of the pictures that may be damaged; one picture always may.
    pub(super) max_corrupt: f64,
    /// What the pictures are for.
    pub(super) purpose: Purpose,
}

/// Reads everything below a folder, or in an archive.
pub(super) fn load(path: &Path, options: &Options) -> Result<DataSet, DataError> {
    let unclear = |reason| DataError::Layout {
        path: path.into(),
        reason,
    };
    let heads = options.size.is_none() || options.channels.is_none();
    let listing = list(path, heads)?;
    let mut layout = arrange(listing.root).map_err(unclear)?;
    layout.skipped.splice(0..0, listing.skipped);
    for line in &mut layout.skipped {
        *line = path.join(&*line).display().to_string();
    }
    let part = choose_part(&mut layout, options.purpose == Purpose::Test);
    layout.sort();
    let shape = match (options.size, options.channels) {
        (Some([height, width]), Some(channels)) => PictureShape {
            channels,
            height,
            width,
        },
        _ => choose_shape(&read_heads(path, &layout.pictures), options),
    };
    let mut reader = Reader::new(path, shape, layout.pictures.len());
    if archive::is_archive(path) {
        let wanted: HashMap<usize, usize> = layout
            .pictures
            .iter()
            .enumerate()
            .map(|(index, placed)| (placed.found.number, index))
            .collect();
        archive::for_each(path, |member| match wanted.get(&member.number()) {
            Some(index) => {
                let content = Content::Bytes(member.content()?);
                reader.add(&layout.pictures, *index, content)
            }
            None => Ok(()),
        })?;
    } else {
        for (index, placed) in layout.pictures.iter().enumerate() {
            let content = Content::File(path.join(&placed.found.path));
            reader.add(&layout.pictures, index, content)?;
        }
    }
    reader.decode_waiting(&layout.pictures)?;
    let ignored = listing.ignored.into_iter().collect();
    finish(reader, layout, options, part, ignored)
}

/// Keeps only the tested part if `only_test` is set. Returns the name of the tested part.
fn choose_part(layout: &mut Layout, only_test: bool) -> Option<String> {
    let has = |part| layout.pictures.iter().any(|placed| placed.place.0 == part);
    let tested = [Part::Test, Part::Valid]
        .into_iter()
        .find(|part| has(*part));
    let part = tested.and_then(|part| layout.parts.get(&part).cloned());
    if let (true, Some(tested)) = (only_test, tested) {
        layout.pictures.retain(|placed| placed.place.0 == tested);
        layout.classes.retain(|place| place.0 == tested);
    }
    part
}

/// The heads of all pictures that have one.
fn read_heads(path: &Path, pictures: &[Placed]) -> Vec<Head> {
    let files = !archive::is_archive(path);
    let head = |placed: &Placed| match files {
        true => head_of_file(&path.join(&placed.found.path)),
        false => placed.found.head,
    };
    pictures.par_iter().filter_map(head).collect()
}

/// The shape that all pictures are brought to.
fn choose_shape(heads: &[Head], options: &Options) -> PictureShape {
    let grey = !heads.is_empty() && heads.iter().all(|head| head.grey);
    let own = heads.first().map(|head| head.size).filter(|size| {
        let fits = |side: &usize| *side <= LARGEST_SIDE && side.is_multiple_of(DIVISOR);
        size.iter().all(fits) && heads.iter().all(|head| head.size == *size)
    });
    let [height, width] = options.size.or(own).unwrap_or([SIDE, SIDE]);
    PictureShape {
        channels: options.channels.unwrap_or(if grey { 1 } else { 3 }),
        height,
        width,
    }
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

struct Reader<'a> {
    path: &'a Path,
    shape: PictureShape,
    waiting: Vec<(usize, Content)>,
    store: PixelStore,
    /// By the index of the picture, because an archive has an order of its own.
    decoded: Vec<Option<(Pixels, Digest)>>,
    damaged: Vec<String>,
    /// Pictures that this program drew, which belong to no class.
    drawn: Vec<String>,
    done: u64,
    meter: Meter,
}

impl<'a> Reader<'a> {
    fn new(path: &'a Path, shape: PictureShape, count: usize) -> Self {
        let mut meter = Meter::count("pictures decoded");
        meter.total(count as u64);
        Self {
            path,
            shape,
            waiting: Vec::new(),
            store: PixelStore::new(memory_budget()),
            decoded: vec![None; count],
            damaged: Vec::new(),
            drawn: Vec::new(),
            done: 0,
            meter,
        }
    }

    fn add(&mut self, all: &[Placed], index: usize, content: Content) -> Result<(), DataError> {
        self.waiting.push((index, content));
        let bytes: usize = match self.waiting.len() % 64 {
            0 => self.waiting.iter().map(|(_, content)| content.len()).sum(),
            _ => 0,
        };
        if self.waiting.len() >= CHUNK || bytes >= CHUNK_BYTES {
            self.decode_waiting(all)?;
        }
        Ok(())
    }

    fn decode_waiting(&mut self, all: &[Placed]) -> Result<(), DataError> {
        let (path, shape) = (self.path, self.shape);
        let one = |(index, content): (usize, Content)| {
            let name = path.join(&all[index].found.path).display().to_string();
            let values = content.read(&name).and_then(|bytes| {
                if is_drawn(&bytes) {
                    return Ok(None);
                }
                let values = decode(&name, &bytes, shape).map_err(|error| error.to_string())?;
                Ok(Some((values, Digest::of(&bytes))))
            });
            (index, values)
        };
        let waiting = std::mem::take(&mut self.waiting);
        self.done += waiting.len() as u64;
        let decoded: Vec<_> = waiting.into_par_iter().map(one).collect();
        for (index, values) in decoded {
            match values {
                Ok(Some((values, digest))) => {
                    self.decoded[index] = Some((self.store.push(values)?, digest));
                }
                Ok(None) => {
                    let name = path.join(&all[index].found.path).display().to_string();
                    self.drawn.push(format!("{name}: this program drew it"));
                }
                Err(reason) => self.damaged.push(reason),
            }
        }
        self.meter.set(self.done);
        Ok(())
    }
}

/// Checks what was read, and splits it.
fn finish(
    mut reader: Reader<'_>,
    layout: Layout,
    options: &Options,
    part: Option<String>,
    ignored: Vec<(String, usize)>,
) -> Result<DataSet, DataError> {
    reader.meter.clear();
    let (path, total) = (reader.path, layout.pictures.len());
    let unclear = |reason: String| DataError::Layout {
        path: path.into(),
        reason,
    };
    let empty = |class: &str, part: &'static str| DataError::EmptyClass {
        path: path.into(),
        class: class.into(),
        part,
        hint: hint(&layout.skipped),
    };
    let again = options.purpose == Purpose::Again;
    if total == 0 && !again {
        let reason = "there is no picture in a folder with the name of its class";
        return Err(match layout.classes.first() {
            Some((_, class)) if layout.classes.len() > 1 => empty(class, ""),
            _ => unclear(format!("{reason}{}", hint(&layout.skipped))),
        });
    }
    let allowed = ((options.max_corrupt * total as f64).floor() as usize).max(1);
    if reader.damaged.len() > allowed {
        return Err(DataError::Corrupt {
            path: path.into(),
            damaged: reader.damaged.len(),
            total,
            allowed,
            first: reader.damaged.swap_remove(0),
        });
    }

    let parts = !layout.parts.is_empty();
    let training = options.purpose == Purpose::Train;
    if let (Some(test), false, true) = (&part, layout.parts.contains_key(&Part::Train), training) {
        let reason = format!("there is a test part, '{test}', but no folder 'train'");
        return Err(unclear(reason));
    }
    let only_test = options.purpose == Purpose::Test;
    let has_test = layout.parts.contains_key(&Part::Test);
    let is_test =
        |part: Part| only_test || part == Part::Test || (part == Part::Valid && !has_test);
    let mut found: BTreeMap<&str, [usize; 2]> = BTreeMap::new();
    let whole = layout.pictures.iter().zip(&reader.decoded);
    for (placed, _) in whole.filter(|(_, decoded)| decoded.is_some()) {
        let (part, class) = &placed.place;
        found.entry(class).or_default()[usize::from(is_test(*part))] += 1;
    }
    let wanted = layout.classes.iter().filter(|_| !again);
    for (part, class) in wanted {
        let counts = found.get(class.as_str()).copied().unwrap_or_default();
        if counts[usize::from(is_test(*part))] == 0 {
            let part = match (parts, is_test(*part)) {
                (false, _) => "",
                (true, true) => "test",
                (true, false) => "training",
            };
            return Err(empty(class, part));
        }
    }
    let untrained = found.iter().find(|(_, [train, _])| *train == 0);
    if let (Some((class, _)), true) = (untrained, training) {
        return Err(empty(class, "training"));
    }
    let classes: Vec<String> = found.keys().map(|class| (*class).to_owned()).collect();
    if classes.len() < 2 && training {
        return Err(unclear(format!(
            "there is only one class, '{}'; a classifier needs two or more{}",
            classes.join(""),
            hint(&layout.skipped)
        )));
    }

    let (mut train, mut test) = (Vec::new(), Vec::new());
    for (placed, decoded) in layout.pictures.into_iter().zip(reader.decoded) {
        let Some((pixels, digest)) = decoded else {
            continue;
        };
        let (part, class) = placed.place;
        // Sorted, as the keys of the map were.
        let label = classes.binary_search(&class).unwrap_or(0);
        let name = placed.name;
        let part = if is_test(part) { &mut test } else { &mut train };
        part.push(Picture {
            origin: Some(Arc::new(Origin { name, digest })),
            ..Picture::new(pixels, label)
        });
    }
    if test.is_empty() {
        let split = stratified_split(train, options.test_fraction, TEST_SPLIT_SEED);
        (train, test) = (split.train, split.valid);
    }
    if test.is_empty() && !again {
        let reason = "no picture is left to test on; add some, or raise --test-fraction";
        return Err(unclear(reason.into()));
    }
    let mut skipped = layout.skipped;
    skipped.extend(reader.drawn);
    skipped.extend(reader.damaged);
    Ok(DataSet {
        part,
        skipped,
        ignored,
        ..DataSet::new(reader.shape, classes, interleave(train), interleave(test))
    })
}

/// What may explain that pictures are missing.
fn hint(skipped: &[String]) -> String {
    match skipped.first() {
        Some(first) => {
            let count = counted(skipped.len(), "was", "were");
            format!(" ({count} skipped, the first is {first})")
        }
        None => String::new(),
    }
}

/// Names of the class folders below a folder or in an archive, without decoding anything.
pub(super) fn class_names(path: &Path) -> Result<BTreeSet<String>, DataError> {
    let layout = arrange(list(path, false)?.root).map_err(|reason| DataError::Layout {
        path: path.into(),
        reason,
    })?;
    let classes = layout.pictures.into_iter().map(|placed| placed.place.1);
    Ok(classes.collect())
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
        Ok(list(root, false)?.root.count())
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
