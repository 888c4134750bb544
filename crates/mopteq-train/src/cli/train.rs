//! `mopteq train`.

use std::path::{Path, PathBuf};

use clap::Args;

use crate::Error;
use crate::checkpoint::Position;
use crate::device::{DeviceChoice, DeviceError, SelectedDevice};
use crate::names::counted;
use crate::progress::{View, duration, note, say, warn};
use crate::report;
use crate::run::RunFolder;
use crate::train::{StopFlag, Summary, Task};

use super::settings::{DataArguments, Settings};
use super::shared::{DeviceArgument, RUNS, stop_on_signals};

#[derive(Args)]
pub struct TrainArguments {
    #[command(flatten)]
    data: DataArguments,
    #[command(flatten)]
    settings: Settings,
    /// Resume this run after its last checkpoint, with the settings it began with; --data says
    /// where its data are now, if they have moved.
    #[arg(long, value_name = "RUN", conflicts_with = "Settings")]
    resume: Option<PathBuf>,
    /// Start from the weights of another run or of an exported model (fine-tuning), on its data or
    /// on those of --data, with as many classes as these have.
    #[arg(long, value_name = "RUN|FILE", conflicts_with_all = ["resume", "size"])]
    from: Option<PathBuf>,
    #[command(flatten)]
    device: DeviceArgument,
    /// Several devices that share each batch, such as cuda:0,cuda:1 or cpu,remote:10.0.0.2:7879,
    /// the device of a worker.
    #[arg(
        long,
        value_name = "DEVICES",
        value_delimiter = ',',
        conflicts_with = "device"
    )]
    devices: Vec<DeviceChoice>,
    /// Write a log that other programs can follow: tensorboard, into the folder tensorboard of the
    /// run. A resumed run continues the log that it has.
    #[arg(long, value_enum, value_name = "READER")]
    log: Option<LogReader>,
    /// Plain lines instead of the dashboard.
    #[arg(long)]
    plain: bool,
}

/// Programs that can follow a training.
#[derive(Clone, Copy, clap::ValueEnum)]
enum LogReader {
    /// TensorBoard's event files.
    Tensorboard,
}

impl TrainArguments {
    fn select(&self) -> Result<Vec<SelectedDevice>, Error> {
        if self.devices.is_empty() {
            return Ok(vec![self.device.select()?]);
        }
        // Workers would pass tensors to each other, under addresses that only this machine may
        // know.
        let first_is_remote = matches!(self.devices[0], DeviceChoice::Remote(_));
        if first_is_remote && self.devices.len() > 1 {
            return Err(DeviceError::RemoteFirst {
                name: self.devices[0].to_string(),
            }
            .into());
        }
        let selected = self.devices.iter();
        selected
            .map(|choice| self.device.token.select(choice))
            .collect()
    }
}

pub fn run(arguments: &TrainArguments, json: bool, stop: &StopFlag) -> Result<(), Error> {
    // Whatever is wrong with the request is found before the first file is written.
    let devices = arguments.select()?;
    let (mut task, run, start) = match &arguments.resume {
        Some(path) => {
            let run = RunFolder::open(path)?;
            let moved = arguments.data.source()?;
            let task = Task::of_run(&run, devices.clone(), true, moved.as_ref())?;
            task.check_devices()?;
            stop_on_signals(stop);
            // A finished run needs no checkpoint to resume from.
            let start = match run.read_summary()? {
                Some(_) => {
                    let path = path.display();
                    note(format_args!(
                        "{path} is finished; train --from {path} --epochs N goes on in a new run"
                    ));
                    Position::after(task.config().epochs)
                }
                None => task.resume_point(&run)?,
            };
            (task, run, start)
        }
        None => {
            let from = arguments.from.as_deref();
            let settings = &arguments.settings;
            let (config, data, weights) =
                settings.resolve_from(&arguments.data, from, devices.first())?;
            super::data::report_skipped(&data);
            super::data::report_repeated(&data);
            let name = config.data.kind.name();
            let mut task = Task::with_data(config, data, devices.clone())?;
            task.check_devices()?;
            if let known @ 1.. = task.known_validation_pictures() {
                warn(format_args!(
                    "the weights were already trained on {known} of the {}, so the validation \
                     accuracy may be too high",
                    counted(
                        task.validation_pictures(),
                        "validation picture",
                        "validation pictures"
                    )
                ));
            }
            if let Some(weights) = weights {
                let old = weights.config().classes.len();
                let fresh = task.start_from(weights)?;
                if !fresh.is_empty() {
                    let new = task.config().classes.len();
                    note(format_args!(
                        "drawn at random, as {new} classes are not the {old} of the weights: {}",
                        fresh.join(", ")
                    ));
                }
            }
            stop_on_signals(stop);
            let run = match &arguments.settings.out {
                Some(path) => RunFolder::create_at(path)?,
                None => RunFolder::create_next(Path::new(RUNS), name)?,
            };
            run.write_config(task.config())?;
            (task, run, Position::default())
        }
    };
    if let Some(LogReader::Tensorboard) = arguments.log {
        task.log_events();
    }
    let tell = if json { note } else { say };
    tell(format!("run     {}", run.path().display()));
    for device in &devices {
        tell(format!("device  {}: {}", device.name, device.reason));
    }
    tell(format!("data    {}", in_words(&task)));
    if let left @ 1.. = task.left_out() {
        tell(format!(
            "        each epoch leaves out {}, because all batches on a GPU have one size",
            counted(left, "other picture", "other pictures")
        ));
    }
    tell(format!(
        "model   {} parameters, {}",
        task.parameters(),
        counted(task.config().epochs, "epoch", "epochs")
    ));
    if start > Position::default() {
        tell(format!("resume  after {start} of {}", task.config().epochs));
    }
    let view = View::choose(arguments.plain, json);
    let summary = task.train(&run, start, view, stop)?;
    // The report is only for reading: a run without one is still complete.
    if !run.report_path().exists()
        && let Err(error) = report::write(&run, &task)
    {
        warn(error.one_line());
    }
    if json {
        say(
            serde_json::json!({"event": "summary", "run": run.path().display().to_string(), "summary": summary}),
        );
    } else {
        show_summary(&summary, &run);
    }
    Ok(())
}

/// What a training is about to do, in words.
fn in_words(task: &Task) -> String {
    let config = task.config();
    let shape = config.shape;
    let mut text = format!(
        "{} of {} x {} {} in {} classes",
        counted(task.training_pictures(), "picture", "pictures"),
        shape.height,
        shape.width,
        if shape.channels == 1 { "grey" } else { "RGB" },
        config.classes.len(),
    );
    if task.validation_pictures() > 0 {
        text.push_str(&format!(
            ", {} more to validate",
            task.validation_pictures()
        ));
    }
    text.push_str(&format!(", {} to test", task.test_pictures().len()));
    text
}

/// Adds a tip to the error about an option beside `--resume`: how to continue with other settings.
pub fn explain(error: &mut clap::Error) {
    use clap::error::{ContextKind, ContextValue, ErrorKind};
    let names = |kind: ContextKind| match error.get(kind) {
        Some(ContextValue::String(name)) => vec![name.clone()],
        Some(ContextValue::Strings(names)) => names.clone(),
        _ => Vec::new(),
    };
    let mut all = names(ContextKind::InvalidArg);
    all.extend(names(ContextKind::PriorArg));
    let resume = all.iter().any(|name| name.starts_with("--resume"));
    if error.kind() == ErrorKind::ArgumentConflict && resume {
        let tip = "a run goes on with the settings it began with; for others, or for more epochs, \
                   start a new run from its weights by --from RUN";
        let tips = ContextValue::StyledStrs(vec![tip.into()]);
        error.insert(ContextKind::Suggested, tips);
    }
}

fn show_summary(summary: &Summary, run: &RunFolder) {
    let solve = |steps: Option<f64>, residual: Option<f64>, converged: Option<f64>| match (
        steps, residual, converged,
    ) {
        (Some(steps), Some(residual), Some(converged)) => format!(
            "{steps:.1} steps, relative residual {residual:.1e}, {converged:.1} % converged"
        ),
        _ => "not reported".to_owned(),
    };
    let s = summary;
    say("");
    say(format_args!(
        "test accuracy    {:.2} % of {} pictures (loss {:.4})",
        s.test_accuracy, s.test_pictures, s.test_loss
    ));
    if s.tested_epoch != s.epochs {
        say(format_args!(
            "tested model     of epoch {}, the best on validation",
            s.tested_epoch
        ));
    }
    let forward = solve(s.forward_steps, s.forward_residual, s.forward_converged);
    say(format_args!("forward solver   {forward} (test pictures)"));
    let backward = solve(s.backward_steps, s.backward_residual, s.backward_converged);
    say(format_args!("backward solver  {backward} (last epoch)"));
    say(format_args!(
        "training time    {} for {}, {} parameters",
        duration(s.training_seconds),
        counted(s.epochs, "epoch", "epochs"),
        s.parameters
    ));
    say(format_args!("run folder       {}", run.path().display()));
    if run.report_path().exists() {
        say(format_args!(
            "report           {}",
            run.report_path().display()
        ));
    }
}
