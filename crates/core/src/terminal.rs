//! Text of records on a terminal: shown, never obeyed.
//!
//! A terminal takes control characters as commands (move, delete, retitle, answer), and some invisible ones change the
//! order in which text is read. Whatever comes from a record is escaped before it gets to a terminal; a file or a pipe
//! gets the bytes as they are.

use std::borrow::Cow;
use std::io::{self, Write};

/// How a character that must not reach the terminal is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Escapes {
    /// `\x1b`, `\u{202e}`: for people.
    Text,
    /// `\u001b`: so that JSON stays JSON.
    Json,
}

/// True for characters that a terminal obeys, or that change how the text around them is read: C0 but for line break
/// and tabulator, DEL, C1, marks of direction, and characters without width.
pub fn is_unsafe(c: char) -> bool {
    matches!(c,
        '\0'..='\x08' | '\x0b'..='\x1f' | '\x7f'..='\u{9f}'
        | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}'
        | '\u{e0000}'..='\u{e007f}')
}

/// The text with every unsafe character written out. Line breaks and tabulators stay.
pub fn escape(text: &str, escapes: Escapes) -> Cow<'_, str> {
    if !text.contains(is_unsafe) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if is_unsafe(c) { push_escaped(c, escapes, &mut out) } else { out.push(c) }
    }
    Cow::Owned(out)
}

/// The text on one line: line breaks and tabulators are written out, too.
pub fn escape_line(text: &str) -> Cow<'_, str> {
    if !text.contains(|c| is_unsafe(c) || matches!(c, '\n' | '\t')) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match c {
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            c if is_unsafe(c) => push_escaped(c, Escapes::Text, &mut out),
            c => out.push(c),
        }
    }
    Cow::Owned(out)
}

fn push_escaped(c: char, escapes: Escapes, out: &mut String) {
    use std::fmt::Write;
    let code = u32::from(c);
    // Writing into a String can't fail.
    let _ = match escapes {
        Escapes::Text if code < 0x100 => write!(out, "\\x{code:02x}"),
        Escapes::Text => write!(out, "\\u{{{code:x}}}"),
        Escapes::Json => c.encode_utf16(&mut [0; 2]).iter().try_for_each(|unit| write!(out, "\\u{unit:04x}")),
    };
}

/// Escapes what is written through it, where it leads to a terminal. Bytes that are no UTF-8 are replaced there.
#[derive(Debug)]
pub struct SafeWriter<W: Write> {
    inner: W,
    /// None: nothing is changed.
    escapes: Option<Escapes>,
    /// The beginning of a character whose end has not come yet.
    partial: Vec<u8>,
}

impl<W: Write> SafeWriter<W> {
    /// Writes to `inner`; escapes where `escapes` says how.
    pub fn new(inner: W, escapes: Option<Escapes>) -> Self {
        Self { inner, escapes, partial: Vec::new() }
    }
}

impl<W: Write> Write for SafeWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Some(escapes) = self.escapes else { return self.inner.write(bytes) };
        self.partial.extend_from_slice(bytes);
        let whole = match std::str::from_utf8(&self.partial) {
            Err(e) if e.error_len().is_none() => e.valid_up_to(),
            _ => self.partial.len(),
        };
        let rest = self.partial.split_off(whole);
        let text = std::mem::replace(&mut self.partial, rest);
        self.inner.write_all(escape(&String::from_utf8_lossy(&text), escapes).as_bytes())?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_would_obey_is_written_out() {
        assert_eq!(escape("a\x1b[31mred\u{7}", Escapes::Text), "a\\x1b[31mred\\x07");
        assert_eq!(escape("\u{9b}31m \u{202e}gnp.exe", Escapes::Text), "\\x9b31m \\u{202e}gnp.exe");
        assert_eq!(escape("{\"a\":\"\u{9d}\"}", Escapes::Json), "{\"a\":\"\\u009d\"}");
        assert_eq!(escape("\u{e0041}", Escapes::Json), "\\udb40\\udc41");
        assert_eq!(escape("zwei\nZeilen\tTab, é, 漢, 👍", Escapes::Text), "zwei\nZeilen\tTab, é, 漢, 👍");
        assert_eq!(escape_line("a\nb\tc\r"), "a\\nb\\tc\\r");
    }

    #[test]
    fn escaped_json_means_the_same() {
        let text = "\u{80}\u{202e}\u{feff}\u{e0041}";
        let json = serde_json::to_string(text).unwrap();
        assert_eq!(serde_json::from_str::<String>(&escape(&json, Escapes::Json)).unwrap(), text);
    }

    #[test]
    fn a_character_may_come_in_two_pieces() {
        let mut out = Vec::new();
        let mut writer = SafeWriter::new(&mut out, Some(Escapes::Text));
        for byte in "é\u{9b}漢".as_bytes() {
            writer.write_all(&[*byte]).unwrap();
        }
        assert_eq!(String::from_utf8(out).unwrap(), "é\\x9b漢");
        let mut out = Vec::new();
        SafeWriter::new(&mut out, None).write_all(b"\x1b\xff").unwrap();
        assert_eq!(out, b"\x1b\xff", "a pipe gets what there is");
    }
}
