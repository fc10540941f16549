//! Owns who is let in, and how those who are not are told.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::{
    harness::{Daemon, PATIENCE, fleet},
    until_equal, until_linked, until_peer,
};

async fn join(daemon: &Daemon, ticket: &str) -> (u16, Value) {
    daemon.send("POST", "/v1/join", Some(json!({ "ticket": ticket }))).await
}

/// Waits until a line of the log has these words: it is written beside what it tells of.
async fn says(daemon: &Daemon, words: &[&str]) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let log = daemon.log();
        if log.lines().any(|line| words.iter().all(|word| line.contains(word))) {
            return;
        }
        assert!(Instant::now() < deadline, "no line of this log has {words:?}:\n{log}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_ticket_that_is_used_expired_foreign_or_garbage_is_refused_by_name_on_both_sides() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let daemons = fleet(folder.path(), &["A", "B"], &[]).await;
    let [a, b] = &daemons[..] else { unreachable!("there are two") };
    let new = Daemon::start(&path("new"), "new", &[]);
    let before = new.get("/v1/status").await["fleet"].clone();

    let ticket = a.invite().await;
    let first = Daemon::start(&path("first"), "first", &["--join", &ticket]);
    let (status, problem) = join(&new, &ticket).await;
    assert_eq!((status, &problem["code"]), (403, &json!("join_refused")), "{problem}");
    assert!(problem["detail"].as_str().unwrap().contains("already used"), "{problem}");
    says(a, &["refused a join", "ticket_used"]).await;
    says(&new, &["ticket_used"]).await;
    // Nor may the node that used it come back with it.
    first.ok("POST", "/v1/leave", None).await;
    let (status, problem) = join(&first, &ticket).await;
    assert_eq!((status, &problem["code"]), (403, &json!("join_refused")), "{problem}");
    assert!(problem["detail"].as_str().unwrap().contains("already used"), "{problem}");

    let body = json!({ "expires_in_s": 1 });
    let invited = a.ok("POST", "/v1/invites", Some(body)).await;
    let expires_at = invited["expires_at"].as_i64().unwrap();
    let now = || {
        let since = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap();
        i64::try_from(since.as_millis()).unwrap()
    };
    while now() <= expires_at {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let (status, problem) = join(&new, invited["ticket"].as_str().unwrap()).await;
    assert_eq!((status, &problem["code"]), (403, &json!("join_refused")), "{problem}");
    assert!(problem["detail"].as_str().unwrap().contains("expired"), "{problem}");
    says(a, &["refused a join", "ticket_expired"]).await;

    // One that the inviting node no longer knows, for it has left the fleet since.
    let other = Daemon::start(&path("other"), "other", &[]);
    let stale = other.invite().await;
    let ticket = a.invite().await;
    let (status, problem) = join(&other, &ticket).await;
    assert_eq!(status, 200, "{problem}");
    let (status, problem) = join(&new, &stale).await;
    assert_eq!((status, &problem["code"]), (403, &json!("join_refused")), "{problem}");
    assert!(problem["detail"].as_str().unwrap().contains("fleet"), "{problem}");
    says(&other, &["refused a join", "wrong_fleet"]).await;

    let ticket = a.invite().await;
    let flipped = flip(&ticket);
    for text in ["", "x", "sessionmesh", &ticket[..ticket.len() / 2], &flipped] {
        let (status, problem) = join(&new, text).await;
        assert_eq!((status, &problem["code"]), (422, &json!("bad_ticket")), "{text}: {problem}");
    }
    let (status, problem) = join(a, &ticket).await;
    assert_eq!((status, &problem["code"]), (409, &json!("oneself")), "{problem}");
    let (status, problem) = b.send("POST", "/v1/invites", None).await;
    assert_eq!((status, &problem["code"]), (403, &json!("not_admin")), "{problem}");
    for seconds in [json!(0), json!(-1), json!(31 * 86_400), json!("1h")] {
        let body = json!({ "expires_in_s": seconds });
        let (status, problem) = a.send("POST", "/v1/invites", Some(body)).await;
        assert_eq!((status, &problem["code"]), (422, &json!("invalid_field")), "{problem}");
    }
    assert_eq!(new.get("/v1/status").await["fleet"], before, "it is where it was");
    let (status, problem) = join(&new, &ticket).await;
    assert_eq!(status, 200, "{problem}");
}

/// Changes one character of a ticket's middle.
fn flip(ticket: &str) -> String {
    let at = ticket.len() / 2;
    let other = if ticket.as_bytes()[at] == b'a' { 'b' } else { 'a' };
    format!("{}{other}{}", &ticket[..at], &ticket[at + 1..])
}

#[tokio::test]
async fn a_start_that_is_to_join_and_may_not_ends_with_one_line_that_says_why() {
    let folder = tempfile::tempdir().unwrap();
    let a = Daemon::start(&folder.path().join("A"), "A", &[]);
    let ticket = a.invite().await;
    let _first = Daemon::start(&folder.path().join("B"), "B", &["--join", &ticket]);
    for (text, why) in [(ticket.as_str(), "already used"), ("nonsense", "--join")] {
        let output = crate::harness::command(&folder.path().join("C"))
            .args(["serve", "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0", "--name", "C"])
            .args(["--join", text])
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(1));
        assert!(output.stdout.is_empty(), "it was never ready");
        let stderr = String::from_utf8(output.stderr).unwrap();
        let last = stderr.lines().last().unwrap();
        assert!(last.starts_with("error: ") && last.contains(why), "{stderr}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_twenty_that_join_with_one_ticket_at_once_exactly_one_gets_in() {
    let folder = tempfile::tempdir().unwrap();
    let a = Daemon::start(&folder.path().join("A"), "A", &[]);
    let ticket = a.invite().await;
    let starts: Vec<_> = (0..20)
        .map(|number| {
            let dir = folder.path().join(format!("N{number}"));
            let name = format!("N{number}");
            tokio::task::spawn_blocking(move || Daemon::start(&dir, &name, &[]))
        })
        .collect();
    let mut daemons = Vec::new();
    for start in starts {
        daemons.push(start.await.unwrap());
    }
    let joins: Vec<_> = daemons
        .iter()
        .map(|daemon| {
            let (client, ticket) = (daemon.client(), ticket.clone());
            tokio::spawn(async move {
                client.send("POST", "/v1/join", Some(json!({ "ticket": ticket }))).await
            })
        })
        .collect();
    let mut inside = Vec::new();
    for (daemon, join) in daemons.iter().zip(joins) {
        let (status, answer) = join.await.unwrap();
        match status {
            200 => inside.push(daemon),
            _ => {
                assert_eq!((status, &answer["code"]), (403, &json!("join_refused")), "{answer}");
                assert!(answer["detail"].as_str().unwrap().contains("already used"), "{answer}");
            }
        }
    }
    assert_eq!(inside.len(), 1, "exactly one gets in");
    until_linked(&a, inside[0]).await;
    assert_eq!(a.get("/v1/peers").await.as_array().unwrap().len(), 1);
    until_equal(&[&a, inside[0]]).await;
}

#[tokio::test]
async fn who_comes_back_from_before_it_left_and_who_is_of_another_fleet_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let daemons = fleet(folder.path(), &["A", "B"], &[]).await;
    let [a, b] = <[Daemon; 2]>::try_from(daemons).unwrap();
    let (dir, listen) = (b.dir().to_owned(), b.quic());
    assert!(b.stop().success());
    let backup = folder.path().join("backup");
    copy(&dir, &backup);
    let b = Daemon::start_at(&dir, "B", &listen, &[]);
    until_linked(&b, &a).await;
    b.ok("POST", "/v1/leave", None).await;
    let gone = |peers: &Value| peers.as_array().is_some_and(Vec::is_empty);
    a.until("/v1/peers", "B has left", gone).await;
    let fleet_of_b = b.get("/v1/status").await["fleet"].as_str().unwrap().to_owned();
    assert!(b.stop().success());

    // The folder from before still takes itself for a member, and dials.
    let restored = Daemon::start_at(&backup, "B", &listen, &[]);
    let why = |it: &Value| it["problem"].as_str().is_some_and(|why| why.contains("left the fleet"));
    until_peer(&restored, &a, "told why it is refused", why).await;
    says(&restored, &["refused the link", "left"]).await;
    assert!(restored.stop().success());

    // A, copied to before B came, knows no B: to it, B's key is unknown.
    let strange = Daemon::start(&folder.path().join("C"), "C", &[]);
    let known_fleet = strange.get("/v1/status").await["fleet"].as_str().unwrap().to_owned();
    let early = folder.path().join("early");
    let (strange_dir, strange_listen) = (strange.dir().to_owned(), strange.quic());
    assert!(strange.stop().success());
    copy(&strange_dir, &early);
    let strange = Daemon::start_at(&strange_dir, "C", &strange_listen, &[]);
    let ticket = strange.invite().await;
    let again = Daemon::start_at(&dir, "B", &listen, &[]);
    let (status, answer) = join(&again, &ticket).await;
    assert_eq!((status, &answer["fleet"]), (200, &json!(known_fleet)), "{answer}");
    until_linked(&again, &strange).await;
    assert!(strange.stop().success());
    let forgetful = Daemon::start_at(&early, "C", &strange_listen, &[]);
    let why = |it: &Value| it["problem"].as_str().is_some_and(|why| why.contains("not a member"));
    until_peer(&again, &forgetful, "told that its key is unknown", why).await;
    says(&again, &["refused the link", "unknown_key"]).await;
    says(&forgetful, &["refused a peer", "unknown_key", &again.node()]).await;
    assert_ne!(fleet_of_b, known_fleet);

    // And one that knows the key, from another fleet.
    let ticket = forgetful.invite().await;
    let third = Daemon::start(&folder.path().join("D"), "D", &[]);
    let (third_dir, third_listen) = (third.dir().to_owned(), third.quic());
    let (status, answer) = join(&third, &ticket).await;
    assert_eq!(status, 200, "{answer}");
    until_linked(&third, &forgetful).await;
    assert!(third.stop().success());
    let member = folder.path().join("member");
    copy(&third_dir, &member);
    assert!(forgetful.stop().success());
    let third = Daemon::start_at(&third_dir, "D", &third_listen, &[]);
    third.ok("POST", "/v1/leave", None).await;
    let fleet_of_third = third.get("/v1/status").await["fleet"].as_str().unwrap().to_owned();
    assert_ne!(fleet_of_third, known_fleet);
    // C still knows D and was not there when it left.
    let forgetful = Daemon::start_at(&early, "C", &strange_listen, &[]);
    let why = |it: &Value| it["problem"].as_str().is_some_and(|why| why.contains("fleet"));
    until_peer(&forgetful, &third, "told that D is of another fleet", why).await;
    says(&forgetful, &["refused the link"]).await;
    says(&third, &["refused a peer"]).await;
}

/// Copies a data folder of a daemon that is stopped.
fn copy(from: &std::path::Path, to: &std::path::Path) {
    let status = std::process::Command::new("cp").arg("-a").args([from, to]).status().unwrap();
    assert!(status.success());
}
