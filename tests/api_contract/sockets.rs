//! Owns the claims about clients that are slow, silent or too talkative, over real sockets.
//!
//! Time is virtual: it goes on when nothing else can, so that half a minute of silence takes none.

use std::{net::SocketAddr, time::Duration};

use sessionmesh::{
    api::{
        Via,
        body::{BODY_BYTES_MAX, BODY_SECONDS_MAX},
        listen::HEADER_READ_TIMEOUT,
    },
    replica::diff::Event,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream, UnixStream},
    time::{Instant, sleep},
};

use crate::{
    fake::{TOKEN, session},
    listeners::{Serving, exchange, read_until, serve},
};

/// Longer than a stalled write is waited for: see `STALL_MAX` of the listeners.
const STALL_OVER: Duration = Duration::from_secs(61);

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

/// The two listeners.
const BOTH: [Via; 2] = [Via::Tcp, Via::Unix];

async fn connect(serving: &Serving, via: Via) -> Box<dyn Stream> {
    match via {
        Via::Tcp => Box::new(TcpStream::connect(serving.http).await.unwrap()),
        Via::Unix => Box::new(UnixStream::connect(&serving.socket).await.unwrap()),
    }
}

fn head(method: &str, path: &str, more: &str) -> String {
    format!(
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\n\
         Content-Type: application/json\r\n{more}\r\n"
    )
}

/// Reads until the other side closes, however it does.
async fn rest(stream: &mut (impl AsyncRead + Unpin)) -> Vec<u8> {
    let (mut all, mut buffer) = (Vec::new(), vec![0; 64 << 10]);
    while let Ok(count @ 1..) = stream.read(&mut buffer).await {
        all.extend_from_slice(&buffer[..count]);
    }
    all
}

/// Sends a byte now and then until the other side closes; returns how long it took.
async fn drip(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), text: &str) -> Duration {
    let begun = Instant::now();
    for byte in text.bytes().cycle() {
        let mut answer = [0];
        tokio::select! {
            read = stream.read(&mut answer) => match read {
                Ok(1..) => continue,
                _ => break,
            },
            () = sleep(Duration::from_secs(4)) => {}
        }
        if stream.write_all(&[byte]).await.is_err() {
            break;
        }
    }
    begun.elapsed()
}

#[tokio::test(start_paused = true)]
async fn a_head_that_does_not_end_is_cut_however_it_drips() {
    let folder = tempfile::tempdir().unwrap();
    let serving = serve(folder.path()).await;
    for via in BOTH {
        let mut stream = connect(&serving, via).await;
        stream.write_all(b"GET /v1/view HTTP/1.1\r\nHost: localhost\r\nX: ").await.unwrap();
        let took = drip(&mut stream, "x").await;
        assert!(took.abs_diff(HEADER_READ_TIMEOUT) < Duration::from_secs(9), "{took:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_connection_without_a_request_is_cut_before_the_first_and_after_any() {
    let folder = tempfile::tempdir().unwrap();
    let serving = serve(folder.path()).await;
    for asks in [false, true] {
        for via in BOTH {
            let mut stream = connect(&serving, via).await;
            let mut begun = Instant::now();
            if asks {
                stream.write_all(head("GET", "/v1/view", "").as_bytes()).await.unwrap();
                read_until(&mut stream, "ses_1").await;
                begun = Instant::now();
            }
            let mut left = Vec::new();
            stream.read_to_end(&mut left).await.unwrap();
            let took = begun.elapsed();
            let second = Duration::from_secs(1);
            assert!(took.abs_diff(HEADER_READ_TIMEOUT) < second, "asked: {asks}: {took:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_that_drips_is_given_up_and_the_connection_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let serving = serve(folder.path()).await;
    for via in BOTH {
        let mut stream = connect(&serving, via).await;
        let head = head("POST", "/v1/sessions", "Content-Length: 1000\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        let took = drip(&mut stream, " ").await;
        let due = Duration::from_secs(BODY_SECONDS_MAX);
        assert!(took.abs_diff(due) < Duration::from_secs(9), "{took:?}");
    }
    assert_eq!(serving.world.asked(), Vec::<String>::new());
}

#[tokio::test]
async fn a_body_too_large_is_refused_whether_it_says_so_or_not() {
    let folder = tempfile::tempdir().unwrap();
    let serving = serve(folder.path()).await;
    let chunk = format!("10000\r\n{}\r\n", " ".repeat(0x1_0000));
    for (more, piece) in [
        (format!("Content-Length: {}\r\n", usize::MAX / 2), " ".repeat(0x1_0000)),
        ("Transfer-Encoding: chunked\r\n".to_owned(), chunk),
    ] {
        for via in BOTH {
            let stream = connect(&serving, via).await;
            let (mut reads, mut writes) = tokio::io::split(stream);
            let head = head("POST", "/v1/sessions", &more);
            writes.write_all(head.as_bytes()).await.unwrap();
            let piece = piece.clone();
            let sends = tokio::spawn(async move {
                let mut sent = 0;
                while writes.write_all(piece.as_bytes()).await.is_ok() {
                    sent += piece.len();
                }
                sent
            });
            let answer = String::from_utf8(rest(&mut reads).await).unwrap();
            // Where the refusal did not get through before the connection was reset, it was cut.
            let told = answer.starts_with("HTTP/1.1 413") && answer.contains("body_too_large");
            assert!(told || answer.is_empty(), "{more}: {answer}");
            let sent = sends.await.unwrap();
            // What was under way in the sockets' buffers comes on top.
            assert!(sent < BODY_BYTES_MAX + (32 << 20), "{sent} bytes were taken");
        }
    }
    assert_eq!(serving.world.asked(), Vec::<String>::new());
}

#[tokio::test]
async fn a_head_too_large_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let serving = serve(folder.path()).await;
    for via in BOTH {
        let mut stream = connect(&serving, via).await;
        let long = format!("GET /{} HTTP/1.1\r\nHost: ", "x".repeat(100 << 10));
        // The other side may close while this is being written.
        let _ = stream.write_all(long.as_bytes()).await;
        let answer = String::from_utf8(rest(&mut stream).await).unwrap();
        let told = ["HTTP/1.1 414", "HTTP/1.1 431"].iter().any(|told| answer.starts_with(told));
        assert!(told || answer.is_empty(), "{answer}");
    }
    let stream = TcpStream::connect(serving.http).await.unwrap();
    let nonsense = exchange(stream, "nonsense\r\n\r\n").await;
    assert!(nonsense.starts_with("HTTP/1.1 400"), "{nonsense}");
}

/// Reads an event of any length until the name of its session.
async fn read_past(stream: &mut TcpStream, id: &str) {
    let (mut tail, mut buffer) = (Vec::new(), vec![0; 64 << 10]);
    while !tail.windows(id.len()).any(|part| part == id.as_bytes()) {
        let count = stream.read(&mut buffer).await.unwrap();
        assert!(count > 0, "the stream ended before {id}");
        tail.drain(..tail.len().saturating_sub(id.len()));
        tail.extend_from_slice(&buffer[..count]);
    }
}

/// Connects with a small buffer, so that little is under way.
async fn narrow(address: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(64 << 10).unwrap();
    socket.connect(address).await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_subscriber_that_never_reads_costs_a_bounded_amount_and_is_cut() {
    const EVENTS: usize = 32;
    const EVENT_BYTES: usize = 1 << 20;
    let folder = tempfile::tempdir().unwrap();
    let serving = serve(folder.path()).await;
    let mut idle = narrow(serving.http).await;
    idle.write_all(head("GET", "/v1/events", "").as_bytes()).await.unwrap();
    // It is there once its first event is.
    read_until(&mut idle, "ses_1").await;
    assert_eq!(serving.world.hub.subscribers(), 1);
    let mut reads = TcpStream::connect(serving.http).await.unwrap();
    reads.write_all(head("GET", "/v1/events", "").as_bytes()).await.unwrap();
    read_until(&mut reads, "ses_1").await;
    for number in 0..EVENTS {
        let id = format!("ses_large_{number}");
        let large = sessionmesh::replica::record::Session {
            title: Some("x".repeat(EVENT_BYTES)),
            ..session(&id)
        };
        serving.world.publish(vec![Event::SessionCreated { session: large.into() }]);
        // Whoever reads is told each, and does not wait for the other.
        read_past(&mut reads, &id).await;
    }
    let begun = Instant::now();
    while serving.world.hub.subscribers() > 1 {
        assert!(begun.elapsed() < STALL_OVER, "it still has its place");
        sleep(Duration::from_secs(1)).await;
        // Nobody but the idle one is behind.
        let mut ping = [0; 16];
        let _ = reads.try_read(&mut ping);
    }
    let got = rest(&mut idle).await.len();
    assert!(got < EVENTS * EVENT_BYTES / 2, "{got} bytes waited for one that never reads");
}
