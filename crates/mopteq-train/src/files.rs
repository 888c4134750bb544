//! Writing files completely or not at all, and never over files that this program did not write.

use std::fs::{self, File};
use std::io::{Cursor, Read, Write};
use std::path::Path;

use flate2::Crc;

use image::{ImageFormat, RgbImage};

use crate::data::{DataError, is_inspection};

/// Ending of files that are being written.
pub(crate) const UNFINISHED: &str = "tmp";

/// Writes a file so that it has either its old or its complete new content, even after a crash.
pub(crate) fn write_whole(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let suffix = format!(".{UNFINISHED}");
    let mut builder = tempfile::Builder::new();
    // The files are the user's own like any other, not private as temporary files are.
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    let mut file = builder.prefix(".").suffix(&suffix).tempfile_in(folder)?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    Ok(())
}

/// Writes a file so that it has either its old or its complete new content.
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
    // Writing a picture of this kind into memory cannot fail.
    let _ = picture.write_to(&mut bytes, ImageFormat::Png);
    bytes.into_inner()
}

/// Bytes of a PNG file up to the end of its head.
const HEAD: usize = 33;
/// The PNG text by which this program recognises its own pictures.
const PRODUCER: &[u8] = b"tEXtSoftware\0mopteq";

/// The chunk of a PNG file that says which program wrote it.
fn producer() -> Vec<u8> {
    let mut crc = Crc::new();
    crc.update(PRODUCER);
    // The type of a chunk does not count towards its length.
    let length = PRODUCER.len() as u32 - 4;
    [&length.to_be_bytes(), PRODUCER, &crc.sum().to_be_bytes()].concat()
}

/// Writes a picture as a PNG file.
///
/// # Errors
///
/// When the file cannot be written.
pub fn write_png(path: &Path, picture: &RgbImage) -> Result<(), DataError> {
    let mut bytes = png(picture);
    bytes.splice(HEAD..HEAD, producer());
    write(path, &bytes)
}

/// Whether [`write_png`] wrote a file that begins like this.
pub(crate) fn is_drawn(start: &[u8]) -> bool {
    // The chunk's length comes first.
    let part = start.get(HEAD + 4..HEAD + 4 + PRODUCER.len());
    part == Some(PRODUCER) && start.starts_with(b"\x89PNG")
}

/// Checks that a picture may be written: nothing is there, or [`write_png`] wrote it.
///
/// # Errors
///
/// When there is another file.
pub fn check_png(path: &Path) -> Result<(), DataError> {
    let mut start = Vec::new();
    let length = HEAD + 4 + PRODUCER.len();
    let read = |file: File| file.take(length as u64).read_to_end(&mut start);
    let ours = path.is_file() && File::open(path).and_then(read).is_ok() && is_drawn(&start);
    match ours || path.symlink_metadata().is_err() {
        true => Ok(()),
        false => Err(DataError::Taken {
            path: path.into(),
            reason: "this program did not write it",
            option: "--out",
        }),
    }
}

/// Checks that an inspection may be written into a folder: it is new, empty, or that of an earlier
/// one.
///
/// # Errors
///
/// When something else is there.
pub fn check_inspection(folder: &Path) -> Result<(), DataError> {
    let free = match fs::read_dir(folder) {
        Ok(mut entries) => entries.next().is_none() || is_inspection(folder),
        Err(_) => folder.symlink_metadata().is_err(),
    };
    match free {
        true => Ok(()),
        false => Err(DataError::Taken {
            path: folder.into(),
            reason: "it is neither empty nor from an earlier inspection",
            option: "--out",
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_written_file_replaces_the_old_one_and_leaves_nothing_behind() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.json");
        write_whole(&path, b"old").unwrap();
        write_whole(&path, b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn own_pictures_are_known_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.png");
        check_png(&path).unwrap();
        let picture = RgbImage::from_fn(5, 3, |x, y| image::Rgb([x as u8, y as u8, 7]));
        write_png(&path, &picture).unwrap();
        assert_eq!(image::open(&path).unwrap().to_rgb8(), picture);
        check_png(&path).unwrap();
        picture.save(&path).unwrap();
        let error = check_png(&path).unwrap_err().to_string();
        assert!(
            error.contains("a.png exists") && error.contains("--out"),
            "{error}"
        );
    }
}
