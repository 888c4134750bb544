//! The learning rate over the steps of a run.

pub use crate::config::ScheduleKind;
use crate::config::TrainConfig;

/// The learning rate as a function of the number of completed optimiser steps, and of nothing else.
/// So it needs no memory across a resume.
#[derive(Clone, Debug, PartialEq)]
pub struct Schedule {
    kind: ScheduleKind,
    base: f64,
    /// All steps, and those of the warm-up.
    steps: usize,
    warmup: usize,
    final_fraction: f64,
    /// Learning rate of each stretch of a multi-step schedule.
    rates: Vec<f64>,
    /// Number of completed steps at which the next stretch begins.
    starts: Vec<usize>,
}

impl Schedule {
    /// The schedule of a run with this many optimiser steps in all.
    pub fn new(config: &TrainConfig, steps: usize) -> Self {
        let mut rates = vec![config.learning_rate];
        let mut starts = Vec::new();
        for (index, fraction) in config.milestones.iter().enumerate() {
            let start = (fraction * steps as f64).round() as usize;
            let rate = config.learning_rate * config.gamma.powi(index as i32 + 1);
            // In a short run, milestones can coincide with each other or with an end of the
            // training.
            if start == 0 || starts.last() == Some(&start) {
                rates.pop();
            } else if start >= steps {
                continue;
            } else {
                starts.push(start);
            }
            rates.push(rate);
        }
        let warmup = config.warmup_epochs / config.epochs as f64 * steps as f64;
        Self {
            kind: config.schedule,
            base: config.learning_rate,
            steps,
            warmup: warmup.round() as usize,
            final_fraction: config.final_fraction,
            rates,
            starts,
        }
    }

    /// The learning rate of a step, counted from 0.
    pub fn rate(&self, step: usize) -> f64 {
        let rate = match self.kind {
            ScheduleKind::Constant => self.base,
            ScheduleKind::MultiStep => {
                self.rates[self.starts.partition_point(|start| step >= *start)]
            }
            ScheduleKind::Cosine => {
                let span = self.steps.saturating_sub(self.warmup).max(1) as f64;
                let done = (step.saturating_sub(self.warmup) as f64 / span).min(1.0);
                let falling = 0.5 * (1.0 + (std::f64::consts::PI * done).cos());
                self.base * (self.final_fraction + (1.0 - self.final_fraction) * falling)
            }
        };
        if step < self.warmup {
            rate * (step + 1) as f64 / (self.warmup + 1) as f64
        } else {
            rate
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(milestones: Vec<f64>, steps: usize) -> Schedule {
        let config = TrainConfig {
            learning_rate: 1.0,
            gamma: 0.5,
            milestones,
            ..TrainConfig::digits()
        };
        Schedule::new(&config, steps)
    }

    fn rates(schedule: &Schedule) -> Vec<f64> {
        (0..schedule.steps)
            .map(|step| schedule.rate(step))
            .collect()
    }

    #[test]
    fn falls_at_the_milestones() {
        let rates = rates(&schedule(vec![0.5, 0.75], 8));
        assert_eq!(rates, [1.0, 1.0, 1.0, 1.0, 0.5, 0.5, 0.25, 0.25]);
    }

    #[test]
    fn short_runs_merge_milestones() {
        assert_eq!(schedule(vec![0.5, 0.51], 2).rate(1), 0.25);
        assert_eq!(schedule(vec![0.01, 0.02], 1).rate(0), 0.25);
        assert_eq!(schedule(vec![0.9, 0.99], 1).rate(0), 1.0);
        assert_eq!(schedule(vec![], 3).rate(2), 1.0);
    }

    #[test]
    fn warms_up_and_falls_along_a_cosine() {
        let config = TrainConfig {
            learning_rate: 1.0,
            schedule: ScheduleKind::Cosine,
            epochs: 10,
            warmup_epochs: 2.0,
            final_fraction: 0.1,
            ..TrainConfig::digits()
        };
        let rates = rates(&Schedule::new(&config, 100));
        assert!(rates[..21].is_sorted() && rates[20] == 1.0 && rates[0] > 0.0);
        assert!(rates[20..].is_sorted_by(|a, b| a >= b));
        assert!((rates[60] - 0.55).abs() < 1e-12 && rates[99] > 0.1 && rates[99] < 0.102);
    }
}
