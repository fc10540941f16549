//! Owns what holds for every source file by itself, and for the top of the repository.
//!
//! Must not know the import table. Invariant: each message names the place and the remedy.

use crate::tokens::{Kind, Token, tokens};

/// How long a file may be; what needs more is more than one concept.
pub const LINES_MAX: usize = 600;

/// The folders and files that the top of the repository may hold. Files whose names begin with a dot
/// are free: each tool insists on its own.
const TOP: &[&str] = &[
    ".ci",
    ".git",
    "CHANGELOG.md",
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE-APACHE",
    "LICENSE-MIT",
    "README.md",
    "benches",
    "clippy.toml",
    "deny.toml",
    "proto",
    "rustfmt.toml",
    "src",
    "target",
    "tests",
];

/// Folders that editors leave on a developer's machine.
const EDITORS: &[&str] = &[".idea", ".jj", ".vscode", ".zed"];

/// Macros that stand for code that is not there.
const UNWRITTEN: &[&str] = &["todo", "unimplemented"];

/// Words by which a comment admits that something is not done.
const UNFINISHED: &[&str] = &["TODO", "FIXME", "XXX"];

/// Returns what is wrong with a file by itself.
pub fn violations(file: &str, source: &str) -> Vec<String> {
    let found = tokens(source);
    let faults =
        [length(source), header(file, source), unfinished(&found), ignored(&found)].concat();
    faults.into_iter().map(|(line, fault)| format!("{file}:{line}: {fault}")).collect()
}

/// Returns what is wrong with an entry at the top of the repository.
pub fn top_violation(name: &str, is_folder: bool) -> Option<String> {
    let free = name.starts_with('.') && !is_folder;
    let known = TOP.contains(&name) || EDITORS.contains(&name);
    (!free && !known).then(|| {
        format!(
            "{name}:1: does not belong at the top of the repository; move it below src/, proto/, \
             tests/ or benches/, or name it in TOP in tests/tidy/hygiene.rs"
        )
    })
}

/// Returns the paths of this repository that a page names, with their lines: what stands in backticks
/// or as the target of a link and begins with a folder of the repository.
pub fn named_paths(page: &str) -> Vec<(usize, String)> {
    let folders = ["src/", "tests/", "benches/", "proto/", ".ci/"];
    let mut found = Vec::new();
    for (number, line) in page.lines().enumerate() {
        for part in line.split(['`', '(', ')', '[', ']']) {
            let path = part.trim_start_matches("../");
            let is_path = folders.iter().any(|folder| path.starts_with(folder))
                && !path.contains([' ', '…', '*', '{']);
            if is_path {
                found.push((number + 1, path.to_owned()));
            }
        }
    }
    found
}

type Faults = Vec<(usize, String)>;

fn length(source: &str) -> Faults {
    let lines = source.lines().count();
    if lines <= LINES_MAX {
        return Vec::new();
    }
    vec![(
        LINES_MAX + 1,
        format!("is {lines} lines long, {LINES_MAX} are the limit; split it by concept"),
    )]
}

fn header(file: &str, source: &str) -> Faults {
    let header: Vec<_> = source.lines().take_while(|line| line.starts_with("//!")).collect();
    let root = matches!(file, "src/lib.rs" | "src/main.rs");
    if header.is_empty() {
        let fault = "does not begin with a module header; say in `//!` lines what it owns, what it \
                     must not know, and its invariant";
        vec![(1, fault.to_owned())]
    } else if file.starts_with("src/") && !root && !header.join("\n").contains("Owns ") {
        vec![(1, "has a header that does not say what the module \"Owns\"; add it".to_owned())]
    } else {
        Vec::new()
    }
}

fn unfinished(found: &[Token]) -> Faults {
    let mut faults = Vec::new();
    for (at, token) in found.iter().enumerate() {
        match &token.kind {
            Kind::Word(word)
                if UNWRITTEN.contains(&word.as_str())
                    && found.get(at + 1).is_some_and(|next| next.is('!')) =>
            {
                faults.push((token.line, format!("calls `{word}!`; write what is missing")));
            }
            Kind::Comment(text) => {
                let mut words = text.split(|next: char| !next.is_alphanumeric());
                if let Some(word) = words.find(|word| UNFINISHED.contains(word)) {
                    let fault =
                        format!("says {word}; do it, or open an issue and say what is so now");
                    faults.push((token.line, fault));
                }
            }
            _ => {}
        }
    }
    faults
}

/// An ignored test is one that nobody runs, unless it says how.
fn ignored(found: &[Token]) -> Faults {
    let code: Vec<_> = found.iter().filter(|t| !matches!(t.kind, Kind::Comment(_))).collect();
    let mut faults = Vec::new();
    for (at, token) in code.iter().enumerate() {
        if token.word() != Some("ignore") || !in_test_attribute(&code[..at]) {
            continue;
        }
        let reason = match code.get(at + 1..at + 3) {
            Some([equals, reason]) if equals.is('=') => match &reason.kind {
                Kind::Text(reason) => reason.as_str(),
                _ => "",
            },
            _ => "",
        };
        if !reason.contains("cargo test ") {
            let fault = "ignores a test without the command that runs it; write \
                         `#[ignore = \"…: cargo test --test … -- --ignored …\"]`, or run it";
            faults.push((token.line, fault.to_owned()));
        }
    }
    faults
}

/// Tells whether what follows these tokens stands in `#[…]` as an attribute of its own or under
/// `cfg_attr`.
fn in_test_attribute(before: &[&Token]) -> bool {
    let open = before.iter().rposition(|token| token.is('[') || token.is(']'));
    let Some(open) = open.filter(|open| before[*open].is('[')) else { return false };
    let hash = open.checked_sub(1).is_some_and(|at| before[at].is('#'));
    hash && before.get(open + 1).is_none_or(|first| first.word() == Some("cfg_attr"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "//! Owns a thing.\n";

    fn faults(source: &str) -> Vec<String> {
        violations("src/store/log.rs", &format!("{GOOD}{source}"))
    }

    #[test]
    fn a_file_at_the_limit_passes_and_one_line_more_fails() {
        let lines = |count: usize| "\n".repeat(count - 1);
        assert!(faults(&lines(LINES_MAX)).is_empty());
        let found = faults(&lines(LINES_MAX + 1));
        assert_eq!(found.len(), 1);
        assert!(found[0].starts_with("src/store/log.rs:601: is 601 lines long"), "{found:?}");
    }

    #[test]
    fn a_file_without_a_header_fails() {
        for source in ["", "use std::fmt;\n//! Owns late.", "// Owns no doc comment."] {
            assert_eq!(violations("tests/api.rs", source).len(), 1, "{source}");
        }
        assert!(violations("tests/api.rs", "//! Claims about the API.").is_empty());
    }

    #[test]
    fn a_room_that_does_not_say_what_it_owns_fails() {
        assert_eq!(violations("src/store/log.rs", "//! The log.\n").len(), 1);
        assert!(violations("src/main.rs", "//! The command.\n").is_empty());
    }

    #[test]
    fn code_that_is_not_there_fails() {
        assert_eq!(faults("fn f() { todo!() }").len(), 1);
        assert_eq!(faults("fn f() { unimplemented!(\"later\") }").len(), 1);
        assert!(faults("const NAME: &str = \"todo!()\"; fn todo() {}").is_empty());
    }

    #[test]
    fn a_comment_that_admits_work_fails() {
        let words = UNFINISHED.iter();
        for source in words.flat_map(|word| [format!("// {word}: x"), format!("/* y\n{word} */")]) {
            assert_eq!(faults(&source).len(), 1, "{source}");
        }
        assert!(faults("const WORD: &str = \"TODO\"; // mastodons").is_empty());
    }

    #[test]
    fn a_test_that_is_ignored_without_a_command_fails() {
        for source in [
            "#[ignore] fn f() {}",
            "#[ignore = \"slow\"] fn f() {}",
            "#[test]\n#[ignore]\nfn f() {}",
            "#[cfg_attr(not(windows), ignore)] fn f() {}",
        ] {
            assert_eq!(faults(source).len(), 1, "{source}");
        }
    }

    #[test]
    fn a_test_that_is_ignored_with_its_command_passes() {
        for source in [
            "#[ignore = \"an hour long: cargo test --test sim -- --ignored\"] fn f() {}",
            "fn f() { let ignore = [ignore]; ignore(x) }",
            "#[serde(ignore)] struct S;",
        ] {
            assert!(faults(source).is_empty(), "{source}");
        }
    }

    #[test]
    fn only_known_names_stand_at_the_top() {
        for (name, is_folder) in [("docs", true), ("notes.md", false), (".hidden", true)] {
            assert!(top_violation(name, is_folder).is_some(), "{name}");
        }
        for (name, is_folder) in [("src", true), ("Cargo.toml", false), (".gitignore", false)] {
            assert!(top_violation(name, is_folder).is_none(), "{name}");
        }
    }

    #[test]
    fn paths_in_backticks_and_links_of_a_page_are_found() {
        let page = "Read `src/lib.rs`, [this](../tests/README.md)\nand `cargo run src`.";
        let expected = [(1, "src/lib.rs".to_owned()), (1, "tests/README.md".to_owned())];
        assert_eq!(named_paths(page), expected);
    }
}
