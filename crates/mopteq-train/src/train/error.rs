//! Why a training did not reach its end.

use std::path::PathBuf;

use crate::checkpoint::{self, Position};
use crate::crash::Crash;
use crate::progress::warn;
use crate::run::{RunError, RunFolder};

/// A training did not reach its end.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// Nothing is left to train on.
    #[error(
        "no picture is left to train on; raise limit (--limit) or lower validation_fraction \
         (--validation-fraction)"
    )]
    NoPictures,
    /// The loss is no longer finite.
    #[error(
        "the loss became {loss} in epoch {epoch}, batch {batch}; {saved}: a new run with a lower \
         learning rate (--lr), --clip-norm 1 or --warmup 2 may do better"
    )]
    NotFinite {
        /// The loss.
        loss: f64,
        /// Epoch, from 1.
        epoch: usize,
        /// Batch, from 1.
        batch: usize,
        /// What was saved before.
        saved: String,
    },
    /// The parameters or the model's outputs are no longer finite.
    #[error(
        "{what} no finite numbers any more after {done}; {saved}: a new run with a lower learning \
         rate (--lr), --clip-norm 1 or --warmup 2 may do better"
    )]
    Diverged {
        /// What is not finite, with its verb.
        what: String,
        /// How far the training is.
        done: Position,
        /// What was saved before.
        saved: String,
    },
    /// Nothing is left to choose the best checkpoint by.
    #[error(
        "patience is {patience}, but no picture is held out for validation: {fraction} of each \
         class is less than one; raise --validation-fraction, or leave out --patience"
    )]
    NoValidation {
        /// Epochs that it asks for.
        patience: usize,
        /// The share that is held out.
        fraction: f64,
    },
    /// The user stopped it.
    #[error(
        "stopped and saved after {done} of {epochs} epochs; go on by: mopteq train --resume {run}"
    )]
    Interrupted {
        /// What is done and saved.
        done: Position,
        /// Epochs of the whole run.
        epochs: usize,
        /// The run folder.
        run: PathBuf,
    },
    /// A library underneath gave up.
    #[error(
        "{what} failed: {message}; {remedy}; what was saved is intact, go on by --resume {run}"
    )]
    Crashed {
        /// What was going on.
        what: &'static str,
        /// The first thing that went wrong.
        message: String,
        /// What may help.
        remedy: &'static str,
        /// The run folder.
        run: PathBuf,
    },
}

/// Weights cannot be started from. Every variant names their file or run.
#[derive(Debug, thiserror::Error)]
pub enum WeightsError {
    /// There is nothing at that path.
    #[error("--from {0}: there is no such run folder or exported model")]
    Missing(PathBuf),
    /// They are those of another model.
    #[error(
        "--from {path}: its weights do not fit the model ({difference}); leave the options of the \
         model as they are there"
    )]
    Mismatch {
        /// Where the weights are.
        path: PathBuf,
        /// A tensor that differs, and how many more do.
        difference: String,
    },
    /// Nothing is left to test on.
    #[error(
        "--from {0}: it was trained on every test picture of these data; add pictures that it \
         does not know"
    )]
    AllSeen(PathBuf),
}

impl TrainError {
    pub(crate) fn diverged(what: &str, done: Position, run: &RunFolder) -> Self {
        let (what, saved) = (what.to_owned(), Self::saved(run));
        Self::Diverged { what, done, saved }
    }

    /// What a new run may start from.
    pub(crate) fn saved(run: &RunFolder) -> String {
        let place = run.path().display();
        match checkpoint::positions(run).last() {
            Some(last) => format!("the state after {last} is intact (--from {place})"),
            None => "nothing was saved".into(),
        }
    }
}

/// Keeps the stack of a crash in the run folder, and its message for the user.
pub(crate) fn crashed(what: &'static str, crash: Crash, run: &RunFolder) -> TrainError {
    let log = format!("{what}: {}\n\n{}\n", crash.message, crash.backtrace);
    if let Err(error @ RunError::Io { .. }) = run.write_crash(&log) {
        warn(error);
    }
    TrainError::Crashed {
        what,
        remedy: remedy(&crash.message).unwrap_or("crash.log in the run folder has the details"),
        message: crash.message,
        run: run.path().into(),
    }
}

/// What may help against a crash of the device, if its message says what happened.
pub(crate) fn remedy(message: &str) -> Option<&'static str> {
    let message = message.to_lowercase();
    let says = |words: &[&str]| words.iter().any(|word| message.contains(word));
    if says(&[
        "out of memory",
        "outofmemory",
        "out_of_memory",
        "allocat",
        "too large",
    ]) {
        Some(
            "the device is out of memory: use a smaller --batch-size, with --accumulate for the \
             same step",
        )
    } else if says(&["lost", "device removed", "illegal", "ecc", "xid"]) {
        Some("the device was lost: check its driver and temperature, or use --device cpu")
    } else if says(&["recverror", "remote session", "response channel"]) {
        Some("the connection to a worker broke: start the worker again, or train without it")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crashes_of_the_device_have_a_remedy() {
        assert!(remedy("CUDA_ERROR_OUT_OF_MEMORY").is_some_and(|r| r.contains("--batch-size")));
        assert!(remedy("Parent device is lost").is_some_and(|r| r.contains("--device cpu")));
        let broken = "Caused by: Failed to read tensor: RecvError(())";
        assert!(remedy(broken).is_some_and(|r| r.contains("worker")));
        assert_eq!(remedy("index out of bounds"), None);
    }
}
