//! Decimals as Kafka Connect writes them: an integer in two's complement, the highest byte first, as base64, and how
//! many of its digits stand behind the point.
//!
//! Format: `org.apache.kafka.connect.data.Decimal`,
//! <https://kafka.apache.org/41/javadoc/org/apache/kafka/connect/data/Decimal.html>.

/// Longest integer, in bytes: about 2,400 digits. Turning one into digits takes time by the square of its length.
const BYTES_MAX: usize = 1000;
/// Largest scale, in either direction.
const SCALE_MAX: u64 = 4000;
/// What digits are cut off in: as many as fit 32 bits.
const CHUNK: u64 = 1_000_000_000;

/// The number as JSON writes it; none where integer or scale are beyond all reason.
pub(super) fn text(integer: &[u8], scale: i64) -> Option<String> {
    if integer.len() > BYTES_MAX || scale.unsigned_abs() > SCALE_MAX {
        return None;
    }
    let is_negative = integer.first().is_some_and(|byte| byte & 0x80 != 0);
    let digits = digits(integer, is_negative);
    let sign = if is_negative { "-" } else { "" };
    let scale = scale as isize;
    if scale <= 0 {
        let zeros = if digits == "0" { 0 } else { scale.unsigned_abs() };
        return Some(format!("{sign}{digits}{}", "0".repeat(zeros)));
    }
    let behind = scale.unsigned_abs();
    let padded = format!("{digits:0>width$}", width = behind + 1);
    let (whole, fraction) = padded.split_at(padded.len() - behind);
    Some(format!("{sign}{whole}.{fraction}"))
}

/// The digits of the integer without its sign.
fn digits(integer: &[u8], is_negative: bool) -> String {
    let mut words = magnitude(integer, is_negative);
    let mut chunks = Vec::new();
    while !words.is_empty() {
        let mut rest = 0_u64;
        for word in &mut words {
            let value = (rest << 32) | u64::from(*word);
            *word = (value / CHUNK) as u32;
            rest = value % CHUNK;
        }
        chunks.push(rest);
        let zeros = words.iter().take_while(|word| **word == 0).count();
        words.drain(..zeros);
    }
    let Some(first) = chunks.pop() else { return "0".into() };
    let mut digits = first.to_string();
    chunks.iter().rev().for_each(|chunk| digits.push_str(&format!("{chunk:09}")));
    digits
}

/// Words of 32 bits, the highest first, without zeros in front.
fn magnitude(integer: &[u8], is_negative: bool) -> Vec<u32> {
    let fill = if is_negative { 0xff } else { 0 };
    let mut bytes = vec![fill; (4 - integer.len() % 4) % 4];
    bytes.extend_from_slice(integer);
    let word = |four: &[u8]| four.iter().fold(0, |word, byte| (word << 8) | u32::from(*byte));
    let mut words: Vec<u32> = bytes.chunks(4).map(word).collect();
    if is_negative {
        let mut carry = true;
        for word in words.iter_mut().rev() {
            (*word, carry) = (!*word).overflowing_add(u32::from(carry));
        }
        if carry {
            words.insert(0, 1);
        }
    }
    let zeros = words.iter().take_while(|word| **word == 0).count();
    words.drain(..zeros);
    words
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn integers_and_scales_become_numbers() {
        for (integer, scale, wanted) in [
            (&[][..], 0, "0"),
            (&[0], 2, "0.00"),
            (&[0x7b], 0, "123"),
            (&[0x7b], 2, "1.23"),
            (&[0x7b], 5, "0.00123"),
            (&[0x7b], -2, "12300"),
            (&[0], -2, "0"),
            (&[0xff], 1, "-0.1"),
            (&[0x80], 0, "-128"),
            (&[0x80, 0, 0, 0], 0, "-2147483648"),
            (&[0x80, 0, 0, 0, 0], 3, "-549755813.888"),
            (&[1, 0, 0, 0, 0, 0, 0, 0, 0], 0, "18446744073709551616"),
        ] {
            assert_eq!(text(integer, scale).as_deref(), Some(wanted), "{integer:?} {scale}");
        }
        assert_eq!(text(&[1; 1001], 0), None);
        for scale in [4001, -4001, i64::MAX, i64::MIN] {
            assert_eq!(text(&[1], scale), None);
        }
    }

    proptest! {
        #[test]
        fn what_fits_128_bits_is_what_they_say(value: i128) {
            prop_assert_eq!(text(&value.to_be_bytes(), 0), Some(value.to_string()));
        }
    }
}
