//! A process that is killed while it writes loses nothing that it has acknowledged.

use std::{
    env,
    io::{BufRead, BufReader, Write as _},
    path::Path,
    process::{Command, Stdio},
};

use sessionmesh::{replica::effect::Write, store::Store};

use crate::workload::REAL;

/// Tells the child process, which is this test once more, where to write.
const FOLDER_VARIABLE: &str = "SESSIONMESH_TEST_STORE_FOLDER";
const NAME: &str = "kill::a_killed_process_loses_nothing_that_it_has_acknowledged";
const ACKNOWLEDGED: &str = "acknowledged ";

/// Returns the numbers that a store holds; they were written in order, from 0.
fn numbers(store: &Store) -> Vec<u64> {
    let stored = store.load().unwrap().documents;
    let changes = stored.into_iter().flat_map(|document| document.changes);
    changes.map(|bytes| u64::from_be_bytes(bytes[..8].try_into().unwrap())).collect()
}

/// Writes numbers, and says so, until it is killed.
fn write_until_killed(folder: &Path) -> ! {
    let store = Store::open(folder).unwrap();
    let mut out = std::io::stdout();
    for number in numbers(&store).len() as u64.. {
        let bytes = number.to_be_bytes().repeat(1 + number as usize % 900);
        store.commit(&[Write::Change { document: REAL, bytes }]).unwrap();
        writeln!(out, "{ACKNOWLEDGED}{number}").unwrap();
    }
    unreachable!("there are more numbers than time")
}

#[test]
fn a_killed_process_loses_nothing_that_it_has_acknowledged() {
    if let Some(folder) = env::var_os(FOLDER_VARIABLE) {
        write_until_killed(Path::new(&folder));
    }
    let folder = tempfile::tempdir().unwrap();
    let mut rng = fastrand::Rng::with_seed(1);
    for round in 0..12 {
        let mut child = Command::new(env::current_exe().unwrap())
            .args(["--exact", NAME, "--nocapture"])
            .env(FOLDER_VARIABLE, folder.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut said = lines
            .map_while(Result::ok)
            .filter_map(|line| line.split_once(ACKNOWLEDGED)?.1.parse::<u64>().ok());
        let mut last = said.by_ref().take(rng.usize(1..60)).last();
        child.kill().unwrap();
        child.wait().unwrap();
        // What it still said before it died counts as well.
        last = said.last().or(last);
        let last = last.unwrap_or_else(|| panic!("round {round}: the child wrote nothing"));

        let store = Store::open(folder.path()).unwrap();
        let found = numbers(&store);
        assert_eq!(found, (0..found.len() as u64).collect::<Vec<_>>(), "round {round}");
        // One commit may have been under way.
        assert!(
            [last + 1, last + 2].contains(&(found.len() as u64)),
            "round {round}: {last} was acknowledged, the store ends before {}",
            found.len()
        );
        drop(store);
    }
}
