//! Owns a daemon's life: opening everything, running until it is told to stop, closing.
//!
//! Must not know the rules of the domain. Invariant: whatever was acknowledged is durable when it
//! returns.

use std::{
    collections::BTreeSet, convert::Infallible, net::SocketAddr, path::PathBuf, sync::Arc,
    time::Duration,
};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::{
    commit::Committer,
    compact,
    ending::Ending,
    engine::{self, Engine},
    evidence,
    handle::{Handle, RequestError},
    hub::Hub,
    keeper,
    last_look::LastLook,
    looping::{Loop, Shells},
    machine,
    pace::Task,
    reading,
    removal::{ByOpencode, InTrash, ToOpencode},
    survey,
    trash::HostTrash,
};
use crate::{
    agent::{bridge, opencode},
    api,
    clock::{self, Clock},
    identity::{NodeKey, Token, key, random, secret::SecretError, ticket},
    replica::{
        command::{Command, Refusal},
        effect::Startup,
        ids::{FleetId, NodeId, StartId},
        invite::Ticket,
        machine::OpenError as ReplicaError,
    },
    store::{self, Store},
    teardown::{
        self,
        trash::{self, Trash},
    },
    transport::{self, Transport, addresses},
};

/// How often the interfaces are looked at: who dials a node that has moved waits that long.
const ADDRESSES_EVERY: Duration = Duration::from_secs(30);

/// What a daemon needs to know.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where everything that must last is kept.
    pub data_dir: PathBuf,
    /// Where peers reach it, UDP.
    pub listen: SocketAddr,
    /// Where peers are told to reach it, `IP:PORT`, in place of the interfaces' own addresses; those
    /// if empty.
    pub advertise: BTreeSet<String>,
    /// Where local programs reach it, TCP; loopback only.
    pub http: SocketAddr,
    /// What people call this machine.
    pub name: String,
    /// A ticket of the fleet to join at the start.
    pub join: Option<String>,
    /// How long a delete can be undone before it is carried out.
    pub undo_window: Duration,
    /// How long what a teardown removes is kept; zero if it is not.
    pub keep_removed: Duration,
    /// How many bytes the entries of the trash that may be deleted early take together.
    pub trash_max: u64,
    /// How long what was pending before the start waits at most for a peer that may know better.
    pub start_grace: Duration,
    /// The opencode servers beside this node.
    pub opencode: Vec<opencode::Client>,
    /// How long the bridges to them wait for what.
    pub bridge_timing: bridge::Timing,
    /// The folders below which alone workspaces are removed; below any if there are none.
    pub teardown_roots: Vec<PathBuf>,
}

/// What a daemon says once it is ready.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ready {
    /// Its key.
    pub node: NodeId,
    /// The fleet that it belongs to.
    pub fleet: FleetId,
    /// Where local programs reach it, TCP.
    pub http: SocketAddr,
    /// Where peers reach it, UDP.
    pub quic: SocketAddr,
    /// Where local programs reach it, Unix socket.
    pub socket: PathBuf,
    /// Where everything that must last is kept.
    pub data_dir: PathBuf,
    /// Whether an earlier version has stored the members, which this one can't read: the node is alone now.
    pub left_alone: bool,
}

/// Explains why a daemon did not start, or stopped by itself.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The data folder can't be used.
    #[error(transparent)]
    Open(#[from] store::OpenError),
    /// The key or the token can't be used.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// What the store holds can't be read, or can't be written any more.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// A document in the store can't be read.
    #[error(
        "{} is damaged ({source}): run `sessionmesh repair`, which keeps what can be read and has \
         the rest back from peers, or put a copy in its place",
        path.display()
    )]
    Replica {
        /// The store.
        path: PathBuf,
        /// What is wrong with it.
        source: ReplicaError,
    },
    /// The key of a node is there and its store is not: a new one would stand against what the
    /// peers hold of this node.
    #[error(
        "{} is missing, but the folder holds the key of a node: put it back, run `sessionmesh \
         repair` to have back what its peers hold of it, or move the folder away to begin as a new \
         node",
        path.display()
    )]
    StoreMissing {
        /// The store.
        path: PathBuf,
    },
    /// Peers can't reach it.
    #[error(transparent)]
    Bind(#[from] transport::BindError),
    /// Local programs can't reach it.
    #[error(transparent)]
    Api(#[from] api::BindError),
    /// The ticket given at the start is none.
    #[error("--join: {0}")]
    Ticket(#[from] ticket::TicketError),
    /// The fleet that was to be joined at the start did not let it in.
    #[error("--join: {0}")]
    Join(Refusal),
}

/// Runs a daemon until `stop` is done; `ready` is called once it answers, with what reaches its loop.
///
/// # Errors
///
/// It could not start, or the store has failed and nothing may be acknowledged any more.
pub async fn run(
    settings: Settings,
    ready: impl FnOnce(&Ready, &Handle),
    stop: impl Future<Output = ()>,
) -> Result<(), Error> {
    let join = settings.join.as_deref().map(ticket::decode).transpose()?;
    let path = settings.data_dir.join(store::FILE_NAME);
    // A first start makes the store before the key.
    let has_key = settings.data_dir.join(key::FILE).exists();
    if has_key && !path.exists() {
        return Err(Error::StoreMissing { path });
    }
    let store = Arc::new(Store::open(&settings.data_dir)?);
    // A node that has lost its key must not go on as another one with the same state.
    let key = Arc::new(match store.fleet()? {
        Some(_) => NodeKey::load(&settings.data_dir)?,
        None => NodeKey::load_or_create(&settings.data_dir)?,
    });
    let token = Token::load_or_create(&settings.data_dir)?;
    let start = StartId(random());
    let clock = Clock::new();
    let startup = Startup {
        node: key.node(),
        name: settings.name.clone(),
        start,
        seed: u64::from_le_bytes(random()),
        undo_window: settings.undo_window,
        keep_removed: settings.keep_removed,
        start_grace: settings.start_grace,
        keyring: key.clone(),
    };
    let opened = Engine::open_with(
        &store,
        startup,
        clock.now(),
        compact::Limits::default(),
        reading::at_once,
    );
    let engine::Opened { engine, effects, journal } = opened.map_err(|error| match error {
        engine::OpenError::Store(error) => Error::Store(error),
        engine::OpenError::Replica(source) => Error::Replica { path, source },
    })?;
    let config = transport::Config {
        listen: settings.listen,
        key,
        start,
        seed: u64::from_le_bytes(random()),
        wall_ms: Some(clock::wall_ms),
        timing: transport::Timing::default(),
    };
    let (transport, events) = Transport::bind(config)?;
    let transport = Arc::new(transport);
    let hub = Arc::new(Hub::new(engine.published(), journal));
    let listeners = api::Listeners::bind(settings.http, &settings.data_dir).await?;

    let (node, fleet) = (engine.replica().node(), engine.replica().fleet());
    let left_alone = engine.replica().is_left_alone();
    let (told_sender, told) = tokio::sync::mpsc::unbounded_channel();
    let committer = Committer::start(store.clone(), transport.clone(), told_sender);
    let quic = transport.local_addr().unwrap_or(settings.listen);
    let (handle, requests) = Handle::new(hub.clone());
    let servers: Vec<(opencode::Client, Arc<Notify>)> =
        settings.opencode.iter().map(|client| (client.clone(), Arc::default())).collect();
    let (trash, host_trash) = open_trash(&settings, node, &servers, &handle);
    let mut teardown = teardown::Config::new(settings.data_dir.clone(), trash);
    teardown.roots.clone_from(&settings.teardown_roots);
    teardown.removers = settings
        .opencode
        .iter()
        .map(|client| Arc::new(ByOpencode::new(client.clone())) as Arc<dyn teardown::Remover>)
        .collect();
    let (last_look, looks) = LastLook::new();
    teardown.gate = Some(Box::new(last_look));
    let teardown = Arc::new(teardown);
    let ending_places = Ending::new(host_trash.settled());
    let settling = host_trash.clone();
    tokio::task::spawn_blocking(move || settling.settle());
    let machine = machine::Machine::new(teardown.clone(), host_trash);
    let handle = handle.with_machine(machine.clone());
    let ending = teardown.clone();
    let _hooks_end = HooksEnd(teardown.clone());
    let (receipts, restores) = (handle.receipts().clone(), handle.restores().clone());
    let pace = handle.pace().clone();
    let links = transport.clone();
    evidence::tell_in_short();
    let evidence = Arc::new(evidence::Folder::new(&settings.data_dir));
    let shells = Shells {
        hub,
        transport: links,
        committer,
        store,
        teardown,
        ending: ending_places,
        evidence,
        receipts,
        restores,
        pace,
    };
    let looping = Loop::new(engine, effects, clock, shells, looks);
    let stopping = CancellationToken::new();
    let running = looping.run(requests, events, told, stopping.clone());
    let watch = handle.pace().clone();
    let mut looped = tokio::spawn(watch.watch(Task::Loop, running));

    let said = Ready {
        node,
        fleet,
        http: listeners.http(),
        quic,
        socket: listeners.socket().to_owned(),
        data_dir: settings.data_dir.clone(),
        left_alone,
    };
    let api = api::Api::new(handle.clone(), node, settings.name.clone(), token);
    let no_more_requests = CancellationToken::new();
    let serving = {
        let stop = no_more_requests.clone();
        tokio::spawn(async move { api.serve(listeners, stop).await })
    };
    let shared = bridge::Shared {
        anchors: Arc::new(bridge::Anchors::new(&settings.data_dir)),
        keeper: Arc::new(InTrash(machine.trash().clone())),
        bridged: servers.iter().map(|(client, _)| client.address().to_string()).collect(),
        roots: settings.teardown_roots.clone(),
        timing: settings.bridge_timing,
    };
    let bridges: Vec<tokio::task::JoinHandle<()>> = servers
        .into_iter()
        .map(|(client, relist)| {
            let (stop, handle) = (no_more_requests.clone(), handle.clone());
            let run = bridge::run(client, handle, node, shared.clone(), relist, stop);
            tokio::spawn(watch.watch(Task::Bridge, run))
        })
        .collect();
    let keeping = keeper::run(machine, handle.clone(), node, no_more_requests.clone());
    let keeping = tokio::spawn(watch.watch(Task::Keeper, keeping));
    let surveying = survey::run(handle.clone(), node, ending.clone(), no_more_requests.clone());
    let surveying = tokio::spawn(watch.watch(Task::Survey, surveying));
    let mut ended = None;
    let lived = tokio::select! {
        biased;
        () = stop => Ok(()),
        end = &mut looped => {
            ended = Some(end);
            Ok(())
        }
        Err(error) = live(&settings, &handle, said, join, ready) => Err(error),
    };
    no_more_requests.cancel();
    handle.receipts().send_replace(true);
    for bridge in bridges {
        if let Err(error) = bridge.await {
            tracing::error!(%error, "a bridge has panicked");
        }
    }
    if let Err(error) = keeping.await {
        tracing::error!(%error, "the keeper of the trash has panicked");
    }
    if let Err(error) = surveying.await {
        tracing::error!(%error, "the survey of worktrees has panicked");
    }
    if let Err(error) = serving.await {
        tracing::error!(%error, "the local API has panicked");
    }
    stopping.cancel();
    let ended = match ended {
        Some(ended) => ended,
        None => looped.await,
    };
    if let Err(error) = tokio::task::spawn_blocking(move || ending.stop()).await {
        tracing::error!(%error, "the hooks are not stopped");
    }
    transport.shutdown().await;
    lived.and(ended.expect("the loop does not panic").map_err(Error::from))
}

/// Opens the trash of this host, and makes the shells' way to it.
fn open_trash(
    settings: &Settings,
    node: NodeId,
    servers: &[(opencode::Client, Arc<Notify>)],
    handle: &Handle,
) -> (Arc<Trash>, HostTrash) {
    let &Settings { keep_removed, trash_max, .. } = settings;
    let importer = Arc::new(ToOpencode::new(servers, &settings.data_dir));
    let kept = trash::Settings { keep_removed, trash_max, importers: vec![importer] };
    let trash = Arc::new(Trash::new(&settings.data_dir, node, kept));
    let host_trash = HostTrash::new(trash.clone(), trash_max, handle.restores().clone());
    (trash, host_trash)
}

/// Ends the hooks with the daemon, however that ends: whoever insists that it stops at once must not
/// leave them running.
struct HooksEnd(Arc<teardown::Config>);

impl Drop for HooksEnd {
    fn drop(&mut self) {
        self.0.stop_at_once();
    }
}

/// Does what is to be done from the moment that everything is open; ends only by failing.
async fn live(
    settings: &Settings,
    handle: &Handle,
    mut said: Ready,
    join: Option<Ticket>,
    ready: impl FnOnce(&Ready, &Handle),
) -> Result<Infallible, Error> {
    let mut addresses = published_addresses(settings, &said);
    announce(settings, handle, &addresses).await;
    if let Some(ticket) = join.filter(|ticket| ticket.fleet != said.fleet) {
        let fleet = ticket.fleet;
        match handle.command(Command::Join(ticket)).await {
            Ok(_) => said.fleet = fleet,
            Err(RequestError::Refused(refusal)) => return Err(Error::Join(refusal)),
            Err(error) => tracing::error!(%error, "not joined"),
        }
    }
    ready(&said, handle);
    loop {
        tokio::time::sleep(ADDRESSES_EVERY).await;
        let present = published_addresses(settings, &said);
        if present != addresses {
            announce(settings, handle, &present).await;
            addresses = present;
        }
    }
}

/// Returns where peers are told to reach this node.
fn published_addresses(settings: &Settings, said: &Ready) -> BTreeSet<String> {
    if settings.advertise.is_empty() {
        addresses::published(said.quic)
    } else {
        settings.advertise.clone()
    }
}

async fn announce(settings: &Settings, handle: &Handle, addresses: &BTreeSet<String>) {
    let (name, addresses) = (settings.name.clone(), addresses.clone());
    if let Err(error) = handle.command(Command::Announce { name, addresses }).await {
        tracing::debug!(%error, "name and addresses are not announced");
    }
}
