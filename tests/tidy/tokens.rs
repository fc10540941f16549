//! Owns cutting Rust source into tokens with their lines.
//!
//! Must not know what the tokens mean. Invariant: what stands in a comment, a string or a character
//! is never taken for code, so that prose may name any module.

/// A piece of source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// An identifier or a keyword, without `r#`.
    Word(String),
    /// `::`.
    PathSeparator,
    /// Any other character of punctuation.
    Mark(char),
    /// A string of any kind: what stands between its quotes, escapes left as they are.
    Text(String),
    /// A number, a character or a lifetime.
    Other,
    /// A comment, its slashes included.
    Comment(String),
}

/// A piece of source and where it begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// What it is.
    pub kind: Kind,
    /// Its first line, from 1.
    pub line: usize,
}

impl Token {
    /// Returns the word, if it is one.
    pub fn word(&self) -> Option<&str> {
        match &self.kind {
            Kind::Word(word) => Some(word),
            _ => None,
        }
    }

    /// Tells whether it is this character.
    pub fn is(&self, mark: char) -> bool {
        self.kind == Kind::Mark(mark)
    }
}

/// Cuts source into tokens, comments included.
pub fn tokens(source: &str) -> Vec<Token> {
    let mut cutter = Cutter { rest: source, line: 1, tokens: Vec::new() };
    while !cutter.rest.is_empty() {
        cutter.step();
    }
    cutter.tokens
}

/// Cuts source into tokens, comments left out.
pub fn code(source: &str) -> Vec<Token> {
    let mut tokens = tokens(source);
    tokens.retain(|token| !matches!(token.kind, Kind::Comment(_)));
    tokens
}

struct Cutter<'a> {
    rest: &'a str,
    line: usize,
    tokens: Vec<Token>,
}

impl<'a> Cutter<'a> {
    fn step(&mut self) {
        let rest = self.rest;
        let first = rest.chars().next().expect("something is left");
        if first.is_whitespace() {
            self.take(first.len_utf8());
        } else if rest.starts_with("//") {
            let end = rest.find('\n').unwrap_or(rest.len());
            self.push(end, |text| Kind::Comment(text.to_owned()));
        } else if rest.starts_with("/*") {
            self.push(block_comment_end(rest), |text| Kind::Comment(text.to_owned()));
        } else if let Some(text) = StringBounds::at(rest) {
            let inside = rest[text.open..text.close].to_owned();
            self.push(text.end, |_| Kind::Text(inside));
        } else if first == '\'' || rest.starts_with("b'") {
            self.push(quote_end(rest), |_| Kind::Other);
        } else if is_word_start(first) {
            let raw = rest.strip_prefix("r#").is_some_and(|name| name.starts_with(is_word_start));
            let skip = if raw { 2 } else { 0 };
            let end = skip + word_end(&rest[skip..]);
            self.push(end, |text| Kind::Word(text[skip..].to_owned()));
        } else if first.is_ascii_digit() {
            self.push(word_end(rest), |_| Kind::Other);
        } else if rest.starts_with("::") {
            self.push(2, |_| Kind::PathSeparator);
        } else {
            self.push(first.len_utf8(), |_| Kind::Mark(first));
        }
    }

    fn push(&mut self, bytes: usize, kind: impl FnOnce(&'a str) -> Kind) {
        let line = self.line;
        let text = self.take(bytes);
        self.tokens.push(Token { kind: kind(text), line });
    }

    fn take(&mut self, bytes: usize) -> &'a str {
        let (taken, rest) = self.rest.split_at(bytes);
        self.line += taken.matches('\n').count();
        self.rest = rest;
        taken
    }
}

fn is_word_start(first: char) -> bool {
    first == '_' || first.is_alphabetic()
}

fn word_end(text: &str) -> usize {
    text.find(|next: char| next != '_' && !next.is_alphanumeric()).unwrap_or(text.len())
}

/// Block comments nest.
fn block_comment_end(text: &str) -> usize {
    let mut depth = 0_usize;
    let mut at = 0;
    while at < text.len() {
        let rest = &text[at..];
        if rest.starts_with("/*") {
            depth += 1;
            at += 2;
        } else if rest.starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += rest.chars().next().map_or(1, char::len_utf8);
        }
    }
    text.len()
}

/// Where a string's body begins and ends, and where its closing quote ends.
struct StringBounds {
    open: usize,
    close: usize,
    end: usize,
}

impl StringBounds {
    /// Finds the string that begins the text, if one does.
    fn at(text: &str) -> Option<Self> {
        let prefix = ["br", "cr", "b", "c", "r", ""].into_iter().find(|prefix| {
            text.strip_prefix(*prefix).is_some_and(|rest| rest.starts_with(['"', '#']))
        })?;
        let rest = &text[prefix.len()..];
        let hashes = rest.len() - rest.trim_start_matches('#').len();
        let raw = prefix.ends_with('r');
        if !rest[hashes..].starts_with('"') || (hashes > 0 && !raw) {
            return None;
        }
        let open = prefix.len() + hashes + 1;
        let quote = format!("\"{}", "#".repeat(hashes));
        let length = if raw {
            text[open..].find(&quote).unwrap_or(text.len() - open)
        } else {
            escaped_end(&text[open..], '"')
        };
        let close = open + length;
        Some(Self { open, close, end: (close + quote.len()).min(text.len()) })
    }
}

/// Returns where the quote stands that ends a body in which backslashes escape.
fn escaped_end(body: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, next) in body.char_indices() {
        if escaped {
            escaped = false;
        } else if next == '\\' {
            escaped = true;
        } else if next == quote {
            return at;
        }
    }
    body.len()
}

/// Returns where a character or a lifetime ends.
fn quote_end(text: &str) -> usize {
    let open = text.find('\'').map_or(text.len(), |at| at + 1);
    let body = &text[open..];
    let mut next = body.chars();
    let (first, second) = (next.next(), next.next());
    if first == Some('\\') || second == Some('\'') {
        (open + escaped_end(body, '\'') + 1).min(text.len())
    } else {
        open + word_end(body)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(source: &str) -> Vec<String> {
        code(source).iter().filter_map(|token| token.word().map(str::to_owned)).collect()
    }

    #[test]
    fn comments_strings_characters_and_lifetimes_hold_no_words() {
        let source = r###"
            a // x
            /* x /* x */ x */ b
            "x \" x" c
            r"x \" d r#"x " x"# e br##"x "# x"## f
            '"' g '\'' h 'é' i b'"' j b"x" k c"x" l
            <'x> m 'x: n 1_u8 o r#p
        "###;
        let expected: Vec<_> = ('a'..='p').map(String::from).collect();
        assert_eq!(words(source), expected);
    }

    #[test]
    fn a_token_knows_its_first_line() {
        let found = tokens("a\n\"x\ny\"\n/* \n */ b::c");
        let lines: Vec<_> = found.iter().map(|token| token.line).collect();
        assert_eq!(lines, [1, 2, 4, 5, 5, 5]);
        assert_eq!(found[1].kind, Kind::Text("x\ny".to_owned()));
        assert_eq!(found[4].kind, Kind::PathSeparator);
    }

    #[test]
    fn source_that_breaks_off_still_ends() {
        for source in ["\"x", "r#\"x", "/* x", "'", "'\\", "b'", "r#", "x::"] {
            let found = tokens(source);
            assert!(!found.is_empty(), "{source}");
        }
    }
}
