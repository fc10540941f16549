//! Owns the claims about the two listeners, over real sockets.

use std::{
    net::SocketAddr,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use sessionmesh::{
    api::{BindError, Listeners, listen::CONNECTIONS_MAX, socket_path},
    replica::diff::Event,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpStream, UnixStream},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

use crate::fake::{TOKEN, World, cursor, session};

const ANY_PORT: &str = "127.0.0.1:0";

pub struct Serving {
    pub world: World,
    pub http: SocketAddr,
    pub socket: PathBuf,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

pub async fn serve(data_dir: &Path) -> Serving {
    let world = World::new(vec![session("ses_1")], vec![]);
    let listeners = Listeners::bind(ANY_PORT.parse().unwrap(), data_dir).await.unwrap();
    let (http, socket) = (listeners.http(), listeners.socket().to_owned());
    let stop = CancellationToken::new();
    let (api, token) = (world.api.clone(), stop.clone());
    let task = tokio::spawn(async move { api.serve(listeners, token).await });
    Serving { world, http, socket, stop, task }
}

/// Sends a request as text and returns all that comes until the other side closes.
pub async fn exchange(mut stream: impl AsyncRead + AsyncWrite + Unpin, request: &str) -> String {
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

fn view_request(host: &str) -> String {
    format!(
        "GET /v1/view HTTP/1.1\r\n{host}Authorization: Bearer {TOKEN}\r\nConnection: close\r\n\r\n"
    )
}

pub async fn read_until(stream: &mut (impl AsyncRead + Unpin), sought: &str) -> String {
    let mut text = String::new();
    let mut buffer = [0; 4_096];
    while !text.contains(sought) {
        let count = stream.read(&mut buffer).await.unwrap();
        assert!(count > 0, "the stream ended before {sought:?}: {text}");
        text.push_str(std::str::from_utf8(&buffer[..count]).unwrap());
    }
    text
}

#[tokio::test]
async fn both_listeners_answer_and_only_tcp_asks_for_a_loopback_host() {
    let folder = tempfile::tempdir().unwrap();
    let serving = serve(folder.path()).await;
    assert_eq!(serving.socket, folder.path().join("sessionmesh.sock"));
    let mode = std::fs::metadata(&serving.socket).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    for (host, tcp) in [
        ("Host: localhost\r\n", "HTTP/1.1 200"),
        ("Host: evil.example\r\n", "HTTP/1.1 403"),
        ("", "HTTP/1.1 403"),
        ("Host: localhost\r\nHost: evil.example\r\n", "HTTP/1.1 403"),
    ] {
        let stream = TcpStream::connect(serving.http).await.unwrap();
        let answer = exchange(stream, &view_request(host)).await;
        assert!(answer.starts_with(tcp), "{host:?}: {answer}");
    }
    for host in ["Host: localhost\r\n", ""] {
        let stream = UnixStream::connect(&serving.socket).await.unwrap();
        let answer = exchange(stream, &view_request(host)).await;
        assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("ses_1"), "{answer}");
    }
    serving.stop.cancel();
    serving.task.await.unwrap();
}

#[tokio::test]
async fn a_stop_ends_streams_after_their_last_event_and_removes_the_socket() {
    let folder = tempfile::tempdir().unwrap();
    let serving = serve(folder.path()).await;
    let mut stream = TcpStream::connect(serving.http).await.unwrap();
    let request = format!(
        "GET /v1/events?after={} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\n\r\n",
        cursor(0)
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    // The head comes at once, though there is no event yet.
    read_until(&mut stream, "\r\n\r\n").await;
    let created = Event::SessionCreated { session: session("ses_2").into() };
    serving.world.publish(vec![created]);
    read_until(&mut stream, "ses_2").await;
    serving.stop.cancel();
    let mut rest = String::new();
    stream.read_to_string(&mut rest).await.unwrap();
    assert!(rest.ends_with("0\r\n\r\n"), "the stream did not end properly: {rest:?}");
    serving.task.await.unwrap();
    assert!(!serving.socket.exists());
    assert!(TcpStream::connect(serving.http).await.is_err());
}

#[tokio::test]
async fn an_address_that_others_could_reach_is_refused_with_the_remedy() {
    let folder = tempfile::tempdir().unwrap();
    for address in ["0.0.0.0:7178", "[::]:7178", "192.0.2.1:7178"] {
        let refused = Listeners::bind(address.parse().unwrap(), folder.path()).await.unwrap_err();
        assert!(matches!(refused, BindError::NotLoopback(_)));
        let text = refused.to_string();
        assert!(text.contains("--http 127.0.0.1:7178") && text.contains("ssh -L"), "{text}");
    }
    assert!(!folder.path().join("sessionmesh.sock").exists());
}

#[tokio::test]
async fn a_stale_socket_is_replaced_and_nothing_else_is() {
    let folder = tempfile::tempdir().unwrap();
    let http: SocketAddr = ANY_PORT.parse().unwrap();
    let first = Listeners::bind(http, folder.path()).await.unwrap();
    let in_use = Listeners::bind(http, folder.path()).await.unwrap_err();
    assert!(matches!(in_use, BindError::SocketInUse(_)), "{in_use}");
    // A daemon that was killed leaves its socket behind.
    drop(first);
    assert!(folder.path().join("sessionmesh.sock").exists());
    let second = Listeners::bind(http, folder.path()).await.unwrap();
    drop(second);
    std::fs::remove_file(folder.path().join("sessionmesh.sock")).unwrap();
    std::fs::write(folder.path().join("sessionmesh.sock"), "mine").unwrap();
    let in_the_way = Listeners::bind(http, folder.path()).await.unwrap_err();
    assert!(matches!(in_the_way, BindError::NotASocket(_)), "{in_the_way}");
    assert_eq!(std::fs::read(folder.path().join("sessionmesh.sock")).unwrap(), b"mine");
}

#[tokio::test]
async fn a_data_folder_with_a_long_path_has_its_socket_in_a_folder_of_the_user_alone() {
    let folder = tempfile::tempdir().unwrap();
    let long = folder.path().join("x".repeat(120));
    std::fs::create_dir(&long).unwrap();
    let serving = serve(&long).await;
    assert_eq!(serving.socket, socket_path(&long));
    assert!(!serving.socket.starts_with(folder.path()));
    let parent = std::fs::metadata(serving.socket.parent().unwrap()).unwrap();
    assert_eq!(parent.permissions().mode() & 0o777, 0o700);
    let stream = UnixStream::connect(&serving.socket).await.unwrap();
    assert!(exchange(stream, &view_request("")).await.starts_with("HTTP/1.1 200"));
    serving.stop.cancel();
    serving.task.await.unwrap();
    assert!(!serving.socket.exists());
}

/// Both ends of each connection are in this process.
fn allow_many_files() {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let raised = rustix::process::Rlimit { current: limit.maximum, maximum: limit.maximum };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, raised).unwrap();
}

#[tokio::test]
async fn who_comes_when_all_places_are_taken_is_told_so_and_a_place_that_is_left_is_free() {
    allow_many_files();
    let folder = tempfile::tempdir().unwrap();
    let serving = serve(folder.path()).await;
    let mut held = Vec::new();
    for _ in 0..CONNECTIONS_MAX {
        let mut stream = UnixStream::connect(&serving.socket).await.unwrap();
        // It has its place once it was answered.
        stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
        read_until(&mut stream, "ok\n").await;
        held.push(stream);
    }
    let stream = UnixStream::connect(&serving.socket).await.unwrap();
    let answer = exchange(stream, &view_request("")).await;
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
    assert!(answer.contains("too_many_connections"), "{answer}");
    // The other listener has places of its own.
    let stream = TcpStream::connect(serving.http).await.unwrap();
    let answer = exchange(stream, &view_request("Host: localhost\r\n")).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    held.pop();
    loop {
        let stream = UnixStream::connect(&serving.socket).await.unwrap();
        let answer = exchange(stream, &view_request("")).await;
        if answer.starts_with("HTTP/1.1 200") {
            break;
        }
        assert!(answer.contains("too_many_connections"), "{answer}");
    }
    serving.stop.cancel();
    drop(held);
    serving.task.await.unwrap();
}
