//! Text in other encodings than UTF-8: turned into UTF-8 before anything looks for records in it.
//!
//! Which encoding it is: a byte order mark says so; else what came with the bytes (the charset of an HTTP
//! `Content-Type`); else the setting `encoding`; else it is UTF-8. Bytes that are nothing in their encoding make the
//! record a dead letter with the bytes as they came; they are never replaced.

use std::fmt;

use bytes::Bytes;
use encoding_rs::{CoderResult, Encoding, UTF_8, UTF_16BE, UTF_16LE};
use millstream_core::{Failure, FailureKind};

/// An encoding of text, other than UTF-8 or UTF-8 itself.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct TextEncoding(&'static Encoding);

impl fmt::Debug for TextEncoding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.name())
    }
}

impl TextEncoding {
    /// By one of its names on the web (<https://encoding.spec.whatwg.org/#names-and-labels>).
    ///
    /// # Errors
    /// There is no encoding of this name.
    pub fn named(name: &str) -> Result<Self, String> {
        Encoding::for_label_no_replacement(name.as_bytes()).map(Self).ok_or_else(|| {
            format!(
                "unknown encoding `{name}`: known are utf-8, utf-16le, utf-16be, latin1, windows-1252, iso-8859-15, \
                 shift_jis, gb18030 and the other names of https://encoding.spec.whatwg.org/#names-and-labels"
            )
        })
    }

    /// Its name in lower case.
    pub fn name(self) -> String {
        self.0.name().to_ascii_lowercase()
    }

    /// What the byte order mark says that `bytes` begin with, and its length.
    pub(crate) fn of_mark(bytes: &[u8]) -> Option<(Self, usize)> {
        Encoding::for_bom(bytes).map(|(encoding, len)| (Self(encoding), len))
    }

    pub(crate) fn is_utf8(self) -> bool {
        self.0 == UTF_8
    }

    fn is_utf16(self) -> bool {
        self.0 == UTF_16LE || self.0 == UTF_16BE
    }

    /// A piece of text as UTF-8, each sequence that is nothing as U+FFFD. `last`: nothing comes behind it.
    pub(crate) fn decode(self, source: &[u8], last: bool) -> Piece {
        let used = if last { source.len() } else { self.whole_characters(source) };
        let (text, had_errors) = self.0.decode_without_bom_handling(&source[..used]);
        Piece { text: text.into_owned().into_bytes(), used, had_errors }
    }

    /// True where every sequence is something.
    pub(crate) fn is_valid(self, source: &[u8]) -> bool {
        self.0.decode_without_bom_handling_and_without_replacement(source).is_some()
    }

    /// How many bytes of `source` hold whole characters.
    fn whole_characters(self, source: &[u8]) -> usize {
        if self.is_utf16() {
            let even = source.len() & !1;
            let high_byte = if self.0 == UTF_16LE { even.wrapping_sub(1) } else { even.wrapping_sub(2) };
            let half_pair = source.get(high_byte).is_some_and(|byte| (0xd8..0xdc).contains(byte));
            return if half_pair && even > 0 { even - 2 } else { even };
        }
        if self.0.is_single_byte() {
            return source.len();
        }
        // A line end is never the second byte of anything.
        memchr::memrchr2(b'\n', b'\r', source).map_or(0, |end| end + 1)
    }

    /// For each of `marks`, ascending offsets in `text`, the offset in `source` that it came from.
    pub(crate) fn source_offsets(self, source: &[u8], text: &[u8], marks: &[usize]) -> Vec<usize> {
        let text = std::str::from_utf8(text).unwrap_or_default();
        if !self.is_utf16() && !self.0.is_single_byte() {
            return self.source_offsets_by_decoding(source, marks);
        }
        let size = |c: char| if self.is_utf16() { c.len_utf16() * 2 } else { 1 };
        let (mut at, mut offset) = (0, 0);
        let mut place = |mark: usize| {
            offset += text.get(at..mark).unwrap_or_default().chars().map(size).sum::<usize>();
            at = mark;
            offset.min(source.len())
        };
        marks.iter().map(|mark| place(*mark)).collect()
    }

    fn source_offsets_by_decoding(self, source: &[u8], marks: &[usize]) -> Vec<usize> {
        let mut decoder = self.0.new_decoder_without_bom_handling();
        let mut out = [0; 32];
        let (mut written, mut read) = (0, 0);
        let mut place = |mark: usize| {
            while written < mark && read < source.len() {
                let (result, taken, more, _) = decoder.decode_to_utf8(&source[read..=read], &mut out, false);
                written += more;
                read += if result == CoderResult::InputEmpty { taken } else { taken.max(1) };
            }
            read
        };
        marks.iter().map(|mark| place(*mark)).collect()
    }
}

/// A piece of a file as UTF-8.
#[derive(Debug)]
pub(crate) struct Piece {
    pub text: Vec<u8>,
    /// How many bytes it came from.
    pub used: usize,
    /// Some of them were nothing.
    pub had_errors: bool,
}

/// A body or a message as UTF-8. `charset` is what came with it, `configured` the setting.
///
/// # Errors
/// Some of the bytes are nothing in this encoding.
pub(crate) fn to_utf8(body: Bytes, charset: Option<&str>, configured: Option<TextEncoding>) -> Result<Bytes, Failure> {
    let (encoding, mark) = match TextEncoding::of_mark(&body) {
        Some(found) => found,
        None => {
            let named = charset.and_then(|name| TextEncoding::named(name).ok());
            (named.or(configured).unwrap_or(TextEncoding(UTF_8)), 0)
        }
    };
    if encoding.is_utf8() {
        return Ok(body);
    }
    match encoding.0.decode_without_bom_handling_and_without_replacement(&body[mark..]) {
        Some(text) => Ok(text.into_owned().into()),
        None => Err(invalid(encoding)),
    }
}

/// Why a record is refused whose bytes are nothing in its encoding.
pub(crate) fn invalid(encoding: TextEncoding) -> Failure {
    Failure::new(FailureKind::Encoding, format!("not {}, though it is read as such", encoding.name()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_mark_comes_before_the_charset_and_the_charset_before_the_setting() {
        let latin = TextEncoding::named("latin1").ok();
        let text = |bytes: &'static [u8], charset| to_utf8(Bytes::from_static(bytes), charset, latin).unwrap();
        assert_eq!(text(b"caf\xe9", None), "café");
        assert_eq!(text(b"caf\xc3\xa9", Some("utf-8")), "café");
        assert_eq!(text(b"\xff\xfec\0", Some("utf-8")), "c");
        assert_eq!(text(b"\xfe\xff\0c", None), "c");
        assert_eq!(text(b"caf\xe9", Some("no-such-name")), "café");
        let broken = to_utf8(Bytes::from_static(b"\xff\xfec"), None, None).unwrap_err();
        assert_eq!(broken.kind, FailureKind::Encoding);
    }

    #[test]
    fn half_a_character_waits_for_its_other_half() {
        let utf16 = TextEncoding::named("utf-16le").unwrap();
        let bytes: Vec<u8> = "a🎈".encode_utf16().flat_map(u16::to_le_bytes).collect();
        for (len, text) in [(1, ""), (2, "a"), (3, "a"), (4, "a"), (5, "a"), (6, "a🎈")] {
            let piece = utf16.decode(&bytes[..len], false);
            assert_eq!(
                (piece.text.as_slice(), piece.used),
                (text.as_bytes(), if text.len() > 1 { 6 } else { len.min(3) / 2 * 2 })
            );
        }
    }

    proptest! {
        /// Offsets lead back to where the text came from, in encodings of every kind.
        #[test]
        fn offsets_lead_back_to_the_bytes(
            words in prop::collection::vec("[a-zäöé日本語]{0,5}", 1..6),
            name in prop::sample::select(vec!["utf-16le", "utf-16be", "windows-1252", "shift_jis", "gb18030", "euc-kr"]),
        ) {
            let encoding = TextEncoding::named(name).unwrap();
            let encode = |text: &str| -> Vec<u8> {
                match name {
                    "utf-16le" => text.encode_utf16().flat_map(u16::to_le_bytes).collect(),
                    "utf-16be" => text.encode_utf16().flat_map(u16::to_be_bytes).collect(),
                    _ => encoding.0.encode(text).0.into_owned(),
                }
            };
            let lines: Vec<Vec<u8>> = words.iter().map(|word| encode(&format!("{word}\n"))).collect();
            let source = lines.concat();
            let piece = encoding.decode(&source, true);
            let marks: Vec<usize> = memchr::memchr_iter(b'\n', &piece.text).map(|end| end + 1).collect();
            let ends: Vec<usize> =
                lines.iter().scan(0, |at, line| { *at += line.len(); Some(*at) }).collect();
            prop_assert_eq!(encoding.source_offsets(&source, &piece.text, &marks), ends);
        }
    }
}
