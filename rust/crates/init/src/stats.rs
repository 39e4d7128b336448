//! The guest's counters, from /proc and /sys.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use godwit_wire::messages::{Cpu, Disk, Filesystem, Interface, Memory, Stats};

use crate::stages::disks;

const SECTOR: u64 = 512;

/// Reads every counter. What cannot be read is left at zero.
pub(crate) fn gather(id: u64, volumes: &[PathBuf]) -> Stats {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let (load, processes) = load(&read("/proc/loadavg"));
    let serials = disks::list().into_iter().collect();
    let root = [PathBuf::from("/")];
    Stats {
        id,
        uptime_ms: uptime_ms(&read("/proc/uptime")),
        memory: memory(&read("/proc/meminfo")),
        load,
        processes,
        cpus: cpus(&read("/proc/stat")),
        disks: disks(&read("/proc/diskstats"), &serials),
        networks: interfaces(&read("/proc/net/dev")),
        filesystems: root
            .iter()
            .chain(volumes)
            .filter_map(|path| filesystem(path))
            .collect(),
    }
}

/// Returns how often the kernel has killed a process for want of memory.
pub(crate) fn oom_kills() -> u64 {
    counter(
        &fs::read_to_string("/proc/vmstat").unwrap_or_default(),
        "oom_kill",
    )
}

fn counter(vmstat: &str, name: &str) -> u64 {
    vmstat
        .lines()
        .filter_map(|line| line.split_once(' '))
        .find(|(key, _)| *key == name)
        .and_then(|(_, value)| value.trim().parse().ok())
        .unwrap_or(0)
}

fn uptime_ms(text: &str) -> u64 {
    let whole = text
        .split_whitespace()
        .next()
        .unwrap_or_default()
        .replace('.', "");
    whole.parse::<u64>().unwrap_or(0) * 10
}

fn load(text: &str) -> ([f64; 3], u32) {
    let mut words = text.split_whitespace();
    let mut next = || words.next().unwrap_or_default();
    let load = [next(), next(), next()].map(|word| word.parse().unwrap_or(0.0));
    let processes = next().split_once('/').and_then(|(_, all)| all.parse().ok());
    (load, processes.unwrap_or(0))
}

fn memory(meminfo: &str) -> Memory {
    let entries: BTreeMap<&str, u64> = meminfo
        .lines()
        .filter_map(|line| {
            let (key, value) = line.split_once(':')?;
            let kilobytes: u64 = value.split_whitespace().next()?.parse().ok()?;
            Some((key, kilobytes * 1024))
        })
        .collect();
    let get = |key| entries.get(key).copied().unwrap_or(0);
    Memory {
        total: get("MemTotal"),
        free: get("MemFree"),
        available: get("MemAvailable"),
        buffers: get("Buffers"),
        cached: get("Cached"),
        swap_total: get("SwapTotal"),
        swap_free: get("SwapFree"),
    }
}

fn numbers<'a>(words: impl Iterator<Item = &'a str>) -> Vec<u64> {
    words.map(|word| word.parse().unwrap_or(0)).collect()
}

fn at(values: &[u64], index: usize) -> u64 {
    values.get(index).copied().unwrap_or(0)
}

fn cpus(stat: &str) -> Vec<Cpu> {
    stat.lines()
        .filter(|line| line.starts_with("cpu") && !line.starts_with("cpu "))
        .map(|line| {
            let v = numbers(line.split_whitespace().skip(1));
            Cpu {
                user: at(&v, 0),
                nice: at(&v, 1),
                system: at(&v, 2),
                idle: at(&v, 3),
                iowait: at(&v, 4),
                irq: at(&v, 5),
                softirq: at(&v, 6),
                steal: at(&v, 7),
            }
        })
        .collect()
}

fn disks(diskstats: &str, serials: &BTreeMap<String, String>) -> Vec<Disk> {
    diskstats
        .lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace().skip(2);
            let name = serials.get(words.next()?)?;
            let v = numbers(words);
            Some(Disk {
                name: name.clone(),
                reads: at(&v, 0),
                read_bytes: at(&v, 2) * SECTOR,
                writes: at(&v, 4),
                written_bytes: at(&v, 6) * SECTOR,
            })
        })
        .collect()
}

fn interfaces(dev: &str) -> Vec<Interface> {
    dev.lines()
        .filter_map(|line| {
            let (name, values) = line.split_once(':')?;
            let v = numbers(values.split_whitespace());
            (name.trim() != "lo").then(|| Interface {
                name: name.trim().into(),
                received_bytes: at(&v, 0),
                received_packets: at(&v, 1),
                received_errors: at(&v, 2),
                received_drops: at(&v, 3),
                sent_bytes: at(&v, 8),
                sent_packets: at(&v, 9),
                sent_errors: at(&v, 10),
                sent_drops: at(&v, 11),
            })
        })
        .collect()
}

fn filesystem(path: &Path) -> Option<Filesystem> {
    let found = rustix::fs::statvfs(path).ok()?;
    Some(Filesystem {
        path: path.to_string_lossy().into_owned(),
        size: found.f_blocks * found.f_frsize,
        free: found.f_bavail * found.f_frsize,
        inodes: found.f_files,
        inodes_free: found.f_favail,
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::{counter, cpus, disks, gather, interfaces, load, memory, uptime_ms};

    #[test]
    fn counters_are_read_from_the_kernels_tables() {
        assert_eq!(uptime_ms("12.34 56.78\n"), 12_340);
        assert_eq!(load("0.50 0.25 0.00 2/77 1234\n"), ([0.5, 0.25, 0.0], 77));
        let memory = memory("MemTotal: 1024 kB\nMemAvailable:  512 kB\nHugePages_Total: 0\n");
        assert_eq!(
            (memory.total, memory.available, memory.free),
            (1_048_576, 524_288, 0)
        );
        let cpus = cpus("cpu  9 9 9 9\ncpu0 1 2 3 4 5 6 7 8 0 0\ncpu1 1\nintr 5\n");
        assert_eq!((cpus.len(), cpus[0].steal, cpus[1].idle), (2, 8, 0));
        assert_eq!(counter("oom_kill_x 9\noom_kill 3\n", "oom_kill"), 3);
        assert_eq!(counter("", "oom_kill"), 0);
    }

    #[test]
    fn disks_are_named_by_serial_and_counted_in_bytes() {
        let serials = BTreeMap::from([("vda".to_owned(), "root".to_owned())]);
        let text = " 254 0 vda 10 0 20 5 3 0 4 1 0 0 0\n 7 0 loop0 1 0 1 1 1 0 1 1 0 0 0\n";
        let found = disks(text, &serials);
        assert_eq!(found.len(), 1);
        assert_eq!(
            (found[0].name.as_str(), found[0].read_bytes),
            ("root", 10_240)
        );
        assert_eq!(found[0].written_bytes, 2_048);
    }

    #[test]
    fn interfaces_leave_out_loopback() {
        let text = "Inter-| Receive\n face |bytes\n    lo: 1 1 0 0 0 0 0 0 1 1 0 0 0 0 0 0\n  \
            eth0: 100 2 0 0 0 0 0 0 200 3 0 0 0 0 0 0\n";
        let found = interfaces(text);
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].received_bytes, found[0].sent_bytes), (100, 200));
    }

    #[test]
    fn this_machine_can_be_read() {
        let stats = gather(7, &[]);
        assert_eq!(stats.id, 7);
        assert!(stats.memory.total > 0 && !stats.cpus.is_empty() && stats.uptime_ms > 0);
        assert!(stats.filesystems[0].size > 0);
    }
}
