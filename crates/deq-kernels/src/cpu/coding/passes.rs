//! The passes over memory between two products.

use pulp::{Simd, WithSimd};

use crate::cpu::memory::LANES;

/// Defines a pass over lines of memory, in the machine's instruction set. It returns the sums of
/// the terms that `body` yields for each element.
macro_rules! pass {
    ($(#[$doc:meta])* $name:ident { $($line:ident),* ; $($out:ident),* ; $($number:ident),* ; $sums:literal } $body:expr) => {
        $(#[$doc])*
        pub(super) struct $name<'a> {
            $(pub(super) $line: &'a [f32],)*
            $(pub(super) $out: &'a mut [f32],)*
            $(pub(super) $number: f32,)*
        }

        impl WithSimd for $name<'_> {
            type Output = [f64; $sums];

            #[inline(always)]
            fn with_simd<S: Simd>(self, _simd: S) -> [f64; $sums] {
                let Self { $($line,)* $($out,)* $($number),* } = self;
                let mut totals = [0.0f64; $sums];
                $(let mut $line = $line.as_chunks::<LANES>().0.iter();)*
                $(let mut $out = $out.as_chunks_mut::<LANES>().0.iter_mut();)*
                // Each line of memory is summed in f32; the sums of the lines are added in f64.
                loop {
                    let mut sums = [[0.0f32; LANES]; $sums];
                    let mut chunks = 0;
                    while chunks < 64 {
                        $(let Some($line) = $line.next() else { break };)*
                        $(let Some($out) = $out.next() else { break };)*
                        for lane in 0..LANES {
                            $(let $line = $line[lane];)*
                            $(let $out = &mut $out[lane];)*
                            let add: [f32; $sums] = $body;
                            for (sums, add) in sums.iter_mut().zip(add) {
                                sums[lane] += add;
                            }
                        }
                        chunks += 1;
                    }
                    for (total, sums) in totals.iter_mut().zip(sums) {
                        *total += f64::from(sums.iter().sum::<f32>());
                    }
                    if chunks < 64 {
                        return totals;
                    }
                }
            }
        }
    };
}

pass! {
    /// The value f of the map at y from its product: |r|^2, |f|^2, and with d = f - f- the products
    /// <r, d>, <d, y - y->, |y - y-|^2 and |d|^2.
    Value { y, c, before, image; f; keep, step; 6 } {
        let v = keep * y - step * *f + step * c;
        // Keeps NaN.
        let value = if v < 0.0 { 0.0 } else { v };
        *f = value;
        let (r, d, moved) = (value - y, value - image, y - before);
        [r * r, value * value, r * d, d * moved, moved * moved, d * d]
    }
}

pass! {
    /// y+ = f + beta (f - f-).
    Extrapolate { f, image; y; beta; 0 } {
        *y = f + beta * (f - image);
        []
    }
}

pass! {
    /// D p and <p, step D H p> from the product E E' G p, which becomes step H p.
    Curve { p, mask; h; keep, step; 1 } {
        *h = (1.0 - keep) * p + step * *h;
        [p * mask * *h]
    }
}

pass! {
    /// One step of conjugate gradients: |r|^2 and |w + r|^2. `u` sums up S w.
    Descend { p, h, mask; w, u, r; alpha; 2 } {
        *w += alpha * p;
        *u += alpha * (p - h);
        *r -= alpha * mask * h;
        let f = *w + *r;
        [*r * *r, f * f]
    }
}

pass! {
    /// p = r + beta p.
    Turn { r; p; beta; 0 } {
        *p = r + beta * *p;
        []
    }
}
