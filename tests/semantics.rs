//! The table of concurrent pairs of the contract, row by row.
//!
//! Each row is played with the pair's replicas and a third one. The third learns of the left
//! side's change first, or of the right side's, or stands between the two as their only link; and
//! each of the three is the workspace's host in turn, where the row leaves that open. At the end
//! every replica has the row's outcome, equal heads and an equal digest, and each one's own diffs,
//! folded from the first snapshot, gave its view at every step and told each change once (the
//! world sees to that).

#[expect(dead_code, reason = "each test uses its own part of the world")]
mod common;

use common::scene::{ANY, LEFT, RIGHT, Row, Scene, THIRD, nothing, room};
use sessionmesh::replica::record::{
    SessionState::{Deleted, Live, Stranded},
    WorkspaceState::{self, Sealed, Vacated},
};

#[test]
fn row_1_deleting_the_only_session_vacates_its_workspace() {
    Row {
        hosts: ANY,
        before: |s| room(s, &["s"]),
        left: |s| s.delete("s"),
        right: nothing,
        then: |s| {
            s.session_is("s", Deleted);
            s.workspace_is("w", Vacated, 0);
            s.told("session.deleted", "s", 1);
            s.told("workspace.removed", "w", 1);
        },
    }
    .play();
}

#[test]
fn row_2_two_replicas_that_each_delete_one_of_the_last_two_sessions_vacate_the_workspace() {
    Row {
        hosts: ANY,
        before: |s| room(s, &["s1", "s2"]),
        left: |s| s.delete("s1"),
        right: |s| s.delete("s2"),
        then: |s| {
            s.session_is("s1", Deleted);
            s.session_is("s2", Deleted);
            s.workspace_is("w", Vacated, 0);
            s.told("session.deleted", "s1", 1);
            s.told("session.deleted", "s2", 1);
            s.told("workspace.removed", "w", 1);
        },
    }
    .play();
}

#[test]
fn row_3_a_session_created_beside_the_delete_of_the_last_one_keeps_the_workspace() {
    Row {
        hosts: ANY,
        before: |s| room(s, &["s"]),
        left: |s| s.delete("s"),
        right: |s| s.create("s2", "w"),
        then: |s| {
            s.session_is("s", Deleted);
            s.session_is("s2", Live);
            s.workspace_is("w", WorkspaceState::Live, 1);
            s.told("session.deleted", "s", 1);
            s.told("session.created", "s2", 1);
        },
    }
    .play();
}

#[test]
fn row_4_a_session_created_beside_the_seal_is_stranded() {
    Row {
        hosts: &[LEFT],
        before: |s| {
            room(s, &["s"]);
            s.delete("s");
        },
        left: Scene::pass_undo_window,
        right: |s| s.create("s2", "w"),
        then: |s| {
            s.session_is("s2", Stranded);
            s.workspace_is("w", Sealed, 1);
            s.told("workspace.sealed", "w", 1);
            s.told("session.purged", "s", 1);
        },
    }
    .play();
}

#[test]
fn row_5_two_deletes_of_one_session_are_told_once_on_each_replica() {
    Row {
        hosts: ANY,
        before: |s| room(s, &["s"]),
        left: |s| s.delete("s"),
        right: |s| s.delete("s"),
        then: |s| {
            s.session_is("s", Deleted);
            s.workspace_is("w", Vacated, 0);
            s.told("session.deleted", "s", 1);
            s.told("workspace.removed", "w", 1);
        },
    }
    .play();
}

#[test]
fn row_6_a_restore_shows_the_name_given_beside_the_delete() {
    Row {
        hosts: ANY,
        before: |s| room(s, &["s"]),
        left: |s| s.delete("s"),
        right: |s| s.rename("s", "new"),
        then: |s| {
            s.session_is("s", Deleted);
            s.told("session.deleted", "s", 1);
            s.restore("s");
            s.world.agree();
            s.session_is("s", Live);
            s.workspace_is("w", WorkspaceState::Live, 1);
            s.told("session.restored", "s", 1);
            for node in 0..3 {
                let title = s.world.session(node, s.host, "s").unwrap().title;
                assert_eq!(title.as_deref(), Some("new"));
            }
        },
    }
    .play();
}

#[test]
fn row_7_a_delete_that_did_not_see_the_restore_wins_over_it() {
    Row {
        hosts: ANY,
        before: |s| {
            room(s, &["s"]);
            s.delete("s");
        },
        left: |s| s.restore("s"),
        right: |s| s.delete("s"),
        then: |s| {
            s.session_is("s", Deleted);
            s.workspace_is("w", Vacated, 0);
        },
    }
    .play();
}

#[test]
fn row_8_a_purge_wins_over_a_restore() {
    Row {
        hosts: &[RIGHT],
        before: |s| {
            room(s, &["s", "other"]);
            s.delete("s");
        },
        left: |s| s.restore("s"),
        right: Scene::pass_undo_window,
        then: |s| {
            for node in 0..3 {
                assert_eq!(s.world.session(node, s.host, "s"), None);
            }
            s.workspace_is("w", WorkspaceState::Live, 1);
            s.told("session.purged", "s", 1);
        },
    }
    .play();
}

#[test]
fn row_9_deleting_a_workspace_spares_the_session_that_it_did_not_see() {
    Row {
        hosts: ANY,
        before: |s| room(s, &["s1", "s3"]),
        left: |s| s.delete_workspace("w"),
        right: |s| s.create("s2", "w"),
        then: |s| {
            s.session_is("s1", Deleted);
            s.session_is("s3", Deleted);
            s.session_is("s2", Live);
            s.workspace_is("w", WorkspaceState::Live, 1);
            s.told("session.deleted", "s1", 1);
            s.told("session.created", "s2", 1);
        },
    }
    .play();
}

#[test]
fn row_10_the_first_session_keeps_a_workspace_that_was_deleted_fresh() {
    Row {
        hosts: ANY,
        before: |s| s.workspace("w"),
        left: |s| s.delete_workspace("w"),
        right: |s| s.create("s", "w"),
        then: |s| {
            s.session_is("s", Live);
            s.workspace_is("w", WorkspaceState::Live, 1);
        },
    }
    .play();
}

#[test]
fn row_11_a_keep_beside_the_delete_of_the_workspace_keeps_it_empty() {
    Row {
        hosts: ANY,
        before: |s| room(s, &["s"]),
        left: |s| s.delete_workspace("w"),
        right: |s| s.set_keep("w", true),
        then: |s| {
            s.session_is("s", Deleted);
            s.workspace_is("w", WorkspaceState::Live, 0);
        },
    }
    .play();
}

#[test]
fn row_12_a_child_created_beside_the_delete_of_its_parent_goes_and_comes_back_with_it() {
    Row {
        hosts: ANY,
        before: |s| room(s, &["p"]),
        left: |s| s.delete("p"),
        right: |s| s.create_child("c", "p", "w"),
        then: |s| {
            s.session_is("p", Deleted);
            s.session_is("c", Deleted);
            s.workspace_is("w", Vacated, 0);
            s.restore("p");
            s.world.agree();
            s.session_is("p", Live);
            s.session_is("c", Live);
            s.workspace_is("w", WorkspaceState::Live, 2);
            s.told("session.restored", "c", 1);
        },
    }
    .play();
}

#[test]
fn row_13_restoring_a_parent_does_not_restore_the_child_that_was_deleted_by_itself() {
    Row {
        hosts: ANY,
        before: |s| {
            room(s, &["p"]);
            s.create_child("c", "p", "w");
        },
        left: |s| s.delete("p"),
        right: |s| s.delete("c"),
        then: |s| {
            s.workspace_is("w", Vacated, 0);
            s.restore("p");
            s.world.agree();
            s.session_is("p", Live);
            s.session_is("c", Deleted);
            s.workspace_is("w", WorkspaceState::Live, 1);
            s.told("session.deleted", "c", 1);
        },
    }
    .play();
}

#[test]
fn row_14_a_session_deleted_beside_its_move_vacates_both_workspaces() {
    Row {
        hosts: ANY,
        before: |s| {
            s.workspace("w1");
            s.workspace("w2");
            s.create("s", "w1");
        },
        left: |s| s.move_to("s", "w2"),
        right: |s| s.delete("s"),
        then: |s| {
            s.session_is("s", Deleted);
            s.workspace_is("w1", Vacated, 0);
            s.workspace_is("w2", Vacated, 0);
            s.told("session.deleted", "s", 1);
        },
    }
    .play();
}

#[test]
fn row_15_a_session_moved_to_two_places_ends_in_one_of_them_everywhere() {
    Row {
        hosts: ANY,
        before: |s| {
            ["w1", "w2", "w3"].iter().for_each(|id| s.workspace(id));
            s.create("s", "w1");
        },
        left: |s| s.move_to("s", "w2"),
        right: |s| s.move_to("s", "w3"),
        then: |s| {
            s.session_is("s", Live);
            let home = s.world.session(0, s.host, "s").unwrap().workspace_id.unwrap();
            let other = if home.as_str() == "w2" { "w3" } else { "w2" };
            s.workspace_is(home.as_str(), WorkspaceState::Live, 1);
            s.workspace_is(other, Vacated, 0);
            s.workspace_is("w1", Vacated, 0);
        },
    }
    .play();
}

#[test]
fn row_16_a_session_created_beside_the_move_of_the_last_one_keeps_the_workspace() {
    Row {
        hosts: ANY,
        before: |s| room(s, &["s"]),
        left: |s| s.move_out("s"),
        right: |s| s.create("s2", "w"),
        then: |s| {
            s.session_is("s", Live);
            s.session_is("s2", Live);
            s.workspace_is("w", WorkspaceState::Live, 1);
        },
    }
    .play();
}

#[test]
fn row_17_a_session_moved_in_beside_the_seal_is_stranded() {
    Row {
        hosts: &[RIGHT],
        before: |s| {
            s.workspace("w");
            s.workspace("w2");
            s.create("s", "w");
            s.create("last", "w2");
            s.delete("last");
        },
        left: |s| s.move_to("s", "w2"),
        right: Scene::pass_undo_window,
        then: |s| {
            s.session_is("s", Stranded);
            s.workspace_is("w2", Sealed, 1);
            s.told("session.stranded", "s", 1);
        },
    }
    .play();
}

#[test]
fn row_18_an_archived_session_keeps_its_workspace() {
    Row {
        hosts: ANY,
        before: |s| room(s, &["s"]),
        left: |s| s.archive("s"),
        right: nothing,
        then: |s| {
            s.session_is("s", Live);
            s.workspace_is("w", WorkspaceState::Live, 1);
            s.told("session.updated", "s", 1);
        },
    }
    .play();
}

#[test]
fn row_19_a_keep_beside_an_unkeep_keeps_the_workspace() {
    Row {
        hosts: ANY,
        before: |s| {
            room(s, &["s"]);
            s.set_keep("w", true);
            s.delete("s");
        },
        left: |s| s.set_keep("w", false),
        right: |s| s.set_keep("w", true),
        then: |s| s.workspace_is("w", WorkspaceState::Live, 0),
    }
    .play();
}

#[test]
fn row_20_what_an_offline_replica_deleted_is_purged_once_another_relayed_it() {
    let host = RIGHT;
    let mut scene = Scene::new(host);
    room(&mut scene, &["s", "other"]);
    scene.world.agree();
    scene.world.part();
    scene.at = LEFT;
    scene.delete("s");
    scene.world.plug(LEFT, THIRD);
    scene.world.agree();
    scene.world.cut(LEFT, THIRD);
    scene.world.plug(THIRD, RIGHT);
    scene.world.agree();
    scene.session_is("s", Deleted);
    scene.pass_undo_window();
    scene.world.agree();
    for node in [RIGHT, THIRD] {
        assert_eq!(scene.world.session(node, host, "s"), None, "s is gone");
        let told = &scene.world.nodes[node].watch.events;
        assert_eq!(told.get(&("session.purged", "s".to_owned())), Some(&1));
        assert_eq!(told.get(&("session.restored", "s".to_owned())), None);
    }
    // Even if it comes back after all.
    scene.world.plug(LEFT, THIRD);
    scene.world.agree();
    assert_eq!(scene.world.session(LEFT, host, "s"), None, "s is gone");
}
