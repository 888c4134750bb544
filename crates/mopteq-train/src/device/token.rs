//! The secret that a worker shares with the trainings that may use it.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::error::DeviceError;

/// Bytes of a new token.
const LENGTH: usize = 32;

/// Largest number of bytes that a message shows of what a stranger presents.
const LONGEST_SHOWN: usize = 64;

/// A secret that a worker asks for, with the version of the program.
pub struct Token {
    credential: String,
}

impl Token {
    /// Default location of the token: `worker-token` in the user's folder of settings.
    pub fn default_file() -> PathBuf {
        let from = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        let folder = from("XDG_CONFIG_HOME")
            .or_else(|| from("APPDATA"))
            .map(PathBuf::from)
            .or_else(|| from("HOME").map(|home| Path::new(&home).join(".config")));
        let folder = folder.unwrap_or_else(|| ".".into());
        folder.join("mopteq").join("worker-token")
    }

    /// Reads a token.
    ///
    /// # Errors
    ///
    /// When the file cannot be read or is empty.
    pub fn read(file: &Path) -> Result<Self, DeviceError> {
        let unusable = |reason: String| DeviceError::Token {
            file: file.into(),
            reason,
        };
        let text = fs::read_to_string(file).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => {
                unusable("there is no such file; copy it from the worker's machine".into())
            }
            _ => unusable(error.to_string()),
        })?;
        match text.trim() {
            "" => Err(unusable("it is empty".into())),
            secret => Ok(Self::new(secret, env!("CARGO_PKG_VERSION"))),
        }
    }

    /// Reads a token, or makes one. On Unix, only its owner can read it.
    ///
    /// # Errors
    ///
    /// As [`read`](Self::read), or when the file cannot be written.
    pub fn read_or_create(file: &Path) -> Result<Self, DeviceError> {
        let create = || -> io::Result<()> {
            if let Some(folder) = file.parent() {
                fs::create_dir_all(folder)?;
            }
            let mut options = OpenOptions::new();
            options.write(true).create_new(true);
            #[cfg(unix)]
            std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
            let mut secret = [0; LENGTH];
            getrandom::fill(&mut secret).map_err(io::Error::other)?;
            let digits: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
            writeln!(options.open(file)?, "{digits}")
        };
        match create() {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(DeviceError::Token {
                file: file.into(),
                reason: error.to_string(),
            }),
            _ => Self::read(file),
        }
    }

    fn new(secret: &str, version: &str) -> Self {
        Self {
            credential: format!("mopteq {version}\n{secret}"),
        }
    }

    /// What a training presents to a worker.
    pub(crate) fn credential(&self) -> &str {
        &self.credential
    }

    /// Whether a training that presents this may use the worker.
    ///
    /// # Errors
    ///
    /// Says what is wrong. The worker prints it.
    pub(crate) fn check(&self, presented: &[u8]) -> Result<(), String> {
        let own = self.credential.as_bytes();
        let version = |bytes: &[u8]| {
            let start = &bytes[..bytes.len().min(LONGEST_SHOWN)];
            let line = start.split(|byte| *byte == b'\n').next();
            String::from_utf8_lossy(line.unwrap_or_default()).into_owned()
        };
        // The time that this takes depends only on the lengths.
        let differences = own.iter().zip(presented).fold(0, |d, (a, b)| d | (a ^ b));
        if differences == 0 && own.len() == presented.len() {
            return Ok(());
        }
        match version(presented) {
            other if other.is_empty() => Err("it presents no token".into()),
            other if other != version(own) => Err(format!(
                "it is {}, and this is {}",
                crate::names::shown(&other),
                version(own)
            )),
            _ => Err("its token is another".into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_same_secret_and_version_are_let_in() {
        let own = Token::new("secret", "1.2.3");
        let check = |secret, version| {
            let other = Token::new(secret, version);
            own.check(other.credential().as_bytes())
        };
        assert_eq!(check("secret", "1.2.3"), Ok(()));
        for wrong in ["", "s", "secre", "secret ", "Secret"] {
            let reason = check(wrong, "1.2.3").unwrap_err();
            assert_eq!(reason, "its token is another");
        }
        let reason = check("secret", "1.2.4").unwrap_err();
        assert_eq!(reason, "it is mopteq 1.2.4, and this is mopteq 1.2.3");
        assert!(own.check(b"").unwrap_err().contains("no token"));
        assert!(own.check(b"\xff\x1b[2J").is_err());
    }

    #[test]
    fn a_token_is_made_once_and_belongs_to_its_owner() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("settings/worker-token");
        assert!(
            Token::read(&file)
                .err()
                .unwrap()
                .to_string()
                .contains("copy it")
        );
        let first = Token::read_or_create(&file).unwrap();
        let again = Token::read_or_create(&file).unwrap();
        assert_eq!(first.credential(), again.credential());
        assert!(first.credential().len() > 2 * LENGTH);
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let mode = fs::metadata(&file).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
        }
        fs::write(&file, "\n").unwrap();
        assert!(
            Token::read_or_create(&file)
                .err()
                .unwrap()
                .to_string()
                .contains("empty")
        );
    }
}
