//! TFRecord framing: each record has its length and checksums of both around it.

/// Bytes before a record: its length and the checksum of the length.
const HEAD: usize = 12;
/// Bytes after it: its checksum.
const TAIL: usize = 4;

/// CRC-32C, masked: files hold checksums of parts that hold checksums.
fn masked(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes)
        .rotate_right(15)
        .wrapping_add(0xa282_ead8)
}

/// A record in its frame.
pub(super) fn frame(record: &[u8]) -> Vec<u8> {
    let length = (record.len() as u64).to_le_bytes();
    let mut framed = Vec::with_capacity(HEAD + record.len() + TAIL);
    framed.extend(length);
    framed.extend(masked(&length).to_le_bytes());
    framed.extend(record);
    framed.extend(masked(record).to_le_bytes());
    framed
}

/// The records of a file up to the first that is cut off or damaged, each with its frame.
pub(super) fn records(mut bytes: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    std::iter::from_fn(move || {
        let (head, rest) = bytes.split_at_checked(HEAD)?;
        let (length, checksum) = head.split_at(HEAD - TAIL);
        if masked(length).to_le_bytes() != checksum {
            return None;
        }
        let length = usize::try_from(u64::from_le_bytes(length.try_into().ok()?)).ok()?;
        let (record, rest) = rest.split_at_checked(length)?;
        let (checksum, rest) = rest.split_at_checked(TAIL)?;
        if masked(record).to_le_bytes() != checksum {
            return None;
        }
        let (framed, _) = bytes.split_at(HEAD + length + TAIL);
        bytes = rest;
        Some((record, framed))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_are_those_of_the_format() {
        // RFC 3720, B.4: CRC-32C of 32 zeros, of 32 ones, and of the bytes 0 to 31.
        assert_eq!(crc32c::crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c::crc32c(&[0xff; 32]), 0x62a8_ab43);
        let rising: Vec<u8> = (0..32).collect();
        assert_eq!(crc32c::crc32c(&rising), 0x46dd_794e);
        // The mask of LevelDB and TensorFlow.
        assert_eq!(
            masked(&[0; 32]),
            0x8a91_36aa_u32.rotate_right(15).wrapping_add(0xa282_ead8)
        );
    }

    #[test]
    fn a_frame_is_that_of_tensorflow() {
        // What TensorBoard's own RecordWriter writes for b"abc".
        let expected = [
            3, 0, 0, 0, 0, 0, 0, 0, 0xb0, 0x99, 0x49, 0x0e, b'a', b'b', b'c', 0x6e, 0x57, 0xf1,
            0x21,
        ];
        assert_eq!(frame(b"abc"), expected);
    }

    #[test]
    fn what_is_cut_off_or_damaged_ends_a_file() {
        let file = [frame(b"one"), frame(b""), frame(b"three")].concat();
        let read = |bytes: &[u8]| -> Vec<Vec<u8>> {
            records(bytes).map(|(record, _)| record.to_vec()).collect()
        };
        let all = vec![b"one".to_vec(), Vec::new(), b"three".to_vec()];
        assert_eq!(read(&file), all);
        assert_eq!(read(&file[..file.len() - 1]), all[..2]);
        let mut damaged = file.clone();
        damaged[HEAD] ^= 1;
        assert!(read(&damaged).is_empty());
        // A length that no file has must not lead to a request for that much memory.
        let mut huge = file;
        huge[..8].copy_from_slice(&u64::MAX.to_le_bytes());
        assert!(read(&huge).is_empty());
    }
}
