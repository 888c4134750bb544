//! Settings of a run from its preset, a file and the command line; later ones override earlier
//! ones.

use std::fs;
use std::path::Path;

use serde_json::{Map, Value};

use crate::config::{ConfigError, TrainConfig, UNNAMED};
use crate::moved::{present_name, rename};
use crate::names::nearest;

/// Reads a file of settings: TOML, or JSON where the name ends in `.json` (such as the
/// `config.json` of another run).
///
/// # Errors
///
/// When it cannot be read, or is not a table.
pub fn read_file(file: &Path) -> Result<Map<String, Value>, ConfigError> {
    let text = fs::read_to_string(file).map_err(|source| ConfigError::Read {
        file: file.into(),
        source,
    })?;
    let wrong = |reason: String| ConfigError::Value {
        origin: file.display().to_string(),
        reason,
    };
    let is_json = file.extension().is_some_and(|ending| ending == "json");
    let value: Value = if is_json {
        serde_json::from_str(&text).map_err(|error| wrong(error.to_string()))?
    } else {
        toml::from_str(&text).map_err(|error| wrong(error.to_string()))?
    };
    match value {
        Value::Object(mut table) => {
            // In the settings of an exported model, this is not a setting.
            table.remove(crate::ship::SEEN);
            rename(&mut table);
            Ok(table)
        }
        _ => Err(wrong("there are no settings in it".into())),
    }
}

/// A setting of the command line, `model.core.channels=64`: the value is a TOML value, or a text
/// without quotes.
///
/// # Errors
///
/// When there is no `=`.
pub fn parse_assignment(text: &str) -> Result<(String, Value), String> {
    let (key, value) = text
        .split_once('=')
        .ok_or("expected KEY=VALUE, such as model.core.channels=64")?;
    let parsed = toml::from_str::<Map<String, Value>>(&format!("value = {value}"));
    let value = match parsed {
        Ok(mut table) => table.remove("value").unwrap_or(Value::Null),
        Err(_) => Value::String(value.trim().to_owned()),
    };
    Ok((key.trim().to_owned(), value))
}

/// A table with one setting whose name has dots between its parts.
pub fn nested(key: &str, value: Value) -> Map<String, Value> {
    let mut parts = key.rsplit('.');
    let last = parts.next().unwrap_or_default();
    let mut table = Map::from_iter([(last.to_owned(), value)]);
    for part in parts {
        table = Map::from_iter([(part.to_owned(), Value::Object(table))]);
    }
    table
}

/// Applies settings on top of a config. `origin` is the file or option that errors name.
///
/// # Errors
///
/// When a name is unknown or a value of the wrong kind.
pub fn apply(
    config: &TrainConfig,
    settings: Map<String, Value>,
    origin: &str,
) -> Result<TrainConfig, ConfigError> {
    let wrong = |reason: String| ConfigError::Value {
        origin: origin.into(),
        reason,
    };
    let mut value = serde_json::to_value(config).map_err(|error| wrong(error.to_string()))?;
    merge(&mut value, Value::Object(settings), "", origin)?;
    serde_json::from_value(value).map_err(|error| wrong(error.to_string()))
}

fn merge(base: &mut Value, patch: Value, path: &str, origin: &str) -> Result<(), ConfigError> {
    // Elements of a list by their number, or all of them: model.stages.all.layers.
    if let (Value::Array(list), Value::Object(patch)) = (&mut *base, &patch) {
        let count = list.len();
        for (key, value) in patch {
            let full = format!("{path}.{key}");
            let chosen = match (key.as_str(), key.parse::<usize>()) {
                ("all", _) => 0..count,
                (_, Ok(index)) if index < count => index..index + 1,
                _ => {
                    return Err(ConfigError::UnknownKey {
                        origin: origin.into(),
                        key: full,
                        hint: format!("; a number below {count}, or all, is expected there"),
                    });
                }
            };
            for element in &mut list[chosen] {
                merge(element, value.clone(), &full, origin)?;
            }
        }
        return Ok(());
    }
    let (base, patch) = match (base, patch) {
        (Value::Object(base), Value::Object(patch)) => (base, patch),
        // A table stays a table: its other settings would be lost.
        (Value::Object(_), patch @ Value::Number(_)) => {
            return Err(ConfigError::Value {
                origin: origin.into(),
                reason: format!(
                    "{path} has settings of its own, so it cannot be the number {patch}"
                ),
            });
        }
        (base, patch) => {
            *base = patch;
            return Ok(());
        }
    };
    // A choice such as {"anderson": {..}}: another choice replaces it.
    let chosen = |table: &Map<String, Value>| table.keys().next().cloned();
    if base.len() == 1 && patch.len() == 1 && chosen(base) != chosen(&patch) {
        *base = patch;
        return Ok(());
    }
    // Another network has other settings, so they replace these as a whole.
    if let (Some(before), Some(after)) = (base.get("network"), patch.get("network"))
        && before != after
    {
        *base = patch;
        return Ok(());
    }
    for (key, value) in patch {
        let full = if path.is_empty() {
            key.clone()
        } else {
            format!("{path}.{key}")
        };
        let known: Vec<String> = base.keys().cloned().collect();
        match base.get_mut(&key) {
            Some(inner) => merge(inner, value, &full, origin)?,
            None => {
                let known: Vec<&str> = known.iter().map(String::as_str).collect();
                let network = base.get("network").and_then(Value::as_str);
                let moved = (path == "model")
                    .then(|| present_name(&key, network.unwrap_or(UNNAMED)))
                    .flatten()
                    .map(|name| format!("; its name is model.{name} now"));
                let near = || nearest(&key, &known).map(|near| format!("; did you mean {near}?"));
                let hint = moved.or_else(near);
                return Err(ConfigError::UnknownKey {
                    origin: origin.into(),
                    key: full,
                    hint: hint.unwrap_or_default(),
                });
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn_deq::Gradient;

    fn channels(config: &TrainConfig) -> usize {
        config.model.mopteqs().unwrap().core.channels
    }

    fn set(text: &str) -> Result<TrainConfig, ConfigError> {
        let (key, value) = parse_assignment(text).unwrap();
        apply(&TrainConfig::digits(), nested(&key, value), "--set")
    }

    #[test]
    fn one_setting_changes_and_the_others_stay() {
        let config = set("model.core.channels=24").unwrap();
        assert_eq!((channels(&config), config.epochs), (24, 12));
        assert_eq!(set("schedule=cosine").unwrap().schedule.name(), "cosine");
        assert_eq!(set("milestones=[0.5]").unwrap().milestones, [0.5]);
        assert!(set("augmentation.flip=true").unwrap().augmentation.flip);
        let mut list = serde_json::json!({"stages": [{"layers": 1}, {"layers": 2}]});
        let mut lay = |key: &str, value: i64| {
            merge(
                &mut list,
                Value::Object(nested(key, value.into())),
                "",
                "--set",
            )
        };
        lay("stages.all.layers", 4).unwrap();
        lay("stages.1.layers", 5).unwrap();
        let message = lay("stages.2.layers", 5).unwrap_err().to_string();
        assert!(message.contains("below 2"), "{message}");
        assert_eq!(
            list,
            serde_json::json!({"stages": [{"layers": 4}, {"layers": 5}]})
        );
        let phantom =
            set("model.core.equilibrium.gradient={phantom={steps=3,damping=0.5}}").unwrap();
        let mut phantom = phantom;
        assert!(matches!(
            phantom.equilibria_mut()[0].gradient,
            Gradient::Phantom { steps: 3, .. }
        ));
    }

    #[test]
    fn a_mistake_is_named_with_what_was_meant() {
        let message = set("epoch=3").unwrap_err().to_string();
        assert!(
            message.contains("'epoch'") && message.contains("mean epochs?"),
            "{message}"
        );
        let message = set("model.core.chanels=3").unwrap_err().to_string();
        assert!(
            message.contains("model.core.chanels") && message.contains("channels?"),
            "{message}"
        );
        for (given, expected) in [
            ("channels=3", "its name is model.core.channels now"),
            (
                "perturbation_steps=3",
                "its name is model.perturbation.steps now",
            ),
            (
                "equilibrium.gradient.implicit=3",
                "its name is model.core.equilibrium now",
            ),
            ("perturbation.step=3", "mean steps?"),
            ("perturbation=0.2", "settings of its own"),
        ] {
            let message = set(&format!("model.{given}")).unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        }
        let message = set("epochs=many").unwrap_err().to_string();
        assert!(
            message.starts_with("--set: ") && message.contains("many"),
            "{message}"
        );
    }

    #[test]
    fn files_are_toml_or_json() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.toml");
        fs::write(&file, "epochs = 3\n[model.core]\nchannels = 8\n").unwrap();
        let config = apply(&TrainConfig::digits(), read_file(&file).unwrap(), "a.toml").unwrap();
        assert_eq!((config.epochs, channels(&config)), (3, 8));
        fs::write(&file, "epochs = \n").unwrap();
        assert!(read_file(&file).unwrap_err().to_string().contains("a.toml"));
        let file = folder.path().join("a.json");
        fs::write(&file, serde_json::to_vec(&config).unwrap()).unwrap();
        let again = apply(&TrainConfig::digits(), read_file(&file).unwrap(), "a.json").unwrap();
        assert_eq!(again.epochs, 3);
    }
}
