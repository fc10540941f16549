//! Owns turning what a person types for an id into the record that is meant.
//!
//! Must not know what is done with it. Invariant: one record is meant, or nothing is done.

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;

use super::{
    client::Client,
    failure::{Failure, Refused},
};
use crate::replica::{
    ids::{NodeId, SessionId},
    record::{Session, Workspace},
};

/// How many records an ambiguous prefix is said to fit; a person types more then anyway.
const CANDIDATES_MAX: usize = 8;

/// A kind of record that ids name.
pub trait Kind: DeserializeOwned {
    /// What one is called.
    const NOUN: &'static str;
    /// What a list of them is called in the API.
    const LIST: &'static str;

    /// Its name on its host.
    fn id(&self) -> &str;
    /// Where it lives.
    fn host(&self) -> NodeId;
}

impl Kind for Session {
    const NOUN: &'static str = "session";
    const LIST: &'static str = "sessions";

    fn id(&self) -> &str {
        self.id.as_str()
    }

    fn host(&self) -> NodeId {
        self.host
    }
}

impl Kind for Workspace {
    const NOUN: &'static str = "workspace";
    const LIST: &'static str = "workspaces";

    fn id(&self) -> &str {
        self.id.as_str()
    }

    fn host(&self) -> NodeId {
        self.host
    }
}

/// A record and how requests name it.
#[derive(Debug, Clone)]
pub struct Resolved<T> {
    /// `ID` or `ID@HOST`.
    pub name: String,
    /// The record.
    pub record: T,
}

/// Finds the record of an id, of a unique prefix of one, or of either with `@HOST`.
pub async fn resolve<T: Kind>(client: &Client, text: &str) -> Result<Resolved<T>, Failure> {
    let id = text.split('@').next().unwrap_or_default();
    // An id and a prefix of one have the same form, and it is the same for both kinds.
    if id.parse::<SessionId>().is_err() {
        let what = format!("`{text}` is no id of a {}", T::NOUN);
        return Err(Failure::Usage { what, hint: "ids are 1 to 64 of A-Z a-z 0-9 _ -" });
    }
    match client.get(&["v1", T::LIST, text], &[]).await {
        Ok(answer) => return Ok(Resolved { name: text.to_owned(), record: answer.read()? }),
        Err(Failure::Refused(Refused { status: 404, code, .. })) if code != "node_not_found" => {}
        Err(failure) => return Err(failure),
    }
    let host = text.split_once('@').map(|(_, host)| host).filter(|host| !host.is_empty());
    let query: Vec<_> = [("state", "all")].into_iter().chain(host.map(|h| ("host", h))).collect();
    let answer = client.list(T::LIST, &query, None).await?;
    let mut page: BTreeMap<String, serde_json::Value> = answer.read()?;
    let records = page.remove(T::LIST).unwrap_or_default();
    let records: Vec<T> =
        serde_json::from_value(records).map_err(|error| Failure::Foreign(error.to_string()))?;
    let mut found: Vec<T> =
        records.into_iter().filter(|record| record.id().starts_with(id)).collect();
    match found.len() {
        0 => Err(Failure::NotFound { kind: T::NOUN, text: text.to_owned() }),
        1 => {
            let record = found.remove(0);
            let name = match host {
                Some(host) => format!("{}@{host}", record.id()),
                None => record.id().to_owned(),
            };
            Ok(Resolved { name, record })
        }
        many => {
            let same = found.iter().all(|record| record.id() == found[0].id());
            let name = |record: &T| match same {
                true => format!("{}@{}", record.id(), record.host().short()),
                false => record.id().to_owned(),
            };
            let candidates: Vec<_> = found.iter().take(CANDIDATES_MAX).map(name).collect();
            let left_out = many - candidates.len();
            Err(Failure::Ambiguous { text: text.to_owned(), candidates, left_out })
        }
    }
}
