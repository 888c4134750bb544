//! Whether a JPEG is whole. Decoders fill what is missing with grey and say nothing.
//!
//! Every scan states its number of blocks. The code here skips over the codes without decoding the
//! values. A scan whose bytes end before or after its blocks is damaged, wherever its bytes came
//! from. What is not supported here (arithmetic codes, 12 bits) is left to the decoder.

use super::huffman::{Bits, Fault, Table};

const START: u8 = 0xd8;
const END: u8 = 0xd9;

/// Whether a JPEG ends before its end marker. The segments are stepped over, because an embedded
/// preview has an end marker of its own.
pub(super) fn is_cut_off(bytes: &[u8]) -> bool {
    let mut rest = bytes;
    if !is_jpeg(bytes) {
        return false;
    }
    loop {
        let Some(at) = rest.windows(2).position(is_marker) else {
            return true;
        };
        let skip = match rest[at + 1] {
            END => return false,
            START => 2,
            _ => match rest.get(at + 2..at + 4) {
                Some(length) => 2 + usize::from(u16::from_be_bytes([length[0], length[1]])),
                None => return true,
            },
        };
        match rest.get(at + skip..) {
            Some(left) => rest = left,
            None => return true,
        }
    }
}

fn is_jpeg(bytes: &[u8]) -> bool {
    bytes.starts_with(&[0xff, START, 0xff])
}

/// Within a scan, 0xff is followed by 0 or by the number of a restart.
fn is_marker(pair: &[u8]) -> bool {
    pair[0] == 0xff && !matches!(pair[1], 0 | 1 | 0xd0..=0xd7 | 0xff)
}

/// Whether the data of a JPEG are not those of a whole picture, although they have their end.
pub(super) fn is_damaged(bytes: &[u8]) -> bool {
    is_jpeg(bytes) && matches!(Picture::default().walk(bytes), Err(Fault::Damaged))
}

#[derive(Default)]
struct Component {
    id: u8,
    /// Blocks of a unit of all components, across and down.
    sampling: [usize; 2],
    /// Blocks that the picture covers, across and down.
    blocks: [usize; 2],
    /// Which values of each block are not 0 so far; for progressive pictures only.
    nonzero: Vec<u64>,
    seen: bool,
}

#[derive(Default)]
struct Picture {
    progressive: bool,
    /// Units of all components, across and down.
    units: [usize; 2],
    components: Vec<Component>,
    /// Tables of the first value of a block, and of the others.
    tables: [[Option<Table>; 4]; 2],
    /// Units between two restarts; 0: there are none.
    restart: usize,
}

/// What a scan says about itself.
struct Scan<'a> {
    first: usize,
    last: usize,
    refines: bool,
    tables: Vec<[Option<&'a Table>; 2]>,
}

impl Picture {
    fn walk(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        let mut at = 2;
        loop {
            let rest = bytes.get(at..).unwrap_or_default();
            at += rest.windows(2).position(is_marker).ok_or(Fault::Damaged)?;
            let kind = bytes[at + 1];
            if kind == END {
                // The picture may end before some component has data.
                let whole = self.components.iter().all(|component| component.seen);
                return if whole { Ok(()) } else { Err(Fault::Damaged) };
            }
            let length = bytes.get(at + 2..at + 4).ok_or(Fault::Damaged)?;
            let length = usize::from(u16::from_be_bytes([length[0], length[1]]));
            let segment = bytes.get(at + 4..at + 2 + length).ok_or(Fault::Damaged)?;
            at += 2 + length;
            match kind {
                0xc0..=0xc2 => self.frame(segment, kind == 0xc2)?,
                0xc4 => self.huffman(segment)?,
                // Lossless, hierarchical, arithmetic, or a height that comes later.
                0xc3 | 0xc5..=0xcf | 0xdc => return Err(Fault::Other),
                0xdd => {
                    let restart = segment.get(..2).ok_or(Fault::Other)?;
                    self.restart = u16::from_be_bytes([restart[0], restart[1]]).into();
                }
                0xda => at += self.scan(segment, bytes.get(at..).unwrap_or_default())?,
                _ => {}
            }
        }
    }

    fn frame(&mut self, segment: &[u8], progressive: bool) -> Result<(), Fault> {
        let [8, h1, h0, w1, w0, count, rest @ ..] = segment else {
            return Err(Fault::Other);
        };
        let size =
            [(w1, w0), (h1, h0)].map(|(high, low)| usize::from(*high) << 8 | usize::from(*low));
        let parts: Vec<&[u8]> = rest.chunks_exact(3).take((*count).into()).collect();
        let sampling = |part: &[u8]| [usize::from(part[1] >> 4), usize::from(part[1] & 15)];
        let most = |axis: usize| parts.iter().map(|part| sampling(part)[axis]).max();
        let (Some(across), Some(down)) = (most(0), most(1)) else {
            return Err(Fault::Other);
        };
        let zero = parts.iter().any(|part| sampling(part).contains(&0));
        if zero || size.contains(&0) || !self.components.is_empty() {
            return Err(Fault::Other);
        }
        let most = [across, down];
        self.progressive = progressive;
        self.units = [0, 1].map(|axis| size[axis].div_ceil(8 * most[axis]));
        for part in parts {
            let sampling = sampling(part);
            let blocks = |axis: usize| {
                (size[axis] * sampling[axis])
                    .div_ceil(most[axis])
                    .div_ceil(8)
            };
            let all = self.units[0] * sampling[0] * self.units[1] * sampling[1];
            self.components.push(Component {
                id: part[0],
                sampling,
                blocks: [blocks(0), blocks(1)],
                nonzero: vec![0; if progressive { all } else { 0 }],
                seen: false,
            });
        }
        Ok(())
    }

    fn huffman(&mut self, mut segment: &[u8]) -> Result<(), Fault> {
        while let [kind, rest @ ..] = segment {
            let counts = rest.get(..16).ok_or(Fault::Other)?;
            let number: usize = counts.iter().map(|count| usize::from(*count)).sum();
            let symbols = rest.get(16..16 + number).ok_or(Fault::Other)?;
            let tables = self
                .tables
                .get_mut(usize::from(kind >> 4))
                .ok_or(Fault::Other)?;
            let table = tables.get_mut(usize::from(kind & 15)).ok_or(Fault::Other)?;
            *table = Some(Table::new(counts, symbols));
            segment = &rest[16 + number..];
        }
        Ok(())
    }

    /// Skips over a scan, and returns the number of its bytes.
    fn scan(&mut self, segment: &[u8], bytes: &[u8]) -> Result<usize, Fault> {
        let [count, rest @ ..] = segment else {
            return Err(Fault::Other);
        };
        let count = usize::from(*count);
        let (parts, [first, last, steps, ..]) =
            rest.split_at_checked(2 * count).ok_or(Fault::Other)?
        else {
            return Err(Fault::Other);
        };
        let mut places = Vec::new();
        let mut tables = Vec::new();
        for part in parts.chunks_exact(2) {
            let place = self
                .components
                .iter()
                .position(|component| component.id == part[0]);
            places.push(place.ok_or(Fault::Other)?);
            let table = |class: usize, number: u8| {
                self.tables[class]
                    .get(usize::from(number))
                    .and_then(Option::as_ref)
            };
            tables.push([table(0, part[1] >> 4), table(1, part[1] & 15)]);
        }
        let scan = Scan {
            first: usize::from(*first),
            last: usize::from(*last).min(63),
            refines: self.progressive && steps >> 4 > 0,
            tables,
        };
        let alone = places.len() == 1;
        let units = match (alone, places.first()) {
            (true, Some(place)) => self.components[*place].blocks,
            _ => self.units,
        };
        let mut bits = Bits::new(bytes);
        let (total, mut run) = (units[0] * units[1], 0);
        for unit in 0..total {
            if self.restart > 0 && unit > 0 && unit % self.restart == 0 {
                // Restarts count from 0 to 7 and again from 0.
                let number = (unit / self.restart - 1) % 8;
                if usize::from(bits.end()?) != 0xd0 + number {
                    return Err(Fault::Damaged);
                }
                bits.at += 2;
                run = 0;
            }
            for (place, tables) in places.iter().zip(&scan.tables) {
                let component = &mut self.components[*place];
                component.seen |= scan.first == 0;
                let [across, down] = if alone { [1, 1] } else { component.sampling };
                let stride = self.units[0] * component.sampling[0];
                for block in 0..across * down {
                    let x = (unit % units[0]) * across + block % across;
                    let y = (unit / units[0]) * down + block / across;
                    if self.progressive {
                        let block = component.nonzero.get_mut(y * stride + x);
                        progressive(
                            &mut bits,
                            &scan,
                            tables,
                            block.ok_or(Fault::Other)?,
                            &mut run,
                        )?;
                    } else {
                        sequential(&mut bits, tables)?;
                    }
                }
            }
            // The last unit may lack some bits of its padding.
            if bits.missing > 0 && unit + 1 < total {
                return Err(Fault::Damaged);
            }
        }
        bits.end()?;
        Ok(bits.at)
    }
}

fn sequential(bits: &mut Bits<'_>, tables: &[Option<&Table>; 2]) -> Result<(), Fault> {
    let [Some(one), Some(others)] = tables else {
        return Err(Fault::Other);
    };
    let size = bits.symbol(one)?;
    bits.skip(u32::from(size & 15));
    let mut at = 1;
    while at < 64 {
        let symbol = bits.symbol(others)?;
        let (zeros, size) = (usize::from(symbol >> 4), u32::from(symbol & 15));
        match (zeros, size) {
            (15, 0) => at += 16,
            (_, 0) => break,
            _ => {
                bits.skip(size);
                at += zeros + 1;
            }
        }
    }
    if at > 64 { Err(Fault::Damaged) } else { Ok(()) }
}

fn progressive(
    bits: &mut Bits<'_>,
    scan: &Scan<'_>,
    tables: &[Option<&Table>; 2],
    nonzero: &mut u64,
    run: &mut u32,
) -> Result<(), Fault> {
    if scan.first == 0 {
        let size = match (scan.refines, tables[0]) {
            (true, _) => 1,
            (false, Some(table)) => u32::from(bits.symbol(table)? & 15),
            (false, None) => return Err(Fault::Other),
        };
        bits.skip(size);
        return Ok(());
    }
    let table = tables[1].ok_or(Fault::Other)?;
    let mut at = scan.first;
    // A refinement has one more bit for each value that is already not 0.
    let known = |at: usize, nonzero: u64| scan.refines && nonzero >> at & 1 == 1;
    while *run == 0 && at <= scan.last {
        let symbol = bits.symbol(table)?;
        let (mut zeros, size) = (usize::from(symbol >> 4), u32::from(symbol & 15));
        if size == 0 && zeros < 15 {
            *run = (1 << zeros) + bits.skip(zeros as u32);
            break;
        }
        bits.skip(size);
        if !scan.refines {
            at += zeros;
            zeros = 0;
        }
        while at <= scan.last && (zeros > 0 || known(at, *nonzero)) {
            match known(at, *nonzero) {
                true => _ = bits.skip(1),
                false => zeros -= 1,
            }
            at += 1;
        }
        if size > 0 {
            if at > scan.last {
                return Err(Fault::Damaged);
            }
            *nonzero |= 1 << at;
        }
        at += 1;
    }
    if *run > 0 {
        if scan.refines && at <= scan.last {
            let rest = (*nonzero >> at << at) & (u64::MAX >> (63 - scan.last));
            (0..rest.count_ones()).for_each(|_| _ = bits.skip(1));
        }
        *run -= 1;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use base64::prelude::{BASE64_STANDARD, Engine};
    use image::{DynamicImage, Rgb, RgbImage};

    use super::*;

    /// 40 x 30 pixels of noise: progressive with nine scans, and with a restart after each row.
    const OTHERS: [&str; 2] = [
        "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDAGRFS1hLP2RYUVhxamR3lvqjloqKlv/b57X6////////////////////////////////////////////////////2wBDAWpxcZaDlv+jo///////////////////////////////////////////////////////////////////////////wgARCAAeACgDASIAAhEBAxEB/8QAFQABAQAAAAAAAAAAAAAAAAAAAAH/xAAVAQEBAAAAAAAAAAAAAAAAAAAAAf/aAAwDAQACEAMQAAABSgAIlKECj//EABQQAQAAAAAAAAAAAAAAAAAAAED/2gAIAQEAAQUCJ//EABQRAQAAAAAAAAAAAAAAAAAAACD/2gAIAQMBAT8BX//EABQRAQAAAAAAAAAAAAAAAAAAACD/2gAIAQIBAT8BX//EABQQAQAAAAAAAAAAAAAAAAAAAED/2gAIAQEABj8CJ//EABsQAAEEAwAAAAAAAAAAAAAAABAAAREgMUGB/9oACAEBAAE/IRy8BloxRsL/2gAMAwEAAgADAAAAEECDqJM//8QAGBEBAQADAAAAAAAAAAAAAAAAEQABEEH/2gAIAQMBAT8QiTeHl//EABcRAAMBAAAAAAAAAAAAAAAAAAEQICH/2gAIAQIBAT8QR2P/xAAiEAABAwQCAgMAAAAAAAAAAAABABExIVFh8EGxcYGRwdH/2gAIAQEAAT8QeOt2ykswunq5y2qgpoxbpTUdb+Jruw4QEFn36UmK5V0BAihYSqhGTvO+wHhXO70S12TC8IhRxxwsgBpHypLAVQPM+VIX3ZX/2Q==",
        "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDAGRFS1hLP2RYUVhxamR3lvqjloqKlv/b57X6////////////////////////////////////////////////////2wBDAWpxcZaDlv+jo///////////////////////////////////////////////////////////////////////////wAARCAAeACgDASIAAhEBAxEB/8QAFQABAQAAAAAAAAAAAAAAAAAAAQD/xAAlEAABAwMEAAcAAAAAAAAAAAABABExIUHwAlFhsRIycYGRwdH/xAAVAQEBAAAAAAAAAAAAAAAAAAAAAf/EABgRAQEBAQEAAAAAAAAAAAAAAAARASFB/90ABAAD/9oADAMBAAIRAxEAPwCeOszZElmG6ZqOs/FNu7CyCernTzlVQUgQWfPpEmK8oRNHG3Sk+G8BSm9LH//QARQsJTpqI5OXz3TpFHFrI5ADSPlAgPpivOZ0EtuypLAVQDefVBMN4UnT5SXzJUquXx//2Q==",
    ];

    fn baseline() -> Vec<u8> {
        let noise = RgbImage::from_fn(90, 70, |x, y| {
            Rgb([
                (x * 37 + y * 91) as u8,
                (x * x + 3 * y) as u8,
                (7 * x * y) as u8,
            ])
        });
        let mut bytes = Cursor::new(Vec::new());
        let jpeg = image::ImageFormat::Jpeg;
        DynamicImage::from(noise)
            .write_to(&mut bytes, jpeg)
            .unwrap();
        bytes.into_inner()
    }

    #[test]
    fn what_is_missing_is_seen_though_there_is_an_end() {
        let others = OTHERS.map(|text| BASE64_STANDARD.decode(text).unwrap());
        for whole in others.into_iter().chain([baseline()]) {
            assert!(!is_cut_off(&whole) && !is_damaged(&whole));
            let first = whole
                .windows(2)
                .position(|pair| pair == [0xff, 0xda])
                .unwrap()
                + 14;
            let scan = whole.len() - first;
            for share in [20, 40, 60, 80] {
                let cut = &whole[..first + scan * share / 100];
                let ended = [cut, &[0xff, END]].concat();
                assert!(is_cut_off(&ended) || is_damaged(&ended), "{share} %");
                // A hole, as an interrupted copy leaves it.
                let mut hole = whole.clone();
                let start = first + scan * share / 100;
                hole[start..start + scan / 6].fill(0);
                assert!(is_damaged(&hole), "{share} %");
            }
            // A few bytes too many, and what comes after the end, do no harm.
            let (data, end) = whole.split_at(whole.len() - 2);
            assert!(!is_damaged(&[data, &[0; 9], end].concat()));
            assert!(!is_damaged(&[data, &[0; 900], end].concat()));
            assert!(!is_damaged(&[&whole[..], &data[first..]].concat()));
        }
        // What is not supported here is left to the decoder, and nothing panics.
        let whole = baseline();
        for at in 2..700 {
            for value in [0, 0xff, 0x11] {
                let mut odd = whole.clone();
                odd[at] = value;
                is_damaged(&odd);
            }
        }
    }
}
