//! Keeps the house as it was laid out: who imports whom, how long a file is, what its header says,
//! that nothing is left half done, and what stands at the top of the repository.
//!
//! The rules are in `tidy/`, each beside tests that show it failing; here they are held against the
//! repository.

#[path = "tidy/hygiene.rs"]
mod hygiene;
#[path = "tidy/imports.rs"]
mod imports;
#[path = "tidy/scan.rs"]
mod scan;
#[path = "tidy/table.rs"]
mod table;
#[path = "tidy/tokens.rs"]
mod tokens;

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use imports::Judge;
use scan::module_of;
use table::{FENCES, ROOMS};

/// A source file: its path from the top of the repository, and what it says.
type Source = (String, String);

fn top() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Reads every Rust file below a folder of the repository; none, if there is no such folder.
fn sources(folder: &str) -> Vec<Source> {
    let mut found = Vec::new();
    let mut folders: Vec<PathBuf> = vec![top().join(folder)];
    while let Some(folder) = folders.pop().filter(|folder| folder.is_dir()) {
        for entry in fs::read_dir(&folder).expect("a folder can be listed") {
            let path = entry.expect("an entry can be read").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).expect("a source file is UTF-8");
                let name = path.strip_prefix(top()).expect("below the top");
                found.push((name.to_string_lossy().replace('\\', "/"), text));
            }
        }
    }
    found.sort();
    found
}

/// Returns the names under a table of `Cargo.toml`, as code writes them.
fn crates_under(table: &str, manifest: &str) -> BTreeSet<String> {
    let lines = manifest.lines().skip_while(|line| line.trim() != table).skip(1);
    let entries = lines.take_while(|line| !line.starts_with('['));
    let names = entries.filter_map(|line| line.split(['=', '.']).next()).map(str::trim);
    names
        .filter(|name| !name.is_empty() && !name.starts_with('#'))
        .map(|name| name.replace('-', "_"))
        .collect()
}

fn refuse(faults: &[String]) {
    assert!(faults.is_empty(), "{} to put right:\n{}\n", faults.len(), faults.join("\n"));
}

#[test]
fn every_room_imports_only_what_the_table_lets_it() {
    let sources = sources("src");
    assert!(!sources.is_empty(), "no sources were found");
    let files: Vec<_> = sources.iter().map(|(file, _)| file.as_str()).collect();
    let judge = Judge::new(ROOMS, FENCES, &files);
    let faults: Vec<_> =
        sources.iter().flat_map(|(file, text)| judge.violations(file, text)).collect();
    refuse(&faults);
}

#[test]
fn every_file_is_short_has_a_header_and_leaves_nothing_undone() {
    let sources = ["src", "tests", "benches"].map(sources).concat();
    assert!(sources.len() > ROOMS.len() / 2, "hardly any sources were found");
    let faults: Vec<_> =
        sources.iter().flat_map(|(file, text)| hygiene::violations(file, text)).collect();
    refuse(&faults);
}

#[test]
fn the_top_of_the_repository_holds_only_known_names() {
    let entries = fs::read_dir(top()).expect("the repository can be listed");
    let faults: Vec<_> = entries
        .map(|entry| entry.expect("an entry can be read"))
        .filter_map(|entry| {
            hygiene::top_violation(&entry.file_name().to_string_lossy(), entry.path().is_dir())
        })
        .collect();
    refuse(&faults);
}

#[test]
fn every_path_that_a_page_names_exists() {
    let folders = ["", "src", "tests", "benches", "proto"];
    let mut named = 0;
    let mut faults = Vec::new();
    for folder in folders {
        for entry in fs::read_dir(top().join(folder)).expect("a folder can be listed") {
            let path = entry.expect("an entry can be read").path();
            // The change log tells of files as they were.
            let is_log = path.ends_with("CHANGELOG.md");
            if is_log || path.extension().is_none_or(|extension| extension != "md") {
                continue;
            }
            let text = fs::read_to_string(&path).expect("a page is UTF-8");
            let page = path.strip_prefix(top()).expect("below the top").display();
            for (line, path) in hygiene::named_paths(&text) {
                named += 1;
                if !top().join(&path).exists() {
                    faults
                        .push(format!("{page}:{line}: `{path}` does not exist; name it as it is"));
                }
            }
        }
    }
    assert!(named > 20, "hardly any paths were found in the pages");
    refuse(&faults);
}

#[test]
fn every_dependency_says_which_rooms_may_name_it() {
    let manifest = fs::read_to_string(top().join("Cargo.toml")).expect("Cargo.toml can be read");
    let crates = crates_under("[dependencies]", &manifest);
    assert!(crates.contains("automerge"), "no dependencies were found in Cargo.toml");
    let rows: BTreeSet<_> = FENCES.iter().map(|fence| fence.path.to_owned()).collect();
    let known = |name: &&String| rows.contains(*name);
    let unsaid = crates.iter().filter(|name| !known(name)).map(|name| {
        format!(
            "Cargo.toml:1: `{name}` has no row in FENCES in tests/tidy/table.rs; say there which \
             rooms may name it and why nobody else"
        )
    });
    let stale = rows.iter().filter(|row| !row.starts_with("std::") && !crates.contains(*row));
    let stale = stale.map(|row| {
        format!("tests/tidy/table.rs:1: `{row}` is no dependency any more; remove its row")
    });
    refuse(&unsaid.chain(stale).collect::<Vec<_>>());
}

#[test]
fn every_row_of_the_table_names_a_module_that_exists() {
    let sources = sources("src");
    let mut modules: BTreeSet<_> =
        sources.iter().map(|(file, _)| module_of(file).join("::")).collect();
    modules.insert("lib".to_owned());
    let named = ROOMS.iter().flat_map(|room| room.may.iter().chain([&room.path]));
    let fenced = FENCES.iter().filter_map(|fence| match fence.rooms {
        table::Rooms::Only(rooms) => Some(rooms),
        table::Rooms::All | table::Rooms::Shells => None,
    });
    let named: BTreeSet<_> = named.chain(fenced.flatten()).collect();
    let faults: Vec<_> = named
        .into_iter()
        .filter(|name| !modules.contains(**name))
        .map(|name| {
            format!("tests/tidy/table.rs:1: there is no module `{name}`; remove or rename it")
        })
        .collect();
    refuse(&faults);
}

#[test]
fn crates_are_read_from_a_manifest_as_code_writes_them() {
    let manifest = "[package]\nname = \"x\"\n[dependencies]\n# why\nif-addrs = \"1\"\n\n\
                    serde.workspace = true\n[lints.rust]\nunsafe_code = \"deny\"\n";
    let expected = ["if_addrs", "serde"].map(str::to_owned).into();
    assert_eq!(crates_under("[dependencies]", manifest), expected);
}
