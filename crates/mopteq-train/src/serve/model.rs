//! The thread of the model.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::play;
use super::queue::{Job, Work};
use super::service::Service;
use crate::data::Pixels;
use crate::predict::Predictor;

impl Service {
    /// Answers what waits, until the queue is closed and empty.
    pub(super) fn compute(&self, predictor: &Predictor) {
        let batch = predictor.config().batch_size.max(1);
        let others = || {
            self.connections.load(Ordering::Relaxed) > 1 && !self.stopping.load(Ordering::Relaxed)
        };
        while let Some(work) = self.queue.next(batch, self.settings.batch_wait, others) {
            match work {
                Work::Classify(jobs) => self.classify_jobs(predictor, jobs),
                Work::Look(look) if look.expires > Instant::now() => {
                    let _ = look.reply.send(play::look(predictor, &look.request));
                }
                Work::Look(_) => {}
            }
        }
    }

    fn classify_jobs(&self, predictor: &Predictor, mut jobs: Vec<Job>) {
        let now = Instant::now();
        jobs.retain(|job| job.expires > now);
        let all: Vec<Pixels> = jobs
            .iter()
            .flat_map(|job| job.pictures.iter().cloned())
            .collect();
        if all.is_empty() {
            return;
        }
        match predictor.answer(&all) {
            Ok(answers) => {
                self.failing.store(false, Ordering::Relaxed);
                self.metrics.batch(all.len());
                let solves = answers.iter().flatten().filter_map(|answer| answer.solve);
                solves.for_each(|solve| self.metrics.solve(solve.steps));
                let mut answers = answers.into_iter();
                for job in jobs {
                    let own = answers.by_ref().take(job.pictures.len()).collect();
                    // The client that waited may be gone.
                    let _ = job.reply.send(Ok(own));
                }
            }
            Err(error) => {
                self.failing.store(true, Ordering::Relaxed);
                self.metrics.faults.fetch_add(1, Ordering::Relaxed);
                let message = crate::Error::from(error).one_line();
                for job in jobs {
                    let _ = job.reply.send(Err(message.clone()));
                }
            }
        }
    }

    /// How long a stop waits for what is in flight.
    pub(super) fn patience(&self) -> Duration {
        self.settings.limits.answer + Duration::from_secs(1)
    }
}
