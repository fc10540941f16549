//! Owns real daemons within the bench's process, each on a runtime of its own as in a process of
//! its own, so that moments at both can be read from one clock.
//!
//! Must not reach past a daemon's handle. Invariant: a node that is dropped has stopped.

use std::{net::UdpSocket, path::Path, sync::Arc, time::Duration};

use sessionmesh::{
    agent::opencode::Client,
    daemon::{
        Ready, Settings,
        handle::Handle,
        hub::{Hub, Item},
    },
    replica::{command::Command, ids::NodeId},
};
use tokio::{
    runtime::Runtime,
    sync::{mpsc, oneshot},
    task::JoinHandle,
    time::timeout,
};

/// How long anything may take before a bench gives up.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// A daemon.
pub struct Node {
    pub ready: Ready,
    pub handle: Handle,
    runtime: Option<Runtime>,
    stop: Option<oneshot::Sender<()>>,
    ended: Option<JoinHandle<()>>,
}

impl Node {
    /// Starts the daemon of a data folder and waits until it is ready.
    pub fn start(folder: &Path, listen: &str) -> Self {
        Self::start_beside(folder, listen, Vec::new())
    }

    /// Starts one that is bridged to agents' servers.
    pub fn start_beside(folder: &Path, listen: &str, opencode: Vec<Client>) -> Self {
        let settings = Settings {
            data_dir: folder.to_owned(),
            listen: listen.parse().expect("it is an address"),
            advertise: [].into(),
            http: "127.0.0.1:0".parse().expect("it is an address"),
            name: folder.file_name().expect("it has a name").to_string_lossy().into_owned(),
            join: None,
            undo_window: Duration::from_secs(3_600),
            keep_removed: Duration::ZERO,
            trash_max: 0,
            start_grace: Duration::ZERO,
            opencode,
            bridge_timing: Default::default(),
            teardown_roots: Vec::new(),
        };
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("there are threads");
        let (stop, stopped) = oneshot::channel::<()>();
        let (told, ready) = std::sync::mpsc::channel();
        let ended = runtime.spawn(async move {
            let ready = move |ready: &Ready, handle: &Handle| {
                let _ = told.send((ready.clone(), handle.clone()));
            };
            let stopped = async {
                let _ = stopped.await;
            };
            sessionmesh::daemon::run(settings, ready, stopped).await.expect("the daemon runs");
        });
        let (ready, handle) = ready.recv().expect("the daemon gets ready");
        Self { ready, handle, runtime: Some(runtime), stop: Some(stop), ended: Some(ended) }
    }

    /// Runs something on the node's own threads.
    pub fn block_on<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> T {
        let runtime = self.runtime.as_ref().expect("it runs");
        let done = runtime.spawn(work);
        runtime.block_on(done).expect("nothing panics")
    }

    /// Runs something beside the daemon, on its threads.
    pub fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.runtime.as_ref().expect("it runs").spawn(work);
    }

    /// Asks for something and waits until it is durable.
    pub fn command(&self, command: Command) {
        let handle = self.handle.clone();
        self.block_on(async move { handle.command(command).await }).expect("it is carried out");
    }

    /// Waits until it and a peer are linked and hold the same.
    pub fn until_in_sync(&self, peer: NodeId) {
        let handle = self.handle.clone();
        let synced = async move {
            loop {
                let peers = handle.peers().await.expect("the daemon runs");
                if peers.iter().any(|it| it.node == peer && it.connected && it.in_sync) {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        self.block_on(async { timeout(PATIENCE, synced).await }).expect("they get in sync");
    }

    /// Follows the stream of diffs from here on; each comes with the moment it was seen.
    pub fn follow(&self) -> mpsc::UnboundedReceiver<(std::time::Instant, Arc<str>)> {
        let hub: Arc<Hub> = self.handle.hub().clone();
        let (sender, receiver) = mpsc::unbounded_channel();
        let mut subscription = hub.subscribe(Some(hub.cursor()));
        self.spawn(async move {
            while let Some(item) = subscription.next().await {
                let at = std::time::Instant::now();
                let Item::Diff { body, .. } = item else { panic!("the stream began anew") };
                if sender.send((at, body)).is_err() {
                    return;
                }
            }
        });
        receiver
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(runtime) = self.runtime.take() {
            // Whatever was acknowledged becomes durable first.
            let ended = self.ended.take().expect("it is dropped once");
            let _ = runtime.block_on(async { timeout(Duration::from_secs(10), ended).await });
            runtime.shutdown_timeout(Duration::from_secs(10));
        }
    }
}

/// Returns a loopback address of which the port was free a moment ago.
pub fn free_address() -> String {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a port is free");
    socket.local_addr().expect("it is bound").to_string()
}
