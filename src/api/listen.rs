//! Owns the two places where clients come in: loopback TCP and a Unix socket.
//!
//! Must not know routes. Invariant: nothing but this machine reaches the one, and nobody but this
//! user (and root) the other.

use std::{
    fs, io,
    net::SocketAddr,
    os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    pin::pin,
    sync::Arc,
    time::Duration,
};

use axum::{Router, body::Body, response::IntoResponse as _};
use hyper::{body::Incoming, server::conn::http1};
use hyper_util::rt::{TokioIo, TokioTimer};
use sha2::{Digest as _, Sha256};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, UnixListener},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::MissedTickBehavior,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::ServiceExt as _;

use super::{Api, Via, patience::Patient, problem::Error};

/// The name of the socket in the data folder.
pub const SOCKET_NAME: &str = "sessionmesh.sock";
/// Longest path of a socket, bytes: `sun_path` has 108 on Linux and 104 on macOS, with the zero.
pub const SOCKET_PATH_BYTES_MAX: usize = 100;
/// Most connections at a time on each of the two listeners: with a file descriptor each, both leave
/// a good part of the common 1,024 to peers and the store.
pub const CONNECTIONS_MAX: usize = 384;
/// Most connections at a time on each listener, beyond those, that are told that there are too many.
const TURNED_AWAY_MAX: usize = 16;
/// How long one of them may take to ask for what it won't get.
const TURN_AWAY_WITHIN: Duration = Duration::from_secs(2);
/// How long a client may take over a request's head, or keep a connection without one.
pub const HEADER_READ_TIMEOUT: Duration = Duration::from_secs(30);
/// Most bytes of a request's head, and of what is read ahead.
const READ_BUFFER_BYTES: usize = 64 << 10;
/// How long requests may go on after a stop is asked for.
const STOP_GRACE: Duration = Duration::from_secs(5);
/// How often it is seen whether the socket is still there.
const SOCKET_LOOK: Duration = Duration::from_secs(1);
/// How long to wait after `accept` fails, which it does when file descriptors run out.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// Why the interface can't be offered.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Others could reach the address.
    #[error(
        "{0} is not a loopback address, and the interface is not encrypted: use --http \
         127.0.0.1:{port} and come from another machine through `ssh -L {port}:127.0.0.1:{port}`",
        port = .0.port()
    )]
    NotLoopback(SocketAddr),
    /// The address can't be bound.
    #[error("{address} can't be bound: {error}; choose another with --http 127.0.0.1:0")]
    Tcp {
        /// What was to be bound.
        address: SocketAddr,
        /// Why not.
        error: io::Error,
    },
    /// The socket can't be made.
    #[error("{} can't be made: {error}", path.display())]
    Socket {
        /// Where it was to be.
        path: PathBuf,
        /// Why not.
        error: io::Error,
    },
    /// Something else than a socket is in its place.
    #[error("{} is in the way: it is not a socket; move it elsewhere", .0.display())]
    NotASocket(PathBuf),
    /// Another daemon answers on the socket.
    #[error("{} is in use by another daemon; stop that one first", .0.display())]
    SocketInUse(PathBuf),
    /// The folder for sockets with long paths is someone else's.
    #[error("{} is not a folder of this user alone (mode 0700); remove it", .0.display())]
    UnsafeFolder(PathBuf),
}

/// Returns where the socket of a data folder is; daemon and clients agree on it.
///
/// It is in the folder, or, where that path is too long for a socket, in a folder of this user
/// under `/tmp`, whose owner and mode a client should check.
pub fn socket_path(data_dir: &Path) -> PathBuf {
    let path = data_dir.join(SOCKET_NAME);
    if path.as_os_str().len() <= SOCKET_PATH_BYTES_MAX {
        return path;
    }
    let hash: [u8; 32] = Sha256::digest(path.as_os_str().as_encoded_bytes()).into();
    let name = data_encoding::HEXLOWER.encode(&hash[..8]);
    let user = rustix::process::geteuid().as_raw();
    PathBuf::from(format!("/tmp/sessionmesh-{user}/{name}.sock"))
}

/// The two listeners, bound.
#[derive(Debug)]
pub struct Listeners {
    tcp: TcpListener,
    http: SocketAddr,
    unix: UnixListener,
    socket: PathBuf,
}

impl Listeners {
    /// Binds a loopback address (port 0 picks a free one) and the socket of a data folder.
    ///
    /// The data folder must be this user's alone: the socket is there for a moment before its own
    /// mode is set. A socket that nobody answers on is replaced.
    pub async fn bind(http: SocketAddr, data_dir: &Path) -> Result<Self, BindError> {
        if !http.ip().is_loopback() {
            return Err(BindError::NotLoopback(http));
        }
        let tcp_error = |error| BindError::Tcp { address: http, error };
        let tcp = TcpListener::bind(http).await.map_err(tcp_error)?;
        let http = tcp.local_addr().map_err(tcp_error)?;
        let socket = absolute(socket_path(data_dir))?;
        if !socket.starts_with(absolute(data_dir.to_owned())?) {
            private_folder(socket.parent().unwrap_or(data_dir))?;
        }
        remove_stale(&socket).await?;
        let bound = bind_socket(&socket);
        let unix = bound.map_err(|error| BindError::Socket { path: socket.clone(), error })?;
        Ok(Self { tcp, http, unix, socket })
    }

    /// Returns the TCP address, with the port that was picked.
    pub fn http(&self) -> SocketAddr {
        self.http
    }

    /// Returns where the Unix socket is.
    pub fn socket(&self) -> &Path {
        &self.socket
    }
}

fn absolute(path: PathBuf) -> Result<PathBuf, BindError> {
    std::path::absolute(&path).map_err(|error| BindError::Socket { path, error })
}

/// Makes a folder of this user alone, or sees that it is one: others may write to its parent.
fn private_folder(folder: &Path) -> Result<(), BindError> {
    use fs::DirBuilder;
    use std::os::unix::fs::DirBuilderExt as _;
    let failed = |error| BindError::Socket { path: folder.to_owned(), error };
    match DirBuilder::new().mode(0o700).create(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(failed(error)),
        _ => {}
    }
    let found = fs::symlink_metadata(folder).map_err(failed)?;
    let own = found.uid() == rustix::process::geteuid().as_raw();
    if found.is_dir() && own && found.mode() & 0o077 == 0 {
        Ok(())
    } else {
        Err(BindError::UnsafeFolder(folder.to_owned()))
    }
}

/// Makes a socket of this user alone.
fn bind_socket(path: &Path) -> io::Result<UnixListener> {
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Tells which file a path leads to, if it leads to one.
fn identity(path: &Path) -> Option<(u64, u64)> {
    fs::symlink_metadata(path).ok().map(|found| (found.dev(), found.ino()))
}

async fn remove_stale(socket: &Path) -> Result<(), BindError> {
    let failed = |error| BindError::Socket { path: socket.to_owned(), error };
    match fs::symlink_metadata(socket) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
        Ok(found) if !found.file_type().is_socket() => {
            return Err(BindError::NotASocket(socket.to_owned()));
        }
        Ok(_) => {}
    }
    if tokio::net::UnixStream::connect(socket).await.is_ok() {
        return Err(BindError::SocketInUse(socket.to_owned()));
    }
    fs::remove_file(socket).map_err(failed)
}

impl Api {
    /// Answers clients on both listeners until `stop`, then ends event streams, lets requests
    /// finish for a few seconds, and removes the socket.
    pub async fn serve(&self, listeners: Listeners, stop: CancellationToken) {
        let Listeners { tcp, unix, socket, .. } = listeners;
        let server = Server { router: self.router(), stop, connections: TaskTracker::new() };
        let ((), own) = tokio::join!(server.accept_tcp(tcp), server.accept_unix(unix, &socket));
        self.shared.handle.hub().close();
        server.connections.close();
        server.connections.wait().await;
        // What others have put in its place is theirs.
        if own.is_some()
            && own == identity(&socket)
            && let Err(error) = fs::remove_file(&socket)
        {
            tracing::debug!(path = %socket.display(), %error, "could not remove the socket");
        }
    }
}

/// How many connections a listener has, and how many it turns away.
struct Places {
    served: Arc<Semaphore>,
    turned_away: Arc<Semaphore>,
}

/// Is one connection of a listener.
struct Place {
    crowded: bool,
    _permit: OwnedSemaphorePermit,
}

impl Places {
    fn new() -> Self {
        Self {
            served: Arc::new(Semaphore::new(CONNECTIONS_MAX)),
            turned_away: Arc::new(Semaphore::new(TURNED_AWAY_MAX)),
        }
    }

    /// Takes a place, or one where it is said that there is none; `None` if those are taken, too.
    fn take(&self) -> Option<Place> {
        let take = |places: &Arc<Semaphore>, crowded| {
            let permit = places.clone().try_acquire_owned().ok()?;
            Some(Place { crowded, _permit: permit })
        };
        take(&self.served, false).or_else(|| take(&self.turned_away, true))
    }
}

struct Server {
    router: Router,
    stop: CancellationToken,
    connections: TaskTracker,
}

impl Server {
    async fn accept_tcp(&self, listener: TcpListener) {
        let places = Places::new();
        while let Some(accepted) = self.stop.run_until_cancelled(listener.accept()).await {
            match accepted {
                Ok((stream, _)) => {
                    let Some(place) = places.take() else { continue };
                    // A diff is small and is to leave at once.
                    if let Err(error) = stream.set_nodelay(true) {
                        tracing::debug!(%error, "could not switch Nagle's algorithm off");
                    }
                    self.serve(stream, Via::Tcp, place);
                }
                Err(error) => accept_failed(&error).await,
            }
        }
    }

    /// Accepts clients on the socket, and makes it again where it was removed: cleaners of temporary
    /// folders do that, and no client would find the daemon. Returns which file it is at the end.
    async fn accept_unix(&self, mut listener: UnixListener, socket: &Path) -> Option<(u64, u64)> {
        let places = Places::new();
        let own = rustix::process::geteuid().as_raw();
        let mut file = identity(socket);
        let mut look = tokio::time::interval(SOCKET_LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let accepted = tokio::select! {
                biased;
                () = self.stop.cancelled() => return file,
                accepted = listener.accept() => accepted,
                _ = look.tick() => {
                    if identity(socket).is_none() {
                        match remake(socket) {
                            Ok(again) => {
                                tracing::warn!(path = %socket.display(), "the socket was removed and is made again");
                                (listener, file) = (again, identity(socket));
                            }
                            Err(error) => {
                                tracing::warn!(path = %socket.display(), %error, "the socket was removed and can't be made again");
                            }
                        }
                    }
                    continue;
                }
            };
            match accepted {
                Ok((stream, _)) => match stream.peer_cred() {
                    Ok(peer) if peer.uid() == own || peer.uid() == 0 => {
                        let Some(place) = places.take() else { continue };
                        self.serve(stream, Via::Unix, place);
                    }
                    Ok(peer) => tracing::warn!(uid = peer.uid(), "refused another user"),
                    Err(error) => tracing::warn!(%error, "refused a client without credentials"),
                },
                Err(error) => accept_failed(&error).await,
            }
        }
    }

    fn serve<S>(&self, stream: S, via: Via, place: Place)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (router, stop) = (self.router.clone(), self.stop.clone());
        let crowded = place.crowded;
        let service = hyper::service::service_fn(move |request: hyper::Request<Incoming>| {
            let mut request = request.map(Body::new);
            request.extensions_mut().insert(via);
            let answer = (!crowded).then(|| router.clone().oneshot(request));
            async move {
                match answer {
                    Some(answer) => answer.await,
                    // Whoever it is: that this machine is busy is no secret.
                    None => Ok(Error::TooManyConnections.into_response()),
                }
            }
        });
        self.connections.spawn(async move {
            let _place = place;
            let patience = if crowded { TURN_AWAY_WITHIN } else { HEADER_READ_TIMEOUT };
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(patience)
                .keep_alive(!crowded)
                .max_buf_size(READ_BUFFER_BYTES)
                .serve_connection(TokioIo::new(Patient::new(stream)), service);
            let mut connection = pin!(connection);
            let ended = match stop.run_until_cancelled(connection.as_mut()).await {
                Some(ended) => ended,
                None => {
                    connection.as_mut().graceful_shutdown();
                    tokio::time::timeout(STOP_GRACE, connection).await.unwrap_or(Ok(()))
                }
            };
            if let Err(error) = ended {
                tracing::debug!(%error, "a client's connection broke");
            }
        });
    }
}

/// Makes the socket again, and the folder for it where that went, too.
fn remake(socket: &Path) -> io::Result<UnixListener> {
    match socket.parent() {
        Some(folder) if !folder.exists() => private_folder(folder).map_err(io::Error::other)?,
        _ => {}
    }
    bind_socket(socket)
}

async fn accept_failed(error: &io::Error) {
    tracing::warn!(%error, "could not accept a client");
    tokio::time::sleep(ACCEPT_RETRY).await;
}
