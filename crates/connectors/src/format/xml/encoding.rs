//! From the bytes of an XML document to text. The encoding is that of the byte order mark, else the one that came with
//! the bytes (HTTP's `charset`), else the declared one, else UTF-8, as RFC 7303 and browsers have it; unless the bytes
//! themselves say that it can't be.

use std::borrow::Cow;

use encoding_rs::{Encoding, UTF_8, UTF_16BE, UTF_16LE, WINDOWS_1252};
use millstream_core::FailureKind;

use super::super::columns::{Built, Fault, shorten};

/// The text of a document.
///
/// # Errors
/// `encoding`: the encoding is unknown, or the bytes are not of it.
pub(in super::super) fn to_text<'a>(bytes: &'a [u8], charset: Option<&str>) -> Built<Cow<'a, str>> {
    if let Some((encoding, bytes)) = marked(bytes) {
        return strict(encoding, bytes);
    }
    let declared = declared(bytes);
    let mut wrong = None;
    for label in [charset, declared].into_iter().flatten() {
        let text = match Encoding::for_label_no_replacement(label.as_bytes()) {
            Some(encoding) => strict(possible(encoding), bytes),
            None => Err(fault(format!("unknown encoding `{}`", shorten(label.as_bytes())))),
        };
        match text {
            Ok(text) => return Ok(text),
            Err(fault) => wrong = Some(fault),
        }
    }
    wrong.map_or_else(|| strict(UTF_8, bytes), Err)
}

fn strict<'a>(encoding: &'static Encoding, bytes: &'a [u8]) -> Built<Cow<'a, str>> {
    if encoding == UTF_8 {
        return match simdutf8::compat::from_utf8(bytes) {
            Ok(text) => Ok(Cow::Borrowed(text)),
            Err(e) => Err(fault(format!("invalid UTF-8 at byte {}", e.valid_up_to()))),
        };
    }
    encoding
        .decode_without_bom_handling_and_without_replacement(bytes)
        .ok_or_else(|| fault(format!("the document is not {}, which it declares", encoding.name())))
}

/// The text of a feed, whatever its bytes are: what is not of its encoding is replaced by `�`. The second is the label
/// of an encoding that is named and not known.
pub(in super::super) fn feed_text<'a>(bytes: &'a [u8], charset: Option<&'a str>) -> (Cow<'a, str>, Option<&'a str>) {
    if let Some((encoding, bytes)) = marked(bytes) {
        return (encoding.decode_without_bom_handling(bytes).0, None);
    }
    let declared = declared(bytes);
    let known = |label: &str| Encoding::for_label_no_replacement(label.as_bytes()).map(possible);
    let named: Vec<&'static Encoding> = [charset, declared].into_iter().flatten().filter_map(known).collect();
    let unknown = [charset, declared].into_iter().flatten().find(|label| known(label).is_none());
    let first = named.first().copied().unwrap_or(UTF_8);
    let encoding = match std::str::from_utf8(bytes) {
        // Text beyond ASCII that is UTF-8 by chance does not occur where each byte is a character.
        Ok(text) if first.is_single_byte() || first == UTF_8 => return (Cow::Borrowed(text), unknown),
        Ok(_) => first,
        Err(_) if first != UTF_8 => first,
        // The next witness, where there is one; a bad byte in UTF-8 is just that.
        Err(_) if let Some(other) = named.iter().find(|other| **other != UTF_8) => other,
        Err(_) if named.is_empty() && is_latin(bytes) => WINDOWS_1252,
        Err(_) => UTF_8,
    };
    (encoding.decode_without_bom_handling(bytes).0, unknown)
}

fn fault(message: String) -> Fault {
    Fault::new(FailureKind::Encoding, message)
}

/// The encoding by the byte order mark, or by the zeros that UTF-16 puts beside the first `<` or `{`; and what follows.
fn marked(bytes: &[u8]) -> Option<(&'static Encoding, &[u8])> {
    if let Some((encoding, length)) = Encoding::for_bom(bytes) {
        return Some((encoding, &bytes[length..]));
    }
    match bytes {
        [b'<' | b'{', 0, ..] => Some((UTF_16LE, bytes)),
        [0, b'<' | b'{', ..] => Some((UTF_16BE, bytes)),
        _ => None,
    }
}

/// UTF-16 has zeros in its first characters, which were looked for before: it can't be, whatever is said.
fn possible(encoding: &'static Encoding) -> &'static Encoding {
    if encoding == UTF_16LE || encoding == UTF_16BE { UTF_8 } else { encoding }
}

/// True where what is beyond ASCII are letters and signs of Latin-1, one byte each, and nothing is UTF-8.
fn is_latin(bytes: &[u8]) -> bool {
    let has_utf8 = bytes.utf8_chunks().any(|chunk| !chunk.valid().is_ascii());
    !has_utf8 && bytes.iter().all(|byte| byte.is_ascii() || (0xa0..0xff).contains(byte))
}

/// The label in `<?xml … encoding="…" ?>`.
fn declared(bytes: &[u8]) -> Option<&str> {
    let rest = bytes.trim_ascii_start().strip_prefix(b"<?xml")?;
    let end = memchr::memmem::find(rest, b"?>")?;
    let declaration = &rest[..end];
    let at = memchr::memmem::find(declaration, b"encoding")?;
    let value = declaration[at + b"encoding".len()..].trim_ascii_start().strip_prefix(b"=")?.trim_ascii_start();
    let (&quote, value) = value.split_first()?;
    if quote != b'"' && quote != b'\'' {
        return None;
    }
    std::str::from_utf8(&value[..memchr::memchr(quote, value)?]).ok()
}
