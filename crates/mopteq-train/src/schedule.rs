//! The learning rate over the steps of a run: constant, multiplied by a factor at milestones.

use burn::lr_scheduler::LrSchedulerConfig;
use burn::lr_scheduler::module_lr_scheduler::ModuleLrScheduler;
use burn::lr_scheduler::sequential::SequentialLrSchedulerConfig;

use crate::config::TrainConfig;

/// A multi-step schedule. Burn has none of its own, but a sequence of constants is one.
#[derive(Clone, Debug, PartialEq)]
pub struct MultiStep {
    /// Learning rate of each stretch.
    rates: Vec<f64>,
    /// Number of completed steps at which the next stretch begins.
    starts: Vec<usize>,
}

impl MultiStep {
    /// The schedule of a run with this many steps (batches) in all.
    pub fn new(config: &TrainConfig, steps: usize) -> Self {
        let mut rates = vec![config.learning_rate];
        let mut starts = Vec::new();
        for (index, fraction) in config.milestones.iter().enumerate() {
            let start = (fraction * steps as f64).round() as usize;
            let rate = config.learning_rate * config.gamma.powi(index as i32 + 1);
            // In a short run milestones can meet each other or an end of the training.
            if start == 0 || starts.last() == Some(&start) {
                rates.pop();
            } else if start >= steps {
                continue;
            } else {
                starts.push(start);
            }
            rates.push(rate);
        }
        Self { rates, starts }
    }

    /// The learning rate of a step, counted from 0.
    pub fn rate(&self, step: usize) -> f64 {
        self.rates[self.starts.partition_point(|start| step >= *start)]
    }

    /// The schedule as Burn runs it, one step a batch.
    ///
    /// # Errors
    ///
    /// What Burn says, should it refuse the sequence.
    pub fn scheduler(&self) -> Result<ModuleLrScheduler, String> {
        let constants = self
            .rates
            .iter()
            .map(|rate| LrSchedulerConfig::Constant(*rate))
            .collect();
        SequentialLrSchedulerConfig::new(constants, self.starts.clone()).init()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::DataKind;

    fn schedule(milestones: Vec<f64>, steps: usize) -> MultiStep {
        let config = TrainConfig {
            learning_rate: 1.0,
            gamma: 0.5,
            milestones,
            ..TrainConfig::preset(DataKind::Digits)
        };
        MultiStep::new(&config, steps)
    }

    #[test]
    fn falls_at_the_milestones() {
        let schedule = schedule(vec![0.5, 0.75], 8);
        let rates: Vec<f64> = (0..8).map(|step| schedule.rate(step)).collect();
        assert_eq!(rates, [1.0, 1.0, 1.0, 1.0, 0.5, 0.5, 0.25, 0.25]);
        let mut scheduler = schedule.scheduler().unwrap();
        let burn: Vec<f64> = (0..8).map(|_| scheduler.step().base()).collect();
        assert_eq!(burn, rates);
    }

    #[test]
    fn short_runs_merge_milestones() {
        for (milestones, steps) in [
            (vec![0.5, 0.51], 2),
            (vec![0.01, 0.02], 1),
            (vec![0.9, 0.99], 1),
            (vec![], 3),
        ] {
            let schedule = schedule(milestones.clone(), steps);
            assert!(schedule.scheduler().is_ok(), "{milestones:?} over {steps}");
        }
        assert_eq!(schedule(vec![0.5, 0.51], 2).rate(1), 0.25);
        assert_eq!(schedule(vec![0.01, 0.02], 1).rate(0), 0.25);
    }
}
