//! What waits for the model: one thread computes, and takes pictures that arrive together as a
//! batch.

use std::collections::VecDeque;
use std::sync::mpsc::SyncSender;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::play::Look;
use crate::data::Pixels;
use crate::predict::Answer;

/// The model's answers for the pictures of a request, with `None` for a picture without finite
/// numbers; or why there is no answer at all.
pub(super) type Answers = Result<Vec<Option<Answer>>, String>;

/// Pictures of one request.
pub(super) struct Job {
    pub(super) pictures: Vec<Pixels>,
    /// The time from which on nobody waits for the answer any more.
    pub(super) expires: Instant,
    pub(super) reply: SyncSender<Answers>,
}

/// What the model is asked for.
pub(super) enum Work {
    /// Pictures of several requests.
    Classify(Vec<Job>),
    /// A look at one picture's equilibrium.
    Look(Box<Look>),
}

/// Why a request cannot wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// Too many pictures wait.
    Full,
    /// The server stops.
    Closed,
}

enum Entry {
    Job(Job),
    Look(Box<Look>),
}

impl Entry {
    fn pictures(&self) -> usize {
        match self {
            Self::Job(job) => job.pictures.len(),
            Self::Look(_) => 1,
        }
    }
}

#[derive(Default)]
struct Waiting {
    entries: VecDeque<Entry>,
    pictures: usize,
    closed: bool,
}

/// A bounded queue.
pub(super) struct Queue {
    waiting: Mutex<Waiting>,
    changed: Condvar,
    most: usize,
}

impl Queue {
    /// A queue of at most `most` pictures.
    pub(super) fn new(most: usize) -> Self {
        Self {
            waiting: Mutex::default(),
            changed: Condvar::new(),
            most,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Pictures that wait.
    pub(super) fn len(&self) -> usize {
        self.lock().pictures
    }

    pub(super) fn push(&self, job: Job) -> Result<(), Refusal> {
        self.add(Entry::Job(job))
    }

    pub(super) fn push_look(&self, look: Look) -> Result<(), Refusal> {
        self.add(Entry::Look(Box::new(look)))
    }

    fn add(&self, entry: Entry) -> Result<(), Refusal> {
        let mut waiting = self.lock();
        if waiting.closed {
            return Err(Refusal::Closed);
        }
        if waiting.pictures + entry.pictures() > self.most {
            return Err(Refusal::Full);
        }
        waiting.pictures += entry.pictures();
        waiting.entries.push_back(entry);
        self.changed.notify_all();
        Ok(())
    }

    /// Ends the wait for other pictures, if `others` now says that none will come.
    pub(super) fn hurry(&self) {
        self.changed.notify_all();
    }

    /// Takes no more work. What waits is still answered.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
    }

    /// The next work; `None` once the queue is closed and empty.
    ///
    /// Fewer than `batch` pictures wait up to `window` for others, if others can come. A single
    /// client would wait for nobody.
    pub(super) fn next(
        &self,
        batch: usize,
        window: Duration,
        others: impl Fn() -> bool,
    ) -> Option<Work> {
        let mut waiting = self.lock();
        loop {
            let Some(first) = waiting.entries.pop_front() else {
                if waiting.closed {
                    return None;
                }
                let woken = self.changed.wait(waiting);
                waiting = woken.unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            if let Entry::Look(look) = first {
                waiting.pictures -= 1;
                return Some(Work::Look(look));
            }
            waiting.entries.push_front(first);
            break;
        }
        let deadline = Instant::now() + window;
        while waiting.pictures < batch && !waiting.closed && others() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            let woken = self.changed.wait_timeout(waiting, left);
            (waiting, _) = woken.unwrap_or_else(PoisonError::into_inner);
        }
        let (mut jobs, mut pictures) = (Vec::new(), 0);
        while let Some(Entry::Job(job)) = waiting.entries.front() {
            if pictures > 0 && pictures + job.pictures.len() > batch {
                break;
            }
            pictures += job.pictures.len();
            if let Some(Entry::Job(job)) = waiting.entries.pop_front() {
                jobs.push(job);
            }
        }
        waiting.pictures -= pictures;
        Some(Work::Classify(jobs))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, sync_channel};

    use super::*;

    fn job(pictures: usize) -> (Job, Receiver<Answers>) {
        let (reply, answer) = sync_channel(1);
        let job = Job {
            pictures: vec![vec![0].into(); pictures],
            expires: Instant::now() + Duration::from_secs(60),
            reply,
        };
        (job, answer)
    }

    fn sizes(work: Option<Work>) -> Vec<usize> {
        match work {
            Some(Work::Classify(jobs)) => jobs.iter().map(|job| job.pictures.len()).collect(),
            _ => panic!("no pictures"),
        }
    }

    #[test]
    fn what_is_too_much_is_refused_and_the_rest_is_batched_in_order() {
        let queue = Queue::new(7);
        for (count, taken) in [(3, true), (2, true), (3, false), (2, true), (1, false)] {
            let expected = if taken { Ok(()) } else { Err(Refusal::Full) };
            assert_eq!(queue.push(job(count).0), expected, "{count}");
        }
        let next = || queue.next(5, Duration::ZERO, || true);
        assert_eq!((queue.len(), sizes(next())), (7, vec![3, 2]));
        queue.close();
        assert_eq!(queue.push(job(1).0), Err(Refusal::Closed));
        assert_eq!((queue.len(), sizes(next())), (2, vec![2]));
        assert!(next().is_none());
    }

    #[test]
    fn a_job_of_more_than_a_batch_is_taken_alone() {
        let queue = Queue::new(100);
        queue.push(job(1).0).unwrap();
        queue.push(job(50).0).unwrap();
        let next = || sizes(queue.next(5, Duration::ZERO, || true));
        assert_eq!((next(), next()), (vec![1], vec![50]));
    }

    #[test]
    fn pictures_wait_for_company_only_if_it_can_come() {
        let queue = Queue::new(100);
        queue.push(job(1).0).unwrap();
        let long = Duration::from_secs(3600);
        assert_eq!(sizes(queue.next(5, long, || false)), [1]);
        queue.push(job(1).0).unwrap();
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| sizes(queue.next(2, long, || true)));
            queue.push(job(1).0).unwrap();
            assert_eq!(waiting.join().unwrap(), [1, 1]);
        });
        queue.push(job(1).0).unwrap();
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| sizes(queue.next(2, long, || true)));
            queue.close();
            assert_eq!(waiting.join().unwrap(), [1]);
        });
    }
}
