//! Bounds on what all requests together take: memory for bodies, cores for decoding.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Instant;

/// Bytes of a body that are not counted, so that large uploads never keep small ones out.
const FREE: u64 = 64 << 10;

/// The memory for the bodies of all requests.
pub(crate) struct Room {
    left: AtomicU64,
}

impl Room {
    /// Room for this many bytes.
    pub(crate) fn new(bytes: u64) -> Self {
        let left = AtomicU64::new(bytes);
        Self { left }
    }

    /// A hold on it, empty at first.
    pub(crate) fn hold(&self) -> Hold<'_> {
        let (room, bytes) = (self, 0);
        Hold { room, bytes }
    }
}

/// A part of the room, until it is dropped.
pub(crate) struct Hold<'a> {
    room: &'a Room,
    bytes: u64,
}

impl Hold<'_> {
    /// Takes what a body of `bytes` bytes needs. Returns whether there was enough.
    pub(crate) fn grow_to(&mut self, bytes: u64) -> bool {
        let more = bytes.saturating_sub(FREE).saturating_sub(self.bytes);
        let take = |left: u64| left.checked_sub(more);
        let taken = more == 0 || self.room.left.fetch_update(Relaxed, Relaxed, take).is_ok();
        self.bytes += if taken { more } else { 0 };
        taken
    }
}

impl Drop for Hold<'_> {
    fn drop(&mut self) {
        self.room.left.fetch_add(self.bytes, Relaxed);
    }
}

/// Lets a number of threads in at a time.
pub(super) struct Gate {
    free: Mutex<usize>,
    left: Condvar,
}

impl Gate {
    pub(super) fn new(places: usize) -> Self {
        Self {
            free: Mutex::new(places),
            left: Condvar::new(),
        }
    }

    /// Runs `work` inside; `None` if no place becomes free in time.
    pub(super) fn run<T>(&self, deadline: Instant, work: impl FnOnce() -> T) -> Option<T> {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        while *free == 0 {
            let wait = deadline.checked_duration_since(Instant::now())?;
            let woken = self.left.wait_timeout(free, wait);
            (free, _) = woken.unwrap_or_else(PoisonError::into_inner);
        }
        *free -= 1;
        drop(free);
        let _place = Place(self);
        Some(work())
    }
}

/// Given back even if the work panics.
struct Place<'a>(&'a Gate);

impl Drop for Place<'_> {
    fn drop(&mut self) {
        *self.0.free.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        self.0.left.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_bodies_share_the_room_and_small_ones_need_none() {
        let room = Room::new(100);
        let (mut first, mut second) = (room.hold(), room.hold());
        assert!(first.grow_to(FREE) && first.grow_to(FREE + 60) && first.grow_to(FREE + 60));
        assert!(!second.grow_to(FREE + 41) && second.grow_to(FREE) && second.grow_to(FREE + 40));
        drop(first);
        assert!(second.grow_to(FREE + 100));
    }

    #[test]
    fn a_place_comes_back_after_a_panic() {
        let gate = Gate::new(1);
        let now = Instant::now();
        let fails = std::panic::AssertUnwindSafe(|| gate.run(now, || panic!("once")));
        assert!(std::panic::catch_unwind(fails).is_err());
        assert_eq!(gate.run(now, || gate.run(now, || 1)), Some(None));
    }
}
