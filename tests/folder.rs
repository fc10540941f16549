//! Owns what a daemon says about a data folder that it can't use.
//!
//! Must not look into a daemon. Invariant: each refusal is one line that names the file and the
//! remedy, and nothing in the folder is changed by it.

mod harness;

use std::{
    collections::BTreeMap,
    fs::{self, Permissions},
    io::{BufRead as _, BufReader},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Output, Stdio},
};

use harness::{Daemon, command};
use redb::ReadableTable as _;
use serde_json::json;

/// Runs a daemon that is expected not to start; one that does is stopped.
fn serve(dir: &Path) -> Output {
    let mut child = command(dir)
        .args(["serve", "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0", "--name", "A"])
        .args(["--log-format", "json"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the command runs");
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().expect("it is piped")).read_line(&mut line).unwrap();
    if !line.is_empty() {
        child.kill().expect("it runs");
        child.wait().expect("it can be waited for");
        panic!("it started: {line}");
    }
    child.wait_with_output().expect("it can be waited for")
}

/// Checks that a daemon refuses to start with one line that holds all these words.
fn refuses(dir: &Path, words: &[&str]) {
    let output = serve(dir);
    let stderr = String::from_utf8(output.stderr).expect("it is text");
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    // Logs come first, a JSON object a line each.
    let lines: Vec<&str> = stderr.lines().filter(|line| !line.starts_with('{')).collect();
    let [line] = lines[..] else { panic!("not one line: {stderr}") };
    for word in words {
        assert!(line.contains(word), "{word:?} is missing in: {line}");
    }
    assert!(!line.contains("panicked"), "{line}");
}

/// Returns every file and folder below one, with its mode and content.
///
/// Of the store, only that it is there: redb notes in it that it was opened. What it holds is shown
/// by starting from it afterwards.
fn contents(folder: &Path) -> BTreeMap<PathBuf, (u32, Vec<u8>)> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let metadata = fs::symlink_metadata(&path).unwrap();
            let is_read = metadata.is_file() && !path.ends_with("state.redb");
            let content = if is_read { fs::read(&path).unwrap() } else { Vec::new() };
            if metadata.is_dir() {
                folders.push(path.clone());
            }
            found.insert(path, (metadata.permissions().mode(), content));
        }
    }
    found
}

/// Checks that a daemon refuses to start and changes nothing below the folder that its own is in.
fn refuses_unchanged(dir: &Path, words: &[&str]) {
    let top = dir.parent().unwrap();
    let before = contents(top);
    refuses(dir, words);
    let after = contents(top);
    let names = |of: &BTreeMap<PathBuf, _>| of.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&after), names(&before));
    for (path, content) in &after {
        assert!(*content == before[path], "{} was changed", path.display());
    }
}

/// Makes a data folder that a daemon has used, stopped cleanly.
async fn used(top: &Path) -> PathBuf {
    let dir = top.join("data");
    let daemon = Daemon::start(&dir, "A", &[]);
    for id in ["one", "two", "three"] {
        daemon.ok("POST", "/v1/sessions", Some(json!({ "id": id }))).await;
    }
    assert!(daemon.stop().success());
    dir
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

#[test]
fn a_file_in_the_place_of_the_folder_is_named() {
    let top = tempfile::tempdir().unwrap();
    let dir = top.path().join("data");
    fs::write(&dir, "not a folder").unwrap();
    refuses_unchanged(&dir, &[dir.to_str().unwrap(), "choose another data folder"]);
    let below = dir.join("deeper");
    let output = serve(&below);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains(below.to_str().unwrap()), "{stderr}");
    assert_eq!(fs::read(&dir).unwrap(), b"not a folder");
}

#[test]
fn a_folder_whose_path_is_not_utf_8_is_named_and_not_made() {
    use std::os::unix::ffi::OsStrExt as _;
    let top = tempfile::tempdir().unwrap();
    let dir = top.path().join(std::ffi::OsStr::from_bytes(b"d\xff"));
    let output = serve(&dir);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    for part in [r"d\xFF", "not UTF-8", "--data-dir"] {
        assert!(stderr.contains(part), "{part} is not in {stderr}");
    }
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    assert!(!dir.exists());
}

#[test]
fn a_folder_that_is_not_writable_is_named() {
    // A kernel's own file system refuses root, too, which tests may run as.
    let dir = Path::new("/proc/sessionmesh");
    refuses(dir, &["/proc/sessionmesh", "choose another data folder"]);

    let top = tempfile::tempdir().unwrap();
    let dir = top.path().join("data");
    fs::create_dir(&dir).unwrap();
    set_mode(&dir, 0o500);
    let probe = dir.join("probe");
    if fs::write(&probe, "").is_ok() {
        // Whom modes don't bind is let in; the kernel's refusal above has shown the rest.
        fs::remove_file(probe).unwrap();
    } else {
        refuses_unchanged(&dir, &[dir.to_str().unwrap(), "make it writable"]);
    }
    set_mode(&dir, 0o700);
}

#[tokio::test]
async fn a_folder_in_use_is_named_and_its_daemon_goes_on() {
    let top = tempfile::tempdir().unwrap();
    let dir = top.path().join("data");
    let daemon = Daemon::start(&dir, "A", &[]);
    daemon.ok("POST", "/v1/sessions", Some(json!({ "id": "before" }))).await;
    let before = contents(&dir);
    let store = dir.join("state.redb");
    refuses(&dir, &[store.to_str().unwrap(), "in use", "stop that one"]);
    assert_eq!(contents(&dir), before);
    daemon.ok("POST", "/v1/sessions", Some(json!({ "id": "after" }))).await;
    assert_eq!(daemon.view().await.sessions.len(), 2);
}

#[tokio::test]
async fn a_store_of_a_newer_version_is_named() {
    const SETTINGS: redb::TableDefinition<&str, &[u8]> = redb::TableDefinition::new("settings");
    let top = tempfile::tempdir().unwrap();
    let dir = used(top.path()).await;
    let store = dir.join("state.redb");
    let shift = |by: i64| {
        let database = redb::Database::open(&store).unwrap();
        let transaction = database.begin_write().unwrap();
        let mut settings = transaction.open_table(SETTINGS).unwrap();
        let found = settings.get("schema").unwrap().unwrap().value().to_vec();
        let found = u32::from_be_bytes(found.try_into().unwrap());
        let shifted = u32::try_from(i64::from(found) + by).unwrap();
        settings.insert("schema", shifted.to_be_bytes().as_slice()).unwrap();
        drop(settings);
        transaction.commit().unwrap();
        shifted
    };
    let schema = format!("schema {}", shift(1));
    refuses_unchanged(&dir, &[store.to_str().unwrap(), "newer", &schema, "start the newer one"]);
    refuses_unchanged(&dir, &[&schema]);
    shift(-1);
    assert_eq!(Daemon::start(&dir, "A", &[]).view().await.sessions.len(), 3);
}

#[tokio::test]
async fn a_damaged_store_is_named() {
    let top = tempfile::tempdir().unwrap();
    let dir = used(top.path()).await;
    let store = dir.join("state.redb");
    let sound = fs::read(&store).unwrap();
    let mut flipped = sound.clone();
    // Of every page something, so that some of it is in use.
    for page in flipped.chunks_mut(4_096).skip(1) {
        page[page.len() / 3] ^= 0xff;
    }
    let cases: [(&str, Vec<u8>); 5] = [
        ("empty", Vec::new()),
        ("cut short", sound[..sound.len() / 3].to_vec()),
        ("of another kind", b"SQLite format 3\0".repeat(1_000)),
        ("overwritten at its start", [&[0; 512][..], &sound[512..]].concat()),
        ("with wrong bytes", flipped),
    ];
    for (what, bytes) in cases {
        fs::write(&store, &bytes).unwrap();
        refuses(&dir, &[store.to_str().unwrap(), "damaged", "sessionmesh repair"]);
        assert!(fs::read(&store).unwrap() == bytes, "the store that is {what} was changed");
    }
    fs::write(&store, &sound).unwrap();
    let daemon = Daemon::start(&dir, "A", &[]);
    assert_eq!(daemon.view().await.sessions.len(), 3, "the copy is as good as ever");
}

#[tokio::test]
async fn a_damaged_key_or_token_is_named_and_not_replaced() {
    let top = tempfile::tempdir().unwrap();
    let dir = used(top.path()).await;
    for name in ["node.key", "token"] {
        let path = dir.join(name);
        let sound = fs::read(&path).unwrap();
        for bytes in [&b""[..], b"\n", &sound[..sound.len() / 2], &[0xff; 100]] {
            fs::write(&path, bytes).unwrap();
            refuses_unchanged(&dir, &[path.to_str().unwrap(), "restore it from a backup"]);
        }
        fs::write(&path, sound).unwrap();
    }
    assert_eq!(Daemon::start(&dir, "A", &[]).view().await.sessions.len(), 3);
}

#[tokio::test]
async fn a_key_that_is_missing_beside_a_nodes_state_is_named_and_not_made_anew() {
    let top = tempfile::tempdir().unwrap();
    let dir = used(top.path()).await;
    let (path, aside) = (dir.join("node.key"), top.path().join("aside"));
    fs::rename(&path, &aside).unwrap();
    refuses_unchanged(&dir, &[path.to_str().unwrap(), "is missing", "put it back"]);
    fs::rename(&aside, &path).unwrap();
    assert_eq!(Daemon::start(&dir, "A", &[]).view().await.sessions.len(), 3);
}

#[tokio::test]
async fn whatever_others_can_open_is_named_with_the_command_that_closes_it() {
    let top = tempfile::tempdir().unwrap();
    let dir = used(top.path()).await;
    for (path, loose, remedy) in [
        (dir.clone(), 0o755, "chmod 700"),
        (dir.clone(), 0o710, "chmod 700"),
        (dir.join("state.redb"), 0o644, "chmod 600"),
        (dir.join("node.key"), 0o640, "chmod 600"),
        (dir.join("token"), 0o604, "chmod 600"),
    ] {
        let tight = fs::metadata(&path).unwrap().permissions();
        set_mode(&path, loose);
        let mode = format!("{loose:04o}");
        refuses_unchanged(&dir, &[path.to_str().unwrap(), remedy, &mode]);
        fs::set_permissions(&path, tight).unwrap();
    }
    assert_eq!(Daemon::start(&dir, "A", &[]).view().await.sessions.len(), 3);
}
