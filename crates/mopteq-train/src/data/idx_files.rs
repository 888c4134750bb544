//! A folder with the four IDX files of MNIST and its kin, gzipped or not.

use std::collections::BTreeSet;
use std::path::Path;

use super::archive::named_files;
use super::idx::read_pictures;
use super::{DataError, DataSet, Digest, Picture, PictureShape};

const STEMS: [[&str; 2]; 2] = [
    ["train-images-idx3-ubyte", "train-labels-idx1-ubyte"],
    ["t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"],
];

/// What the pictures of a part may be called, with `-` or `.` before `idx`, gzipped or not.
fn spellings(stem: &str) -> Vec<String> {
    let others = [stem.to_owned(), stem.replace("-idx", ".idx")];
    let tests = others.iter().map(|name| name.replace("t10k", "test"));
    let names: Vec<String> = others.iter().cloned().chain(tests).collect();
    let zipped = names.iter().map(|name| format!("{name}.gz"));
    names.iter().cloned().chain(zipped).collect()
}

/// Whether a folder has such files.
pub(super) fn is_there(path: &Path) -> bool {
    let names = spellings(STEMS[0][0]);
    names.iter().any(|name| path.join(name).is_file())
}

/// Training and test pictures of a folder.
pub(super) fn load(path: &Path) -> Result<DataSet, DataError> {
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
            reason: format!("there is no {stem} or {stem}.gz"),
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
