//! The metrics of every finished epoch: kept in memory, on disk, and over a resume.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use burn::train::Interrupter;
use burn::train::logger::MetricLogger;
use burn::train::metric::store::{EpochSummary, MetricsUpdate, Split};
use burn::train::metric::{MetricDefinition, MetricId, NumericEntry};
use serde::{Deserialize, Serialize};

use crate::metrics::{ACCURACY, key};
use crate::run::{RunError, RunFolder};

/// What one epoch measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EpochRow {
    /// Number of the epoch, from 1.
    pub epoch: usize,
    /// Wall time of training and validation, in seconds.
    pub seconds: f64,
    /// The metrics by key, such as `train_loss`. What was not measured, or is no finite number,
    /// is left out.
    pub values: BTreeMap<String, f64>,
}

/// The finished epochs of a run, in order.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct History {
    /// One row for each epoch.
    pub epochs: Vec<EpochRow>,
}

impl History {
    /// A metric of an epoch.
    pub fn value(&self, epoch: usize, key: &str) -> Option<f64> {
        self.epochs
            .iter()
            .find(|row| row.epoch == epoch)?
            .values
            .get(key)
            .copied()
    }

    /// Forgets the epochs after the given one, which are about to be repeated.
    pub fn truncate(&mut self, last: usize) {
        self.epochs.retain(|row| row.epoch <= last);
    }

    /// The epoch with the best validation accuracy, the later one of equals; the last epoch when
    /// nothing was validated.
    pub fn best(&self) -> Option<usize> {
        let accuracy = key(&Split::Valid, ACCURACY);
        let rank = |row: &&EpochRow| row.values.get(&accuracy).copied().unwrap_or(-1.0);
        let best = self
            .epochs
            .iter()
            .max_by(|a, b| rank(a).total_cmp(&rank(b)));
        best.map(|row| row.epoch)
    }

    /// Seconds of all epochs together.
    pub fn seconds(&self) -> f64 {
        self.epochs.iter().map(|row| row.seconds).sum()
    }

    /// The history as a table: one line an epoch, an empty cell where there is no value.
    pub fn csv(&self) -> String {
        let keys: BTreeSet<&String> = self
            .epochs
            .iter()
            .flat_map(|row| row.values.keys())
            .collect();
        let mut text = String::from("epoch,seconds");
        for key in &keys {
            text.push(',');
            text.push_str(key);
        }
        text.push('\n');
        for row in &self.epochs {
            text.push_str(&format!("{},{:.3}", row.epoch, row.seconds));
            for key in &keys {
                let value = row.values.get(*key).map(f64::to_string).unwrap_or_default();
                text.push(',');
                text.push_str(&value);
            }
            text.push('\n');
        }
        text
    }
}

/// The history that logger, checkpoints and trainer share.
#[derive(Clone, Debug, Default)]
pub struct SharedHistory(Arc<Mutex<History>>);

impl SharedHistory {
    /// Shares a history.
    pub fn new(history: History) -> Self {
        Self(Arc::new(Mutex::new(history)))
    }

    /// Access to the history.
    pub fn lock(&self) -> MutexGuard<'_, History> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The first failure of a background thread, for the trainer to report.
#[derive(Clone, Debug, Default)]
pub struct FailureSlot(Arc<Mutex<Option<RunError>>>);

impl FailureSlot {
    /// Keeps the error unless there is one already.
    pub fn put(&self, error: RunError) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get_or_insert(error);
    }

    /// Takes the error out.
    pub fn take(&self) -> Option<RunError> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// Burn's hook for metrics: adds a row at the end of each epoch and writes the files.
pub struct HistoryLogger {
    run: RunFolder,
    history: SharedHistory,
    failure: FailureSlot,
    interrupter: Interrupter,
    names: HashMap<MetricId, String>,
    values: BTreeMap<String, f64>,
    started: Instant,
}

impl HistoryLogger {
    /// A logger that goes on from `history`. When the files cannot be written, the error goes to
    /// `failure` and the training is stopped.
    pub fn new(
        run: RunFolder,
        history: SharedHistory,
        failure: FailureSlot,
        interrupter: Interrupter,
    ) -> Self {
        let (names, values, started) = (HashMap::new(), BTreeMap::new(), Instant::now());
        Self {
            run,
            history,
            failure,
            interrupter,
            names,
            values,
            started,
        }
    }
}

impl MetricLogger for HistoryLogger {
    fn log(&mut self, update: MetricsUpdate, _epoch: usize, split: &Split) {
        for metric in update.entries_numeric {
            // Batches come and go; the value of the epoch is marked as final.
            if let Some(NumericEntry::Final(value)) = metric.numeric_entry
                && value.is_finite()
                && let Some(name) = self.names.get(&metric.entry.metric_id)
            {
                self.values.insert(key(split, name), value);
            }
        }
    }

    fn read_numeric(
        &mut self,
        name: &str,
        epoch: usize,
        split: &Split,
    ) -> Result<Vec<NumericEntry>, String> {
        let value = self.history.lock().value(epoch, &key(split, name));
        Ok(value.into_iter().map(NumericEntry::Final).collect())
    }

    fn log_metric_definition(&mut self, definition: MetricDefinition) {
        self.names
            .insert(definition.metric_id, definition.name.to_string());
    }

    fn log_epoch_summary(&mut self, summary: EpochSummary) {
        // The validation ends an epoch, even an empty one.
        if summary.split != Split::Valid {
            return;
        }
        let row = EpochRow {
            epoch: summary.epoch_number,
            seconds: self.started.elapsed().as_secs_f64(),
            values: std::mem::take(&mut self.values),
        };
        self.started = Instant::now();
        let mut history = self.history.lock();
        history.truncate(row.epoch - 1);
        history.epochs.push(row);
        if let Err(error) = self.run.write_history(&history) {
            self.failure.put(error);
            self.interrupter
                .stop(Some("the metrics could not be written"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn history(accuracies: &[Option<f64>]) -> History {
        let row = |(i, accuracy): (usize, &Option<f64>)| EpochRow {
            epoch: i + 1,
            seconds: 1.5,
            values: accuracy
                .iter()
                .map(|value| ("valid_accuracy".to_owned(), *value))
                .collect(),
        };
        History {
            epochs: accuracies.iter().enumerate().map(row).collect(),
        }
    }

    #[test]
    fn the_best_epoch_is_the_most_accurate_and_the_latest_of_equals() {
        assert_eq!(
            history(&[Some(90.0), Some(95.0), Some(95.0), Some(94.0)]).best(),
            Some(3)
        );
        assert_eq!(history(&[None, None]).best(), Some(2));
        assert_eq!(history(&[]).best(), None);
    }

    #[test]
    fn the_table_has_a_column_for_every_metric() {
        let mut history = history(&[Some(90.5), None]);
        history.epochs[1].values.insert("train_loss".into(), 0.25);
        let expected = "epoch,seconds,train_loss,valid_accuracy\n1,1.500,,90.5\n2,1.500,0.25,\n";
        assert_eq!(history.csv(), expected);
        history.truncate(1);
        assert_eq!((history.epochs.len(), history.seconds()), (1, 1.5));
    }
}
