//! Where a picture comes from, and how a file is recognised again.

use std::fmt;
use std::path::{Component, Path};

use md5::{Digest as _, Md5};
use serde::{Deserialize, Serialize};

/// The file of a picture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// Its path below the root of the data, with slashes, accents composed.
    pub name: String,
    /// Digest of its content.
    pub digest: Digest,
}

/// Distinguishes the content of a file from that of another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Digest(u64);

impl Digest {
    /// The digest of some bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self::of_parts(&[bytes])
    }

    /// The digest of several pieces of bytes, one after the other.
    pub(crate) fn of_parts(parts: &[&[u8]]) -> Self {
        let mut hash = Md5::new();
        for part in parts {
            hash.update(part);
        }
        let mut first = [0; 8];
        first.copy_from_slice(&hash.finalize()[..8]);
        Self(u64::from_be_bytes(first))
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.to_string()
    }
}

impl TryFrom<String> for Digest {
    type Error = std::num::ParseIntError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        u64::from_str_radix(&text, 16).map(Self)
    }
}

/// A path as it is shown: with slashes, and with bytes that are not UTF-8 replaced.
pub(super) fn readable(path: &Path) -> String {
    parts(path, |name| name.to_string_lossy().into_owned())
}

/// The path that identifies a picture. It is the same, but keeps the bytes that are not UTF-8 as
/// hexadecimal digits, so that two names that read the same stay different.
pub(super) fn identity(path: &Path) -> String {
    parts(path, |name| {
        let chunks = name.as_encoded_bytes().utf8_chunks();
        let text = |chunk: std::str::Utf8Chunk<'_>| {
            let bytes = chunk.invalid().iter();
            let bytes: String = bytes.map(|byte| format!("\u{fffd}{byte:02x}")).collect();
            format!("{}{bytes}", chunk.valid())
        };
        chunks.map(text).collect()
    })
}

fn parts(path: &Path, text: impl Fn(&std::ffi::OsStr) -> String) -> String {
    let parts = path.components().filter_map(|part| match part {
        Component::Normal(name) => Some(text(name)),
        _ => None,
    });
    parts.collect::<Vec<_>>().join("/")
}
