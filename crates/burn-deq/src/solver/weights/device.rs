//! The systems of all samples, on the device and without a read-back.

use burn::tensor::{Bool, Tensor, s};
use deq_kernels::vectors::Rows;

use super::rule::{Rule, dependent};
use crate::config::AndersonType;

/// The systems of all samples. Masks replace the decisions of the host and leave out the same
/// differences.
pub(super) struct Systems {
    rule: Rule,
    /// `[batch, m, m]`: <dR_i, dR_j>, and -<dZ_i, dR_j> for type I.
    gram: Tensor<3>,
    secant: Option<Tensor<3>>,
    /// `[batch, m]`, slots without a difference of this sample.
    empty: Tensor<2, Bool>,
    /// `[batch, 2]`: |r|^2 and |f|^2 before the last step; `[batch, 1]`: whether that step was
    /// accelerated.
    last: Option<Tensor<2>>,
    accelerated: Tensor<2, Bool>,
}

impl Systems {
    /// Starts without differences. The batch and the type are those of `like`.
    pub(super) fn new(rule: Rule, like: &Tensor<2>) -> Self {
        let (batch, m, device) = (like.dims()[0], rule.history, like.device());
        let gram = Tensor::zeros([batch, m, m], (&device, like.dtype()));
        Self {
            rule,
            secant: (rule.kind == AndersonType::I).then(|| gram.clone()),
            gram,
            empty: Tensor::full([batch, m], true, &device),
            last: None,
            accelerated: Tensor::full([batch, 1], false, &device),
        }
    }

    /// Forgets all differences.
    pub(super) fn restart(&mut self) {
        self.empty = Tensor::full(self.empty.dims(), true, &self.empty.device());
    }

    /// Like [`System::update`](super::host::System::update), for all samples: `squares` is
    /// `[batch, 2]`, `products` is `[batch, columns * m]`. Returns the weights, `[batch, m]`, which
    /// are zero if the step is plain, and the samples whose last step is rejected, `[batch, 1]`.
    pub(super) fn update(
        &mut self,
        squares: Tensor<2>,
        products: Option<Tensor<2>>,
        slot: usize,
        accelerate: bool,
    ) -> (Tensor<2>, Tensor<2, Bool>) {
        let [batch, m] = self.empty.dims();
        let rhs = products.map(|products| self.take_in(products, &squares, slot));
        let back = match &self.last {
            Some(last) => {
                let limit = last.clone().narrow(1, 0, 1) * self.rule.growth;
                let residual = squares.clone().narrow(1, 0, 1);
                let worse = residual.lower_equal(limit).bool_not();
                worse.bool_and(self.accelerated.clone())
            }
            None => self.accelerated.clone(),
        };
        let all = back.clone().expand([batch, m]);
        self.empty = self.empty.clone().bool_or(all.clone());
        let gamma = match rhs {
            Some(rhs) if accelerate => self.solve(rhs, slot),
            _ => Tensor::zeros([batch, m], (&squares.device(), squares.dtype())),
        };
        self.last = Some(match self.last.take() {
            Some(last) => squares.mask_where(back.clone().expand([batch, 2]), last),
            None => squares,
        });
        let gamma = gamma.mask_fill(all, 0.0);
        self.accelerated = gamma.clone().abs().sum_dim(1).greater_elem(0.0);
        (gamma, back)
    }

    /// Stores the products with the difference in `slot`; returns the right-hand side.
    fn take_in(&mut self, products: Tensor<2>, squares: &Tensor<2>, slot: usize) -> Tensor<2> {
        let m = self.rule.history;
        let column = |k: usize| products.clone().narrow(1, k * m, m);
        let square = column(0).narrow(1, slot, 1);
        let mut size = squares.clone().sum_dim(1);
        if let Some(last) = &self.last {
            size = size.max_pair(last.clone().sum_dim(1));
        }
        let usable = square.clone().greater(size * self.rule.noise);
        let usable = usable.bool_and(square.is_finite());
        let at = s![.., slot..slot + 1];
        self.empty = self.empty.clone().slice_assign(at, usable.bool_not());
        let put = |matrix: &mut Tensor<3>, row: Tensor<2>, column: Tensor<2>| {
            let whole = matrix.clone();
            let whole = whole.slice_assign(s![.., .., slot..slot + 1], column.unsqueeze_dim(2));
            *matrix = whole.slice_assign(s![.., slot..slot + 1, ..], row.unsqueeze_dim(1));
        };
        put(&mut self.gram, column(0), column(0));
        match &mut self.secant {
            None => column(1),
            // With the opposite sign, as on the host.
            Some(secant) => {
                put(secant, column(2).neg(), column(0) - column(3));
                column(1) - column(4)
            }
        }
    }

    fn solve(&mut self, rhs: Tensor<2>, newest: usize) -> Tensor<2> {
        let [batch, m] = self.empty.dims();
        let wide = |t: Tensor<2, Bool>| {
            let [rows, columns] = [2, 1].map(|d| t.clone().unsqueeze_dim::<3>(d));
            let [rows, columns] = [rows, columns].map(|t| t.expand([batch, m, m]));
            rows.bool_or(columns)
        };
        // The lengths are on the diagonal.
        let identity = Tensor::<2>::eye(m, &rhs.device()).cast(rhs.dtype());
        let identity = identity.unsqueeze_dim::<3>(0);
        let off = identity.clone().lower_elem(0.5).expand([batch, m, m]);
        let diagonal = self.gram.clone().mask_fill(off, 0.0);
        let squares = diagonal.sum_dim(2).squeeze_dim::<2>(2);
        let scale = squares.sqrt().recip().mask_fill(self.empty.clone(), 0.0);
        let outer = scale.clone().unsqueeze_dim::<3>(2) * scale.clone().unsqueeze_dim::<3>(1);
        // A matrix of cosines. Empty slots get a row of the identity and therefore the weight 0.
        let system = |matrix: &Tensor<3>, empty: &Tensor<2, Bool>| {
            let blank = empty
                .clone()
                .float()
                .cast(scale.dtype())
                .unsqueeze_dim::<3>(1);
            let scaled = matrix.clone() * outer.clone();
            let filled = scaled.mask_fill(wide(empty.clone()), 0.0);
            filled + identity.clone() * self.rule.ridge + blank * identity.clone()
        };
        let rhs = (rhs * scale.clone()).mask_fill(self.empty.clone(), 0.0);
        let rhs = rhs.unsqueeze_dim::<3>(2);
        let order: Vec<usize> = (0..m).map(|age| (newest + m - age) % m).collect();
        let gram = system(&self.gram, &self.empty);
        let (solved, unused) = match &self.secant {
            None => eliminate(
                Tensor::cat(vec![gram, rhs], 2),
                &order,
                Some(self.rule.ridge),
            ),
            Some(secant) => {
                let (_, unused) = eliminate(gram, &order, Some(self.rule.ridge));
                let empty = self.empty.clone().bool_or(unused.clone());
                let secant = system(secant, &empty);
                let rhs = rhs.mask_fill(empty.unsqueeze_dim::<3>(2), 0.0);
                let (solved, _) = eliminate(Tensor::cat(vec![secant, rhs], 2), &order, None);
                (solved, unused)
            }
        };
        let gamma = solved.narrow(2, m, 1).squeeze_dim::<2>(2) * scale;
        let gamma = gamma.mask_fill(unused, 0.0);
        let size = gamma.clone().abs().sum_dim(1);
        let refused = size.lower_equal_elem(self.rule.cap).bool_not();
        let refused = refused.expand([batch, m]);
        self.empty = self.empty.clone().bool_or(refused.clone());
        gamma.mask_fill(refused, 0.0)
    }

    /// Keeps only these samples.
    pub(super) fn keep(&mut self, rows: &Rows) {
        self.gram = rows.of(self.gram.clone());
        self.secant = self.secant.take().map(|t| rows.of(t));
        self.empty = rows.of(self.empty.clone());
        self.last = self.last.take().map(|t| rows.of(t));
        self.accelerated = rows.of(self.accelerated.clone());
    }
}

/// Gauss-Jordan elimination without pivoting, with the rows in this order. A Gram matrix plus a
/// ridge is positive definite; for contractions, so is the symmetric part of type I's matrix. With
/// `ridge`, rows that depend on earlier rows are skipped and returned as a mask `[batch, rows]`. A
/// pivot is the part of a row's unit length that the earlier rows leave over.
fn eliminate(
    mut a: Tensor<3>,
    order: &[usize],
    ridge: Option<f64>,
) -> (Tensor<3>, Tensor<2, Bool>) {
    let [batch, m, _] = a.dims();
    let unit = Tensor::<2>::eye(m, &a.device()).cast(a.dtype());
    let mut unused = vec![None; m];
    for k in order.iter().copied() {
        let pivot = a.clone().slice(s![.., k..k + 1, k..k + 1]);
        let mut row = a.clone().narrow(1, k, 1) / pivot.clone();
        if let Some(ridge) = ridge {
            let dependent = pivot.greater_elem(ridge + dependent(ridge)).bool_not();
            let wide = dependent.clone().expand(row.dims());
            row = row.mask_fill(wide, 0.0);
            unused[k] = Some(dependent.squeeze_dim::<2>(2));
        }
        let unit = unit.clone().narrow(1, k, 1).unsqueeze_dim::<3>(0);
        let column = a.clone().narrow(2, k, 1) - unit;
        a = a - column.matmul(row);
    }
    let unused: Vec<Tensor<2, Bool>> = unused.into_iter().flatten().collect();
    let unused = match unused.is_empty() {
        true => Tensor::full([batch, m], false, &a.device()),
        false => Tensor::cat(unused, 1),
    };
    (a, unused)
}
