//! Secrets in what others say: a server may repeat in its answer what it was sent.

use std::borrow::Cow;

use crate::Secret;

/// Shorter texts turn up by chance.
const LENGTH_MIN: usize = 4;
/// A part of a path that is this long and holds a digit may be a token.
const PART_MIN: usize = 8;

/// Texts that are shown nowhere, wherever they turn up; cheap to clone where there are few.
#[derive(Clone, Default)]
pub struct Hidden(Vec<String>);

impl std::fmt::Debug for Hidden {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Hidden({})", self.0.len())
    }
}

impl Hidden {
    /// Hides a secret, and each of its words (`Bearer …`).
    pub fn add(&mut self, secret: &Secret) {
        self.push(secret.expose());
        let words: Vec<&str> = secret.expose().split_whitespace().collect();
        if words.len() > 1 {
            words.into_iter().filter(|word| word.len() >= PART_MIN).for_each(|word| self.push(word));
        }
    }

    /// Hides what may be secret in an address: user, password, path, and the values of its query.
    pub fn add_url(&mut self, url: &str) {
        let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
        let (rest, _) = rest.split_once('#').unwrap_or((rest, ""));
        let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = place.find('/').map_or((place, ""), |at| place.split_at(at));
        if let Some((user_info, _)) = authority.rsplit_once('@') {
            self.push(user_info);
            // A name of a user may be a word of any answer.
            self.push(user_info.split_once(':').map_or("", |(_, password)| password));
        }
        self.push(path);
        let may_be_token = |part: &&str| part.len() >= PART_MIN && part.contains(|c: char| c.is_ascii_digit());
        path.split('/').filter(may_be_token).for_each(|part| self.push(part));
        query.split('&').filter_map(|pair| pair.split_once('=')).for_each(|(_, value)| self.push(value));
    }

    fn push(&mut self, text: &str) {
        if text.len() >= LENGTH_MIN && !self.0.iter().any(|known| known == text) {
            self.0.push(text.to_owned());
            // The longest first: one may be a part of another.
            self.0.sort_by_key(|text| std::cmp::Reverse(text.len()));
        }
    }

    /// The text with `***` in place of what is hidden.
    pub fn hide<'a>(&self, text: &'a str) -> Cow<'a, str> {
        let mut shown = Cow::Borrowed(text);
        for hidden in &self.0 {
            if shown.contains(hidden.as_str()) {
                shown = Cow::Owned(shown.replace(hidden.as_str(), "***"));
            }
        }
        shown
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_sent_is_not_shown_when_it_comes_back() {
        let mut hidden = Hidden::default();
        hidden.add(&Secret::new("Bearer abcdefgh1"));
        hidden.add(&Secret::new("key"));
        hidden.add_url("https://me:pass1@host.example/hooks/T0KEN12345/x?key=query1&v=2#frag");
        for (text, shown) in [
            ("bad token abcdefgh1", "bad token ***"),
            ("Cannot POST /hooks/T0KEN12345/x?key=query1", "Cannot POST ***?key=***"),
            ("unknown hook T0KEN12345", "unknown hook ***"),
            ("me:pass1 or pass1", "*** or ***"),
            ("the key of v 2 at host.example", "the key of v 2 at host.example"),
        ] {
            assert_eq!(hidden.hide(text), shown);
        }
        assert!(!format!("{hidden:?}").contains("T0KEN"));
    }
}
