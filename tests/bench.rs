//! Proves that `sessionmesh bench` runs its scenarios against real daemons and tells what it saw.
//!
//! Must not judge how fast anything is. Invariant: a run that ends well has seen every delete at
//! every other node.

#[path = "harness/mod.rs"]
mod harness;

use std::process::Output;

use serde_json::Value;

fn bench(arguments: &[&str]) -> Output {
    let folder = tempfile::tempdir().unwrap();
    let mut command = harness::command(folder.path());
    command.args(["bench"]).args(arguments).output().expect("the command starts")
}

fn told(output: &Output) -> Value {
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{error}");
    serde_json::from_slice(&output.stdout).expect("it is JSON")
}

#[test]
fn a_line_of_nodes_in_bad_weather_with_a_cut_and_a_storm_ends_in_agreement() {
    let told = told(&bench(&[
        "--nodes",
        "3",
        "--hosts",
        "2",
        "--topology",
        "line",
        "--sessions",
        "40",
        "--rate",
        "40",
        "--mix",
        "title=2,create=1,delete=1",
        "--time",
        "1s",
        "--subscribers",
        "1",
        "--loss",
        "1",
        "--delay",
        "2ms",
        "--cuts",
        "1",
        "--cut-time",
        "300ms",
        "--storms",
        "1",
        "--json",
    ]));
    for (samples, least) in [("answered", 10), ("change_seen", 10), ("delete_seen", 1)] {
        assert!(told[samples]["count"].as_u64().unwrap() >= least, "{samples}: {told:#}");
    }
    for samples in ["converged", "healed", "reconnected"] {
        assert_eq!(told[samples]["count"], 1, "{samples}: {told:#}");
    }
    assert!(told["bytes_per_change"].as_f64().unwrap() > 0.0, "{told:#}");
    assert_eq!(told["changes"], told["answered"]["count"], "{told:#}");
}

#[tokio::test]
async fn daemons_that_run_already_are_measured_and_left_as_they_were() {
    let folder = tempfile::tempdir().unwrap();
    let daemons = harness::fleet(folder.path(), &["a", "b"], &["--undo-window", "1h"]).await;
    let dirs: Vec<String> =
        daemons.iter().map(|daemon| daemon.dir().display().to_string()).collect();
    let told = told(&bench(&[
        "--remote",
        &dirs[0],
        "--remote",
        &dirs[1],
        "--sessions",
        "10",
        "--rate",
        "0",
        "--time",
        "500ms",
        "--json",
    ]));
    assert!(told["change_seen"]["count"].as_u64().unwrap() > 0, "{told:#}");
    assert_eq!(told["rate_asked"], Value::Null);
    for daemon in &daemons {
        // A delete of one node is told to the other at its own pace.
        let live = "/v1/sessions?state=live,stranded";
        daemon
            .until(live, "nothing of the run is left", |list| {
                list["sessions"].as_array().is_some_and(Vec::is_empty)
            })
            .await;
    }
}

#[test]
fn a_scenario_that_makes_no_sense_is_not_begun() {
    for arguments in [
        &["--nodes", "1"][..],
        &["--nodes", "65"],
        &["--mix", "title=0"],
        &["--loss", "100"],
        &["--topology", "ring"],
        &["--remote", "/nowhere", "--loss", "1"],
    ] {
        assert_eq!(bench(arguments).status.code(), Some(2), "{arguments:?}");
    }
}
