//! The metrics of every finished epoch.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::metrics::VALID_ACCURACY;

/// What one epoch measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EpochRow {
    /// Number of the epoch, from 1.
    pub epoch: usize,
    /// Wall time of training and validation, in seconds.
    pub seconds: f64,
    /// The metrics by key, such as `train_loss`. Values that were not measured or are not finite
    /// are left out.
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
        let rank = |row: &&EpochRow| row.values.get(VALID_ACCURACY).copied().unwrap_or(-1.0);
        let best = self
            .epochs
            .iter()
            .max_by(|a, b| rank(a).total_cmp(&rank(b)));
        best.map(|row| row.epoch)
    }

    /// The first epoch that reached the best validation accuracy.
    pub fn first_best(&self) -> Option<usize> {
        let last = self.best()?;
        let Some(best) = self.value(last, VALID_ACCURACY) else {
            return Some(last);
        };
        let reached = |row: &&EpochRow| row.values.get(VALID_ACCURACY) == Some(&best);
        self.epochs.iter().find(reached).map(|row| row.epoch)
    }

    /// Seconds of all epochs together.
    pub fn seconds(&self) -> f64 {
        self.epochs.iter().map(|row| row.seconds).sum()
    }

    /// The history as a table: one line per epoch, an empty cell where there is no value.
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
        assert_eq!(
            history(&[Some(90.0), Some(95.0), Some(95.0)]).first_best(),
            Some(2)
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
