//! Owns `sessionmesh serve`: from what was typed to a daemon, and what it says when it is ready.
//!
//! Must not know how a daemon works. Invariant: stdout gets the readiness and nothing else; logs go
//! to stderr.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::mpsc,
    thread,
    time::Duration,
};

use clap::builder::{PossibleValuesParser, TypedValueParser as _};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::{failure::Failure, import, output::Output, printable::printable};
use crate::{
    agent::opencode,
    api, config,
    daemon::{self, Ready, Settings, handle::Handle},
    replica::ids::{FleetId, NodeId},
    telemetry::{self, Format},
};

/// How long the start waits for its output to take the readiness: a pipe takes it at once.
const READY_WITHIN: Duration = Duration::from_secs(1);

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Where other machines reach this one (QUIC, UDP); port 0 picks a free one
    #[arg(long, value_name = "IP:PORT", default_value = config::LISTEN_DEFAULT)]
    listen: SocketAddr,
    /// Where other machines are told to reach this one, where a router passes that on; may be
    /// repeated [default: this machine's addresses]
    #[arg(long, value_name = "IP:PORT")]
    advertise: Vec<SocketAddr>,
    /// Where programs on this machine reach the API; loopback only, port 0 picks a free one
    #[arg(long, value_name = "IP:PORT", default_value = config::HTTP_DEFAULT)]
    http: SocketAddr,
    /// What people call this machine [default: its host name]
    #[arg(long, value_name = "N", value_parser = config::parse_name)]
    name: Option<String>,
    /// A ticket of the fleet to join; without effect in a fleet that was joined already
    #[arg(long, value_name = "TICKET")]
    join: Option<String>,
    /// How long a delete can be undone before its host carries it out
    #[arg(long, value_name = "TIME", default_value = config::UNDO_WINDOW_DEFAULT, value_parser = config::parse_undo_window)]
    undo_window: Duration,
    /// How long what is ended is kept in the trash, to be restored; 0 deletes it at once
    #[arg(long, value_name = "TIME", default_value = config::KEEP_REMOVED_DEFAULT, value_parser = config::parse_keep_removed)]
    keep_removed: Duration,
    /// How much space the trash takes before what held nothing but committed work and ignored files
    /// is deleted early, though never on its first day
    #[arg(long, value_name = "SIZE", default_value = config::TRASH_MAX_DEFAULT, value_parser = config::parse_size)]
    trash_max: u64,
    /// How long deletes from before this start wait for another machine of the fleet, which may know
    /// that they were undone
    #[arg(long, value_name = "TIME", default_value = config::START_GRACE_DEFAULT, value_parser = config::parse_duration, hide = true)]
    start_grace: Duration,
    /// An opencode server beside this node, http://HOST:PORT, to be kept in step with it; may be
    /// given several times. A password is read from OPENCODE_SERVER_PASSWORD
    #[arg(long, value_name = "URL")]
    opencode: Vec<String>,
    /// A folder below which workspaces may be removed from disk; may be repeated [default: any]
    #[arg(long = "teardown-root", value_name = "DIR", value_parser = config::parse_root)]
    teardown_roots: Vec<PathBuf>,
    /// What logs and readiness look like
    #[arg(long, value_name = "FORMAT", default_value = "text", value_parser = PossibleValuesParser::new(["text", "json"]).try_map(|text| text.parse::<Format>()))]
    log_format: Format,
}

pub async fn run(args: Args, data_dir: PathBuf, out: Output) -> Result<(), Failure> {
    telemetry::start(args.log_format)?;
    let (stop, abort) =
        stop().map_err(|error| Failure::System { what: "signals can't be waited for", error })?;
    let servers = args.opencode.iter().map(|url| opencode::Client::new(url, import::password()));
    let mut servers = servers.collect::<Result<Vec<_>, _>>()?;
    servers.sort_by(|a, b| a.address().cmp(b.address()));
    servers.dedup_by(|a, b| a.address() == b.address());
    let settings = Settings {
        data_dir,
        listen: args.listen,
        advertise: args.advertise.iter().map(SocketAddr::to_string).collect(),
        http: args.http,
        name: args.name.unwrap_or_else(config::host_name),
        join: args.join,
        undo_window: args.undo_window,
        keep_removed: args.keep_removed,
        trash_max: args.trash_max,
        start_grace: args.start_grace,
        opencode: servers,
        bridge_timing: Default::default(),
        teardown_roots: args.teardown_roots,
    };
    let format = args.log_format;
    let ready = |ready: &Ready, _: &Handle| tell_ready(ready, format, out);
    tokio::select! {
        ended = daemon::run(settings, ready, stop.cancelled_owned()) => Ok(ended?),
        () = abort.cancelled() => Err(Failure::Aborted),
    }
}

/// Says that the daemon is ready, beside the loop: whoever started it may have stopped reading, and
/// it serves all the same.
fn tell_ready(ready: &Ready, format: Format, mut out: Output) {
    let ready = ready.clone();
    let (done, is_done) = mpsc::channel();
    let tell = move || {
        let said = match format {
            Format::Json => out.json(&Line::new(&ready)),
            Format::Text => out.write(&text(&ready)),
        };
        if let Err(failure) = said {
            tracing::warn!(%failure, "readiness can't be told");
        }
        // Nobody waits any more where the output was blocked for long.
        let _ = done.send(());
    };
    match thread::Builder::new().name("ready".to_owned()).spawn(tell) {
        Ok(_) if is_done.recv_timeout(READY_WITHIN).is_err() => {
            tracing::warn!("readiness is not told yet: nobody reads the output");
        }
        Ok(_) => {}
        Err(error) => tracing::warn!(%error, "readiness can't be told"),
    }
}

/// Returns what is cancelled when someone asks the daemon to end, and when they insist.
///
/// From then on the signals do not end the process by themselves. The end of the terminal asks for
/// it, too, unless the daemon was started to outlive its terminal, as `nohup` does; it never
/// insists, since a shell and the kernel may both tell of it.
fn stop() -> std::io::Result<(CancellationToken, CancellationToken)> {
    let (mut terminate, mut interrupt) =
        (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let mut hangup = if is_hangup_ignored() { None } else { Some(signal(SignalKind::hangup())?) };
    let (stop, abort) = (CancellationToken::new(), CancellationToken::new());
    let told = (stop.clone(), abort.clone());
    tokio::spawn(async move {
        let hung_up = async {
            match &mut hangup {
                Some(hangup) => hangup.recv().await,
                None => std::future::pending().await,
            }
        };
        let signal = tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
            _ = hung_up => "SIGHUP",
        };
        stop.cancel();
        tracing::info!(signal, "stopping");
        let signal = tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        };
        abort.cancel();
        tracing::info!(signal, "stopping at once");
    });
    Ok(told)
}

/// Tells whether whoever started this process has told it not to end with its terminal. Only Linux
/// says so without `unsafe`; elsewhere a hangup always ends the daemon.
fn is_hangup_ignored() -> bool {
    const STATUS: &str = "/proc/self/status";
    std::fs::read_to_string(STATUS).is_ok_and(|status| ignores_hangup(&status))
}

/// Reads from a process's status whether SIGHUP, the first of the signals, is ignored.
fn ignores_hangup(status: &str) -> bool {
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    ignored.is_some_and(|mask| mask & 1 != 0)
}

/// Readiness as a program reads it, in the order in which a person would want to read it, too.
#[derive(Debug, serde::Serialize)]
struct Line<'a> {
    ready: bool,
    node: NodeId,
    fleet: FleetId,
    http: String,
    quic: SocketAddr,
    socket: &'a Path,
    data_dir: &'a Path,
}

impl<'a> Line<'a> {
    fn new(ready: &'a Ready) -> Self {
        Self {
            ready: true,
            node: ready.node,
            fleet: ready.fleet,
            http: format!("http://{}", ready.http),
            quic: ready.quic,
            socket: &ready.socket,
            data_dir: &ready.data_dir,
        }
    }
}

fn text(ready: &Ready) -> String {
    let Ready { node, fleet, http, quic, socket, data_dir, left_alone } = ready;
    let default = config::data_dir(None).is_ok_and(|dir| dir == *data_dir);
    let data_dir = printable(&data_dir.display().to_string());
    let named = if default { String::new() } else { format!(" --data-dir {}", quoted(&data_dir)) };
    let token = quoted(&format!("{data_dir}/{}", api::TOKEN_FILE));
    let socket = printable(&socket.display().to_string());
    let alone = if *left_alone { alone(&named) } else { String::new() };
    format!(
        "sessionmesh is ready.\n\n\
         \x20 node      {node}\n\
         \x20 fleet     {fleet}\n\
         \x20 quic      {quic}\n\
         \x20 http      http://{http}\n\
         \x20 socket    {socket}\n\
         \x20 data_dir  {data_dir}\n\n\
         {alone}\
         Next, here:\n\
         \x20 sessionmesh{named} invite     # prints a ticket for another machine\n\
         \x20 sessionmesh{named} watch      # shows every change as it comes\n\
         \x20 curl -N -H \"Authorization: Bearer $(cat {token})\" http://{http}/v1/events\n\
         On the other machine:\n\
         \x20 sessionmesh serve --join TICKET\n\n"
    )
}

/// Says once, after an upgrade, that the machines have to be invited again.
fn alone(named: &str) -> String {
    format!(
        "This version can't read who the other machines of the fleet were: an earlier one has stored that.\n\
         This machine keeps its own sessions and workspaces and is alone in a new fleet, as its admin.\n\
         Once another machine has this version too, bring it back, and with it all that is on it:\n\
         \x20 sessionmesh{named} invite --role admin     # here, once for each; leave out --role for a member\n\
         \x20 sessionmesh join TICKET               # on the other machine\n\n"
    )
}

/// Quotes a path for a shell, where it needs to be.
fn quoted(path: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "/._-+:@".contains(c);
    if path.chars().all(plain) {
        path.to_owned()
    } else {
        format!("'{}'", path.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ready() -> Ready {
        Ready {
            node: NodeId([0xab; 32]),
            fleet: FleetId([0xcd; 16]),
            http: "127.0.0.1:7178".parse().unwrap(),
            quic: "0.0.0.0:7177".parse().unwrap(),
            socket: "/my data/sessionmesh.sock".into(),
            data_dir: "/my data".into(),
            left_alone: false,
        }
    }

    #[test]
    fn a_hangup_is_ignored_where_nohup_has_said_so() {
        for (mask, is_ignored) in
            [("0000000000001001", true), ("0000000000001000", false), ("", false)]
        {
            let status =
                format!("Name:\tsessionmesh\nSigIgn:\t{mask}\nSigCgt:\t0000000000000001\n");
            assert_eq!(ignores_hangup(&status), is_ignored, "{mask}");
        }
        assert!(!ignores_hangup("Name:\tsessionmesh\n"));
    }

    #[test]
    fn a_program_is_told_one_line_with_the_facts_on_the_page() {
        let line = serde_json::to_string(&Line::new(&ready())).unwrap();
        let (node, fleet) = ("ab".repeat(32), "cd".repeat(16));
        assert_eq!(
            line,
            format!(
                "{{\"ready\":true,\"node\":\"{node}\",\"fleet\":\"{fleet}\",\
                 \"http\":\"http://127.0.0.1:7178\",\"quic\":\"0.0.0.0:7177\",\
                 \"socket\":\"/my data/sessionmesh.sock\",\"data_dir\":\"/my data\"}}"
            )
        );
    }

    #[test]
    fn a_person_is_told_what_to_type_next_in_a_way_that_can_be_pasted() {
        let text = text(&ready());
        assert!(!text.contains("sessionmesh join TICKET"), "{text}");
        for part in [
            "sessionmesh --data-dir '/my data' invite",
            "sessionmesh --data-dir '/my data' watch",
            "sessionmesh serve --join TICKET",
            "$(cat '/my data/token')",
            "http://127.0.0.1:7178/v1/events",
        ] {
            assert!(text.contains(part), "{part} is not in {text}");
        }
    }
}
