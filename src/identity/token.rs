//! Owns the bearer token of the local API and the file `token` that it is kept in.
//!
//! Must not know HTTP. Invariant: a presented token is compared in constant time, and the real one
//! is never shown by accident.

use std::{fmt, path::Path};

use data_encoding::BASE32_NOPAD;
use subtle::ConstantTimeEq as _;

use super::secret::{self, SecretError};

/// The name of the token file in the data folder.
pub const FILE: &str = "token";
/// How much randomness a token holds, in bytes.
const TOKEN_BYTES: usize = 32;

/// Lets a program on this machine use the API.
#[derive(Clone)]
pub struct Token(String);

impl Token {
    /// Makes a token that is kept nowhere.
    pub fn generate() -> Self {
        Self(BASE32_NOPAD.encode(&super::random::<TOKEN_BYTES>()).to_ascii_lowercase())
    }

    /// Reads the token file of a data folder; makes folder and file if they are missing.
    pub fn load_or_create(dir: &Path) -> Result<Self, SecretError> {
        let bytes =
            secret::load_or_create(dir, FILE, || format!("{}\n", Self::generate().0).into_bytes())?;
        let damaged = || SecretError::Damaged { path: dir.join(FILE), what: "a token" };
        str::from_utf8(&bytes).ok().and_then(|text| Self::parse(text.trim())).ok_or_else(damaged)
    }

    /// Reads a token; `None` if the text is none.
    pub fn parse(text: &str) -> Option<Self> {
        let random = BASE32_NOPAD.decode(text.to_ascii_uppercase().as_bytes()).ok()?;
        (random.len() == TOKEN_BYTES).then(|| Self(text.into()))
    }

    /// Returns the token as it is presented.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Tells whether what was presented is the token, in a time that does not tell how nearly.
    pub fn matches(&self, presented: impl AsRef<[u8]>) -> bool {
        self.0.as_bytes().ct_eq(presented.as_ref()).into()
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_stays_the_same_and_is_told_apart_from_others() {
        let outer = tempfile::tempdir().unwrap();
        let dir = outer.path().join("data");
        let token = Token::load_or_create(&dir).unwrap();
        let again = Token::load_or_create(&dir).unwrap();
        assert!(again.matches(token.as_str()));
        assert!(!again.matches(Token::generate().as_str()));
        assert!(!again.matches(&token.as_str()[1..]) && !again.matches(""));
    }

    #[test]
    fn a_token_file_that_was_emptied_is_refused_rather_than_letting_everyone_in() {
        let outer = tempfile::tempdir().unwrap();
        let dir = outer.path().join("data");
        for content in ["", "\n", "short", "\u{e4}\u{f6}"] {
            let _ = std::fs::remove_file(dir.join(FILE));
            secret::load_or_create(&dir, FILE, || content.into()).unwrap();
            let error = Token::load_or_create(&dir).unwrap_err();
            assert!(matches!(error, SecretError::Damaged { .. }), "{content:?}: {error}");
        }
    }

    #[test]
    fn a_token_is_not_shown_by_accident() {
        assert_eq!(format!("{:?}", Token::generate()), "Token(…)");
    }
}
