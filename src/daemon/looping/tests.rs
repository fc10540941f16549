//! Owns the proof that a stalled disk blocks neither the runtime's only thread nor questions to the loop, and that
//! only a bounded number of commands is begun meanwhile.

use std::{
    sync::{Condvar, Mutex},
    time::Duration,
};

use super::*;
use crate::{
    daemon::{
        durable::{GROUP_MAX, JOBS_MAX},
        handle::Handle,
        last_look::LastLook,
        trash::HostTrash,
    },
    identity::NodeKey,
    replica::{
        command::{NewWorkspace, Reply},
        effect::Startup,
        ids::StartId,
        record::Extra,
    },
    store::testing::BeforeSync,
    teardown::trash::Trash,
    transport::{self, Telling},
};

/// How many workspaces are created: more than may wait for the disk.
const COMMANDS: usize = 700;
/// How long the test waits before it opens the valve, so that a blocked loop fails the test instead of hanging it.
const WITHIN: Duration = Duration::from_secs(60);

/// Stalls a disk while it is shut.
#[derive(Debug, Default)]
struct Valve {
    is_shut: Mutex<bool>,
    opened: Condvar,
}

impl Valve {
    fn set(&self, is_shut: bool) {
        *self.is_shut.lock().unwrap() = is_shut;
        self.opened.notify_all();
    }

    fn pass(&self) {
        let shut = self.is_shut.lock().unwrap();
        drop(self.opened.wait_while(shut, |shut| *shut).unwrap());
    }
}

/// A loop on a disk with a valve, and the ways to reach it.
struct Started {
    handle: Handle,
    telling: Telling,
    stop: CancellationToken,
    ended: tokio::task::JoinHandle<Result<(), store::Error>>,
    _folder: tempfile::TempDir,
}

fn start(valve: &Arc<Valve>) -> Started {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let key = Arc::new(NodeKey::load_or_create(&data).unwrap());
    let closing = valve.clone();
    let disk = BeforeSync::new(move || closing.pass());
    let store = Arc::new(Store::with_backend(disk).unwrap());
    let clock = Clock::new();
    let startup = Startup {
        node: key.node(),
        name: "a".to_owned(),
        start: StartId([1; 8]),
        seed: 1,
        undo_window: Duration::from_secs(10),
        keep_removed: Duration::ZERO,
        start_grace: Duration::ZERO,
        keyring: key.clone(),
    };
    let limits = compact::Limits::default();
    let opened = Engine::open(&store, startup, clock.now(), limits);
    let engine::Opened { engine, effects, journal } = opened.unwrap();
    let config = transport::Config {
        listen: "127.0.0.1:0".parse().unwrap(),
        key: key.clone(),
        start: StartId([1; 8]),
        seed: 1,
        wall_ms: None,
        timing: transport::Timing::default(),
    };
    let (transport, _) = Transport::bind(config).unwrap();
    let transport = Arc::new(transport);
    let hub = Arc::new(Hub::new(engine.published(), journal));
    let (told_sender, told) = mpsc::unbounded_channel();
    let committer = Committer::start(store.clone(), transport.clone(), told_sender);
    let (handle, requests) = Handle::new(hub.clone());
    let kept = teardown::trash::Settings {
        keep_removed: Duration::ZERO,
        trash_max: 0,
        importers: Vec::new(),
    };
    let trash = Arc::new(Trash::new(&data, key.node(), kept));
    let host_trash = HostTrash::new(trash.clone(), 0, handle.restores().clone());
    let shells = Shells {
        hub,
        transport,
        committer,
        store,
        teardown: Arc::new(teardown::Config::new(data.clone(), trash)),
        ending: Ending::new(host_trash.settled()),
        evidence: Arc::new(evidence::Folder::new(&data)),
        receipts: handle.receipts().clone(),
        restores: handle.restores().clone(),
        pace: handle.pace().clone(),
    };
    let (telling, events) = Telling::new();
    let looping = Loop::new(engine, effects, clock, shells, LastLook::new().1);
    let stop = CancellationToken::new();
    let ended = tokio::spawn(looping.run(requests, events, told, stop.clone()));
    Started { handle, telling, stop, ended, _folder: folder }
}

fn workspace(number: usize) -> Command {
    Command::CreateWorkspace(NewWorkspace {
        id: Some(format!("wrk_{number}").parse().unwrap()),
        name: number.to_string(),
        kind: "directory".to_owned(),
        project_id: None,
        directory: None,
        branch: None,
        keep: false,
        extra: Extra::new(),
    })
}

#[tokio::test]
async fn while_the_disk_takes_nothing_people_are_answered_and_no_more_is_begun() {
    let valve = Arc::new(Valve::default());
    let Started { handle, telling, stop, ended, _folder } = start(&valve);
    // The last thing that is durable before.
    assert!(matches!(handle.command(workspace(COMMANDS)).await, Ok(Reply::Workspace(_))));
    valve.set(true);
    // Were the thread blocked on which all of this runs, nothing here would ever find out.
    let (done, is_done) = std::sync::mpsc::channel::<()>();
    let watched = valve.clone();
    let watchdog = std::thread::spawn(move || {
        let in_time = is_done.recv_timeout(WITHIN).is_ok();
        watched.set(false);
        in_time
    });
    let asked: Vec<_> = (0..COMMANDS)
        .map(|number| {
            let handle = handle.clone();
            tokio::spawn(async move { handle.command(workspace(number)).await })
        })
        .collect();
    let begun = || handle.hub().view().workspaces().count();
    while begun() < JOBS_MAX {
        handle.status().await.unwrap();
    }
    let mut before = 0;
    while before != begun() {
        before = begun();
        for _ in 0..10 {
            handle.status().await.unwrap();
        }
    }
    let most = JOBS_MAX + GROUP_MAX + 2 * TURN_MAX;
    assert!(before <= most, "{before} were begun, at most {most}");
    assert!(asked.iter().all(|asked| !asked.is_finished()), "nothing is answered that may be lost");
    let peer = NodeId([9; 32]);
    telling.tell(Event::DialFailed { peer, reason: "away".to_owned() }).await;
    for _ in 0..10 {
        handle.status().await.unwrap();
    }
    assert_eq!(telling.waiting(), 1, "what peers tell is left where it is");

    done.send(()).unwrap();
    assert!(watchdog.join().unwrap(), "the thread was blocked");
    for asked in asked {
        assert!(matches!(asked.await.unwrap(), Ok(Reply::Workspace(_))));
    }
    assert_eq!(begun(), COMMANDS + 1);
    while telling.waiting() > 0 {
        handle.status().await.unwrap();
    }
    stop.cancel();
    ended.await.unwrap().unwrap();
}
