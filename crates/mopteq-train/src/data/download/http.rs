//! The connections of a download.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::path::PathBuf;
use std::time::Duration;

use super::{Download, DownloadError};
use crate::data::meter::Meter;

/// Connections to try for one address before the next address, or an error.
const TRIES: u32 = 4;
/// Pause before another try, times the number of the try.
const PAUSE: Duration = Duration::from_millis(200);
const PATIENCE: Duration = Duration::from_secs(30);

/// How one connection ended.
enum Outcome {
    Complete,
    /// The next try goes on where this one ended.
    Cut(String),
}

impl Download {
    /// Downloads the file from the first address that provides it.
    pub(super) fn get(&self) -> Result<(), DownloadError> {
        if let Some(folder) = self.file.parent() {
            fs::create_dir_all(folder).map_err(|source| self.disk(source))?;
        }
        let mut first_error = None;
        for url in &self.urls {
            match self.fetch_from(url) {
                Ok(()) => return Ok(()),
                Err(error) => {
                    first_error.get_or_insert(error);
                }
            }
        }
        Err(first_error.unwrap_or_else(|| DownloadError::Broken {
            url: self.file.display().to_string(),
            reason: "there is no address for it".into(),
            kept: 0,
        }))
    }

    fn part(&self) -> PathBuf {
        let mut name = self.file.clone().into_os_string();
        name.push(".part");
        name.into()
    }

    fn fetch_from(&self, url: &str) -> Result<(), DownloadError> {
        let part = self.part();
        let mut open = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&part)
            .map_err(|source| self.disk(source))?;
        // Two processes must not write to one part. The second one waits and then finds the file.
        open.lock().map_err(|source| self.disk(source))?;
        let mut reason = String::new();
        for attempt in 0..TRIES {
            std::thread::sleep(PAUSE * attempt);
            match self.connect(url, &mut open)? {
                Outcome::Complete => {
                    open.sync_all().map_err(|source| self.disk(source))?;
                    if let Err((expected, found)) = self.checksum_is_right(&part)? {
                        fs::remove_file(&part).map_err(|source| self.disk(source))?;
                        return Err(DownloadError::Checksum {
                            url: url.into(),
                            expected,
                            found,
                        });
                    }
                    return fs::rename(&part, &self.file).map_err(|source| self.disk(source));
                }
                Outcome::Cut(why) => reason = why,
            }
        }
        let kept = open.metadata().map_or(0, |metadata| metadata.len());
        Err(DownloadError::Broken {
            url: url.into(),
            reason,
            kept,
        })
    }

    /// One connection: appends to the part what is still missing.
    fn connect(&self, url: &str, part: &mut File) -> Result<Outcome, DownloadError> {
        let have = part.metadata().map_err(|source| self.disk(source))?.len();
        let agent: ureq::Agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_connect(Some(PATIENCE))
            .timeout_recv_response(Some(PATIENCE))
            .build()
            .into();
        let mut request = agent.get(url);
        if have > 0 {
            request = request.header("Range", format!("bytes={have}-"));
        }
        let mut response = match request.call() {
            Ok(response) => response,
            Err(error) => return Ok(Outcome::Cut(error.to_string())),
        };
        let header = |name: &str| {
            let value = response.headers().get(name);
            value
                .and_then(|value| value.to_str().ok())
                .map(str::to_owned)
        };
        let status = response.status();
        let length = header("content-length").and_then(|text| text.parse::<u64>().ok());
        let (start, total) = match status.as_u16() {
            200 => (0, length),
            // `bytes START-END/TOTAL`
            206 => {
                let range = header("content-range").unwrap_or_default();
                let start = range.trim_start_matches("bytes ").split('-').next();
                match start.and_then(|start| start.trim().parse().ok()) {
                    Some(start) if start == have => (
                        start,
                        range
                            .rsplit('/')
                            .next()
                            .and_then(|total| total.parse().ok()),
                    ),
                    _ => {
                        part.set_len(0).map_err(|source| self.disk(source))?;
                        return Ok(Outcome::Cut("the server sent another range".into()));
                    }
                }
            }
            // The part is as long as the file or longer: if it is the file, its checksum says so.
            416 if have > 0 => {
                if self.md5.is_some() && self.checksum_is_right(&self.part())?.is_ok() {
                    return Ok(Outcome::Complete);
                }
                part.set_len(0).map_err(|source| self.disk(source))?;
                return Ok(Outcome::Cut("the server has no such range".into()));
            }
            // The server is busy now, but perhaps not in a moment.
            429 | 500..=599 => return Ok(Outcome::Cut(format!("the server answers {status}"))),
            _ => {
                let (url, status) = (url.into(), status.to_string());
                return Err(DownloadError::Status { url, status });
            }
        };
        if header("content-type").is_some_and(|kind| kind.contains("html")) {
            return Err(DownloadError::Html { url: url.into() });
        }
        if start < have {
            part.set_len(start).map_err(|source| self.disk(source))?;
        }
        self.copy(url, response.body_mut().as_reader(), part, start, total)
    }

    fn copy(
        &self,
        url: &str,
        mut body: impl Read,
        part: &mut File,
        start: u64,
        total: Option<u64>,
    ) -> Result<Outcome, DownloadError> {
        let name = self.file.file_name().unwrap_or_default().to_string_lossy();
        let mut meter = Meter::bytes(&name, start, total);
        let mut have = start;
        let mut buffer = vec![0; 1 << 16];
        loop {
            let count = match body.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => count,
                Err(error) => {
                    let of = total
                        .map(|total| format!(" of {total}"))
                        .unwrap_or_default();
                    let reason = format!("the connection broke after {have}{of} bytes ({error})");
                    return Ok(Outcome::Cut(reason));
                }
            };
            // Some mirrors call their error pages something else.
            if have == 0 {
                let start = String::from_utf8_lossy(&buffer[..count.min(64)]).to_lowercase();
                let start = start.trim_start();
                if start.starts_with("<!doctype html") || start.starts_with("<html") {
                    return Err(DownloadError::Html { url: url.into() });
                }
            }
            part.write_all(&buffer[..count])
                .map_err(|source| self.disk(source))?;
            have += count as u64;
            meter.set(have);
        }
        Ok(match total {
            Some(total) if have < total => Outcome::Cut(format!(
                "the connection ended after {have} of {total} bytes"
            )),
            _ => Outcome::Complete,
        })
    }
}
