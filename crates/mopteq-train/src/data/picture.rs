//! A picture in memory or in the cache file.

use std::borrow::Cow;
use std::fmt;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use super::origin::{Digest, Origin};

/// Channels, height and width of a picture, in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PictureShape {
    /// 1 for grey, 3 for RGB.
    pub channels: usize,
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
}

impl fmt::Display for PictureShape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let colour = if self.channels == 1 { "grey" } else { "RGB" };
        write!(f, "{} x {} {colour}", self.height, self.width)
    }
}

impl PictureShape {
    /// Number of values in a picture.
    pub fn len(&self) -> usize {
        self.channels * self.height * self.width
    }

    /// Whether a picture of this shape has no values.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The values of a picture, 0 to 255 in the order channel, row, column; cloning copies none.
#[derive(Clone, Debug)]
pub enum Pixels {
    /// In memory.
    Memory(Arc<[u8]>),
    /// In a cache file, for data sets that do not fit into memory.
    File(Spilled),
}

impl Pixels {
    /// The values.
    ///
    /// # Errors
    ///
    /// When the cache file cannot be read.
    pub fn read(&self) -> io::Result<Cow<'_, [u8]>> {
        match self {
            Self::Memory(values) => Ok(Cow::Borrowed(values)),
            Self::File(place) => place.read().map(Cow::Owned),
        }
    }
}

impl From<Vec<u8>> for Pixels {
    fn from(values: Vec<u8>) -> Self {
        Self::Memory(values.into())
    }
}

/// One picture with its label.
#[derive(Clone, Debug)]
pub struct Picture {
    /// Its values.
    pub pixels: Pixels,
    /// Index of the class.
    pub label: usize,
    /// Its own file; `None` for one of many pictures in a file, which its position identifies.
    pub origin: Option<Arc<Origin>>,
}

impl Picture {
    /// A picture without a file of its own.
    pub fn new(pixels: impl Into<Pixels>, label: usize) -> Self {
        Self {
            pixels: pixels.into(),
            label,
            origin: None,
        }
    }

    /// The digest of its content: of its file, or of its values if it has no file of its own.
    /// `None` if the values cannot be read.
    pub fn digest(&self) -> Option<Digest> {
        match &self.origin {
            Some(origin) => Some(origin.digest),
            None => Some(Digest::of(&self.pixels.read().ok()?)),
        }
    }
}

/// A picture's place in the cache file.
#[derive(Clone, Debug)]
pub struct Spilled {
    pub(super) file: Arc<Mutex<File>>,
    pub(super) offset: u64,
    pub(super) length: usize,
}

impl Spilled {
    /// Reads the values back.
    ///
    /// # Errors
    ///
    /// When the file cannot be read.
    pub fn read(&self) -> io::Result<Vec<u8>> {
        let mut values = vec![0; self.length];
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        file.seek(SeekFrom::Start(self.offset))?;
        file.read_exact(&mut values)?;
        Ok(values)
    }
}
