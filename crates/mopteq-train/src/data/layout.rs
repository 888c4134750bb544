//! Which folders are parts and which are classes.
//!
//! The class of a picture is the folder below the root or below a part, however deep the picture
//! lies in it. A folder is a part if it has the name of one and holds class folders.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};

use unicode_normalization::UnicodeNormalization;

use super::found::{Folder, Found};
use super::origin::{identity, readable};
pub(super) use super::part_names::Part;
use super::part_names::{is_share, part_of, part_within};

/// Part and class of a picture or of a class folder.
pub(super) type Place = (Part, String);

/// A picture with its place.
#[derive(Debug)]
pub(super) struct Placed {
    pub(super) place: Place,
    /// Its path below the root of the data, the same on every system.
    pub(super) name: String,
    pub(super) found: Found,
}

/// All pictures, with or without a place.
#[derive(Debug, Default)]
pub(super) struct Layout {
    pub(super) pictures: Vec<Placed>,
    /// Class folders, with or without pictures.
    pub(super) classes: BTreeSet<Place>,
    /// Pictures that belong to no class, each with the reason.
    pub(super) skipped: Vec<String>,
    /// Names of the folders of the parts.
    pub(super) parts: BTreeMap<Part, String>,
    /// The folder of each class, as the system spells it, to find two that only look alike.
    spelt: BTreeMap<String, OsString>,
}

/// A name as people read it: composed, with bytes that are not UTF-8 replaced.
pub(crate) fn composed(name: &str) -> String {
    name.nfc().collect()
}

fn text(name: &OsStr) -> String {
    composed(&name.to_string_lossy())
}

fn holds_classes(folder: &Folder) -> bool {
    folder.folders.values().any(|inside| inside.count() > 0)
}

fn is_part(name: &OsStr, folder: &Folder) -> bool {
    part_of(name) != Part::None && holds_classes(folder)
}

/// The folder inside a folder that is only a wrapper.
fn wrapped(folder: &Folder) -> Option<&OsString> {
    let (name, only) = folder.folders.first_key_value()?;
    (folder.folders.len() == 1 && is_root(only)).then_some(name)
}

/// Whether a folder holds classes or parts, and is not a class.
fn is_root(folder: &Folder) -> bool {
    let filled: Vec<_> = folder
        .folders
        .iter()
        .filter(|(_, f)| f.count() > 0)
        .collect();
    match filled[..] {
        [] => folder.pictures.is_empty() && !folder.folders.is_empty(),
        [(name, only)] => folder.pictures.is_empty() || is_part(name, only) || is_root(only),
        _ => true,
    }
}

/// Sorts the pictures below a root into parts and classes; the error says what is unclear.
pub(super) fn arrange(mut root: Folder) -> Result<Layout, String> {
    let mut layout = Layout::default();
    let mut prefix = 0;
    while let Some(name) = wrapped(&root).cloned()
        && !is_part(&name, &root.folders[&name])
    {
        root = layout.unwrap(root, &name);
        prefix += 1;
    }
    layout.stray(std::mem::take(&mut root.pictures));
    let (parts, others): (Vec<_>, Vec<_>) = std::mem::take(&mut root.folders)
        .into_iter()
        .partition(|(name, folder)| is_part(name, folder));
    if parts.is_empty() {
        root.folders = others.into_iter().collect();
        check_classes(&root.folders)?;
        layout.take_classes(Part::None, root, prefix)?;
        return Ok(layout);
    }
    layout.check_parts(&parts, &others)?;
    for (_, mut folder) in others {
        layout.stray(all(&mut folder));
    }
    // Parts may also be wrapped, as in seg_train/seg_train/, if all of them are.
    let mut parts = parts;
    while parts.iter().all(|(_, folder)| wrapped(folder).is_some()) {
        for (_, folder) in &mut parts {
            if let Some(name) = wrapped(folder).cloned() {
                *folder = layout.unwrap(std::mem::take(folder), &name);
            }
        }
    }
    for (name, mut folder) in parts {
        layout.stray(std::mem::take(&mut folder.pictures));
        check_shares(&folder.folders)?;
        layout.take_classes(part_of(&name), folder, prefix)?;
    }
    Ok(layout)
}

/// Checks class folders that lie in no part.
fn check_classes(classes: &BTreeMap<OsString, Folder>) -> Result<(), String> {
    let filled = || classes.iter().filter(|(_, folder)| folder.count() > 0);
    let names = || filled().map(|(name, _)| text(name)).collect::<Vec<_>>();
    if filled().count() > 0 && filled().all(|(name, _)| part_of(name) != Part::None) {
        return Err(format!(
            "its parts ({}) have no class folders in them; put the pictures of each class into a \
             folder of its own, as in {}/CLASS/picture.png",
            names().join(", "),
            names()[0]
        ));
    }
    let mut above = Vec::new();
    let mut below = BTreeSet::new();
    for (name, folder) in filled() {
        let parts: Vec<Part> = inside(folder)
            .iter()
            .map(|name| part_within(name))
            .collect();
        if parts.is_empty() || parts.contains(&Part::None) {
            continue;
        }
        if parts.contains(&Part::Train) && parts.len() > 1 {
            return Err(format!(
                "'{0}' holds the parts of one class or data set; put the parts above the classes, \
                 as in train/{0}/ and test/{0}/, or name a folder that holds one data set",
                text(name)
            ));
        }
        above.push(text(name));
        below.extend(parts);
    }
    if below.contains(&Part::Train) && below.len() > 1 {
        return Err(format!(
            "the parts of one data set lie in several folders ({}); put them side by side, as \
             train/CLASS/ and test/CLASS/",
            above.join(", ")
        ));
    }
    check_shares(classes)
}

/// Names of the folders with pictures in a folder.
fn inside(folder: &Folder) -> BTreeSet<OsString> {
    let filled = folder.folders.iter().filter(|(_, f)| f.count() > 0);
    filled.map(|(name, _)| name.clone()).collect()
}

/// Checks that folders are classes. Parts by other names and shares of one data set are not: they
/// hold folders of the same names, and nothing else.
fn check_shares(classes: &BTreeMap<OsString, Folder>) -> Result<(), String> {
    let candidates: Vec<(&OsString, BTreeSet<OsString>)> = classes
        .iter()
        .filter(|(_, folder)| folder.pictures.is_empty())
        .map(|(name, folder)| (name, inside(folder)))
        .collect();
    let alike = |(name, here): &&(&OsString, BTreeSet<OsString>)| {
        let speaks = part_within(name) != Part::None;
        candidates.iter().any(|(other, there)| {
            let both = speaks || (is_share(name) && is_share(other));
            other != name && both && !there.is_disjoint(here)
        })
    };
    let Some((name, here)) = candidates.iter().find(alike) else {
        return Ok(());
    };
    let first = here.first().map(|name| text(name)).unwrap_or_default();
    Err(format!(
        "'{}' looks like a part and not like a class, because folders beside it contain folders such \
         as '{first}', too; rename the parts to train and test, as in train/{first}/ and \
         test/{first}/, or put all pictures of a class into one folder",
        text(name)
    ))
}

/// All pictures of a folder, whatever it is.
fn all(folder: &mut Folder) -> Vec<Found> {
    let mut pictures = std::mem::take(&mut folder.pictures);
    for inside in folder.folders.values_mut() {
        pictures.extend(all(inside));
    }
    pictures
}

impl Layout {
    fn stray(&mut self, pictures: Vec<Found>) {
        let reason = "it lies in no class folder";
        let line = |found: Found| format!("{}: {reason}", readable(&found.path));
        self.skipped.extend(pictures.into_iter().map(line));
    }

    /// The folder inside of a wrapper.
    fn unwrap(&mut self, mut wrapper: Folder, name: &OsString) -> Folder {
        self.stray(std::mem::take(&mut wrapper.pictures));
        wrapper.folders.remove(name).unwrap_or_default()
    }

    /// Checks that it is clear what the parts are, and what lies beside them.
    fn check_parts(
        &mut self,
        parts: &[(OsString, Folder)],
        others: &[(OsString, Folder)],
    ) -> Result<(), String> {
        for (name, _) in parts {
            if let Some(first) = self.parts.insert(part_of(name), text(name)) {
                return Err(format!(
                    "'{first}' and '{}' look like the same part; keep one, or rename the other",
                    text(name)
                ));
            }
        }
        let is_class = |(name, folder): &&(OsString, Folder)| {
            part_of(name) == Part::None && folder.count() > 0
        };
        let train = self.parts.contains_key(&Part::Train);
        if let Some((other, _)) = others.iter().find(is_class)
            && !(train && self.parts.len() > 1)
        {
            return Err(format!(
                "'{}' looks like a part, because there are folders in it, but '{}' beside it \
                 looks like a class; put the classes into parts (train/CLASS/), or the pictures of a \
                 class right into its folder",
                text(&parts[0].0),
                text(other)
            ));
        }
        let empty = |(name, folder): &&(OsString, Folder)| {
            part_of(name) != Part::None && folder.count() == 0
        };
        if let Some((name, _)) = others.iter().find(empty) {
            return Err(format!(
                "its part '{}' has no picture; add some or remove the folder",
                text(name)
            ));
        }
        Ok(())
    }

    /// Takes the folders in a part, or in the root, as classes.
    fn take_classes(&mut self, part: Part, root: Folder, prefix: usize) -> Result<(), String> {
        for (spelt, mut folder) in root.folders {
            let class = text(&spelt);
            let before = self.spelt.entry(class.clone()).or_insert(spelt.clone());
            if *before != spelt && class.contains(char::REPLACEMENT_CHARACTER) {
                return Err(format!(
                    "two class folders have names that are no UTF-8 and both read as '{class}'; \
                     rename them"
                ));
            }
            self.classes.insert((part, class.clone()));
            for found in all(&mut folder) {
                let below = identity(&found.path);
                let name = below.split('/').skip(prefix).collect::<Vec<_>>().join("/");
                self.pictures.push(Placed {
                    place: (part, class.clone()),
                    name: composed(&name),
                    found,
                });
            }
        }
        Ok(())
    }

    /// Sorts the pictures by place and name, and makes names different that only read the same.
    pub(super) fn sort(&mut self) {
        self.pictures.sort_by(|a, b| {
            let (one, other) = ((&a.place, &a.name), (&b.place, &b.name));
            (one, &a.found.path).cmp(&(other, &b.found.path))
        });
        let mut seen: BTreeMap<String, usize> = BTreeMap::new();
        for placed in &mut self.pictures {
            let count = seen.entry(placed.name.clone()).or_default();
            *count += 1;
            if *count > 1 {
                placed.name.push_str(&format!(" ({count})"));
            }
        }
    }
}
