//! The tile unit: 32 x 32 sums of products of bf16 numbers.

use std::marker::PhantomData;

/// Rows and columns of a block: two tiles each way.
pub(super) const SIDE: usize = 32;
/// Products that a step adds to each sum: the bf16 numbers in a row of a tile.
pub(super) const DEPTH: usize = 32;

/// Whether rows of this length fill the tiles well enough.
pub(in crate::cpu) fn pay(rows: usize) -> bool {
    rows > DEPTH / 2
}

/// The left matrix of a block, row by row, as high and low halves.
#[derive(Clone, Copy, Debug)]
pub(super) struct Left<'a> {
    /// Its halves, from the first number on.
    pub(super) numbers: &'a [u16],
    /// Numbers from a row to the next.
    pub(super) row: usize,
    /// Numbers from the high halves to the low ones.
    pub(super) low: usize,
    /// Numbers from a step to the next.
    pub(super) step: usize,
}

/// The right matrix of a block, as high and low halves: pairs of rows, with the number of the first
/// row in the lower 16 bits.
#[derive(Clone, Copy, Debug)]
pub(super) struct Right<'a> {
    /// Its pairs, from the first column on.
    pub(super) pairs: &'a [u32],
    /// Pairs from a pair of rows to the next.
    pub(super) row: usize,
    /// Pairs from the high halves to the low ones.
    pub(super) low: usize,
}

/// The tile unit, set up for this thread while this value lives.
pub(super) struct Unit {
    real: bool,
    /// The setting belongs to the thread.
    thread: PhantomData<*const ()>,
}

impl Unit {
    pub(super) fn enter() -> Self {
        let real = amx::present();
        if real {
            amx::set_up();
        }
        Self {
            real,
            thread: PhantomData,
        }
    }

    /// Writes a block of sums to `to`, whose rows are `line` numbers apart. Step i multiplies with the
    /// rows of the right matrix from the pair `starts[i]` on.
    ///
    /// # Panics
    ///
    /// If a matrix is too short.
    pub(super) fn block(
        &self,
        left: Left<'_>,
        right: Right<'_>,
        starts: &[usize],
        to: &mut [f32],
        line: usize,
    ) {
        let last = starts.iter().copied().max().unwrap_or(0);
        let steps = starts.len().saturating_sub(1);
        let reads = steps * left.step + left.low + (SIDE - 1) * left.row + DEPTH;
        assert!(reads <= left.numbers.len(), "the left matrix is too short");
        let reads = last + right.low + (DEPTH / 2 - 1) * right.row + SIDE;
        assert!(reads <= right.pairs.len(), "the right matrix is too short");
        let writes = (SIDE - 1) * line + SIDE;
        assert!(writes <= to.len(), "there is too little room for a block");
        if self.real && !starts.is_empty() {
            amx::block(left, right, starts, to, line);
        } else {
            block(left, right, starts, to, line);
        }
    }
}

impl Drop for Unit {
    fn drop(&mut self) {
        if self.real {
            amx::release();
        }
    }
}

/// Whether this machine has a tile unit that the program may use.
pub(in crate::cpu) fn present() -> bool {
    amx::present()
}

/// What the unit computes, number by number. Tests use it on machines without one.
fn block(left: Left<'_>, right: Right<'_>, starts: &[usize], to: &mut [f32], line: usize) {
    let float = |bits: u32| f32::from_bits(bits << 16);
    for (r, to) in to.chunks_mut(line).take(SIDE).enumerate() {
        for (c, to) in to[..SIDE].iter_mut().enumerate() {
            *to = 0.0;
            for (i, start) in starts.iter().enumerate() {
                for k in 0..DEPTH {
                    let a = r * left.row + i * left.step + k;
                    let a = [a, a + left.low].map(|a| float(left.numbers[a].into()));
                    let b = start + k / 2 * right.row + c;
                    let b = [b, b + right.low]
                        .map(|b| float((right.pairs[b] >> (16 * (k % 2))) & 0xffff));
                    *to += a[0] * b[0] + a[0] * b[1] + a[1] * b[0];
                }
            }
        }
    }
}

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
#[allow(unsafe_code)]
mod amx {
    use std::arch::asm;
    use std::arch::x86_64::{__cpuid, __cpuid_count};
    use std::sync::LazyLock;

    use super::{Left, Right};
    use crate::switch;

    /// The rows and the bytes per row of eight full tiles, in the processor's format.
    #[repr(C, align(64))]
    struct Shapes {
        palette: u8,
        start: u8,
        reserved: [u8; 14],
        bytes: [u16; 16],
        rows: [u8; 16],
    }

    static SHAPES: Shapes = Shapes {
        palette: 1,
        start: 0,
        reserved: [0; 14],
        bytes: [64, 64, 64, 64, 64, 64, 64, 64, 0, 0, 0, 0, 0, 0, 0, 0],
        rows: [16, 16, 16, 16, 16, 16, 16, 16, 0, 0, 0, 0, 0, 0, 0, 0],
    };

    static PRESENT: LazyLock<bool> = LazyLock::new(|| switch::tiles() && has_tiles() && may_use());

    pub(super) fn present() -> bool {
        *PRESENT
    }

    /// Whether the processor multiplies tiles of bf16 numbers, and the system saves tiles.
    fn has_tiles() -> bool {
        const SAVES: u32 = 1 << 27;
        const BF16_AND_TILES: u32 = 1 << 22 | 1 << 24;
        const TILES: u32 = 3 << 17;
        let least = __cpuid(0).eax >= 7 && __cpuid(1).ecx & SAVES != 0;
        if !least || __cpuid_count(7, 0).edx & BF16_AND_TILES != BF16_AND_TILES {
            return false;
        }
        let saved: u32;
        // SAFETY: the instruction exists where the system saves extended registers.
        unsafe {
            asm!("xgetbv", in("ecx") 0, out("eax") saved, out("edx") _, options(nomem, nostack));
        }
        saved & TILES == TILES
    }

    /// Asks Linux for the use of tiles, which it grants to a process once and for all.
    fn may_use() -> bool {
        const ARCH_PRCTL: i64 = 158;
        const REQUEST: u64 = 0x1023;
        const TILE_DATA: u64 = 18;
        let result: i64;
        // SAFETY: the call has no other effect.
        unsafe {
            asm!(
                "syscall",
                inlateout("rax") ARCH_PRCTL => result,
                in("rdi") REQUEST,
                in("rsi") TILE_DATA,
                out("rcx") _,
                out("r11") _,
                options(nostack),
            );
        }
        result == 0
    }

    pub(super) fn set_up() {
        // SAFETY: the processor has tiles, the process may use them, and the shapes are valid.
        unsafe {
            asm!(
                "ldtilecfg [{}]",
                in(reg) &raw const SHAPES,
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack, readonly),
            );
        }
    }

    pub(super) fn release() {
        // SAFETY: the processor has tiles.
        unsafe {
            asm!(
                "tilerelease",
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack, nomem),
            );
        }
    }

    /// Distances in bytes.
    #[repr(C)]
    struct Strides {
        left_low: usize,
        left_next: usize,
        right_low: usize,
        to: usize,
        to_half: usize,
    }

    /// The caller has checked that the matrices are long enough, and that there is a step.
    pub(super) fn block(
        left: Left<'_>,
        right: Right<'_>,
        starts: &[usize],
        to: &mut [f32],
        line: usize,
    ) {
        const LEFT: usize = size_of::<u16>();
        const RIGHT: usize = size_of::<u32>();
        let strides = Strides {
            left_low: LEFT * left.low,
            left_next: (LEFT * left.step).wrapping_sub(LEFT * left.low),
            right_low: RIGHT * right.low,
            to: size_of::<f32>() * line,
            to_half: size_of::<f32>() * line * 16,
        };
        let first = left.numbers.as_ptr();
        // SAFETY: `Unit::block` checks the ranges that are read and written, and a `Unit` exists only
        // where the tiles are set up.
        unsafe {
            asm!(
                "tilezero tmm0",
                "tilezero tmm1",
                "tilezero tmm2",
                "tilezero tmm3",
                "2:",
                // High times high.
                "mov {p}, [{starts}]",
                "lea {p}, [{right} + {p}*4]",
                "tileloadd tmm4, [{upper} + {row}*1]",
                "tileloadd tmm5, [{lower} + {row}*1]",
                "tileloadd tmm6, [{p} + {pair}*1]",
                "tileloadd tmm7, [{p} + {pair}*1 + 64]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm3, tmm5, tmm7",
                // High times low.
                "add {p}, [{strides} + 16]",
                "tileloadd tmm6, [{p} + {pair}*1]",
                "tileloadd tmm7, [{p} + {pair}*1 + 64]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm3, tmm5, tmm7",
                // Low times high.
                "sub {p}, [{strides} + 16]",
                "add {upper}, [{strides}]",
                "add {lower}, [{strides}]",
                "tileloadd tmm4, [{upper} + {row}*1]",
                "tileloadd tmm5, [{lower} + {row}*1]",
                "tileloadd tmm6, [{p} + {pair}*1]",
                "tileloadd tmm7, [{p} + {pair}*1 + 64]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm3, tmm5, tmm7",
                "add {upper}, [{strides} + 8]",
                "add {lower}, [{strides} + 8]",
                "add {starts}, 8",
                "dec {steps}",
                "jnz 2b",
                "mov {p}, [{strides} + 24]",
                "tilestored [{to} + {p}*1], tmm0",
                "tilestored [{to} + {p}*1 + 64], tmm1",
                "add {to}, [{strides} + 32]",
                "tilestored [{to} + {p}*1], tmm2",
                "tilestored [{to} + {p}*1 + 64], tmm3",
                p = out(reg) _,
                starts = inout(reg) starts.as_ptr() => _,
                steps = inout(reg) starts.len() => _,
                right = in(reg) right.pairs.as_ptr(),
                pair = in(reg) RIGHT * right.row,
                upper = inout(reg) first => _,
                lower = inout(reg) first.wrapping_add(16 * left.row) => _,
                row = in(reg) LEFT * left.row,
                to = inout(reg) to.as_mut_ptr() => _,
                strides = in(reg) &raw const strides,
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack),
            );
        }
    }
}

#[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
mod amx {
    use super::{Left, Right};

    pub(super) fn present() -> bool {
        false
    }

    pub(super) fn set_up() {}

    pub(super) fn release() {}

    pub(super) fn block(
        left: Left<'_>,
        right: Right<'_>,
        starts: &[usize],
        to: &mut [f32],
        line: usize,
    ) {
        super::block(left, right, starts, to, line);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_unit_computes_what_it_is_meant_to() {
        let (row, low, steps) = (DEPTH + 2, 5000, 3);
        let bits = |n: usize| ((n.wrapping_mul(2_654_435_761) >> 9) as u16 & 0x80ff) | 0x3f00;
        let numbers: Vec<u16> = (0..2 * low).map(bits).collect();
        let pairs: Vec<u32> = (0..2 * low)
            .map(|n| u32::from(bits(n + 7)) | u32::from(bits(3 * n)) << 16)
            .collect();
        let left = Left {
            numbers: &numbers,
            row,
            low,
            step: 11,
        };
        let right = Right {
            pairs: &pairs,
            row: SIDE + 3,
            low,
        };
        let starts: Vec<usize> = (0..steps).map(|i| 17 * i + 1).collect();
        let line = SIDE + 5;
        let mut real = vec![f32::NAN; SIDE * line];
        let mut meant = real.clone();
        Unit::enter().block(left, right, &starts, &mut real, line);
        block(left, right, &starts, &mut meant, line);
        for (real, meant) in real.iter().zip(&meant) {
            let same = real.is_nan() && meant.is_nan();
            assert!(same || (real - meant).abs() < 1e-3, "{real} {meant}");
        }
        assert_eq!(meant.iter().filter(|sum| sum.is_nan()).count(), SIDE * 5);
    }
}
