//! What a node does while much of what a peer sent is being merged beside its loop.

use sessionmesh::replica::{command::Command, effect::Input};

use crate::{
    Change, Frame, Rogue, World, actor_of, closes, copy, create, host_document, scene, session_at,
    voucher_by,
};
use automerge::{ActorId, transaction::Transactable as _};

/// Has node 0 begin to read changes of a node's, all by one actor, aside.
fn begin(world: &mut World, author: &Rogue, changes: &[Change]) {
    let document = host_document(world, 0);
    let last = changes.last().expect("there is one");
    let vouchers = vec![voucher_by(author.id, &document, last)];
    let changes = changes.iter().map(|change| change.raw_bytes().to_vec()).collect();
    let frame = Frame::Changes { document, changes, vouchers };
    world.handle(0, Input::FrameReceived { peer: author.id, frame });
}

/// So many titles of one session, each written over the one before.
fn titles(world: &World, author: &Rogue, text: &str, count: usize) -> Vec<Change> {
    let mut doc = copy(world, author.node, &host_document(world, 0));
    doc.set_actor(ActorId::from(actor_of(author.id, 0x77)));
    let record = session_at(&doc, "s0");
    let write = |number| {
        doc.put(&record, "title", format!("{text} {number}")).unwrap();
        doc.commit();
        doc.get_last_local_change().unwrap()
    };
    (0..count).map(write).collect()
}

fn title(world: &World, node: usize) -> String {
    world.session(node, 0, "s0").unwrap().title.clone().unwrap_or_default()
}

#[test]
fn what_is_written_while_a_history_is_merged_is_there_with_it_however_much_it_is() {
    for written in [0, 1, 200] {
        let mut world = scene();
        let author = Rogue::new(&world, 1);
        let changes = titles(&world, &author, "long", 300);
        begin(&mut world, &author, &changes);
        assert_eq!(title(&world, 0), "", "it is being read");
        (0..written).for_each(|number| create(&mut world, 0, 0, &format!("n{number}")));
        world.agree();
        assert_eq!(world.closes, []);
        assert_eq!(title(&world, 0), "long 299");
        for number in 0..written {
            assert!(world.session(2, 0, &format!("n{number}")).is_some(), "n{number}");
        }
        create(&mut world, 0, 0, "after");
        world.agree();
        assert!(world.session(1, 0, "after").is_some(), "the host's own changes go on");
    }
}

#[test]
fn what_waited_for_a_history_that_is_merged_is_told_with_it() {
    let mut world = scene();
    let author = Rogue::new(&world, 1);
    let changes = titles(&world, &author, "long", 101);
    let (last, before) = changes.split_last().unwrap();
    begin(&mut world, &author, before);
    begin(&mut world, &author, std::slice::from_ref(last));
    world.agree();
    assert_eq!(world.closes, []);
    assert_eq!((title(&world, 0), title(&world, 2)), ("long 100".into(), "long 100".into()));
}

/// The author has signed two histories that begin at one place; the second comes, and is taken, while
/// the first is being merged.
#[test]
fn of_two_histories_for_one_place_the_one_is_kept_that_was_taken_first() {
    let mut world = scene();
    let author = Rogue::new(&world, 1);
    let long = titles(&world, &author, "long", 100);
    let other = titles(&world, &author, "other", 2);
    begin(&mut world, &author, &long);
    begin(&mut world, &author, &other);
    assert_eq!(title(&world, 0), "other 1");
    world.agree();
    assert_eq!((title(&world, 0), title(&world, 2)), ("other 1".into(), "other 1".into()));
    assert!(
        closes(&world).iter().all(|(from, to, _)| (*from, *to) == (0, 1)),
        "{:?}",
        closes(&world)
    );
    let new = sessionmesh::replica::command::NewSession {
        id: Some("after".parse().unwrap()),
        ..Default::default()
    };
    assert!(world.ask(0, Command::CreateSession(new)).is_ok(), "the document is sound");
}

#[test]
fn what_was_judged_by_what_is_no_longer_so_is_judged_again() {
    let mut world = scene();
    let author = Rogue::new(&world, 1);
    let changes = titles(&world, &author, "late", 100);
    begin(&mut world, &author, &changes);
    world.ask(0, Command::Revoke(author.id.to_string())).expect("node 0 is an admin");
    world.deliver();
    assert_eq!((title(&world, 0), title(&world, 2)), (String::new(), String::new()));
}
