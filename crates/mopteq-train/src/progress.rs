//! What a training tells the user while it runs.
//!
//! On a terminal that is Burn's dashboard. Everywhere else, in a pipe, a log file or a job system,
//! it is plain lines: one an epoch, and one every few seconds within a long epoch.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use burn::train::logger::{EvaluationProgressLogger, TrainingProgressLogger};
use burn::train::metric::store::Split;
use burn::train::metric::{MetricDefinition, MetricEntry, MetricId, NumericEntry};
use burn::train::renderer::tui::TuiMetricsRendererWrapper;
use burn::train::renderer::{
    EvaluationName, MetricState, MetricsRenderer, MetricsRendererEvaluation,
    MetricsRendererTraining,
};
use burn::train::{Interrupter, LearnerSummary};

use crate::metrics::{ACCURACY, BACKWARD_STEPS, FORWARD_STEPS, LOSS, key};

/// Time between two lines within an epoch.
const PERIOD: Duration = Duration::from_secs(10);

/// How a training is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum View {
    /// Burn's dashboard.
    Dashboard,
    /// Plain lines.
    Plain,
}

impl View {
    /// The dashboard on a terminal, unless plain lines are asked for.
    pub fn choose(plain: bool) -> Self {
        let terminal = io::stdout().is_terminal() && io::stdin().is_terminal();
        if terminal && !plain {
            Self::Dashboard
        } else {
            Self::Plain
        }
    }

    pub(crate) fn renderer(
        self,
        interrupter: Interrupter,
        resumed_from: Option<usize>,
    ) -> Box<dyn MetricsRenderer> {
        match self {
            Self::Dashboard => Box::new(TuiMetricsRendererWrapper::new(interrupter, resumed_from)),
            Self::Plain => Box::new(PlainRenderer::new()),
        }
    }
}

/// Writes a line to standard output. A reader that went away is no reason to stop.
pub fn say(line: impl std::fmt::Display) {
    let _ = writeln!(io::stdout(), "{line}");
}

/// Writes a warning to standard error.
pub fn warn(message: impl std::fmt::Display) {
    let _ = writeln!(io::stderr(), "warning: {message}");
}

/// A duration for people: `8 s`, `2 min 05 s`, `1 h 12 min`.
pub fn duration(seconds: f64) -> String {
    let seconds = seconds.max(0.0).round() as u64;
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {:02} s", seconds / 60, seconds % 60),
        _ => format!("{} h {:02} min", seconds / 3600, seconds / 60 % 60),
    }
}

/// Burn's renderer as plain lines.
struct PlainRenderer {
    names: HashMap<MetricId, String>,
    /// The latest value of each metric.
    values: BTreeMap<String, f64>,
    epoch: usize,
    epochs: usize,
    training: bool,
    /// Training pictures of an epoch, and how many of them are done.
    items: usize,
    done: usize,
    /// Training pictures done in all since the start.
    done_in_all: usize,
    started: Instant,
    epoch_started: Instant,
    last_line: Instant,
}

impl PlainRenderer {
    fn new() -> Self {
        let now = Instant::now();
        Self {
            names: HashMap::new(),
            values: BTreeMap::new(),
            epoch: 1,
            epochs: 1,
            training: false,
            items: 0,
            done: 0,
            done_in_all: 0,
            started: now,
            epoch_started: now,
            last_line: now,
        }
    }

    fn update(&mut self, split: Split, state: MetricState) {
        let MetricState::Numeric(MetricEntry { metric_id, .. }, Some(entry)) = state else {
            return;
        };
        let (Some(name), value) = (self.names.get(&metric_id), NumericEntry::current(&entry))
        else {
            return;
        };
        self.values.insert(key(&split, name), value);
    }

    fn value(&self, split: Split, name: &str) -> Option<f64> {
        self.values
            .get(&key(&split, name))
            .copied()
            .filter(|value| value.is_finite())
    }

    fn time_left(&self) -> String {
        if self.done_in_all == 0 {
            return String::new();
        }
        let each = self.started.elapsed().as_secs_f64() / self.done_in_all as f64;
        let left = (self.epochs - self.epoch.min(self.epochs)) * self.items
            + (self.items - self.done.min(self.items));
        match left {
            0 => String::new(),
            _ => format!(", {} left", duration(each * left as f64)),
        }
    }

    fn head(&self) -> String {
        let width = self.epochs.to_string().len();
        format!("epoch {:>width$}/{}", self.epoch, self.epochs)
    }

    fn scores(&self, split: Split) -> String {
        let mut text = String::new();
        if let Some(loss) = self.value(split.clone(), LOSS) {
            text.push_str(&format!(" loss {loss:.4}"));
        }
        if let Some(accuracy) = self.value(split, ACCURACY) {
            text.push_str(&format!(" accuracy {accuracy:.2} %"));
        }
        text
    }

    fn steps(&self) -> String {
        let steps = |name| {
            self.value(Split::Train, name)
                .map(|steps| format!("{steps:.1}"))
        };
        match (steps(FORWARD_STEPS), steps(BACKWARD_STEPS)) {
            (Some(forward), Some(backward)) => {
                format!(" | solver steps {forward} forward, {backward} backward")
            }
            (Some(steps), None) | (None, Some(steps)) => format!(" | solver steps {steps}"),
            (None, None) => String::new(),
        }
    }
}

impl TrainingProgressLogger for PlainRenderer {
    fn start(&mut self, epochs: usize, first: usize, _items: Option<usize>, _label: Option<&str>) {
        (self.epochs, self.epoch) = (epochs, first);
        self.started = Instant::now();
    }

    fn start_split(&mut self, split: &str, items: usize) {
        self.training = split == <&str>::from(Split::Train);
        if self.training {
            (self.items, self.done) = (items, 0);
            self.epoch_started = Instant::now();
            self.last_line = self.epoch_started;
        }
    }

    fn update_split(&mut self, done: usize) {
        if !self.training {
            return;
        }
        self.done_in_all += done.saturating_sub(self.done);
        self.done = done;
        if self.last_line.elapsed() >= PERIOD {
            self.last_line = Instant::now();
            let loss = self.value(Split::Train, LOSS);
            let loss = loss
                .map(|loss| format!(" | loss {loss:.4}"))
                .unwrap_or_default();
            let (head, left) = (self.head(), self.time_left());
            say(format_args!(
                "{head}, {done} of {} pictures{loss}{left}",
                self.items
            ));
        }
    }

    fn end_split(&mut self) {}

    fn update_epoch(&mut self, _epoch: usize) {
        let valid = self.scores(Split::Valid);
        let valid = if valid.is_empty() {
            valid
        } else {
            format!(" | validation{valid}")
        };
        say(format_args!(
            "{} | train{}{valid}{} | {}{}",
            self.head(),
            self.scores(Split::Train),
            self.steps(),
            duration(self.epoch_started.elapsed().as_secs_f64()),
            self.time_left(),
        ));
        self.epoch += 1;
    }

    fn end(&mut self) {}

    fn log_event_training(&mut self, _event: String) {}
}

impl MetricsRendererTraining for PlainRenderer {
    fn update_train(&mut self, state: MetricState) {
        self.update(Split::Train, state);
    }

    fn update_valid(&mut self, state: MetricState) {
        self.update(Split::Valid, state);
    }

    fn on_train_end(
        &mut self,
        _summary: Option<LearnerSummary>,
    ) -> Result<(), Box<dyn std::error::Error>> {
        Ok(())
    }
}

impl MetricsRenderer for PlainRenderer {
    fn manual_close(&mut self) {}

    fn register_metric(&mut self, definition: MetricDefinition) {
        self.names
            .insert(definition.metric_id, definition.name.to_string());
    }
}

// Burn asks every renderer for this; tests are run without it here.
impl MetricsRendererEvaluation for PlainRenderer {
    fn update_test(&mut self, _name: EvaluationName, _state: MetricState) {}
}

impl EvaluationProgressLogger for PlainRenderer {
    fn start_global_progress(&mut self, _total: usize) {}
    fn start_test(&mut self, _name: &str, _items: usize) {}
    fn update_test_progress(&mut self, _done: usize) {}
    fn end_test(&mut self) {}
    fn end_global_progress(&mut self) {}
    fn log_event_evaluation(&mut self, _event: String) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_readable() {
        assert_eq!(duration(7.6), "8 s");
        assert_eq!(duration(125.0), "2 min 05 s");
        assert_eq!(duration(4321.0), "1 h 12 min");
        assert_eq!(duration(-1.0), "0 s");
    }
}
