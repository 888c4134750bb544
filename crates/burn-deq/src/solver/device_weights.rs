//! The systems for Anderson's weights, on the device and without a read-back.

use burn::tensor::{Bool, DType, Tensor, s};

use super::rounding;
use super::weights::{columns, weight_cap};
use crate::config::{AndersonConfig, AndersonType};
use crate::input::Rows;

/// The systems of all samples, on the device. No decision is read back. Masks handle bad samples. A
/// larger regularisation keeps the system solvable in cases where the host would leave out
/// dependent differences.
pub(crate) struct DeviceWeights {
    kind: AndersonType,
    ridge: f64,
    cap: f64,
    /// `[batch, m, m]`: the matrix of the system, and the squared lengths `[batch, m]` of dR.
    matrix: Tensor<3>,
    squares: Tensor<2>,
    /// `[batch, m]`, slots without a difference of this sample.
    empty: Tensor<2, Bool>,
    /// Rounding error of a difference relative to the state, squared.
    noise: f64,
    /// `[batch, 2]`: |r|^2 and |f|^2 before the last step; `[batch, 1]`: whether that step was
    /// accelerated.
    last: Option<Tensor<2>>,
    accelerated: Tensor<2, Bool>,
}

/// The decisions for one step, as masks and weights.
pub(crate) struct DeviceDecision {
    /// `[batch, m]`, zero if the step is plain.
    pub(crate) gamma: Tensor<2>,
    /// `[batch, 1]`: samples whose last step is rejected.
    pub(crate) back: Tensor<2, Bool>,
}

impl DeviceWeights {
    pub(crate) fn new(config: &AndersonConfig, like: &Tensor<2>) -> Self {
        let (batch, m) = (like.dims()[0], config.history);
        let options = (&like.device(), like.dtype());
        let floor = match like.dtype() {
            DType::F64 => 1e-12,
            _ => 1e-6,
        };
        Self {
            kind: config.kind,
            ridge: config.regularization.max(floor),
            cap: weight_cap(config, like.dtype()),
            noise: rounding(like.dtype()).powi(2),
            matrix: Tensor::zeros([batch, m, m], options),
            squares: Tensor::zeros([batch, m], options),
            empty: Tensor::full([batch, m], true, &like.device()),
            last: None,
            accelerated: Tensor::full([batch, 1], false, &like.device()),
        }
    }

    /// Forgets all differences.
    pub(crate) fn restart(&mut self) {
        self.empty = Tensor::full(self.empty.dims(), true, &self.empty.device());
    }

    /// As [`HostWeights::update`](super::weights::HostWeights::update) for all samples: `squares` is
    /// `[batch, 2]`, `products` is `[batch, columns * m]`.
    pub(crate) fn update(
        &mut self,
        squares: Tensor<2>,
        products: Option<Tensor<2>>,
        slot: usize,
        safeguard: f64,
        accelerate: bool,
    ) -> DeviceDecision {
        let [batch, m] = self.squares.dims();
        let mut rhs = None;
        if let Some(products) = products {
            let parts = products.chunk(columns(self.kind), 1);
            let (row, column, right) = match self.kind {
                AndersonType::II => (parts[0].clone(), parts[0].clone(), parts[1].clone()),
                // With the opposite sign, as on the host.
                AndersonType::I => (
                    parts[2].clone().neg(),
                    parts[0].clone() - parts[3].clone(),
                    parts[1].clone() - parts[4].clone(),
                ),
            };
            let matrix = self
                .matrix
                .clone()
                .slice_assign(s![.., .., slot..slot + 1], column.unsqueeze_dim(2));
            self.matrix = matrix.slice_assign(s![.., slot..slot + 1, ..], row.unsqueeze_dim(1));
            let square = parts[0].clone().narrow(1, slot, 1);
            let mut size = squares.clone().sum_dim(1);
            if let Some(last) = &self.last {
                size = size.max_pair(last.clone().sum_dim(1));
            }
            let usable = square.clone().greater(size * self.noise);
            let usable = usable.bool_and(square.clone().is_finite());
            self.squares = self
                .squares
                .clone()
                .slice_assign(s![.., slot..slot + 1], square);
            self.empty = self
                .empty
                .clone()
                .slice_assign(s![.., slot..slot + 1], usable.bool_not());
            rhs = Some(right);
        }
        let back = match &self.last {
            Some(last) => {
                let limit = last.clone().narrow(1, 0, 1) * safeguard.powi(2);
                let residual = squares.clone().narrow(1, 0, 1);
                let worse = residual.lower_equal(limit).bool_not();
                worse.bool_and(self.accelerated.clone())
            }
            None => self.accelerated.clone(),
        };
        self.last = Some(match self.last.take() {
            Some(last) => squares.mask_where(back.clone().expand([batch, 2]), last),
            None => squares,
        });
        self.empty = self.empty.clone().bool_or(back.clone().expand([batch, m]));
        let gamma = match rhs {
            Some(rhs) if accelerate => self.solve(rhs),
            _ => self.squares.zeros_like(),
        };
        let gamma = gamma.mask_fill(back.clone().expand([batch, m]), 0.0);
        self.accelerated = gamma.clone().abs().sum_dim(1).greater_elem(0.0);
        DeviceDecision { gamma, back }
    }

    fn solve(&mut self, rhs: Tensor<2>) -> Tensor<2> {
        let [batch, m] = self.squares.dims();
        let length = self.squares.clone().sqrt();
        let scale = length.recip().mask_fill(self.empty.clone(), 0.0);
        let rhs = (rhs * scale.clone()).mask_fill(self.empty.clone(), 0.0);
        let outer = scale.clone().unsqueeze_dim::<3>(2) * scale.clone().unsqueeze_dim::<3>(1);
        let unused = self
            .empty
            .clone()
            .unsqueeze_dim::<3>(2)
            .expand([batch, m, m]);
        let unused = unused.bool_or(
            self.empty
                .clone()
                .unsqueeze_dim::<3>(1)
                .expand([batch, m, m]),
        );
        // Empty slots get a row of the identity and therefore the weight 0.
        let identity = Tensor::<2>::eye(m, &scale.device()).cast(scale.dtype());
        let ridge = identity.clone().unsqueeze_dim::<3>(0) * self.ridge;
        let blank = self.empty.clone().float().cast(scale.dtype());
        let blank = blank.unsqueeze_dim::<3>(1) * identity.clone().unsqueeze_dim::<3>(0);
        let a = (self.matrix.clone() * outer).mask_fill(unused, 0.0) + ridge + blank;
        let mut a = Tensor::cat(vec![a, rhs.unsqueeze_dim::<3>(2)], 2);
        // Gauss-Jordan without pivoting. The matrix is positive definite for type II. For type I,
        // its symmetric part is positive definite for contractions.
        for k in 0..m {
            let pivot = a.clone().slice(s![.., k..k + 1, k..k + 1]);
            let row = a.clone().narrow(1, k, 1) / pivot;
            let unit = identity.clone().narrow(1, k, 1).unsqueeze_dim::<3>(0);
            let column = a.clone().narrow(2, k, 1) - unit;
            a = a - column.matmul(row);
        }
        let gamma = a.narrow(2, m, 1).squeeze_dim::<2>(2) * scale;
        let size = gamma.clone().abs().sum_dim(1);
        let refused = size.lower_equal_elem(self.cap).bool_not();
        let refused = refused.expand([batch, m]);
        self.empty = self.empty.clone().bool_or(refused.clone());
        gamma.mask_fill(refused, 0.0)
    }

    /// Keeps only these samples.
    pub(crate) fn keep(&mut self, rows: &Rows) {
        self.matrix = rows.of(self.matrix.clone());
        self.squares = rows.of(self.squares.clone());
        self.empty = rows.of(self.empty.clone());
        self.last = self.last.take().map(|t| rows.of(t));
        self.accelerated = rows.of(self.accelerated.clone());
    }
}
