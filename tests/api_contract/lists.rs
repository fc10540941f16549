//! Owns the claims about lists: order, filters and pages.

use std::collections::BTreeSet;

use serde_json::Value;
use sessionmesh::replica::record::{Session, SessionState, Workspace, WorkspaceState};

use crate::fake::{DESK, LAP, World, deleted_session, session, workspace};

fn ids(page: &Value) -> Vec<String> {
    let records = page.get("sessions").unwrap_or_else(|| &page["workspaces"]);
    records.as_array().unwrap().iter().map(|r| r["id"].as_str().unwrap().to_owned()).collect()
}

async fn listed(world: &World, uri: &str) -> Vec<String> {
    let (status, page) = world.call("GET", uri, None).await;
    assert_eq!(status, 200, "{uri}: {page}");
    ids(&page)
}

fn samples() -> World {
    let sessions = vec![
        Session { updated_at: 10, title: Some("Fix the ÄRGER".to_owned()), ..session("ses_live") },
        Session { updated_at: 30, host: LAP, project_id: None, ..session("ses_lap") },
        Session { updated_at: 20, state: SessionState::Stranded, ..session("ses_stranded") },
        Session {
            updated_at: 40,
            workspace_id: Some("wrk_2".parse().unwrap()),
            ..deleted_session("ses_deleted")
        },
    ];
    let state = |id: &str, state| Workspace { state, ..workspace(id) };
    let workspaces = vec![
        Workspace { created_at: 5, ..workspace("wrk_live") },
        state("wrk_vacated", WorkspaceState::Vacated),
        state("wrk_sealed", WorkspaceState::Sealed),
        Workspace { host: LAP, created_at: 7, ..state("wrk_failed", WorkspaceState::Failed) },
    ];
    World::new(sessions, workspaces)
}

#[tokio::test]
async fn sessions_come_newest_first_and_deleted_ones_only_when_asked_for() {
    let world = samples();
    let rows = [
        ("", "ses_lap ses_stranded ses_live"),
        ("?state=all", "ses_deleted ses_lap ses_stranded ses_live"),
        ("?state=deleted", "ses_deleted"),
        ("?state=deleted,live", "ses_deleted ses_lap ses_live"),
        ("?host=lap", "ses_lap"),
        ("?host=d0d0", "ses_stranded ses_live"),
        ("?workspace_id=wrk_1@lap", "ses_lap"),
        ("?workspace_id=wrk_2&state=all", "ses_deleted"),
        ("?workspace_id=wrk_9", ""),
        ("?project_id=prj", "ses_stranded ses_live"),
        ("?search=%C3%A4rger", "ses_live"),
        ("?search=STRAND", "ses_stranded"),
        ("?limit=1", "ses_lap"),
    ];
    for (query, expected) in rows {
        let found = listed(&world, &format!("/v1/sessions{query}")).await.join(" ");
        assert_eq!(found, expected, "{query}");
    }
}

#[tokio::test]
async fn workspaces_that_are_on_their_way_out_are_listed_only_when_asked_for() {
    let world = samples();
    for (query, expected) in [
        ("", "wrk_failed wrk_live"),
        ("?state=vacated,sealed", "wrk_sealed wrk_vacated"),
        ("?host=lap", "wrk_failed"),
        ("?search=main&limit=1", "wrk_failed"),
    ] {
        let found = listed(&world, &format!("/v1/workspaces{query}")).await.join(" ");
        assert_eq!(found, expected, "{query}");
    }
}

#[tokio::test]
async fn a_query_that_means_nothing_is_refused() {
    let world = samples();
    for (query, status, code) in [
        ("?state=gone", 400, "invalid_query"),
        ("?state=", 400, "invalid_query"),
        ("?limit=0", 400, "invalid_query"),
        ("?limit=1001", 400, "invalid_query"),
        ("?limit=many", 400, "invalid_query"),
        ("?cursor=nonsense", 400, "invalid_query"),
        ("?stat=all", 400, "invalid_query"),
        ("?workspace_id=a%20b", 422, "invalid_id"),
        ("?host=nobody", 404, "node_not_found"),
    ] {
        let (got, problem) = world.call("GET", &format!("/v1/sessions{query}"), None).await;
        assert_eq!((got.as_u16(), problem["code"].as_str()), (status, Some(code)), "{query}");
    }
    let (got, _) = world.call("GET", "/v1/workspaces?workspace_id=w", None).await;
    assert_eq!(got, 400);
}

#[tokio::test]
async fn following_the_pages_gives_every_record_once_and_in_order() {
    // Times repeat and so do ids on two hosts, so that each part of the order decides somewhere.
    let sessions: Vec<_> = (0..230)
        .map(|n| Session {
            host: if n % 2 == 0 { DESK } else { LAP },
            updated_at: i64::from(n % 7) - 3,
            ..session(&format!("ses_{}", n / 2))
        })
        .collect();
    let mut expected: Vec<_> =
        sessions.iter().map(|s| (-s.updated_at, s.id.clone(), s.host)).collect();
    expected.sort();
    let world = World::new(sessions, vec![]);
    for limit in [1, 7, 100, 230, 231] {
        let mut found = Vec::new();
        let mut pages = 0;
        let mut uri = format!("/v1/sessions?limit={limit}");
        loop {
            let (_, page) = world.call("GET", &uri, None).await;
            pages += 1;
            for record in page["sessions"].as_array().unwrap() {
                let record: Session = serde_json::from_value(record.clone()).unwrap();
                found.push((-record.updated_at, record.id, record.host));
            }
            let Some(next) = page["next_cursor"].as_str() else { break };
            uri = format!("/v1/sessions?limit={limit}&cursor={next}");
        }
        assert_eq!(found, expected);
        assert_eq!(pages, expected.len().div_ceil(limit));
        assert_eq!(found.iter().collect::<BTreeSet<_>>().len(), 230);
    }
}
