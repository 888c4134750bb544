//! Counts and times in the Prometheus text format.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Upper ends of the bins of a request's time, in seconds.
const SECONDS: [f64; 13] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];
/// The same for the pictures of a batch and the steps of a solve.
const COUNTS: [f64; 9] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0];

/// A histogram.
struct Histogram<const N: usize> {
    ends: [f64; N],
    /// Values in each bin; the last one has no upper end.
    bins: Mutex<(Vec<u64>, f64)>,
}

impl<const N: usize> Histogram<N> {
    fn new(ends: [f64; N]) -> Self {
        let bins = Mutex::new((vec![0; N + 1], 0.0));
        Self { ends, bins }
    }

    fn add(&self, value: f64) {
        let bin = self.ends.iter().take_while(|end| value > **end).count();
        let mut bins = self.bins.lock().unwrap_or_else(PoisonError::into_inner);
        bins.0[bin] += 1;
        bins.1 += value;
    }

    fn write(&self, text: &mut String, name: &str, help: &str) {
        let (bins, sum) = &*self.bins.lock().unwrap_or_else(PoisonError::into_inner);
        head(text, name, "histogram", help);
        let mut total = 0;
        for (end, count) in self.ends.iter().zip(bins) {
            total += count;
            let _ = writeln!(text, "{name}_bucket{{le=\"{end}\"}} {total}");
        }
        total += bins[N];
        let _ = writeln!(text, "{name}_bucket{{le=\"+Inf\"}} {total}");
        let _ = writeln!(text, "{name}_sum {sum}\n{name}_count {total}");
    }
}

/// What a server counts.
pub(super) struct Metrics {
    /// Answers by path and status.
    requests: Mutex<BTreeMap<(&'static str, u16), u64>>,
    seconds: Histogram<13>,
    batch: Histogram<9>,
    steps: Histogram<9>,
    /// Pictures that were answered.
    pub(super) pictures: AtomicU64,
    /// Pictures that could not be decoded.
    pub(super) unreadable: AtomicU64,
    /// Connections that were refused because there are too many.
    pub(super) turned_away: AtomicU64,
    /// Requests whose handling failed by a fault of the program.
    pub(super) faults: AtomicU64,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            requests: Mutex::default(),
            seconds: Histogram::new(SECONDS),
            batch: Histogram::new(COUNTS),
            steps: Histogram::new(COUNTS),
            pictures: AtomicU64::default(),
            unreadable: AtomicU64::default(),
            turned_away: AtomicU64::default(),
            faults: AtomicU64::default(),
        }
    }
}

impl Metrics {
    /// An answer.
    pub(super) fn request(&self, path: &'static str, status: u16, time: Duration) {
        let mut requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        *requests.entry((path, status)).or_default() += 1;
        self.seconds.add(time.as_secs_f64());
    }

    /// A batch of the model.
    pub(super) fn batch(&self, pictures: usize) {
        self.batch.add(pictures as f64);
        self.pictures.fetch_add(pictures as u64, Relaxed);
    }

    /// The solve of a picture.
    pub(super) fn solve(&self, steps: usize) {
        self.steps.add(steps as f64);
    }

    /// All metrics, with the present state.
    pub(super) fn text(&self, now: &Now<'_>) -> String {
        let mut text = String::new();
        head(
            &mut text,
            "mopteq_model_info",
            "gauge",
            "The model that answers.",
        );
        let labels = [
            ("run", now.run),
            ("checkpoint", now.checkpoint),
            ("network", now.network),
        ];
        let labels = labels.map(|(name, value)| format!("{name}=\"{}\"", escaped(value)));
        let _ = writeln!(text, "mopteq_model_info{{{}}} 1", labels.join(","));
        head(
            &mut text,
            "mopteq_requests_total",
            "counter",
            "Answers by path and status.",
        );
        let requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        for ((path, status), count) in requests.iter() {
            let labels = format!("path=\"{path}\",status=\"{status}\"");
            let _ = writeln!(text, "mopteq_requests_total{{{labels}}} {count}");
        }
        drop(requests);
        let counters = [
            (
                "mopteq_pictures_total",
                "Pictures that were answered.",
                &self.pictures,
            ),
            (
                "mopteq_unreadable_pictures_total",
                "Pictures that could not be decoded.",
                &self.unreadable,
            ),
            (
                "mopteq_connections_refused_total",
                "Connections beyond the limit.",
                &self.turned_away,
            ),
            (
                "mopteq_faults_total",
                "Requests that failed by a fault of the server.",
                &self.faults,
            ),
        ];
        for (name, help, value) in counters {
            head(&mut text, name, "counter", help);
            let _ = writeln!(text, "{name} {}", value.load(Relaxed));
        }
        let gauges = [
            (
                "mopteq_connections",
                "Open connections.",
                now.connections as u64,
            ),
            (
                "mopteq_queue_pictures",
                "Pictures that wait for the model.",
                now.queue as u64,
            ),
        ];
        for (name, help, value) in gauges {
            head(&mut text, name, "gauge", help);
            let _ = writeln!(text, "{name} {value}");
        }
        if let Some(bytes) = resident_bytes() {
            let name = "process_resident_memory_bytes";
            head(&mut text, name, "gauge", "Resident memory in bytes.");
            let _ = writeln!(text, "{name} {bytes}");
        }
        let help = "Time from the whole head of a request to its answer.";
        self.seconds
            .write(&mut text, "mopteq_request_seconds", help);
        self.batch
            .write(&mut text, "mopteq_batch_pictures", "Pictures of a batch.");
        self.steps.write(
            &mut text,
            "mopteq_solver_steps",
            "Solver steps of a picture.",
        );
        text
    }
}

/// The present state of a server.
pub(super) struct Now<'a> {
    pub(super) run: &'a str,
    pub(super) checkpoint: &'a str,
    pub(super) network: &'a str,
    pub(super) connections: usize,
    pub(super) queue: usize,
}

fn head(text: &mut String, name: &str, kind: &str, help: &str) {
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

/// A label's value.
fn escaped(value: &str) -> String {
    let value = value.replace('\\', "\\\\").replace('"', "\\\"");
    value.replace('\n', "\\n")
}

/// Memory of this process, if the system reports it in a file.
fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kilobytes: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kilobytes << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_is_what_prometheus_reads() {
        let metrics = Metrics::default();
        for millis in [0, 3, 3, 40, 60_000] {
            metrics.request("/v1/classify", 200, Duration::from_millis(millis));
        }
        metrics.request("other", 404, Duration::ZERO);
        metrics.batch(3);
        metrics.batch(1000);
        metrics.solve(5);
        let text = metrics.text(&Now {
            run: "runs/\"a\"\\b\nc",
            checkpoint: "after epoch 1",
            network: "mopteq",
            connections: 2,
            queue: 0,
        });
        for line in [
            "mopteq_model_info{run=\"runs/\\\"a\\\"\\\\b\\nc\",checkpoint=\"after epoch 1\",network=\"mopteq\"} 1",
            "mopteq_requests_total{path=\"/v1/classify\",status=\"200\"} 5",
            "mopteq_requests_total{path=\"other\",status=\"404\"} 1",
            "mopteq_request_seconds_bucket{le=\"0.0025\"} 2",
            "mopteq_request_seconds_bucket{le=\"0.005\"} 4",
            "mopteq_request_seconds_bucket{le=\"10\"} 5",
            "mopteq_request_seconds_bucket{le=\"+Inf\"} 6",
            "mopteq_request_seconds_count 6",
            "mopteq_batch_pictures_bucket{le=\"4\"} 1",
            "mopteq_batch_pictures_sum 1003",
            "mopteq_pictures_total 1003",
            "mopteq_connections 2",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
        // Every sample comes after its type, once.
        let types: Vec<&str> = text
            .lines()
            .filter(|line| line.starts_with("# TYPE"))
            .collect();
        let unique: std::collections::BTreeSet<&&str> = types.iter().collect();
        assert_eq!(types.len(), unique.len());
    }
}
