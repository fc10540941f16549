//! Owns the settings of a daemon and where its things lie on disk.
//!
//! Must not know what is done with them. Invariant: a [`Config`] that exists is one that a daemon
//! can try: its folder is absolute, its API is for this machine alone, its name can be shown.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use sha2::{Digest as _, Sha256};

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
/// Longest name of a node, in characters: it is a column of every table, and host names have 64.
pub const NAME_CHARS_MAX: usize = 64;
/// Longest path of a socket, bytes: `sun_path` has 108 on Linux and 104 on macOS, with the zero.
const SOCKET_PATH_BYTES_MAX: usize = 100;

/// Why a setting can't be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The platform names no data folder.
    #[error("no home folder is known; name a data folder with --data-dir or {DATA_DIR_ENV}")]
    NoFolder,
    /// The data folder can't be made absolute.
    #[error("data folder `{}` is not a usable path", .0.display())]
    Folder(PathBuf),
    /// Others could reach the API, which is not encrypted.
    #[error(
        "--http {0} is not a loopback address; use 127.0.0.1:{port}, and from elsewhere \
         `ssh -L {port}:127.0.0.1:{port}`",
        port = .0.port()
    )]
    NotLoopback(SocketAddr),
    /// A name is empty, too long, or has characters that names must not have.
    #[error(
        "`{}` is not a usable name: 1 to {NAME_CHARS_MAX} characters, no `@`, no control characters",
        .0.escape_debug()
    )]
    Name(String),
    /// A length of time can't be read.
    #[error("`{}` is not a length of time: write it as 500ms, 10s, 5m or 1h", .0.escape_debug())]
    Duration(String),
    /// An undo window is longer than is sensible.
    #[error("an undo window of {0:?} is longer than {UNDO_WINDOW_MAX:?}")]
    UndoWindow(Duration),
}

/// What a daemon is started with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Where everything that it keeps lies.
    pub folder: Folder,
    /// Where links are accepted; port 0 picks a free one.
    pub listen: SocketAddr,
    /// Where the HTTP API is offered, on loopback; port 0 picks a free one.
    pub http: SocketAddr,
    /// What people call this machine.
    pub name: String,
    /// The ticket of the fleet to join, if it is not in it already.
    pub join: Option<String>,
    /// How long a delete can be undone before the host carries it out.
    pub undo_window: Duration,
}

impl Config {
    /// Refuses what no daemon could be started with.
    pub fn check(self) -> Result<Self, Error> {
        let fits = (1..=NAME_CHARS_MAX).contains(&self.name.chars().count())
            && !self.name.contains('@')
            && !self.name.chars().any(char::is_control)
            && self.name.trim() == self.name;
        if !fits {
            return Err(Error::Name(self.name));
        }
        if !self.http.ip().is_loopback() {
            return Err(Error::NotLoopback(self.http));
        }
        if self.undo_window > UNDO_WINDOW_MAX {
            return Err(Error::UndoWindow(self.undo_window));
        }
        Ok(self)
    }
}

/// The facts of a daemon that has just become ready.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Ready {
    /// Its key, as text.
    pub node: String,
    /// The fleet that it belongs to, as text.
    pub fleet: String,
    /// Where the API is, really.
    pub http: SocketAddr,
    /// Where links are accepted, really.
    pub quic: SocketAddr,
    /// The API's Unix socket.
    pub socket: PathBuf,
    /// The data folder.
    pub data_dir: PathBuf,
}

/// A data folder and the names of what lies in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Folder(PathBuf);

impl Folder {
    /// Takes the folder that was named, or the platform's own.
    pub fn resolve(named: Option<&Path>) -> Result<Self, Error> {
        match named {
            Some(path) => Self::at(path),
            None => {
                let dirs = directories::ProjectDirs::from("", "", "sessionmesh");
                Self::at(dirs.ok_or(Error::NoFolder)?.data_local_dir())
            }
        }
    }

    /// Takes a folder; links in its path are followed as far as it exists, so that a daemon and its
    /// clients mean the same one however it is named.
    pub fn at(path: &Path) -> Result<Self, Error> {
        let real = path.canonicalize().or_else(|_| std::path::absolute(path));
        real.map(Self).map_err(|_| Error::Folder(path.to_owned()))
    }

    /// Returns the folder itself.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Returns the file of the durable state.
    pub fn store(&self) -> PathBuf {
        self.0.join("state.redb")
    }

    /// Returns the file of the node's key.
    pub fn key(&self) -> PathBuf {
        self.0.join("node.key")
    }

    /// Returns the file of the API's token.
    pub fn token(&self) -> PathBuf {
        self.0.join("token")
    }

    /// Returns the API's Unix socket.
    pub fn socket(&self) -> PathBuf {
        socket_path(&self.0)
    }
}

/// Returns where the Unix socket of a data folder is: in it, or, where that path is too long for a
/// socket, in this user's folder for sockets under a name made of the path.
///
/// Not in `XDG_RUNTIME_DIR`: a daemon that a service manager started and a client in an ssh session
/// need not have the same.
pub fn socket_path(data_dir: &Path) -> PathBuf {
    let path = data_dir.join("sessionmesh.sock");
    if path.as_os_str().len() <= SOCKET_PATH_BYTES_MAX {
        return path;
    }
    let hash = Sha256::digest(path.as_os_str().as_encoded_bytes());
    let name = data_encoding::HEXLOWER.encode(&hash[..8]);
    let user = rustix::process::geteuid().as_raw();
    PathBuf::from(format!("/tmp/sessionmesh-{user}/{name}.sock"))
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

    fn config() -> Config {
        Config {
            folder: Folder(PathBuf::from("/data")),
            listen: LISTEN_DEFAULT.parse().unwrap(),
            http: HTTP_DEFAULT.parse().unwrap(),
            name: "laptop".to_owned(),
            join: None,
            undo_window: parse_duration(UNDO_WINDOW_DEFAULT).unwrap(),
        }
    }

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
        assert_eq!(config().check(), Ok(config()));
        let named = Config { name: host_name(), ..config() };
        assert!(named.check().is_ok(), "{}", host_name());
    }

    #[test]
    fn an_api_for_other_machines_is_refused() {
        let http: SocketAddr = "0.0.0.0:7178".parse().unwrap();
        let refused = Config { http, ..config() }.check();
        assert_eq!(refused, Err(Error::NotLoopback(http)));
        assert!(Config { http: "[::1]:0".parse().unwrap(), ..config() }.check().is_ok());
    }

    #[test]
    fn a_name_that_could_not_follow_an_at_sign_is_refused() {
        for name in ["", " ", "a@b", "a\nb", &"x".repeat(65)] {
            let refused = Config { name: name.to_owned(), ..config() }.check();
            assert_eq!(refused, Err(Error::Name(name.to_owned())));
        }
    }

    #[test]
    fn a_socket_whose_path_is_too_long_is_elsewhere_and_always_in_the_same_place() {
        let short = Path::new("/data");
        assert_eq!(socket_path(short), Path::new("/data/sessionmesh.sock"));
        let long = PathBuf::from(format!("/{}", "d".repeat(120)));
        let socket = socket_path(&long);
        assert!(socket.as_os_str().len() <= SOCKET_PATH_BYTES_MAX, "{}", socket.display());
        assert_eq!(socket, socket_path(&long));
        assert_ne!(socket, socket_path(&long.join("other")));
    }

    #[test]
    fn a_folder_means_the_same_through_a_link() {
        let folder = tempfile::tempdir().unwrap();
        let (real, link) = (folder.path().join("real"), folder.path().join("link"));
        std::fs::create_dir(&real).unwrap();
        std::os::unix::fs::symlink(&real, &link).unwrap();
        assert_eq!(Folder::at(&link), Folder::at(&real));
    }
}
