//! Words as one types them into a shell.

use std::path::Path;

/// The program as it was called: a newcomer has it in some folder, not on the path.
pub fn program() -> String {
    std::env::args().next().map_or_else(|| "millstream".into(), |called| word(&called))
}

/// A path as one word of a shell, and never taken for an option.
pub fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    if text.starts_with('-') { word(&format!("./{text}")) } else { word(&text) }
}

/// In single quotes where a shell would see more in it than letters.
pub fn word(text: &str) -> String {
    let is_plain = |c: char| c.is_alphanumeric() || "-_./,:=+@%".contains(c);
    if !text.is_empty() && text.chars().all(is_plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_that_a_shell_would_take_apart_are_quoted() {
        assert_eq!(word("news/pipeline.yaml"), "news/pipeline.yaml");
        assert_eq!(word("my news"), "'my news'");
        assert_eq!(word("it's $HOME"), r"'it'\''s $HOME'");
        assert_eq!(word(""), "''");
        assert_eq!(quoted(Path::new("-x y")), "'./-x y'");
    }
}
