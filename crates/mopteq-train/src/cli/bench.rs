//! `mopteq bench`.

use clap::Args;
use serde_json::json;

use crate::Error;
use crate::bench::{Measured, agreement, measure, warm_up};
use crate::device::{DeviceChoice, compiled_kernels};
use crate::progress::{note, say};

use super::settings::{DataArguments, Settings};
use super::shared::{DeviceArgument, TokenArgument};

#[derive(Args)]
#[command(after_help = "Examples:\n  \
    mopteq bench\n  \
    mopteq bench --data photos/ --limit 5000 --batches 32,128 --devices cpu,wgpu")]
pub struct BenchArguments {
    #[command(flatten)]
    data: DataArguments,
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
    #[command(flatten)]
    token: TokenArgument,
    /// Training steps that are timed, after one that is not.
    #[arg(long, default_value_t = 5, value_name = "STEPS")]
    steps: usize,
    /// List the kernels that a step launches on a GPU, with their time there.
    #[arg(long)]
    kernels: bool,
    /// Compare loss and gradients of a batch with those on the first device.
    #[arg(long)]
    compare: bool,
}

pub fn run(arguments: &BenchArguments, json: bool) -> Result<(), Error> {
    let started = std::time::Instant::now();
    let (config, data) = arguments.settings.resolve(&arguments.data)?;
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
            "device            batch  loader pictures/s  training pictures/s  step ms  first step s  compiled  launches",
        );
    }
    let mut first = None;
    for choice in &arguments.devices {
        let device = arguments.token.select(choice)?;
        let other = first.get_or_insert_with(|| device.clone());
        if arguments.compare && other.name != device.name {
            let found = agreement(&config, &data, [&device, other])?;
            if json {
                say(json!({"device": device.name, "against": other.name, "agreement": found}));
            } else {
                say(format_args!(
                    "{:<17} differs from {} by {:.1e} in the loss and {:.1e} in the gradients",
                    device.name, other.name, found.loss, found.gradient,
                ));
            }
        }
        device.can_train(&config.model)?;
        for size in &sizes {
            let config = crate::config::TrainConfig {
                batch_size: *size,
                ..config.clone()
            };
            config.validate()?;
            let found = measure(&config, &data, &device, arguments.steps.max(1))?;
            let Measured {
                loader_pictures_per_second: loader,
                training_pictures_per_second: training,
                step_seconds,
                first_step_seconds: first,
                compiled,
                ref launches,
            } = found;
            if json {
                say(json!({"device": device.name, "batch_size": size, "measured": found}));
                continue;
            }
            let total: usize = launches.iter().map(|kernel| kernel.count).sum();
            say(format_args!(
                "{:<17} {size:>5} {loader:>18.0} {training:>20.0} {:>8.1} {first:>13.1} {compiled:>9} {total:>9}",
                device.name,
                1e3 * step_seconds,
            ));
            for kernel in launches.iter().filter(|_| arguments.kernels) {
                let micros = 1e6 * kernel.seconds;
                say(format_args!(
                    "  {:>4} x {micros:>9.0} us  {}",
                    kernel.count, kernel.kernel
                ));
            }
        }
    }
    Ok(())
}

#[derive(Args)]
#[command(after_help = "Example:\n  mopteq warm --data cifar10 --device cuda")]
pub struct WarmArguments {
    #[command(flatten)]
    data: DataArguments,
    #[command(flatten)]
    settings: Settings,
    #[command(flatten)]
    device: DeviceArgument,
}

/// Compiles and tunes the kernels that training and evaluation with these settings need.
pub fn warm(arguments: &WarmArguments, json: bool) -> Result<(), Error> {
    let (config, data) = arguments.settings.resolve(&arguments.data)?;
    let device = arguments.device.select()?;
    device.can_train(&config.model)?;
    let started = std::time::Instant::now();
    warm_up(&config, &data, &device)?;
    let (count, seconds) = (compiled_kernels(), started.elapsed().as_secs_f64());
    if json {
        say(json!({"device": device.name, "compiled": count, "seconds": seconds}));
    } else {
        say(format_args!(
            "{}: {count} kernels compiled in {seconds:.1} s",
            device.name
        ));
    }
    Ok(())
}
