//! A folder with the four IDX files of MNIST and similar data sets, gzipped or not.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::archive::{file_names, named_files};
use super::idx::read_pictures;
use super::{DataError, DataSet, Digest, Picture, PictureShape};

const STEMS: [[&str; 2]; 2] = [
    ["train-images-idx3-ubyte", "train-labels-idx1-ubyte"],
    ["t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"],
];

/// What the files of a part may be called, with `-` or `.` before `idx`, gzipped or not.
fn spellings(stem: &str) -> Vec<String> {
    let others = [stem.to_owned(), stem.replace("-idx", ".idx")];
    let tests = others.iter().map(|name| name.replace("t10k", "test"));
    let names: Vec<String> = others.iter().cloned().chain(tests).collect();
    let zipped = names.iter().map(|name| format!("{name}.gz"));
    names.iter().cloned().chain(zipped).collect()
}

/// Where such files are in a folder or an archive, with the prefix of their names, such as
/// `emnist-letters-`.
fn places(path: &Path) -> Result<BTreeSet<(PathBuf, String)>, DataError> {
    let known = spellings(STEMS[0][0]);
    let place = |(folder, name): (PathBuf, String)| {
        let before = known
            .iter()
            .find_map(|known| name.strip_suffix(known.as_str()))?;
        let apart = before.is_empty() || before.ends_with(['-', '_', '.', ' ']);
        apart.then(|| (folder, before.to_owned()))
    };
    Ok(file_names(path)?.into_iter().filter_map(place).collect())
}

/// Whether a folder, one right below it, or an archive has such files.
pub(super) fn are_in(path: &Path) -> Result<bool, DataError> {
    Ok(!places(path)?.is_empty())
}

/// Training and test pictures of a folder or an archive.
pub(super) fn load(path: &Path) -> Result<DataSet, DataError> {
    let places = places(path)?;
    if places.len() > 1 {
        let names = places.iter().map(|(folder, before)| {
            let below = folder.strip_prefix(path).unwrap_or(folder);
            let name = below.join(format!("{before}{}", STEMS[0][0]));
            name.display().to_string()
        });
        return Err(DataError::Layout {
            path: path.into(),
            reason: format!(
                "it contains several data sets ({}); put the four files of each into a folder \
                 of their own",
                names.collect::<Vec<_>>().join(", ")
            ),
        });
    }
    let before = places
        .into_iter()
        .next()
        .map(|(_, before)| before)
        .unwrap_or_default();
    let spellings = |stem: &str| -> Vec<String> {
        let names = spellings(stem).into_iter();
        names.map(|name| format!("{before}{name}")).collect()
    };
    let all: Vec<String> = STEMS
        .iter()
        .flatten()
        .flat_map(|stem| spellings(stem))
        .collect();
    let names: Vec<&str> = all.iter().map(String::as_str).collect();
    let files = named_files(path, &names)?;
    let find = |stem: &str| {
        let found = spellings(stem)
            .into_iter()
            .find_map(|name| files.get_key_value(&name));
        found.ok_or_else(|| DataError::Layout {
            path: path.into(),
            reason: format!("there is no {before}{stem} or {before}{stem}.gz"),
        })
    };
    let part = |[images, labels]: [&str; 2]| -> Result<(PictureShape, Vec<Picture>), DataError> {
        let ((images, image_bytes), (labels, label_bytes)) = (find(images)?, find(labels)?);
        let full = |name: &str| path.join(name).display().to_string();
        Ok(read_pictures(
            &full(images),
            image_bytes,
            &full(labels),
            label_bytes,
        )?)
    };
    let (shape, mut train) = part(STEMS[0])?;
    let (test_shape, mut test) = part(STEMS[1])?;
    if shape != test_shape {
        let text = |shape: PictureShape| format!("{} x {}", shape.height, shape.width);
        return Err(DataError::Shape {
            file: path.join(STEMS[1][0]).display().to_string(),
            found: text(test_shape),
            expected: text(shape),
        });
    }
    // Not every file counts its labels from 0, or uses all of them.
    let labels: BTreeSet<usize> = train.iter().map(|picture| picture.label).collect();
    let labels: Vec<usize> = labels.into_iter().collect();
    let classes: Vec<String> = labels.iter().map(usize::to_string).collect();
    if classes.len() < 2 {
        return Err(DataError::Layout {
            path: path.into(),
            reason: "all labels are the same; a classifier needs two classes or more".into(),
        });
    }
    for picture in train.iter_mut().chain(&mut test) {
        let label = labels.binary_search(&picture.label);
        picture.label = label.map_err(|_| DataError::EmptyClass {
            path: path.into(),
            class: picture.label.to_string(),
            part: "training",
            hint: String::new(),
        })?;
    }
    let digest = |(name, bytes): (&String, &Vec<u8>)| (name.clone(), Digest::of(bytes));
    Ok(DataSet {
        part: Some("test".into()),
        files: files.iter().map(digest).collect(),
        ..DataSet::new(shape, classes, train, test)
    })
}
