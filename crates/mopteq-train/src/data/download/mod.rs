//! Getting a file from the net: progress, resume after a cut, checksum, several mirrors.

mod file;
#[cfg(feature = "download")]
mod http;

pub use file::{Download, DownloadError};

impl Download {
    /// Gets the file unless it is there already and its checksum is right.
    ///
    /// What has come is kept in `FILE.part` when the connection breaks off, and the next call goes
    /// on from there.
    ///
    /// # Errors
    ///
    /// The first address's error, when no address gives the file.
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
