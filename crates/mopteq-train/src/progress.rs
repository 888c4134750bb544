//! What a training tells the user while it runs.
//!
//! On a terminal that is Burn's dashboard. Everywhere else, in a pipe, a log file or a job system,
//! it is plain lines, one an epoch, and one every few seconds within a long epoch; for machines,
//! one JSON object an epoch.

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use burn::train::Interrupter;
use burn::train::metric::{
    MetricDefinition, MetricEntry, MetricId, NumericAttributes, NumericEntry, SerializedEntry,
};
use burn::train::renderer::tui::TuiMetricsRendererWrapper;
use burn::train::renderer::{MetricState, MetricsRenderer};

use crate::history::EpochRow;
use crate::metrics::{self, Sums};

/// Time between two lines within an epoch.
const PERIOD: Duration = Duration::from_secs(10);

/// How a training is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum View {
    /// Burn's dashboard.
    Dashboard,
    /// Plain lines.
    Plain,
    /// JSON objects, one a line.
    Json,
    /// Nothing.
    Silent,
}

impl View {
    /// JSON or plain lines if asked for, else the dashboard on a terminal.
    pub fn choose(plain: bool, json: bool) -> Self {
        let terminal = io::stdout().is_terminal() && io::stdin().is_terminal();
        if json {
            Self::Json
        } else if terminal && !plain {
            Self::Dashboard
        } else {
            Self::Plain
        }
    }
}

/// Writes a line to standard output. A reader that went away is no reason to stop.
pub fn say(line: impl std::fmt::Display) {
    let _ = writeln!(io::stdout(), "{line}");
}

/// Writes a line for people to standard error, where standard output belongs to a machine.
pub fn note(line: impl std::fmt::Display) {
    let _ = writeln!(io::stderr(), "{line}");
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

/// Shows a training.
pub(crate) struct Reporter {
    view: View,
    dashboard: Option<Dashboard>,
    epochs: usize,
    /// Pictures of an epoch, and those done since the start of this process.
    pictures: usize,
    done: usize,
    started: Instant,
    last_line: Instant,
}

impl Reporter {
    /// Begins with the training of `epoch`, counted from 1.
    pub(crate) fn start(
        view: View,
        interrupter: &Interrupter,
        epoch: usize,
        epochs: usize,
        pictures: usize,
    ) -> Self {
        let dashboard = (view == View::Dashboard).then(|| {
            let resumed = (epoch > 1).then_some(epoch - 1);
            let mut dashboard = Dashboard::new(interrupter.clone(), resumed);
            dashboard.renderer.start(epochs, epoch, None, None);
            dashboard
        });
        let now = Instant::now();
        Self {
            view,
            dashboard,
            epochs,
            pictures,
            done: 0,
            started: now,
            last_line: now,
        }
    }

    pub(crate) fn start_epoch(&mut self) {
        self.last_line = Instant::now();
        if let Some(dashboard) = &mut self.dashboard {
            dashboard.renderer.start_split("train", self.pictures);
        }
    }

    /// A batch of `count` pictures is done.
    pub(crate) fn batch(&mut self, epoch: usize, count: usize, sums: &Sums) {
        self.done += count;
        if let Some(dashboard) = &mut self.dashboard {
            for (name, value) in sums.values() {
                dashboard.show(&name, value);
            }
            dashboard.renderer.update_split(sums.pictures);
        }
        if self.view == View::Plain && self.last_line.elapsed() >= PERIOD {
            self.last_line = Instant::now();
            say(format_args!(
                "{}, {} of {} pictures | loss {:.4}{}",
                self.head(epoch),
                sums.pictures,
                self.pictures,
                sums.loss / sums.pictures.max(1) as f64,
                self.time_left(epoch, sums.pictures),
            ));
        }
    }

    pub(crate) fn end_epoch(&mut self, row: &EpochRow) {
        if let Some(dashboard) = &mut self.dashboard {
            dashboard.renderer.end_split();
            for (name, value) in &row.values {
                dashboard.show(name, *value);
            }
            dashboard.renderer.update_epoch(row.epoch);
        }
        match self.view {
            View::Plain => {
                let left = self.time_left(row.epoch, self.pictures);
                say(format_args!(
                    "{} | {}{left}",
                    self.head(row.epoch),
                    describe(row)
                ));
            }
            View::Json => say(serde_json::json!({"event": "epoch", "metrics": row})),
            View::Dashboard | View::Silent => {}
        }
    }

    fn head(&self, epoch: usize) -> String {
        let width = self.epochs.to_string().len();
        format!("epoch {epoch:>width$}/{}", self.epochs)
    }

    fn time_left(&self, epoch: usize, done_in_epoch: usize) -> String {
        let left = self.epochs.saturating_sub(epoch) * self.pictures
            + self.pictures.saturating_sub(done_in_epoch);
        if self.done == 0 || left == 0 {
            return String::new();
        }
        let each = self.started.elapsed().as_secs_f64() / self.done as f64;
        format!(", {} left", duration(each * left as f64))
    }
}

impl Drop for Reporter {
    // Gives the terminal back, however the training ended.
    fn drop(&mut self) {
        if let Some(dashboard) = &mut self.dashboard {
            dashboard.renderer.end();
            let _ = dashboard.renderer.on_train_end(None);
        }
    }
}

/// An epoch on one line.
fn describe(row: &EpochRow) -> String {
    let value = |name: &str| row.values.get(name).copied();
    let mut text = "train".to_owned();
    let mut scores = |loss: &str, accuracy: &str, head: &str| {
        let (loss, accuracy) = (value(loss), value(accuracy));
        if loss.is_some() || accuracy.is_some() {
            text.push_str(head);
        }
        if let Some(loss) = loss {
            text.push_str(&format!(" loss {loss:.4}"));
        }
        if let Some(accuracy) = accuracy {
            text.push_str(&format!(" accuracy {accuracy:.2} %"));
        }
    };
    scores(metrics::TRAIN_LOSS, metrics::TRAIN_ACCURACY, "");
    scores(
        metrics::VALID_LOSS,
        metrics::VALID_ACCURACY,
        " | validation",
    );
    match (
        value(metrics::FORWARD_STEPS),
        value(metrics::BACKWARD_STEPS),
    ) {
        (Some(forward), Some(backward)) => text.push_str(&format!(
            " | solver steps {forward:.1} forward, {backward:.1} backward"
        )),
        (Some(steps), None) => text.push_str(&format!(" | solver steps {steps:.1}")),
        _ => {}
    }
    format!("{text} | {}", duration(row.seconds))
}

/// Burn's dashboard, fed with the names of the metrics.
struct Dashboard {
    renderer: Box<dyn MetricsRenderer>,
}

impl Dashboard {
    /// Metrics that are shown, under which title, with which unit, and whether more is better.
    const SHOWN: [(&'static str, &'static str, Option<&'static str>, bool); 8] = [
        (metrics::TRAIN_LOSS, "Loss", None, false),
        (metrics::VALID_LOSS, "Loss", None, false),
        (metrics::TRAIN_ACCURACY, "Accuracy", Some("%"), true),
        (metrics::VALID_ACCURACY, "Accuracy", Some("%"), true),
        (metrics::FORWARD_STEPS, "Forward steps", None, false),
        (metrics::BACKWARD_STEPS, "Backward steps", None, false),
        (metrics::FORWARD_RESIDUAL, "Forward residual", None, false),
        (metrics::BACKWARD_RESIDUAL, "Backward residual", None, false),
    ];

    fn new(interrupter: Interrupter, resumed_from: Option<usize>) -> Self {
        let mut renderer: Box<dyn MetricsRenderer> =
            Box::new(TuiMetricsRendererWrapper::new(interrupter, resumed_from));
        for (name, title, unit, higher_is_better) in Self::SHOWN {
            if name.starts_with("train") {
                renderer.register_metric(MetricDefinition {
                    metric_id: Self::id(title),
                    name: title.to_owned().into(),
                    description: None,
                    attributes: NumericAttributes {
                        unit: unit.map(str::to_owned),
                        higher_is_better,
                    }
                    .into(),
                });
            }
        }
        Self { renderer }
    }

    fn id(title: &str) -> MetricId {
        MetricId::new(title.to_owned().into())
    }

    fn show(&mut self, name: &str, value: f64) {
        let Some((_, title, unit, _)) = Self::SHOWN.iter().find(|shown| shown.0 == name) else {
            return;
        };
        let text = format!(
            "{value:.4}{}",
            unit.map(|unit| format!(" {unit}")).unwrap_or_default()
        );
        let entry = MetricEntry::new(
            Self::id(title),
            SerializedEntry::new(text, value.to_string()),
        );
        let state = MetricState::Numeric(entry, Some(NumericEntry::Value(value)));
        if name.starts_with("train") {
            self.renderer.update_train(state);
        } else {
            self.renderer.update_valid(state);
        }
    }
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

    #[test]
    fn an_epoch_is_one_line() {
        let values = [
            (metrics::TRAIN_LOSS, 0.5),
            (metrics::VALID_ACCURACY, 90.0),
            (metrics::FORWARD_STEPS, 5.0),
        ];
        let row = EpochRow {
            epoch: 1,
            seconds: 3.0,
            values: values.map(|(name, value)| (name.to_owned(), value)).into(),
        };
        assert_eq!(
            describe(&row),
            "train loss 0.5000 | validation accuracy 90.00 % | solver steps 5.0 | 3 s"
        );
    }
}
