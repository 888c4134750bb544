//! `mopteq data`.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::json;

use crate::Error;
use crate::data::{
    DataError, DataSet, DataSource, KNOWN, KnownData, cache_folder, contact_sheet, normalisation,
};
use crate::names::{counted, shown};
use crate::progress::{say, warn};

use super::shared::finite;

/// Number of skipped files that are named. More names would drown the rest.
pub const NAMED: usize = 10;

#[derive(Subcommand)]
pub enum DataCommand {
    /// List the data sets that are available by name.
    List,
    /// Get a data set into the cache folder, or resume an interrupted download.
    #[command(after_help = "Examples:\n  \
        mopteq data get cifar10\n  \
        mopteq data get cifar10 --url https://mirror.example/cifar-10-binary.tar.gz")]
    Get(GetArguments),
    /// Read a data set and say what is in it.
    Check(SourceArguments),
    /// Draw a contact sheet: a few pictures of each class, one row per class.
    #[command(after_help = "Example:\n  mopteq data show photos/ --out sheet.png")]
    Show(ShowArguments),
}

#[derive(Args)]
pub struct GetArguments {
    /// Name of the data set.
    #[arg(value_parser = KNOWN.map(|known| known.name))]
    name: String,
    /// A mirror to get it from.
    #[arg(long)]
    url: Option<String>,
    /// MD5 checksum of the mirror's file, if this differs from the original.
    #[arg(long, requires = "url")]
    md5: Option<String>,
}

#[derive(Args)]
pub struct SourceArguments {
    /// Name of a data set, or path of a folder or archive.
    #[arg(value_name = "NAME|PATH")]
    data: String,
    /// Location of data with a known name, in place of the cache folder.
    #[arg(long, value_name = "PATH")]
    data_path: Option<PathBuf>,
    /// Height and width that picture files are scaled to.
    #[arg(long, value_name = "PIXELS", value_parser = clap::value_parser!(u16).range(1..=4096))]
    size: Option<u16>,
    /// Share of each class that is set aside for the test if there is no test part.
    #[arg(long, value_name = "FRACTION", value_parser = finite, allow_negative_numbers = true)]
    test_fraction: Option<f64>,
    /// Largest share of damaged pictures that are skipped.
    #[arg(long, value_name = "FRACTION", value_parser = finite, allow_negative_numbers = true)]
    max_corrupt: Option<f64>,
}

#[derive(Args)]
pub struct ShowArguments {
    #[command(flatten)]
    source: SourceArguments,
    /// Pictures of each class.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..=100))]
    columns: u16,
    /// The picture to write. It may replace one that this command drew before, and no other.
    #[arg(long, value_name = "PNG", default_value = "contact-sheet.png")]
    out: PathBuf,
}

impl SourceArguments {
    fn load(&self) -> Result<(DataSource, DataSet), Error> {
        let mut source = DataSource::from_name(&self.data, self.data_path.as_deref())?;
        source.size = self
            .size
            .map(|size| [size.into(), size.into()])
            .or(source.size);
        source.test_fraction = self.test_fraction.unwrap_or(source.test_fraction);
        source.max_corrupt = self.max_corrupt.unwrap_or(source.max_corrupt);
        let data = source.load()?;
        report_skipped(&data);
        Ok((source, data))
    }
}

/// Names the files that were left out.
pub fn report_skipped(data: &DataSet) {
    let all = data.skipped.len() + data.train.len() + data.test.len();
    report_left_out(&data.skipped, all);
    report_ignored(&data.ignored);
}

/// Names what was not searched although it holds pictures.
pub fn report_ignored(ignored: &[(String, usize)]) {
    let filled = || ignored.iter().filter(|(_, pictures)| *pictures > 0);
    let total: usize = filled().map(|(_, pictures)| pictures).sum();
    if total == 0 {
        return;
    }
    let names = filled()
        .take(NAMED)
        .map(|(name, n)| format!("{} ({n})", shown(name)));
    let mut names: Vec<String> = names.collect();
    if let Some(more @ 1..) = filled().count().checked_sub(NAMED) {
        names.push(format!("{more} more"));
    }
    warn(format_args!(
        "{} ignored (hidden, or in folders of the system or of this program): {}",
        counted(total, "picture is", "pictures are"),
        names.join(", ")
    ));
}

/// Says how many test pictures are also training pictures.
pub fn report_repeated(data: &DataSet) {
    if let repeated @ 1.. = data.repeated() {
        let also = match repeated {
            1 => "is also a training picture",
            _ => "are also training pictures",
        };
        let all = counted(data.test.len(), "test picture", "test pictures");
        warn(format_args!(
            "{repeated} of the {all} {also}, so the test accuracy may be too high"
        ));
    }
}

/// Names the first files that were left out of `all`.
pub fn report_left_out(skipped: &[String], all: usize) {
    for reason in skipped.iter().take(NAMED) {
        warn(format_args!("skipped: {}", shown(reason)));
    }
    if let count @ 1.. = skipped.len() {
        let verb = if count == 1 { "was" } else { "were" };
        let all = counted(all, "picture", "pictures");
        warn(format_args!("{count} of {all} {verb} skipped"));
    }
}

pub fn run(command: &DataCommand, json: bool) -> Result<(), Error> {
    match command {
        DataCommand::List => list(json),
        DataCommand::Get(arguments) => get(arguments)?,
        DataCommand::Check(arguments) => check(arguments, json)?,
        DataCommand::Show(arguments) => show(arguments)?,
    }
    Ok(())
}

fn list(json: bool) {
    if json {
        for k in &KNOWN {
            let here = k.file().is_file();
            say(
                json!({"name": k.name, "what": k.what, "terms": k.terms, "bytes": k.bytes,
                "cached": here}),
            );
        }
        return;
    }
    say("digits          5,000 MNIST digits, 28 x 28, inside the program");
    for known in &KNOWN {
        let state = if known.file().is_file() {
            "here"
        } else {
            "not here yet"
        };
        say(format_args!(
            "{:<15} {} ({} MB, {state})\n{:16}{}",
            known.name,
            known.what,
            known.bytes / 1_000_000,
            "",
            known.terms
        ));
    }
    say(format_args!(
        "\ncache folder    {} (MOPTEQ_CACHE)",
        cache_folder().display()
    ));
}

fn get(arguments: &GetArguments) -> Result<(), Error> {
    if let Some(known) = KnownData::from_name(&arguments.name) {
        let download = known.download(arguments.url.as_deref(), arguments.md5.as_deref());
        download.fetch().map_err(DataError::from)?;
        say(format_args!(
            "{} is in {}",
            known.name,
            download.file.display()
        ));
    }
    Ok(())
}

fn check(arguments: &SourceArguments, json: bool) -> Result<(), Error> {
    let (source, data) = arguments.load()?;
    let count = |pictures: &[crate::data::Picture]| {
        let mut counts = vec![0_usize; data.classes.len()];
        for picture in pictures {
            counts[picture.label] += 1;
        }
        counts
    };
    let (train, test) = (count(&data.train), count(&data.test));
    let constants = normalisation(&data.train, data.shape)?;
    report_repeated(&data);
    let names: Vec<&String> = data.ignored.iter().map(|(name, _)| name).collect();
    let pictures: usize = data.ignored.iter().map(|(_, pictures)| pictures).sum();
    if json {
        say(json!({
            "kind": source.kind.name(), "shape": data.shape, "classes": data.classes,
            "train": train, "test": test, "skipped": data.skipped, "ignored": names,
            "ignored_pictures": pictures, "repeated": data.repeated(), "normalisation": constants,
        }));
        return Ok(());
    }
    say(format_args!("kind       {}", source.kind.name()));
    say(format_args!("pictures   {}", data.shape));
    say(format_args!(
        "parts      {} training, {} test, {} skipped",
        data.train.len(),
        data.test.len(),
        data.skipped.len()
    ));
    if let Some(first) = names.first() {
        say(format_args!(
            "ignored    {} that systems and runs left, such as {}",
            names.len(),
            shown(first)
        ));
    }
    say(format_args!("mean       {:?}", constants.mean));
    say(format_args!("deviation  {:?}", constants.std));
    let classes: Vec<String> = data.classes.iter().map(|class| shown(class)).collect();
    let widths = classes.iter().map(|class| class.chars().count());
    let width = widths.max().unwrap_or(0);
    for ((class, train), test) in classes.iter().zip(train).zip(test) {
        say(format_args!(
            "  {class:<width$}  {train:>7} training {test:>7} test"
        ));
    }
    Ok(())
}

fn show(arguments: &ShowArguments) -> Result<(), Error> {
    crate::files::check_png(&arguments.out)?;
    let (_, data) = arguments.source.load()?;
    let columns = arguments.columns.into();
    let sheet = contact_sheet(&data.train, data.shape, data.classes.len(), columns)?;
    crate::files::write_png(&arguments.out, &sheet)?;
    let rows: Vec<String> = data.classes.iter().map(|class| shown(class)).collect();
    say(format_args!("rows: {}", rows.join(", ")));
    say(format_args!("contact sheet in {}", arguments.out.display()));
    Ok(())
}
