//! Owns `sessionmesh watch`: following the events and showing each as a line.
//!
//! Must not know how diffs are made. Invariant: what is shown adds up, checked by folding every
//! diff, or it is said that it doesn't and begun again.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use super::{
    Context,
    args::Json,
    client::Client,
    failure::Failure,
    output::{self, Output, remark},
    printable::{Names, count, printable, utc},
};
use crate::{
    replica::{
        diff::{Diff, Event},
        fold::{Fold, FoldError, Snapshot},
        ids::NodeId,
        record::{SessionState, WorkspaceState},
    },
    sse,
};

/// How long the stream may be silent: the daemon says every 10 s that it is there.
const SILENCE_MAX: Duration = Duration::from_secs(30);
/// The first pause before another try, which doubles.
const PAUSE_MIN: Duration = Duration::from_millis(200);
/// The longest pause before another try: a person waits for it.
const PAUSE_MAX: Duration = Duration::from_secs(5);

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Print the daemon's diffs as JSON, one a line
    #[command(flatten)]
    json: Json,
}

pub async fn run(args: Args, context: Context, data_dir: &Path) -> Result<(), Failure> {
    tokio::select! {
        ended = watch(args, context, data_dir) => ended,
        // Nothing may change for long, and nobody would read it.
        () = output::closed() => Err(Failure::OutputClosed),
    }
}

async fn watch(args: Args, context: Context, data_dir: &Path) -> Result<(), Failure> {
    let Context { client, out } = context;
    // Who can't follow at all is told so at once; only a stream that was there is waited for.
    let mut response = Some(client.events(None).await?);
    let mut watch = Watch { out, json: args.json.json, names: Names::default(), fold: None };
    let mut client = client;
    let mut pause = PAUSE_MIN;
    loop {
        if let Some(response) = response.take() {
            let since = Instant::now();
            let reason = watch.follow(&client, response).await?;
            remark(&format!("watch: {}; trying again", printable(&reason)));
            if since.elapsed() > PAUSE_MAX {
                pause = PAUSE_MIN;
            }
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSE_MAX);
        let after = watch.fold.as_ref().map(|fold| fold.cursor().to_string());
        match reconnect(data_dir, after.as_deref()).await {
            Ok((again, stream)) => {
                remark("watch: following again");
                (client, response) = (again, Some(stream));
            }
            // A new daemon may have a new token, and a busy one gets better.
            Err(Failure::Unreachable { .. } | Failure::Interrupted(_) | Failure::Refused(_)) => {}
            Err(failure) => return Err(failure),
        }
    }
}

async fn reconnect(
    data_dir: &Path,
    after: Option<&str>,
) -> Result<(Client, reqwest::Response), Failure> {
    let client = Client::open(data_dir)?;
    let response = client.events(after).await?;
    Ok((client, response))
}

struct Watch {
    out: Output,
    json: bool,
    names: Names,
    fold: Option<Fold>,
}

impl Watch {
    /// Shows what comes until the stream ends; returns why it did.
    async fn follow(
        &mut self,
        client: &Client,
        mut response: reqwest::Response,
    ) -> Result<String, Failure> {
        let mut parser = sse::Parser::new(sse::SNAPSHOT_BYTES_MAX);
        loop {
            let chunk = match tokio::time::timeout(SILENCE_MAX, response.chunk()).await {
                Err(_) => return Ok("the daemon is silent".to_owned()),
                Ok(Err(_) | Ok(None)) => return Ok("the daemon has gone away".to_owned()),
                Ok(Ok(Some(chunk))) => chunk,
            };
            let events = parser.push(&chunk).map_err(|e| Failure::Foreign(e.to_string()))?;
            for event in events {
                if let Err(error) = self.take(client, &event).await? {
                    self.fold = None;
                    return Ok(error.to_string());
                }
            }
        }
    }

    /// Shows one event; returns what does not add up.
    async fn take(
        &mut self,
        client: &Client,
        event: &sse::Event,
    ) -> Result<Result<(), FoldError>, Failure> {
        match event.kind.as_str() {
            "snapshot" => {
                let again = self.fold.is_some();
                let fold = match Fold::from_snapshot(read::<Snapshot>(&event.data)?) {
                    Ok(fold) => fold,
                    Err(error) => return Ok(Err(error)),
                };
                if !self.json {
                    self.out.line(&summary(&fold))?;
                } else if again {
                    remark("watch: some diffs are not told; what follows begins with a snapshot");
                }
                self.fold = Some(fold);
            }
            "diff" => {
                let diff: Diff = read(&event.data)?;
                let Some(fold) = &mut self.fold else {
                    return Err(Failure::Foreign("a diff before any snapshot".to_owned()));
                };
                if let Err(error) = fold.apply(&diff) {
                    return Ok(Err(error));
                }
                if self.json {
                    self.out.line(&event.data)?;
                } else {
                    self.learn_names(client, &diff).await;
                    for event in &diff.events {
                        self.out.line(&line(diff.cause.at, event, &self.names))?;
                    }
                }
            }
            // What a newer daemon says beside.
            _ => {}
        }
        Ok(Ok(()))
    }

    async fn learn_names(&mut self, client: &Client, diff: &Diff) {
        if diff.events.iter().any(|event| !self.names.knows(&host(event))) {
            // Without a name there is still the key.
            self.names = client.names().await.unwrap_or_default();
        }
    }
}

fn read<T: serde::de::DeserializeOwned>(data: &str) -> Result<T, Failure> {
    serde_json::from_str(data).map_err(|error| Failure::Foreign(error.to_string()))
}

fn summary(fold: &Fold) -> String {
    let (mut sessions, mut workspaces) = ([0; 3], [0; 4]);
    for session in fold.sessions() {
        sessions[match session.state {
            SessionState::Live => 0,
            SessionState::Stranded => 1,
            SessionState::Deleted => 2,
        }] += 1;
    }
    for workspace in fold.workspaces() {
        workspaces[match workspace.state {
            WorkspaceState::Live => 0,
            WorkspaceState::Vacated => 1,
            WorkspaceState::Sealed => 2,
            WorkspaceState::Failed => 3,
        }] += 1;
    }
    format!(
        "{} ({} live, {} stranded, {} deleted), {} ({} live, {} vacated, {} sealed, {} failed), \
         digest {}",
        count(sessions.iter().sum(), "session"),
        sessions[0],
        sessions[1],
        sessions[2],
        count(workspaces.iter().sum(), "workspace"),
        workspaces[0],
        workspaces[1],
        workspaces[2],
        workspaces[3],
        fold.digest(),
    )
}

/// Returns time, host, type, id, title and reason of an event.
fn line(at_ms: i64, event: &Event, names: &Names) -> String {
    let (id, title, more) = match event {
        Event::SessionCreated { session }
        | Event::SessionRestored { session }
        | Event::SessionStranded { session }
        | Event::SessionPurged { session }
        | Event::SessionHidden { session } => (session.id.as_str(), session.title.as_deref(), None),
        Event::SessionUpdated { session, changed } => {
            (session.id.as_str(), session.title.as_deref(), Some(changed.join(",")))
        }
        Event::SessionDeleted { session, reason } => {
            (session.id.as_str(), session.title.as_deref(), text(reason))
        }
        Event::WorkspaceCreated { workspace }
        | Event::WorkspaceRestored { workspace }
        | Event::WorkspaceSealed { workspace }
        | Event::WorkspaceGone { workspace }
        | Event::WorkspaceHidden { workspace } => {
            (workspace.id.as_str(), Some(workspace.name.as_str()), None)
        }
        Event::WorkspaceUpdated { workspace, changed } => {
            (workspace.id.as_str(), Some(workspace.name.as_str()), Some(changed.join(",")))
        }
        Event::WorkspaceRemoved { workspace, reason } => {
            (workspace.id.as_str(), Some(workspace.name.as_str()), text(reason))
        }
        Event::WorkspaceFailed { workspace } => {
            let error = workspace.teardown.as_ref().and_then(|teardown| teardown.error.clone());
            (workspace.id.as_str(), Some(workspace.name.as_str()), error)
        }
    };
    let value = serde_json::to_value(event).unwrap_or_default();
    let kind = value["type"].as_str().unwrap_or_default();
    let host = printable(&names.of(&host(event)));
    let title = title.map(|title| format!("  \"{}\"", printable(title))).unwrap_or_default();
    let more = more.map(|more| format!("  {}", printable(&more))).unwrap_or_default();
    format!("{}  {host}  {kind}  {id}{title}{more}", utc(at_ms))
}

fn text(reason: &impl serde::Serialize) -> Option<String> {
    serde_json::to_value(reason).ok()?.as_str().map(str::to_owned)
}

fn host(event: &Event) -> NodeId {
    match event {
        Event::SessionCreated { session }
        | Event::SessionUpdated { session, .. }
        | Event::SessionDeleted { session, .. }
        | Event::SessionRestored { session }
        | Event::SessionStranded { session }
        | Event::SessionPurged { session }
        | Event::SessionHidden { session } => session.host,
        Event::WorkspaceCreated { workspace }
        | Event::WorkspaceUpdated { workspace, .. }
        | Event::WorkspaceRemoved { workspace, .. }
        | Event::WorkspaceRestored { workspace }
        | Event::WorkspaceSealed { workspace }
        | Event::WorkspaceFailed { workspace }
        | Event::WorkspaceGone { workspace }
        | Event::WorkspaceHidden { workspace } => workspace.host,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn session(title: &str) -> serde_json::Value {
        json!({
            "id": "ses_1", "host": NodeId([1; 32]), "workspace_id": null, "parent_id": null,
            "project_id": null, "directory": null, "title": title, "created_at": 1,
            "updated_at": 2, "archived_at": null, "agent": null,
            "agent_server": null, "state": "deleted", "deleted": null, "extra": {}
        })
    }

    #[test]
    fn an_event_is_one_line_that_says_when_where_what_and_why() {
        let event = json!({
            "type": "session.deleted", "reason": "parent_deleted", "session": session("a\u{1b}b")
        });
        let event: Event = serde_json::from_value(event).unwrap();
        let names = Names::new([(NodeId([1; 32]), "laptop".to_owned())]);
        assert_eq!(
            line(1_795_379_109_504, &event, &names),
            "2026-11-22T20:25:09Z  laptop  session.deleted  ses_1  \"a\\u{1b}b\"  parent_deleted"
        );
    }

    #[test]
    fn a_snapshot_that_does_not_add_up_is_noticed() {
        let told = |digest: &str| {
            json!({
                "cursor": "0000000000000001-5", "digest": digest, "sessions": [session("t")],
                "workspaces": []
            })
        };
        let snapshot: Snapshot = serde_json::from_value(told(&"0".repeat(32))).unwrap();
        let refused = Fold::from_snapshot(snapshot).unwrap_err();
        let FoldError::Digest { actual, .. } = refused else { panic!("{refused}") };
        let right: Snapshot = serde_json::from_value(told(&actual.to_string())).unwrap();
        let shown = summary(&Fold::from_snapshot(right).unwrap());
        assert!(shown.starts_with("1 session (0 live, 0 stranded, 1 deleted), 0 workspaces"));
        assert!(shown.ends_with(&actual.to_string()), "{shown}");
    }
}
