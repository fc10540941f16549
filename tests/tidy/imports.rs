//! Owns finding what a source file imports and judging it by the table.
//!
//! Must not know the table's rows. Invariant: an import counts the same however it is written: as a
//! `use`, grouped, renamed, through `super`, or as a path in the midst of code or of a macro.

use std::collections::{BTreeMap, BTreeSet};

use crate::table::{CORE, Fence, Room, Rooms};
use crate::tokens::{Kind, Token, code};

/// The names by which the library can be named from its own binary.
const OWN_CRATE: &str = "sessionmesh";
/// The other names of the standard library's parts.
const STANDARD: &[&str] = &["core", "alloc"];

/// Judges files of one crate against a table.
pub struct Judge<'a> {
    rooms: &'a [Room],
    fences: &'a [Fence],
    modules: BTreeSet<Vec<String>>,
}

impl<'a> Judge<'a> {
    /// Takes the table and the paths of all files, such as `src/replica/ids.rs`.
    pub fn new(rooms: &'a [Room], fences: &'a [Fence], files: &[&str]) -> Self {
        Self { rooms, fences, modules: files.iter().map(|file| module_of(file)).collect() }
    }

    /// Returns what is wrong with a file's imports, each with its line and the remedy.
    pub fn violations(&self, file: &str, source: &str) -> Vec<String> {
        let module = module_of(file);
        let own = if file == "src/lib.rs" { split("lib") } else { module.clone() };
        // A room whose modules have rows of their own lends them none.
        let covers = |room: &&Room| {
            split(room.path) == own
                || !self.rooms.iter().any(|row| is_below(row.path, &split(room.path)))
        };
        let Some(room) = self.room(&own).filter(covers) else {
            return vec![format!(
                "{file}:1: `{}` has no row in the import table; add one to ROOMS in \
                 tests/tidy/table.rs with what it may import and why",
                own.join("::")
            )];
        };
        let scan = Scan::of(&code(source), &module, &self.modules);
        let mut found = BTreeSet::new();
        let mut refused = BTreeSet::new();
        for import in &scan.imports {
            if let Some(fault) = self.fault(room, &import.target, import.glob) {
                found.insert((import.line, fault));
                refused.insert(import.target.clone());
            }
        }
        for path in &scan.paths {
            let through = path.through.as_ref().is_some_and(|import| refused.contains(import));
            if let Some(fault) = self.fault(room, &path.target, false).filter(|_| !through) {
                found.insert((path.line, fault));
            }
        }
        found.into_iter().map(|(line, fault)| format!("{file}:{line}: {fault}")).collect()
    }

    fn room(&self, path: &[String]) -> Option<&'a Room> {
        let fits = self.rooms.iter().filter(|room| starts_with(path, room.path));
        fits.max_by_key(|room| room.path.len())
    }

    fn fault(&self, room: &Room, target: &Target, glob: bool) -> Option<String> {
        match target {
            Target::Inside(path) => self.fault_inside(room, path, glob),
            Target::Outside(path) => self.fault_outside(room, path, glob),
        }
    }

    fn fault_inside(&self, room: &Room, path: &[String], glob: bool) -> Option<String> {
        let named = path.join("::");
        if glob && self.rooms.iter().any(|other| is_below(other.path, path)) {
            return Some(format!(
                "`{}` imports all of `crate::{named}`, rooms and all; name what is meant",
                room.path
            ));
        }
        if path.is_empty() || room.may.iter().any(|may| starts_with(path, may)) {
            return None;
        }
        let Some(target) = self.room(path) else {
            return Some(format!(
                "`crate::{named}` is in no room of the import table; move it into one, or add a \
                 row to ROOMS in tests/tidy/table.rs"
            ));
        };
        // What stands in the `mod.rs` above is the room's own.
        if starts_with(&split(room.path), target.path) {
            return None;
        }
        let may = if room.may.is_empty() { "no room".to_owned() } else { quoted(room.may) };
        Some(format!(
            "`{}` imports `crate::{named}` but may import {may}: {}; move the code, have it \
             given as an argument, or change the row in tests/tidy/table.rs with its reason",
            room.path, room.why
        ))
    }

    fn fault_outside(&self, room: &Room, path: &[String], glob: bool) -> Option<String> {
        let own = split(room.path);
        let allowed = |fence: &&Fence| match fence.rooms {
            Rooms::All => true,
            Rooms::Shells => !CORE.iter().any(|core| starts_with(&own, core)),
            Rooms::Only(rooms) => rooms.iter().any(|only| starts_with(&own, only)),
        };
        let fits = self.fences.iter().filter(|fence| starts_with(path, fence.path));
        let decides = fits.max_by_key(|fence| fence.path.len());
        let swept = self.fences.iter().filter(|fence| glob && is_below(fence.path, path));
        let fence = decides.into_iter().chain(swept).find(|fence| !allowed(fence))?;
        let rooms = match fence.rooms {
            Rooms::All => "every room".to_owned(),
            Rooms::Shells => format!("every room but {}", quoted(CORE)),
            Rooms::Only(rooms) => quoted(rooms),
        };
        Some(format!(
            "`{}` names `{}`, which is for {rooms}: {}; move the code there, or change the row \
             in FENCES in tests/tidy/table.rs with its reason",
            room.path, fence.path, fence.why
        ))
    }
}

/// Returns the module that a file is, as a path below the crate; the library's root is empty.
pub fn module_of(file: &str) -> Vec<String> {
    let path = file.trim_start_matches("src/").trim_end_matches(".rs").trim_end_matches("/mod");
    if path == "lib" { Vec::new() } else { path.split('/').map(str::to_owned).collect() }
}

/// What an import leads to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Target {
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

struct Import {
    target: Target,
    glob: bool,
    line: usize,
}

struct Path {
    target: Target,
    /// The import by which its first name came in.
    through: Option<Target>,
    line: usize,
}

/// Everything that a file names.
struct Scan<'a> {
    modules: &'a BTreeSet<Vec<String>>,
    imports: Vec<Import>,
    paths: Vec<Path>,
    names: BTreeMap<String, Target>,
}

impl<'a> Scan<'a> {
    fn of(tokens: &[Token], file: &[String], modules: &'a BTreeSet<Vec<String>>) -> Self {
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

fn split(path: &str) -> Vec<String> {
    path.split("::").map(str::to_owned).collect()
}

/// Tells whether a path is this one or below it.
fn starts_with(path: &[String], prefix: &str) -> bool {
    let mut path = path.iter();
    prefix.split("::").all(|segment| path.next().is_some_and(|own| own == segment))
}

/// Tells whether a row is strictly below a path.
fn is_below(row: &str, path: &[String]) -> bool {
    let row = split(row);
    row.len() > path.len() && row.starts_with(path)
}

fn quoted(paths: &[&str]) -> String {
    let quoted: Vec<_> = paths.iter().map(|path| format!("`{path}`")).collect();
    quoted.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOMS: &[Room] = &[
        Room { path: "lib", may: &[], why: "root" },
        Room { path: "main", may: &["cli"], why: "root" },
        Room { path: "core", may: &[], why: "names" },
        Room { path: "core::ids", may: &[], why: "base" },
        Room { path: "core::view", may: &["core::ids"], why: "derived" },
        Room { path: "wire", may: &["core::ids"], why: "bytes" },
        Room { path: "store", may: &["core"], why: "disk" },
        Room { path: "cli", may: &["store"], why: "verbs" },
    ];
    const FENCES: &[Fence] = &[
        Fence { path: "redb", rooms: Rooms::Only(&["store"]), why: "one place" },
        Fence { path: "std::fs", rooms: Rooms::Only(&["store"]), why: "one place" },
        Fence { path: "std::time::Instant", rooms: Rooms::Only(&["store"]), why: "one place" },
        Fence { path: "tokio", rooms: Rooms::Shells, why: "pure" },
    ];
    const FILES: &[&str] = &[
        "src/lib.rs",
        "src/main.rs",
        "src/core/mod.rs",
        "src/core/ids.rs",
        "src/core/view.rs",
        "src/wire/mod.rs",
        "src/wire/codec.rs",
        "src/store/mod.rs",
        "src/cli/mod.rs",
    ];

    fn faults(file: &str, source: &str) -> Vec<String> {
        Judge::new(ROOMS, FENCES, FILES).violations(file, source)
    }

    /// Returns the lines at which something is wrong, each once.
    fn lines(file: &str, source: &str) -> Vec<usize> {
        let line = |fault: &String| fault.split(':').nth(1).and_then(|line| line.parse().ok());
        let lines: BTreeSet<_> =
            faults(file, source).iter().map(|fault| line(fault).expect("a line")).collect();
        lines.into_iter().collect()
    }

    #[test]
    fn a_forbidden_room_is_found_however_it_is_written() {
        for source in [
            "use crate::store::Log;",
            "use crate::{core::ids::Id, store::{self, Log}};",
            "use crate::store as disk;",
            "use super::store::Log;",
            "pub use crate::store::*;",
            "fn f() { let log = crate::store::Log::open(); }",
            "fn f(log: &super::store::Log) {}",
            "fn f() { print!(\"{}\", crate::store::NAME) }",
            "macro_rules! m { () => { $crate::store::Log::open() } }",
            "mod inner { use super::super::store::Log; }",
            "mod inner { fn f() { super::super::store::open() } } ",
            "fn f() { use crate::store::Log; }",
            "#[derive(crate::store::Row)] struct S;",
            "use sessionmesh::store::Log;",
        ] {
            assert_eq!(lines("src/wire/mod.rs", source), [1], "{source}");
        }
    }

    #[test]
    fn a_module_of_a_room_is_told_from_its_neighbours() {
        assert_eq!(lines("src/wire/mod.rs", "use crate::core::ids::Id;"), []);
        assert_eq!(lines("src/wire/mod.rs", "use crate::core::{\nids::Id,\nview::View};"), [3]);
        assert_eq!(lines("src/core/ids.rs", "use super::view::View;"), [1]);
        assert_eq!(lines("src/core/view.rs", "use super::ids::Id;"), []);
        assert_eq!(lines("src/store/mod.rs", "use crate::core::view::View;"), []);
    }

    #[test]
    fn a_room_may_name_itself_and_what_its_own_root_holds() {
        assert_eq!(lines("src/wire/codec.rs", "use super::{Frame, codec::decode};"), []);
        assert_eq!(lines("src/wire/mod.rs", "mod tests { use super::*; }"), []);
        assert_eq!(lines("src/core/view.rs", "use super::LIMIT;"), []);
    }

    #[test]
    fn a_name_that_was_brought_in_leads_where_it_came_from() {
        assert_eq!(lines("src/core/ids.rs", "use super::super::core as c;\nc::view::f();"), [2]);
        assert_eq!(lines("src/core/ids.rs", "use std::time;\ntime::Instant::now();"), [2]);
        assert_eq!(lines("src/core/ids.rs", "use std::time;\ntime::Duration::ZERO;"), []);
    }

    #[test]
    fn a_fault_is_told_once_where_it_comes_in() {
        let source = "use crate::store::Log;\nfn f() { Log::open() }";
        assert_eq!(faults("src/wire/mod.rs", source).len(), 1);
    }

    #[test]
    fn a_star_over_rooms_or_over_something_fenced_is_refused() {
        assert_eq!(lines("src/store/mod.rs", "use crate::core::*;"), [1]);
        assert_eq!(lines("src/store/mod.rs", "use crate::*;"), [1]);
        assert_eq!(lines("src/core/view.rs", "use std::time::*;"), [1]);
        assert_eq!(lines("src/core/view.rs", "use super::ids::*;"), []);
    }

    #[test]
    fn a_re_export_is_no_way_around_a_row() {
        assert_eq!(lines("src/core/mod.rs", "pub mod view;\npub use view::View;"), [2]);
        assert_eq!(lines("src/core/mod.rs", "pub use self::view::*;"), [1]);
        assert_eq!(lines("src/lib.rs", "pub use core::ids::Id;"), [1]);
    }

    #[test]
    fn a_fenced_crate_is_found_however_it_is_written() {
        for source in [
            "use redb::Database;",
            "use redb;",
            "use ::redb as r;",
            "extern crate redb;",
            "fn f() { redb::Database::open() }",
            "#[redb::main] fn f() {}",
            "use std::{fmt, fs::{self, File}};",
            "use std::fs;",
            "fn f() { ::std::fs::read(x) }",
            "#[tokio::test] async fn f() {}",
            "use core::time::{Duration, Instant};",
        ] {
            assert!(!lines("src/wire/mod.rs", source).is_empty(), "{source}");
        }
        assert_eq!(
            lines("src/store/mod.rs", "use redb::Database; use std::fs; use tokio::net;"),
            []
        );
    }

    #[test]
    fn prose_visibility_and_captures_import_nothing() {
        for source in [
            "//! See [`crate::store::Log`].\n/* use redb; */",
            "const TEXT: &str = \"use redb::Database; crate::store::Log\";",
            "pub(in crate::store) fn f() {}",
            "fn f<'a>() -> impl Sized + use<'a> { store() }",
            "fn f() { item.redb(); let store = 1; }",
        ] {
            assert_eq!(lines("src/wire/mod.rs", source), [], "{source}");
        }
    }

    #[test]
    fn a_module_without_a_row_is_refused() {
        assert_eq!(lines("src/extra.rs", ""), [1]);
        assert_eq!(lines("src/core/extra.rs", ""), [1]);
        assert_eq!(lines("src/cli/mod.rs", "use crate::extra::Thing;"), [1]);
        assert_eq!(lines("src/store/deep/page.rs", ""), []);
    }

    #[test]
    fn the_binary_names_the_library_and_is_held_to_its_row() {
        assert_eq!(lines("src/main.rs", "fn main() { sessionmesh::cli::run() }"), []);
        assert_eq!(lines("src/main.rs", "fn main() { sessionmesh::store::run() }"), [1]);
    }

    #[test]
    fn a_message_names_place_reason_and_remedy() {
        let fault = faults("src/wire/codec.rs", "\nuse crate::store::Log;").remove(0);
        assert!(
            fault.starts_with("src/wire/codec.rs:2: `wire` imports `crate::store::Log`"),
            "{fault}"
        );
        assert!(fault.contains("may import `core::ids`: bytes;"), "{fault}");
        assert!(fault.contains("tests/tidy/table.rs"), "{fault}");
    }
}
