//! `mopteq eval`, `predict`, `inspect` and `report`.

use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::{Value, json};

use crate::Error;
use crate::checkpoint::Position;
use crate::data::{DataSource, Picture, PictureShape, Seen, decode_file};
use crate::evaluate::Details;
use crate::inspect::{branch_picture, inspect as look, layer_picture};
use crate::names::{counted, shown};
use crate::predict::{Likelihood, PredictError, Predictor, Read, read_path};
use crate::progress::{say, warn};
use crate::report;
use crate::run::RunFolder;
use crate::solves::SolveStats;
use crate::train::Task;

use super::data::{report_ignored, report_left_out};
use super::shared::{DeviceArgument, MovedData, RunArguments};

/// Name of the scored part if the data of a run have moved.
const OWN_PART: &str = "the run's own test pictures";
/// Classes that are shown in full on a terminal.
const SHOWN_CLASSES: usize = 20;

#[derive(Args)]
#[command(after_help = "Examples:\n  \
    mopteq eval --run runs/digits-1\n  \
    mopteq eval --run runs/digits-1 --checkpoint best --limit 1000 --json\n  \
    mopteq eval --run runs/folder-1 --data other-photos/")]
pub struct EvalArguments {
    #[command(flatten)]
    run: RunArguments,
    /// Other labelled data to measure the model on: a name or a path, with the classes of the run.
    /// Their test part is used, or all pictures if they have none. If the data of the run have
    /// moved there, its own test pictures are used.
    #[arg(long, value_name = "NAME|PATH")]
    data: Option<String>,
    /// Location of data with a known name, in place of the cache folder.
    #[arg(long, value_name = "PATH", requires = "data")]
    data_path: Option<PathBuf>,
    /// Largest share of damaged pictures of these data that are skipped.
    #[arg(long, value_name = "FRACTION", requires = "data")]
    max_corrupt: Option<f64>,
    /// Use only this many test pictures [default: as many as the run's own test].
    #[arg(long, value_name = "PICTURES")]
    limit: Option<usize>,
}

#[derive(Args)]
#[command(after_help = "Examples:\n  \
    mopteq predict --run runs/digits-1 five.png\n  \
    mopteq predict --run runs/folder-1 holiday/ --steps 4 --json")]
pub struct PredictArguments {
    #[command(flatten)]
    run: RunArguments,
    /// Invert the brightness: for dark strokes on light paper, if the model learnt from white on
    /// black, as in MNIST.
    #[arg(long)]
    invert: bool,
    /// Number of likeliest classes to show for each picture.
    #[arg(long, default_value_t = 3, value_name = "CLASSES")]
    top: usize,
    /// Answer as a table: file, class, probability, class2, probability2, ...
    #[arg(long, conflicts_with = "json")]
    csv: bool,
    /// Picture files, or folders of them at any depth.
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
}

#[derive(Args)]
#[command(after_help = "Example:\n  mopteq inspect --run runs/digits-1 five.png --out five/")]
pub struct InspectArguments {
    #[command(flatten)]
    run: RunArguments,
    /// A picture file.
    picture: PathBuf,
    /// Invert the brightness.
    #[arg(long)]
    invert: bool,
    /// Folder for the curves (SVG), the branches (PNG) and the numbers (JSON): a new or empty one,
    /// or that of an earlier inspection.
    #[arg(long, value_name = "FOLDER", default_value = "inspection")]
    out: PathBuf,
}

#[derive(Args)]
#[command(after_help = "Example:\n  mopteq report --run runs/digits-1")]
pub struct ReportArguments {
    /// Folder of a run, finished or not.
    #[arg(long, value_name = "FOLDER")]
    run: PathBuf,
    #[command(flatten)]
    data: MovedData,
    #[command(flatten)]
    device: DeviceArgument,
}

pub fn eval(arguments: &EvalArguments, json: bool) -> Result<(), Error> {
    let (_, predictor) = arguments.run.predictor()?;
    let data = arguments.data.as_deref();
    let source = data.map(|name| DataSource::from_name(name, arguments.data_path.as_deref()));
    let mut source = source.transpose()?;
    if let (Some(source), Some(share)) = (&mut source, arguments.max_corrupt) {
        source.max_corrupt = share;
    }
    let (mut test, scored) = labelled(&predictor, &arguments.run.run, source.as_ref())?;
    let is_own = scored.is_own();
    let own = predictor.config().test_limit.filter(|_| is_own);
    test.truncate(arguments.limit.or(own).unwrap_or(usize::MAX).max(1));
    let details = predictor.evaluate(&test)?;
    let costs = predictor.step_costs(&test)?;
    let place = predictor.position();
    if json {
        let answer = json!({"checkpoint": place, "scores": details, "step_costs": costs});
        scored.answer(answer);
        return Ok(());
    }
    scored.introduce(place);
    let right: usize = (0..details.classes.len())
        .map(|c| details.confusion[c][c])
        .sum();
    say(format_args!(
        "test accuracy    {:.2} % ({right} of {})",
        details.accuracy, details.pictures
    ));
    if let Some(top5) = details.top5 {
        say(format_args!("among five       {top5:.2} %"));
    }
    say(format_args!("test loss        {:.4}", details.loss));
    say(format_args!(
        "calibration      {:.2} % expected error",
        details.calibration_error
    ));
    if let Some(solve) = details.forward {
        say(format_args!("forward solver   {}", describe(&solve)));
    }
    for layer in &details.layers {
        if let Some(solve) = &layer.forward {
            say(format_args!("{:16} {}", layer.name, describe(solve)));
        }
    }
    if !costs.is_empty() {
        say("\nsolver steps     accuracy   relative residual");
    }
    for cost in &costs {
        let residual = cost.forward.map_or(f64::NAN, |solve| solve.residual);
        say(format_args!(
            "at most {:<8} {:6.2} %   {residual:.1e}",
            cost.limit, cost.accuracy
        ));
    }
    show_classes(&details);
    Ok(())
}

/// Name and part of the scored data, unless they are the run's data in their usual place.
pub(super) struct Scored(Option<(String, String)>);

impl Scored {
    /// Whether these are the run's own test pictures.
    fn is_own(&self) -> bool {
        self.0.as_ref().is_none_or(|(_, part)| part == OWN_PART)
    }

    /// Prints an answer in JSON, with the data that it is about.
    pub(super) fn answer(&self, mut answer: Value) {
        if let Some((data, part)) = &self.0 {
            answer["data"] = json!(data);
            answer["part"] = json!(part);
        }
        say(answer);
    }

    /// Prints the first lines of an answer in words.
    pub(super) fn introduce(&self, place: Position) {
        say(format_args!("checkpoint       {place}"));
        if let Some((data, part)) = &self.0 {
            say(format_args!("data             {data}, {part}"));
        }
    }
}

/// The labelled pictures of a source; without one, the run's own test pictures.
pub(super) fn labelled(
    predictor: &Predictor,
    run: &Path,
    source: Option<&DataSource>,
) -> Result<(Vec<Picture>, Scored), Error> {
    let Some(source) = source else {
        return Ok((predictor.data()?.test, Scored(None)));
    };
    let (pictures, part) = match predictor.moved_data(source)? {
        Some(data) => (data.test, OWN_PART.into()),
        None => other_data(predictor, run, source)?,
    };
    Ok((pictures, Scored(Some((source.describe(), part)))))
}

/// Labelled data that are not those of the run.
fn other_data(
    predictor: &Predictor,
    run: &Path,
    source: &DataSource,
) -> Result<(Vec<Picture>, String), Error> {
    let data = predictor.other_data(source)?;
    report_left_out(&data.skipped, data.pictures.len() + data.skipped.len());
    report_ignored(&data.ignored);
    if data.seen > 0 {
        warn(format_args!(
            "the run was trained on {} of these {}, so this is not its accuracy on new ones",
            data.seen,
            counted(data.pictures.len(), "picture", "pictures")
        ));
    }
    if data.maybe_more {
        let run = run.display();
        warn(format_args!("{run}: {}", Seen::PARTLY));
    }
    let part = match data.part {
        Some(part) => format!("part '{part}'"),
        None => "all pictures".into(),
    };
    Ok((data.pictures, part))
}

fn describe(solve: &SolveStats) -> String {
    format!(
        "{:.1} steps, relative residual {:.1e}, {:.1} % converged",
        solve.steps,
        solve.residual,
        100.0 * solve.converged
    )
}

fn show_classes(details: &Details) {
    let classes: Vec<String> = details.classes.iter().map(|class| shown(class)).collect();
    let widths = classes.iter().map(|class| class.chars().count());
    let width = widths.max().unwrap_or(0);
    let count = details.classes.len();
    let cell = details.pictures.to_string().len();
    let matrix = count <= SHOWN_CLASSES;
    say(if matrix {
        "\nclass, accuracy, and how often each class was predicted (in the same order)"
    } else {
        "\nclass and accuracy (the confusion matrix is in the report and in --json)"
    });
    for (index, class) in classes.iter().enumerate() {
        let accuracy = match details.per_class[index] {
            Some(accuracy) => format!("{accuracy:6.2} %"),
            None => "       -".into(),
        };
        let line = details.confusion[index]
            .iter()
            .map(|n| format!(" {n:>cell$}"));
        let line: String = if matrix {
            line.collect()
        } else {
            String::new()
        };
        say(format_args!("  {class:<width$}  {accuracy} {line}"));
    }
}

pub fn predict(arguments: &PredictArguments, json: bool) -> Result<(), Error> {
    let (_, predictor) = arguments.run.predictor()?;
    let all = read_all(&arguments.paths, predictor.shape(), arguments.invert)?;
    let (failed, total) = (all.failed.len(), all.failed.len() + all.pictures.len());
    let pictures: Vec<_> = all
        .pictures
        .iter()
        .map(|file| file.pixels.clone())
        .collect();
    let classes = predictor.config().classes.len();
    let top = arguments.top.clamp(1, classes);
    if arguments.csv {
        let pair = |n: usize| match n {
            1 => ",class,probability".to_owned(),
            n => format!(",class{n},probability{n}"),
        };
        let header: String = (1..=top).map(pair).collect();
        say(format_args!("file{header}"));
    }
    for (file, mut ranked) in all.pictures.iter().zip(predictor.classify(&pictures)?) {
        ranked.truncate(top);
        // Bytes that are not UTF-8 are replaced: an answer is better than none.
        let name = file.path.display().to_string();
        if json {
            say(json!({"file": name, "classes": ranked}));
        } else if arguments.csv {
            let pair = |l: &Likelihood| format!(",{},{}", field(&l.class), l.probability);
            let pairs: String = ranked.iter().map(pair).collect();
            say(format_args!("{}{pairs}", field(&name)));
        } else {
            show_prediction(&name, &ranked);
        }
    }
    match failed {
        0 => Ok(()),
        failed => Err(PredictError::Some { failed, total }.into()),
    }
}

/// Reads the pictures of all paths, and warns of files that are not pictures.
///
/// # Errors
///
/// When the only picture cannot be read.
pub(super) fn read_all(
    paths: &[PathBuf],
    shape: PictureShape,
    invert: bool,
) -> Result<Read, Error> {
    let mut all = Read::default();
    for path in paths {
        match read_path(path, shape, invert) {
            Ok(read) => {
                all.pictures.extend(read.pictures);
                all.failed.extend(read.failed);
                all.others.extend(read.others);
                all.ignored.extend(read.ignored);
            }
            Err(error) => all.failed.push(error.one_line()),
        }
    }
    if all.pictures.is_empty() && all.failed.len() == 1 {
        return Err(PredictError::One(all.failed.swap_remove(0)).into());
    }
    for reason in &all.failed {
        warn(format_args!("skipped: {}", shown(reason)));
    }
    for name in all.others.iter().take(super::data::NAMED) {
        warn(format_args!("skipped: {}: not a picture", shown(name)));
    }
    if let Some(more @ 1..) = all.others.len().checked_sub(super::data::NAMED) {
        let more = counted(
            more,
            "more file is no picture",
            "more files are no pictures",
        );
        warn(more);
    }
    report_ignored(&all.ignored);
    Ok(all)
}

/// A field of a CSV table, quoted if necessary.
pub(super) fn field(text: &str) -> String {
    match text.contains([',', '"', '\n', '\r']) {
        true => format!("\"{}\"", text.replace('"', "\"\"")),
        false => text.to_owned(),
    }
}

fn show_prediction(name: &str, ranked: &[Likelihood]) {
    say(shown(name));
    let classes: Vec<String> = ranked.iter().map(|l| shown(&l.class)).collect();
    let widths = classes.iter().map(|class| class.chars().count());
    let width = widths.max().unwrap_or(0);
    for (class, likelihood) in classes.iter().zip(ranked) {
        let percent = 100.0 * likelihood.probability;
        say(format_args!("  {class:<width$}  {percent:6.2} %"));
    }
}

pub fn inspect(arguments: &InspectArguments, json: bool) -> Result<(), Error> {
    crate::files::check_inspection(&arguments.out)?;
    let (_, predictor) = arguments.run.predictor()?;
    let values = decode_file(&arguments.picture, predictor.shape(), arguments.invert)?;
    let picture = Picture::new(values, 0);
    let config = predictor.config();
    let seen = look(
        predictor.model(),
        config,
        &picture,
        &predictor.device().device,
    )
    .map_err(PredictError::from)?;
    let out = |name: &str| arguments.out.join(name);
    let text = json!(seen).to_string();
    crate::files::write(&out("inspection.json"), text.as_bytes())?;
    crate::files::write_png(&out("branches.png"), &branch_picture(&seen.branches))?;
    if !seen.layers.is_empty() {
        crate::files::write_png(&out("layers.png"), &layer_picture(&seen.layers))?;
    }
    for (name, svg) in report::inspection_plots(&seen) {
        crate::files::write(&out(name), svg.as_bytes())?;
    }
    if json {
        say(text);
        return Ok(());
    }
    if let Some((class, probability)) = seen.prediction.first() {
        say(format_args!(
            "prediction       {} ({:.2} %)",
            shown(class),
            100.0 * probability
        ));
    }
    let curve = |values: &[f64]| {
        let text: Vec<String> = values.iter().take(12).map(|v| format!("{v:.1e}")).collect();
        text.join(" ")
    };
    say(format_args!(
        "residuals        {} (the run's solver)",
        curve(&seen.solver_residuals)
    ));
    if !seen.plain_residuals.is_empty() {
        say(format_args!(
            "                 {} (plain iteration)",
            curve(&seen.plain_residuals)
        ));
    }
    for layer in &seen.layers {
        say(format_args!(
            "{:<17}{} steps, relative residual {:.1e}",
            layer.name, layer.steps, layer.residual
        ));
    }
    let ends = (seen.objective.first(), seen.objective.last());
    if let (Some(first), Some(last)) = ends {
        say(format_args!(
            "objective        {first:.4} at the start, {last:.4} at the end"
        ));
    }
    say(format_args!("curves and maps  {}", arguments.out.display()));
    Ok(())
}

pub fn report(arguments: &ReportArguments) -> Result<(), Error> {
    let run = RunFolder::open(&arguments.run)?;
    let moved = arguments.data.source()?;
    let task = Task::of_run(
        &run,
        vec![arguments.device.select()?],
        false,
        moved.as_ref(),
    )?;
    report::write(&run, &task)?;
    say(format_args!("report in {}", run.report_path().display()));
    Ok(())
}
