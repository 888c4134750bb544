//! Writing files whole or not at all.

use std::io::Cursor;
use std::path::Path;

use image::{ImageFormat, RgbImage};

use crate::data::DataError;
use crate::run::write_whole;

/// Writes a file such that it has either its old or its whole new content.
///
/// # Errors
///
/// When the file cannot be written.
pub fn write(path: &Path, bytes: &[u8]) -> Result<(), DataError> {
    if let Some(folder) = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty())
    {
        std::fs::create_dir_all(folder).map_err(|source| DataError::written(folder, source))?;
    }
    write_whole(path, bytes).map_err(|source| DataError::written(path, source))
}

/// A picture as the bytes of a PNG file.
pub(crate) fn png(picture: &RgbImage) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    // Into memory, a picture of this kind can always be written.
    let _ = picture.write_to(&mut bytes, ImageFormat::Png);
    bytes.into_inner()
}

/// Writes a picture as a PNG file.
///
/// # Errors
///
/// When the file cannot be written.
pub fn write_png(path: &Path, picture: &RgbImage) -> Result<(), DataError> {
    write(path, &png(picture))
}
