//! Owns `sessionmesh explain`: how a session or a workspace came to be what it is, for a person.
//!
//! Must not know how history is read. Invariant: of writes that did not know of each other, the
//! one that lost is shown too, with whom it lost to.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{
    Context,
    args::Json,
    client::{Answer, Client},
    failure::{Failure, Refused},
    output::Output,
    printable::{count, printable, utc},
    resolve::resolve,
    trash,
};
use crate::replica::{
    explain::{ExplainedChange, ExplainedWrite, Explanation, Kind, Outcome, TeardownTold},
    record::{Session, TeardownAction, Workspace},
};

/// What a creation is told with, beside that it happened.
const TOLD_OF_CREATION: [&str; 7] =
    ["title", "name", "kind", "workspace_id", "parent_id", "directory", "branch"];

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The id of a session or a workspace, or a unique beginning of it; whole if it is gone
    id: String,
    #[command(flatten)]
    json: Json,
}

pub async fn run(args: Args, context: Context) -> Result<(), Failure> {
    let Context { client, mut out } = context;
    let answer = find(&client, &args.id).await?;
    if args.json.json {
        return out.line(&answer.0);
    }
    show(&answer.read()?, &mut out)
}

/// Asks for what is meant by an id, by the beginning of one, or by an id that is gone.
async fn find(client: &Client, text: &str) -> Result<Answer, Failure> {
    let missing = match ask(client, text).await {
        Err(Failure::Refused(refused)) if is_missing(&refused) => Failure::Refused(refused),
        other => return other,
    };
    let found = match resolve::<Session>(client, text).await {
        Ok(found) => found.name,
        Err(Failure::NotFound { .. }) => match resolve::<Workspace>(client, text).await {
            Ok(found) => found.name,
            Err(Failure::NotFound { .. }) => return Err(missing),
            Err(other) => return Err(other),
        },
        Err(other) => return Err(other),
    };
    ask(client, &found).await
}

fn is_missing(refused: &Refused) -> bool {
    refused.code == "session_not_found"
}

async fn ask(client: &Client, name: &str) -> Result<Answer, Failure> {
    client.get(&["v1", "explain", name], &[]).await
}

/// Asks for the history of a session or a workspace, also of one that is gone; `None` if there is
/// no such one of that kind.
pub async fn of(client: &Client, name: &str, kind: Kind) -> Result<Option<Explanation>, Failure> {
    match ask(client, name).await {
        Ok(answer) => {
            let told: Explanation = answer.read()?;
            Ok(Some(told).filter(|told| told.kind == kind))
        }
        Err(Failure::Refused(refused)) if is_missing(&refused) => Ok(None),
        Err(other) => Err(other),
    }
}

/// Shows a session or a workspace that is no longer listed, as long as its document remembers it:
/// the same whether a person or a program reads it.
pub async fn show_gone(
    client: &Client,
    gone: &Explanation,
    json: bool,
    out: &mut Output,
) -> Result<(), Failure> {
    let Explanation { id, host, host_name, state, teardowns, .. } = gone;
    let kept = trash::kept(client, id, *host).await?;
    if json {
        let mut told = serde_json::json!({ "id": id, "host": host, "state": state });
        if gone.kind == Kind::Workspace {
            told["teardowns"] = serde_json::to_value(teardowns).unwrap_or_default();
        }
        // As `trash show` has it; null where nothing is kept.
        told["trash"] = serde_json::to_value(&kept).unwrap_or_default();
        return out.json(&told);
    }
    let mut facts = vec![
        ("id", id.clone()),
        ("state", state.clone()),
        ("host", format!("{host_name} ({host})")),
    ];
    facts.extend(teardowns.iter().map(|told| ("attempt", attempt(told))));
    facts.extend(kept.map(|listed| ("trash", trash::told(&listed.entry))));
    out.facts(&facts)
}

/// Says in one line what an attempt to end a workspace came to.
pub fn attempt(told: &TeardownTold) -> String {
    let forced = if told.action == Some(TeardownAction::Force) { ", by force" } else { "" };
    let came_to = match (&told.done, &told.error) {
        (Some(done), _) => format!(": {done}"),
        (None, Some(error)) => format!(": {error}"),
        (None, None) => String::new(),
    };
    format!("{}, at {}, {}{forced}{came_to}", told.incarnation, utc(told.at), told.state)
}

fn show(told: &Explanation, out: &mut Output) -> Result<(), Failure> {
    let (kind, name) = match (&told.session, &told.workspace) {
        (Some(session), _) => ("session", session.title.clone()),
        (_, Some(workspace)) => ("workspace", Some(workspace.name.clone())),
        _ if told.kind == Kind::Session => ("session", None),
        _ => ("workspace", None),
    };
    let name = name.map(|name| format!(" \"{}\"", printable(&name))).unwrap_or_default();
    let host = printable(&told.host_name);
    out.line(&format!("{kind} {}{name} on {host} is {}", told.id, told.state))?;
    for why in &told.because {
        out.line(&format!("  {}", printable(why)))?;
    }
    let names: BTreeMap<String, &str> =
        told.changes.iter().map(|c| (c.change.to_string(), c.name.as_str())).collect();
    for (number, change) in told.changes.iter().enumerate() {
        if number == 1 && told.omitted > 0 {
            out.line(&format!("… {} …", count(told.omitted, "change")))?;
        }
        show_change(told, change, &names, out)?;
    }
    match told.ticks {
        0 => Ok(()),
        ticks => {
            out.line(&format!("and {} that only told that it was used", count(ticks, "change")))
        }
    }
}

fn show_change(
    told: &Explanation,
    change: &ExplainedChange,
    names: &BTreeMap<String, &str>,
    out: &mut Output,
) -> Result<(), Failure> {
    let name = printable(&change.name);
    for write in &change.writes {
        let own = write.id == told.id && write.kind == told.kind;
        let whose = match (own, write.kind) {
            (true, _) => String::new(),
            (false, Kind::Session) => format!("session {}: ", write.id),
            (false, Kind::Workspace) => format!("workspace {}: ", write.id),
        };
        if write.field.as_deref() == Some("updated_at") {
            continue;
        }
        let rivals: Vec<String> = write
            .rivals
            .iter()
            .map(|rival| printable(names.get(&rival.to_string()).copied().unwrap_or("another")))
            .collect();
        let rivalry = match (rivals.is_empty(), write.outcome) {
            (true, _) => String::new(),
            (false, Outcome::Lost) => {
                format!(" — lost to {}: neither knew of the other", rivals.join(", "))
            }
            (false, _) => format!(" — beside {}: neither knew of the other", rivals.join(", ")),
        };
        let what = printable(&said(write));
        out.line(&format!("{}  {name}  {whose}{what}{rivalry}", utc(change.at)))?;
    }
    Ok(())
}

/// Says in words what was written.
fn said(write: &ExplainedWrite) -> String {
    let value = &write.value;
    let text = |key: &str| value.get(key).and_then(Value::as_str).unwrap_or_default();
    let Some(field) = write.field.as_deref() else {
        return match (value, write.kind) {
            (Value::Object(fields), _) => {
                let told =
                    TOLD_OF_CREATION.iter().filter_map(|key| Some((*key, fields.get(*key)?)));
                let told: Vec<_> = told.map(|(key, value)| format!("{key} {value}")).collect();
                format!("created it with {}", told.join(", "))
            }
            (_, Kind::Session) => "purged it, for good".to_owned(),
            (_, Kind::Workspace) => "ended it: it is gone".to_owned(),
        };
    };
    let (first, rest) = field.split_once('.').unwrap_or((field, ""));
    match (first, value.is_null()) {
        ("deleted", true) => "restored it".to_owned(),
        ("deleted", false) => format!("deleted it, as {}", text("operation")),
        ("teardown", false) => {
            let number = value.get("incarnation").and_then(Value::as_i64).unwrap_or(1);
            match text("state") {
                "failed" => format!("could not end it, attempt {number}: {}", text("error")),
                _ => format!("sealed it, to end it: attempt {number}"),
            }
        }
        ("keepers", false) => "keeps it".to_owned(),
        ("keepers", true) => "keeps it no more".to_owned(),
        ("requests", false) => format!("asked for another attempt: {}", plain(value)),
        ("requests", true) => "took up what was asked for".to_owned(),
        ("dismissals", false) if value.is_object() => "deleted it as a whole".to_owned(),
        ("dismissals", false) => format!("deleted it as a whole, as {rest}"),
        ("dismissals", true) => format!("took back that it was deleted, {rest}"),
        ("used", _) => "put it to use".to_owned(),
        (_, true) => format!("took {field} away"),
        (_, false) => format!("wrote {field}: {}", plain(value)),
    }
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => format!("\"{text}\""),
        other => other.to_string(),
    }
}
