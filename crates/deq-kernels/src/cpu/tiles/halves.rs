//! f32 numbers as two bf16 numbers.

/// The halves of a number, each in the upper 16 bits.
#[inline(always)]
pub(super) fn split(x: f32) -> [u32; 2] {
    const UPPER: u32 = 0xffff_0000;
    let bits = x.to_bits();
    // Rounding would make another number of NaN and of the largest numbers.
    let rounds = bits & 0x7fff_ffff < 0x7f7f_8000;
    let high = (bits + if rounds { 0x8000 } else { 0 }) & UPPER;
    let low = (x - f32::from_bits(high)).to_bits();
    [high, low.wrapping_add(0x8000) & UPPER]
}

#[cfg(test)]
mod tests {
    use super::super::exact::numbers;
    use super::*;

    #[test]
    fn halves_add_up_and_no_number_becomes_finite() {
        let value = |x: f32| split(x).map(f32::from_bits);
        for x in numbers(1000, 7) {
            let [high, low] = value(x);
            assert!(
                (f64::from(high) + f64::from(low) - f64::from(x)).abs()
                    <= f64::from(x).abs() / 131_072.0
            );
        }
        for x in [
            f32::NAN,
            f32::INFINITY,
            f32::from_bits(0x7fff_ffff),
            f32::from_bits(0xff80_0001),
        ] {
            let [high, low] = value(x);
            assert!(!(high * 1.0 + low * 1.0).is_finite(), "{x}");
        }
        assert!(value(f32::MAX).iter().all(|half| half.is_finite()));
    }
}
