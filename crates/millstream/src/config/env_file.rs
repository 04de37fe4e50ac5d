//! Variables from a file (`--env-file`), one `NAME=value` a line.
//!
//! ```text
//! # a comment
//! export AMQP_URL=amqp://localhost   # `export` is allowed; a comment begins behind a space
//! GREETING="two words\nand a line"   # \n \r \t \\ \" \$ are escapes in double quotes
//! PASSWORD='a$b # c'                 # everything in single quotes stands for itself
//! ```
//!
//! Nothing is replaced inside of values: a `$` in a password is a dollar sign. A variable of the process wins over that
//! of a file, and a later file over an earlier one, as with `docker compose`.

use std::collections::BTreeMap;

use millstream_core::{Error, Result};

/// The variables in `text`, the content of the file called `file`. The last one of a name counts.
///
/// # Errors
/// `Config`: file, line, and what is wrong with it. Values are never shown: they may be secrets.
pub fn parse(file: &str, text: &str) -> Result<BTreeMap<String, String>> {
    let mut variables = BTreeMap::new();
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut lines = text.lines().enumerate();
    while let Some((number, line)) = lines.next() {
        let wrong = |what: String| Error::config(format!("{file}:{}: {what}", number + 1));
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let line = line.strip_prefix("export").filter(|l| l.starts_with([' ', '\t'])).map_or(line, str::trim_start);
        let Some((name, value)) = line.split_once('=') else {
            return Err(wrong("there is no `=`: write NAME=value".into()));
        };
        let name = name.trim_end();
        if !is_name(name) {
            return Err(wrong("what stands before `=` is no name of a variable".into()));
        }
        let value = value.trim_start();
        let value = match value.chars().next() {
            Some(quote @ ('"' | '\'')) => {
                let mut rest = value[1..].to_owned();
                loop {
                    match quoted(&rest, quote) {
                        Some((value, behind)) if behind.is_empty() || behind.starts_with('#') => break value,
                        Some(_) => return Err(wrong(format!("there is more text behind the closing `{quote}`"))),
                        // A value in quotes may go on in the next line.
                        None => match lines.next() {
                            Some((_, line)) => rest = format!("{rest}\n{line}"),
                            None => return Err(wrong(format!("the value has no closing `{quote}`"))),
                        },
                    }
                }
            }
            _ => without_comment(value).to_owned(),
        };
        variables.insert(name.to_owned(), value);
    }
    Ok(variables)
}

fn is_name(name: &str) -> bool {
    let starts_well = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    starts_well && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// The text up to the closing quote with its escapes undone, and what stands behind it; none where it is not closed.
fn quoted(text: &str, quote: char) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            c if c == quote => return Some((value, text[at + 1..].trim())),
            '\\' if quote == '"' => match chars.next()?.1 {
                'n' => value.push('\n'),
                'r' => value.push('\r'),
                't' => value.push('\t'),
                c @ ('"' | '\\' | '$') => value.push(c),
                c => value.extend(['\\', c]),
            },
            c => value.push(c),
        }
    }
    None
}

/// A comment begins with `#` at the start or behind a space.
fn without_comment(value: &str) -> &str {
    let starts = value.match_indices('#').map(|(at, _)| at);
    let comment = starts.into_iter().find(|&at| at == 0 || value[..at].ends_with([' ', '\t']));
    value[..comment.unwrap_or(value.len())].trim_end()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Vec<(String, String)> {
        parse("my.env", text).unwrap().into_iter().collect()
    }

    #[test]
    fn names_values_quotes_comments_and_export_are_read_as_shells_do() {
        let text = "\u{feff}# first\r\nA=1\r\n\r\nexport B = two words  # a comment\n\
                    C='a$b # \"c\" \\n'\nD=\"x\\ny \\\"z\\\" \\$1\" # why\n\
                    E=\nF=p#q\nG=a=b==\nA=2\n";
        let pairs = of(text);
        let pairs: Vec<(&str, &str)> = pairs.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        let right = [
            ("A", "2"),
            ("B", "two words"),
            ("C", "a$b # \"c\" \\n"),
            ("D", "x\ny \"z\" $1"),
            ("E", ""),
            ("F", "p#q"),
            ("G", "a=b=="),
        ];
        assert_eq!(pairs, right);
    }

    #[test]
    fn a_value_in_quotes_goes_over_lines() {
        assert_eq!(
            of("KEY='-----BEGIN\nabc\n-----END'\nB=1"),
            [("B".to_owned(), "1".to_owned()), ("KEY".to_owned(), "-----BEGIN\nabc\n-----END".to_owned()),]
        );
    }

    #[test]
    fn an_error_names_the_line_and_never_the_value() {
        let wrong = [("A=1\nsecret", 2), ("1A=secret", 1), ("\nA='secret", 2), ("A='x' secret", 1), ("A B=secret", 1)];
        for (text, line) in wrong {
            let said = parse("my.env", text).unwrap_err().to_string();
            assert!(said.contains(&format!("my.env:{line}: ")) && !said.contains("secret"), "{said}");
        }
    }
}
