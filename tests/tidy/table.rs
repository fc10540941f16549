//! Owns the import table: which room may name which, and which crates each may name.
//!
//! Must not know how imports are found. Invariant: every row says why, so that whoever wants to
//! change it knows what is given up.

/// What a room may import from the other rooms. A path means everything below it; a room may always
/// name itself and what its own `mod.rs` holds.
pub struct Room {
    /// The module, as a path below the crate.
    pub path: &'static str,
    /// What it may import.
    pub may: &'static [&'static str],
    /// Why no more.
    pub why: &'static str,
}

/// Who may name a crate, or a part of the standard library.
pub struct Fence {
    /// The path; the longest one that fits an import decides.
    pub path: &'static str,
    /// Who may name it.
    pub rooms: Rooms,
    /// Why nobody else.
    pub why: &'static str,
}

/// A choice of rooms.
pub enum Rooms {
    /// Every room.
    All,
    /// Every room but those of the core, [`CORE`].
    Shells,
    /// These, and what is below them.
    Only(&'static [&'static str]),
}

/// The rooms that do no I/O and are compiled without any shell.
pub const CORE: &[&str] = &["replica", "wire"];

/// The rooms. `lib` and `main` are the two crate roots.
pub const ROOMS: &[Room] = &[
    Room {
        path: "lib",
        may: &["seeded"],
        why: "it only names the rooms, and which room asks for a planted fault; a re-export would hide \
              who imports whom",
    },
    Room {
        path: "main",
        may: &["cli", "config", "daemon", "telemetry"],
        why: "it turns arguments into a call and an error into an exit code",
    },
    // The core.
    Room {
        path: "replica",
        may: &[],
        why: "its `mod.rs` only names the modules; a re-export would be a way around their rows",
    },
    Room {
        path: "replica::ids",
        may: &[],
        why: "everything is built on ids, so they are built on nothing",
    },
    Room { path: "replica::record", may: &["replica::ids"], why: "records are plain data" },
    Room {
        path: "replica::command",
        may: &[
            "replica::ids",
            "replica::invite",
            "replica::receipt",
            "replica::record",
            "replica::trash",
        ],
        why: "what can be asked is plain data, whoever asks and whatever answers",
    },
    Room {
        path: "replica::invite",
        may: &["replica::ids", "replica::record"],
        why: "what is kept of an invitation is plain data",
    },
    Room {
        path: "replica::receipt",
        may: &["replica::ids"],
        why: "what is kept and told of a delete is plain data",
    },
    Room {
        path: "replica::lifecycle",
        may: &["replica::ids", "replica::record"],
        why: "the rule is pure functions over records: it is read, and proved, by itself",
    },
    Room {
        path: "replica::digest",
        may: &["replica::ids", "replica::record"],
        why: "the digest is of public records, however they came about",
    },
    Room {
        path: "replica::fold",
        may: &["replica::diff", "replica::digest", "replica::ids", "replica::record"],
        why: "it does what a subscriber does, who has nothing but the diffs",
    },
    Room {
        path: "replica::view",
        may: &["replica::digest", "replica::ids", "replica::lifecycle", "replica::record"],
        why: "the view is derived from records; were it to read documents, there would be two readers",
    },
    Room {
        path: "replica::diff",
        may: &[
            "replica::digest",
            "replica::ids",
            "replica::lifecycle",
            "replica::record",
            "replica::view",
        ],
        why: "a diff compares views, whatever changed them",
    },
    Room {
        path: "replica::document",
        may: &[
            "replica::guard",
            "replica::ids",
            "replica::record",
            "replica::trust",
            "replica::voucher",
        ],
        why: "it is the only place that knows document paths; what a peer sent is judged first",
    },
    Room {
        path: "replica::voucher",
        may: &["replica::ids"],
        why: "what is signed is names; who signs it, and how, is given from outside",
    },
    Room {
        path: "replica::trash",
        may: &["replica::ids"],
        why: "an entry of the trash is plain data that every node lists",
    },
    Room {
        path: "replica::trust",
        may: &["replica::ids", "replica::record", "replica::voucher"],
        why: "who may write is derived from members, however they are read",
    },
    Room {
        path: "replica::guard",
        may: &["replica::ids"],
        why: "it judges bytes before anything is built from them",
    },
    Room {
        path: "replica::sync",
        may: &[
            "replica::document",
            "replica::effect",
            "replica::guard",
            "replica::ids",
            "replica::trust",
            "replica::voucher",
            "wire",
        ],
        why: "it brings documents together and must not care what they mean",
    },
    Room {
        path: "replica::effect",
        may: &[
            "replica::command",
            "replica::diff",
            "replica::ids",
            "replica::invite",
            "replica::receipt",
            "replica::record",
            "replica::voucher",
            "wire",
        ],
        why: "what goes in and comes out is data; the shells build on it without the machine",
    },
    Room {
        path: "replica::explain",
        may: &["replica::document", "replica::ids", "replica::record"],
        why: "it puts history into the words of records, whoever asks and wherever it is shown",
    },
    Room {
        path: "replica::membership",
        may: &["replica::ids", "replica::record", "replica::voucher"],
        why: "who belongs is a pure function of signed statements: it is read, and proved, by itself",
    },
    Room {
        path: "replica::machine",
        may: &["replica", "wire"],
        why: "it puts the core together, and the core knows no shell",
    },
    Room {
        path: "wire",
        may: &["replica::ids", "replica::voucher"],
        why: "frames carry names, signatures and bytes; what the bytes mean is the replica's",
    },
    // The leaves.
    Room {
        path: "seeded",
        may: &[],
        why: "a leaf: a fault is planted by the tests alone, and asked for by `planted!` where it would be",
    },
    Room { path: "config", may: &[], why: "a leaf: it is read before anything is built" },
    Room {
        path: "clock",
        may: &["replica::effect"],
        why: "a leaf: it makes the `Now` that a replica is given",
    },
    Room { path: "files", may: &[], why: "a leaf: it writes bytes, whatever they mean" },
    Room { path: "sse", may: &[], why: "a leaf: it cuts a stream into events, whoever sends them" },
    Room { path: "telemetry", may: &[], why: "a leaf: it counts and logs whatever it is told" },
    // The shells.
    Room {
        path: "store",
        may: &["replica"],
        why: "it keeps what a replica hands it, and verifies a snapshot before it replaces changes",
    },
    Room {
        path: "identity",
        may: &["replica::ids", "replica::invite", "replica::record", "replica::voucher"],
        why: "a key and a ticket name nodes, fleets and roles; what is signed is the core's",
    },
    Room {
        path: "transport",
        may: &["identity", "replica::effect", "replica::ids", "wire"],
        why: "it moves frames between keys and must not care what is in them",
    },
    Room {
        path: "agent",
        may: &[
            "daemon::handle",
            "daemon::hub",
            "files",
            "replica::command",
            "replica::diff",
            "replica::effect",
            "replica::ids",
            "replica::record",
            "sse",
        ],
        why: "the bridge asks the loop as any client does; what it writes takes the same path",
    },
    Room {
        path: "teardown",
        may: &[
            "clock",
            "files",
            "replica::effect",
            "replica::ids",
            "replica::record",
            "replica::trash",
        ],
        why: "it ends what it is told to end, and decides nothing",
    },
    Room {
        path: "api",
        may: &[
            "config",
            "daemon::handle",
            "daemon::hub",
            "identity",
            "replica::command",
            "replica::diff",
            "replica::effect",
            "replica::explain",
            "replica::ids",
            "replica::invite",
            "replica::receipt",
            "replica::record",
            "replica::trash",
            "teardown::trash",
        ],
        why: "it asks the loop through its handle: a second way in would be a second way to publish",
    },
    Room {
        path: "cli",
        may: &[
            "agent",
            "api",
            "clock",
            "config",
            "daemon",
            "replica::command",
            "replica::diff",
            "replica::effect",
            "replica::explain",
            "replica::fold",
            "replica::ids",
            "replica::invite",
            "replica::receipt",
            "replica::record",
            "replica::trash",
            "sse",
            "telemetry",
        ],
        why: "its verbs are clients of the API, and `serve` starts the daemon; none reaches past them",
    },
    Room {
        path: "daemon",
        may: &[
            "agent",
            "api",
            "clock",
            "config",
            "files",
            "identity",
            "replica",
            "store",
            "teardown",
            "telemetry",
            "transport",
            "wire",
        ],
        why: "it carries effects out through every shell, and knows no verb",
    },
];

/// The crates of `[dependencies]`, each of which has a row, and the parts of the standard library
/// that the core must do without.
pub const FENCES: &[Fence] = &[
    // What the core is built of.
    Fence { path: "fastrand", rooms: Rooms::All, why: "" },
    Fence { path: "serde", rooms: Rooms::All, why: "" },
    Fence { path: "serde_json", rooms: Rooms::All, why: "" },
    Fence { path: "sha2", rooms: Rooms::All, why: "" },
    Fence { path: "thiserror", rooms: Rooms::All, why: "" },
    Fence { path: "tracing", rooms: Rooms::All, why: "" },
    Fence {
        path: "automerge",
        rooms: Rooms::Only(&[
            "replica::document",
            "replica::guard",
            "replica::machine",
            "replica::sync",
            "store",
        ]),
        why: "documents are read and written in one place, so that the rest can be thought about as data",
    },
    Fence {
        path: "bincode",
        rooms: Rooms::Only(&["wire"]),
        why: "it is unmaintained: leaving it is to stay a change of one room",
    },
    Fence {
        path: "flate2",
        rooms: Rooms::Only(&["replica::guard"]),
        why: "only what is judged is inflated, under the guard's budget",
    },
    Fence {
        path: "serde_json_canonicalizer",
        rooms: Rooms::Only(&["replica::digest"]),
        why: "canonical JSON is what the digest is taken over, and nothing else",
    },
    // What the shells are built of.
    Fence { path: "bytes", rooms: Rooms::Shells, why: IO },
    Fence { path: "data_encoding", rooms: Rooms::Shells, why: IO },
    Fence { path: "futures_util", rooms: Rooms::Shells, why: IO },
    Fence { path: "memchr", rooms: Rooms::Shells, why: IO },
    Fence { path: "rustix", rooms: Rooms::Shells, why: IO },
    Fence { path: "tokio", rooms: Rooms::Shells, why: IO },
    Fence { path: "tokio_stream", rooms: Rooms::Shells, why: IO },
    Fence { path: "tokio_util", rooms: Rooms::Shells, why: IO },
    Fence {
        path: "anyhow",
        rooms: Rooms::Only(&["cli", "main"]),
        why: "below the command line every error is one that a caller can match on",
    },
    Fence {
        path: "axum",
        rooms: Rooms::Only(&["api", "daemon"]),
        why: "HTTP is the API's; the daemon only starts it",
    },
    Fence {
        path: "libc",
        rooms: Rooms::Only(&["daemon"]),
        why: "what is unsafe is one call of the allocator's",
    },
    Fence { path: "clap", rooms: Rooms::Only(&["cli", "config", "main"]), why: ARGUMENTS },
    Fence { path: "clap_complete", rooms: Rooms::Only(&["cli"]), why: ARGUMENTS },
    Fence { path: "comfy_table", rooms: Rooms::Only(&["cli"]), why: TERMINAL },
    Fence { path: "indicatif", rooms: Rooms::Only(&["cli"]), why: TERMINAL },
    Fence {
        path: "directories",
        rooms: Rooms::Only(&["config"]),
        why: "where things lie is configuration, decided once",
    },
    Fence { path: "hyper", rooms: Rooms::Only(&["api"]), why: HTTP_SERVER },
    Fence { path: "hyper_util", rooms: Rooms::Only(&["api"]), why: HTTP_SERVER },
    Fence { path: "tower", rooms: Rooms::Only(&["api"]), why: HTTP_SERVER },
    Fence {
        path: "if_addrs",
        rooms: Rooms::Only(&["daemon", "transport"]),
        why: "which addresses to publish is a matter of where the endpoint listens",
    },
    Fence { path: "quinn", rooms: Rooms::Only(&["identity", "transport"]), why: LINKS },
    Fence { path: "ring", rooms: Rooms::Only(&["identity", "transport"]), why: LINKS },
    Fence { path: "rustls", rooms: Rooms::Only(&["identity", "transport"]), why: LINKS },
    Fence { path: "rustls_pki_types", rooms: Rooms::Only(&["identity", "transport"]), why: LINKS },
    Fence {
        path: "redb",
        rooms: Rooms::Only(&["store"]),
        why: "what is durable, and when, is decided in one place",
    },
    Fence {
        path: "reqwest",
        rooms: Rooms::Only(&["agent", "cli"]),
        why: "only the bridge and the command line are HTTP clients; nodes speak QUIC",
    },
    Fence {
        path: "samod",
        rooms: Rooms::Only(&[]),
        why: "the benches measure it beside this; nothing is built on it",
    },
    Fence {
        path: "subtle",
        rooms: Rooms::Only(&["identity"]),
        why: "a secret is compared by the type that keeps it",
    },
    Fence {
        path: "tracing_subscriber",
        rooms: Rooms::Only(&["telemetry"]),
        why: "where logs go is decided once",
    },
    // What the standard library has and the core must do without.
    Fence { path: "std::env", rooms: Rooms::Shells, why: IO },
    Fence { path: "std::fs", rooms: Rooms::Shells, why: IO },
    // Addresses are values, and nothing else of it is.
    Fence { path: "std::net::TcpListener", rooms: Rooms::Shells, why: IO },
    Fence { path: "std::net::TcpStream", rooms: Rooms::Shells, why: IO },
    Fence { path: "std::net::ToSocketAddrs", rooms: Rooms::Shells, why: IO },
    Fence { path: "std::net::UdpSocket", rooms: Rooms::Shells, why: IO },
    Fence { path: "std::os", rooms: Rooms::Shells, why: IO },
    Fence { path: "std::path", rooms: Rooms::Shells, why: IO },
    Fence { path: "std::process", rooms: Rooms::Shells, why: IO },
    Fence { path: "std::thread", rooms: Rooms::Shells, why: IO },
    Fence { path: "std::time::Instant", rooms: Rooms::Shells, why: CLOCK },
    Fence { path: "std::time::SystemTime", rooms: Rooms::Shells, why: CLOCK },
];

const IO: &str = "the core does no I/O: it asks for it in an effect";
const CLOCK: &str = "the core is given the time: it takes `effect::Now`";
const ARGUMENTS: &str = "arguments are read at the command line";
const TERMINAL: &str = "only the command line shows things to people";
const HTTP_SERVER: &str = "the HTTP server is the API's";
const LINKS: &str = "keys are the identity's, links the transport's; the rest names nodes";
