//! Progress of a download or of decoding, on standard error.
//!
//! A terminal shows a line that is rewritten. Elsewhere there is a line after two seconds and then
//! one every ten seconds.

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

const PERIOD_ON_TERMINAL: Duration = Duration::from_millis(200);
const FIRST_ELSEWHERE: Duration = Duration::from_secs(2);
const PERIOD_ELSEWHERE: Duration = Duration::from_secs(10);

pub(super) struct Meter {
    what: String,
    bytes: bool,
    total: Option<u64>,
    start: u64,
    started: Instant,
    shown: Instant,
    terminal: bool,
    /// Whether a line on the terminal has to be wiped.
    drawn: bool,
}

impl Meter {
    /// A meter of bytes that begins at `start`.
    #[cfg(any(feature = "download", test))]
    pub(super) fn bytes(what: &str, start: u64, total: Option<u64>) -> Self {
        let mut meter = Self::count(what);
        (meter.bytes, meter.start, meter.total) = (true, start, total);
        meter
    }

    pub(super) fn count(what: &str) -> Self {
        let now = Instant::now();
        Self {
            what: what.into(),
            bytes: false,
            total: None,
            start: 0,
            started: now,
            shown: now,
            terminal: io::stderr().is_terminal(),
            drawn: false,
        }
    }

    pub(super) fn total(&mut self, total: u64) {
        self.total = Some(total);
    }

    pub(super) fn set(&mut self, done: u64) {
        let period = match (self.terminal, self.shown == self.started) {
            (true, _) => PERIOD_ON_TERMINAL,
            (false, true) => FIRST_ELSEWHERE,
            (false, false) => PERIOD_ELSEWHERE,
        };
        if self.shown.elapsed() < period {
            return;
        }
        self.shown = Instant::now();
        let line = self.line(done, self.started.elapsed().as_secs_f64());
        if self.terminal {
            self.drawn = true;
            // Back to the start of the line, and wipe what was there.
            let _ = write!(io::stderr(), "\r\x1b[2K{line}");
        } else {
            let _ = writeln!(io::stderr(), "{line}");
        }
    }

    pub(super) fn clear(&mut self) {
        if std::mem::take(&mut self.drawn) {
            let _ = write!(io::stderr(), "\r\x1b[2K");
        }
    }

    fn line(&self, done: u64, seconds: f64) -> String {
        let amount = |value: u64| match self.bytes {
            true => format!("{:.1} MB", value as f64 / 1e6),
            false => value.to_string(),
        };
        let rate = (done - self.start.min(done)) as f64 / seconds.max(1e-3);
        let mut line = format!("{}: {}", self.what, amount(done));
        if let Some(total) = self.total {
            let share = 100.0 * done as f64 / total.max(1) as f64;
            line.push_str(&format!(" of {} ({share:.0} %)", amount(total)));
            if rate > 0.0 {
                let left = crate::names::duration(total.saturating_sub(done) as f64 / rate);
                line.push_str(&format!(", {} a second, {left} left", amount(rate as u64)));
            }
        }
        line
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        self.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_how_far_it_is() {
        let meter = Meter::bytes("a.tgz", 1_000_000, Some(5_000_000));
        assert_eq!(
            meter.line(3_000_000, 2.0),
            "a.tgz: 3.0 MB of 5.0 MB (60 %), 1.0 MB a second, 2 s left"
        );
        assert_eq!(Meter::count("pictures").line(7, 1.0), "pictures: 7");
    }
}
