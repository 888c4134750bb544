//! Models as files of their own: safetensors, or Burn's pack.
//!
//! A JSON file of the same name goes beside the tensors. It holds the run's config, so that the
//! model can be rebuilt from the two files, and what the model was trained on, so that it is never
//! tested on that.

use std::fs;
use std::path::{Path, PathBuf};

use burn::module::Module;
use burn::store::ModuleRecord;
use burn_store::{ModuleSnapshot, SafetensorsStore};
use serde::Serialize;
use serde_json::{Map, Value};

use crate::Error;
use crate::checkpoint::{self, Position, Snapshot, State};
use crate::classifier::Classifier;
use crate::config::TrainConfig;
use crate::crash;
use crate::data::{Seen, are_settings};
use crate::device::SelectedDevice;
pub use crate::error::ShipError;
use crate::parts::FileList;
use crate::predict::Predictor;
use crate::run::RunFolder;

#[derive(Clone, Copy)]
enum Format {
    Safetensors,
    Burnpack,
}

fn format(file: &Path) -> Result<Format, ShipError> {
    match file.extension().and_then(|ending| ending.to_str()) {
        Some("safetensors") => Ok(Format::Safetensors),
        Some("bpk") => Ok(Format::Burnpack),
        _ => Err(ShipError::Format(file.into())),
    }
}

/// Field of the exported settings that says what the model was trained on.
pub(crate) const SEEN: &str = "seen";

/// What goes beside an exported model.
#[derive(Serialize)]
struct Settings<'a> {
    #[serde(flatten)]
    config: &'a TrainConfig,
    seen: Seen,
}

/// Where the config of an exported model is.
pub fn config_path(file: &Path) -> PathBuf {
    file.with_extension("json")
}

/// Writes a model and its config.
///
/// # Errors
///
/// When the name has an ending that is not a known format, or the disk refuses.
pub fn export(predictor: &Predictor, file: &Path) -> Result<(), Error> {
    let format = format(file)?;
    let failed = |reason: String| ShipError::Write {
        file: file.into(),
        reason,
    };
    let model = predictor.model().clone();
    let bytes = match format {
        Format::Safetensors => {
            // Burn's own entries come in an order that differs from run to run.
            let mut store = SafetensorsStore::from_bytes(None)
                .skip_enum_variants(true)
                .clear_metadata()
                .metadata("producer", "mopteq");
            model
                .save_into(&mut store)
                .map_err(|e| failed(e.to_string()))?;
            store.get_bytes().map_err(|e| failed(e.to_string()))?
        }
        Format::Burnpack => {
            let bytes = model
                .into_record()
                .into_bytes()
                .map_err(|e| failed(e.to_string()))?;
            bytes.to_vec()
        }
    };
    let settings = Settings {
        config: predictor.config(),
        seen: predictor.seen()?,
    };
    let config = serde_json::to_vec_pretty(&settings).map_err(|e| failed(e.to_string()))?;
    check_free(file, &config)?;
    crate::files::write(&config_path(file), &config)?;
    crate::files::write(file, &bytes)?;
    Ok(())
}

/// Checks that a model may be exported to a file: nothing is there, or an export that goes with it.
fn check_free(file: &Path, config: &[u8]) -> Result<(), ShipError> {
    let there = |path: &Path| path.symlink_metadata().is_ok();
    let settings = config_path(file);
    let taken = |file: &Path, reason| {
        let file = file.into();
        Err(ShipError::Taken { file, reason })
    };
    let before = match fs::read(&settings) {
        Ok(before) => before,
        Err(_) if there(&settings) => return taken(&settings, "it cannot be read"),
        Err(_) if there(file) => {
            return taken(file, "it has no settings beside it as an export has");
        }
        Err(_) => return Ok(()),
    };
    if before == config {
        return Ok(());
    }
    let other = match file.extension().is_some_and(|ending| ending == "bpk") {
        true => file.with_extension("safetensors"),
        false => file.with_extension("bpk"),
    };
    match (are_settings(&before), there(file), there(&other)) {
        (false, ..) => taken(&settings, "it holds no settings of an exported model"),
        (true, _, true) => taken(&settings, "it belongs to another model in that folder"),
        (true, false, false) => taken(&settings, "no exported model is beside it"),
        (true, true, false) => Ok(()),
    }
}

/// Reads a model that was exported, with its config and what it was trained on.
///
/// # Errors
///
/// When a file is missing, damaged, or does not fit the other.
pub fn read(
    file: &Path,
    device: &SelectedDevice,
) -> Result<(TrainConfig, Classifier, Seen), Error> {
    let format = format(file)?;
    let failed = |file: &Path, reason: String| ShipError::Read {
        file: file.into(),
        reason,
    };
    let config_file = config_path(file);
    let text = fs::read(&config_file).map_err(|e| failed(&config_file, e.to_string()))?;
    let damaged = |e: serde_json::Error| failed(&config_file, e.to_string());
    let mut table: Map<String, Value> = serde_json::from_slice(&text).map_err(damaged)?;
    // Files of earlier versions do not say it.
    let seen = match table.remove(SEEN) {
        Some(seen) => serde_json::from_value(seen).map_err(damaged)?,
        None => Seen::unknown(),
    };
    let config = crate::moved::read(table).map_err(damaged)?;
    config
        .validate()
        .map_err(|e| failed(&config_file, e.to_string()))?;
    let model = Classifier::new(&config, &device.device)?.materialised();
    let bytes = fs::read(file).map_err(|e| failed(file, e.to_string()))?;
    let load = || match format {
        Format::Safetensors => {
            let mut model = model;
            let mut store = SafetensorsStore::from_bytes(Some(bytes)).skip_enum_variants(true);
            let result = model.load_from(&mut store).map_err(|e| e.to_string())?;
            match result.missing.first() {
                None => Ok(model),
                Some((name, _)) => Err(format!("it has no tensor {name}")),
            }
        }
        Format::Burnpack => {
            let bytes = burn::tensor::Bytes::from_bytes_vec(bytes);
            let record = ModuleRecord::from_bytes(bytes).map_err(|e| e.to_string())?;
            model
                .try_load_record(record)
                .map(Classifier::materialised)
                .map_err(|e| e.to_string())
        }
    };
    let model = crash::catch(load)
        .unwrap_or_else(|crash| Err(crash.message))
        .map_err(|reason| failed(file, reason))?;
    Ok((config, model, seen))
}

/// Makes a run folder from an exported model, to evaluate, predict and inspect with.
///
/// # Errors
///
/// As [`read`], or when the folder is taken or the disk refuses.
pub fn import(file: &Path, folder: &Path, device: &SelectedDevice) -> Result<RunFolder, Error> {
    let (mut config, model, seen) = read(file, device)?;
    // A training here would not start from where these weights began.
    config.from = None;
    let run = RunFolder::create_at(folder)?;
    run.write_config(&config)?;
    run.write_files(&FileList::of_weights(seen))?;
    let snapshot = Snapshot {
        state: State {
            position: Position::default(),
            ..State::default()
        },
        model: model.into_record(),
        ema: None,
        optimizer: burn::optim::SgdConfig::new().init().to_record(),
    };
    checkpoint::save(&run, snapshot)?;
    Ok(run)
}
