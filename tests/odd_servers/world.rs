//! A daemon in this process, and the servers beside it.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};

use serde_json::Value;
use sessionmesh::{
    agent::{bridge::Timing, opencode::Client},
    daemon::{
        self, Settings,
        handle::{Handle, RequestError},
        hub::{Item, Subscription},
    },
    replica::{
        command::{Command, Reply, Target},
        ids::{OperationId, SessionId},
        record::Session,
    },
};
use tokio::{sync::oneshot, task::JoinHandle};

/// How long a delete can be undone.
pub const UNDO_WINDOW: Duration = Duration::from_millis(60);

/// What waits so short that a program takes less than a second.
fn timing() -> Timing {
    let ms = Duration::from_millis;
    Timing {
        retry: (ms(5), ms(20)),
        gather: ms(5),
        look_every: ms(200),
        look_soon: [5, 20, 50].map(ms),
        compare_every: ms(20),
        due_every: ms(15),
        delete_retry: ms(20),
        tick_every: ms(100),
        ask_again: ms(60),
    }
}

/// Sessions, with their parents.
pub type Shown = BTreeMap<String, Option<String>>;

/// A running daemon.
pub struct Daemon {
    handle: Handle,
    /// What it has shown, however shortly.
    shown: Arc<Mutex<Shown>>,
    following: JoinHandle<()>,
    stop: oneshot::Sender<()>,
    running: JoinHandle<Result<(), daemon::Error>>,
}

impl Daemon {
    /// Starts it on what its folder holds, bridged to these servers.
    pub async fn start(data_dir: PathBuf, servers: &[String]) -> Self {
        let settings = Settings {
            data_dir,
            listen: "127.0.0.1:0".parse().unwrap(),
            advertise: Default::default(),
            http: "127.0.0.1:0".parse().unwrap(),
            name: "odd".to_owned(),
            join: None,
            undo_window: UNDO_WINDOW,
            keep_removed: Duration::from_secs(3_600),
            trash_max: 1 << 30,
            start_grace: Duration::ZERO,
            opencode: servers.iter().map(|url| Client::new(url, None).unwrap()).collect(),
            bridge_timing: timing(),
            teardown_roots: Vec::new(),
        };
        let (stop, stopped) = oneshot::channel::<()>();
        let (told, ready) = oneshot::channel();
        let running = tokio::spawn(async move {
            let tell = |_: &daemon::Ready, handle: &Handle| {
                let _ = told.send(handle.clone());
            };
            daemon::run(settings, tell, async {
                let _ = stopped.await;
            })
            .await
        });
        let handle = ready.await.expect("it starts");
        let shown = Arc::default();
        let following = follow(handle.hub().subscribe(None), Arc::clone(&shown));
        let following = tokio::spawn(following);
        Self { handle, shown, following, stop, running }
    }

    /// Takes what it has shown since this was asked last.
    pub fn take_shown(&self) -> Shown {
        std::mem::take(&mut self.shown.lock().unwrap())
    }

    /// Stops it, as a signal does; returns what it has shown since that was asked last.
    pub async fn stop(self) -> Shown {
        let _ = self.stop.send(());
        self.running.await.unwrap().unwrap();
        self.following.await.unwrap();
        std::mem::take(&mut self.shown.lock().unwrap())
    }

    /// Returns what it shows.
    pub fn sessions(&self) -> Vec<Arc<Session>> {
        self.handle.hub().view().sessions().cloned().collect()
    }

    /// Deletes a session, as a person does; returns what undoes it.
    pub async fn delete(&self, id: &str) -> Option<OperationId> {
        let session = Target::<SessionId>::new(id.parse().unwrap());
        match self.handle.command(Command::DeleteSession { session, dry_run: false }).await {
            Ok(Reply::SessionDeleted(deleted)) => deleted.operation,
            Err(RequestError::Refused(_)) => None,
            other => panic!("{other:?}"),
        }
    }

    /// Undoes a delete, if that is still possible; tells whether it was.
    pub async fn restore(&self, operation: OperationId) -> bool {
        self.handle.command(Command::Restore(operation)).await.is_ok()
    }

    /// Waits until the lists of all servers were read once.
    pub async fn has_met_all(&self) {
        loop {
            let status = self.handle.status().await.unwrap();
            if status.agents.iter().all(|agent| agent.last_read_at.is_some()) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Returns how the bridges stand, for a person.
    pub async fn told(&self) -> String {
        let status = self.handle.status().await.unwrap();
        format!("{:?} {:?}", status.agents, status.agents_awaited)
    }
}

/// Notes what is published: under load a session may come, go and be purged between two looks.
async fn follow(mut published: Subscription, shown: Arc<Mutex<Shown>>) {
    while let Some(item) = published.next().await {
        let Item::Diff { body, .. } = item else { continue };
        let diff: Value = serde_json::from_str(&body).unwrap();
        let sessions = diff["events"].as_array().unwrap().iter().map(|event| &event["session"]);
        for session in sessions.filter(|session| session.is_object()) {
            let id = session["id"].as_str().unwrap().to_owned();
            let parent = session["parent_id"].as_str().map(str::to_owned);
            shown.lock().unwrap().insert(id, parent);
        }
    }
}
