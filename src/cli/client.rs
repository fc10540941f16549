//! Owns the requests to the daemon of a data folder, over its Unix socket.
//!
//! Must not know verbs. Invariant: what is not a success is a [`Failure`] that says whether the
//! daemon was reached.

use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use reqwest::{Method, Response, StatusCode, Url, header};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

use super::{
    failure::{Failure, Refused},
    printable::Names,
    progress::Progress,
};
use crate::{
    api,
    daemon::{
        self,
        handle::{Peer, Status},
    },
};

/// How long the socket may take to accept: it is on this machine.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long an answer may take: joining a fleet waits for another node.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(120);
/// How often to ask again where the daemon is asked too much: in each pause it takes thousands.
const PAUSES_MAX: u32 = 10;
/// How long to pause where the answer does not say it.
const PAUSE: Duration = Duration::from_secs(api::problem::RETRY_AFTER_S as u64);
/// How long to pause at most, whatever the answer says: someone waits.
const PAUSE_MAX: Duration = Duration::from_secs(10);
/// How long a daemon that runs may take to make its socket again: it looks every second.
const SOCKET_WITHIN: Duration = Duration::from_secs(3);
/// How often it is seen whether the socket is there.
const SOCKET_POLL: Duration = Duration::from_millis(20);
/// What is said of a daemon whose store nobody has open.
pub const NOT_RUNNING: &str = "it does not run";
/// How many records are asked for at a time.
const PAGE_RECORDS: usize = 500;

/// What the daemon answered.
#[derive(Debug, Clone)]
pub struct Answer(pub String);

impl Answer {
    /// Reads the answer as what it should be.
    pub fn read<T: DeserializeOwned>(&self) -> Result<T, Failure> {
        serde_json::from_str(&self.0).map_err(|error| Failure::Foreign(error.to_string()))
    }
}

/// Asks the daemon of one data folder.
#[derive(Debug, Clone)]
pub struct Client {
    http: reqwest::Client,
    authorization: header::HeaderValue,
    data_dir: PathBuf,
    /// Whether waiting is shown by someone else.
    quiet: bool,
    /// How often it asks again where the daemon is asked too much.
    pauses_max: u32,
}

impl Client {
    /// Finds the daemon of a data folder; whether it runs is known only once it is asked.
    pub fn open(data_dir: &Path) -> Result<Self, Failure> {
        let unreachable =
            |reason: String| Failure::Unreachable { data_dir: data_dir.to_owned(), reason };
        let path = data_dir.join(api::TOKEN_FILE);
        let token = match fs::read_to_string(&path) {
            Ok(token) => token,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(unreachable("none was ever started there".to_owned()));
            }
            Err(error) => return Err(Failure::Token { path, error }),
        };
        let authorization = header::HeaderValue::try_from(format!("Bearer {}", token.trim()));
        let mut authorization = authorization.map_err(|_| {
            let error = io::Error::new(io::ErrorKind::InvalidData, "it holds no token");
            Failure::Token { path, error }
        })?;
        authorization.set_sensitive(true);
        let socket = api::socket_path(data_dir);
        await_socket(&socket, data_dir);
        check_owner(&socket, data_dir).map_err(unreachable)?;
        let http = reqwest::Client::builder()
            .unix_socket(socket.as_path())
            .connect_timeout(CONNECT_TIMEOUT)
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .build()
            .map_err(|error| unreachable(error.to_string()))?;
        let data_dir = data_dir.to_owned();
        Ok(Self { http, authorization, data_dir, quiet: false, pauses_max: PAUSES_MAX })
    }

    /// Shows nothing while it waits, since someone else does.
    pub fn quiet(self) -> Self {
        Self { quiet: true, ..self }
    }

    /// Says at once that the daemon is asked too much, and for how long to pause: who measures must
    /// know of it.
    pub fn impatient(self) -> Self {
        Self { pauses_max: 0, ..self }
    }

    /// Asks for something.
    pub async fn get(&self, path: &[&str], query: &[(&str, &str)]) -> Result<Answer, Failure> {
        self.send(Method::GET, path, query, None::<&()>).await
    }

    /// Asks for something to be done.
    pub async fn post(
        &self,
        path: &[&str],
        body: Option<&impl Serialize>,
    ) -> Result<Answer, Failure> {
        self.send(Method::POST, path, &[], body).await
    }

    /// Asks for something to be changed.
    pub async fn patch(&self, path: &[&str], body: &impl Serialize) -> Result<Answer, Failure> {
        self.send(Method::PATCH, path, &[], Some(body)).await
    }

    /// Asks for something to be deleted.
    pub async fn delete(&self, path: &[&str], query: &[(&str, &str)]) -> Result<Answer, Failure> {
        self.send(Method::DELETE, path, query, None::<&()>).await
    }

    /// Asks for a list, page by page, until it ends or there are `limit` records.
    ///
    /// The answer has the form of one page.
    pub async fn list(
        &self,
        kind: &'static str,
        query: &[(&str, &str)],
        limit: Option<usize>,
    ) -> Result<Answer, Failure> {
        let progress = Progress::start(format!("reading {kind}"));
        let mut records = Vec::new();
        let mut cursor: Option<String> = None;
        loop {
            let left = limit.map_or(PAGE_RECORDS, |limit| limit - records.len());
            let size = left.min(PAGE_RECORDS).to_string();
            let mut query = query.to_vec();
            query.push(("limit", &size));
            query.extend(cursor.as_deref().map(|cursor| ("cursor", cursor)));
            let answer = self.get(&["v1", kind], &query).await?;
            let mut page: Value = answer.read()?;
            let next = page["next_cursor"].as_str().map(str::to_owned);
            let Some(Value::Array(found)) = page.get_mut(kind).map(Value::take) else {
                return Err(Failure::Foreign(format!("a list without `{kind}`")));
            };
            if records.is_empty() && next.is_none() {
                return Ok(answer);
            }
            // A page that brings nothing and promises more would go on for ever.
            let stuck = found.is_empty() || next == cursor;
            records.extend(found);
            let enough = limit.is_some_and(|limit| records.len() >= limit);
            if next.is_none() || enough || stuck {
                let whole = serde_json::json!({ kind: records, "next_cursor": next });
                return Ok(Answer(whole.to_string()));
            }
            progress.say(format!("reading {kind}: {}", records.len()));
            cursor = next;
        }
    }

    /// Begins to follow the events, from a cursor if there is one.
    pub async fn events(&self, after: Option<&str>) -> Result<Response, Failure> {
        let mut request = self.http.get(url(&["v1", "events"], &[]));
        request = request
            .header(header::AUTHORIZATION, self.authorization.clone())
            .header(header::ACCEPT, "text/event-stream");
        if let Some(after) = after {
            request = request.header("last-event-id", after);
        }
        let mut pauses = 0;
        loop {
            let again = request.try_clone().expect("it has no body");
            let response = again.send().await.map_err(|error| self.lost(&error))?;
            if response.status() == StatusCode::OK {
                return Ok(response);
            }
            self.pause(refusal(response).await.map_err(|error| self.lost(&error))?, &mut pauses)
                .await?;
        }
    }

    /// Asks how the daemon stands.
    pub async fn status(&self) -> Result<Status, Failure> {
        self.get(&["v1", "status"], &[]).await?.read()
    }

    /// Asks for the members other than this node.
    pub async fn peers(&self) -> Result<Vec<Peer>, Failure> {
        self.get(&["v1", "peers"], &[]).await?.read()
    }

    /// Asks what people call the nodes.
    pub async fn names(&self) -> Result<Names, Failure> {
        let status = self.status().await?;
        let peers = self.peers().await?.into_iter().map(|peer| (peer.node, peer.name));
        Ok(Names::new(peers.chain([(status.node, status.name)])))
    }

    async fn send(
        &self,
        method: Method,
        path: &[&str],
        query: &[(&str, &str)],
        body: Option<&impl Serialize>,
    ) -> Result<Answer, Failure> {
        let _progress = (!self.quiet).then(|| Progress::start("waiting for the daemon"));
        let mut pauses = 0;
        loop {
            let url = url(path, query);
            let mut request = self.http.request(method.clone(), url).timeout(ANSWER_TIMEOUT);
            request = request.header(header::AUTHORIZATION, self.authorization.clone());
            if let Some(body) = body {
                request = request.json(body);
            }
            let response = request.send().await.map_err(|error| self.lost(&error))?;
            if response.status().is_success() {
                return response.text().await.map(Answer).map_err(|error| self.lost(&error));
            }
            self.pause(refusal(response).await.map_err(|error| self.lost(&error))?, &mut pauses)
                .await?;
        }
    }

    /// Pauses where the daemon is asked too much, unless it has told so too often.
    async fn pause(&self, refused: Refused, pauses: &mut u32) -> Result<(), Failure> {
        // Nothing was done of what was asked, so it may be asked again.
        match refused.retry_after {
            Some(pause) if *pauses < self.pauses_max => {
                *pauses += 1;
                tokio::time::sleep(pause).await;
                Ok(())
            }
            _ => Err(refused.into()),
        }
    }

    fn lost(&self, error: &reqwest::Error) -> Failure {
        if error.is_connect() {
            let reason = not_there(&self.data_dir);
            return Failure::Unreachable { data_dir: self.data_dir.clone(), reason };
        }
        if error.is_timeout() {
            return Failure::Interrupted("it took too long".to_owned());
        }
        let mut cause: &dyn std::error::Error = error;
        while let Some(inner) = cause.source() {
            cause = inner;
        }
        Failure::Interrupted(cause.to_string())
    }
}

impl From<Refused> for Failure {
    fn from(refused: Refused) -> Self {
        Self::Refused(refused)
    }
}

/// Waits for a moment where a daemon runs whose socket is not there: it is starting, or makes it
/// again.
fn await_socket(socket: &Path, data_dir: &Path) {
    let until = Instant::now() + SOCKET_WITHIN;
    let is_missing =
        || fs::symlink_metadata(socket).is_err_and(|error| error.kind() == io::ErrorKind::NotFound);
    while is_missing() && daemon::is_running(data_dir) && Instant::now() < until {
        thread::sleep(SOCKET_POLL);
    }
}

/// Says why nobody listens on the socket.
fn not_there(data_dir: &Path) -> String {
    if daemon::is_running(data_dir) {
        "it runs, but nobody answers on its socket; see its log, or restart it".to_owned()
    } else {
        NOT_RUNNING.to_owned()
    }
}

/// Makes sure that the token goes to this user's daemon, or root's: a socket with a long path is
/// below a folder in which anybody may make others.
fn check_owner(socket: &Path, data_dir: &Path) -> Result<(), String> {
    let found = fs::symlink_metadata(socket).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => not_there(data_dir),
        _ => format!("{}: {error}", socket.display()),
    })?;
    let user = rustix::process::geteuid().as_raw();
    if user == 0 || found.uid() == user || found.uid() == 0 {
        Ok(())
    } else {
        Err(format!("{} belongs to another user", socket.display()))
    }
}

/// Makes an address below the socket; the host in it is only a form.
fn url(path: &[&str], query: &[(&str, &str)]) -> Url {
    let mut url = Url::parse("http://localhost").expect("a constant address");
    url.path_segments_mut().expect("http has segments").extend(path);
    if !query.is_empty() {
        url.query_pairs_mut().extend_pairs(query);
    }
    url
}

/// Reads an answer that is not a success.
async fn refusal(response: Response) -> reqwest::Result<Refused> {
    let status = response.status();
    let told = response.headers().get(header::RETRY_AFTER);
    let told = told.and_then(|pause| pause.to_str().ok()?.parse().ok()).map(Duration::from_secs);
    let pause = told.unwrap_or(PAUSE).clamp(PAUSE, PAUSE_MAX);
    let retry_after = (status == StatusCode::TOO_MANY_REQUESTS).then_some(pause);
    Ok(Refused { retry_after, ..refused(status, &response.text().await?) })
}

fn refused(status: StatusCode, body: &str) -> Refused {
    let told = serde_json::from_str::<Refused>(body);
    let mut refused = told.unwrap_or_else(|_| Refused {
        status: status.as_u16(),
        code: "unknown".to_owned(),
        detail: format!("the daemon answered with status {status}"),
        hint: "daemon and command must have the same version".to_owned(),
        candidates: Vec::new(),
        retry_after: None,
    });
    refused.status = status.as_u16();
    refused
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_can_not_leave_its_place_in_the_address() {
        let url = url(&["v1", "sessions", "ses_1@mac mini/../x?y"], &[("search", "a&b=c")]);
        assert_eq!(url.path(), "/v1/sessions/ses_1@mac%20mini%2F..%2Fx%3Fy");
        assert_eq!(url.query(), Some("search=a%26b%3Dc"));
    }

    #[test]
    fn an_answer_that_is_no_problem_json_is_still_a_refusal() {
        let refused = refused(StatusCode::BAD_GATEWAY, "<html>");
        assert_eq!((refused.status, refused.code.as_str()), (502, "unknown"));
    }

    #[test]
    fn a_folder_without_a_daemon_is_not_reachable() {
        let folder = tempfile::tempdir().unwrap();
        let never = Client::open(folder.path()).unwrap_err();
        assert_eq!(never.exit() as u8, 4);
        assert!(never.hint().unwrap().contains("sessionmesh serve"));
        fs::write(folder.path().join(api::TOKEN_FILE), "t0ken\n").unwrap();
        let stopped = Client::open(folder.path()).unwrap_err();
        assert_eq!(stopped.exit() as u8, 4);
        assert_ne!(never.to_string(), stopped.to_string());
    }
}
