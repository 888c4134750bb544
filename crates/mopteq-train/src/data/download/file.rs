//! A file to download, and why a download failed.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use md5::{Digest, Md5};

/// A file could not be downloaded. Every variant names the address or the file.
#[derive(Debug, thiserror::Error)]
pub enum DownloadError {
    /// The program was built without support for downloads.
    #[error(
        "{file} is missing, and this build cannot download it; build with --features download, or \
         get it by: curl -L --create-dirs -o '{file}' {url}"
    )]
    NotBuiltIn {
        /// The address.
        url: String,
        /// Where it belongs.
        file: PathBuf,
    },
    /// The server does not have the file, or refuses it.
    #[error(
        "{url}: the server answers {status}; try another mirror: mopteq data get NAME --url URL"
    )]
    Status {
        /// The address.
        url: String,
        /// Status code and its meaning.
        status: String,
    },
    /// The server sends a web page instead of the file.
    #[error(
        "{url}: the server sends an HTML page instead of the file (a login or error page?); try \
         another mirror: mopteq data get NAME --url URL"
    )]
    Html {
        /// The address.
        url: String,
    },
    /// The connection failed, or broke off again and again.
    #[error(
        "{url}: {reason}; {kept} bytes are kept, the same command goes on from there (a file that \
         you have already is named by --data-path)"
    )]
    Broken {
        /// The address.
        url: String,
        /// What happened.
        reason: String,
        /// Bytes that are on the disk.
        kept: u64,
    },
    /// The file is a different one, or was damaged on the way.
    #[error(
        "{url}: wrong checksum (md5 {found} instead of {expected}); the file was removed; try \
         again, or another mirror: mopteq data get NAME --url URL"
    )]
    Checksum {
        /// The address.
        url: String,
        /// The checksum wanted.
        expected: String,
        /// The checksum found.
        found: String,
    },
    /// The disk refused.
    #[error("{file}: cannot be written ({source})")]
    Disk {
        /// The file.
        file: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// A file to download.
#[derive(Clone, Debug)]
pub struct Download {
    /// Addresses that offer it, in order of preference.
    pub urls: Vec<String>,
    /// Its MD5 checksum in hexadecimal digits; `None` trusts the server.
    pub md5: Option<String>,
    /// Where it is stored.
    pub file: PathBuf,
}

impl Download {
    pub(super) fn disk(&self, source: io::Error) -> DownloadError {
        let file = self.file.clone();
        DownloadError::Disk { file, source }
    }

    /// `Err` holds the expected and the found checksum.
    #[allow(clippy::type_complexity)]
    pub(super) fn checksum_is_right(
        &self,
        file: &Path,
    ) -> Result<Result<(), (String, String)>, DownloadError> {
        let Some(expected) = &self.md5 else {
            return Ok(Ok(()));
        };
        let read = || -> io::Result<String> {
            let (mut file, mut hash) = (File::open(file)?, Md5::new());
            let mut buffer = vec![0; 1 << 16];
            loop {
                match file.read(&mut buffer)? {
                    0 => break,
                    count => hash.update(&buffer[..count]),
                }
            }
            let hexadecimal = hash
                .finalize()
                .iter()
                .map(|byte| format!("{byte:02x}"))
                .collect();
            Ok(hexadecimal)
        };
        let found = read().map_err(|source| self.disk(source))?;
        Ok(if found.eq_ignore_ascii_case(expected) {
            Ok(())
        } else {
            Err((expected.clone(), found))
        })
    }
}
