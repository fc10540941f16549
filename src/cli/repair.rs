//! Owns `sessionmesh repair`.
//!
//! Must not know how a store is read. Invariant: it says what was kept, what was not, and what to
//! do next; it works without a daemon, and only without one.

use std::path::Path;

use super::{args::Json, failure::Failure, output::Output, printable::printable};
use crate::daemon::repair::{self, Report};

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    json: Json,
}

pub fn run(args: &Args, data_dir: &Path, mut out: Output) -> Result<(), Failure> {
    let report = repair::repair(data_dir)?;
    if args.json.json {
        return out.json(&report);
    }
    out.write(&text(&report))
}

fn text(report: &Report) -> String {
    if !report.damaged {
        return "the store is sound; nothing was changed\n".to_owned();
    }
    let mut text = String::from("the store was damaged; there is a new one in its place\n");
    if let Some(aside) = &report.aside {
        let aside = printable(&aside.display().to_string());
        text += &format!("the damaged one is kept as {aside}\n");
    }
    for (title, lines) in
        [("kept", &report.kept), ("could not be read", &report.lost), ("next", &report.next)]
    {
        text += &format!("{title}:\n");
        lines.iter().for_each(|line| text += &format!("  {}\n", printable(line)));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_person_is_told_where_the_damaged_store_is_and_what_to_do() {
        let mut report = Report {
            damaged: true,
            kept: vec!["the key".to_owned()],
            lost: vec!["the journal".to_owned()],
            aside: Some("/d/state.redb.damaged-1".into()),
            from_peers: true,
            next: vec!["start it".to_owned()],
        };
        let said = text(&report);
        for part in ["kept as /d/state.redb.damaged-1", "\n  the key\n", "next:\n  start it\n"] {
            assert!(said.contains(part), "{part} is not in {said}");
        }
        report.damaged = false;
        assert_eq!(text(&report).lines().count(), 1);
    }
}
