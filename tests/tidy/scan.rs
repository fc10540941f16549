//! Owns finding what a source file imports.
//!
//! Must not know the table. Invariant: an import counts the same however it is written: as a `use`,
//! grouped, renamed, through `super`, or as a path in the midst of code or of a macro.

use std::collections::{BTreeMap, BTreeSet};

use crate::tokens::{Kind, Token};

/// The name by which the binary names the library.
const OWN_CRATE: &str = "sessionmesh";
/// The other names under which parts of the standard library are found.
const STANDARD: &[&str] = &["core", "alloc"];

/// Returns the module that a file is, as a path below the crate; the library's root is empty.
pub fn module_of(file: &str) -> Vec<String> {
    let path = file.trim_start_matches("src/").trim_end_matches(".rs").trim_end_matches("/mod");
    if path == "lib" { Vec::new() } else { path.split('/').map(str::to_owned).collect() }
}

/// What an import leads to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Target {
    /// A path below this crate.
    Inside(Vec<String>),
    /// A path that begins with another crate.
    Outside(Vec<String>),
}

impl Target {
    fn joined(&self, rest: &[String]) -> Self {
        match self {
            Self::Inside(path) => Self::Inside([path, rest].concat()),
            Self::Outside(path) => Self::Outside([path, rest].concat()),
        }
    }
}

/// Something that a `use` brings in.
pub struct Import {
    /// What it is.
    pub target: Target,
    /// Whether everything below it is brought in.
    pub glob: bool,
    /// Where.
    pub line: usize,
}

/// A path in the midst of code.
pub struct Path {
    /// What it leads to.
    pub target: Target,
    /// The import by which its first name came in.
    pub through: Option<Target>,
    /// Where.
    pub line: usize,
}

/// Everything that a file names.
pub struct Scan<'a> {
    modules: &'a BTreeSet<Vec<String>>,
    /// What its `use` items bring in.
    pub imports: Vec<Import>,
    /// The paths of two words and more outside of them.
    pub paths: Vec<Path>,
    names: BTreeMap<String, Target>,
}

impl<'a> Scan<'a> {
    /// Reads a file's tokens, comments left out; `modules` are all of its crate.
    pub fn of(tokens: &[Token], file: &[String], modules: &'a BTreeSet<Vec<String>>) -> Self {
        let mut scan =
            Self { modules, imports: Vec::new(), paths: Vec::new(), names: BTreeMap::new() };
        // Imports first: a path may use a name from anywhere in its scope.
        scan.walk(tokens, file, true);
        scan.walk(tokens, file, false);
        scan
    }

    /// Walks through the file, keeping track of the inline module that it is in.
    fn walk(&mut self, tokens: &[Token], file: &[String], imports: bool) {
        let mut module = file.to_vec();
        let mut opened = Vec::new();
        let mut depth = 0_usize;
        let mut at = 0;
        while at < tokens.len() {
            let token = &tokens[at];
            let next = |ahead: usize| tokens.get(at + ahead);
            if token.word() == Some("mod")
                && let Some(name) = next(1).and_then(Token::word)
                && next(2).is_some_and(|token| token.is('{'))
            {
                module.push(name.to_owned());
                opened.push(depth);
                depth += 1;
                at += 3;
            } else if token.is('{') {
                depth += 1;
                at += 1;
            } else if token.is('}') {
                depth = depth.saturating_sub(1);
                if opened.last() == Some(&depth) {
                    opened.pop();
                    module.pop();
                }
                at += 1;
            } else if token.word() == Some("use") && !next(1).is_some_and(|token| token.is('<')) {
                let end = tokens[at..].iter().position(|token| token.is(';'));
                let end = end.map_or(tokens.len(), |length| at + length);
                if imports {
                    self.tree(&mut Cursor { tokens: &tokens[at + 1..end], at: 0 }, &[], &module);
                }
                at = end;
            } else if token.word() == Some("crate")
                && at > 0
                && tokens[at - 1].word() == Some("extern")
                && let Some(name) = next(1).and_then(Token::word)
            {
                if imports {
                    let target = Target::Outside(vec![name.to_owned()]);
                    self.imports.push(Import { target, glob: false, line: token.line });
                }
                at += 2;
            } else if token.word().is_some() {
                let path = path_at(tokens, at);
                let visibility = at > 0 && tokens[at - 1].word() == Some("in");
                if !imports && path.len() > 1 && !visibility {
                    self.path(&path, &module, token.line);
                }
                at += 2 * path.len().max(1) - 1;
            } else {
                at += 1;
            }
        }
    }

    /// Reads one tree of a `use`: segments, then a group, a star, a new name or nothing.
    fn tree(&mut self, cursor: &mut Cursor<'_>, prefix: &[String], module: &[String]) {
        let mut path = prefix.to_vec();
        let line = cursor.line();
        cursor.skip(&Kind::PathSeparator);
        while let Some(word) = cursor.word() {
            if word != "self" || path.is_empty() {
                path.push(word.to_owned());
            }
            if !cursor.skip(&Kind::PathSeparator) {
                break;
            }
        }
        if cursor.skip(&Kind::Mark('{')) {
            while !cursor.skip(&Kind::Mark('}')) && !cursor.done() {
                self.tree(cursor, &path, module);
                cursor.skip(&Kind::Mark(','));
            }
            return;
        }
        let glob = cursor.skip(&Kind::Mark('*'));
        let mut name = path.last().cloned();
        if cursor.peek_word() == Some("as") {
            cursor.word();
            // `_` brings no name in.
            name = cursor.word().filter(|word| *word != "_").map(str::to_owned);
        }
        if path.is_empty() {
            // Neither a path nor a star: not source that compiles. Step on, so that this ends.
            cursor.at += usize::from(!glob);
            return;
        }
        let Some(target) = self.resolve(&path, module) else { return };
        if let Some(name) = name.filter(|_| !glob) {
            self.names.insert(name, target.clone());
        }
        self.imports.push(Import { target, glob, line });
    }

    fn path(&mut self, path: &[String], module: &[String], line: usize) {
        if let Some(import) = self.names.get(&path[0]).cloned() {
            let target = import.joined(&path[1..]);
            self.paths.push(Path { target, through: Some(import), line });
        } else if let Some(target) = self.resolve(path, module) {
            self.paths.push(Path { target, through: None, line });
        }
    }

    /// Tells what a path leads to, from the words that it begins with.
    fn resolve(&self, path: &[String], module: &[String]) -> Option<Target> {
        let mut from = module.to_vec();
        let mut rest = path;
        match path[0].as_str() {
            "crate" | OWN_CRATE => {
                from.clear();
                rest = &path[1..];
            }
            "self" | "super" => {
                while let Some((first, others)) = rest.split_first() {
                    match first.as_str() {
                        "self" => {}
                        "super" => drop(from.pop()),
                        _ => break,
                    }
                    rest = others;
                }
            }
            "Self" => return None,
            first => {
                let child = [module, &path[..1]].concat();
                if self.modules.contains(&child) {
                    return Some(Target::Inside([module, path].concat()));
                }
                if let Some(import) = self.names.get(first) {
                    return Some(import.joined(&path[1..]));
                }
                let mut path = path.to_vec();
                if STANDARD.contains(&first) {
                    path[0] = "std".to_owned();
                }
                return Some(Target::Outside(path));
            }
        }
        Some(Target::Inside([&from, rest].concat()))
    }
}

/// Returns the words of the path that begins at a token, if one begins there.
fn path_at(tokens: &[Token], at: usize) -> Vec<String> {
    let mut path = Vec::new();
    let mut at = at;
    while let Some(word) = tokens.get(at).and_then(Token::word) {
        path.push(word.to_owned());
        if tokens.get(at + 1).is_none_or(|token| token.kind != Kind::PathSeparator) {
            break;
        }
        at += 2;
    }
    path
}

/// A place in the tokens of a `use`.
struct Cursor<'a> {
    tokens: &'a [Token],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn done(&self) -> bool {
        self.at >= self.tokens.len()
    }

    fn line(&self) -> usize {
        self.tokens.get(self.at).map_or(0, |token| token.line)
    }

    fn peek_word(&self) -> Option<&'a str> {
        self.tokens.get(self.at).and_then(Token::word)
    }

    fn word(&mut self) -> Option<&'a str> {
        let word = self.peek_word()?;
        self.at += 1;
        Some(word)
    }

    fn skip(&mut self, kind: &Kind) -> bool {
        let here = self.tokens.get(self.at).is_some_and(|token| token.kind == *kind);
        self.at += usize::from(here);
        here
    }
}
