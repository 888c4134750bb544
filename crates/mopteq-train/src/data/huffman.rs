//! The codes of a JPEG's scans, and the bits that they are in.

/// Bytes that may be left after the last block of a scan: some encoders write a few too many.
const TOLERANCE: usize = 8;

/// Why a walk ends early.
pub(super) enum Fault {
    Damaged,
    /// Not supported here.
    Other,
}

/// The codes of a Huffman table: for each length, the first code, their number, and where their
/// symbols begin.
#[derive(Clone, Default)]
pub(super) struct Table {
    lengths: [(u32, u32, usize); 16],
    symbols: Vec<u8>,
    /// Length and symbol of the code that these bits begin with; a length of 0 means a longer code.
    short: Vec<(u8, u8)>,
}

const SHORT: usize = 10;

impl Table {
    pub(super) fn new(counts: &[u8], symbols: &[u8]) -> Self {
        let mut table = Self {
            symbols: symbols.to_vec(),
            short: vec![(0, 0); 1 << SHORT],
            ..Self::default()
        };
        let (mut code, mut first) = (0_u32, 0);
        for (index, count) in counts.iter().enumerate() {
            table.lengths[index] = (code, u32::from(*count), first);
            let length = index + 1;
            for number in 0..usize::from(*count) {
                let shift = SHORT.saturating_sub(length);
                let start = (code as usize + number) << shift;
                let all = table.short.get_mut(start..start + (1 << shift));
                if let (Some(all), true, Some(symbol)) =
                    (all, length <= SHORT, symbols.get(first + number))
                {
                    all.fill((length as u8, *symbol));
                }
            }
            first += usize::from(*count);
            code = (code + u32::from(*count)) << 1;
        }
        table
    }
}

/// The bits of a scan up to the next marker.
pub(super) struct Bits<'a> {
    bytes: &'a [u8],
    /// Where the next byte is.
    pub(super) at: usize,
    bits: u64,
    count: u32,
    /// Bits that were read beyond the end.
    pub(super) missing: usize,
}

impl<'a> Bits<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self {
            bytes,
            at: 0,
            bits: 0,
            count: 0,
            missing: 0,
        }
    }

    /// Ensures that there are 16 bits, with zeros beyond the end.
    fn fill(&mut self) {
        // Takes eight bytes at once if none is 0xff. Those that do not fit are taken again later.
        if let Some(next) = self.bytes.get(self.at..).and_then(<[u8]>::first_chunk) {
            let next = u64::from_be_bytes(*next);
            let (ones, highest) = (u64::MAX / 255, (u64::MAX / 255) << 7);
            if (!next).wrapping_sub(ones) & next & highest == 0 {
                let fits = (64 - self.count) / 8;
                self.bits |= next >> self.count;
                self.at += fits as usize;
                self.count += 8 * fits;
                return;
            }
        }
        while self.count <= 48 {
            let (byte, step) = match (self.bytes.get(self.at), self.bytes.get(self.at + 1)) {
                (Some(0xff), Some(0)) => (0xff, 2),
                (Some(0xff), _) | (None, _) => return,
                (Some(byte), _) => (*byte, 1),
            };
            self.at += step;
            self.bits |= u64::from(byte) << (56 - self.count);
            self.count += 8;
        }
    }

    pub(super) fn skip(&mut self, count: u32) -> u32 {
        if count == 0 {
            return 0;
        }
        if self.count < 16 {
            self.fill();
        }
        let value = (self.bits >> (64 - count)) as u32;
        self.bits <<= count;
        self.missing += count.saturating_sub(self.count) as usize;
        self.count = self.count.saturating_sub(count);
        value
    }

    pub(super) fn symbol(&mut self, table: &Table) -> Result<u8, Fault> {
        if self.count < 16 {
            self.fill();
        }
        let (length, symbol) = table.short[(self.bits >> (64 - SHORT)) as usize];
        if length > 0 {
            self.skip(length.into());
            return Ok(symbol);
        }
        for (index, (first, count, place)) in table.lengths.iter().enumerate() {
            let code = (self.bits >> (63 - index)) as u32;
            if let Some(number) = code.checked_sub(*first)
                && number < *count
            {
                self.skip(index as u32 + 1);
                let symbol = table.symbols.get(place + number as usize);
                return symbol.copied().ok_or(Fault::Other);
            }
        }
        Err(Fault::Damaged)
    }

    /// Skips the rest up to the next marker, and returns the marker. A long rest means damage.
    pub(super) fn end(&mut self) -> Result<u8, Fault> {
        // Bytes that were read ahead also belong to this interval.
        let ahead = (self.count / 8) as usize;
        let rest = &self.bytes[self.at.min(self.bytes.len())..];
        let is_end = |pair: &[u8]| pair[0] == 0xff && !matches!(pair[1], 0 | 0xff);
        let Some(length) = rest.windows(2).position(is_end) else {
            return Err(Fault::Damaged);
        };
        // Padding is not data.
        let padding = rest[..length].iter().all(|byte| *byte == 0)
            || rest[..length].iter().all(|byte| *byte == 0xff);
        if ahead + length > TOLERANCE && !padding {
            return Err(Fault::Damaged);
        }
        self.at += length;
        (self.bits, self.count, self.missing) = (0, 0, 0);
        Ok(rest[length + 1])
    }
}
