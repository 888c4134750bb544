//! What can be changed at test time.

use burn_deq::{Check, Method, Solver};
use mopteq::{Constraint, CoreConfig};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::config::TrainConfig;

/// Largest number of steps to follow.
const MOST_STEPS: usize = 60;
/// Largest standard deviation of the noise on a picture, as a share of the brightness.
const MOST_NOISE: f64 = 1.0;
/// Largest size of the perturbation of z*, relative to z*.
const MOST_PERTURBATION: f64 = 3.0;
/// Largest number of steps after the perturbation.
const MOST_SETTLING: usize = 10;
/// Largest strength of the coupling and weight of the norm.
const STRONGEST: f64 = 1.0;
const TOLERANCES: [f64; 2] = [1e-6, 0.5];

/// The controls, each of them optional.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Controls {
    /// `run` or one of [`METHODS`].
    pub(super) solver: Option<String>,
    pub(super) steps: Option<usize>,
    pub(super) tolerance: Option<f64>,
    pub(super) noise: f64,
    pub(super) perturbation: f64,
    /// Steps of the map after the perturbation.
    pub(super) settle: usize,
    pub(super) coupling: Option<f64>,
    pub(super) l1: Option<f64>,
    /// Seed of the noise and the perturbation.
    pub(super) seed: u64,
}

/// The methods by name, in addition to the run's own.
const METHODS: [(&str, &str); 3] = [
    ("anderson", "Anderson acceleration"),
    ("broyden", "Broyden's method"),
    ("plain", "plain iteration"),
];

fn method(name: &str) -> Option<Method> {
    Some(match name {
        "anderson" => Solver::anderson(6).method,
        "broyden" => Solver::broyden(20).method,
        "plain" => Solver::plain().method,
        _ => return None,
    })
}

/// The weight of the constraint, if it has one.
fn weight(constraint: Constraint) -> Option<f64> {
    match constraint {
        Constraint::L1 { weight } | Constraint::Sparse { weight } => Some(weight),
        Constraint::NonNegative | Constraint::Interval { .. } => None,
    }
}

impl Controls {
    /// Names the first one that is out of range.
    pub(super) fn check(&self) -> Result<(), String> {
        let number = |name: &str, value: f64, low: f64, high: f64| {
            if (low..=high).contains(&value) {
                return Ok(());
            }
            Err(format!("{name} = {value}: must be {low} to {high}"))
        };
        if let Some(name) = self.solver.as_deref().filter(|name| *name != "run")
            && method(name).is_none()
        {
            let known = METHODS.map(|(name, _)| name).join(", ");
            return Err(format!("solver = {name:?}: must be run, {known}"));
        }
        let steps = self.steps.unwrap_or(1);
        number("steps", steps as f64, 1.0, MOST_STEPS as f64)?;
        let tolerance = self.tolerance.unwrap_or(TOLERANCES[0]);
        number("tolerance", tolerance, TOLERANCES[0], TOLERANCES[1])?;
        number("noise", self.noise, 0.0, MOST_NOISE)?;
        number("perturbation", self.perturbation, 0.0, MOST_PERTURBATION)?;
        number("settle", self.settle as f64, 0.0, MOST_SETTLING as f64)?;
        number("coupling", self.coupling.unwrap_or(0.0), 0.0, STRONGEST)?;
        number("l1", self.l1.unwrap_or(0.0), 0.0, STRONGEST)
    }

    /// The run's solver with these changes, followed step by step.
    pub(super) fn solver(&self, own: &Solver) -> Solver {
        let mut solver = own.clone().with_trace().with_check(Check::Every(1));
        if let Some(method) = self.solver.as_deref().and_then(method) {
            solver.method = method;
        }
        let own_steps = solver.termination.max_steps.clamp(1, MOST_STEPS);
        let steps = self.steps.unwrap_or(own_steps);
        let tolerance = self.tolerance.unwrap_or(solver.termination.relative);
        solver.with_max_steps(steps).with_relative(tolerance)
    }

    /// The hidden objective's config with these changes; `None` without changes.
    pub(super) fn objective(&self, own: &CoreConfig) -> Option<CoreConfig> {
        let mut config = own.clone();
        config.coupling = self.coupling.unwrap_or(config.coupling);
        if let Constraint::L1 { weight } | Constraint::Sparse { weight } = &mut config.constraint {
            *weight = self.l1.unwrap_or(*weight);
        }
        (config != *own).then_some(config)
    }

    /// What a page needs to know to show the controls of a model.
    pub(super) fn describe(config: &TrainConfig) -> Vec<Value> {
        let slider = |name: &str,
                      label: &str,
                      help: &str,
                      scale: &str,
                      ends: [f64; 2],
                      step: f64,
                      value: f64| {
            json!({
                "name": name, "label": label, "help": help, "scale": scale,
                "low": ends[0], "high": ends[1], "step": step, "value": value.clamp(ends[0], ends[1]),
            })
        };
        let mut all = Vec::new();
        let mut own = config.clone();
        if let Some(equilibrium) = own.equilibria_mut().first() {
            let forward = &equilibrium.forward;
            let name = match &forward.method {
                Method::Anderson(_) => "Anderson",
                Method::Broyden(_) => "Broyden",
                Method::Accelerated(_) => "accelerated descent",
                _ => "plain",
            };
            let mut choices =
                vec![json!({"value": "run", "label": format!("the run's own ({name})")})];
            choices.extend(METHODS.map(|(value, label)| json!({"value": value, "label": label})));
            all.push(json!({
                "name": "solver", "label": "Solver", "choices": choices, "value": "run",
                "help": "The method that looks for the equilibrium.",
            }));
            let termination = &forward.termination;
            all.push(slider(
                "steps",
                "Most steps",
                "The solve stops here if it has not met the tolerance.",
                "linear",
                [1.0, MOST_STEPS as f64],
                1.0,
                termination.max_steps as f64,
            ));
            all.push(slider(
                "tolerance",
                "Tolerance",
                "Relative residual at which a state counts as the equilibrium.",
                "log",
                TOLERANCES,
                0.0,
                termination.relative,
            ));
        }
        all.push(slider(
            "noise",
            "Noise on the picture",
            "Standard deviation, as a share of the brightness.",
            "linear",
            [0.0, MOST_NOISE],
            0.01,
            0.0,
        ));
        let Some(model) = config.model.mopteqs() else {
            return all;
        };
        all.push(slider(
            "perturbation",
            "Perturbation of z*",
            "Gaussian noise on the equilibrium, relative to its size.",
            "linear",
            [0.0, MOST_PERTURBATION],
            0.05,
            0.0,
        ));
        all.push(slider(
            "settle",
            "Steps back",
            "Plain steps after the perturbation, back towards the equilibrium.",
            "linear",
            [0.0, MOST_SETTLING as f64],
            1.0,
            0.0,
        ));
        if model.branches > 1 {
            all.push(slider(
                "coupling",
                "Coupling \u{3bb}",
                "How strongly the branches are pulled together.",
                "square",
                [0.0, STRONGEST],
                0.0,
                model.core.coupling,
            ));
        }
        if let Some(weight) = weight(model.core.constraint) {
            all.push(slider(
                "l1",
                "Weight of the l1 norm",
                "A larger weight leaves fewer active elements.",
                "square",
                [0.0, STRONGEST],
                0.0,
                weight,
            ));
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_out_of_range_is_named() {
        let wrong = [
            ("solver", r#"{"solver": "newton"}"#),
            ("steps", r#"{"steps": 0}"#),
            ("tolerance", r#"{"tolerance": 0}"#),
            ("noise", r#"{"noise": -1}"#),
            ("perturbation", r#"{"perturbation": 1e9}"#),
            ("settle", r#"{"settle": 11}"#),
            ("coupling", r#"{"coupling": 2}"#),
            ("l1", r#"{"l1": 2}"#),
        ];
        for (name, text) in wrong {
            let controls: Controls = serde_json::from_str(text).unwrap();
            let error = controls.check().unwrap_err();
            assert!(error.starts_with(name), "{error}");
        }
        assert!(Controls::default().check().is_ok());
        assert!(serde_json::from_str::<Controls>(r#"{"setps": 3}"#).is_err());
    }

    #[test]
    fn a_weight_is_offered_where_the_constraint_has_one() {
        let names = |config: &TrainConfig| -> Vec<String> {
            let all = Controls::describe(config);
            all.iter()
                .map(|c| c["name"].as_str().unwrap().to_owned())
                .collect()
        };
        let mut config = TrainConfig::digits();
        assert_eq!(
            names(&config),
            [
                "solver",
                "steps",
                "tolerance",
                "noise",
                "perturbation",
                "settle",
                "coupling"
            ]
        );
        config.model.mopteqs_mut().unwrap().core.constraint = Constraint::Sparse { weight: 0.1 };
        assert_eq!(names(&config).last().unwrap(), "l1");
        let core = config.model.mopteqs().unwrap().core.clone();
        let changed = Controls {
            l1: Some(0.3),
            ..Controls::default()
        };
        let constraint = changed.objective(&core).unwrap().constraint;
        assert_eq!(constraint, Constraint::Sparse { weight: 0.3 });
        assert_eq!(Controls::default().objective(&core), None);
    }
}
