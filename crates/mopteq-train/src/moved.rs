//! Settings of a model that have moved since an earlier version.

use mopteq::MOptEqsConfig;
use serde_json::{Map, Value};

use crate::config::{FORMAT, TrainConfig, UNNAMED};

/// The version of `config.json` with the earlier names.
const BEFORE: u32 = 2;

/// Earlier names in `model`, and where these settings are now.
const MOVED: [(&str, &str); 23] = [
    ("stem_kernel", "stem.kernel"),
    ("stem_stride", "stem.stride"),
    ("stem_padding", "stem.padding"),
    ("channels", "core.channels"),
    ("hidden", "core.hidden"),
    ("family", "core.family"),
    ("activation", "core.activation"),
    ("constraint", "core.constraint"),
    ("coupling", "core.coupling"),
    ("pairs", "core.pairs"),
    ("cross_branch", "core.cross_branch"),
    ("smoothness", "core.smoothness"),
    ("diversity", "core.diversity"),
    ("norm_bound", "core.norm_bound"),
    ("precision", "core.precision"),
    ("equilibrium", "core.equilibrium"),
    ("fusion", "head.fusion"),
    ("head_grid", "head.grid"),
    ("dense_classes", "head.dense_classes"),
    // A number before, and a table now: the first of the four.
    ("perturbation", "perturbation.size"),
    ("perturbation_steps", "perturbation.steps"),
    ("perturbation_kind", "perturbation.kind"),
    ("perturbation_gradient", "perturbation.gradient"),
];

/// The settings of this version that not every model of the previous version had.
const ADDED: [&str; 12] = [
    "stem.kernel",
    "core.activation",
    "core.constraint",
    "core.pairs",
    "core.cross_branch",
    "core.smoothness",
    "core.diversity",
    "core.precision",
    "head.fusion",
    "head.dense_classes",
    "perturbation.kind",
    "perturbation.gradient",
];

/// Where a setting of `model` with an earlier name is now, for this network. This also finds a
/// setting of the paper's model for a stack.
pub(crate) fn present_name(name: &str, network: &str) -> Option<&'static str> {
    let (_, now) = MOVED.iter().find(|(before, _)| *before == name)?;
    (network == "deep" || has(network, now)).then_some(now)
}

/// Whether a network has a setting of this present name among those that moved.
fn has(network: &str, now: &str) -> bool {
    match network {
        "mopteq" | "opteq" => true,
        "deep" | "residual" => now.starts_with("stem."),
        _ => false,
    }
}

/// Reads a whole config of this version or of the previous one.
///
/// # Errors
///
/// When a setting is missing, unknown or of the wrong kind.
pub(crate) fn read(mut config: Map<String, Value>) -> serde_json::Result<TrainConfig> {
    if rename(&mut config)
        && let Some(Value::Object(model)) = config.get_mut("model")
    {
        fill(model);
    }
    serde_json::from_value(Value::Object(config))
}

/// Renames the settings in a config of the previous version to their present names. Returns whether
/// it was such a config.
pub(crate) fn rename(config: &mut Map<String, Value>) -> bool {
    if config.get("format").is_none_or(|format| *format != BEFORE) {
        return false;
    }
    config.insert("format".into(), FORMAT.into());
    if let Some(Value::Object(model)) = config.get_mut("model") {
        let network = model.get("network").and_then(Value::as_str);
        let network = network.unwrap_or(UNNAMED).to_owned();
        for (before, now) in MOVED {
            if let Some(value) = has(&network, now).then(|| model.remove(before)).flatten() {
                let (table, name) = now.split_once('.').unwrap_or((now, ""));
                let table = model.entry(table).or_insert_with(|| Map::new().into());
                if let Value::Object(table) = table {
                    table.insert(name.into(), value);
                }
            }
        }
    }
    true
}

/// Adds the settings that a model of the paper lacked.
fn fill(model: &mut Map<String, Value>) {
    let network = model.get("network").and_then(Value::as_str);
    if !matches!(network.unwrap_or(UNNAMED), "mopteq" | "opteq") {
        return;
    }
    let default = serde_json::to_value(MOptEqsConfig::new(1, 1, [1, 1])).unwrap_or_default();
    for (table, name) in ADDED.iter().filter_map(|path| path.split_once('.')) {
        if let Some(Value::Object(found)) = model.get_mut(table) {
            let value = || default[table][name].clone();
            found.entry(name).or_insert_with(value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mopteq::NetworkKind;
    use serde_json::json;

    /// The digits' model in format 2, at first without and later with all its settings.
    fn earlier(config: &TrainConfig, full: bool) -> Value {
        let now = config.model.mopteqs().unwrap();
        let mut model = json!({
            "network": "mopteq", "classes": 10, "input_channels": 1, "input_size": [28, 28],
            "branches": 3, "channels": 16, "hidden": 16, "family": "p", "coupling": 0.01,
            "norm_bound": 0.95, "stem_stride": 2, "stem_padding": 3, "head_grid": 2,
            "perturbation": 0.1, "perturbation_steps": 1, "equilibrium": now.core.equilibrium,
        });
        if full {
            let more = json!({
                "activation": now.core.activation, "constraint": now.core.constraint,
                "pairs": now.core.pairs, "cross_branch": false, "smoothness": 0.0,
                "diversity": 0.0, "precision": now.core.precision, "stem_kernel": 3,
                "fusion": now.head.fusion, "dense_classes": 0,
                "perturbation_kind": now.perturbation.kind,
                "perturbation_gradient": now.perturbation.gradient,
            });
            model
                .as_object_mut()
                .unwrap()
                .extend(more.as_object().unwrap().clone());
        }
        let mut value = serde_json::to_value(config).unwrap();
        (value["format"], value["model"]) = (BEFORE.into(), model);
        value
    }

    fn parse(value: Value) -> serde_json::Result<TrainConfig> {
        read(value.as_object().unwrap().clone())
    }

    #[test]
    fn configs_of_the_version_before_are_read() {
        let now = TrainConfig::digits();
        for full in [false, true] {
            let found = parse(earlier(&now, full)).unwrap();
            assert_eq!((found.model, found.format), (now.model.clone(), FORMAT));
        }
        let mut changed = earlier(&now, true);
        changed["model"]["perturbation_steps"] = 3.into();
        changed["model"]["stem_padding"] = 2.into();
        let found = parse(changed).unwrap();
        let model = found.model.mopteqs().unwrap();
        assert_eq!((model.perturbation.steps, model.stem.padding), (3, 2));
        let mut unnamed = earlier(&now, false);
        unnamed["model"].as_object_mut().unwrap().remove("network");
        assert_eq!(parse(unnamed).unwrap().model, now.model);
        // Settings that were always there are not made up.
        for (missing, named) in [
            ("classes", "`classes`"),
            ("coupling", "`coupling`"),
            ("norm_bound", "`norm_bound`"),
            ("perturbation", "`size`"),
            ("head_grid", "`grid`"),
        ] {
            let mut broken = earlier(&now, true);
            broken["model"].as_object_mut().unwrap().remove(missing);
            let error = parse(broken).unwrap_err().to_string();
            assert!(error.contains(named), "{missing}: {error}");
        }
    }

    #[test]
    fn stacks_of_the_version_before_are_read() {
        for kind in [NetworkKind::Deep, NetworkKind::Residual, NetworkKind::Mdeq] {
            let paper = TrainConfig::digits();
            let model = kind.comparable(paper.model.mopteqs().unwrap());
            let now = TrainConfig { model, ..paper };
            let mut before = serde_json::to_value(&now).unwrap();
            before["format"] = BEFORE.into();
            let model = before["model"].as_object_mut().unwrap();
            if let Some(stem) = model.remove("stem") {
                for name in ["kernel", "stride", "padding"] {
                    model.insert(format!("stem_{name}"), stem[name].clone());
                }
            }
            assert_eq!(parse(before).unwrap().model, now.model);
        }
    }

    #[test]
    fn the_present_version_stays_as_it_is() {
        let config = serde_json::to_value(TrainConfig::digits()).unwrap();
        let mut renamed = config.as_object().unwrap().clone();
        assert!(!rename(&mut renamed));
        assert_eq!(Value::Object(renamed), config);
        let mut short = config.clone();
        short["model"]["core"]
            .as_object_mut()
            .unwrap()
            .remove("pairs");
        assert!(parse(short).is_err());
    }
}
