//! The command line: what may be asked for, and what is answered.

use std::path::{Path, PathBuf};

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, Parser, Subcommand};

use mopteq::Family;
use mopteq_train::Error;
use mopteq_train::checkpoint::Which;
use mopteq_train::classifier::SolveStats;
use mopteq_train::config::TrainConfig;
use mopteq_train::data::DataKind;
use mopteq_train::device::{DeviceChoice, select};
use mopteq_train::predict::{Likelihood, PictureFile, Predictor, read_path};
use mopteq_train::progress::{View, duration, say, warn};
use mopteq_train::run::RunFolder;
use mopteq_train::train::{Summary, Task};

/// Where runs are put unless told otherwise.
const RUNS: &str = "runs";
/// Classes that `predict` shows of each picture.
const LIKELIEST: usize = 3;

/// Train, evaluate and use equilibrium image classifiers. Without a command: train.
#[derive(Parser)]
#[command(
    name = "mopteq",
    version,
    args_conflicts_with_subcommands = true,
    after_help = "Examples:\n  \
        mopteq                                       train on the embedded digits\n  \
        mopteq train --epochs 3 --out runs/short     a shorter training\n  \
        mopteq train --resume runs/digits-1          go on after an interruption\n  \
        mopteq predict --run runs/digits-1 five.png  classify a picture"
)]
pub struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    train: TrainArguments,
}

#[derive(Subcommand)]
enum Command {
    /// Train a model, or go on with an interrupted training.
    Train(TrainArguments),
    /// Measure the accuracy of a trained model on the test part of its data.
    Eval(EvalArguments),
    /// Classify picture files, or folders of them.
    Predict(PredictArguments),
}

#[derive(Args)]
struct TrainArguments {
    #[command(flatten)]
    settings: Settings,
    /// Go on with this run after its last complete checkpoint, with the settings it began with.
    #[arg(long, value_name = "RUN", conflicts_with = "Settings")]
    resume: Option<PathBuf>,
    #[command(flatten)]
    device: DeviceArgument,
    /// Plain lines instead of the dashboard.
    #[arg(long)]
    plain: bool,
}

/// What a new run can be told; the rest is the preset of its data.
#[derive(Args)]
struct Settings {
    /// What to train on [default: digits].
    #[arg(long, value_parser = data_parser())]
    data: Option<DataKind>,
    /// Where the activation of the hidden objective stands: s (inside) or p (outside, proximal)
    /// [default: that of the preset].
    #[arg(long, value_parser = family_parser())]
    family: Option<Family>,
    /// Size of the perturbation of the equilibrium in training; 0 turns it off.
    #[arg(long, value_name = "EPSILON")]
    perturbation: Option<f64>,
    /// Passes over the training pictures.
    #[arg(long)]
    epochs: Option<usize>,
    /// Pictures in a step.
    #[arg(long)]
    batch_size: Option<usize>,
    /// Learning rate of the first steps.
    #[arg(long, value_name = "RATE")]
    lr: Option<f64>,
    /// Seed of everything random.
    #[arg(long)]
    seed: Option<u64>,
    /// Share of the training pictures that is held out for validation.
    #[arg(long, value_name = "FRACTION")]
    validation_fraction: Option<f64>,
    /// Use only this many training pictures, for short checks.
    #[arg(long, value_name = "PICTURES")]
    limit: Option<usize>,
    /// Folder of the run; must be new or empty [default: the next runs/DATA-N].
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
}

#[derive(Args)]
struct DeviceArgument {
    /// What to compute on: those built in work, others name the feature to build with.
    #[arg(long, value_parser = device_parser(), default_value = DeviceChoice::Auto.name())]
    device: DeviceChoice,
}

#[derive(Args)]
struct RunArguments {
    /// Folder of a trained run.
    #[arg(long, value_name = "FOLDER")]
    run: PathBuf,
    /// Which checkpoint: last, best (by validation accuracy), or the number of an epoch.
    #[arg(long, value_parser = which_parser, default_value = "last")]
    checkpoint: Which,
    #[command(flatten)]
    device: DeviceArgument,
}

#[derive(Args)]
struct EvalArguments {
    #[command(flatten)]
    run: RunArguments,
}

#[derive(Args)]
struct PredictArguments {
    #[command(flatten)]
    run: RunArguments,
    /// Invert the brightness: for dark strokes on light paper, where the model learnt from white
    /// on black as MNIST is.
    #[arg(long)]
    invert: bool,
    /// Picture files, or folders of them.
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
}

fn data_parser() -> impl TypedValueParser<Value = DataKind> {
    PossibleValuesParser::new([DataKind::Digits.name()]).map(|_| DataKind::Digits)
}

fn family_parser() -> impl TypedValueParser<Value = Family> {
    PossibleValuesParser::new(["s", "p"]).map(|name| match name.as_str() {
        "p" => Family::P,
        _ => Family::S,
    })
}

fn device_parser() -> impl TypedValueParser<Value = DeviceChoice> {
    PossibleValuesParser::new(DeviceChoice::ALL.map(DeviceChoice::name))
        .try_map(|name| DeviceChoice::from_name(&name).ok_or("no such device"))
}

fn which_parser(text: &str) -> Result<Which, &'static str> {
    match text {
        "last" => Ok(Which::Last),
        "best" => Ok(Which::Best),
        _ => text
            .parse()
            .map(Which::Epoch)
            .map_err(|_| "expected last, best or an epoch"),
    }
}

impl Settings {
    fn config(&self) -> TrainConfig {
        let preset = TrainConfig::preset(self.data.unwrap_or(DataKind::Digits));
        let mut model = preset.model.clone();
        model.family = self.family.unwrap_or(model.family);
        model.perturbation = self.perturbation.unwrap_or(model.perturbation);
        TrainConfig {
            model,
            epochs: self.epochs.unwrap_or(preset.epochs),
            batch_size: self.batch_size.unwrap_or(preset.batch_size),
            learning_rate: self.lr.unwrap_or(preset.learning_rate),
            seed: self.seed.unwrap_or(preset.seed),
            validation_fraction: self
                .validation_fraction
                .unwrap_or(preset.validation_fraction),
            limit: self.limit,
            ..preset
        }
    }
}

/// Does what was asked for.
pub fn run(arguments: Arguments) -> Result<(), Error> {
    match arguments.command {
        None => run_train(&arguments.train),
        Some(Command::Train(arguments)) => run_train(&arguments),
        Some(Command::Eval(arguments)) => run_eval(&arguments),
        Some(Command::Predict(arguments)) => run_predict(&arguments),
    }
}

fn run_train(arguments: &TrainArguments) -> Result<(), Error> {
    // Whatever is wrong with the request is found before the first file is written.
    let device = select(arguments.device.device)?;
    let (task, run, resume_from) = match &arguments.resume {
        Some(path) => {
            let run = RunFolder::open(path)?;
            let task = Task::new(run.read_config()?, device)?;
            let epoch = task.resume_point(&run)?;
            (task, run, epoch)
        }
        None => {
            let task = Task::new(arguments.settings.config(), device)?;
            let run = match &arguments.settings.out {
                Some(path) => RunFolder::create_at(path)?,
                None => RunFolder::create_next(Path::new(RUNS), task.config().data.name())?,
            };
            run.write_config(task.config())?;
            (task, run, 0)
        }
    };
    let (device, epochs) = (task.device(), task.config().epochs);
    say(format_args!("run     {}", run.path().display()));
    say(format_args!("device  {}: {}", device.name, device.reason));
    if resume_from > 0 {
        say(format_args!(
            "resume  after epoch {resume_from} of {epochs}"
        ));
    }
    let summary = task.train(&run, resume_from, View::choose(arguments.plain))?;
    show_summary(&summary, &run);
    Ok(())
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
    let Summary {
        forward_steps,
        forward_residual,
        forward_converged,
        ..
    } = *summary;
    let Summary {
        backward_steps,
        backward_residual,
        backward_converged,
        ..
    } = *summary;
    say("");
    say(format_args!(
        "test accuracy    {:.2} % of {} pictures (loss {:.4})",
        summary.test_accuracy, summary.test_pictures, summary.test_loss
    ));
    let forward = solve(forward_steps, forward_residual, forward_converged);
    say(format_args!("forward solver   {forward} (test pictures)"));
    let backward = solve(backward_steps, backward_residual, backward_converged);
    say(format_args!("backward solver  {backward} (last epoch)"));
    say(format_args!(
        "training time    {} for {} epochs, {} parameters",
        duration(summary.training_seconds),
        summary.epochs,
        summary.parameters
    ));
    say(format_args!("run folder       {}", run.path().display()));
}

fn predictor(arguments: &RunArguments) -> Result<Predictor, Error> {
    let run = RunFolder::open(&arguments.run)?;
    Predictor::load(&run, arguments.checkpoint, select(arguments.device.device)?)
}

fn run_eval(arguments: &EvalArguments) -> Result<(), Error> {
    let predictor = predictor(&arguments.run)?;
    let scores = predictor.evaluate()?;
    let (accuracy, correct) = (scores.accuracy(), scores.correct);
    say(format_args!("checkpoint       epoch {}", predictor.epoch()));
    say(format_args!(
        "test accuracy    {accuracy:.2} % ({correct} of {})",
        scores.pictures
    ));
    say(format_args!("test loss        {:.4}", scores.loss));
    if let Some(SolveStats {
        steps,
        residual,
        converged,
        ..
    }) = scores.forward
    {
        say(format_args!(
            "forward solver   {steps:.1} steps, relative residual {residual:.1e}, {:.1} % converged",
            100.0 * converged
        ));
    }
    Ok(())
}

fn run_predict(arguments: &PredictArguments) -> Result<(), Error> {
    let predictor = predictor(&arguments.run)?;
    let mut files: Vec<PictureFile> = Vec::new();
    for path in &arguments.paths {
        let skipped = |error| warn(format_args!("skipped: {error}"));
        files.extend(read_path(
            path,
            predictor.shape(),
            arguments.invert,
            skipped,
        )?);
    }
    let pictures: Vec<_> = files.iter().map(|file| file.pixels.clone()).collect();
    for (file, ranked) in files.iter().zip(predictor.classify(&pictures)?) {
        say(file.path.display());
        let width = ranked
            .iter()
            .map(|likelihood| likelihood.class.len())
            .max()
            .unwrap_or(0);
        for Likelihood { class, probability } in ranked.into_iter().take(LIKELIEST) {
            say(format_args!(
                "  {class:<width$}  {:6.2} %",
                100.0 * probability
            ));
        }
    }
    Ok(())
}
