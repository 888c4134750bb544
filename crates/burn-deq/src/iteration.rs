//! The interface between a solver and the driver.
//!
//! A solver only observes and advances; the driver does the rest. By default, the driver reads one
//! small tensor per step back to the host. This tensor holds the norms for the termination rule and
//! the scalars that the solver needs for its next step. If residuals are checked less often, the
//! solver decides on the device.

use burn::tensor::Tensor;
use deq_kernels::vectors::Rows;

use crate::report::Report;

/// A packed map `[batch, n] -> [batch, n]`.
pub(crate) trait PackedMap {
    /// f(z).
    fn apply(&self, z: Tensor<2>) -> Tensor<2>;

    /// The linear part of an affine map.
    fn linear(&self, p: Tensor<2>) -> Tensor<2>;

    /// Keeps only these samples. Returns whether the map can do so.
    fn keep(&mut self, rows: &Rows) -> bool;
}

/// A packed map that counts its evaluations.
pub(crate) struct Operator<'a> {
    map: Box<dyn PackedMap + 'a>,
    evaluations: usize,
    sample_evaluations: usize,
}

impl<'a> Operator<'a> {
    pub(crate) fn new(map: impl PackedMap + 'a) -> Self {
        Self {
            map: Box::new(map),
            evaluations: 0,
            sample_evaluations: 0,
        }
    }

    fn count(&mut self, z: &Tensor<2>) {
        self.evaluations += 1;
        self.sample_evaluations += z.dims()[0];
    }

    pub(crate) fn apply(&mut self, z: Tensor<2>) -> Tensor<2> {
        self.count(&z);
        self.map.apply(z)
    }

    /// The linear part of an affine map.
    pub(crate) fn linear(&mut self, p: Tensor<2>) -> Tensor<2> {
        self.count(&p);
        self.map.linear(p)
    }

    /// Keeps only these samples. Returns whether the map can do so.
    pub(crate) fn keep(&mut self, rows: &Rows) -> bool {
        self.map.keep(rows)
    }

    pub(crate) fn evaluations(&self) -> usize {
        self.evaluations
    }

    pub(crate) fn sample_evaluations(&self) -> usize {
        self.sample_evaluations
    }
}

/// What a solver knows at its current iterate.
pub(crate) struct Observation {
    /// The iterate z whose residual is reported.
    pub(crate) state: Tensor<2>,
    /// f(z). If `None`, f(z) is the sum of z and the residual. A solver either always or never sets
    /// it.
    pub(crate) image: Option<Tensor<2>>,
    /// f(z) - z, if it has been computed.
    pub(crate) residual: Option<Tensor<2>>,
    /// Zeros and ones that select the elements whose norms count. `None` if all count.
    pub(crate) within: Option<Tensor<2>>,
    /// |f(z) - z|^2 and |f(z)|^2, `[batch, 2]`, if the solver has computed them.
    pub(crate) squares: Option<Tensor<2>>,
    /// `[batch, k]`: scalars that the solver needs on the host for its next step.
    pub(crate) extra: Option<Tensor<2>>,
}

impl Observation {
    pub(crate) fn image(&self) -> Tensor<2> {
        match (&self.image, &self.residual) {
            (Some(image), _) => image.clone(),
            (None, Some(residual)) => self.state.clone() + residual.clone(),
            (None, None) => unreachable!("a solver provides f(z) or the residual"),
        }
    }

    /// The iterate, and f(z) if it is known, otherwise the residual.
    pub(crate) fn into_pair(self) -> [Tensor<2>; 2] {
        let second = self.image.or(self.residual);
        [
            self.state,
            second.expect("a solver provides f(z) or the residual"),
        ]
    }
}

/// Scalars of one observation on the host, one row per sample.
pub(crate) struct Scalars {
    values: Vec<f64>,
    width: usize,
    /// Number of columns before the solver's own scalars.
    norms: usize,
}

impl Scalars {
    /// Rows of `width` scalars. The first `norms` columns are |f(z) - z|^2, |f(z)|^2 and those that
    /// only the driver uses.
    pub(crate) fn new(values: Vec<f64>, width: usize, norms: usize) -> Self {
        Self {
            values,
            width,
            norms,
        }
    }

    /// |f(z) - z|^2 and |f(z)|^2, and the solver's own scalars, per sample.
    pub(crate) fn rows(&self) -> impl Iterator<Item = ([f64; 2], &[f64])> {
        self.values
            .chunks_exact(self.width)
            .map(|row| ([row[0], row[1]], &row[self.norms..]))
    }

    pub(crate) fn norms(&self) -> impl Iterator<Item = &[f64]> {
        self.values
            .chunks_exact(self.width)
            .map(|row| &row[..self.norms])
    }

    /// Keeps only these samples.
    pub(crate) fn keep(&mut self, rows: &Rows) {
        let of = |i: &usize| &self.values[i * self.width..(i + 1) * self.width];
        self.values = rows.indices().iter().flat_map(of).copied().collect();
    }
}

/// A solver with its state.
pub(crate) trait Iteration: Send {
    /// Observes the current iterate. Usually this evaluates the map.
    fn observe(&mut self, map: &mut Operator<'_>) -> Observation;

    /// Moves to the next iterate. Without scalars, it must decide on the device.
    fn advance(&mut self, map: &mut Operator<'_>, scalars: Option<&Scalars>);

    /// Keeps only these samples. Called between `observe` and `advance`.
    fn keep(&mut self, rows: &Rows);

    /// Whether the next `observe` costs no evaluation.
    fn observes_freely(&self) -> bool {
        false
    }

    /// Whether the solver rejects a step that made the residual explode or become NaN.
    fn recovers(&self) -> bool {
        false
    }

    /// B'g, where B is the inverse Jacobian of f(z) - z that a quasi-Newton solver has built.
    fn inverse_transposed(&self, g: Tensor<2>) -> Option<Tensor<2>> {
        let _ = g;
        None
    }
}

/// What the driver should compute or keep in addition to the solution.
#[derive(Clone, Debug, Default)]
pub(crate) struct Requests {
    /// Let finished samples leave the batch.
    pub(crate) freeze: bool,
    /// Keep every residual that is read.
    pub(crate) trace: bool,
    /// Keep f at the best iterate.
    pub(crate) image: bool,
    /// Evaluations whose iterates are returned, ascending.
    pub(crate) record: Vec<usize>,
    /// Widths of the branches of a packed state.
    pub(crate) branches: Vec<usize>,
}

/// The result of a solve.
pub(crate) struct Outcome {
    /// For each sample, the iterate with the smallest residual, or the start if no residual was
    /// finite.
    pub(crate) state: Tensor<2>,
    /// f at that iterate, if requested, or the start if no residual was finite.
    pub(crate) image: Option<Tensor<2>>,
    pub(crate) report: Report,
    /// The requested iterates; the final state for evaluations past the end.
    pub(crate) recorded: Vec<Tensor<2>>,
    /// `[batch]`, relative residuals, if nothing was read back.
    pub(crate) residual: Option<Tensor<1>>,
}

/// The outcome of a solve that the map performed itself.
#[derive(Clone, Debug)]
pub struct PackedSolution {
    /// z, or u of a backward solve, `[batch, n]`.
    pub state: Tensor<2>,
    /// f(z) of a forward solve.
    pub image: Option<Tensor<2>>,
    /// What the solver would have reported, except the time.
    pub report: Report,
}

impl Outcome {
    /// The outcome of a solve that the map performed itself.
    pub(crate) fn of_map(solved: PackedSolution) -> Self {
        Self {
            state: solved.state,
            image: solved.image,
            report: solved.report,
            recorded: Vec::new(),
            residual: None,
        }
    }
}
