//! Which pictures a run trains on, chooses by and tests with, and how it recognises them later.
//!
//! The parts of new data are a function of the names of the files and of the seed. A run keeps the
//! list of its files, because an added or removed file may still change which files belong to a
//! share of a class. Pictures that were trained on must never be tested on.

use std::collections::{BTreeSet, HashMap};
use std::fmt;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::config::TrainConfig;
use crate::data::{DataError, DataSet, Digest, Picture, Seen, split_with_last};

/// Number of names that a message lists if there are many.
const NAMED: usize = 3;

/// The pictures of a run by their use.
#[derive(Clone, Debug, Default)]
pub struct Parts {
    /// What the gradient sees.
    pub train: Vec<Picture>,
    /// What the best checkpoint is chosen by.
    pub valid: Vec<Picture>,
    /// What is tested at the end.
    pub test: Vec<Picture>,
    /// Training pictures beyond the limit of the run.
    pub unused: Vec<Picture>,
    /// The same as in the data.
    pub files: Vec<(String, Digest)>,
    /// What the weights that the run starts from have seen.
    pub earlier: Seen,
    /// Number of test pictures that were left out because they had been seen.
    pub left_out: usize,
}

/// A file of a run: its name, what is in it, and its class.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Listed(String, Digest, usize);

/// The files of a run by their use, as `data-files.json` keeps them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FileList {
    /// Files that hold many pictures each.
    files: Vec<(String, Digest)>,
    train: Vec<Listed>,
    valid: Vec<Listed>,
    test: Vec<Listed>,
    unused: Vec<Listed>,
    /// What the run saw of pictures without files of their own; `None` in lists of earlier
    /// versions.
    own: Option<Seen>,
    /// What the weights that the run started from had seen; `None` in lists of earlier versions.
    earlier: Option<Seen>,
}

/// How the data differ from those that a run began with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Files that are gone or cannot be read any more.
    pub missing: Vec<String>,
    /// Files with another content.
    pub changed: Vec<String>,
    /// Files that have another name.
    pub moved: Vec<String>,
    /// Files that were not there before.
    pub new: Vec<String>,
    /// Whether something that is trained on is missing or has changed.
    pub training: bool,
}

impl Parts {
    /// The parts of new data, by the settings of the run.
    pub fn split(data: DataSet, config: &TrainConfig) -> Self {
        let mut pictures = data.train;
        let limit = config.limit.unwrap_or(usize::MAX).min(pictures.len());
        let unused = pictures.split_off(limit);
        // Choosing by pictures that the weights were trained on would say nothing.
        let known = |picture: &Picture| data.earlier.trained_on(picture);
        let split = split_with_last(pictures, config.validation_fraction, config.seed, known);
        Self {
            train: split.train,
            valid: split.valid,
            test: data.test,
            unused,
            files: data.files,
            earlier: data.earlier,
            left_out: 0,
        }
    }

    /// Whether the pictures are files of their own.
    pub fn are_files(&self) -> bool {
        let all = self.train.iter().chain(&self.test);
        all.into_iter().any(|picture| picture.origin.is_some())
    }

    /// Number of validation pictures that the weights were trained on before.
    pub fn known_valid(&self) -> usize {
        let known = |picture: &&Picture| self.earlier.trained_on(picture);
        self.valid.iter().filter(known).count()
    }

    /// The parts of data that a run began with, and how they have changed since. Without a list, or
    /// with one that names no pictures, the data are split like new data, but without test pictures
    /// that were trained on.
    ///
    /// # Errors
    ///
    /// When the data are different, or no test picture of the run is left.
    pub fn of_run(
        config: &TrainConfig,
        mut data: DataSet,
        list: Option<&FileList>,
    ) -> Result<(Self, Changes), DataError> {
        if list.is_some_and(FileList::names_pictures) {
            // Pictures of classes that the run does not know count as new ones.
            let place = |class: &String| config.classes.iter().position(|known| known == class);
            let labels: Vec<Option<usize>> = data.classes.iter().map(place).collect();
            for picture in data.train.iter_mut().chain(&mut data.test) {
                picture.label = labels[picture.label].unwrap_or(usize::MAX);
            }
            data.classes.clone_from(&config.classes);
        }
        check_data(config, &data)?;
        let changed = |reason: String| DataError::Changed {
            path: config.data.describe(),
            reason,
        };
        let Some(list) = list else {
            return Ok((Self::split(data, config), Changes::default()));
        };
        data.earlier = list.earlier.clone().unwrap_or_default();
        // The list of an imported model says nothing about its data.
        if list.is_of_data() && data.files != list.files {
            let old = data.files.iter().filter(|file| !list.files.contains(file));
            let names: Vec<String> = old.map(|(name, _)| name.clone()).collect();
            let what = match names.is_empty() {
                true => "the files are others".to_owned(),
                false => format!("{} changed since the run began", few(&names)),
            };
            return Err(changed(what));
        }
        if !list.names_pictures() {
            let (earlier, before) = (&data.earlier, data.test.len());
            data.test.retain(|picture| !earlier.contains(picture));
            let left_out = before - data.test.len();
            if data.test.is_empty() {
                return Err(changed("it was trained on every test picture".into()));
            }
            let parts = Self::split(data, config);
            return Ok((Self { left_out, ..parts }, Changes::default()));
        }
        let (parts, changes) = list.recall(data);
        if parts.test.is_empty() {
            return Err(changed(format!("no test picture is left ({changes})")));
        }
        Ok((parts, changes))
    }

    /// The list of the pictures: files by name, others by content.
    pub fn list(&self) -> FileList {
        let listed = |pictures: &[Picture]| -> Vec<Listed> {
            let one = |picture: &Picture| {
                let origin = picture.origin.as_ref()?;
                Some(Listed(origin.name.clone(), origin.digest, picture.label))
            };
            pictures.iter().filter_map(one).collect()
        };
        let unlisted = |pictures: &[Picture]| -> Vec<Digest> {
            let others = pictures.par_iter().filter(|p| p.origin.is_none());
            others.filter_map(Picture::digest).collect()
        };
        let mut own = Seen::default();
        own.add(unlisted(&self.train), unlisted(&self.valid));
        FileList {
            files: self.files.clone(),
            train: listed(&self.train),
            valid: listed(&self.valid),
            test: listed(&self.test),
            unused: listed(&self.unused),
            own: Some(own),
            earlier: Some(self.earlier.clone()),
        }
    }
}

/// Checks that data have the shape and the classes of a run.
///
/// # Errors
///
/// Names what differs.
pub(crate) fn check_data(config: &TrainConfig, data: &DataSet) -> Result<(), DataError> {
    let changed = |reason: String| DataError::Changed {
        path: config.data.describe(),
        reason,
    };
    if data.shape != config.shape {
        let text = format!("its pictures are {}, not {}", data.shape, config.shape);
        return Err(changed(text));
    }
    if data.classes != config.classes {
        return Err(changed(format!(
            "its classes are {}",
            difference(&config.classes, &data.classes)
        )));
    }
    Ok(())
}

/// How the classes found differ from those expected, in words.
pub fn difference(expected: &[String], found: &[String]) -> String {
    let without = |some: &[String], others: &[String]| -> Vec<String> {
        let here = some.iter().filter(|class| !others.contains(class));
        here.cloned().collect()
    };
    let (missing, surplus) = (without(expected, found), without(found, expected));
    match (missing.is_empty(), surplus.is_empty()) {
        (true, true) => "in another order".into(),
        (false, true) => format!("without {}", few(&missing)),
        (true, false) => format!("with {} as well", few(&surplus)),
        (false, false) => format!("without {}, but with {}", few(&missing), few(&surplus)),
    }
}

/// The first few names.
fn few(names: &[String]) -> String {
    let first = names.iter().take(NAMED).cloned();
    let more = names.len().saturating_sub(NAMED);
    let rest = (more > 0).then(|| format!("{more} more"));
    first.chain(rest).collect::<Vec<_>>().join(", ")
}

impl FileList {
    /// The list of an imported model. It holds only what the model has seen.
    pub(crate) fn of_weights(seen: Seen) -> Self {
        Self {
            earlier: Some(seen),
            ..Self::default()
        }
    }

    /// Notes what the weights that the run starts from have seen.
    pub(crate) fn start_from(&mut self, seen: &Seen) {
        self.earlier.get_or_insert_default().merge(seen);
    }

    /// Whether it says which pictures are in which part.
    pub(crate) fn names_pictures(&self) -> bool {
        !self.train.is_empty() || !self.test.is_empty()
    }

    /// Whether it says anything about the data. The list of an imported model does not.
    pub(crate) fn is_of_data(&self) -> bool {
        self.own.is_some() || self.names_pictures() || !self.files.is_empty()
    }

    /// Number of files that are named.
    pub(crate) fn len(&self) -> usize {
        let lists = [&self.train, &self.valid, &self.test, &self.unused];
        lists.iter().map(|list| list.len()).sum()
    }

    /// What the weights of the run have seen, before it and in it. Set `is_first` for a run that
    /// did not start from weights.
    pub(crate) fn seen(&self, is_first: bool) -> Seen {
        let mut seen = match &self.earlier {
            Some(earlier) => earlier.clone(),
            None if is_first => Seen::default(),
            None => Seen::unknown(),
        };
        match &self.own {
            Some(own) => seen.merge(own),
            None if self.files.is_empty() => {}
            None => seen.merge(&Seen::unknown()),
        }
        let digests = |list: &[Listed]| -> Vec<Digest> {
            list.iter().map(|Listed(_, digest, _)| *digest).collect()
        };
        seen.add(digests(&self.train), digests(&self.valid));
        seen
    }

    /// Finds the files of the list again: by name and content, or else by content alone.
    fn recall(&self, data: DataSet) -> (Parts, Changes) {
        let mut left: Vec<Option<Picture>> =
            data.train.into_iter().chain(data.test).map(Some).collect();
        let mut by_name: HashMap<String, usize> = HashMap::new();
        let mut by_content: HashMap<(Digest, usize), Vec<usize>> = HashMap::new();
        for (index, picture) in left.iter().flatten().enumerate() {
            if let Some(origin) = &picture.origin {
                by_name.insert(origin.name.clone(), index);
                let content = (origin.digest, picture.label);
                by_content.entry(content).or_default().push(index);
            }
        }
        // Pictures that were trained on come first: of two files with one content, the file counts
        // as theirs.
        let lists = [&self.train, &self.valid, &self.unused, &self.test];
        let mut found: [Vec<Option<Picture>>; 4] = lists.map(|list| {
            let same = |Listed(name, digest, label): &Listed| {
                let index = *by_name.get(name)?;
                let is_same = |picture: &Picture| {
                    let origin = picture.origin.as_ref();
                    origin.is_some_and(|origin| origin.digest == *digest) && picture.label == *label
                };
                left[index].take_if(|picture| is_same(picture))
            };
            list.iter().map(same).collect()
        });
        let mut changes = Changes::default();
        let mut replaced = BTreeSet::new();
        for (part, (list, found)) in lists.iter().zip(&mut found).enumerate() {
            for (Listed(name, digest, label), place) in list.iter().zip(found) {
                if place.is_some() {
                    continue;
                }
                let same = by_content.get(&(*digest, *label));
                let free = same.and_then(|all| all.iter().find(|index| left[**index].is_some()));
                if let Some(picture) = free.and_then(|index| left[*index].take()) {
                    let now = picture.origin.as_ref().map_or("", |origin| &origin.name);
                    changes.moved.push(format!("{name} to {now}"));
                    *place = Some(picture);
                    continue;
                }
                changes.training |= part == 0;
                match by_name.get(name).filter(|index| left[**index].is_some()) {
                    Some(index) => {
                        replaced.insert(*index);
                        changes.changed.push(name.clone());
                    }
                    None => changes.missing.push(name.clone()),
                }
            }
        }
        let new = left.iter().enumerate().filter_map(|(index, picture)| {
            let origin = picture.as_ref()?.origin.as_ref()?;
            (!replaced.contains(&index)).then(|| origin.name.clone())
        });
        changes.new = new.collect();
        changes.new.sort();
        let [train, valid, unused, test] = found.map(|part| part.into_iter().flatten().collect());
        let parts = Parts {
            train,
            valid,
            test,
            unused,
            files: Vec::new(),
            earlier: data.earlier,
            left_out: 0,
        };
        (parts, changes)
    }
}

impl Changes {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl fmt::Display for Changes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let say = |names: &[String], one: &str, many: &str| {
            let verb = if names.len() == 1 { one } else { many };
            let files = if names.len() == 1 { "file" } else { "files" };
            (!names.is_empty()).then(|| format!("{} {files} {verb} ({})", names.len(), few(names)))
        };
        let all = [
            say(&self.missing, "is missing", "are missing"),
            say(&self.changed, "has changed", "have changed"),
            say(&self.moved, "has moved", "have moved"),
            say(&self.new, "is new", "are new"),
        ];
        let all: Vec<String> = all.into_iter().flatten().collect();
        f.write_str(&all.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::data::Origin;

    /// Pictures of two classes by name; the content of each is its number.
    fn data(names: &[(&str, u8)]) -> DataSet {
        let picture = |(name, content): &(&str, u8)| Picture {
            origin: Some(Arc::new(Origin {
                name: (*name).into(),
                digest: Digest::of(&[*content]),
            })),
            ..Picture::new(vec![*content], usize::from(name.starts_with('b')))
        };
        let shape = crate::data::PictureShape {
            channels: 1,
            height: 1,
            width: 1,
        };
        let pictures = names.iter().map(picture).collect();
        DataSet::new(shape, vec!["a".into(), "b".into()], pictures, Vec::new())
    }

    fn names(pictures: &[Picture]) -> Vec<&str> {
        let name = |picture: &'_ Picture| picture.origin.as_ref().map_or(0, |o| o.name.len());
        assert!(pictures.iter().all(|picture| name(picture) > 0));
        pictures
            .iter()
            .flat_map(|picture| picture.origin.as_deref())
            .map(|origin| origin.name.as_str())
            .collect()
    }

    fn list() -> FileList {
        let parts = Parts {
            train: data(&[("b/1", 1), ("a/2", 2)]).train,
            valid: data(&[("a/3", 3)]).train,
            test: data(&[("a/4", 4), ("b/5", 5)]).train,
            ..Parts::default()
        };
        let text = serde_json::to_string(&parts.list()).unwrap();
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn parts_stay_what_they_were_in_their_order() {
        let now = data(&[("a/2", 2), ("a/3", 3), ("a/4", 4), ("b/1", 1), ("b/5", 5)]);
        let (parts, changes) = list().recall(now);
        assert!(changes.is_empty());
        assert_eq!(names(&parts.train), ["b/1", "a/2"]);
        assert_eq!(names(&parts.valid), ["a/3"]);
        assert_eq!(names(&parts.test), ["a/4", "b/5"]);
    }

    #[test]
    fn what_was_trained_on_is_never_tested_on() {
        // 2 is gone and 4 has its name; 1 has the name of 5; 6 is new; 3 has moved.
        let now = data(&[("a/2", 4), ("b/5", 1), ("a/6", 6), ("a/7", 3)]);
        let (parts, changes) = list().recall(now);
        assert_eq!(names(&parts.train), ["b/5"]);
        assert_eq!(names(&parts.valid), ["a/7"]);
        assert_eq!(names(&parts.test), ["a/2"]);
        assert!(changes.training);
        let text = changes.to_string();
        assert_eq!(
            text,
            "1 file is missing (b/5), 1 file has changed (a/2), 3 files have moved (b/1 to b/5, a/3 to \
             a/7, a/4 to a/2), 1 file is new (a/6)"
        );
    }

    #[test]
    fn another_content_or_class_is_another_picture() {
        let now = data(&[("a/2", 2), ("a/3", 3), ("a/4", 9), ("b/1", 1), ("a/5", 5)]);
        let (parts, changes) = list().recall(now);
        assert!(parts.test.is_empty() && !changes.training);
        assert_eq!(changes.changed, ["a/4"]);
        assert_eq!(
            (changes.missing, changes.new),
            (vec!["b/5".into()], vec!["a/5".into()])
        );
    }
}
