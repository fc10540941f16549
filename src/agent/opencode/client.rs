//! Owns the HTTP requests to an opencode server.
//!
//! Must not know what is done with the answers. Invariant: an answer is either what opencode's API
//! promises or an [`Error`] that names the address.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use bytes::Bytes;
use reqwest::{Method, RequestBuilder, Response, StatusCode, Url, header, redirect};
use serde_json::Value;

use super::{
    events::Events,
    listener::{self, Owner, Process},
    model::{Health, mended},
};

/// The user that opencode expects beside its password.
const USER: &str = "opencode";
/// How long a connection may take: the server is on this machine or a few hops away.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long an answer may take: the first request about a folder makes opencode start up in it.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// How long the answer to the first question may take: opencode 1.18.33, while it starts up,
/// sometimes accepts a connection on which it never answers (seen); on the next one it does.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);
/// How long the answer about one session may take.
const SESSION_TIMEOUT: Duration = Duration::from_secs(20);
/// How long a delete may take before it is given up for now.
const DELETE_TIMEOUT: Duration = Duration::from_secs(20);
/// How often the first question is asked.
const PROBES: usize = 8;
/// How long the stream of events may take to open.
const EVENTS_TIMEOUT: Duration = Duration::from_secs(10);
/// How long it is good for who was found to listen: looking it up takes longer the more sockets the
/// machine has, and one look asks many questions.
const OWNER_FOR: Duration = Duration::from_millis(500);
/// What is said of a server that takes a connection and then says nothing.
const SILENT: &str = "it does not answer in time";
/// Largest answer, bytes: a session is half a kilobyte, so this is half a million of them.
const BODY_BYTES_MAX: usize = 256 << 20;
/// The versions whose lists are understood, `major.minor`, from and up to but not including.
const VERSIONS: ((u32, u32), (u32, u32)) = ((1, 18), (2, 0));

/// Why an opencode server could not be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The address is not one of HTTP.
    #[error("`{}` is not the address of an opencode server", .0.escape_debug())]
    Address(String),
    /// Nobody answers there.
    #[error("no opencode server answers at {url}: {reason}")]
    Unreachable {
        /// Where one was expected.
        url: Url,
        /// What the network says.
        reason: String,
        /// Whether it took a connection and then said nothing.
        timed_out: bool,
    },
    /// It asks for a password, or for another one.
    #[error("the opencode server at {url} refuses the password")]
    Password {
        /// Where it is.
        url: Url,
        /// Whether one was given.
        given: bool,
    },
    /// What answers is something else.
    #[error("what answers at {url} is not an opencode server: {reason}")]
    Foreign {
        /// What was asked for.
        url: Url,
        /// What it did instead.
        reason: String,
    },
    /// Somebody else's process listens there.
    #[error(
        "user {user}, who is another one, listens at {url}: nothing is sent there; start the opencode \
         server as the user of the daemon"
    )]
    AnotherUser {
        /// Where it is.
        url: Url,
        /// The user's number.
        user: u32,
    },
    /// It is too old or too new.
    #[error("the opencode server at {url} has version {}, which is not supported", version.escape_debug())]
    Version {
        /// Where it is.
        url: Url,
        /// What it says.
        version: String,
    },
    /// It failed.
    #[error("the opencode server failed with status {status} at {url}")]
    Status {
        /// What was asked for.
        url: Url,
        /// How it failed.
        status: u16,
    },
    /// It has more than is read.
    #[error("the answer of {url} is longer than {max} {unit}")]
    TooLong {
        /// What was asked for.
        url: Url,
        /// Where reading ends.
        max: usize,
        /// What is counted.
        unit: &'static str,
    },
}

/// What a server says of one session.
#[derive(Debug, Clone, PartialEq)]
pub enum Standing {
    /// It has it; this is what it says of it.
    There(Value),
    /// It has none of that id.
    Gone,
}

/// Reaches one opencode server.
#[derive(Debug, Clone)]
pub struct Client {
    http: reqwest::Client,
    base: Url,
    password: Option<String>,
    seen: Arc<Mutex<Seen>>,
}

/// What was found out of who listens.
#[derive(Debug, Default)]
struct Seen {
    owner: Option<(Instant, Owner)>,
    process: Option<(u64, Process)>,
}

impl Client {
    /// Takes an address, `http://HOST:PORT`, and the password that the server asks for, if any.
    pub fn new(address: &str, password: Option<String>) -> Result<Self, Error> {
        let bad = || Error::Address(address.to_owned());
        let mut base: Url = address.parse().map_err(|_| bad())?;
        if base.scheme() != "http" || base.host_str().is_none() {
            return Err(bad());
        }
        // What a person types there is shown in messages, where a password must not be.
        let password = password.or_else(|| base.password().map(str::to_owned));
        base.set_password(None).map_err(|()| bad())?;
        base.set_username("").map_err(|()| bad())?;
        base.set_query(None);
        base.set_fragment(None);
        let http = reqwest::Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .redirect(redirect::Policy::none())
            .no_proxy()
            .build()
            .map_err(|error| unreachable(&base, &error))?;
        Ok(Self { http, base, password, seen: Arc::default() })
    }

    /// Returns where the server is, without any password.
    pub fn address(&self) -> &Url {
        &self.base
    }

    /// Asks for the version; refuses one whose lists may mean something else.
    pub async fn version(&self) -> Result<String, Error> {
        // Whoever asks for it has lost the server, whose port another may have taken.
        self.seen().owner = None;
        let mut answered = self.probe().await;
        for _ in 1..PROBES {
            if !matches!(&answered, Err(Error::Unreachable { timed_out: true, .. })) {
                break;
            }
            answered = self.probe().await;
        }
        let health = match answered {
            // A stranger answers an unknown path in its own way.
            Err(Error::Status { url, status }) => {
                let reason = format!("it answers with status {status}");
                return Err(Error::Foreign { url, reason });
            }
            other => other?,
        };
        if !is_supported(&health.version) {
            return Err(Error::Version { url: self.base.clone(), version: health.version });
        }
        Ok(health.version)
    }

    /// Asks for one session by its id, in whichever project it is.
    ///
    /// Seen with opencode 1.18.33: the answer does not depend on a folder; of one that is not there it
    /// is 404 with a `NotFoundError` as JSON, and of an id that is none of its own 500.
    pub async fn session(&self, id: &str) -> Result<Standing, Error> {
        let (url, request) = self.request(Method::GET, &format!("session/{id}"), &[]);
        let request = request.timeout(SESSION_TIMEOUT).header(header::ACCEPT, "application/json");
        let response = self.execute(&url, request).await?;
        let (status, is_json) = (response.status(), is_json(&response));
        match status {
            StatusCode::OK | StatusCode::NOT_FOUND if is_json => {}
            StatusCode::OK => {
                return Err(Error::Foreign { url, reason: "it answers with no JSON".to_owned() });
            }
            status => return Err(self.refused(url, status)),
        }
        let body = read_body(&url, response, BODY_BYTES_MAX).await?;
        let (url, value) = parse(url, body).await?;
        if status == StatusCode::OK {
            let foreign = "it answers with another session";
            return match value.get("id").and_then(Value::as_str) {
                Some(told) if told == id => Ok(Standing::There(value)),
                _ => Err(Error::Foreign { url, reason: foreign.to_owned() }),
            };
        }
        if is_not_found(&value) {
            return Ok(Standing::Gone);
        }
        let reason = "its 404 is none of opencode's".to_owned();
        Err(Error::Foreign { url, reason })
    }

    /// Deletes a session, and with it its children. That it is gone, only [`Client::session`] says.
    pub async fn delete_session(&self, id: &str) -> Result<(), Error> {
        self.delete(&format!("session/{id}"), &[]).await
    }

    /// Removes a workspace and its sessions; one that is not there counts as removed.
    ///
    /// `directory` is a folder of the workspace's project. opencode 1.18.33 removes a worktree
    /// whatever it holds, and its branch with it: whoever asks has looked before.
    pub async fn remove_workspace(&self, id: &str, directory: Option<&str>) -> Result<(), Error> {
        let folder = directory.map(|directory| ("directory", directory));
        self.delete(&format!("experimental/workspace/{id}"), folder.as_slice()).await
    }

    /// Deletes something; what was not there counts as deleted.
    async fn delete(&self, path: &str, query: &[(&str, &str)]) -> Result<(), Error> {
        let (url, request) = self.request(Method::DELETE, path, query);
        let request = request.timeout(DELETE_TIMEOUT);
        let response = self.execute(&url, request).await?;
        let (status, is_json) = (response.status(), is_json(&response));
        match status {
            StatusCode::NO_CONTENT => Ok(()),
            StatusCode::OK | StatusCode::NOT_FOUND if is_json => Ok(()),
            StatusCode::OK | StatusCode::NOT_FOUND => {
                Err(Error::Foreign { url, reason: "it answers a delete with no JSON".to_owned() })
            }
            status => Err(self.refused(url, status)),
        }
    }

    /// Opens the stream of what happens in all projects, from now on.
    pub async fn events(&self) -> Result<Events, Error> {
        let (url, request) = self.request(Method::GET, "global/event", &[]);
        let request = request.header(header::ACCEPT, "text/event-stream");
        match tokio::time::timeout(EVENTS_TIMEOUT, self.send(&url, request)).await {
            Ok(response) => Ok(Events::new(url, response?)),
            Err(_) => Err(silent(&url)),
        }
    }

    pub(super) fn request(
        &self,
        method: Method,
        path: &str,
        query: &[(&str, &str)],
    ) -> (Url, RequestBuilder) {
        let mut url = self.base.clone();
        let prefix = url.path().trim_end_matches('/').to_owned();
        url.set_path(&format!("{prefix}/{path}"));
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        let request = self.http.request(method, url.clone());
        (url, request)
    }

    /// Returns the process behind the address, where that can be found out. Takes a moment.
    pub async fn process(&self) -> Option<Process> {
        let Owner::Own(inode) = self.owner().await else { return None };
        let known = self.seen().process.clone();
        if let Some((_, process)) = known.filter(|(of, _)| *of == inode) {
            return Some(process);
        }
        let found = tokio::task::spawn_blocking(move || Process::find(inode)).await.ok()??;
        self.seen().process = Some((inode, found.clone()));
        Some(found)
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Finds out who listens at the address; what was found is good for a moment.
    async fn owner(&self) -> Owner {
        let known = self.seen().owner;
        if let Some((at, owner)) = known
            && at.elapsed() < OWNER_FOR
        {
            return owner;
        }
        let host = self.base.host_str().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        let port = self.base.port_or_known_default().unwrap_or_default();
        let Ok(found) = tokio::net::lookup_host((host, port)).await else { return Owner::Unknown };
        let addresses: Vec<SocketAddr> = found.collect();
        let looked = tokio::task::spawn_blocking(move || listener::owner(&addresses));
        let owner = looked.await.unwrap_or(Owner::Unknown);
        self.seen().owner = Some((Instant::now(), owner));
        owner
    }

    /// Sends a request, with the password, only to a process of this user's: any other may have taken
    /// the port of a server that has ended.
    async fn execute(&self, url: &Url, request: RequestBuilder) -> Result<Response, Error> {
        match self.owner().await {
            Owner::Another(user) => {
                return Err(Error::AnotherUser { url: self.base.clone(), user });
            }
            Owner::Nobody => {
                let reason = "nothing listens there".to_owned();
                return Err(Error::Unreachable { url: url.clone(), reason, timed_out: false });
            }
            Owner::Own(_) | Owner::Unknown => {}
        }
        let request = match &self.password {
            Some(password) => request.basic_auth(USER, Some(password)),
            None => request,
        };
        request.send().await.map_err(|error| unreachable(url, &error))
    }

    pub(super) async fn send(&self, url: &Url, request: RequestBuilder) -> Result<Response, Error> {
        let response = self.execute(url, request).await?;
        match response.status() {
            StatusCode::OK => Ok(response),
            status => Err(self.refused(url.clone(), status)),
        }
    }

    fn refused(&self, url: Url, status: StatusCode) -> Error {
        match status {
            StatusCode::UNAUTHORIZED => Error::Password { url, given: self.password.is_some() },
            status => Error::Status { url, status: status.as_u16() },
        }
    }

    async fn probe(&self) -> Result<Health, Error> {
        let (url, health) = self.ask("global/health", &[], PROBE_TIMEOUT).await?;
        serde_json::from_value(health)
            .map_err(|error| Error::Foreign { url, reason: error.to_string() })
    }

    /// Asks for a list below the address.
    pub(super) async fn get_list(
        &self,
        path: &str,
        query: &[(&str, &str)],
    ) -> Result<Vec<Value>, Error> {
        match self.ask(path, query, ANSWER_TIMEOUT).await? {
            (_, Value::Array(list)) => Ok(list),
            (url, _) => Err(Error::Foreign { url, reason: "it answers with no list".to_owned() }),
        }
    }

    async fn ask(
        &self,
        path: &str,
        query: &[(&str, &str)],
        timeout: Duration,
    ) -> Result<(Url, Value), Error> {
        let (url, request) = self.request(Method::GET, path, query);
        let request = request.timeout(timeout).header(header::ACCEPT, "application/json");
        let response = self.send(&url, request).await?;
        let body = read_body(&url, response, BODY_BYTES_MAX).await?;
        parse(url, body).await
    }
}

/// Reads a body in the pieces in which it comes: putting them together takes as long as they are
/// large, and is done beside the loop.
pub(super) async fn read_body(
    url: &Url,
    mut response: Response,
    max: usize,
) -> Result<Vec<Bytes>, Error> {
    let (mut body, mut length) = (Vec::new(), 0);
    while let Some(chunk) = response.chunk().await.map_err(|error| unreachable(url, &error))? {
        length += chunk.len();
        if length > max {
            return Err(Error::TooLong { url: url.clone(), max, unit: "bytes" });
        }
        body.push(chunk);
    }
    Ok(body)
}

/// Reads JSON beside the loop.
async fn parse(url: Url, body: Vec<Bytes>) -> Result<(Url, Value), Error> {
    let read = tokio::task::spawn_blocking(move || read_json(&body.concat()));
    match read.await {
        Ok(Ok(value)) => Ok((url, value)),
        Ok(Err(reason)) => Err(Error::Foreign { url, reason }),
        Err(error) => Err(Error::Foreign { url, reason: error.to_string() }),
    }
}

/// Reads JSON, also such as only JavaScript writes.
pub(super) fn read_json(bytes: &[u8]) -> Result<Value, String> {
    if bytes.trim_ascii_start().starts_with(b"<") {
        return Err("it answers with a web page".to_owned());
    }
    serde_json::from_slice(bytes)
        .or_else(|_| serde_json::from_str(&mended(bytes)))
        .map_err(|error| error.to_string())
}

pub(super) fn unreachable(url: &Url, error: &reqwest::Error) -> Error {
    let timed_out = error.is_timeout() && !error.is_connect();
    Error::Unreachable { url: url.clone(), reason: root(error), timed_out }
}

/// Says that a server has been silent for too long.
pub(super) fn silent(url: &Url) -> Error {
    Error::Unreachable { url: url.clone(), reason: SILENT.to_owned(), timed_out: true }
}

/// Returns the innermost cause, which is what a person can act upon.
fn root(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return SILENT.to_owned();
    }
    let mut cause: &dyn std::error::Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}

pub(super) fn is_json(response: &Response) -> bool {
    let kind = response.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    kind.is_some_and(|kind| kind.split(';').next().unwrap_or_default().trim() == "application/json")
}

/// Tells whether this is what opencode answers of something that it does not have.
fn is_not_found(value: &Value) -> bool {
    value.get("name").and_then(Value::as_str) == Some("NotFoundError")
}

fn is_supported(version: &str) -> bool {
    let mut parts = version.trim_start_matches('v').split('.').map(|part| part.parse::<u32>());
    let (Some(Ok(major)), Some(Ok(minor))) = (parts.next(), parts.next()) else { return false };
    let (from, to) = VERSIONS;
    (from..to).contains(&(major, minor))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_in_the_address_is_used_and_not_shown() {
        let client = Client::new("http://opencode:s3cret@localhost:4096/", None).unwrap();
        assert_eq!(client.password.as_deref(), Some("s3cret"));
        assert_eq!(client.address().as_str(), "http://localhost:4096/");
        let client = Client::new("http://u:url@localhost", Some("env".to_owned())).unwrap();
        assert_eq!(client.password.as_deref(), Some("env"));
    }

    #[test]
    fn what_is_not_an_http_address_is_refused() {
        for address in ["", "localhost:4096", "https://localhost", "ftp://x", "/tmp/socket"] {
            let refused = Client::new(address, None);
            assert!(matches!(refused, Err(Error::Address(_))), "{address}: {refused:?}");
        }
    }

    #[test]
    fn only_versions_whose_lists_are_known_are_read() {
        for (version, supported) in [
            ("1.18.33", true),
            ("v1.18.0", true),
            ("1.99.0", true),
            ("1.17.9", false),
            ("0.18.33", false),
            ("2.0.0", false),
            ("local", false),
            ("", false),
        ] {
            assert_eq!(is_supported(version), supported, "{version}");
        }
    }
}
