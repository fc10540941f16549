//! Owns what is told of how a session or a workspace came to be what it is.
//!
//! Must not know how it is asked for. Invariant: it tells what the document's history says; where
//! that begins, or leaves something out, it says so.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    document::{Copied, HistoryStep, Outcome as WriteOutcome, Touched},
    ids::{ChangeHash, Fingerprint, NodeId, SessionId, WorkspaceId},
    record::{Ended, Session, TeardownAction, TeardownState, Workspace},
};

/// A kind of record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A session.
    Session,
    /// A workspace.
    Workspace,
}

/// Why a record is what it is, and which changes made it so.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Explanation {
    /// What it is.
    pub kind: Kind,
    /// Its name on its host.
    pub id: String,
    /// Its host.
    pub host: NodeId,
    /// What people call the host.
    pub host_name: String,
    /// As in the record, `purged` or `gone`.
    pub state: String,
    /// Why it is in that state, in sentences.
    pub because: Vec<String>,
    /// The session as it is, if it is one and is there.
    pub session: Option<Session>,
    /// The workspace as it is, if it is one and is there.
    pub workspace: Option<Workspace>,
    /// The attempts to end it, the first first, if it is a workspace.
    pub teardowns: Vec<TeardownTold>,
    /// The changes that made it so, each after those that it knew of.
    pub changes: Vec<ExplainedChange>,
    /// How many changes in between are left out.
    pub omitted: usize,
    /// How many changes did no more than tell that it was used.
    pub ticks: usize,
}

/// An attempt to end a workspace, as its host has written it down.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TeardownTold {
    /// Counts the attempts, from 1.
    pub incarnation: u32,
    /// `sealed`, `failed` or `gone`.
    pub state: String,
    /// When, milliseconds since the epoch by the host's clock.
    pub at: i64,
    /// Whether a person insisted, where that is known.
    pub action: Option<TeardownAction>,
    /// What was done.
    pub done: Option<String>,
    /// Why it failed.
    pub error: Option<String>,
    /// Until when the host keeps what it removed, milliseconds since the epoch by its clock.
    #[serde(default)]
    pub kept_until: Option<i64>,
}

/// A change that made a record what it is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ExplainedChange {
    /// Its name.
    pub change: ChangeHash,
    /// The node that wrote it, if it is known here.
    pub node: Option<NodeId>,
    /// What people call that node, or the beginning of its mark.
    pub name: String,
    /// When, milliseconds since the epoch by that node's clock, to the second.
    pub at: i64,
    /// What it wrote.
    pub writes: Vec<ExplainedWrite>,
}

/// What a change wrote to one field of a record.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ExplainedWrite {
    /// What kind of record it wrote to.
    pub kind: Kind,
    /// Which record.
    pub id: String,
    /// Which field, as a path; `null` for the record as a whole.
    pub field: Option<String>,
    /// What it wrote; `null` if it took something away.
    pub value: Value,
    /// What became of it.
    pub outcome: Outcome,
    /// The changes that wrote to the same without knowing of this one.
    pub rivals: Vec<ChangeHash>,
}

/// What became of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It is what the record says.
    Stands,
    /// A later change, which knew of it, wrote something else.
    Replaced,
    /// A change that did not know of it wins over it.
    Lost,
}

/// A record that can be explained: what the view says of it, and a copy of its document.
#[derive(Debug)]
pub struct Explainable {
    /// All that is known without the history.
    pub explanation: Explanation,
    /// Which record.
    pub record: Touched,
    /// The document that it is in.
    pub copy: Copied,
    /// The members by the mark of their changes.
    pub authors: BTreeMap<Fingerprint, (NodeId, String)>,
}

impl Explainable {
    /// Reads the history; takes as long as the document has changes.
    pub fn explain(self) -> Explanation {
        let Self { mut explanation, record, copy, authors } = self;
        let history = copy.history(&record);
        if let Touched::Workspace(id) = &record {
            explanation.teardowns = teardowns(&history.steps, id);
        }
        (explanation.omitted, explanation.ticks) = (history.omitted, history.ticks);
        explanation.changes =
            history.steps.into_iter().map(|step| explained(step, &authors)).collect();
        explanation
    }
}

fn explained(
    step: HistoryStep,
    authors: &BTreeMap<Fingerprint, (NodeId, String)>,
) -> ExplainedChange {
    let author = authors.get(&step.author);
    let mark = || step.author.iter().take(5).map(|byte| format!("{byte:02x}")).collect();
    ExplainedChange {
        change: step.change,
        node: author.map(|(node, _)| *node),
        name: author.map_or_else(mark, |(_, name)| name.clone()),
        at: step.at,
        writes: step
            .writes
            .into_iter()
            .filter_map(|write| {
                let (kind, id) = named(&write.record)?;
                let outcome = match write.outcome {
                    WriteOutcome::Stands => Outcome::Stands,
                    WriteOutcome::Replaced => Outcome::Replaced,
                    WriteOutcome::Lost => Outcome::Lost,
                };
                let (field, value) = (write.field, write.value.unwrap_or(Value::Null));
                Some(ExplainedWrite { kind, id, field, value, outcome, rivals: write.rivals })
            })
            .collect(),
    }
}

fn named(record: &Touched) -> Option<(Kind, String)> {
    match record {
        Touched::Session(id) => Some((Kind::Session, SessionId::to_string(id))),
        Touched::Workspace(id) => Some((Kind::Workspace, WorkspaceId::to_string(id))),
        Touched::Trash(_) | Touched::Meta | Touched::Description => None,
    }
}

/// Lists the attempts that the host has written down: what an attempt came to stands in place of
/// its beginning.
fn teardowns(steps: &[HistoryStep], id: &WorkspaceId) -> Vec<TeardownTold> {
    let mut told: Vec<TeardownTold> = Vec::new();
    let writes = steps.iter().flat_map(|step| step.writes.iter().map(move |write| (step, write)));
    for (step, write) in writes {
        if write.record != Touched::Workspace(id.clone()) {
            continue;
        }
        let one = match (write.field.as_deref(), &write.value) {
            (Some("teardown"), Some(value)) => {
                let text = |key: &str| value.get(key).and_then(Value::as_str).map(str::to_owned);
                let number = |key: &str| value.get(key).and_then(Value::as_i64);
                TeardownTold {
                    incarnation: number("incarnation").and_then(|n| n.try_into().ok()).unwrap_or(1),
                    state: match text("state").as_deref() {
                        Some("failed") => state_of(TeardownState::Failed),
                        _ => state_of(TeardownState::Sealed),
                    },
                    at: number("at").unwrap_or(step.at),
                    action: None,
                    done: None,
                    error: text("error"),
                    kept_until: number("kept_until"),
                }
            }
            (None, Some(Value::String(grave))) => {
                let ended = Ended::parse(grave);
                let last = told.last().map_or(1, |last| last.incarnation);
                TeardownTold {
                    incarnation: ended.as_ref().map_or(last, |ended| ended.incarnation),
                    state: "gone".to_owned(),
                    at: ended.as_ref().map_or(step.at, |ended| ended.at),
                    action: ended.as_ref().map(|ended| ended.action),
                    kept_until: ended.as_ref().and_then(|ended| ended.kept_until),
                    done: ended.map(|ended| ended.done),
                    error: None,
                }
            }
            _ => continue,
        };
        match told.last_mut() {
            Some(last) if last.incarnation == one.incarnation => *last = one,
            _ => told.push(one),
        }
    }
    told
}

fn state_of(state: TeardownState) -> String {
    match state {
        TeardownState::Sealed => "sealed".to_owned(),
        TeardownState::Failed => "failed".to_owned(),
    }
}
