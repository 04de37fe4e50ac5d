//! The text of elements: references resolved, markup written down again.

use super::entities::named;
use super::names::Ns;
use super::tree::{NodeId, Piece, Tree};

/// Which names of characters are resolved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Names {
    /// The five of XML: in text that is HTML, `&nbsp;` means the same as it stands.
    Xml,
    /// Those of HTML too.
    Html,
}

/// Appends `text` with its references resolved, names and numbers. What is no reference, a bare `&` say, stays as it
/// is.
fn resolve(text: &str, names: Names, out: &mut String) {
    let mut rest = text;
    while let Some(at) = memchr::memchr(b'&', rest.as_bytes()) {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        match reference(rest, names) {
            Some((character, length)) => {
                out.push(character);
                rest = &rest[length..];
            }
            None => {
                out.push('&');
                rest = &rest[1..];
            }
        }
    }
    out.push_str(rest);
}

/// The character of the reference that `text` begins with, and the reference's length.
fn reference(text: &str, names: Names) -> Option<(char, usize)> {
    let bytes = text.as_bytes();
    if bytes.get(1) != Some(&b'#') {
        let length = bytes[1..].iter().take(32).take_while(|b| b.is_ascii_alphanumeric()).count();
        let name = &text[1..=length];
        let is_known = names == Names::Html || ["amp", "lt", "gt", "quot", "apos"].contains(&name);
        let character = if is_known && bytes.get(length + 1) == Some(&b';') { named(name) } else { None };
        return character.map(|character| (character, length + 2));
    }
    let hexadecimal = matches!(bytes.get(2), Some(b'x' | b'X'));
    let from = if hexadecimal { 3 } else { 2 };
    let is_digit = |b: &&u8| if hexadecimal { b.is_ascii_hexdigit() } else { b.is_ascii_digit() };
    let length = bytes[from.min(bytes.len())..].iter().take(32).take_while(is_digit).count();
    if length == 0 {
        return None;
    }
    let number = u32::from_str_radix(&text[from..from + length], if hexadecimal { 16 } else { 10 }).unwrap_or(u32::MAX);
    let character = match number {
        0 => None,
        // Meant as windows-1252, as browsers read them.
        0x80..=0x9f => encoding_rs::WINDOWS_1252.decode(&[number as u8]).0.chars().next(),
        _ => char::from_u32(number),
    };
    let end = from + length + usize::from(bytes.get(from + length) == Some(&b';'));
    Some((character.unwrap_or(char::REPLACEMENT_CHARACTER), end))
}

/// `text` with its references resolved.
pub(super) fn resolved(text: &str) -> String {
    let mut out = String::new();
    resolve(text, Names::Html, &mut out);
    out
}

/// Appends a piece of text; elements are nothing.
fn push_piece(piece: Piece<'_>, names: Names, out: &mut String) {
    match piece {
        Piece::Text(text) => resolve(text, names, out),
        Piece::Verbatim(text) => out.push_str(text),
        Piece::Element(_) => {}
    }
}

/// All text in an element, without white space at its ends; `None` where there is none.
pub(super) fn plain(tree: &Tree<'_>, node: NodeId) -> Option<String> {
    trimmed(&all_text(tree, node, Names::Html))
}

fn all_text(tree: &Tree<'_>, node: NodeId, names: Names) -> String {
    let mut out = String::new();
    tree.all_pieces(node).for_each(|piece| push_piece(piece, names, &mut out));
    out
}

/// The text of an element that holds text or escaped HTML; markup that should have been escaped stays as it is written.
pub(super) fn html(tree: &Tree<'_>, node: NodeId, names: Names) -> Option<String> {
    trimmed(&whole_html(tree, node, names))
}

/// [`html`] with the white space around it.
pub(super) fn whole_html(tree: &Tree<'_>, node: NodeId, names: Names) -> String {
    if tree.children(node).next().is_none() { all_text(tree, node, names) } else { tree.source(node).to_owned() }
}

/// The content of an element that holds XHTML or other XML, written down: without the `div` around it, without
/// prefixes of XHTML.
pub(super) fn markup(tree: &Tree<'_>, node: NodeId) -> Option<String> {
    let mut children = tree.children(node);
    let blank = |piece| match piece {
        Piece::Text(text) | Piece::Verbatim(text) => text.trim().is_empty(),
        Piece::Element(_) => true,
    };
    let mut out = String::new();
    match (children.next(), children.next()) {
        (None, _) => return plain(tree, node),
        (Some(div), None) if tree.name(div) == "div" && tree.pieces(node).all(blank) => write(tree, div, &mut out),
        _ => write(tree, node, &mut out),
    }
    trimmed(&out)
}

fn write(tree: &Tree<'_>, node: NodeId, out: &mut String) {
    for piece in tree.pieces(node) {
        let Piece::Element(child) = piece else {
            let mut text = String::new();
            push_piece(piece, Names::Html, &mut text);
            out.push_str(&quick_xml::escape::minimal_escape(text));
            continue;
        };
        let name = if tree.namespace(child) == Ns::Xhtml { tree.name(child) } else { tree.full_name(child) };
        out.push('<');
        out.push_str(name);
        for (attribute, value) in tree.attributes(child) {
            out.push(' ');
            out.push_str(attribute);
            out.push_str("=\"");
            out.push_str(&value.replace('"', "&quot;"));
            out.push('"');
        }
        out.push('>');
        write(tree, child, out);
        out.push_str("</");
        out.push_str(name);
        out.push('>');
    }
}

/// Without white space at the ends, the kind that does not break included; `None` where nothing is left.
pub(super) fn trimmed(text: &str) -> Option<String> {
    let text = text.trim();
    (!text.is_empty()).then(|| text.to_owned())
}
