//! Lengths as LEB128: seven bits a byte, least significant first, the eighth set on all but the last.

/// Appends a length.
pub(crate) fn append_length(mut length: usize, out: &mut Vec<u8>) {
    while length >= 0x80 {
        out.push(length as u8 | 0x80);
        length >>= 7;
    }
    out.push(length as u8);
}

/// Reads a length, below 2³⁵, off the front; `None` where there is none.
pub(crate) fn read_length(bytes: &mut &[u8]) -> Option<usize> {
    let mut length = 0_usize;
    for shift in (0..35).step_by(7) {
        let (&byte, tail) = bytes.split_first()?;
        *bytes = tail;
        length |= usize::from(byte & 0x7F) << shift;
        if byte < 0x80 {
            return Some(length);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_read_back_and_what_is_cut_off_does_not() {
        for length in [0, 1, 127, 128, 16_383, 16_384, (1 << 35) - 1] {
            let mut bytes = Vec::new();
            append_length(length, &mut bytes);
            assert_eq!(read_length(&mut bytes.as_slice()), Some(length));
            bytes.pop();
            assert_eq!(read_length(&mut bytes.as_slice()), None);
        }
        assert_eq!(read_length(&mut [0x80; 6].as_slice()), None);
    }
}
