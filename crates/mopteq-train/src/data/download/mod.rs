//! Downloading a file: progress, resume after an interruption, checksum, several mirrors.

mod file;
#[cfg(feature = "download")]
mod http;

pub use file::{Download, DownloadError};

impl Download {
    /// Downloads the file, unless it already exists with the right checksum.
    ///
    /// If the connection breaks off, `FILE.part` keeps what has arrived, and the next call
    /// continues from there.
    ///
    /// # Errors
    ///
    /// The first address's error, when no address provides the file.
    pub fn fetch(&self) -> Result<(), DownloadError> {
        if self.file.is_file() && self.checksum_is_right(&self.file)?.is_ok() {
            return Ok(());
        }
        self.get()
    }

    #[cfg(not(feature = "download"))]
    fn get(&self) -> Result<(), DownloadError> {
        Err(DownloadError::NotBuiltIn {
            url: self.urls.first().cloned().unwrap_or_default(),
            file: self.file.clone(),
        })
    }
}
