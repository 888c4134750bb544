//! Stacks of equilibria against the same stacks without iteration, with other couplings and
//! gradients, and against an explicit network, all with about as many parameters: a table with mean
//! and standard deviation over the seeds.
//!
//! cargo run --release -p examples --example compare_stacks -- [OPTIONS]
//!
//! --data PATH (10,000 pictures of CIFAR-10; without it, the embedded digits), --seeds 3,
//! --epochs 28, --only NAMES (rows whose names contain one of these, separated by commas), --time
//! (also trains every network for as long as the first row took, with more or fewer epochs),
//! --robustness (a second table: accuracy on disturbed digits).
#![allow(clippy::print_stdout, reason = "an example talks to its user")]

use std::collections::HashMap;
use std::error::Error;

use burn::tensor::Device;
use examples::corruptions::{COLUMNS, NoiseRule, accuracies};
use examples::{digits, mean_and_deviation, train};
use mopteq::{
    CodingConfig, CodingForm, CoreConfig, DeepConfig, LayerConfig, Network, NetworkConfig,
    ResidualConfig,
};
use mopteq_train::Predictor;
use mopteq_train::Preset;
use mopteq_train::Summary;
use mopteq_train::TrainConfig;
use mopteq_train::data::{DataKind, DataSource};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> Result<()> {
    let options = options()?;
    let number = |name: &str, default: usize| match options.get(name) {
        Some(text) => text.parse(),
        None => Ok(default),
    };
    let mut source = DataSource::new(DataKind::Digits);
    if let Some(path) = options.get("--data") {
        source = DataSource::new(DataKind::Cifar10);
        source.path = Some(path.into());
    }
    let mut config = TrainConfig::preset(source.clone(), &source.load()?, Preset::Fast)?;
    if source.kind == DataKind::Cifar10 {
        config.limit = Some(10_000);
    }
    config.epochs = number("--epochs", config.epochs)?;
    let seeds = number("--seeds", 3)?;
    let NetworkConfig::Deep(stack) = config.model.clone() else {
        return Err("the preset is a stack".into());
    };
    println!(
        "{}, {} epochs, {seeds} seeds, test accuracy in percent\n",
        config.data.describe(),
        config.epochs
    );
    println!(
        "| network | accuracy | each seed | parameters | seconds | steps forward | backward | accuracy in equal time |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    let only: Option<Vec<&str>> = options.get("--only").map(|only| only.split(',').collect());
    let mut reference = None;
    let mut tests = Vec::new();
    for (name, model) in networks(&stack)? {
        if only
            .as_ref()
            .is_some_and(|only| !only.iter().any(|only| name.contains(only)))
        {
            continue;
        }
        config.model = model;
        let trained = trained(&config, seeds)?;
        let runs: Vec<Summary> = trained.iter().map(|(_, summary)| summary.clone()).collect();
        let seconds = mean(&runs, |run| Some(run.training_seconds)).unwrap_or_default();
        let reference = *reference.get_or_insert(seconds);
        let timed = match options.contains_key("--time") {
            true => {
                let factor = reference / seconds.max(1.0);
                let mut timed = config.clone();
                timed.epochs = ((config.epochs as f64 * factor).round() as usize).max(1);
                let runs: Vec<_> = self::trained(&timed, seeds)?
                    .into_iter()
                    .map(|t| t.1)
                    .collect();
                format!("{} ({} epochs)", accuracy(&runs), timed.epochs)
            }
            false => "-".to_owned(),
        };
        let each: Vec<String> = runs
            .iter()
            .map(|r| format!("{:.2}", r.test_accuracy))
            .collect();
        let steps = |of: fn(&Summary) -> Option<f64>| {
            mean(&runs, of).map_or("-".to_owned(), |steps| format!("{steps:.1}"))
        };
        println!(
            "| {name} | {} | {} | {} | {seconds:.0} | {} | {} | {timed} |",
            accuracy(&runs),
            each.join(", "),
            runs[0].parameters,
            steps(|run| run.forward_steps),
            steps(|run| run.backward_steps),
        );
        if options.contains_key("--robustness") {
            tests.push((name, disturbed(&trained)?));
        }
    }
    if !tests.is_empty() {
        println!(
            "\n| network | {} | noise 1, 1.5 with l1 chosen |",
            COLUMNS.join(" | ")
        );
        println!("|---|{}---|", "---|".repeat(COLUMNS.len()));
        for (name, cells) in tests {
            println!("| {name} | {} |", cells.join(" | "));
        }
    }
    Ok(())
}

/// Cells of the second table.
fn disturbed(trained: &[(Predictor, Summary)]) -> Result<Vec<String>> {
    let (train, test) = digits(&Device::flex())?;
    let train = train.range(0, 500);
    let mut columns = vec![Vec::new(); COLUMNS.len()];
    let (mut chosen, mut factors) = ([Vec::new(), Vec::new()], Vec::new());
    for (predictor, _) in trained {
        let network = predictor.model().network();
        let row = accuracies(network, &test);
        columns
            .iter_mut()
            .zip(row)
            .for_each(|(column, a)| column.push(a));
        if let Network::Deep(stack) = network {
            let rule = NoiseRule::fit(stack, &train);
            for (all, [accuracy, factor]) in chosen.iter_mut().zip(rule.accuracies(stack, &test)) {
                all.push(accuracy);
                factors.push(format!("{factor}"));
            }
        }
    }
    let cell = |column: &Vec<f64>| {
        let [mean, deviation] = mean_and_deviation(column);
        format!("{mean:.1} +- {deviation:.1}")
    };
    let mut cells: Vec<String> = columns.iter().map(cell).collect();
    cells.push(match factors.is_empty() {
        true => "-".to_owned(),
        false => format!(
            "{}, {} (factors {})",
            cell(&chosen[0]),
            cell(&chosen[1]),
            factors.join(" ")
        ),
    });
    Ok(cells)
}

/// The networks, each with about as many parameters as the first.
fn networks(stack: &DeepConfig) -> Result<Vec<(&'static str, NetworkConfig)>> {
    let with = |change: &dyn Fn(&mut CodingConfig)| {
        let mut stack = stack.clone();
        for stage in &mut stack.stages {
            if let LayerConfig::Coding(coding) = &mut stage.layer {
                change(coding);
            }
        }
        NetworkConfig::Deep(stack)
    };
    let size = parameters(&NetworkConfig::Deep(stack.clone()))?;
    let scaled = |scale: f64| {
        let mut stack = stack.clone();
        for stage in &mut stack.stages {
            let channels = ((stage.channels as f64 * scale / 2.0).round() as usize).max(1);
            stage.channels = 2 * channels;
            let core = CoreConfig::new()
                .with_channels(channels)
                .with_hidden(channels);
            stage.layer = LayerConfig::Core { branches: 2, core };
        }
        NetworkConfig::Deep(stack)
    };
    let residual = |scale: f64| {
        let base = ResidualConfig::new(stack.classes, stack.input_channels, stack.input_size);
        let base = base
            .with_stem(stack.stem)
            .with_branches(stack.stages.len())
            .with_head_grid(1);
        NetworkConfig::Residual(base.with_channels((64.0 * scale).round() as usize))
    };
    Ok(vec![
        (
            "two resolutions (the preset)",
            NetworkConfig::Deep(stack.clone()),
        ),
        ("one resolution", with(&|coding| coding.branches = 1)),
        ("three resolutions", with(&|coding| coding.branches = 3)),
        (
            "without iteration: relu(D'g - l1)",
            NetworkConfig::Deep(stack.clone().without_iteration()),
        ),
        (
            "two steps, unrolled",
            NetworkConfig::Deep(stack.clone().unrolled(2)),
        ),
        (
            "eight steps, unrolled",
            NetworkConfig::Deep(stack.clone().unrolled(8)),
        ),
        (
            "coding of whole inputs",
            with(&|coding| coding.form = CodingForm::Convolution),
        ),
        ("coupled by lambda, free U", nearest(size, scaled)?),
        ("residual network", nearest(size, residual)?),
    ])
}

/// The network of a family whose number of parameters is nearest.
fn nearest(size: usize, family: impl Fn(f64) -> NetworkConfig) -> Result<NetworkConfig> {
    let mut best = (usize::MAX, family(1.0));
    for percent in 20..=300 {
        let network = family(f64::from(percent) / 100.0);
        let off = parameters(&network)?.abs_diff(size);
        if off < best.0 {
            best = (off, network);
        }
    }
    Ok(best.1)
}

fn parameters(network: &NetworkConfig) -> Result<usize> {
    Ok(network.init(&Device::flex())?.num_parameters())
}

fn trained(config: &TrainConfig, seeds: usize) -> Result<Vec<(Predictor, Summary)>> {
    let seeded = |seed| TrainConfig {
        seed,
        ..config.clone()
    };
    let run = |seed| Ok(train(seeded(seed))?);
    (0..seeds.max(1) as u64).map(run).collect()
}

fn mean(runs: &[Summary], of: fn(&Summary) -> Option<f64>) -> Option<f64> {
    let all: Vec<f64> = runs.iter().filter_map(of).collect();
    (!all.is_empty()).then(|| mean_and_deviation(&all)[0])
}

fn accuracy(runs: &[Summary]) -> String {
    let all: Vec<f64> = runs.iter().map(|run| run.test_accuracy).collect();
    let [mean, deviation] = mean_and_deviation(&all);
    format!("{mean:.2} +- {deviation:.2}")
}

/// Options with their values; `--time` and `--robustness` have none.
fn options() -> Result<HashMap<String, String>> {
    let mut options = HashMap::new();
    let mut arguments = std::env::args().skip(1);
    while let Some(name) = arguments.next() {
        let value = match name.as_str() {
            "--time" | "--robustness" => String::new(),
            "--data" | "--seeds" | "--epochs" | "--only" => {
                arguments.next().ok_or(format!("{name} needs a value"))?
            }
            _ => return Err(format!("there is no option {name}").into()),
        };
        options.insert(name, value);
    }
    Ok(options)
}
