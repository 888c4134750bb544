//! Conjugate gradients on (I - J) u = g for every sample of the batch at once.

use burn::tensor::Tensor;

use super::{inner_within, ratio};
use crate::driver::{Iteration, Observation, Operator, Scalars};
use crate::map::Rows;

/// Solves u = J u + g, J symmetric with I - J positive definite, in the form of Hestenes and
/// Stiefel (1952). The residual of the fixed point, f(u) - u = g - (I - J) u, is the residual of
/// the linear system, so the driver judges it like that of any other solver.
///
/// Where J = A D with A symmetric and D a diagonal of zeros and ones, inner products are those of
/// the range of D. There this is the method on the symmetric D A D; and as everything is carried
/// along outside of the range, too, u plus the residual is g + A D u without one more product.
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
    /// u + r, and <r, r> and its own square, `[batch, 2]`, where a step gives them by the way.
    image: Option<[Tensor<2>; 2]>,
}

impl ConjugateGradients {
    /// From `start`, where the residual may be known.
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
    /// With the first residual.
    fn new(r: Tensor<2>, within: &Option<Tensor<2>>) -> Self {
        Self {
            rr: inner_within(within, r.clone(), r.clone()),
            p: r.clone(),
            r,
            image: None,
        }
    }
}

impl Iteration for ConjugateGradients {
    fn observe(&mut self, map: &mut Operator<'_>) -> Observation {
        let within = &self.within;
        let Krylov { r, image, .. } = self.krylov.get_or_insert_with(|| {
            let r = map.apply(self.u.clone()) - self.u.clone();
            Krylov::new(r, within)
        });
        let (image, squares) = match image.clone() {
            Some([image, squares]) => (image, Some(squares)),
            None => (self.u.clone() + r.clone(), None),
        };
        Observation {
            state: self.u.clone(),
            image,
            residual: Some(r.clone()),
            within: within.clone(),
            squares,
            extra: None,
        }
    }

    fn advance(&mut self, map: &mut Operator<'_>, _scalars: Option<&Scalars>) {
        let Some(Krylov { r, p, rr, .. }) = self.krylov.take() else {
            return;
        };
        let product = map.linear(p.clone());
        #[cfg(feature = "flex")]
        if let Some((u, krylov)) =
            on_host::step([&self.u, &r, &p, &product, &rr], self.within.as_ref())
        {
            (self.u, self.krylov) = (u, Some(krylov));
            return;
        }
        let q = p.clone() - product;
        // 0 where the curvature is not positive: there the sample is solved, or its system is not
        // positive definite and it must stand still (the driver then calls it stalled).
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
            image: None,
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
            image: k.image.map(|parts| parts.map(|t| rows.of(t))),
        });
    }
}

/// A step in a few passes over the memory, for tensors on Burn's CPU backend.
#[cfg(feature = "flex")]
mod on_host {
    use burn::tensor::{DType, Device, Tensor, TensorData};
    use pulp::{Arch, Simd, WithSimd};
    use rayon::prelude::*;

    use super::super::vectors::{BLOCK, Floats, Real, worth_spreading};
    use super::Krylov;

    /// The step from u, r, p, J p and <r, r>: the new u and the rest; `None` where the host cannot
    /// read the tensors.
    pub(super) fn step(
        vectors: [&Tensor<2>; 5],
        within: Option<&Tensor<2>>,
    ) -> Option<(Tensor<2>, Krylov)> {
        let mut floats = Vec::with_capacity(vectors.len());
        for vector in vectors {
            floats.push(Floats::new(vector)?);
        }
        let within = match within {
            Some(within) => Some(Floats::new(within)?),
            None => None,
        };
        let [u, ..] = vectors;
        let (shape, device) = (u.dims(), u.device());
        match u.dtype() {
            DType::F32 => of::<f32>(shape, &device, &floats, within.as_ref()),
            DType::F64 => of::<f64>(shape, &device, &floats, within.as_ref()),
            _ => None,
        }
    }

    fn of<T: Real>(
        [batch, width]: [usize; 2],
        device: &Device,
        floats: &[Floats],
        within: Option<&Floats>,
    ) -> Option<(Tensor<2>, Krylov)> {
        let [u, r, p, product, rr] = floats.iter().map(Floats::elements).collect::<Vec<_>>()[..]
        else {
            return None;
        };
        let within: Option<&[T]> = within.map(Floats::elements);
        let vector = || vec![T::default(); batch * width];
        let mut made = [vector(), vector(), vector(), vector()];
        let mut squares = vec![T::default(); 2 * batch];
        let mut rows: Vec<Row<'_, T>> = Vec::with_capacity(batch);
        let [new_u, new_r, new_p, image] = &mut made;
        let outputs = new_u
            .chunks_exact_mut(width)
            .zip(new_r.chunks_exact_mut(width))
            .zip(new_p.chunks_exact_mut(width))
            .zip(image.chunks_exact_mut(width))
            .zip(squares.chunks_exact_mut(2));
        for (i, ((((new_u, new_r), new_p), image), squares)) in outputs.enumerate() {
            let part = i * width..(i + 1) * width;
            rows.push(Row {
                u: &u[part.clone()],
                r: &r[part.clone()],
                p: &p[part.clone()],
                product: &product[part.clone()],
                within: within.map(|w| &w[part]),
                rr: rr[i],
                made: [new_u, new_r, new_p, image],
                squares,
            });
        }
        // Four vectors are read and four written.
        if worth_spreading(batch, 8 * batch * width) {
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
        let [new_u, new_r, new_p, image] = made;
        let krylov = Krylov {
            r: tensor(new_r, width),
            p: tensor(new_p, width),
            rr: tensor(rr, 1),
            image: Some([tensor(image, width), tensor(squares, 2)]),
        };
        Some((tensor(new_u, width), krylov))
    }

    /// One sample.
    struct Row<'a, T> {
        u: &'a [T],
        r: &'a [T],
        p: &'a [T],
        /// J p.
        product: &'a [T],
        within: Option<&'a [T]>,
        rr: T,
        /// The new u, r and p, and u + r.
        made: [&'a mut [T]; 4],
        /// <r, r> and the square of u + r.
        squares: &'a mut [T],
    }

    /// a / b, and 0 where b is not positive.
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
                r,
                p,
                product,
                within,
                rr,
                made: [new_u, new_r, new_p, image],
                squares,
            } = self;
            let mut room = [T::default(); BLOCK];
            let blocks = || {
                (0..p.len())
                    .step_by(BLOCK)
                    .map(|i| i..p.len().min(i + BLOCK))
            };
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
                let (p, product) = (&p[block.clone()], &product[block.clone()]);
                let new_u = &mut new_u[block.clone()];
                for ((new, u), p) in new_u.iter_mut().zip(&u[block.clone()]).zip(p) {
                    *new = *u + alpha * *p;
                }
                let new_r = &mut new_r[block.clone()];
                let old = r[block.clone()].iter().zip(p).zip(product);
                for (new, ((r, p), product)) in new_r.iter_mut().zip(old) {
                    *new = *r - alpha * (*p - *product);
                }
                let image = &mut image[block.clone()];
                for ((image, u), r) in image.iter_mut().zip(&*new_u).zip(&*new_r) {
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
            for ((new, r), p) in new_p.iter_mut().zip(&*new_r).zip(p) {
                *new = *r + beta * *p;
            }
        }
    }

    /// Leaves what lies within.
    #[inline(always)]
    fn counted<T: Real>(x: &mut [T], within: Option<&[T]>) {
        if let Some(within) = within {
            for (x, w) in x.iter_mut().zip(within) {
                *x = *x * *w;
            }
        }
    }
}
