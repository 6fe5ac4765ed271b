//! The alphabet of byte-level vocabularies: a printable character for each of the 256 bytes.
//!
//! Bytes that print in Latin-1 stand for themselves; the others, in order, for the characters from U+0100 on (so a space
//! is `Ġ`). Source: GPT-2's `bytes_to_unicode`.

/// True for bytes that stand for themselves.
const fn prints(byte: u8) -> bool {
    matches!(byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff)
}

/// The byte that a character stands for, or `None` for a character outside the alphabet.
pub(crate) fn byte_of(character: char) -> Option<u8> {
    let code = u32::from(character);
    match u8::try_from(code) {
        Ok(byte) => prints(byte).then_some(byte),
        Err(_) => (0..=255u8).filter(|&b| !prints(b)).nth(code.checked_sub(0x100)? as usize),
    }
}

/// The bytes of a token written in the alphabet, or `None` if a character is outside it.
pub(crate) fn bytes_of(token: &str, table: &ByteTable) -> Option<Vec<u8>> {
    token.chars().map(|c| table.get(c)).collect()
}

/// [`byte_of`] as a table, for whole vocabularies.
pub(crate) struct ByteTable([Option<u8>; 0x144]);

impl ByteTable {
    pub fn new() -> ByteTable {
        let mut table = [None; 0x144];
        for (code, byte) in table.iter_mut().enumerate() {
            *byte = char::from_u32(code as u32).and_then(byte_of);
        }
        ByteTable(table)
    }

    fn get(&self, character: char) -> Option<u8> {
        self.0.get(character as usize).copied().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_has_one_character() {
        let mut seen = [false; 256];
        for character in (0..0x400).filter_map(char::from_u32) {
            if let Some(byte) = byte_of(character) {
                assert!(!std::mem::replace(&mut seen[usize::from(byte)], true));
                assert_eq!(ByteTable::new().get(character), Some(byte));
            }
        }
        assert!(seen.iter().all(|&s| s));
        assert_eq!(byte_of('Ġ'), Some(b' '));
        assert_eq!(byte_of('Ċ'), Some(b'\n'));
    }
}
