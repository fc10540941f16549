//! Owns the settings of a daemon: their defaults, and the reading of what a person types.
//!
//! Must not know what is done with them. Invariant: what was read can be used: a folder is absolute
//! and named in one way only, a name can be shown, a length of time is one.

use std::{
    path::{Component, Path, PathBuf},
    time::Duration,
};

/// Names the data folder where `--data-dir` doesn't.
pub const DATA_DIR_ENV: &str = "SESSIONMESH_DATA_DIR";
/// Where links are accepted if nothing else is said: every address, so that a fleet can form.
pub const LISTEN_DEFAULT: &str = "0.0.0.0:7177";
/// Where the HTTP API is offered if nothing else is said.
pub const HTTP_DEFAULT: &str = "127.0.0.1:7178";
/// How long a delete can be undone if nothing else is said: long enough to notice.
pub const UNDO_WINDOW_DEFAULT: &str = "10s";
/// Longest undo window: a month. A host that waits longer keeps what nobody remembers.
pub const UNDO_WINDOW_MAX: Duration = Duration::from_secs(31 * 86_400);
/// How long what a teardown removes is kept if nothing else is said: over a holiday.
pub const KEEP_REMOVED_DEFAULT: &str = "14d";
/// How long a host that has started waits for a peer if nothing else is said: long enough for a
/// network or a power supply to come back, short enough that a host whose peers are off for good
/// still does its work.
pub const START_GRACE_DEFAULT: &str = "1h";
/// How much the entries of the trash that may be deleted early take together if nothing else is said.
pub const TRASH_MAX_DEFAULT: &str = "20GiB";
/// Longest time for which what is removed can be kept: ten years, which is for ever.
pub const KEEP_REMOVED_MAX: Duration = Duration::from_secs(3_650 * 86_400);
/// Longest name of a node, in characters: it is a column of every table, and host names have 64.
pub const NAME_CHARS_MAX: usize = 64;

/// Why a setting can't be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The platform names no data folder.
    #[error("no home folder is known; name a data folder with --data-dir or {DATA_DIR_ENV}")]
    NoFolder,
    /// The data folder can't be made absolute.
    #[error("data folder `{}` is not a usable path", .0.display())]
    Folder(PathBuf),
    /// The data folder could not be told to programs, which are told paths as text.
    #[error(
        "data folder {:?} is not UTF-8, so no program could be told where it is; choose another \
         with --data-dir or {DATA_DIR_ENV}",
        .0
    )]
    NotUtf8(PathBuf),
    /// A directory can't be taken for one.
    #[error("`{}` is not a directory that can be used: {why}", given.escape_debug())]
    Directory {
        /// What was given.
        given: String,
        /// Why it can't be used.
        why: &'static str,
    },
    /// A name is empty, too long, or has characters that names must not have.
    #[error(
        "`{}` is not a usable name: 1 to {NAME_CHARS_MAX} characters, no `@`, no control characters",
        .0.escape_debug()
    )]
    Name(String),
    /// A length of time can't be read.
    #[error("`{}` is not a length of time: write it as 500ms, 10s, 5m, 1h or 14d", .0.escape_debug())]
    Duration(String),
    /// A size can't be read.
    #[error("`{}` is not a size: write it as 500M, 20G or 1T (or 20GiB, 20GB)", .0.escape_debug())]
    Size(String),
    /// What is removed is to be kept for longer than is sensible.
    #[error(
        "to keep what is removed for {0:?} is longer than {KEEP_REMOVED_MAX:?}; write it as 14d, or 0 to delete it at once"
    )]
    KeepRemoved(Duration),
    /// A folder that is to bound what is removed is none.
    #[error("`{}` is not a folder, so it can't bound what is removed: {why}", path.display())]
    Root {
        /// What was named.
        path: PathBuf,
        /// Why it can't be used.
        why: String,
    },
    /// An undo window is longer than is sensible.
    #[error("an undo window of {0:?} is longer than {UNDO_WINDOW_MAX:?}")]
    UndoWindow(Duration),
}

/// Returns the data folder that was named, or the platform's own.
///
/// Links in the path are followed as far as it exists, so that a daemon and its clients mean the
/// same folder however it is named.
pub fn data_dir(named: Option<&Path>) -> Result<PathBuf, Error> {
    let found = match named {
        Some(path) => real(path)?,
        None => {
            let dirs = directories::ProjectDirs::from("", "", "sessionmesh");
            real(dirs.ok_or(Error::NoFolder)?.data_local_dir())?
        }
    };
    if found.to_str().is_some() { Ok(found) } else { Err(Error::NotUtf8(found)) }
}

/// Reads the directory of a session or workspace, and makes it absolute: other machines, and the
/// daemon, are not where the command was typed.
///
/// A leading `~/` is the home folder, since a shell leaves it as it is behind a `=`. Links are
/// followed only where `..` asks for it: what is typed whole stays as it is.
pub fn parse_directory(text: &str) -> Result<String, Error> {
    let bad = |why| Error::Directory { given: text.to_owned(), why };
    if text.is_empty() {
        return Err(bad("it is empty; leave it out, or give a path"));
    }
    if text.contains("://") {
        return Err(bad("it is an address; give a path"));
    }
    let path = match text.strip_prefix('~') {
        Some(rest) if rest.is_empty() || rest.starts_with('/') => {
            let home = std::env::home_dir().filter(|home| home.is_absolute());
            let home = home.ok_or(bad("no home folder is known; give the whole path"))?;
            home.join(rest.trim_start_matches('/'))
        }
        Some(_) => return Err(bad("whose home folder that is is not known; give the whole path")),
        None => PathBuf::from(text),
    };
    let climbs = |path: &Path| path.components().any(|part| part == Component::ParentDir);
    let absolute = if climbs(&path) { real(&path) } else { absolute(&path) };
    let absolute = absolute.map_err(|_| bad("where this command runs is not known"))?;
    if climbs(&absolute) {
        return Err(bad("it climbs out of a folder that is not there"));
    }
    absolute.into_os_string().into_string().map_err(|_| bad("where it is is not UTF-8"))
}

fn absolute(path: &Path) -> Result<PathBuf, Error> {
    std::path::absolute(path).map_err(|_| Error::Folder(path.to_owned()))
}

fn real(path: &Path) -> Result<PathBuf, Error> {
    let absolute = absolute(path)?;
    for existing in absolute.ancestors() {
        if let (Ok(found), Ok(rest)) = (existing.canonicalize(), absolute.strip_prefix(existing)) {
            return Ok(found.components().chain(rest.components()).collect());
        }
    }
    Ok(absolute)
}

/// Reads the name of a node: refuses one that could not stand in a table or after an `@`.
pub fn parse_name(text: &str) -> Result<String, Error> {
    let fits = (1..=NAME_CHARS_MAX).contains(&text.chars().count())
        && !text.contains('@')
        && !text.chars().any(char::is_control)
        && text.trim() == text;
    if fits { Ok(text.to_owned()) } else { Err(Error::Name(text.to_owned())) }
}

/// Reads how long a delete can be undone.
pub fn parse_undo_window(text: &str) -> Result<Duration, Error> {
    let window = parse_duration(text)?;
    if window > UNDO_WINDOW_MAX { Err(Error::UndoWindow(window)) } else { Ok(window) }
}

/// Reads how long what is removed is kept; zero deletes it at once.
pub fn parse_keep_removed(text: &str) -> Result<Duration, Error> {
    let keep = parse_duration(text)?;
    if keep > KEEP_REMOVED_MAX { Err(Error::KeepRemoved(keep)) } else { Ok(keep) }
}

/// Reads a size in bytes: a whole number and `K`, `M`, `G` or `T`, each 1,024 times the one before;
/// with `iB` behind it means the same, with `B` the decimal unit; `0` needs no unit.
pub fn parse_size(text: &str) -> Result<u64, Error> {
    let bad = || Error::Size(text.to_owned());
    let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at(split);
    let number: u64 = digits.parse().map_err(|_| bad())?;
    let mut letters = unit.chars();
    let power = match letters.next().map(|letter| letter.to_ascii_uppercase()) {
        None if number == 0 => 0,
        Some('B') if letters.as_str().is_empty() => 0,
        Some('K') => 1,
        Some('M') => 2,
        Some('G') => 3,
        Some('T') => 4,
        _ => return Err(bad()),
    };
    let base: u64 = match letters.as_str() {
        "" | "iB" => 1_024,
        "B" => 1_000,
        _ => return Err(bad()),
    };
    number.checked_mul(base.pow(power)).ok_or_else(bad)
}

/// Reads a folder below which workspaces may be removed: it exists, and links to it are followed.
pub fn parse_root(text: &str) -> Result<PathBuf, Error> {
    let bad = |why: String| Error::Root { path: text.into(), why };
    let root = Path::new(text).canonicalize().map_err(|error| bad(error.to_string()))?;
    if root.is_dir() { Ok(root) } else { Err(bad("it is a file".to_owned())) }
}

/// Returns what the machine calls itself, as far as it can be a node's name.
pub fn host_name() -> String {
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let kept = name.chars().filter(|c| !c.is_control() && !c.is_whitespace() && *c != '@');
    let name: String = kept.take(NAME_CHARS_MAX).collect();
    if name.is_empty() { "node".to_owned() } else { name }
}

/// Reads a length of time: a whole number and `ms`, `s`, `m`, `h` or `d`; `0` needs no unit.
pub fn parse_duration(text: &str) -> Result<Duration, Error> {
    let bad = || Error::Duration(text.to_owned());
    let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at(split);
    let number: u64 = digits.parse().map_err(|_| bad())?;
    let ms: u64 = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        "" if number == 0 => 0,
        _ => return Err(bad()),
    };
    number.checked_mul(ms).map(Duration::from_millis).ok_or_else(bad)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_of_time_is_a_number_and_a_unit() {
        for (text, ms) in
            [("500ms", 500), ("10s", 10_000), ("5m", 300_000), ("1h", 3_600_000), ("0", 0)]
        {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        let too_much = format!("{}h", u64::MAX);
        for text in ["", "10", "s", "1.5s", "-1s", "10 s", "10sec", " 10s", "1h30m", &too_much] {
            let error = parse_duration(text).unwrap_err().to_string();
            assert!(error.contains("500ms"), "{text}: {error}");
        }
    }

    #[test]
    fn the_defaults_can_be_used() {
        assert!(parse_undo_window(UNDO_WINDOW_DEFAULT).is_ok());
        assert!(parse_keep_removed(KEEP_REMOVED_DEFAULT).is_ok());
        assert_eq!(parse_size(TRASH_MAX_DEFAULT), Ok(20 << 30));
        assert!(parse_duration(START_GRACE_DEFAULT).is_ok());
        assert!(LISTEN_DEFAULT.parse::<std::net::SocketAddr>().is_ok());
        let http: std::net::SocketAddr = HTTP_DEFAULT.parse().unwrap();
        assert!(http.ip().is_loopback());
        assert_eq!(parse_name(&host_name()), Ok(host_name()));
    }

    #[test]
    fn a_root_that_bounds_removals_is_a_folder_that_exists() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
        std::fs::write(path("file"), "").unwrap();
        for name in ["file", "absent"] {
            let error = parse_root(&path(name)).unwrap_err().to_string();
            assert!(error.contains(name), "{error}");
        }
        assert_eq!(parse_root(&path(".")), Ok(folder.path().canonicalize().unwrap()));
    }

    #[test]
    fn a_directory_is_made_absolute_or_refused() {
        let here = std::env::current_dir().unwrap();
        let (here, above) = (here.to_str().unwrap(), here.parent().unwrap().to_str().unwrap());
        let home = std::env::home_dir().unwrap();
        for (typed, meant) in [
            (".", here.to_owned()),
            ("a b/c", format!("{here}/a b/c")),
            ("./w", format!("{here}/w")),
            ("..", above.to_owned()),
            ("../w", format!("{above}/w")),
            ("/x/y", "/x/y".to_owned()),
            ("~/w", home.join("w").to_str().unwrap().to_owned()),
        ] {
            assert_eq!(parse_directory(typed), Ok(meant), "{typed}");
        }
        for typed in ["", "file:///w", "~nobody/w", "absent/../../w"] {
            let error = parse_directory(typed).unwrap_err().to_string();
            assert!(error.contains(typed), "{error}");
        }
    }

    #[test]
    fn a_data_folder_that_is_not_utf_8_is_refused_by_its_name() {
        use std::os::unix::ffi::OsStrExt as _;
        let path = Path::new(std::ffi::OsStr::from_bytes(b"/tmp/d\xff"));
        let error = data_dir(Some(path)).unwrap_err().to_string();
        assert!(error.contains(r"/tmp/d\xFF") && error.contains("--data-dir"), "{error}");
    }

    #[test]
    fn a_size_is_a_number_and_a_unit() {
        for (text, bytes) in [
            ("0", 0),
            ("12B", 12),
            ("3K", 3 << 10),
            ("500M", 500 << 20),
            ("20g", 20 << 30),
            ("20GiB", 20 << 30),
            ("20GB", 20_000_000_000),
            ("1T", 1 << 40),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for text in ["", "20", "G", "-1G", "1.5G", "20 G", "20X", "20Gi", "20000000000T"] {
            let error = parse_size(text).unwrap_err().to_string();
            assert!(error.contains("20G"), "{text}: {error}");
        }
        for text in ["forever", "14", "4000d"] {
            assert!(parse_keep_removed(text).unwrap_err().to_string().contains("d"), "{text}");
        }
        assert_eq!(parse_keep_removed("0"), Ok(Duration::ZERO));
    }

    #[test]
    fn an_undo_window_of_a_year_is_refused() {
        assert!(parse_undo_window("365d").unwrap_err().to_string().contains("longer"));
    }

    #[test]
    fn a_name_that_could_not_follow_an_at_sign_is_refused() {
        for name in ["", " ", "a@b", "a\nb", " a", &"x".repeat(65)] {
            assert_eq!(parse_name(name), Err(Error::Name(name.to_owned())));
        }
        assert_eq!(parse_name("mac mini"), Ok("mac mini".to_owned()));
    }

    #[test]
    fn a_folder_means_the_same_through_a_link_before_and_after_it_exists() {
        let folder = tempfile::tempdir().unwrap();
        let (real, link) = (folder.path().join("real"), folder.path().join("link"));
        std::fs::create_dir(&real).unwrap();
        std::os::unix::fs::symlink(&real, &link).unwrap();
        let before = data_dir(Some(&link.join("data"))).unwrap();
        std::fs::create_dir(real.join("data")).unwrap();
        assert_eq!(data_dir(Some(&link.join("data"))), Ok(before.clone()));
        assert_eq!(data_dir(Some(&real.join("data"))), Ok(before));
    }
}
