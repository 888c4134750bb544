//! What a training tells the user while it runs.
//!
//! People get a line for each epoch. Within an epoch, a terminal shows a line that is rewritten,
//! and a pipe or a log file gets a line every few seconds. Machines get a JSON object for each
//! epoch. A build with the feature `dashboard` shows Burn's dashboard on a terminal.

use std::io::{self, IsTerminal, Write};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::history::EpochRow;
use crate::metrics::{self, Sums};
pub use crate::names::duration;

/// Time after which a training shows its progress.
const FIRST: Duration = Duration::from_secs(2);
/// Time between two lines within an epoch.
const PERIOD: Duration = Duration::from_secs(10);
/// Time between two changes of the line on a terminal.
const PERIOD_ON_TERMINAL: Duration = Duration::from_millis(500);

/// How a training is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum View {
    /// Burn's dashboard, where it is built in; plain lines elsewhere.
    Dashboard,
    /// Plain lines.
    Plain,
    /// JSON objects, one on each line.
    Json,
    /// Nothing.
    Silent,
}

impl View {
    /// JSON or plain lines if asked for. Otherwise the dashboard on a terminal, if it is built in.
    pub fn choose(plain: bool, json: bool) -> Self {
        let terminal = io::stdout().is_terminal() && io::stdin().is_terminal();
        if json {
            Self::Json
        } else if terminal && !plain && cfg!(feature = "dashboard") {
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

/// Shows a training.
pub(crate) trait Display {
    fn start_epoch(&mut self);

    /// Shows `sums`, those of the batches of this epoch so far.
    /// `computed` also counts the pictures that are not in the sums yet.
    fn batch(&mut self, epoch: usize, computed: usize, sums: &Sums);

    fn end_epoch(&mut self, row: &EpochRow);

    /// Whether the user asked to stop in this display.
    fn wants_to_stop(&self) -> bool {
        false
    }
}

/// How much a training has to do.
#[derive(Clone, Copy)]
pub(crate) struct Extent {
    /// The first epoch of this process, counted from 1.
    pub(crate) first: usize,
    /// Epochs of the run.
    pub(crate) epochs: usize,
    /// Pictures of an epoch.
    pub(crate) pictures: usize,
    /// Pictures of the first epoch that an earlier process trained on.
    pub(crate) done: usize,
}

/// The display for a view, without the dashboard.
pub(crate) fn display(view: View, extent: Extent) -> Box<dyn Display> {
    match view {
        View::Dashboard | View::Plain => Box::new(Lines::new(extent)),
        View::Json => Box::new(Json),
        View::Silent => Box::new(Silent),
    }
}

struct Silent;

impl Display for Silent {
    fn start_epoch(&mut self) {}
    fn batch(&mut self, _: usize, _: usize, _: &Sums) {}
    fn end_epoch(&mut self, _: &EpochRow) {}
}

struct Json;

impl Display for Json {
    fn start_epoch(&mut self) {}
    fn batch(&mut self, _: usize, _: usize, _: &Sums) {}
    fn end_epoch(&mut self, row: &EpochRow) {
        say(serde_json::json!({"event": "epoch", "metrics": row}));
    }
}

/// Plain lines with the time left.
struct Lines {
    extent: Extent,
    started: Instant,
    /// When the first batch was done, and the number of pictures trained on by then. A GPU compiles
    /// its kernels before that, so the pace is measured from then on.
    warm: Option<(Instant, usize)>,
    compiling: Option<Ticker>,
    shown: Option<Instant>,
    terminal: bool,
    /// Whether a line on the terminal has to be wiped.
    drawn: bool,
}

impl Lines {
    fn new(extent: Extent) -> Self {
        Self {
            extent,
            started: Instant::now(),
            warm: None,
            compiling: Some(Ticker::start(PERIOD, tell_compiled)),
            shown: None,
            terminal: io::stdout().is_terminal(),
            drawn: false,
        }
    }

    fn period(&self) -> Duration {
        if self.terminal {
            PERIOD_ON_TERMINAL
        } else {
            PERIOD
        }
    }

    fn head(&self, epoch: usize) -> String {
        let width = self.extent.epochs.to_string().len();
        format!("epoch {epoch:>width$}/{}", self.extent.epochs)
    }

    /// Pictures that this process has trained on.
    fn trained(&self, epoch: usize, done_in_epoch: usize) -> usize {
        let Extent {
            first,
            pictures,
            done,
            ..
        } = self.extent;
        ((epoch - first) * pictures + done_in_epoch).saturating_sub(done)
    }

    /// The time left, from the pace of this process so far.
    fn time_left(&self, epoch: usize, done_in_epoch: usize) -> String {
        let Extent {
            epochs, pictures, ..
        } = self.extent;
        let left = epochs.saturating_sub(epoch) * pictures + pictures.saturating_sub(done_in_epoch);
        let Some((since, before)) = self.warm else {
            return String::new();
        };
        let trained = self.trained(epoch, done_in_epoch).saturating_sub(before);
        if trained == 0 || left == 0 {
            return String::new();
        }
        let each = since.elapsed().as_secs_f64() / trained as f64;
        format!(", {} left", duration(each * left as f64))
    }

    fn wipe(&mut self) {
        if std::mem::take(&mut self.drawn) {
            let _ = write!(io::stdout(), "\r\x1b[2K");
        }
    }
}

impl Display for Lines {
    fn start_epoch(&mut self) {}

    fn batch(&mut self, epoch: usize, computed: usize, sums: &Sums) {
        let now = Instant::now();
        self.compiling = None;
        if self.warm.is_none() {
            self.warm = Some((now, self.trained(epoch, computed)));
        }
        let due = match self.shown {
            None => now - self.started >= FIRST.min(self.period()),
            Some(shown) => now - shown >= self.period(),
        };
        // The loss arrives one batch late.
        if !due || sums.pictures == 0 {
            return;
        }
        self.shown = Some(now);
        let line = format!(
            "{}, {} of {} pictures | loss {:.4}{}",
            self.head(epoch),
            computed,
            self.extent.pictures,
            sums.loss / sums.pictures.max(1) as f64,
            self.time_left(epoch, computed),
        );
        if self.terminal {
            self.drawn = true;
            // Returns to the start of the line and wipes it.
            let _ = write!(io::stdout(), "\r\x1b[2K{line}");
            let _ = io::stdout().flush();
        } else {
            say(line);
        }
    }

    fn end_epoch(&mut self, row: &EpochRow) {
        self.wipe();
        if self.shown.is_some() {
            self.shown = Some(Instant::now());
        }
        let left = self.time_left(row.epoch, self.extent.pictures);
        say(format_args!(
            "{} | {}{left}",
            self.head(row.epoch),
            describe(row)
        ));
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        self.wipe();
    }
}

fn tell_compiled() {
    let count = crate::device::compiled_kernels();
    if count > 0 {
        say(format_args!(
            "compiling kernels, once for this device: {count} done"
        ));
    }
}

/// Does something again and again until it is dropped.
struct Ticker {
    stop: Option<mpsc::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Ticker {
    fn start(period: Duration, tick: impl Fn() + Send + 'static) -> Self {
        let (stop, stopped) = mpsc::channel();
        let run = move || {
            while stopped.recv_timeout(period) == Err(mpsc::RecvTimeoutError::Timeout) {
                tick();
            }
        };
        Self {
            stop: Some(stop),
            thread: std::thread::Builder::new().spawn(run).ok(),
        }
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_batch_does_not_count_for_the_pace() {
        let extent = Extent {
            first: 1,
            epochs: 2,
            pictures: 100,
            done: 0,
        };
        let mut lines = Lines::new(extent);
        assert_eq!(lines.time_left(1, 10), "");
        // A minute to compile, ten pictures in it; ten more in a second.
        let ago = |seconds| {
            Instant::now()
                .checked_sub(Duration::from_secs(seconds))
                .unwrap()
        };
        lines.started = ago(61);
        lines.warm = Some((ago(1), 10));
        assert_eq!(lines.time_left(1, 10), "");
        assert_eq!(lines.time_left(1, 20), ", 18 s left");
        assert_eq!(lines.time_left(2, 100), "");
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
