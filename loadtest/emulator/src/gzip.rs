//! Gzip without compression: stored blocks, which every reader of gzip reads.

/// Most bytes in a stored block: its length has 16 bits.
const BLOCK: usize = 0xffff;

/// These bytes as a gzip member (RFC 1952), the blocks stored as they are (RFC 1951, 3.2.4).
pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    // Deflate; no flags, no date, no extra effort, an unknown system.
    let mut member = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
    let mut blocks = bytes.chunks(BLOCK).peekable();
    if bytes.is_empty() {
        member.extend_from_slice(&[1, 0, 0, 0xff, 0xff]);
    }
    while let Some(block) = blocks.next() {
        let length = u16::try_from(block.len()).unwrap_or(u16::MAX);
        member.push(u8::from(blocks.peek().is_none()));
        member.extend_from_slice(&length.to_le_bytes());
        member.extend_from_slice(&(!length).to_le_bytes());
        member.extend_from_slice(block);
    }
    let length = u32::try_from(bytes.len() % (1 << 32)).unwrap_or(0);
    member.extend_from_slice(&crc32(bytes).to_le_bytes());
    member.extend_from_slice(&length.to_le_bytes());
    member
}

/// The checksum of RFC 1952, 8, a bit at a time: bodies here are small.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            let carry = if crc & 1 == 1 { 0xedb8_8320 } else { 0 };
            crc >> 1 ^ carry
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_the_usual_one() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
        assert_eq!(crc32(b""), 0);
    }

    #[test]
    fn blocks_are_stored_and_the_last_one_is_marked() {
        let bytes = vec![7; BLOCK + 2];
        let member = gzip(&bytes);
        assert_eq!(&member[..10], [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255]);
        assert_eq!(&member[10..15], [0, 0xff, 0xff, 0, 0]);
        let last = 15 + BLOCK;
        assert_eq!(&member[last..last + 7], [1, 2, 0, 0xfd, 0xff, 7, 7]);
        assert_eq!(member.len(), last + 7 + 8);
        assert_eq!(&member[last + 11..], 65537_u32.to_le_bytes());
    }
}
