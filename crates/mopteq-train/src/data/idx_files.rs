//! A folder with the four IDX files of MNIST and its kin, gzipped or not.

use std::path::Path;

use super::archive::named_files;
use super::idx::read_pictures;
use super::{DataError, DataSet, Picture, PictureShape};

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
    let (shape, train) = part(STEMS[0])?;
    let (test_shape, test) = part(STEMS[1])?;
    if shape != test_shape {
        let text = |shape: PictureShape| format!("{} x {}", shape.height, shape.width);
        return Err(DataError::Shape {
            file: path.join(STEMS[1][0]).display().to_string(),
            found: text(test_shape),
            expected: text(shape),
        });
    }
    let labels = train.iter().chain(&test).map(|picture| picture.label);
    let classes = labels.max().map_or(0, |largest| largest + 1).max(2);
    Ok(DataSet {
        shape,
        classes: (0..classes).map(|class| class.to_string()).collect(),
        train,
        test,
        skipped: Vec::new(),
    })
}
