//! Owns the stories of admins gone bad and of roots that move, played on real daemons.

use std::path::PathBuf;

use serde_json::{Value, json};

use crate::{
    harness::{Daemon, fleet, linked},
    until_equal, until_linked,
};

/// A daemon that is stopped, and can be started again where it was.
struct Asleep {
    dir: PathBuf,
    name: &'static str,
    listen: String,
}

impl Asleep {
    fn stop(daemon: Daemon, name: &'static str) -> Self {
        let asleep = Self { dir: daemon.dir().to_owned(), name, listen: daemon.quic() };
        assert!(daemon.stop().success());
        asleep
    }

    fn wake(&self) -> Daemon {
        Daemon::start_at(&self.dir, self.name, &self.listen, &[])
    }
}

/// A founder, two further admins, two members.
async fn five(dir: &std::path::Path) -> Vec<Daemon> {
    let names = ["A", "B", "C", "D", "E"];
    let daemons = fleet(dir, &names, &[]).await;
    for name in ["B", "C"] {
        let promote = format!("/v1/peers/{name}/promote");
        daemons[0].ok("POST", &promote, Some(json!({ "role": "admin" }))).await;
    }
    for (at, name) in [(1, "C"), (2, "B"), (3, "C"), (4, "C")] {
        let is_admin = |peers: &Value| {
            let mut peers = peers.as_array().into_iter().flatten();
            peers.any(|peer| peer["name"] == name && peer["role"] == "admin")
        };
        daemons[at].until("/v1/peers", "the promotion has come", is_admin).await;
    }
    linked(&daemons).await;
    daemons
}

/// Waits until a daemon lists exactly these others as members that are not revoked.
async fn until_members(daemon: &Daemon, others: &[&str]) {
    let mut others: Vec<&str> = others.to_vec();
    others.sort_unstable();
    let holds = |peers: &Value| {
        let current = peers.as_array().into_iter().flatten().filter(|it| it["revoked"] == false);
        let mut names: Vec<&str> = current.filter_map(|it| it["admitted_as"].as_str()).collect();
        names.sort_unstable();
        names == others
    };
    daemon.until("/v1/peers", &format!("the others are {others:?}"), holds).await;
}

#[tokio::test]
async fn a_revoked_admin_that_goes_on_takes_nothing_over_even_where_machines_slept() {
    let folder = tempfile::tempdir().unwrap();
    let mut daemons = five(folder.path()).await.into_iter();
    let [a, b, c, d, e] = std::array::from_fn(|_| daemons.next().expect("there are five"));
    // B and C sleep while the founder revokes B.
    let (b, c) = (Asleep::stop(b, "B"), Asleep::stop(c, "C"));
    a.ok("DELETE", "/v1/peers/B", None).await;
    for other in [&d, &e] {
        let others = if std::ptr::eq(other, &d) { ["A", "C", "E"] } else { ["A", "C", "D"] };
        until_members(other, &others).await;
    }
    let [a, d, e] = [(a, "A"), (d, "D"), (e, "E")].map(|(it, name)| Asleep::stop(it, name));
    // B wakes, meets only C, lets an accomplice in as an admin, and revokes the founder and a member.
    let (b_up, c_up) = (b.wake(), c.wake());
    until_linked(&b_up, &c_up).await;
    let f = Daemon::start(&folder.path().join("F"), "F", &[]);
    let ticket = b_up.ok("POST", "/v1/invites", Some(json!({ "role": "admin" }))).await;
    f.ok("POST", "/v1/join", Some(json!({ "ticket": ticket["ticket"] }))).await;
    f.ok("DELETE", "/v1/peers/A", None).await;
    // Its accomplice's revocation may have reached B before, which then lists no A any more.
    let (status, answer) = b_up.send("DELETE", "/v1/peers/A", None).await;
    assert!(status == 200 || answer["code"] == "node_not_found", "{status} {answer}");
    b_up.ok("DELETE", "/v1/peers/D", None).await;
    until_members(&c_up, &["B", "E", "F"]).await;
    let b = Asleep::stop(b_up, "B");
    let f = Asleep::stop(f, "F");
    // The others wake one by one, and each time C, which knows no better yet, is there first.
    let e = e.wake();
    until_members(&e, &["A", "C", "D"]).await;
    let (d, a) = (d.wake(), a.wake());
    let all = [
        (&a, ["C", "D", "E"]),
        (&c_up, ["A", "D", "E"]),
        (&d, ["A", "C", "E"]),
        (&e, ["A", "C", "D"]),
    ];
    for (daemon, others) in &all {
        until_members(daemon, others).await;
    }
    for other in [&c_up, &d, &e] {
        until_linked(&a, other).await;
        until_linked(other, &a).await;
    }
    until_equal(&[&a, &c_up, &d, &e]).await;
    // Nor when they come back.
    let (b, _f) = (b.wake(), f.wake());
    let why = |peers: &Value| {
        let mut peers = peers.as_array().into_iter().flatten();
        peers.any(|it| it["problem"].as_str().is_some_and(|why| why.contains("revoked")))
    };
    b.until("/v1/peers", "it is told why nobody links", why).await;
    let by_founder = |status: &Value| status["shut_out"]["by"] == "A";
    b.until("/v1/status", "it is shown who has shut it out", by_founder).await;
    for (daemon, others) in &all {
        until_members(daemon, others).await;
    }
    // And the fleet goes on: the founder lets another one in.
    let g = Daemon::start(&folder.path().join("G"), "G", &[]);
    g.ok("POST", "/v1/join", Some(json!({ "ticket": a.invite().await }))).await;
    until_members(&e, &["A", "C", "D", "G"]).await;
}

#[tokio::test]
async fn the_root_moves_to_another_machine() {
    let folder = tempfile::tempdir().unwrap();
    let daemons = fleet(folder.path(), &["A", "B"], &[]).await;
    let [a, b] = &daemons[..] else { unreachable!("there are two") };
    let (status, problem) = a.send("POST", "/v1/step-down", None).await;
    assert_eq!((status, &problem["code"]), (409, &json!("last_admin")));
    a.ok("POST", "/v1/peers/B/promote", Some(json!({ "role": "admin" }))).await;
    a.ok("POST", "/v1/step-down", None).await;
    b.until("/v1/status", "it is the only admin", |it| it["admins"] == 1).await;
    assert_eq!(a.get("/v1/status").await["role"], "member");
    let (status, problem) = a.send("POST", "/v1/invites", None).await;
    assert_eq!((status, &problem["code"]), (403, &json!("not_admin")));
    let c = Daemon::start(&folder.path().join("C"), "C", &[]);
    c.ok("POST", "/v1/join", Some(json!({ "ticket": b.invite().await }))).await;
    until_members(a, &["B", "C"]).await;
    let (status, problem) =
        b.send("POST", "/v1/peers/A/promote", Some(json!({ "role": "admin" }))).await;
    assert_eq!((status, &problem["code"]), (409, &json!("stepped_down")));
}

#[tokio::test]
async fn a_founder_that_can_dial_nobody_comes_back_after_a_junior_admin_has_shut_it_out() {
    let folder = tempfile::tempdir().unwrap();
    // The others are where nobody reaches them, as behind a router; they dial the founder.
    let start = |name: &str, more: &[&str]| Daemon::start(&folder.path().join(name), name, more);
    let unreachable = ["--advertise", "127.0.0.1:9"];
    let (a, b, c) = (start("A", &[]), start("B", &unreachable), start("C", &unreachable));
    for (daemon, role) in [(&b, "admin"), (&c, "member")] {
        let ticket = a.ok("POST", "/v1/invites", Some(json!({ "role": role }))).await;
        daemon.ok("POST", "/v1/join", Some(json!({ "ticket": ticket["ticket"] }))).await;
    }
    until_linked(&c, &a).await;
    until_members(&b, &["A", "C"]).await;
    b.ok("DELETE", "/v1/peers/A", None).await;
    a.until("/v1/status", "it hears so", |status| status["shut_out"]["by"] == "B").await;
    until_unlinked(&c, "A").await;
    a.ok("DELETE", "/v1/peers/B", None).await;
    until_members(&c, &["A"]).await;
    until_members(&a, &["C"]).await;
    until_linked(&c, &a).await;
    until_equal(&[&a, &c]).await;
    b.until("/v1/status", "it hears so", |status| status["shut_out"]["by"] == "A").await;
}

/// Waits until a daemon has no link to another one.
async fn until_unlinked(daemon: &Daemon, other: &str) {
    let is_away = |peers: &Value| {
        let mut peers = peers.as_array().into_iter().flatten();
        peers.any(|peer| peer["admitted_as"] == other && peer["connected"] == false)
    };
    daemon.until("/v1/peers", &format!("{other} is away"), is_away).await;
}
