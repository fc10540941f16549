//! Owns the HTTP requests to an opencode server.
//!
//! Must not know what is done with the answers. Invariant: an answer is either what opencode's API
//! promises or an [`Error`] that names the address.

use std::time::Duration;

use reqwest::{Method, RequestBuilder, Response, StatusCode, Url, header, redirect};
use serde::de::DeserializeOwned;

use super::{events::Events, model::Health};

/// The user that opencode expects beside its password.
const USER: &str = "opencode";
/// How long a connection may take: the server is on this machine or a few hops away.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long an answer may take: the first request about a folder makes opencode start up in it.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// How long the answer to the first question may take: opencode 1.18.33, while it starts up,
/// sometimes accepts a connection on which it never answers (seen); on the next one it does.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a delete may take before it is given up for now.
const DELETE_TIMEOUT: Duration = Duration::from_secs(20);
/// How often the first question is asked.
const PROBES: usize = 8;
/// How long the stream of events may take to open.
const EVENTS_TIMEOUT: Duration = Duration::from_secs(10);
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

/// Reaches one opencode server.
#[derive(Debug, Clone)]
pub struct Client {
    http: reqwest::Client,
    base: Url,
    password: Option<String>,
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
        Ok(Self { http, base, password })
    }

    /// Returns where the server is, without any password.
    pub fn address(&self) -> &Url {
        &self.base
    }

    /// Asks for the version; refuses one whose lists may mean something else.
    pub async fn version(&self) -> Result<String, Error> {
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

    /// Deletes a session, and with it its children; one that is not there counts as deleted.
    pub async fn delete_session(&self, id: &str) -> Result<bool, Error> {
        self.delete(&format!("session/{id}"), &[]).await
    }

    /// Removes a workspace, its files and its sessions; one that is not there counts as removed.
    ///
    /// `directory` is a folder of the workspace's project. opencode 1.18.33 removes a worktree
    /// whatever it holds, and its branch with it: whoever asks has looked before.
    pub async fn remove_workspace(&self, id: &str, directory: Option<&str>) -> Result<(), Error> {
        let folder = directory.map(|directory| ("directory", directory));
        self.delete(&format!("experimental/workspace/{id}"), folder.as_slice()).await.map(drop)
    }

    /// Deletes something; tells whether it was there.
    async fn delete(&self, path: &str, query: &[(&str, &str)]) -> Result<bool, Error> {
        let (url, request) = self.request(Method::DELETE, path, query);
        match self.send(&url, request.timeout(DELETE_TIMEOUT)).await {
            Ok(_) => Ok(true),
            Err(Error::Status { status: 404, .. }) => Ok(false),
            Err(error) => Err(error),
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

    fn request(&self, method: Method, path: &str, query: &[(&str, &str)]) -> (Url, RequestBuilder) {
        let mut url = self.base.clone();
        let prefix = url.path().trim_end_matches('/').to_owned();
        url.set_path(&format!("{prefix}/{path}"));
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        let mut request = self.http.request(method, url.clone());
        if let Some(password) = &self.password {
            request = request.basic_auth(USER, Some(password));
        }
        (url, request)
    }

    async fn send(&self, url: &Url, request: RequestBuilder) -> Result<Response, Error> {
        let response = request.send().await.map_err(|error| unreachable(url, &error))?;
        match response.status() {
            StatusCode::OK => Ok(response),
            StatusCode::UNAUTHORIZED => {
                Err(Error::Password { url: url.clone(), given: self.password.is_some() })
            }
            status => Err(Error::Status { url: url.clone(), status: status.as_u16() }),
        }
    }

    async fn probe(&self) -> Result<Health, Error> {
        self.ask("global/health", &[], PROBE_TIMEOUT).await
    }

    /// Asks for something below the address and reads its JSON.
    pub(super) async fn get<T: DeserializeOwned>(
        &self,
        path: &str,
        query: &[(&str, &str)],
    ) -> Result<T, Error> {
        self.ask(path, query, ANSWER_TIMEOUT).await
    }

    async fn ask<T: DeserializeOwned>(
        &self,
        path: &str,
        query: &[(&str, &str)],
        timeout: Duration,
    ) -> Result<T, Error> {
        let (url, request) = self.request(Method::GET, path, query);
        let request = request.timeout(timeout).header(header::ACCEPT, "application/json");
        let mut response = self.send(&url, request).await?;
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| unreachable(&url, &error))? {
            if body.len() + chunk.len() > BODY_BYTES_MAX {
                return Err(Error::TooLong { url, max: BODY_BYTES_MAX, unit: "bytes" });
            }
            body.extend_from_slice(&chunk);
        }
        serde_json::from_slice(&body).map_err(|error| {
            let page = body.trim_ascii_start().starts_with(b"<");
            let reason =
                if page { "it answers with a web page".to_owned() } else { error.to_string() };
            Error::Foreign { url, reason }
        })
    }
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
