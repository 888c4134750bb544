//! The data sets that can be downloaded by name.

use std::path::PathBuf;

use super::{DataError, Download, cache_folder};

/// A data set that its makers publish.
#[derive(Clone, Copy, Debug)]
pub struct KnownData {
    /// Its name on the command line.
    pub name: &'static str,
    /// What it is, in a few words.
    pub what: &'static str,
    /// Terms of its use.
    pub terms: &'static str,
    /// Size of the archive in bytes.
    pub bytes: u64,
    url: &'static str,
    md5: &'static str,
    file: &'static str,
}

/// All of them.
pub const KNOWN: [KnownData; 4] = [
    KnownData {
        name: "cifar10",
        what: "60,000 photographs of 10 classes, 32 x 32",
        terms: "no formal licence; cite Krizhevsky 2009",
        bytes: 170_052_171,
        url: "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
        md5: "c32a1d4ab5d03f1284b67883e8d87530",
        file: "cifar-10-binary.tar.gz",
    },
    KnownData {
        name: "cifar100",
        what: "60,000 photographs of 100 classes, 32 x 32",
        terms: "no formal licence; cite Krizhevsky 2009",
        bytes: 168_513_733,
        url: "https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz",
        md5: "03b5dce01913d631647c71ecec9e9cb8",
        file: "cifar-100-binary.tar.gz",
    },
    KnownData {
        name: "imagenette",
        what: "13,394 photographs of 10 classes of ImageNet, 160 px",
        terms: "ImageNet's: research, not commercial",
        bytes: 99_003_388,
        url: "https://s3.amazonaws.com/fast-ai-imageclas/imagenette2-160.tgz",
        md5: "e793b78cc4c9e9a4ccc0c1155377a412",
        file: "imagenette2-160.tgz",
    },
    KnownData {
        name: "imagenette-320",
        what: "the same, 320 px",
        terms: "ImageNet's: research, not commercial",
        bytes: 341_663_724,
        url: "https://s3.amazonaws.com/fast-ai-imageclas/imagenette2-320.tgz",
        md5: "3df6f0d01a2c9592104656642f5e78a3",
        file: "imagenette2-320.tgz",
    },
];

impl KnownData {
    /// The data set of that name.
    pub fn from_name(name: &str) -> Option<&'static Self> {
        KNOWN.iter().find(|known| known.name == name)
    }

    /// The archive in the cache folder.
    pub fn file(&self) -> PathBuf {
        cache_folder().join(self.file)
    }

    /// How to download it. `url` replaces the makers' address, `md5` their checksum.
    pub fn download(&self, url: Option<&str>, md5: Option<&str>) -> Download {
        Download {
            urls: vec![url.unwrap_or(self.url).to_owned()],
            md5: Some(md5.unwrap_or(self.md5).to_owned()),
            file: self.file(),
        }
    }
}

/// The archive of a known data set, downloaded if it is not in the cache folder.
///
/// # Errors
///
/// When it cannot be downloaded.
pub fn ensure(known: &KnownData) -> Result<PathBuf, DataError> {
    let download = known.download(None, None);
    // Only a whole file with the right checksum is ever renamed to this name.
    if !download.file.is_file() {
        download.fetch()?;
    }
    Ok(download.file)
}
