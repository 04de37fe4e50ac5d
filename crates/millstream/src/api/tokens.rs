//! Tokens: that of `--token`, and those of a file, which is watched.
//!
//! ```text
//! # name      roles       the token, or its SHA-256 (printf %s TOKEN | sha256sum)
//! dashboard   read        sha256:2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b
//! shop        write       Zk1xT3mC0b7…
//! robot       read,write  sha256:…
//! ops         admin       sha256:…
//! ```
//!
//! Only digests are kept, and only digests are compared: how long that takes says nothing about a token.

use std::path::Path;
use std::sync::Arc;

use millstream_core::{Error, Result};
use parking_lot::RwLock;
use sha2::{Digest, Sha256};

use super::files::{Contents, Files};
use super::roles::Roles;

const DIGEST: &str = "sha256:";
const NAME_CHARS_MAX: usize = 64;
/// A shorter token can be guessed.
const CHARS_ENOUGH: usize = 16;
/// What the token of `--token` is called.
const SINGLE: &str = "token";

/// A token as it is known here.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    /// What logs call it.
    pub name: Arc<str>,
    /// What it may do.
    pub roles: Roles,
    digest: [u8; 32],
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Token({} {})", self.name, self.roles)
    }
}

/// All tokens of a server.
#[derive(Debug, Default)]
pub struct Tokens {
    single: Option<Token>,
    /// None where there is no file: an empty file lets nobody in.
    of_file: Option<RwLock<Vec<Token>>>,
}

impl Tokens {
    /// `single` may do everything; `file` is read now, and again when it changes.
    ///
    /// # Errors
    /// `Config`: the file can't be read, or is not as it should be.
    pub fn open(single: Option<&str>, file: Option<&Path>) -> Result<Arc<Self>> {
        let single =
            single.map(|token| Token { name: SINGLE.into(), roles: Roles::admin(), digest: digest(token.as_bytes()) });
        let Some(path) = file else { return Ok(Arc::new(Self { single, of_file: None })) };
        let files = Files::new(vec![("--tokens", path.to_owned())]);
        let contents = files.read()?;
        let tokens = parse_bytes(&contents)?;
        files.warn_where_readable(0);
        let tokens = Arc::new(Self { single, of_file: Some(RwLock::new(tokens)) });
        files.watch(&contents, Arc::downgrade(&tokens), |tokens, contents| {
            let read = parse_bytes(contents)?;
            if let Some(list) = &tokens.of_file {
                *list.write() = read;
            }
            Ok(())
        });
        Ok(tokens)
    }

    /// True where nobody is asked for a token.
    pub fn are_open(&self) -> bool {
        self.single.is_none() && self.of_file.is_none()
    }

    /// The token that was sent, where it is one.
    pub fn find(&self, sent: &str) -> Option<Token> {
        let sent = digest(sent.as_bytes());
        let list = self.of_file.as_ref().map(|list| list.read());
        let mut found = None;
        // To the end, and each digest whole.
        for token in list.iter().flat_map(|list| list.iter()).chain(&self.single) {
            if token.digest.iter().zip(&sent).fold(0, |different, (a, b)| different | (a ^ b)) == 0 {
                found = Some(token.clone());
            }
        }
        found
    }
}

fn digest(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

fn parse_bytes(contents: &Contents) -> Result<Vec<Token>> {
    let text = std::str::from_utf8(contents.first().map_or(&[][..], Vec::as_slice));
    parse(text.map_err(|_| Error::config("--tokens: the file is not UTF-8"))?)
}

/// The tokens of a file.
///
/// # Errors
/// `Config`: the line, and what is wrong with it; never a token.
fn parse(text: &str) -> Result<Vec<Token>> {
    let mut tokens: Vec<Token> = Vec::new();
    for (number, line) in text.trim_start_matches('\u{feff}').lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let wrong = |what: &str| Error::config(format!("--tokens, line {}: {what}", number + 1));
        let words: Vec<&str> = line.split_whitespace().collect();
        let [name, roles, token] = words.as_slice() else {
            return Err(wrong("write a name, its roles and its token, with spaces between them"));
        };
        let fits = |c: char| c.is_ascii_alphanumeric() || "_-.@".contains(c);
        if name.len() > NAME_CHARS_MAX || !name.chars().all(fits) {
            return Err(wrong("a name has letters, digits, `_`, `-`, `.` and `@`, 64 at most"));
        }
        if *name == SINGLE {
            return Err(wrong("`token` is the name of that of --token: choose another"));
        }
        let roles = Roles::parse(roles).ok_or_else(|| {
            wrong("roles are `read`, `write` and `admin`; of several, write `read,write` without a space")
        })?;
        let digest = match token.strip_prefix(DIGEST) {
            Some(hex) => from_hex(hex).ok_or_else(|| wrong("behind `sha256:` go 64 hexadecimal digits"))?,
            None => {
                if token.chars().count() < CHARS_ENOUGH {
                    tracing::warn!("--tokens: the token of `{name}` is short: `openssl rand -hex 32` makes a good one");
                }
                digest(token.as_bytes())
            }
        };
        if tokens.iter().any(|known| *known.name == **name) {
            return Err(wrong("there is a token of this name already"));
        }
        if tokens.iter().any(|known| known.digest == digest) {
            return Err(wrong("this token has another name already"));
        }
        tokens.push(Token { name: (*name).into(), roles, digest });
    }
    if tokens.is_empty() {
        return Err(Error::config("--tokens: there is no token in the file"));
    }
    Ok(tokens)
}

fn from_hex(text: &str) -> Option<[u8; 32]> {
    let bytes = text.as_bytes();
    if bytes.len() != 64 {
        return None;
    }
    let mut digest = [0; 32];
    for (byte, pair) in digest.iter_mut().zip(bytes.chunks(2)) {
        let digit = |c: u8| char::from(c).to_digit(16);
        *byte = u8::try_from(digit(pair[0])? * 16 + digit(pair[1])?).ok()?;
    }
    Some(digest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_tokens_is_read_and_a_token_is_found_by_itself_or_its_digest() {
        let digest = digest(b"of-the-dashboard");
        let hex: String = digest.iter().map(|byte| format!("{byte:02X}")).collect();
        let text = format!("\u{feff}# who may\r\n\r\nboard read sha256:{hex}\r\n shop\twrite  a-long-enough-token\n");
        let tokens = Tokens { single: None, of_file: Some(RwLock::new(parse(&text).unwrap())) };
        assert_eq!(
            tokens.find("of-the-dashboard").map(|t| (t.name, t.roles.to_string())),
            Some(("board".into(), "read".into()))
        );
        assert_eq!(tokens.find("a-long-enough-token").map(|t| t.roles.to_string()), Some("write".into()));
        assert_eq!((tokens.find(&format!("sha256:{hex}")), tokens.find(&hex), tokens.find("")), (None, None, None));
        assert!(!format!("{tokens:?}").contains("long-enough"));
    }

    #[test]
    fn an_error_names_the_line_and_never_the_token() {
        for (text, line) in [
            ("a read", 1),
            ("a read hush-hush more", 1),
            ("\na owner hush-hush", 2),
            ("a read, hush-hush", 1),
            ("a read sha256:hush-hush", 1),
            ("a/b read hush-hush", 1),
            ("token read hush-hush", 1),
            ("a read hush-hush-1\na write hush-hush-2", 2),
            ("a read hush-hush\nb write hush-hush", 2),
        ] {
            let said = parse(text).unwrap_err().to_string();
            assert!(said.contains(&format!("line {line}: ")) && !said.contains("hush"), "{said}");
        }
        assert!(parse("# nothing\n").unwrap_err().to_string().contains("no token"));
    }
}
