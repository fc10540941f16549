//! Owns `sessionmesh bench`: a fleet of real daemons under a load that is told by flags, and what
//! it measured.
//!
//! Must not look into a daemon: it asks and listens as every client does. Invariant: a run ends
//! with all nodes showing the same, or fails.

mod figures;
mod load;
mod nodes;
mod relay;

use std::{path::PathBuf, sync::Arc, time::Duration};

use clap::ValueEnum;
use tokio::{sync::oneshot, task::JoinSet, time::Instant};
use tokio_util::sync::CancellationToken;

use self::{
    figures::Figures,
    load::{Board, Mix},
    nodes::Nodes,
    relay::Weather,
};
use super::{args::Json, failure::Failure, output::Output, progress::Progress};
use crate::config;

/// Most nodes in this process: each takes some ten file descriptors, and links to all others.
const NODES_MAX: u64 = 64;
/// Most event streams of a node, as its API has it, less the one that measures.
const SUBSCRIBERS_MAX: u64 = 255;
/// How often the progress line is written anew.
const TICK: Duration = Duration::from_millis(250);

/// Which nodes have links to which.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Topology {
    /// Each with each
    Mesh,
    /// The first with each
    Star,
    /// Each with the next
    Line,
}

impl Topology {
    fn links(self, one: usize, other: usize) -> bool {
        match self {
            Self::Mesh => true,
            Self::Star => one == 0 || other == 0,
            Self::Line => one.abs_diff(other) == 1,
        }
    }
}

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Without --remote, a fleet of its own is started in a temporary folder, with \
                        real links over loopback. With it, the sessions that the run makes on the \
                        named daemons are deleted at its end."
)]
pub struct Args {
    /// How many nodes to start
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u64).range(2..=NODES_MAX))]
    nodes: u64,
    /// How many of them host the sessions [default: all]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=NODES_MAX))]
    hosts: Option<u64>,
    /// How many sessions there are before the load begins
    #[arg(long, value_name = "N", default_value_t = 1_000)]
    sessions: usize,
    /// Changes a second in all; 0 for as many as go
    #[arg(long, value_name = "R", default_value_t = 100.0, value_parser = parse_rate)]
    rate: f64,
    /// What the changes are, in proportion
    #[arg(long, value_name = "MIX", default_value = "title=8,create=1,delete=1")]
    mix: Mix,
    /// How long the load lasts
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = config::parse_duration)]
    time: Duration,
    /// Which nodes have links to which
    #[arg(long, value_enum, default_value_t = Topology::Mesh)]
    topology: Topology,
    /// Event streams that are read at each node, beside the one that measures
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u64).range(..=SUBSCRIBERS_MAX))]
    subscribers: u64,
    /// How many of a hundred datagrams are lost
    #[arg(long, value_name = "PERCENT", default_value_t = 0.0, value_parser = parse_percent)]
    loss: f64,
    /// How long a datagram takes
    #[arg(long, value_name = "TIME", default_value = "0ms", value_parser = config::parse_duration)]
    delay: Duration,
    /// How often the last node is cut off under load and joined again
    #[arg(long, value_name = "N", default_value_t = 0)]
    cuts: u64,
    /// How long each cut lasts
    #[arg(long, value_name = "TIME", default_value = "3s", value_parser = config::parse_duration)]
    cut_time: Duration,
    /// How often the first node loses all its links at once
    #[arg(long, value_name = "N", default_value_t = 0)]
    storms: u64,
    /// The data folder of a daemon that runs already; once for each. Its fleet is measured as it is
    #[arg(long, value_name = "DIR", conflicts_with_all = ["nodes", "topology", "loss", "delay"])]
    remote: Vec<PathBuf>,
    #[command(flatten)]
    json: Json,
}

fn parse_rate(text: &str) -> Result<f64, &'static str> {
    let rate: f64 = text.parse().map_err(|_| "it is not a number")?;
    if (0.0..=1e6).contains(&rate) { Ok(rate) } else { Err("it is from 0 to 1000000") }
}

fn parse_percent(text: &str) -> Result<f64, &'static str> {
    let percent: f64 = text.parse().map_err(|_| "it is not a number")?;
    if (0.0..100.0).contains(&percent) { Ok(percent) } else { Err("it is from 0 to below 100") }
}

impl Args {
    fn rate(&self) -> Option<f64> {
        Some(self.rate).filter(|rate| *rate > 0.0)
    }

    fn weather(&self) -> Weather {
        Weather { loss_percent: self.loss, delay: self.delay }
    }

    fn scenario(&self, nodes: usize, hosts: usize) -> String {
        let links = if self.remote.is_empty() {
            self.topology.to_possible_value().map_or(String::new(), |it| it.get_name().to_owned())
        } else {
            "remote".to_owned()
        };
        let Self { sessions, loss, delay, time, subscribers, cuts, storms, .. } = self;
        format!(
            "{nodes} nodes ({links}), {hosts} hosts, {sessions} sessions, {time:?} of load, \
             {subscribers} more subscribers a node, loss {loss} %, delay {delay:?}, {cuts} cuts, \
             {storms} storms"
        )
    }
}

pub async fn run(args: Args, mut out: Output) -> Result<(), Failure> {
    let progress = Progress::start("starting the nodes");
    let mut nodes = if args.remote.is_empty() {
        let relayed = args.weather() != Weather::default() || args.cuts > 0;
        let count = usize::try_from(args.nodes).unwrap_or(usize::MAX);
        Nodes::start(count, args.topology, args.weather(), relayed).await?
    } else {
        Nodes::remote(&args.remote).await?
    };
    let measured = measure(&args, &mut nodes, &progress).await;
    progress.say("stopping the nodes");
    let cleared = nodes.clear().await;
    nodes.stop().await;
    drop(progress);
    let figures = measured?;
    cleared?;
    if args.json.json {
        return out.json(&figures);
    }
    out.facts(&figures.facts())?;
    out.line("")?;
    out.table(&figures.table())
}

async fn measure(args: &Args, nodes: &mut Nodes, progress: &Progress) -> Result<Figures, Failure> {
    let count = nodes.all.len();
    let hosts = args.hosts.map_or(count, |hosts| (hosts as usize).min(count));
    let run = format!("{:08x}", fastrand::u32(..));
    let sessions = nodes
        .fill(&run, hosts, args.sessions, |made| {
            progress.say(format!("making sessions: {made} of {}", args.sessions));
        })
        .await?;
    progress.say("waiting until all nodes show the same");
    nodes.until_same().await?;

    let board = Arc::new(Board::new(run, sessions));
    let stop = CancellationToken::new();
    let mut followers = JoinSet::new();
    for (n, node) in nodes.all.iter().enumerate() {
        let (begun, there) = oneshot::channel();
        followers.spawn(board.clone().follow(n, node.client.clone(), begun, stop.clone()));
        if there.await.is_err() {
            return Err(Failure::Bench("an event stream has ended before it began"));
        }
        for _ in 0..args.subscribers {
            tokio::spawn(load::look_on(node.client.clone(), stop.clone()));
        }
    }

    let mut figures = Figures {
        scenario: args.scenario(count, hosts),
        rate_asked: args.rate(),
        ..Figures::default()
    };
    let (sent_before, repairs_before) = nodes.sent().await?;
    let begun = Instant::now();
    let driving = board.drive(&nodes.all, args.mix, args.rate(), args.time);
    let written = shown(progress, "load", &board, driving).await?;
    let ended = Instant::now();
    progress.say("waiting until all nodes show the same");
    figures.converged.push(nodes.until_same().await?.saturating_duration_since(ended));
    figures.rate_done = written.changes as f64 / (ended - begun).as_secs_f64();
    figures.changes = written.changes;
    figures.held_back = written.held_back;
    figures.answered = written.answered;
    let told = written.changes * (count as u64 - 1);
    let (sent, _) = nodes.sent().await?;
    figures.bytes_per_change = (sent - sent_before) as f64 / told.max(1) as f64;

    for n in 0..args.cuts {
        nodes.cut().await?;
        let what = format!("cut {} of {}", n + 1, args.cuts);
        let driving = board.drive(&nodes.all, args.mix, args.rate(), args.cut_time);
        figures.held_back += shown(progress, &what, &board, driving).await?.held_back;
        let healed = Instant::now();
        nodes.heal().await?;
        figures.healed.push(nodes.until_same().await?.saturating_duration_since(healed));
    }
    for n in 0..args.storms {
        progress.say(format!("storm {} of {}", n + 1, args.storms));
        figures.reconnected.push(nodes.storm().await?);
    }
    nodes.until_same().await?;
    figures.memory_mb = nodes.memory_mb().await?;
    figures.repairs = nodes.sent().await?.1 - repairs_before;

    stop.cancel();
    while let Some(seen) = followers.join_next().await {
        let mut seen = seen.map_err(|_| Failure::Bench("a follower has panicked"))??;
        figures.delete_seen.append(&mut seen.deletes);
        figures.change_seen.append(&mut seen.changes);
        figures.resets += seen.resets;
    }
    Ok(figures)
}

/// Waits for a load, and says how far it is.
async fn shown<T>(
    progress: &Progress,
    what: &str,
    board: &Board,
    load: impl Future<Output = T>,
) -> T {
    let mut load = std::pin::pin!(load);
    let begun = Instant::now();
    loop {
        tokio::select! {
            done = &mut load => return done,
            () = tokio::time::sleep(TICK) => progress.say(format!(
                "{what}: {:.1} s, {} changes answered in all",
                begun.elapsed().as_secs_f64(),
                board.answered(),
            )),
        }
    }
}
