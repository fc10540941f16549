//! Owns the nodes of a run: real daemons within this process, or running ones elsewhere.
//!
//! Must not drive load. Invariant: what this starts has stopped when it is dropped, and of what it
//! did not start it changes nothing for good but what [`Nodes::clear`] takes back.

use std::{
    collections::BTreeSet,
    io,
    net::{SocketAddr, UdpSocket},
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::{Value, json};
use tokio::{sync::oneshot, task::JoinHandle, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{
    Topology,
    relay::{Cuts, Relay, Weather},
};
use crate::{
    cli::{client::Client, failure::Failure},
    daemon::{self, Ready, Settings, handle::Handle},
};

/// How often a node is looked at that is waited for.
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// How long nodes may take to show the same, or to be linked.
const PATIENCE: Duration = Duration::from_secs(120);
/// How long a delete can be undone: longer than any run, so that nothing is purged during one.
const UNDO_WINDOW: Duration = Duration::from_secs(24 * 3_600);

/// One node.
pub struct Node {
    /// Its key, as the API writes it.
    pub key: String,
    pub client: Client,
    /// The workspace that the run's sessions on it are in.
    pub workspace: Option<String>,
    own: Option<Own>,
}

/// What there is of a node that runs within this process.
struct Own {
    quic: SocketAddr,
    stop: CancellationToken,
    running: JoinHandle<()>,
    _relay: Option<Relay>,
}

/// All nodes of a run.
pub struct Nodes {
    pub all: Vec<Node>,
    cuts: Cuts,
    _folder: Option<Folder>,
}

/// A folder that is gone with the run.
struct Folder(PathBuf);

impl Folder {
    fn make() -> io::Result<Self> {
        let name = format!("sessionmesh-bench-{}-{:08x}", std::process::id(), fastrand::u32(..));
        let path = std::env::temp_dir().join(name);
        std::fs::DirBuilder::new().mode(0o700).create(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            tracing::warn!(path = %self.0.display(), %error, "a folder is left behind");
        }
    }
}

fn system(what: &'static str) -> impl Fn(io::Error) -> Failure {
    move |error| Failure::System { what, error }
}

impl Nodes {
    /// Starts so many nodes in one fleet, linked as asked, with a relay before each if the weather
    /// is to matter or links are to be cut.
    pub async fn start(
        count: usize,
        topology: Topology,
        weather: Weather,
        relayed: bool,
    ) -> Result<Self, Failure> {
        let folder = Folder::make().map_err(system("a folder for the nodes can't be made"))?;
        let mut nodes = Self { all: Vec::new(), cuts: Cuts::default(), _folder: None };
        for n in 0..count {
            let dir = folder.0.join(format!("node-{n}"));
            let relayed = relayed.then_some(weather);
            let node = start(&dir, n, relayed, nodes.cuts.clone()).await?;
            if let Some(first) = nodes.all.first() {
                let invited: Value = first
                    .client
                    .post(&["v1", "invites"], Some(&json!({ "role": "member" })))
                    .await?
                    .read()?;
                let ticket = json!({ "ticket": invited["ticket"] });
                node.client.post(&["v1", "join"], Some(&ticket)).await?;
            }
            nodes.all.push(node);
        }
        nodes._folder = Some(folder);
        nodes.until_linked(|_, _| true).await?;
        for (a, b) in pairs(count).filter(|(a, b)| !topology.links(*a, *b)) {
            nodes.pause(a, b, "pause").await?;
        }
        nodes.until_linked(|a, b| topology.links(a, b)).await?;
        Ok(nodes)
    }

    /// Takes daemons that run already, by their data folders.
    pub async fn remote(folders: &[PathBuf]) -> Result<Self, Failure> {
        let mut all = Vec::new();
        for folder in folders {
            let client = Client::open(folder)?.quiet();
            let status = client.status().await?;
            let key = status.node.to_string();
            all.push(Node { key, client, workspace: None, own: None });
        }
        let nodes = Self { all, cuts: Cuts::default(), _folder: None };
        nodes.until_linked(|_, _| false).await?;
        Ok(nodes)
    }

    /// Makes the workspaces and sessions of the run; returns the sessions' ids.
    pub async fn fill(
        &mut self,
        run: &str,
        hosts: usize,
        sessions: usize,
        mut say: impl FnMut(usize),
    ) -> Result<Vec<String>, Failure> {
        /// Most records in one request, as `sessionmesh import` has it.
        const BATCH_RECORDS: usize = 500;
        let mut ids = Vec::new();
        for (n, node) in self.all.iter_mut().take(hosts).enumerate() {
            let made: Value = node
                .client
                .post(
                    &["v1", "workspaces"],
                    Some(&json!({ "name": format!("bench {run}"), "kind": "directory" })),
                )
                .await?
                .read()?;
            let workspace = made["id"].as_str().unwrap_or_default().to_owned();
            let own: Vec<String> = (n..sessions)
                .step_by(hosts)
                .map(|session| format!("ses_bench_{run}_{session}"))
                .collect();
            for batch in own.chunks(BATCH_RECORDS) {
                let record = |id: &String| {
                    json!({
                        "id": id, "workspace_id": workspace, "title": format!("session {id}"),
                        "directory": "/home/dev/work", "created_at": 0, "updated_at": 0,
                    })
                };
                let sessions: Vec<Value> = batch.iter().map(record).collect();
                let import = json!({ "sessions": sessions });
                node.client.post(&["v1", "import"], Some(&import)).await?;
                say(ids.len());
                ids.extend_from_slice(batch);
            }
            node.workspace = Some(workspace);
        }
        Ok(ids)
    }

    /// Deletes what [`Nodes::fill`], and the load, have made on daemons that live on.
    pub async fn clear(&self) -> Result<(), Failure> {
        for node in self.all.iter().filter(|node| node.own.is_none()) {
            if let Some(workspace) = &node.workspace {
                let path = ["v1", "workspaces", &format!("{workspace}@{}", node.key)];
                node.client.delete(&path, &[]).await?;
            }
        }
        Ok(())
    }

    /// Waits until all show the same; returns when that was seen.
    pub async fn until_same(&self) -> Result<Instant, Failure> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let mut digests = BTreeSet::new();
            for node in &self.all {
                digests.insert(node.client.status().await?.digest.to_string());
            }
            if digests.len() == 1 {
                return Ok(Instant::now());
            }
            look_again(deadline, "the nodes do not come to show the same").await?;
        }
    }

    /// Waits until all pairs that are to have a link have one, and no others; returns when that
    /// was seen. Of daemons that run already, only asks that each has some link.
    async fn until_linked(
        &self,
        linked: impl Fn(usize, usize) -> bool,
    ) -> Result<Instant, Failure> {
        let deadline = Instant::now() + PATIENCE;
        for (a, node) in self.all.iter().enumerate() {
            loop {
                let peers = node.client.peers().await?;
                let good = if node.own.is_some() {
                    (0..self.all.len()).filter(|b| *b != a).all(|b| {
                        let key = &self.all[b].key;
                        let it = peers.iter().find(|peer| peer.node.to_string() == *key);
                        it.is_some_and(|it| it.connected == linked(a, b))
                    })
                } else {
                    self.all.len() == 1 || peers.iter().any(|peer| peer.connected)
                };
                if good {
                    break;
                }
                look_again(deadline, "the nodes do not come to be linked").await?;
            }
        }
        Ok(Instant::now())
    }

    /// Cuts the last node off from all others.
    pub async fn cut(&self) -> Result<(), Failure> {
        match self.all.last().and_then(|node| node.own.as_ref()) {
            Some(own) => self.cuts.cut(own.quic),
            None => self.pause_all(self.all.len() - 1, "pause").await?,
        }
        Ok(())
    }

    /// Lets it be reached again.
    pub async fn heal(&self) -> Result<(), Failure> {
        match self.all.last().and_then(|node| node.own.as_ref()) {
            Some(own) => self.cuts.heal(own.quic),
            None => self.pause_all(self.all.len() - 1, "resume").await?,
        }
        Ok(())
    }

    /// Has the first node lose all its links at once; returns how long it then takes until it has
    /// them again and holds what its peers hold.
    pub async fn storm(&self) -> Result<Duration, Failure> {
        let first = &self.all[0];
        let wanted: Vec<_> = first.client.peers().await?;
        let wanted: Vec<_> = wanted.iter().filter(|p| p.connected).map(|p| p.node).collect();
        let deadline = Instant::now() + PATIENCE;
        self.pause_some(0, &wanted, "pause").await?;
        while first.client.peers().await?.iter().any(|peer| peer.connected) {
            look_again(deadline, "the links do not end").await?;
        }
        let begun = Instant::now();
        self.pause_some(0, &wanted, "resume").await?;
        loop {
            let peers = first.client.peers().await?;
            let back = |peer: &&daemon::handle::Peer| peer.connected && peer.in_sync;
            if peers.iter().filter(back).filter(|p| wanted.contains(&p.node)).count()
                == wanted.len()
            {
                return Ok(begun.elapsed());
            }
            look_again(deadline, "the links do not come back").await?;
        }
    }

    async fn pause_all(&self, node: usize, what: &str) -> Result<(), Failure> {
        for other in (0..self.all.len()).filter(|other| *other != node) {
            self.pause(node, other, what).await?;
        }
        Ok(())
    }

    async fn pause_some(
        &self,
        node: usize,
        others: &[crate::replica::ids::NodeId],
        what: &str,
    ) -> Result<(), Failure> {
        for other in others {
            let path = ["v1", "peers", &other.to_string(), what];
            self.all[node].client.post(&path, None::<&()>).await?;
        }
        Ok(())
    }

    async fn pause(&self, node: usize, other: usize, what: &str) -> Result<(), Failure> {
        let path = ["v1", "peers", &self.all[other].key, what];
        self.all[node].client.post(&path, None::<&()>).await?;
        Ok(())
    }

    /// Returns how many bytes all nodes have sent over links, and how often they were repaired.
    pub async fn sent(&self) -> Result<(u64, u64), Failure> {
        let (mut bytes, mut repairs) = (0, 0);
        for node in &self.all {
            let status = node.client.status().await?;
            bytes += status.sent_bytes;
            repairs += status.sync_repairs_total;
        }
        Ok((bytes, repairs))
    }

    /// Returns the resident memory in MB: of each daemon elsewhere, or of this process.
    pub async fn memory_mb(&self) -> Result<Vec<f64>, Failure> {
        let mut told = Vec::new();
        for node in &self.all {
            let metrics = node.client.get(&["metrics"], &[]).await?.0;
            let line =
                metrics.lines().find_map(|l| l.strip_prefix("process_resident_memory_bytes "));
            let bytes: Option<f64> = line.and_then(|bytes| bytes.parse().ok());
            told.extend(bytes.map(|bytes| (bytes / 1e5).round() / 10.0));
            if node.own.is_some() {
                break;
            }
        }
        Ok(told)
    }

    /// Stops what was started.
    pub async fn stop(mut self) {
        for node in &mut self.all {
            if let Some(own) = &mut node.own {
                own.stop.cancel();
            }
        }
        for node in &mut self.all {
            if let Some(own) = &mut node.own {
                // A daemon that could not run has said so.
                let _ = (&mut own.running).await;
            }
        }
    }
}

async fn look_again(deadline: Instant, what: &'static str) -> Result<(), Failure> {
    if Instant::now() > deadline {
        return Err(Failure::Bench(what));
    }
    tokio::time::sleep(LOOK_EVERY).await;
    Ok(())
}

fn pairs(count: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..count).flat_map(move |a| (a + 1..count).map(move |b| (a, b)))
}

async fn start(
    dir: &Path,
    n: usize,
    relayed: Option<Weather>,
    cuts: Cuts,
) -> Result<Node, Failure> {
    let no_port = system("a port can't be had");
    // Known before the daemon starts, since it tells others the relay's address in its place.
    let free = UdpSocket::bind("127.0.0.1:0").and_then(|socket| socket.local_addr());
    let listen = free.map_err(&no_port)?;
    let relay = match relayed {
        Some(weather) => Some(Relay::before(listen, weather, cuts).await.map_err(&no_port)?),
        None => None,
    };
    let settings = Settings {
        data_dir: dir.to_owned(),
        listen,
        advertise: relay.iter().map(|relay| relay.address().to_string()).collect(),
        http: SocketAddr::from(([127, 0, 0, 1], 0)),
        name: format!("node-{n}"),
        join: None,
        undo_window: UNDO_WINDOW,
        keep_removed: Duration::ZERO,
        trash_max: 0,
        start_grace: Duration::ZERO,
        opencode: Vec::new(),
        bridge_timing: Default::default(),
        teardown_roots: Vec::new(),
    };
    let stop = CancellationToken::new();
    let (told, ready) = oneshot::channel();
    let stopped = stop.clone().cancelled_owned();
    let running = tokio::spawn(async move {
        let mut told = Some(told);
        let ready = |_: &Ready, _: &Handle| {
            let _ = told.take().map(|told| told.send(Ok(())));
        };
        let ended = daemon::run(settings, ready, stopped).await;
        if let Err(error) = ended {
            match told {
                Some(told) => drop(told.send(Err(error))),
                None => tracing::error!(%error, "a node has stopped"),
            }
        }
    });
    match ready.await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => return Err(error.into()),
        Err(_) => return Err(Failure::Bench("a node has stopped before it was ready")),
    }
    let client = Client::open(dir)?.quiet();
    let key = client.status().await?.node.to_string();
    let own = Own { quic: listen, stop, running, _relay: relay };
    Ok(Node { key, client, workspace: None, own: Some(own) })
}
