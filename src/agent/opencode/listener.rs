//! Owns finding out whose process listens at a server's address.
//!
//! Must not ask the server. Any user of a machine may take a port on which nothing listens, and
//! would be given the password and be believed. Invariant: on Linux, whoever listens on loopback runs
//! as the daemon's user, or nothing is sent. Other systems don't say whose a socket is without
//! privileges.

use std::{
    collections::BTreeMap,
    fs,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
};

/// Where Linux lists the sockets of this network namespace.
const TABLES: [&str; 2] = ["/proc/self/net/tcp", "/proc/self/net/tcp6"];
/// The state of a socket that listens.
const LISTENING: &str = "0A";

/// Who listens somewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// This user; the number names the socket.
    Own(u64),
    /// Another one, by number.
    Another(u32),
    /// Nobody listens there.
    Nobody,
    /// It can't be found out here: the address is not of this machine's loopback, or the system does
    /// not say.
    Unknown,
}

/// Finds out who listens at any of these addresses, of which a client takes the first that answers.
pub fn owner(addresses: &[SocketAddr]) -> Owner {
    let loopback: Vec<&SocketAddr> =
        addresses.iter().filter(|address| address.ip().is_loopback()).collect();
    if loopback.is_empty() {
        return Owner::Unknown;
    }
    let tables: Vec<String> =
        TABLES.iter().filter_map(|table| fs::read_to_string(table).ok()).collect();
    if tables.is_empty() {
        return Owner::Unknown;
    }
    let own = rustix::process::geteuid().as_raw();
    let mut found = Owner::Nobody;
    for line in tables.iter().flat_map(|table| table.lines()) {
        let Some(socket) = Socket::read(line) else { continue };
        if !loopback.iter().any(|address| socket.takes(address)) {
            continue;
        }
        // Of several that share a port, any may be given a connection.
        if socket.user != own {
            return Owner::Another(socket.user);
        }
        found = Owner::Own(socket.inode);
    }
    found
}

/// The process behind a socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// What it runs.
    pub program: PathBuf,
    /// The environment that it was started with; what is not text is left out.
    pub environment: BTreeMap<String, String>,
}

impl Process {
    /// Finds the one behind a socket of this user's.
    pub fn find(inode: u64) -> Option<Self> {
        let link = PathBuf::from(format!("socket:[{inode}]"));
        for process in fs::read_dir("/proc").ok()?.flatten() {
            // Most are other users', or no processes at all.
            let Ok(sockets) = fs::read_dir(process.path().join("fd")) else { continue };
            let mut sockets = sockets.flatten();
            if sockets.any(|one| fs::read_link(one.path()).is_ok_and(|it| it == link)) {
                let program = fs::read_link(process.path().join("exe")).ok()?;
                let environment = environment(&fs::read(process.path().join("environ")).ok()?);
                return Some(Self { program, environment });
            }
        }
        None
    }

    /// Returns where it keeps its data, by the convention of XDG.
    pub fn data_folder(&self) -> Option<PathBuf> {
        let get = |name: &str| {
            let path = self.environment.get(name).map(PathBuf::from);
            path.filter(|path| path.is_absolute())
        };
        get("XDG_DATA_HOME").or_else(|| get("HOME").map(|home| home.join(".local/share")))
    }
}

fn environment(bytes: &[u8]) -> BTreeMap<String, String> {
    let variables = bytes.split(|byte| *byte == 0);
    let variables = variables.filter_map(|variable| std::str::from_utf8(variable).ok());
    let variables = variables.filter_map(|variable| variable.split_once('='));
    variables.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

/// A socket that listens.
#[derive(Debug, PartialEq, Eq)]
struct Socket {
    address: SocketAddr,
    user: u32,
    inode: u64,
}

impl Socket {
    /// Reads a line of one of the tables.
    fn read(line: &str) -> Option<Self> {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let [_, local, _, LISTENING, _, _, _, user, _, inode, ..] = fields[..] else { return None };
        let (address, port) = local.split_once(':')?;
        let port = u16::from_str_radix(port, 16).ok()?;
        let ip = match address.len() {
            8 => IpAddr::from(word(address)?),
            32 => {
                let words = (0..4).map(|at| word(address.get(at * 8..at * 8 + 8)?));
                let bytes: Vec<u8> = words.collect::<Option<Vec<_>>>()?.concat();
                IpAddr::from(<[u8; 16]>::try_from(bytes).ok()?)
            }
            _ => return None,
        };
        let (user, inode) = (user.parse().ok()?, inode.parse().ok()?);
        Some(Self { address: SocketAddr::new(ip, port), user, inode })
    }

    /// Tells whether a connection to an address may come to it.
    fn takes(&self, address: &SocketAddr) -> bool {
        let listens = self.address.ip().to_canonical();
        self.address.port() == address.port()
            && (listens == address.ip().to_canonical() || self.address.ip().is_unspecified())
    }
}

/// Reads 32 bits as the kernel prints them, in the order in which this machine holds them.
fn word(digits: &str) -> Option<[u8; 4]> {
    u32::from_str_radix(digits, 16).ok().map(u32::to_ne_bytes)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    #[cfg(target_os = "linux")]
    fn a_listener_of_this_process_is_this_users_and_a_free_port_is_nobodys() {
        for address in ["127.0.0.1:0", "0.0.0.0:0"] {
            let listener = TcpListener::bind(address).unwrap();
            let port = listener.local_addr().unwrap().port();
            let at = [SocketAddr::from(([127, 0, 0, 1], port))];
            let Owner::Own(inode) = owner(&at) else { panic!("{:?}", owner(&at)) };
            let process = Process::find(inode).unwrap();
            assert_eq!(process.program, std::env::current_exe().unwrap());
            drop(listener);
            assert_eq!(owner(&at), Owner::Nobody);
        }
        assert_eq!(owner(&["192.0.2.1:80".parse().unwrap()]), Owner::Unknown);
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn the_tables_of_the_kernel_are_read() {
        let v4 = "   0: 0100007F:1000 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1001        0 4242 1";
        let socket = Socket::read(v4).unwrap();
        assert_eq!(
            (socket.address, socket.user, socket.inode),
            ("127.0.0.1:4096".parse().unwrap(), 1001, 4242)
        );
        let v6 = "   0: 00000000000000000000000001000000:1000 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 7 1";
        assert_eq!(Socket::read(v6).unwrap().address, "[::1]:4096".parse().unwrap());
        assert_eq!(Socket::read(&v4.replace(" 0A ", " 01 ")), None, "it does not listen");
        for line in ["", "  sl  local_address rem_address   st tx_queue", "0: x y 0A a b c d e f"] {
            assert_eq!(Socket::read(line), None);
        }
    }

    #[test]
    fn where_a_process_keeps_its_data_is_read_from_its_environment() {
        let folder = |text: &str| {
            let environment = environment(text.replace(' ', "\0").as_bytes());
            Process { program: PathBuf::new(), environment }.data_folder()
        };
        assert_eq!(folder("HOME=/h XDG_DATA_HOME=/d"), Some("/d".into()));
        assert_eq!(folder("HOME=/h XDG_DATA_HOME=rel"), Some("/h/.local/share".into()));
        assert_eq!(folder("A=b"), None);
    }
}
