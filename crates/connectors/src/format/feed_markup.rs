//! Markup that RSS should have escaped, escaped for the feed parser, which would cut the text at the first tag:
//! `<description>very <em>good</em> news</description>` is wrong by the RSS specification, and common.

use std::borrow::Cow;

use quick_xml::Reader;
use quick_xml::escape::escape;
use quick_xml::events::Event;

/// Elements of RSS whose content is text or escaped HTML.
const TEXTS: [&str; 4] = ["description", "encoded", "summary", "title"];

/// The document with such markup escaped; `None` where there is nothing to do. It is UTF-8 then, and has lost its
/// declaration, which might say otherwise. What is not well-formed is left for the feed parser to refuse.
pub(super) fn escape_markup(text: &str) -> Option<Vec<u8>> {
    let mut reader = Reader::from_str(text);
    let mut out = String::new();
    let mut copied = 0;
    let mut root = true;
    let mut declaration_end = 0;
    loop {
        match reader.read_event().ok()? {
            Event::Decl(_) => declaration_end = reader.buffer_position() as usize,
            Event::Start(start) => {
                let name = start.local_name();
                if std::mem::take(&mut root) && !matches!(name.as_ref(), "rss" | "RDF") {
                    return None;
                }
                if !TEXTS.contains(&name.as_ref()) {
                    continue;
                }
                let span = reader.read_to_end(start.name()).ok()?;
                let inner = text.get(span.start as usize..span.end as usize)?;
                if let Cow::Owned(escaped) = escape_if_markup(inner) {
                    out.push_str(text.get(copied.max(declaration_end)..span.start as usize)?);
                    out.push_str(&escaped);
                    copied = span.end as usize;
                }
            }
            Event::Eof => break,
            _ => {}
        }
    }
    if copied == 0 {
        return None;
    }
    out.push_str(text.get(copied..)?);
    Some(out.into_bytes())
}

/// The content of an element, escaped where there is an element in it.
fn escape_if_markup(inner: &str) -> Cow<'_, str> {
    if !inner.contains('<') {
        return Cow::Borrowed(inner);
    }
    let mut reader = Reader::from_str(inner);
    loop {
        match reader.read_event() {
            Ok(Event::Start(_) | Event::Empty(_)) => return Cow::Owned(escape(inner).into_owned()),
            Ok(Event::Eof) | Err(_) => return Cow::Borrowed(inner),
            Ok(_) => {}
        }
    }
}
