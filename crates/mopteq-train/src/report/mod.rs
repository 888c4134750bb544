//! The report of a run: one page that needs nothing else, `report.html`.

mod charts;
mod confusion;
mod error;
mod page;
mod plot;
mod tested;

use crate::Error;
use crate::inspect::Inspection;
use crate::run::RunFolder;
use crate::train::Task;
use charts::solve_charts;
pub use error::ReportError;

/// Makes the report of a run and writes it into the run's folder.
///
/// The test pictures of an unfinished run are left alone.
///
/// # Errors
///
/// When a file of the run cannot be read, the device fails, or the disk refuses.
pub fn write(run: &RunFolder, task: &Task) -> Result<(), Error> {
    let history = run.read_history()?;
    let tested = match run.read_summary()? {
        Some(summary) => Some(tested::test(run, task, summary)?),
        None => None,
    };
    let html = page::html(run, task, &history, tested.as_ref())?;
    run.write_report(&html)?;
    Ok(())
}

/// The curves of an inspection as SVG files, by name.
pub fn inspection_plots(seen: &Inspection) -> Vec<(&'static str, String)> {
    let drawn = solve_charts(seen)
        .into_iter()
        .map(|(name, chart)| Some((name, chart.draw().ok()?)));
    drawn.flatten().collect()
}
