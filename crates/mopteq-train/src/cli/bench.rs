//! `mopteq bench`.

use clap::Args;
use serde_json::json;

use mopteq_train::Error;
use mopteq_train::bench::{Measured, measure};
use mopteq_train::device::{DeviceChoice, select};
use mopteq_train::progress::{note, say};

use super::settings::Settings;

#[derive(Args)]
#[command(after_help = "Examples:\n  \
    mopteq bench\n  \
    mopteq bench --data photos/ --limit 5000 --batches 32,128 --devices cpu,wgpu")]
pub struct BenchArguments {
    #[command(flatten)]
    settings: Settings,
    /// Batch sizes [default: that of the preset].
    #[arg(long, value_delimiter = ',', value_name = "SIZES")]
    batches: Vec<usize>,
    /// What to compute on, one after the other.
    #[arg(
        long,
        value_delimiter = ',',
        value_name = "DEVICES",
        default_value = "auto"
    )]
    devices: Vec<DeviceChoice>,
    /// Training steps that are timed, after one that is not.
    #[arg(long, default_value_t = 5, value_name = "STEPS")]
    steps: usize,
}

pub fn run(arguments: &BenchArguments, json: bool) -> Result<(), Error> {
    let started = std::time::Instant::now();
    let (config, data) = arguments.settings.resolve()?;
    super::data::report_skipped(&data);
    let seconds = started.elapsed().as_secs_f64();
    let pictures = data.train.len() + data.test.len();
    note(format_args!(
        "read and decoded {pictures} pictures in {seconds:.2} s"
    ));
    let sizes = match arguments.batches.as_slice() {
        [] => vec![config.batch_size],
        sizes => sizes.to_vec(),
    };
    if !json {
        say(
            "device            batch  loader pictures/s  training pictures/s  step ms  loader is faster by",
        );
    }
    for choice in &arguments.devices {
        let device = select(*choice)?;
        device.can_train(&config.model)?;
        for size in &sizes {
            let config = mopteq_train::config::TrainConfig {
                batch_size: *size,
                ..config.clone()
            };
            config.validate()?;
            let found = measure(&config, &data, &device, arguments.steps.max(1))?;
            let Measured {
                loader_pictures_per_second: loader,
                training_pictures_per_second: training,
                step_seconds,
            } = found;
            if json {
                say(json!({"device": device.name, "batch_size": size, "measured": found}));
            } else {
                say(format_args!(
                    "{:<17} {size:>5} {loader:>18.0} {training:>20.0} {:>8.0} {:>16.1} times",
                    device.name,
                    1e3 * step_seconds,
                    loader / training,
                ));
            }
        }
    }
    Ok(())
}
