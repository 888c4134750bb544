//! Sums over slices of floats with the CPU's vector instructions.

use burn::tensor::Element;
use pulp::Simd;
use pulp::bytemuck::Pod;

/// Elements per block: some vectors of this length fit the first-level cache.
pub(super) const BLOCK: usize = 1024;
pub(super) trait Real:
    Element
    + Pod
    + Default
    + PartialOrd
    + Send
    + Sync
    + std::ops::Add<Output = Self>
    + std::ops::AddAssign
    + std::ops::Div<Output = Self>
    + std::ops::Mul<Output = Self>
    + std::ops::Sub<Output = Self>
{
    /// Inner products of a with each x, all of equal length.
    fn dot<S: Simd, const N: usize>(simd: S, a: &[Self], x: [&[Self]; N]) -> [Self; N];

    /// |f - z|^2 and |f|^2.
    fn residual<S: Simd>(simd: S, z: &[Self], f: &[Self]) -> [Self; 2];

    /// Inner products of differences between neighbouring points. A point is a pair of z and f. The
    /// points are `first`, then `others`, all of equal length. With r = f - z, let r', z' and f' be
    /// the differences of the two `newest` points. Computes the products of dr with r' and r. If
    /// `ALL` is set, also those of dr with z', and of df with r' and r.
    fn differences<S: Simd, const D: usize, const ALL: bool>(
        simd: S,
        newest: [[&[Self]; 2]; 2],
        first: [&[Self]; 2],
        others: [[&[Self]; 2]; D],
    ) -> [[Self; 5]; D];

    /// x minus the weighted differences of pairs, all of equal length.
    fn subtract<S: Simd, const P: usize>(
        simd: S,
        weights: [Self; P],
        pairs: [[&[Self]; 2]; P],
        x: &mut [Self],
    );
}

#[inline(always)]
fn both<'a, T, V>([a, b]: [&'a [T]; 2], of: impl Fn(&'a [T]) -> &'a [V]) -> [&'a [V]; 2] {
    [of(a), of(b)]
}

/// Written out, because the compiler vectorises a sum only if a loop has just one.
macro_rules! real {
    (
        $real:ty, $vector:ident, $lanes:ident, $as_vectors:ident, $as_vectors_mut:ident, $partial:ident,
        $store:ident, $splat:ident, $mul_add:ident, $add:ident, $sub:ident, $sum:ident
    ) => {
        impl Real for $real {
            #[inline(always)]
            fn dot<S: Simd, const N: usize>(simd: S, a: &[Self], x: [&[Self]; N]) -> [Self; N] {
                // Two sums each, because an addition must wait for the previous one.
                let mut sums = [[simd.$splat(0.0); 2]; N];
                let (vectors, rest) = S::$as_vectors(a);
                let mut x_vectors: [&[S::$vector]; N] = [&[]; N];
                for (vectors, x) in x_vectors.iter_mut().zip(x) {
                    *vectors = S::$as_vectors(x).0;
                }
                let (pairs, last) = vectors.as_chunks::<2>();
                for (k, pair) in pairs.iter().enumerate() {
                    for (sums, x) in sums.iter_mut().zip(x_vectors) {
                        let x = &x[2 * k..2 * k + 2];
                        sums[0] = simd.$mul_add(pair[0], x[0], sums[0]);
                        sums[1] = simd.$mul_add(pair[1], x[1], sums[1]);
                    }
                }
                if let [a] = last {
                    for (sums, x) in sums.iter_mut().zip(x_vectors) {
                        sums[0] = simd.$mul_add(*a, x[vectors.len() - 1], sums[0]);
                    }
                }
                let mut products = [0.0; N];
                let start = a.len() - rest.len();
                for ((product, sums), x) in products.iter_mut().zip(sums).zip(x) {
                    *product = simd.$sum(simd.$add(sums[0], sums[1]));
                    for (a, x) in rest.iter().zip(&x[start..]) {
                        *product += a * x;
                    }
                }
                products
            }

            #[inline(always)]
            fn residual<S: Simd>(simd: S, z: &[Self], f: &[Self]) -> [Self; 2] {
                let mut sums = [simd.$splat(0.0); 2];
                let ((z, z_rest), (f, f_rest)) = (S::$as_vectors(z), S::$as_vectors(f));
                for (z, f) in z.iter().zip(f) {
                    let r = simd.$sub(*f, *z);
                    sums[0] = simd.$mul_add(r, r, sums[0]);
                    sums[1] = simd.$mul_add(*f, *f, sums[1]);
                }
                let (z, f) = (simd.$partial(z_rest), simd.$partial(f_rest));
                let r = simd.$sub(f, z);
                sums[0] = simd.$mul_add(r, r, sums[0]);
                sums[1] = simd.$mul_add(f, f, sums[1]);
                [simd.$sum(sums[0]), simd.$sum(sums[1])]
            }

            #[inline(always)]
            fn differences<S: Simd, const D: usize, const ALL: bool>(
                simd: S,
                newest: [[&[Self]; 2]; 2],
                first: [&[Self]; 2],
                others: [[&[Self]; 2]; D],
            ) -> [[Self; 5]; D] {
                let mut sums = [[simd.$splat(0.0); 5]; D];
                // Vectors of z and f of the two newest points, the first and the others.
                macro_rules! add {
                    ($newest:ident, $first:ident, $others:ident, $of:ident, $vectors:literal) => {{
                        let [[z1, f1], [z0, f0]] = $newest;
                        let [z1, f1, z0, f0] = [$of(z1), $of(f1), $of(z0), $of(f0)];
                        let (mut later, first_z) = ($of($first[1]), $of($first[0]));
                        let zero = [simd.$splat(0.0); $vectors];
                        let [mut r, mut new_dr, mut new_dz, mut later_r] = [zero; 4];
                        for v in 0..$vectors {
                            r[v] = simd.$sub(f1[v], z1[v]);
                            new_dr[v] = simd.$sub(r[v], simd.$sub(f0[v], z0[v]));
                            new_dz[v] = simd.$sub(simd.$sub(f1[v], f0[v]), new_dr[v]);
                            later_r[v] = simd.$sub(later[v], first_z[v]);
                        }
                        for (sums, [z, f]) in sums.iter_mut().zip($others) {
                            let (z, f) = ($of(z), $of(f));
                            for v in 0..$vectors {
                                let r0 = simd.$sub(f[v], z[v]);
                                let dr = simd.$sub(later_r[v], r0);
                                sums[0] = simd.$mul_add(dr, new_dr[v], sums[0]);
                                sums[1] = simd.$mul_add(dr, r[v], sums[1]);
                                if ALL {
                                    let df = simd.$sub(later[v], f[v]);
                                    sums[2] = simd.$mul_add(dr, new_dz[v], sums[2]);
                                    sums[3] = simd.$mul_add(df, new_dr[v], sums[3]);
                                    sums[4] = simd.$mul_add(df, r[v], sums[4]);
                                }
                                later_r[v] = r0;
                            }
                            later = f;
                        }
                    }};
                }
                // Two vectors at once halve the number of length checks.
                let lines = |pair| both(pair, |x| S::$as_vectors(x).0.as_chunks::<2>().0);
                let (newest_lines, first_line) = (newest.map(lines), lines(first));
                let other_lines = others.map(lines);
                let pairs = first_line[0].len();
                for k in 0..pairs {
                    let of = |x: &[[S::$vector; 2]]| x[k];
                    add!(newest_lines, first_line, other_lines, of, 2);
                }
                for k in (2 * pairs * S::$lanes..first[0].len()).step_by(S::$lanes) {
                    // Padded with zeros, which add nothing.
                    let of = |x: &[Self]| [simd.$partial(&x[k..])];
                    add!(newest, first, others, of, 1);
                }
                let mut products = [[0.0; 5]; D];
                let used = if ALL { 5 } else { 2 };
                for (products, sums) in products.iter_mut().zip(sums) {
                    for (product, sum) in products.iter_mut().zip(sums).take(used) {
                        *product = simd.$sum(sum);
                    }
                }
                products
            }

            #[inline(always)]
            fn subtract<S: Simd, const P: usize>(
                simd: S,
                weights: [Self; P],
                pairs: [[&[Self]; 2]; P],
                x: &mut [Self],
            ) {
                let mut negative = [simd.$splat(0.0); P];
                for (negative, weight) in negative.iter_mut().zip(weights) {
                    *negative = simd.$splat(-weight);
                }
                let lines = pairs.map(|p| both(p, |x| S::$as_vectors(x).0.as_chunks::<2>().0));
                let whole = 2 * S::$lanes * (x.len() / (2 * S::$lanes));
                let (vectors, rest) = x.split_at_mut(whole);
                let vectors = S::$as_vectors_mut(vectors).0.as_chunks_mut::<2>().0;
                for (k, x) in vectors.iter_mut().enumerate() {
                    for (weight, [a, b]) in negative.iter().zip(lines) {
                        for (x, (a, b)) in x.iter_mut().zip(a[k].into_iter().zip(b[k])) {
                            *x = simd.$mul_add(*weight, simd.$sub(a, b), *x);
                        }
                    }
                }
                for (k, rest) in rest.chunks_mut(S::$lanes).enumerate() {
                    let of = |x: &[Self]| simd.$partial(&x[whole + k * S::$lanes..]);
                    let mut x = simd.$partial(rest);
                    for (weight, [a, b]) in negative.iter().zip(pairs) {
                        x = simd.$mul_add(*weight, simd.$sub(of(a), of(b)), x);
                    }
                    simd.$store(rest, x);
                }
            }
        }
    };
}

real!(
    f32,
    f32s,
    F32_LANES,
    as_simd_f32s,
    as_mut_simd_f32s,
    partial_load_f32s,
    partial_store_f32s,
    splat_f32s,
    mul_add_e_f32s,
    add_f32s,
    sub_f32s,
    reduce_sum_f32s
);
real!(
    f64,
    f64s,
    F64_LANES,
    as_simd_f64s,
    as_mut_simd_f64s,
    partial_load_f64s,
    partial_store_f64s,
    splat_f64s,
    mul_add_e_f64s,
    add_f64s,
    sub_f64s,
    reduce_sum_f64s
);
