//! Owns judging what a source file imports by the table.
//!
//! Must not know the table's rows. Invariant: each fault names the place, the reason and the remedy,
//! and is told once, where the import comes in.

use std::collections::BTreeSet;

use crate::scan::{Scan, Target, module_of};
use crate::table::{CORE, Fence, Room, Rooms};
use crate::tokens::code;

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
