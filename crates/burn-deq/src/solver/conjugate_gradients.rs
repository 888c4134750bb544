//! Conjugate gradients on (I - J) u = g for all samples of the batch at once.

use burn::tensor::Tensor;

use super::{inner_within, ratio};
use deq_kernels::vectors::conjugate_step;

use crate::driver::{Iteration, Observation, Operator, Scalars};
use crate::input::Rows;

/// Solves u = J u + g, J symmetric with I - J positive definite, in the form of Hestenes and
/// Stiefel (1952). The residual of the fixed point, f(u) - u = g - (I - J) u, is the residual of
/// the linear system, so the driver judges it like that of any other solver.
///
/// If J = A D with A symmetric and D a diagonal of zeros and ones, inner products are taken over
/// the range of D. On this range, it is the method on the symmetric D A D. The iteration also
/// updates all elements outside the range, so u plus the residual is g + A D u without another
/// product.
///
/// The coefficients stay on the device: a step reads back nothing but the norms.
pub(crate) struct ConjugateGradients {
    u: Tensor<2>,
    /// D.
    within: Option<Tensor<2>>,
    krylov: Option<Krylov>,
}

/// Vectors `[batch, n]` and scalars `[batch, 1]`, once the first residual is known.
struct Krylov {
    r: Tensor<2>,
    /// Search direction.
    p: Tensor<2>,
    /// <r, r>.
    rr: Tensor<2>,
    /// |r|^2 and |u + r|^2, `[batch, 2]`, if a step provides them.
    squares: Option<Tensor<2>>,
}

impl ConjugateGradients {
    /// Starts from `start`. `residual` is the residual there, if known.
    pub(crate) fn new(
        start: Tensor<2>,
        residual: Option<Tensor<2>>,
        within: Option<Tensor<2>>,
    ) -> Self {
        Self {
            u: start,
            krylov: residual.map(|r| Krylov::new(r, &within)),
            within,
        }
    }
}

impl Krylov {
    /// Starts with the first residual.
    fn new(r: Tensor<2>, within: &Option<Tensor<2>>) -> Self {
        Self {
            rr: inner_within(within, r.clone(), r.clone()),
            p: r.clone(),
            r,
            squares: None,
        }
    }
}

impl Iteration for ConjugateGradients {
    fn observe(&mut self, map: &mut Operator<'_>) -> Observation {
        let within = &self.within;
        let Krylov { r, squares, .. } = self.krylov.get_or_insert_with(|| {
            let r = map.apply(self.u.clone()) - self.u.clone();
            Krylov::new(r, within)
        });
        Observation {
            state: self.u.clone(),
            image: None,
            residual: Some(r.clone()),
            within: within.clone(),
            squares: squares.clone(),
            extra: None,
        }
    }

    fn advance(&mut self, map: &mut Operator<'_>, _scalars: Option<&Scalars>) {
        let Some(Krylov { r, p, rr, .. }) = self.krylov.take() else {
            return;
        };
        let product = map.linear(p.clone());
        #[cfg(feature = "flex")]
        if on_host::applies([&self.u, &r, &rr, &p, &product], self.within.as_ref()) {
            let read = [&self.u, &r, &rr];
            let (u, krylov) = on_host::step(read, self.within.as_ref(), [p, product]);
            (self.u, self.krylov) = (u, Some(krylov));
            return;
        }
        let all = [&self.u, &r, &p, &product];
        if let Some(step) = conjugate_step(all, &rr, self.within.as_ref()) {
            self.u = step.u;
            self.krylov = Some(Krylov {
                r: step.r,
                p: step.p,
                rr: step.squares.clone().narrow(1, 0, 1),
                squares: Some(step.squares),
            });
            return;
        }
        let q = p.clone() - product;
        // 0 if the curvature is not positive. Then the sample is solved, or its system is not
        // positive definite and it must not move (the driver then calls it stalled).
        let curvature = inner_within(&self.within, p.clone(), q.clone());
        let alpha = ratio(rr.clone(), curvature);
        self.u = self.u.clone() + p.clone() * alpha.clone();
        let r = r - q * alpha;
        let rr_new = inner_within(&self.within, r.clone(), r.clone());
        let p = r.clone() + p * ratio(rr_new.clone(), rr);
        self.krylov = Some(Krylov {
            r,
            p,
            rr: rr_new,
            squares: None,
        });
    }

    fn observes_freely(&self) -> bool {
        self.krylov.is_some()
    }

    fn keep(&mut self, rows: &Rows) {
        self.u = rows.of(self.u.clone());
        self.within = self.within.take().map(|d| rows.of(d));
        self.krylov = self.krylov.take().map(|k| Krylov {
            r: rows.of(k.r),
            p: rows.of(k.p),
            rr: rows.of(k.rr),
            squares: k.squares.map(|t| rows.of(t)),
        });
    }
}

/// A step in a few passes over the memory, for tensors on Burn's CPU backend.
#[cfg(feature = "flex")]
mod on_host {
    use burn::tensor::{DType, Device, Tensor, TensorData};
    use pulp::{Arch, Simd, WithSimd};
    use rayon::prelude::*;

    use super::super::vectors::{BLOCK, Floats, Real, owned, worth_spreading};
    use super::Krylov;

    /// Whether the host can read the tensors.
    pub(super) fn applies(tensors: [&Tensor<2>; 5], within: Option<&Tensor<2>>) -> bool {
        let dtype = tensors[0].dtype();
        tensors
            .into_iter()
            .chain(within)
            .all(|x| x.dtype() == dtype && Floats::new(x).is_some())
    }

    /// The step from u, r and <r, r>, p and J p: the new u and the rest. The new p and r reuse the
    /// memory of p and J p.
    pub(super) fn step(
        read: [&Tensor<2>; 3],
        within: Option<&Tensor<2>>,
        moved: [Tensor<2>; 2],
    ) -> (Tensor<2>, Krylov) {
        let [u, ..] = read;
        let (shape, device, dtype) = (u.dims(), u.device(), u.dtype());
        let read = read.map(Floats::expected);
        let within = within.map(Floats::expected);
        match dtype {
            DType::F64 => of::<f64>(shape, &device, &read, within.as_ref(), moved),
            _ => of::<f32>(shape, &device, &read, within.as_ref(), moved),
        }
    }

    fn of<T: Real>(
        [batch, width]: [usize; 2],
        device: &Device,
        [u, r, rr]: &[Floats; 3],
        within: Option<&Floats>,
        moved: [Tensor<2>; 2],
    ) -> (Tensor<2>, Krylov) {
        let within: Option<&[T]> = within.map(Floats::elements);
        let rr: &[T] = rr.elements();
        let mut u: Vec<T> = u.elements().to_vec();
        let [mut p, mut product] = moved.map(owned::<T>);
        let mut squares = vec![T::default(); 2 * batch];
        let mut rows: Vec<Row<'_, T>> = Vec::with_capacity(batch);
        let each = u
            .chunks_exact_mut(width)
            .zip(p.chunks_exact_mut(width))
            .zip(product.chunks_exact_mut(width))
            .zip(r.elements::<T>().chunks_exact(width))
            .zip(squares.chunks_exact_mut(2));
        for (i, ((((u, p), product), r), squares)) in each.enumerate() {
            rows.push(Row {
                u,
                p,
                product,
                r,
                within: within.map(|w| &w[i * width..(i + 1) * width]),
                rr: rr[i],
                squares,
            });
        }
        // Four vectors are read and three written.
        if worth_spreading(batch, 7 * batch * width) {
            rows.into_par_iter()
                .for_each(|row| Arch::new().dispatch(row));
        } else {
            rows.into_iter().for_each(|row| Arch::new().dispatch(row));
        }
        let tensor = |elements: Vec<T>, columns: usize| {
            let data = TensorData::new(elements, [batch, columns]);
            Tensor::from_data(data, (device, T::dtype()))
        };
        let rr = squares.iter().step_by(2).copied().collect();
        let krylov = Krylov {
            r: tensor(product, width),
            p: tensor(p, width),
            rr: tensor(rr, 1),
            squares: Some(tensor(squares, 2)),
        };
        (tensor(u, width), krylov)
    }

    /// One sample.
    struct Row<'a, T> {
        u: &'a mut [T],
        p: &'a mut [T],
        /// J p, then the new r.
        product: &'a mut [T],
        r: &'a [T],
        within: Option<&'a [T]>,
        rr: T,
        /// |r|^2 and |u + r|^2.
        squares: &'a mut [T],
    }

    /// a / b, or 0 if b is not positive.
    fn ratio<T: Real>(a: T, b: T) -> T {
        if b > T::default() {
            a / b
        } else {
            T::default()
        }
    }

    impl<T: Real> WithSimd for Row<'_, T> {
        type Output = ();

        #[inline(always)]
        fn with_simd<S: Simd>(self, simd: S) {
            let Self {
                u,
                p,
                product,
                r,
                within,
                rr,
                squares,
            } = self;
            let [mut room, mut images] = [[T::default(); BLOCK]; 2];
            let width = p.len();
            let blocks = || (0..width).step_by(BLOCK).map(|i| i..width.min(i + BLOCK));
            let mut curvature = T::default();
            for block in blocks() {
                let (p, product) = (&p[block.clone()], &product[block.clone()]);
                let q = &mut room[..p.len()];
                for ((q, p), product) in q.iter_mut().zip(p).zip(product) {
                    *q = *p - *product;
                }
                counted(q, within.map(|w| &w[block]));
                let [part] = T::dot(simd, p, [&*q]);
                curvature += part;
            }
            let alpha = ratio(rr, curvature);
            for block in blocks() {
                let p = &p[block.clone()];
                let u = &mut u[block.clone()];
                for (u, p) in u.iter_mut().zip(p) {
                    *u += alpha * *p;
                }
                let new_r = &mut product[block.clone()];
                for ((new, r), p) in new_r.iter_mut().zip(&r[block.clone()]).zip(p) {
                    *new = *r - alpha * (*p - *new);
                }
                let image = &mut images[..new_r.len()];
                for ((image, u), r) in image.iter_mut().zip(&*u).zip(&*new_r) {
                    *image = *u + *r;
                }
                for (x, square) in [&*new_r, &*image].into_iter().zip(squares.iter_mut()) {
                    let copy = &mut room[..x.len()];
                    copy.copy_from_slice(x);
                    counted(copy, within.map(|w| &w[block.clone()]));
                    let [part] = T::dot(simd, x, [&*copy]);
                    *square += part;
                }
            }
            let beta = ratio(squares[0], rr);
            for (p, r) in p.iter_mut().zip(&*product) {
                *p = *r + beta * *p;
            }
        }
    }

    /// Keeps only the elements selected by `within`.
    #[inline(always)]
    fn counted<T: Real>(x: &mut [T], within: Option<&[T]>) {
        if let Some(within) = within {
            for (x, w) in x.iter_mut().zip(within) {
                *x = *x * *w;
            }
        }
    }
}
