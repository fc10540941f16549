//! Owns giving a conversation that was exported back to opencode.
//!
//! Must not know where it was kept. Invariants: it comes back as a new session, so that nothing which
//! was deleted is there again; the password of a server is on no command line and in no environment.
//!
//! Seen with opencode 1.18.33: `opencode import FILE` writes into the database of its user, keeps the
//! ids and times of the file, and takes the project from the folder in which it runs. A running
//! server on that database lists the session at once, and tells no event of it.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;

use super::listener::Process;

/// The name of opencode's command.
const COMMAND: &str = "opencode";
/// How long it may take.
const IMPORT_WITHIN: Duration = Duration::from_secs(120);
/// How often it is seen whether it has ended.
const POLL: Duration = Duration::from_millis(20);
/// How much of what it says is told on.
const SAID_CHARS_MAX: usize = 400;
/// How many characters of an id say when it was made: they stay, so that what was made later is
/// still sorted behind.
const TIME_DIGITS: usize = 12;
/// The rest of an id.
const RANDOM_DIGITS: usize = 14;
/// What the rest is drawn from.
const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
/// The beginning of the variables that opencode reads.
const VARIABLES: [&str; 2] = ["OPENCODE_", "XDG_"];
/// The variables that are secrets.
const SECRETS: &str = "PASSWORD";

/// Gives a session and what refers to it new ids; returns the session's.
///
/// # Errors
///
/// It is no export of opencode's.
pub fn renamed(export: &mut Value) -> Result<String, String> {
    let mut names = BTreeMap::new();
    let mut random = fastrand::Rng::new();
    let old = text_at(export, "/info/id")?;
    names.insert(old.clone(), new_id(&old, &mut random));
    let messages = export.get("messages").and_then(Value::as_array);
    for message in messages.ok_or("the export has no messages")? {
        let id = text_at(message, "/info/id")?;
        names.insert(id.clone(), new_id(&id, &mut random));
        for part in message.get("parts").and_then(Value::as_array).into_iter().flatten() {
            let id = text_at(part, "/id")?;
            names.insert(id.clone(), new_id(&id, &mut random));
        }
    }
    rename(export, &names);
    // The session that it was started from was deleted, too, and comes back by another name if at all.
    if let Some(info) = export.get_mut("info").and_then(Value::as_object_mut) {
        info.remove("parentID");
        info.remove("workspaceID");
    }
    Ok(names.remove(&old).expect("it was just put there"))
}

fn text_at(value: &Value, pointer: &str) -> Result<String, String> {
    let text = value.pointer(pointer).and_then(Value::as_str);
    text.map(str::to_owned).ok_or_else(|| format!("the export has no {pointer}"))
}

fn new_id(old: &str, random: &mut fastrand::Rng) -> String {
    let digits = old.find('_').map_or(0, |at| at + 1) + TIME_DIGITS;
    let kept: String = old.chars().take(digits).collect();
    let rest = (0..RANDOM_DIGITS).map(|_| char::from(ALPHABET[random.usize(..ALPHABET.len())]));
    kept.chars().chain(rest).collect()
}

fn rename(value: &mut Value, names: &BTreeMap<String, String>) {
    match value {
        Value::String(text) => {
            if let Some(name) = names.get(text) {
                name.clone_into(text);
            }
        }
        Value::Array(values) => values.iter_mut().for_each(|value| rename(value, names)),
        Value::Object(fields) => fields.values_mut().for_each(|value| rename(value, names)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// Has opencode's command take a session in, in the session's own folder; returns its new id. Blocks.
///
/// It runs as the server does, where the server's process is known: with its program and on its
/// database. `scratch` is a folder for the file that it reads.
///
/// # Errors
///
/// Why it did not, for a person, with the command to type.
pub fn run(
    export: &Path,
    directory: Option<&str>,
    scratch: &Path,
    server: Option<&Process>,
) -> Result<String, String> {
    let directory = Path::new(directory.unwrap_or("/"));
    let by_hand = format!(
        "type `cd {} && opencode import {}` to have it back under its old id",
        directory.display(),
        export.display()
    );
    if !directory.is_dir() {
        return Err(format!(
            "the session's folder {} is not there: restore its workspace, or make the folder, and try \
             again; or {by_hand}",
            directory.display()
        ));
    }
    let failed =
        |what: &dyn std::fmt::Display| format!("opencode did not take it: {what}; {by_hand}");
    let bytes = fs::read(export).map_err(|error| failed(&error))?;
    let mut value: Value = serde_json::from_slice(&bytes).map_err(|error| failed(&error))?;
    let id = renamed(&mut value).map_err(|error| failed(&error))?;
    crate::files::make_folder(scratch).map_err(|error| failed(&error))?;
    let file = Scratch(scratch.join(format!("{id}.json")));
    let bytes = serde_json::to_vec(&value).map_err(|error| failed(&error))?;
    crate::files::replace(&file.0, &bytes).map_err(|error| failed(&error))?;
    let said = spawn(&file.0, directory, server).map_err(|error| failed(&error))?;
    if said.is_done { Ok(id) } else { Err(failed(&said.text)) }
}

/// A file that goes with the value.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        // It holds a copy of what is kept elsewhere.
        let _ = fs::remove_file(&self.0);
    }
}

struct Said {
    is_done: bool,
    text: String,
}

fn spawn(file: &Path, directory: &Path, server: Option<&Process>) -> io::Result<Said> {
    let own = server.map(|server| server.program.as_path());
    let own = own.filter(|program| program.file_name() == Some(COMMAND.as_ref()));
    let mut command = Command::new(own.unwrap_or(Path::new(COMMAND)));
    command.arg("import").arg(file).current_dir(directory);
    for (name, value) in server.into_iter().flat_map(|server| &server.environment) {
        if name == "HOME" || VARIABLES.iter().any(|prefix| name.starts_with(prefix)) {
            command.env(name, value);
        }
    }
    let inherited = std::env::vars_os().map(|(name, _)| name);
    let given = server.into_iter().flat_map(|server| server.environment.keys());
    for name in inherited.chain(given.map(Into::into)) {
        if name.to_string_lossy().contains(SECRETS) {
            command.env_remove(name);
        }
    }
    let output = tempfile_beside(file)?;
    command.stdin(Stdio::null()).stdout(output.1.try_clone()?).stderr(output.1.try_clone()?);
    let mut child = command.spawn()?;
    let until = Instant::now() + IMPORT_WITHIN;
    let ended = loop {
        if let Some(ended) = child.try_wait()? {
            break Some(ended);
        }
        if Instant::now() > until {
            child.kill()?;
            child.wait()?;
            break None;
        }
        thread::sleep(POLL);
    };
    let said = String::from_utf8_lossy(&fs::read(&output.0.0)?).trim().to_owned();
    let said: String = said.chars().take(SAID_CHARS_MAX).collect();
    Ok(match ended {
        Some(ended) if ended.success() => Said { is_done: true, text: said },
        Some(ended) => Said { is_done: false, text: format!("it ended with {ended}: {said}") },
        None => {
            let within = IMPORT_WITHIN.as_secs();
            Said { is_done: false, text: format!("it did not end within {within} s: {said}") }
        }
    })
}

/// Makes a file for what the command says: a pipe that nobody reads would stop it.
fn tempfile_beside(file: &Path) -> io::Result<(Scratch, fs::File)> {
    let path = file.with_extension("out");
    let out = fs::File::create(&path)?;
    Ok((Scratch(path), out))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_session_its_messages_and_their_parts_get_new_ids_wherever_they_are_named() {
        let old = json!({
            "info": { "id": "ses_dd1cba27affeMEJCxtsGPfzzoY", "parentID": "ses_p", "title": "one",
                "time": { "created": 1 } },
            "messages": [
                { "info": { "id": "msg_22e34620c001M3BVEn2IEMOuD7",
                    "sessionID": "ses_dd1cba27affeMEJCxtsGPfzzoY" },
                  "parts": [{ "id": "prt_22e346212001eAU1L11gxogMNK",
                    "messageID": "msg_22e34620c001M3BVEn2IEMOuD7", "text": "msg_ is a word" }] },
                { "info": { "id": "msg_22e346e5d001q9WGRZ3Q5QVkov",
                    "parentID": "msg_22e34620c001M3BVEn2IEMOuD7" }, "parts": [] }
            ]
        });
        let mut new = old.clone();
        let id = renamed(&mut new).unwrap();
        assert!(id.starts_with("ses_dd1cba27affe") && id.len() == 30, "{id}");
        assert_ne!(id, "ses_dd1cba27affeMEJCxtsGPfzzoY");
        let at = |pointer| new.pointer(pointer).and_then(Value::as_str).unwrap();
        assert_eq!((at("/info/id"), at("/messages/0/info/sessionID")), (id.as_str(), id.as_str()));
        let message = at("/messages/0/info/id");
        assert_eq!(at("/messages/0/parts/0/messageID"), message);
        assert_eq!(at("/messages/1/info/parentID"), message);
        assert!(message < at("/messages/1/info/id"), "their order stays");
        assert_eq!(at("/messages/0/parts/0/text"), "msg_ is a word");
        assert_eq!(
            (new.pointer("/info/time"), new.pointer("/info/parentID")),
            (old.pointer("/info/time"), None)
        );
    }

    #[test]
    fn what_is_no_export_is_refused_and_a_missing_folder_named() {
        for export in [json!(null), json!({ "info": {} }), json!({ "info": { "id": "s" } })] {
            assert!(renamed(&mut export.clone()).is_err(), "{export}");
        }
        let scratch = tempfile::tempdir().unwrap();
        let file = scratch.path().join("e.json");
        let refused = run(&file, Some("/no/such/folder"), scratch.path(), None).unwrap_err();
        assert!(refused.contains("/no/such/folder is not there"), "{refused}");
        assert!(refused.contains("opencode import"), "{refused}");
    }
}
