//! `godwit-init ps`: the guest's processes, read from /proc and printed as one line of JSON.
//!
//! Runs as a program of its own inside the guest (`/proc/1/exe ps`), never in PID 1: a process
//! that hangs in the kernel can hold up whoever reads its command line. Bounded in processes,
//! descriptors, bytes and time, whatever the guest's own programs do.

use std::collections::BTreeMap;
use std::fs;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::time::{Duration, Instant};

use godwit_wire::processes::{GuestProcess, GuestProcesses, ListenSocket, VERSION};

const MOST_PROCESSES: usize = 500;
/// Of what is printed: an exec's output is cut at 128 KiB.
const MOST_BYTES: usize = 100_000;
const LONGEST_TEXT: usize = 256;
const MOST_DESCRIPTORS: usize = 4_096;
const MOST_SOCKETS: usize = 64;
const PATIENCE: Duration = Duration::from_secs(3);
/// Clock ticks of /proc per second: fixed in the kernel's interface.
const TICKS: u64 = 100;
const PAGE: u64 = 4_096;
/// `PF_KTHREAD` of the kernel's task flags.
const KERNEL_THREAD: u64 = 0x0020_0000;
const TCP_LISTEN: &str = "0A";
const UDP_UNCONNECTED: &str = "07";

/// Returns the processes of this kernel except the caller.
pub(crate) fn gather() -> GuestProcesses {
    gather_in(Path::new("/proc"), std::process::id(), PATIENCE)
}

fn gather_in(proc: &Path, own: u32, patience: Duration) -> GuestProcesses {
    let deadline = Instant::now() + patience;
    let read = |name: &str| fs::read_to_string(proc.join(name)).unwrap_or_default();
    let sockets = listening(&read);
    let (booted, uptime) = (boot_time(&read("stat")), seconds(&read("uptime")));
    let mut found = GuestProcesses {
        v: VERSION,
        processes: Vec::new(),
        cut: false,
    };
    let mut bytes = 0;
    for pid in pids(proc).into_iter().filter(|pid| *pid != own) {
        if found.processes.len() >= MOST_PROCESSES || Instant::now() > deadline {
            found.cut = true;
            break;
        }
        let Some(process) = process(&proc.join(pid.to_string()), pid, booted, uptime, &sockets)
        else {
            continue;
        };
        bytes += serde_json::to_vec(&process).map_or(0, |text| text.len() + 1);
        if bytes > MOST_BYTES {
            found.cut = true;
            break;
        }
        found.processes.push(process);
    }
    found
}

fn pids(proc: &Path) -> Vec<u32> {
    let entries = fs::read_dir(proc).into_iter().flatten().flatten();
    let mut found: Vec<u32> = entries
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect();
    found.sort_unstable();
    found
}

/// Reads one process; `None` when it has ended or is a thread of the kernel.
fn process(
    directory: &Path,
    pid: u32,
    booted: u64,
    uptime: u64,
    sockets: &BTreeMap<u64, ListenSocket>,
) -> Option<GuestProcess> {
    let text = fs::read(directory.join("stat")).ok()?;
    let stat = Stat::parse(&String::from_utf8_lossy(&text))?;
    if stat.flags & KERNEL_THREAD != 0 {
        return None;
    }
    let began = stat.began / TICKS;
    let rtime = uptime.saturating_sub(began);
    let busy = stat.used * 100 / TICKS;
    let line = fs::read(directory.join("cmdline")).unwrap_or_default();
    let working = fs::read_link(directory.join("cwd")).unwrap_or_default();
    Some(GuestProcess {
        pid,
        command: command(&line, &stat.name),
        directory: shortened(&working.to_string_lossy()),
        cpu: busy.checked_div(rtime).unwrap_or(0),
        rss: stat.resident * PAGE,
        rtime,
        stime: booted + began,
        listen_sockets: sockets_of(directory, sockets),
    })
}

/// The fields of /proc/<pid>/stat that are told.
#[derive(Debug, PartialEq, Eq)]
struct Stat {
    name: String,
    flags: u64,
    /// In ticks, both modes.
    used: u64,
    /// In ticks since boot.
    began: u64,
    /// In pages.
    resident: u64,
}

impl Stat {
    fn parse(text: &str) -> Option<Self> {
        // The name may hold anything, spaces and parentheses included.
        let (head, tail) = text.rsplit_once(')')?;
        let (_, name) = head.split_once('(')?;
        let words: Vec<&str> = tail.split_whitespace().collect();
        let number = |index: usize| words.get(index)?.parse::<u64>().ok();
        Some(Self {
            name: name.into(),
            flags: number(6)?,
            used: number(11)?.saturating_add(number(12)?),
            began: number(19)?,
            resident: number(21)?,
        })
    }
}

fn command(line: &[u8], name: &str) -> String {
    let text = String::from_utf8_lossy(line);
    let words = text.trim_end_matches('\0').replace('\0', " ");
    if words.is_empty() {
        return format!("[{}]", shortened(name));
    }
    shortened(&words)
}

fn shortened(text: &str) -> String {
    text.chars().take(LONGEST_TEXT).collect()
}

fn sockets_of(directory: &Path, sockets: &BTreeMap<u64, ListenSocket>) -> Vec<ListenSocket> {
    if sockets.is_empty() {
        return Vec::new();
    }
    let entries = fs::read_dir(directory.join("fd")).into_iter().flatten();
    let mut found: Vec<ListenSocket> = entries
        .take(MOST_DESCRIPTORS)
        .flatten()
        .filter_map(|entry| {
            let target = fs::read_link(entry.path()).ok()?;
            let inode = target
                .to_str()?
                .strip_prefix("socket:[")?
                .strip_suffix(']')?;
            sockets.get(&inode.parse().ok()?).cloned()
        })
        .take(MOST_SOCKETS)
        .collect();
    found.sort_by(|one, other| (&one.proto, &one.address).cmp(&(&other.proto, &other.address)));
    found.dedup();
    found
}

/// Returns every socket that takes connections or datagrams, by inode.
fn listening(read: &impl Fn(&str) -> String) -> BTreeMap<u64, ListenSocket> {
    [
        ("tcp", "net/tcp", TCP_LISTEN),
        ("tcp", "net/tcp6", TCP_LISTEN),
        ("udp", "net/udp", UDP_UNCONNECTED),
        ("udp", "net/udp6", UDP_UNCONNECTED),
    ]
    .into_iter()
    .flat_map(|(proto, file, state)| sockets(&read(file), proto, state))
    .collect()
}

fn sockets(table: &str, proto: &str, state: &str) -> Vec<(u64, ListenSocket)> {
    table
        .lines()
        .skip(1)
        .filter_map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            if *words.get(3)? != state {
                return None;
            }
            let socket = ListenSocket {
                proto: proto.into(),
                address: address(words.get(1)?)?,
            };
            Some((words.get(9)?.parse().ok()?, socket))
        })
        .collect()
}

/// Reads `0100007F:1F90` and its like: 32-bit words in the machine's order, then the port.
fn address(text: &str) -> Option<String> {
    let (host, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let word = |index: usize| {
        let digits = host.get(index * 8..index * 8 + 8)?;
        Some(u32::from_str_radix(digits, 16).ok()?.to_ne_bytes())
    };
    match host.len() {
        8 => Some(format!("{}:{port}", Ipv4Addr::from(word(0)?))),
        32 => {
            let mut octets = [0; 16];
            for index in 0..4 {
                octets[index * 4..index * 4 + 4].copy_from_slice(&word(index)?);
            }
            Some(format!("[{}]:{port}", Ipv6Addr::from(octets)))
        }
        _ => None,
    }
}

fn boot_time(stat: &str) -> u64 {
    let line = stat.lines().find_map(|line| line.strip_prefix("btime "));
    line.and_then(|value| value.trim().parse().ok())
        .unwrap_or(0)
}

fn seconds(uptime: &str) -> u64 {
    let whole = uptime.split('.').next().unwrap_or_default();
    whole.trim().parse().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::path::Path;
    use std::time::Duration;

    use super::{Stat, address, command, gather_in, sockets};

    #[test]
    fn a_name_may_hold_anything() {
        let text = "7 (a) b (c) S 1 7 7 0 -1 64 9 0 0 0 20 30 0 0 20 0 1 0 500 4096 25 0";
        let stat = Stat::parse(text).unwrap();
        assert_eq!((stat.name.as_str(), stat.flags), ("a) b (c", 64));
        assert_eq!((stat.used, stat.began, stat.resident), (50, 500, 25));
        assert_eq!(Stat::parse("7 (cut"), None);
        assert_eq!(Stat::parse("7 (short) S 1 7"), None);
    }

    #[test]
    fn addresses_are_written_as_clients_parse_them() {
        assert_eq!(address("0100007F:1F90").unwrap(), "127.0.0.1:8080");
        let any = "00000000000000000000000000000000:0050";
        assert_eq!(address(any).unwrap(), "[::]:80");
        let local = "00000000000000000000000001000000:0016";
        assert_eq!(address(local).unwrap(), "[::1]:22");
        for bad in ["", "0100007F", "01:1", "zz00007F:1F90", "0100007F:1F90F"] {
            assert_eq!(address(bad), None, "{bad}");
        }
    }

    #[test]
    fn only_sockets_that_take_something_count() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
            0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 4242 1\n\
            1: 0100007F:1F91 0100007F:9999 01 00000000:00000000 00:00000000 00000000 0 0 4243 1\n\
            2: broken\n";
        let found = sockets(table, "tcp", "0A");
        assert_eq!(found.len(), 1);
        assert_eq!(
            (found[0].0, found[0].1.address.as_str()),
            (4242, "127.0.0.1:8080")
        );
    }

    #[test]
    fn commands_are_one_line_and_short() {
        assert_eq!(
            command(b"python3\0-u\0app.py\0", "python3"),
            "python3 -u app.py"
        );
        assert_eq!(command(b"", "zombie"), "[zombie]");
        assert_eq!(command(&[b'x'; 10_000], "x").len(), 256);
    }

    #[test]
    fn this_process_is_found_with_its_socket() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let bound = listener.local_addr().unwrap().to_string();
        let found = gather_in(Path::new("/proc"), 0, Duration::from_mins(1));
        let own = found
            .processes
            .iter()
            .find(|process| process.pid == std::process::id())
            .unwrap();
        assert!(own.rss > 0 && own.stime > 1_000_000_000 && !own.directory.is_empty());
        assert!(
            own.listen_sockets
                .iter()
                .any(|socket| socket.address == bound)
        );
    }

    #[test]
    fn time_over_means_cut_not_late() {
        let found = gather_in(Path::new("/proc"), 0, Duration::ZERO);
        assert!(found.cut && found.processes.is_empty());
    }
}
