//! The official binary form of CIFAR-10 and CIFAR-100: records of labels and 3 x 32 x 32 bytes.

use std::path::Path;

use super::archive::{has_files, named_files};
use super::{DataError, DataSet, Digest, Picture, PictureShape};

const SHAPE: PictureShape = PictureShape {
    channels: 3,
    height: 32,
    width: 32,
};

/// What distinguishes the two.
struct Form {
    train: &'static [&'static str],
    test: &'static str,
    names: &'static str,
    /// Labels before each picture; the last one counts (CIFAR-100 has the coarse one first).
    labels: usize,
    classes: usize,
}

const CIFAR10: Form = Form {
    train: &[
        "data_batch_1.bin",
        "data_batch_2.bin",
        "data_batch_3.bin",
        "data_batch_4.bin",
        "data_batch_5.bin",
    ],
    test: "test_batch.bin",
    names: "batches.meta.txt",
    labels: 1,
    classes: 10,
};

const CIFAR100: Form = Form {
    train: &["train.bin"],
    test: "test.bin",
    names: "fine_label_names.txt",
    labels: 2,
    classes: 100,
};

/// Names of the CIFAR-10 classes in the order of the labels.
pub(super) const CIFAR10_CLASSES: [&str; 10] = [
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
];

/// CIFAR-10 from a folder or an archive.
pub(super) fn load_10(path: &Path) -> Result<DataSet, DataError> {
    load(path, &CIFAR10)
}

/// CIFAR-100 (its 100 fine classes) from a folder or an archive.
pub(super) fn load_100(path: &Path) -> Result<DataSet, DataError> {
    load(path, &CIFAR100)
}

fn load(path: &Path, form: &Form) -> Result<DataSet, DataError> {
    let wanted: Vec<&str> = [form.train, &[form.test, form.names]].concat();
    let files = named_files(path, &wanted)?;
    let missing: Vec<&str> = wanted
        .iter()
        .copied()
        .filter(|name| *name != form.names && !files.contains_key(*name))
        .collect();
    if !missing.is_empty() {
        let reason = match other_version(path)? {
            Some(version) => version,
            None => format!("there is no {}", missing.join(", ")),
        };
        return Err(DataError::Layout {
            path: path.into(),
            reason,
        });
    }
    let classes: Vec<String> = match files.get(form.names) {
        Some(text) => String::from_utf8_lossy(text)
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty())
            .map(str::to_owned)
            .collect(),
        None if form.classes == CIFAR10_CLASSES.len() => {
            CIFAR10_CLASSES.map(str::to_owned).to_vec()
        }
        None => (0..form.classes).map(|class| class.to_string()).collect(),
    };
    if classes.len() != form.classes {
        return Err(DataError::Layout {
            path: path.into(),
            reason: format!(
                "{} names {} classes instead of {}",
                form.names,
                classes.len(),
                form.classes
            ),
        });
    }
    let read = |name: &str| match files.get(name) {
        Some(bytes) => records(&path.join(name), bytes, form),
        None => Ok(Vec::new()),
    };
    let mut train = Vec::new();
    for name in form.train {
        train.extend(read(name)?);
    }
    let digest = |(name, bytes): (&String, &Vec<u8>)| (name.clone(), Digest::of(bytes));
    Ok(DataSet {
        part: Some("test".into()),
        files: files.iter().map(digest).collect(),
        ..DataSet::new(SHAPE, classes, train, read(form.test)?)
    })
}

/// What to get in place of the files at a path, if they are CIFAR's versions for Python or Matlab.
pub(super) fn other_version(path: &Path) -> Result<Option<String>, DataError> {
    const VERSIONS: [(&str, &str, &[&str]); 4] = [
        ("Python", "cifar10", &["data_batch_1", "test_batch"]),
        ("Python", "cifar100", &["train", "test", "meta"]),
        ("Matlab", "cifar10", &["data_batch_1.mat", "test_batch.mat"]),
        ("Matlab", "cifar100", &["train.mat", "test.mat", "meta.mat"]),
    ];
    for (language, name, files) in VERSIONS {
        if has_files(path, files)? {
            return Ok(Some(format!(
                "this is the version of {name} for {language}, which cannot be read; get the \
                 binary version by `mopteq data get {name}`, or name a folder or archive of it"
            )));
        }
    }
    Ok(None)
}

fn records(file: &Path, bytes: &[u8], form: &Form) -> Result<Vec<Picture>, DataError> {
    let record = form.labels + SHAPE.len();
    if bytes.is_empty() || !bytes.len().is_multiple_of(record) {
        return Err(DataError::Records {
            file: file.into(),
            found: bytes.len(),
            record,
        });
    }
    let picture = |(index, record): (usize, &[u8])| {
        let (labels, pixels) = record.split_at(form.labels);
        let label = labels.last().copied().map_or(0, usize::from);
        if label < form.classes {
            return Ok(Picture::new(pixels.to_vec(), label));
        }
        Err(DataError::Label {
            file: file.display().to_string(),
            index,
            label,
            classes: form.classes,
        })
    };
    bytes
        .chunks_exact(record)
        .enumerate()
        .map(picture)
        .collect()
}
