//! `mopteq certify`.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use crate::Error;
use crate::certify::{Certifier, Summary, spread, summary};
use crate::checkpoint::Which;
use crate::data::{DataSource, Picture};
use crate::names::shown;
use crate::predict::{PredictError, Predictor};
use crate::progress::{note, say};
use crate::run::RunFolder;
use mopteq::lipschitz::Certificate;

use super::model::{self, field, read_all};
use super::shared::{finite, which_parser};

/// A median radius below this is of no use: a tenth of a step of one pixel.
const TINY: f64 = 0.1 / 255.0;

#[derive(Args)]
#[command(after_help = "Examples:\n  \
    mopteq certify --run runs/digits-1 five.png\n  \
    mopteq certify --run runs/digits-1 --limit 200\n  \
    mopteq certify --run runs/digits-1 pictures/ --csv")]
pub struct CertifyArguments {
    /// Folder of a trained run.
    #[arg(long, value_name = "FOLDER")]
    run: PathBuf,
    /// Which checkpoint: last, best (by validation accuracy), or the number of an epoch.
    #[arg(long, value_parser = which_parser, default_value = "last")]
    checkpoint: Which,
    /// Relative tolerance of every solve. The errors that remain are subtracted from the margins.
    #[arg(long, value_parser = tolerance, default_value = "1e-10")]
    tolerance: f64,
    /// Whether a picture's logits are averaged with those of its mirror image [default: as in the
    /// run].
    #[arg(long, value_name = "BOOL")]
    flip: Option<bool>,
    /// Labelled data in place of the run's own test pictures: a name or a path, as for `eval`.
    #[arg(long, value_name = "NAME|PATH", conflicts_with = "paths")]
    data: Option<String>,
    /// Location of data with a known name, in place of the cache folder.
    #[arg(long, value_name = "PATH", requires = "data")]
    data_path: Option<PathBuf>,
    /// Certify this many of the labelled pictures, spread over all of them.
    #[arg(
        long,
        value_name = "PICTURES",
        default_value_t = 500,
        conflicts_with = "paths"
    )]
    limit: usize,
    /// Invert the brightness of the picture files.
    #[arg(long, requires = "paths")]
    invert: bool,
    /// Answer as a table: file, class, nearest class, margin, radius, radius in steps of 1/255.
    #[arg(long, conflicts_with = "json", requires = "paths")]
    csv: bool,
    /// Picture files, or folders that hold them at any depth. Without a path: labelled data, and
    /// how many of them are certain.
    #[arg(value_name = "PATH")]
    paths: Vec<PathBuf>,
}

fn tolerance(text: &str) -> Result<f64, String> {
    match finite(text)? {
        number if number > 0.0 && number < 1.0 => Ok(number),
        _ => Err("expected a number between 0 and 1".into()),
    }
}

pub fn run(arguments: &CertifyArguments, json: bool) -> Result<(), Error> {
    let run = RunFolder::open(&arguments.run)?;
    let device = Certifier::device()?;
    let mut predictor = Predictor::load(&run, arguments.checkpoint, device, None)?;
    if let Some(flip) = arguments.flip {
        predictor = predictor.with_flip(flip);
    }
    let certifier = Certifier::new(&predictor, arguments.tolerance)?;
    match arguments.paths.is_empty() {
        true => labelled(arguments, &predictor, &certifier, json),
        false => files(arguments, &predictor, &certifier, json),
    }
}

fn files(
    arguments: &CertifyArguments,
    predictor: &Predictor,
    certifier: &Certifier,
    json: bool,
) -> Result<(), Error> {
    let all = read_all(&arguments.paths, predictor.shape(), arguments.invert)?;
    let pictures = all.pictures.iter();
    let pictures = pictures.map(|file| Picture::new(file.pixels.clone(), 0));
    let pictures: Vec<Picture> = pictures.collect();
    if arguments.csv {
        say("file,class,nearest,margin,radius,radius_255");
    }
    let classes = &predictor.config().classes;
    let name = |class: usize| classes.get(class).map_or("", String::as_str);
    for (file, found) in all.pictures.iter().zip(certifier.certify(&pictures)?) {
        let path = file.path.display().to_string();
        let Certificate { margin, radius, .. } = found;
        let [class, nearest] = [found.class, found.nearest].map(name);
        if json {
            say(json!({
                "file": path, "class": class, "nearest": nearest, "margin": margin,
                "error": found.error, "radius": radius, "radius_255": 255.0 * radius,
            }));
        } else if arguments.csv {
            let names = [&path, class, nearest].map(field).join(",");
            say(format_args!("{names},{margin},{radius},{}", 255.0 * radius));
        } else {
            say(shown(&path));
            let (class, nearest) = (shown(class), shown(nearest));
            say(format_args!("  class   {class}"));
            say(format_args!("  margin  {margin:.3} over {nearest}"));
            say(format_args!("  radius  {}", distance(radius)));
        }
    }
    match all.failed.len() {
        0 => Ok(()),
        failed => Err(PredictError::Some {
            failed,
            total: failed + all.pictures.len(),
        }
        .into()),
    }
}

fn labelled(
    arguments: &CertifyArguments,
    predictor: &Predictor,
    certifier: &Certifier,
    json: bool,
) -> Result<(), Error> {
    let data = arguments.data.as_deref();
    let source = data.map(|name| DataSource::from_name(name, arguments.data_path.as_deref()));
    let source = source.transpose()?;
    let (pictures, scored) = model::labelled(predictor, &arguments.run, source.as_ref())?;
    let pictures = spread(pictures, arguments.limit.max(1));
    let found = summary(&certifier.certify(&pictures)?, &pictures);
    let constants = certifier.constants();
    let place = predictor.position();
    if json {
        let answer = json!({
            "checkpoint": place, "certificates": found, "constant": constants.largest_pair(),
            "parts": constants.parts(),
        });
        scored.answer(answer);
        return Ok(());
    }
    scored.introduce(place);
    show(&found);
    let constant = number(constants.largest_pair());
    say(format_args!(
        "\nLipschitz constant from pixel values of 0 to 1"
    ));
    let names = constants.parts().iter().map(|part| part.name.len());
    let width = names.chain([LOGITS.len()]).max().unwrap_or(0);
    for part in constants.parts() {
        let constant = number(part.constant);
        say(format_args!("  {:<width$}  {constant}", part.name));
    }
    say(format_args!("  {LOGITS:<width$}  {constant}"));
    if found.median_radius < TINY {
        note(
            "the radii are tiny because the constant is a product over all parts, which no picture \
             reaches; see the chapter \"Certificates\" of the book",
        );
    }
    Ok(())
}

const LOGITS: &str = "difference of two logits";

fn show(found: &Summary) {
    say(format_args!("pictures         {}", found.pictures));
    say(format_args!("accuracy         {:.2} %", found.accuracy));
    say(format_args!(
        "certified        {:.2} % (radius above 0)",
        found.certified
    ));
    let median = distance(found.median_radius);
    say(format_args!("median radius    {median}"));
    let largest = distance(found.largest_radius);
    say(format_args!("largest radius   {largest}"));
    say("\nradius     right and certified");
    for share in &found.radii {
        let radius = format!("{}/255", share.radius_255);
        say(format_args!("{radius:<9}  {:6.2} %", share.accuracy));
    }
}

/// A distance in pixel values of 0 to 1, and in steps of 1/255.
fn distance(radius: f64) -> String {
    format!("{} ({}/255)", number(radius), number(255.0 * radius))
}

/// Four digits, or three in scientific notation for very small and very large values.
fn number(value: f64) -> String {
    match value {
        0.0 => "0".into(),
        value if (1e-3..1e5).contains(&value) => {
            let digits = 3 - value.log10().floor() as i32;
            format!("{value:.*}", digits.max(0) as usize)
        }
        value => format!("{value:.2e}"),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn numbers_have_few_digits() {
        let text = [0.0, 1.23456, 0.012_345_6, 12345.6, 1.5e-9, 2.5e7].map(super::number);
        assert_eq!(
            text,
            ["0", "1.235", "0.01235", "12346", "1.50e-9", "2.50e7"]
        );
    }
}
