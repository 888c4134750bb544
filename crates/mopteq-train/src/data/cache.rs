//! Where downloads and decoded pictures are kept.

use std::env;
use std::fs::{self, File};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use super::{DataError, Pixels, Spilled};

/// The folder for downloads and decoded pictures: `MOPTEQ_CACHE`, or `mopteq` in the system's
/// cache folder, or in the current one if the system names none.
pub fn cache_folder() -> PathBuf {
    let from = |name: &str| env::var_os(name).filter(|value| !value.is_empty());
    if let Some(folder) = from("MOPTEQ_CACHE") {
        return folder.into();
    }
    let system = from("XDG_CACHE_HOME")
        .or_else(|| from("LOCALAPPDATA"))
        .map(PathBuf::from)
        .or_else(|| from("HOME").map(|home| Path::new(&home).join(".cache")));
    system.unwrap_or_else(|| ".".into()).join("mopteq")
}

/// Bytes of decoded pictures that are kept in memory: half of what is available now, or 4 GiB if
/// the system does not report it.
pub fn memory_budget() -> usize {
    let available = || -> Option<usize> {
        let text = fs::read_to_string("/proc/meminfo").ok()?;
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix("MemAvailable:"))?;
        let kibibytes: usize = line.split_whitespace().next()?.parse().ok()?;
        Some(kibibytes << 10)
    };
    available().unwrap_or(8 << 30) / 2
}

/// Stores decoded pictures: in memory up to a budget, the others in a file that the system removes
/// when its last picture is gone.
pub(super) struct PixelStore {
    budget: usize,
    used: usize,
    folder: PathBuf,
    file: Option<(Arc<Mutex<File>>, u64)>,
}

impl PixelStore {
    pub(super) fn new(budget: usize) -> Self {
        let folder = cache_folder();
        Self {
            budget,
            used: 0,
            folder,
            file: None,
        }
    }

    pub(super) fn push(&mut self, values: Vec<u8>) -> Result<Pixels, DataError> {
        if self.used + values.len() <= self.budget {
            self.used += values.len();
            return Ok(values.into());
        }
        let failed = |source| DataError::written(&self.folder, source);
        let (file, end) = match self.file.take() {
            Some(open) => open,
            None => {
                fs::create_dir_all(&self.folder).map_err(failed)?;
                let file = tempfile::tempfile_in(&self.folder).map_err(failed)?;
                (Arc::new(Mutex::new(file)), 0)
            }
        };
        {
            let mut open = file.lock().unwrap_or_else(PoisonError::into_inner);
            open.seek(SeekFrom::Start(end))
                .and_then(|_| open.write_all(&values))
                .map_err(failed)?;
        }
        let place = Spilled {
            file: file.clone(),
            offset: end,
            length: values.len(),
        };
        self.file = Some((file, end + values.len() as u64));
        Ok(Pixels::File(place))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_beyond_the_budget_come_back_from_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let mut store = PixelStore {
            folder: folder.path().into(),
            ..PixelStore::new(10)
        };
        let picture = |i: u8| vec![i, i + 1, i + 2, i + 3];
        let kept: Vec<Pixels> = (0..6).map(|i| store.push(picture(i)).unwrap()).collect();
        assert!(matches!(kept[1], Pixels::Memory(_)) && matches!(kept[2], Pixels::File(_)));
        // In any order.
        for i in [5, 0, 3, 2, 4, 1] {
            assert_eq!(&*kept[i as usize].read().unwrap(), picture(i));
        }
    }
}
