//! The name in what RSS calls an author: `desk@news.example (News Desk)`, `News Desk <desk@news.example>`, a name, or
//! an address alone.

/// The name, or the address where there is no name.
pub(super) fn contact(text: &str) -> Option<String> {
    let is_word = |c: char| !(c.is_whitespace() || matches!(c, '<' | '>' | '(' | ')' | '[' | ']' | ',' | ';' | '"'));
    let address = text.split(|c| !is_word(c)).find(|word| is_address(word));
    let Some(address) = address else { return name(text) };
    // The name stands before the address or behind it; where both sides have something, the longer is it.
    let (before, behind) = text.split_once(address).unwrap_or((text, ""));
    let sides = [name(before), name(behind)];
    let longer = sides.into_iter().flatten().max_by_key(|side| side.chars().count());
    longer.or_else(|| Some(address.strip_prefix("mailto:").unwrap_or(address).to_owned()))
}

/// `text` without white space and brackets around it.
fn name(text: &str) -> Option<String> {
    let around = |c: char| c.is_whitespace() || matches!(c, '<' | '>' | '[' | ']' | ',' | ';' | '"');
    let mut text = text.trim_matches(around);
    // Brackets that close again inside, `Ann (Reuters)`, belong to the name.
    if text.starts_with('(') || !text.contains('(') {
        text = text.trim_start_matches('(').trim_end_matches(')');
    }
    let text = text.trim_end_matches('(').trim_matches(around);
    let says_something = text.chars().any(char::is_alphanumeric) && text != "mailto:";
    says_something.then(|| text.to_owned())
}

fn is_address(word: &str) -> bool {
    let Some((local, host)) = word.split_once('@') else { return false };
    !local.is_empty() && host.contains('.') && !host.ends_with('.') && !host.starts_with('.')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_contact_is_its_name_and_without_one_its_address() {
        for (text, wanted) in [
            ("desk@news.example (News Desk)", "News Desk"),
            ("News Desk <desk@news.example>", "News Desk"),
            ("News Desk\u{a0} desk@news.example", "News Desk"),
            ("News Desk\u{a0}desk@news.example", "News Desk"),
            ("\u{201c}Dësk\u{201d}desk@news.example", "\u{201c}Dësk\u{201d}desk@news.example"),
            ("mailto:desk@news.example", "desk@news.example"),
            ("<desk@news.example>", "desk@news.example"),
            ("desk@news.example", "desk@news.example"),
            ("Ann Lee", "Ann Lee"),
            ("Ann Lee (Reuters)", "Ann Lee (Reuters)"),
            ("@annlee", "@annlee"),
            ("desk@news.example (", "desk@news.example"),
        ] {
            assert_eq!(contact(text).as_deref(), Some(wanted), "{text}");
        }
        assert_eq!(contact(" \u{a0} "), None);
        assert_eq!(contact("()"), None);
    }
}
