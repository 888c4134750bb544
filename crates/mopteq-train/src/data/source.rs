//! Which data a run uses, and how they are found.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::decode::reshape;
use super::folder::{self, Options, Purpose};
use super::known::{KnownData, ensure};
use super::{DataError, DataSet, PictureShape, cifar, digits, idx_files};
use crate::names::nearest;

/// The kind of data. It decides how they are read and which preset trains on them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DataKind {
    /// 5,000 MNIST digits, embedded in the program.
    Digits,
    /// CIFAR-10, in the official binary form or as picture files.
    Cifar10,
    /// CIFAR-100 with its fine classes, in the same forms.
    Cifar100,
    /// ImageNette, as picture files.
    Imagenette,
    /// Picture files in one folder for each class.
    Folder,
    /// IDX files: MNIST and similar data sets.
    Idx,
}

/// WordNet numbers and names of ImageNette's classes.
const IMAGENETTE: [(&str, &str); 10] = [
    ("n01440764", "tench"),
    ("n02102040", "English springer"),
    ("n02979186", "cassette player"),
    ("n03000684", "chain saw"),
    ("n03028079", "church"),
    ("n03394916", "French horn"),
    ("n03417042", "garbage truck"),
    ("n03425413", "gas pump"),
    ("n03445777", "golf ball"),
    ("n03888257", "parachute"),
];

impl DataKind {
    /// The kinds that have a name on the command line. A path stands for the others.
    pub const NAMED: [Self; 4] = [
        Self::Digits,
        Self::Cifar10,
        Self::Cifar100,
        Self::Imagenette,
    ];

    /// The name on the command line and in folder names.
    pub fn name(self) -> &'static str {
        match self {
            Self::Digits => "digits",
            Self::Cifar10 => "cifar10",
            Self::Cifar100 => "cifar100",
            Self::Imagenette => "imagenette",
            Self::Folder => "folder",
            Self::Idx => "idx",
        }
    }

    /// Reads the pictures with the default settings.
    ///
    /// # Errors
    ///
    /// When a file is missing or damaged, naming it.
    pub fn load(self) -> Result<DataSet, DataError> {
        DataSource::new(self).load()
    }
}

/// Where the pictures come from and how they are read.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataSource {
    /// What they are.
    pub kind: DataKind,
    /// A folder or an archive; `None`: embedded, or in the cache folder.
    #[serde(default)]
    pub path: Option<PathBuf>,
    /// Height and width that picture files are scaled to; `None`: that of the data set, or their
    /// own if all share one that is small, or else 64 x 64.
    #[serde(default)]
    pub size: Option<[usize; 2]>,
    /// 1 (grey) or 3 (RGB) for picture files; `None`: grey where all files are.
    #[serde(default)]
    pub channels: Option<usize>,
    /// Share of each class that is set aside for the test if the data have no test part.
    #[serde(default = "DataSource::test_fraction")]
    pub test_fraction: f64,
    /// Largest share of damaged picture files that are skipped.
    #[serde(default = "DataSource::max_corrupt")]
    pub max_corrupt: f64,
}

impl DataSource {
    fn test_fraction() -> f64 {
        0.2
    }

    fn max_corrupt() -> f64 {
        0.01
    }

    /// Data of this kind from their usual place.
    pub fn new(kind: DataKind) -> Self {
        Self {
            kind,
            path: None,
            size: None,
            channels: None,
            test_fraction: Self::test_fraction(),
            max_corrupt: Self::max_corrupt(),
        }
    }

    /// The data that a name of the command line stands for: a known name, or a path whose content
    /// tells what it is. `path` says where the known data are, if not in their usual place.
    ///
    /// # Errors
    ///
    /// When it is neither, or the path cannot be read.
    pub fn from_name(name: &str, path: Option<&Path>) -> Result<Self, DataError> {
        let named = DataKind::NAMED.into_iter().find(|kind| kind.name() == name);
        let absolute =
            |path: &Path| std::path::absolute(path).map_err(|source| DataError::read(path, source));
        if let Some(kind) = named {
            let path = path.map(absolute).transpose()?;
            return Ok(Self {
                path,
                ..Self::new(kind)
            });
        }
        let there = Path::new(name);
        if !there.exists() {
            let known = DataKind::NAMED.map(DataKind::name);
            return Err(DataError::Unknown {
                name: name.into(),
                known: known.join(", "),
                hint: nearest(name, &known)
                    .map(|near| format!("; did you mean {near}?"))
                    .unwrap_or_default(),
            });
        }
        // The run must find the data again from any folder.
        let path = absolute(there)?;
        Ok(Self {
            kind: detect(&path)?,
            path: Some(path),
            ..Self::new(DataKind::Folder)
        })
    }

    /// The path, or the name if there is no path.
    pub fn describe(&self) -> String {
        match &self.path {
            Some(path) => path.display().to_string(),
            None => self.kind.name().to_owned(),
        }
    }

    /// Reads the pictures.
    ///
    /// # Errors
    ///
    /// When a file is missing or damaged, naming it.
    pub fn load(&self) -> Result<DataSet, DataError> {
        self.read(None, Purpose::Train)
    }

    /// Reads the pictures in the shape that a model takes.
    ///
    /// # Errors
    ///
    /// As [`load`](Self::load).
    pub fn load_as(&self, shape: PictureShape) -> Result<DataSet, DataError> {
        self.read(Some(shape), Purpose::Train)
    }

    /// Reads what a model can be tested with, in the shape that it takes: the test part of the
    /// data, or all pictures if they have none.
    ///
    /// # Errors
    ///
    /// As [`load`](Self::load).
    pub fn load_to_test(&self, shape: PictureShape) -> Result<DataSet, DataError> {
        self.read(Some(shape), Purpose::Test)
    }

    /// Reads the data of a run that has a list of its pictures. The list shows what is missing, so
    /// the data need not have every part and class.
    ///
    /// # Errors
    ///
    /// As [`load`](Self::load).
    pub fn load_again(&self, shape: PictureShape) -> Result<DataSet, DataError> {
        self.read(Some(shape), Purpose::Again)
    }

    /// The same data at the place of others.
    pub fn moved_to(&self, place: &Self) -> Self {
        let path = match self.kind {
            DataKind::Digits => None,
            _ => place.path.clone(),
        };
        Self {
            path,
            ..self.clone()
        }
    }

    fn read(&self, shape: Option<PictureShape>, purpose: Purpose) -> Result<DataSet, DataError> {
        let Some(shape) = shape else {
            return self.read_files(purpose);
        };
        let like = Self {
            size: Some([shape.height, shape.width]),
            channels: Some(shape.channels),
            ..self.clone()
        };
        let mut data = like.read_files(purpose)?;
        let from = std::mem::replace(&mut data.shape, shape);
        if from == shape {
            return Ok(data);
        }
        // Data other than picture files have a shape of their own.
        for picture in data.train.iter_mut().chain(&mut data.test) {
            let values = picture.pixels.read();
            let values = values.map_err(|source| DataError::read("cache file", source))?;
            picture.pixels = reshape(&values, from, shape).into();
        }
        Ok(data)
    }

    fn read_files(&self, purpose: Purpose) -> Result<DataSet, DataError> {
        let options = |size: Option<[usize; 2]>, channels: Option<usize>| Options {
            size,
            channels: self.channels.or(channels),
            test_fraction: self.test_fraction,
            max_corrupt: self.max_corrupt,
            purpose,
        };
        match self.kind {
            DataKind::Digits => digits::load(),
            DataKind::Cifar10 => self.cifar("cifar10", cifar::load_10, options),
            DataKind::Cifar100 => self.cifar("cifar100", cifar::load_100, options),
            DataKind::Imagenette => {
                // The smaller archive suffices for pictures up to its size.
                let large = self.size.is_some_and(|[h, w]| h.max(w) > 160);
                let path = self.find(if large {
                    "imagenette-320"
                } else {
                    "imagenette"
                })?;
                let size = self.size.or(Some([128, 128]));
                let mut data = folder::load(&path, &options(size, Some(3)))?;
                for class in &mut data.classes {
                    if let Some((_, name)) = IMAGENETTE.iter().find(|(id, _)| id == class) {
                        *class = (*name).to_owned();
                    }
                }
                Ok(data)
            }
            DataKind::Folder => {
                let path = self.find("folder")?;
                folder::load(&path, &options(self.size, self.channels))
            }
            DataKind::Idx => idx_files::load(&self.find("idx")?),
        }
    }

    /// The given path, or the archive in the cache folder, downloaded first if necessary.
    fn find(&self, known: &str) -> Result<PathBuf, DataError> {
        match (&self.path, KnownData::from_name(known)) {
            (Some(path), _) => {
                // Gives a clear message if the path does not exist.
                let path = path.clone();
                match std::fs::metadata(&path) {
                    Ok(_) => Ok(path),
                    Err(source) => Err(DataError::Moved { path, source }),
                }
            }
            (None, Some(known)) => ensure(known),
            (None, None) => Err(DataError::Layout {
                path: known.into(),
                reason: "data of this kind need a path".into(),
            }),
        }
    }

    fn cifar(
        &self,
        name: &str,
        binary: fn(&Path) -> Result<DataSet, DataError>,
        options: impl Fn(Option<[usize; 2]>, Option<usize>) -> Options,
    ) -> Result<DataSet, DataError> {
        let path = self.find(name)?;
        match binary(&path) {
            Err(error @ DataError::Layout { .. }) => match folder::class_names(&path)? {
                names if !names.is_empty() => {
                    let size = self.size.or(Some([32, 32]));
                    folder::load(&path, &options(size, Some(3)))
                }
                _ => Err(error),
            },
            result => result,
        }
    }
}

/// What is at a path.
fn detect(path: &Path) -> Result<DataKind, DataError> {
    if path.is_dir() {
        let folders = super::archive::with_subfolders(path)?;
        let any = |name: &str| folders.iter().any(|folder| folder.join(name).is_file());
        if any("data_batch_1.bin") || any("test_batch.bin") {
            return Ok(DataKind::Cifar10);
        }
        if any("train.bin") && any("test.bin") {
            return Ok(DataKind::Cifar100);
        }
        if idx_files::are_in(path)? {
            return Ok(DataKind::Idx);
        }
        if let Some(reason) = cifar::other_version(path)? {
            return Err(DataError::Layout {
                path: path.into(),
                reason,
            });
        }
    } else if !super::archive::is_archive(path) {
        return Err(DataError::Layout {
            path: path.into(),
            reason: "it is neither a folder nor a .tar, .tar.gz or .tgz archive".into(),
        });
    }
    let names = folder::class_names(path)?;
    if names.is_empty() && !path.is_dir() {
        // An archive without class folders may hold files of many pictures.
        let has = |names: &[&str]| super::archive::has_files(path, names);
        return Ok(
            if has(&["data_batch_1.bin"])? || has(&["test_batch.bin"])? {
                DataKind::Cifar10
            } else if has(&["train.bin", "test.bin"])? {
                DataKind::Cifar100
            } else if idx_files::are_in(path)? {
                DataKind::Idx
            } else if let Some(reason) = cifar::other_version(path)? {
                return Err(DataError::Layout {
                    path: path.into(),
                    reason,
                });
            } else {
                DataKind::Folder
            },
        );
    }
    let are = |known: &[&str]| {
        names.len() == known.len() && names.iter().all(|name| known.contains(&name.as_str()))
    };
    Ok(if are(&cifar::CIFAR10_CLASSES) {
        DataKind::Cifar10
    } else if are(&IMAGENETTE.map(|(id, _)| id)) {
        DataKind::Imagenette
    } else {
        DataKind::Folder
    })
}
