//! Owns the tests of a host document: what is written is read back, also when others wrote at the same time.
//!
//! Must not know the view. Invariant: each claim is about documents alone, with no replica around them.

use std::collections::BTreeMap;

use super::*;
use crate::replica::{
    document::Judged,
    ids::{DocumentId, StartId},
    record::{Deletion, DeletionReason, Extra, Member, Role, StoredSession, StoredWorkspace},
    trust::Trust,
    voucher::{Trusting, Voucher},
};

const HOST: NodeId = NodeId([1; 32]);

/// Knows the host, and that whatever is signed is right.
fn trust() -> Trust {
    let host = Member {
        node: HOST,
        name: "host".to_owned(),
        role: Role::Member,
        added_by: HOST,
        added_at: 0,
        revoked: None,
        left: false,
    };
    let mut trust = Trust::new(Arc::new(Trusting));
    trust.learn([&host]);
    trust
}

fn vouchers(document: &Document) -> Vec<Voucher> {
    document.vouchers().copied().collect()
}

/// Two replicas of one host document.
fn replicas() -> (Document, Document) {
    let actor = |start| super::super::actor(&HOST, StartId([start; 8]));
    let (mut one, genesis) = Document::create_host(HOST, 0, actor(1), 0);
    vouch(&mut one, &genesis);
    let id = DocumentId::Host { host: HOST, epoch: 0 };
    let other = Document::adopt(id, actor(2), &one.save(), &vouchers(&one), &trust()).unwrap();
    (one, other)
}

fn meet(one: &mut Document, other: &mut Document) {
    one.merge_saved(&other.save(), &vouchers(other), &trust()).unwrap();
    other.merge_saved(&one.save(), &vouchers(one), &trust()).unwrap();
    assert_eq!(one.heads(), other.heads());
}

fn write(document: &mut Document, write: impl FnOnce(&mut Writer<'_, '_>) -> Done) -> Applied {
    let applied = document.write(0, write).unwrap().expect("something was written");
    vouch(document, &applied);
    applied
}

fn vouch(document: &mut Document, applied: &Applied) {
    let last = applied.changes.last().unwrap();
    let (id, trust) = (document.id(), trust());
    document.vouch(trust.vouch(&id, last.actor, last.seq, last.hash));
}

fn session(title: &str) -> StoredSession {
    StoredSession {
        workspace_id: None,
        parent_id: None,
        project_id: None,
        directory: None,
        title: Some(title.to_owned()),
        created_at: 0,
        updated_at: 0,
        archived_at: None,
        agent: None,
        agent_server: None,
        extra: Extra::new(),
        deleted: None,
    }
}

fn workspace() -> StoredWorkspace {
    StoredWorkspace {
        name: "w".to_owned(),
        kind: "directory".to_owned(),
        project_id: None,
        directory: None,
        branch: None,
        created_at: 0,
        agent_server: None,
        keepers: BTreeMap::new(),
        used: false,
        extra: Extra::new(),
        teardown: None,
        requests: BTreeMap::new(),
        dismissals: BTreeMap::new(),
    }
}

fn deletion() -> Deletion {
    Deletion { by: HOST, at: 0, operation: "op".parse().unwrap(), reason: None }
}

#[test]
fn a_document_is_given_away_as_it_was_read_until_something_comes_to_it() {
    let (mut one, mut other) = replicas();
    let (first, second): (SessionId, SessionId) = ("s".parse().unwrap(), "t".parse().unwrap());
    write(&mut other, |tx| tx.create_session(&second, &session("other")));
    let bytes = one.automerge.save_nocompress();
    assert_ne!(bytes, one.save(), "nobody here saves it like this");
    let actor = super::super::actor(&HOST, StartId([3; 8]));
    let (id, signed) = (one.id(), vouchers(&one));
    let read = || Document::load(id, actor.clone(), Some(&bytes), &[], &signed).unwrap();
    let judged = Judged::of(id, &bytes).unwrap();
    let adopted = Document::adopt_judged(judged, actor.clone(), &bytes, &signed, &trust());
    for document in [read(), read().clone(), read().fork(actor.clone()), adopted.unwrap().0] {
        assert_eq!(document.save(), bytes);
    }
    let change = write(&mut one, |tx| tx.create_session(&first, &session("one")));
    let change = [change.changes[0].bytes.clone()];
    let behind = Document::load(id, actor.clone(), Some(&bytes), &change, &signed).unwrap();
    let (mut written, mut gained, mut merged) = (read(), read(), read());
    write(&mut written, |tx| tx.create_session(&first, &session("written")));
    gained.merge_saved(&other.save(), &vouchers(&other), &trust()).unwrap();
    merged.automerge.merge(&mut other.automerge).unwrap();
    for document in [behind, written, gained, merged] {
        let saved = Document::load(id, actor.clone(), Some(&document.save()), &[], &[]).unwrap();
        assert_eq!(saved.heads(), document.heads());
        assert_ne!(saved.heads(), read().heads());
    }
}

#[test]
fn a_grave_wins_over_a_creation_that_did_not_know_of_it() {
    let (mut one, mut other) = replicas();
    let id: SessionId = "s".parse().unwrap();
    write(&mut one, |tx| tx.create_session(&id, &session("one")));
    write(&mut one, |tx| tx.purge_session(&id, false));
    write(&mut other, |tx| tx.create_session(&id, &session("other")));
    meet(&mut one, &mut other);
    for document in [&one, &other] {
        assert_eq!(document.session(&id), None);
        assert!(document.is_session_spent(&id));
    }
}

#[test]
fn of_two_records_made_at_once_one_is_read_and_a_delete_of_either_counts() {
    let (mut one, mut other) = replicas();
    let id: SessionId = "s".parse().unwrap();
    write(&mut one, |tx| tx.create_session(&id, &session("one")));
    write(&mut one, |tx| tx.delete_session(&id, &deletion()));
    write(&mut other, |tx| tx.create_session(&id, &session("other")));
    meet(&mut one, &mut other);
    assert_eq!(one.session(&id), other.session(&id));
    assert_eq!(one.session(&id).unwrap().deleted, Some(deletion()));
    // And both are written to from now on.
    write(&mut other, |tx| tx.restore_session(&id));
    meet(&mut one, &mut other);
    assert_eq!(one.session(&id).unwrap().deleted, None);
}

#[test]
fn a_delete_that_an_agent_and_a_person_made_at_once_is_the_persons() {
    let by_agent = Deletion { reason: Some(DeletionReason::Agent), ..deletion() };
    let id: SessionId = "s".parse().unwrap();
    for (first, second) in [(by_agent.clone(), deletion()), (deletion(), by_agent.clone())] {
        let (mut one, mut other) = replicas();
        write(&mut one, |tx| tx.create_session(&id, &session("s")));
        meet(&mut one, &mut other);
        write(&mut one, |tx| tx.delete_session(&id, &first));
        write(&mut other, |tx| tx.delete_session(&id, &second));
        assert!(first.reason.is_none() || one.session(&id).unwrap().deleted == Some(first));
        meet(&mut one, &mut other);
        let actor = super::super::actor(&HOST, StartId([3; 8]));
        for document in [&one, &other, &one.rewritten(1, actor, 0).0] {
            assert_eq!(document.session(&id).unwrap().deleted, Some(deletion()));
            assert_eq!(document.records().sessions, [(id.clone(), document.session(&id))]);
        }
    }
}

#[test]
fn who_has_a_session_is_not_forgotten_because_another_one_was_made_under_its_id() {
    let id: SessionId = "s".parse().unwrap();
    let mut owned = session("owned");
    owned.agent_server = Some("http://localhost/".to_owned());
    for turned in [false, true] {
        let (mut one, mut other) = replicas();
        let (mine, theirs) = if turned { (&mut other, &mut one) } else { (&mut one, &mut other) };
        write(mine, |tx| tx.create_session(&id, &owned));
        write(theirs, |tx| tx.create_session(&id, &session("forged")));
        meet(mine, theirs);
        let actor = super::super::actor(&HOST, StartId([3; 8]));
        for document in [&one, &other, &one.rewritten(1, actor, 0).0] {
            let server = document.session(&id).unwrap().agent_server;
            assert_eq!(server, owned.agent_server);
        }
    }
}

#[test]
fn which_server_has_a_workspace_is_kept_when_the_document_is_rewritten_and_may_be_unsaid() {
    let (said, unsaid): (WorkspaceId, WorkspaceId) = ("w1".parse().unwrap(), "w2".parse().unwrap());
    let server = "http://localhost/";
    let (mut one, _) = replicas();
    write(&mut one, |tx| {
        tx.create_workspace(&said, &workspace())?;
        // As every record of a version that did not have the field.
        tx.create_workspace(&unsaid, &workspace())?;
        tx.set_workspace_server(&said, server)
    });
    let actor = super::super::actor(&HOST, StartId([3; 8]));
    for document in [&one, &one.rewritten(1, actor, 0).0] {
        let read = document.workspace(&said).unwrap();
        assert_eq!(read.agent_server.as_deref(), Some(server));
        assert_eq!(document.workspace(&unsaid).unwrap(), workspace());
    }
}

/// Each made a map of its own for the first delete that it noted, and only one of the two was
/// looked into: an undone delete stayed noted, and could be undone again.
#[test]
fn a_dismissal_is_taken_back_from_whichever_map_it_was_noted_in() {
    let (mut one, mut other) = replicas();
    let id: WorkspaceId = "w".parse().unwrap();
    write(&mut one, |tx| tx.create_workspace(&id, &workspace()));
    meet(&mut one, &mut other);
    let operations = ["op1", "op2"].map(|text| text.parse().unwrap());
    write(&mut one, |tx| tx.dismiss(&id, &operations[0], false));
    write(&mut other, |tx| tx.dismiss(&id, &operations[1], true));
    meet(&mut one, &mut other);
    assert_eq!(one.workspace(&id).unwrap().dismissals.len(), 2);
    for operation in &operations {
        write(&mut one, |tx| tx.undismiss(&id, operation));
    }
    meet(&mut one, &mut other);
    assert_eq!(other.workspace(&id).unwrap().dismissals, BTreeMap::new());
}

#[test]
fn a_change_touches_the_records_that_it_writes_to_and_no_others() {
    let (mut one, mut other) = replicas();
    let (s, w): (SessionId, WorkspaceId) = ("s".parse().unwrap(), "w".parse().unwrap());
    write(&mut one, |tx| tx.create_session(&"quiet".parse().unwrap(), &session("quiet")));
    let applied = write(&mut one, |tx| {
        tx.create_session(&s, &session("one"))?;
        tx.create_workspace(&w, &workspace())
    });
    use super::super::Touched;
    let both: BTreeSet<_> = [Touched::Session(s.clone()), Touched::Workspace(w.clone())].into();
    assert_eq!(applied.touched, both);
    meet(&mut one, &mut other);
    // Also what is written deep inside of it, and beside a purge that takes it away.
    let deep = write(&mut other, |tx| tx.delete_session(&s, &deletion()));
    assert_eq!(deep.touched, [Touched::Session(s.clone())].into());
    write(&mut one, |tx| tx.purge_session(&s, true));
    let bytes: Vec<_> = deep.changes.into_iter().map(|change| change.bytes).collect();
    let applied = one.apply(&bytes, &vouchers(&other), &trust()).unwrap();
    assert_eq!(applied.touched, [Touched::Session(s.clone())].into());
    assert_eq!(one.session(&s), None);
}

#[test]
fn an_epoch_that_another_node_has_begun_is_refused() {
    for (by, taken) in [(HOST, true), (NodeId([2; 32]), false)] {
        let actor = super::super::actor(&by, StartId([1; 8]));
        let mut automerge = Automerge::new().with_actor(actor);
        let mut tx = automerge.transaction();
        genesis(&mut tx, HOST, 1).unwrap();
        tx.commit();
        assert_eq!(Places::find(&automerge, HOST, 1).is_some(), taken);
    }
}

#[test]
fn another_document_under_this_ones_name_is_refused_and_changes_nothing() {
    let (mut one, _) = replicas();
    let before = one.heads();
    let actor = super::super::actor(&HOST, StartId([9; 8]));
    let (twin, _) = Document::create_host(HOST, 0, actor, 0);
    let refused = one.merge_saved(&twin.save(), &[], &trust());
    assert!(matches!(refused, Err(super::super::ApplyError::Misnamed { .. })), "{refused:?}");
    assert_eq!(one.heads(), before);
}
