//! What a solver remembers: the traits that storage implements in the host's memory and on devices.

use burn::tensor::{Bool, Tensor, TensorData};

use super::rows::Rows;

/// A few numbers per sample, `[batch, k]`, on the host or on the device.
#[derive(Clone, Debug)]
#[allow(clippy::large_enum_variant, reason = "a solve holds one or two")]
pub enum Numbers {
    /// On the host, row by row.
    Host(Vec<f64>),
    /// On the device of the vectors.
    Device(Tensor<2>),
}

impl Numbers {
    /// On the device of `like` and in its type, one row for each of its samples.
    pub fn tensor(self, like: &Tensor<2>) -> Tensor<2> {
        match self {
            Self::Host(values) => {
                let batch = like.dims()[0];
                let columns = values.len() / batch.max(1);
                let data = TensorData::new(values, [batch, columns]);
                Tensor::from_data(data, (&like.device(), like.dtype()))
            }
            Self::Device(tensor) => tensor,
        }
    }

    /// Keeps only these samples.
    pub fn keep(self, rows: &Rows) -> Self {
        match self {
            Self::Host(values) => {
                let columns = values.len() / rows.batch().max(1);
                let row = |i: &usize| &values[i * columns..(i + 1) * columns];
                Self::Host(rows.indices().iter().flat_map(row).copied().collect())
            }
            Self::Device(tensor) => Self::Device(rows.of(tensor)),
        }
    }
}

/// What a [`History`] computes.
#[derive(Clone, Copy, Debug)]
pub struct HistoryShape {
    /// m, the number of differences kept.
    pub slots: usize,
    /// Whether products with differences of z are also needed.
    pub secant: bool,
    /// Fraction of the residual that a step takes.
    pub damping: f64,
}

impl HistoryShape {
    /// Columns of m products: <dr_j, d> and <dr_j, r>, where d is the newest dr. With `secant`,
    /// also <dr_j, the newest dz>, <df_j, d> and <df_j, r>.
    pub fn columns(&self) -> usize {
        if self.secant { 5 } else { 2 }
    }

    /// The slot of the newest difference after this many points. Differences fill the slots in
    /// turn.
    pub fn slot(&self, points: usize) -> usize {
        (points + self.slots - 2) % self.slots
    }
}

/// What a [`History`] knows about its newest point, with r = f - z.
#[derive(Clone, Debug)]
pub struct Seen {
    /// r, if it was computed as a tensor.
    pub residual: Option<Tensor<2>>,
    /// |r|^2 and |f|^2, `[batch, 2]`.
    pub squares: Tensor<2>,
    /// Inner products `[batch, columns * m]`, each column by slot: see [`HistoryShape::columns`].
    /// Empty slots hold zeros. `None` at the first point. On the host, the rows begin with the
    /// squares, even at the first point.
    pub products: Option<Numbers>,
}

impl Seen {
    /// Keeps only these samples.
    pub fn keep(self, rows: &Rows) -> Self {
        Self {
            residual: self.residual.map(|t| rows.of(t)),
            squares: rows.of(self.squares),
            products: self.products.map(|p| p.keep(rows)),
        }
    }
}

/// The last points (z, f(z)) of a solve and the differences dz, df and dr = df - dz of consecutive
/// points.
pub trait History: Send {
    /// Takes in a point.
    fn observe(&mut self, z: &Tensor<2>, f: &Tensor<2>) -> Seen;

    /// f - sum_j gamma_j df_j - (1 - damping) (r - sum_j gamma_j dr_j) at the newest point, with
    /// `gamma`, `[batch, m]`, by slot; `None` if all are zero. Where `back`, `[batch, 1]`, is set,
    /// the previous point first replaces the newest one, and gamma must be zero.
    fn next(&mut self, gamma: Option<Numbers>, back: Option<Tensor<2, Bool>>) -> Tensor<2>;

    /// Keeps only these samples.
    fn keep(&mut self, rows: &Rows);
}

/// m slots for vectors `[batch, n]`. Slots are empty at first and count as zero. They are filled in
/// order.
pub trait Ring: Send {
    /// Puts x into a slot.
    fn store(&mut self, slot: usize, x: Tensor<2>);

    /// Products of each x with all slots: `[batch, x * m]`, all slots of the first x first.
    fn products(&self, x: &[&Tensor<2>]) -> Tensor<2>;

    /// The sum of the slots with these weights `[batch, m]`.
    fn combine(&self, weights: Tensor<2>) -> Tensor<2>;

    /// Keeps only these samples.
    fn keep(&mut self, rows: &Rows);
}

/// A step of conjugate gradients on I - J.
#[derive(Clone, Debug)]
pub struct ConjugateStep {
    /// The new iterate.
    pub u: Tensor<2>,
    /// The new residual.
    pub r: Tensor<2>,
    /// The new direction.
    pub p: Tensor<2>,
    /// <r, r>, `[batch, 1]`.
    pub rr: Tensor<2>,
    /// |r|^2 and |u + r|^2, `[batch, 2]`.
    pub squares: Tensor<2>,
}
