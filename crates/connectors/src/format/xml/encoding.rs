//! From the bytes of an XML document to text, by byte order mark or declaration, as appendix F of the XML
//! recommendation describes it.

use std::borrow::Cow;

use encoding_rs::{Encoding, UTF_8, UTF_16BE, UTF_16LE};
use millstream_core::FailureKind;

use super::super::columns::{Built, Fault, shorten};

/// The text of a document.
///
/// # Errors
/// `encoding`: the declared encoding is unknown, or the bytes are not of it.
pub(in super::super) fn to_text(bytes: &[u8]) -> Built<Cow<'_, str>> {
    let (encoding, bytes) = detect(bytes)?;
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

fn fault(message: String) -> Fault {
    Fault::new(FailureKind::Encoding, message)
}

fn detect(bytes: &[u8]) -> Built<(&'static Encoding, &[u8])> {
    if let Some((encoding, length)) = Encoding::for_bom(bytes) {
        return Ok((encoding, &bytes[length..]));
    }
    match bytes {
        [b'<', 0, ..] => return Ok((UTF_16LE, bytes)),
        [0, b'<', ..] => return Ok((UTF_16BE, bytes)),
        _ => {}
    }
    let Some(label) = declared(bytes) else { return Ok((UTF_8, bytes)) };
    match Encoding::for_label_no_replacement(label) {
        // The declaration could be read byte by byte, so the document can't be UTF-16, whatever it says.
        Some(encoding) if encoding == UTF_16LE || encoding == UTF_16BE => Ok((UTF_8, bytes)),
        Some(encoding) => Ok((encoding, bytes)),
        None => Err(fault(format!("unknown encoding `{}`", shorten(label)))),
    }
}

/// The label in `<?xml … encoding="…" ?>`.
fn declared(bytes: &[u8]) -> Option<&[u8]> {
    let rest = bytes.trim_ascii_start().strip_prefix(b"<?xml")?;
    let end = memchr::memmem::find(rest, b"?>")?;
    let declaration = &rest[..end];
    let at = memchr::memmem::find(declaration, b"encoding")?;
    let value = declaration[at + b"encoding".len()..].trim_ascii_start().strip_prefix(b"=")?.trim_ascii_start();
    let (&quote, value) = value.split_first()?;
    if quote != b'"' && quote != b'\'' {
        return None;
    }
    Some(&value[..memchr::memchr(quote, value)?])
}
