//! The machine's log: JSON lines in rotated files, at a bounded rate, with increasing times.
//!
//! A disk that is full costs lines, never the machine: what cannot be written counts as dropped.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use godwit_wire::shim::{LogLimits, LogLine, Source};
use serde::Serialize;

use crate::lines::Splitter;
use crate::rate::Bucket;

/// A last line is looked for in so many bytes at the end of a file.
const TAIL: u64 = 1_048_576;
/// What is collected before it is written without waiting for the end of a round.
const BATCH: usize = 65_536;

#[derive(Serialize)]
struct Line<'a> {
    t: u64,
    s: Source,
    m: &'a str,
}

/// What was left out since the last `system` line about it.
#[derive(Debug, Default)]
struct Dropped {
    bytes: u64,
    lines: u64,
}

#[derive(Debug)]
pub(crate) struct Log {
    directory: PathBuf,
    limits: LogLimits,
    file: File,
    size: u64,
    last: u64,
    bucket: Bucket,
    dropping: bool,
    dropped: Dropped,
    dropped_ever: u64,
    batch: Vec<u8>,
    batch_lines: u64,
    splitters: [(Source, Splitter); 3],
}

impl Log {
    /// Opens the log where the last boot left it; a torn last line is cut off.
    pub(crate) fn open(directory: &Path, limits: LogLimits) -> io::Result<Self> {
        fs::create_dir_all(directory)?;
        let mut file = open_current(directory)?;
        let (size, last) = repair(&mut file)?;
        let last = match last {
            Some(last) => last,
            None => last_time(&directory.join("1.jsonl")).unwrap_or(0),
        };
        let splitter = |source| (source, Splitter::new(limits.max_line_bytes));
        Ok(Self {
            directory: directory.to_owned(),
            bucket: Bucket::new(limits.bytes_per_second, limits.burst_bytes, Instant::now()),
            splitters: [Source::Stdout, Source::Stderr, Source::Console].map(splitter),
            limits,
            file,
            size,
            last,
            dropping: false,
            dropped: Dropped::default(),
            dropped_ever: 0,
            batch: Vec::new(),
            batch_lines: 0,
        })
    }

    /// Takes bytes of one of the guest's streams.
    pub(crate) fn output(&mut self, source: Source, bytes: &[u8], now: Instant) {
        let index = self
            .splitters
            .iter()
            .position(|(of, _)| *of == source)
            .unwrap_or(0);
        let placeholder = Splitter::new(self.limits.max_line_bytes);
        let mut splitter = std::mem::replace(&mut self.splitters[index].1, placeholder);
        splitter.feed(bytes, |line| self.limited(source, line, now));
        self.splitters[index].1 = splitter;
    }

    /// Writes the platform's own word; the rate does not apply to it.
    pub(crate) fn system(&mut self, text: &str) {
        self.append(Source::System, text);
    }

    /// Bytes that were left out since the log was opened.
    pub(crate) fn dropped_bytes(&self) -> u64 {
        self.dropped_ever
    }

    /// When `round` has something to say, if nothing else happens.
    pub(crate) fn next_round(&mut self, now: Instant) -> Option<Duration> {
        let enough = self.enough();
        self.dropping.then(|| self.bucket.time_until(enough, now))
    }

    /// Writes what was collected; says what was left out once that is over.
    pub(crate) fn round(&mut self, now: Instant) {
        if self.dropping && self.bucket.level(now) >= self.enough() {
            self.dropping = false;
            self.tell_dropped();
        }
        self.write_batch();
    }

    /// Writes lines that have no end yet, and everything else.
    pub(crate) fn finish(&mut self, now: Instant) {
        for index in 0..self.splitters.len() {
            let (source, mut rest) = (self.splitters[index].0, Vec::new());
            self.splitters[index]
                .1
                .finish(|line| rest.extend_from_slice(line));
            if !rest.is_empty() {
                self.limited(source, &rest, now);
            }
        }
        self.tell_dropped();
        self.write_batch();
    }

    fn limited(&mut self, source: Source, line: &[u8], now: Instant) {
        let bytes = line.len() as u64 + 1;
        if self.dropping || !self.bucket.take(bytes, now) {
            self.dropping = true;
            self.drop_line(bytes, 1);
        } else {
            self.append(source, &String::from_utf8_lossy(line));
        }
    }

    /// Once lines are left out, a quarter of a second's worth must be free before it ends: else
    /// a flood would be one line kept, one `system` line, one line kept.
    fn enough(&self) -> u64 {
        (self.limits.bytes_per_second / 4).min(self.limits.burst_bytes)
    }

    fn drop_line(&mut self, bytes: u64, lines: u64) {
        self.dropped.bytes += bytes;
        self.dropped.lines += lines;
        self.dropped_ever += bytes;
    }

    fn tell_dropped(&mut self) {
        let Dropped { bytes, lines } = std::mem::take(&mut self.dropped);
        if lines > 0 {
            let rate = self.limits.bytes_per_second;
            self.system(&format!(
                "{lines} lines ({bytes} bytes) left out: a machine's log takes {rate} bytes per second"
            ));
        }
    }

    fn append(&mut self, source: Source, text: &str) {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        self.last = u64::try_from(now.as_nanos())
            .unwrap_or(0)
            .max(self.last + 1);
        let line = Line {
            t: self.last,
            s: source,
            m: text,
        };
        let before = self.batch.len();
        if serde_json::to_writer(&mut self.batch, &line).is_err() {
            self.batch.truncate(before);
            return;
        }
        self.batch.push(b'\n');
        self.batch_lines += 1;
        if self.batch.len() >= BATCH {
            self.write_batch();
        }
    }

    fn write_batch(&mut self) {
        if self.batch.is_empty() {
            return;
        }
        let bytes = self.batch.len() as u64;
        let full = self.size > 0 && self.size + bytes > self.limits.max_file_bytes;
        let written = if full { self.rotate() } else { Ok(()) }
            .and_then(|()| self.file.write_all(&self.batch));
        if written.is_ok() {
            self.size += bytes;
        } else {
            self.drop_line(bytes, self.batch_lines);
            self.dropping = true;
            // Half a line may have been written; readers never see one.
            let _ = self.file.set_len(self.size);
        }
        self.batch.clear();
        self.batch_lines = 0;
    }

    /// Moves every file one place down; the oldest goes.
    fn rotate(&mut self) -> io::Result<()> {
        let name = |number: u32| self.directory.join(format!("{number}.jsonl"));
        let current = self.directory.join("current.jsonl");
        for number in (1..self.limits.max_files.saturating_sub(1)).rev() {
            present(fs::rename(name(number), name(number + 1)))?;
        }
        if self.limits.max_files > 1 {
            present(fs::rename(&current, name(1)))?;
        } else {
            present(fs::remove_file(&current))?;
        }
        self.file = open_current(&self.directory)?;
        self.size = 0;
        Ok(())
    }
}

fn present(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn open_current(directory: &Path) -> io::Result<File> {
    let path = directory.join("current.jsonl");
    OpenOptions::new()
        .read(true)
        .append(true)
        .create(true)
        .mode(0o640)
        .open(path)
}

/// Cuts off a torn last line; returns the file's size and its last time.
fn repair(file: &mut File) -> io::Result<(u64, Option<u64>)> {
    let size = file.metadata()?.len();
    let tail = read_tail(file, size)?;
    let whole = tail
        .iter()
        .rposition(|byte| *byte == b'\n')
        .map_or(0, |at| at + 1);
    let torn = (tail.len() - whole) as u64;
    if torn > 0 {
        file.set_len(size - torn)?;
    }
    Ok((size - torn, time_of_last(&tail[..whole])))
}

fn last_time(path: &Path) -> Option<u64> {
    let mut file = File::open(path).ok()?;
    let size = file.metadata().ok()?.len();
    time_of_last(&read_tail(&mut file, size).ok()?)
}

fn read_tail(file: &mut File, size: u64) -> io::Result<Vec<u8>> {
    file.seek(SeekFrom::Start(size.saturating_sub(TAIL)))?;
    let mut tail = Vec::new();
    file.read_to_end(&mut tail)?;
    Ok(tail)
}

fn time_of_last(tail: &[u8]) -> Option<u64> {
    let lines = tail.split(|byte| *byte == b'\n').rev();
    lines
        .filter_map(|line| serde_json::from_slice::<LogLine>(line).ok())
        .map(|line| line.t)
        .next()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::{Path, PathBuf};
    use std::time::{Duration, Instant};

    use godwit_wire::shim::{LogLimits, LogLine, Source};

    use super::Log;

    struct Directory(PathBuf);

    impl Directory {
        fn new(name: &str) -> Self {
            let path =
                std::env::temp_dir().join(format!("godwit-log-{name}-{}", std::process::id()));
            let _ = fs::remove_dir_all(&path);
            Self(path)
        }

        fn lines(&self, file: &str) -> Vec<LogLine> {
            let text = fs::read_to_string(self.0.join(file)).unwrap();
            text.lines()
                .map(|line| serde_json::from_str(line).unwrap())
                .collect()
        }
    }

    impl Drop for Directory {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn limits() -> LogLimits {
        LogLimits {
            max_file_bytes: 1000,
            max_files: 3,
            bytes_per_second: 1000,
            burst_bytes: 100_000,
            max_line_bytes: 100,
        }
    }

    fn names(directory: &Path) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(directory)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn lines_come_out_in_order_with_growing_times() {
        let dir = Directory::new("order");
        let mut log = Log::open(&dir.0, limits()).unwrap();
        let now = Instant::now();
        log.output(Source::Stdout, b"a\nb", now);
        log.output(Source::Stderr, b"err\n", now);
        log.system("word");
        log.finish(now);
        let lines = dir.lines("current.jsonl");
        let seen: Vec<_> = lines.iter().map(|line| (line.s, line.m.as_str())).collect();
        assert_eq!(
            seen,
            [
                (Source::Stdout, "a"),
                (Source::Stderr, "err"),
                (Source::System, "word"),
                (Source::Stdout, "b"),
            ]
        );
        assert!(lines.is_sorted_by(|one, two| one.t < two.t));
    }

    #[test]
    fn files_rotate_and_the_oldest_goes() {
        let dir = Directory::new("rotate");
        let mut log = Log::open(&dir.0, limits()).unwrap();
        let now = Instant::now();
        for number in 0..200 {
            log.output(Source::Stdout, format!("line {number}\n").as_bytes(), now);
            log.round(now);
        }
        assert_eq!(names(&dir.0), ["1.jsonl", "2.jsonl", "current.jsonl"]);
        let files = ["2.jsonl", "1.jsonl", "current.jsonl"];
        let all: Vec<LogLine> = files.iter().flat_map(|file| dir.lines(file)).collect();
        assert_eq!(all.last().unwrap().m, "line 199");
        assert!(all.is_sorted_by(|one, two| one.t < two.t));
        for file in files {
            assert!(fs::metadata(dir.0.join(file)).unwrap().len() <= 1000);
        }
    }

    #[test]
    fn a_flood_is_cut_and_its_size_told_once_it_is_over() {
        let dir = Directory::new("flood");
        let small = LogLimits {
            burst_bytes: 500,
            max_file_bytes: 1_000_000,
            ..limits()
        };
        let mut log = Log::open(&dir.0, small).unwrap();
        let start = Instant::now();
        for _ in 0..100 {
            log.output(Source::Stdout, b"123456789\n", start);
            log.round(start);
        }
        assert_eq!(log.dropped_bytes(), 500);
        assert!(log.next_round(start).unwrap() > Duration::ZERO);
        let later = start + Duration::from_secs(1);
        log.round(later);
        log.output(Source::Stdout, b"after\n", later);
        log.finish(later);
        let lines = dir.lines("current.jsonl");
        assert_eq!(lines.len(), 52);
        assert_eq!(lines[50].s, Source::System);
        assert!(lines[50].m.starts_with("50 lines (500 bytes) left out"));
        assert_eq!(lines[51].m, "after");
        assert_eq!(log.next_round(later), None);
    }

    #[test]
    fn the_log_goes_on_where_the_last_boot_left_it() {
        let dir = Directory::new("again");
        let now = Instant::now();
        let mut log = Log::open(&dir.0, limits()).unwrap();
        log.system("first");
        log.finish(now);
        let path = dir.0.join("current.jsonl");
        let future = format!(
            "{{\"t\":{},\"s\":\"system\",\"m\":\"ahead\"}}\n{{\"t\":1,",
            u64::MAX / 2
        );
        fs::write(&path, fs::read_to_string(&path).unwrap() + &future).unwrap();
        let mut log = Log::open(&dir.0, limits()).unwrap();
        log.system("second");
        log.finish(now);
        let lines = dir.lines("current.jsonl");
        assert_eq!(lines.len(), 3);
        assert_eq!(
            (lines[2].m.as_str(), lines[2].t),
            ("second", u64::MAX / 2 + 1)
        );
    }

    #[test]
    fn times_grow_also_across_a_rotation() {
        let dir = Directory::new("across");
        fs::create_dir_all(&dir.0).unwrap();
        let line = format!("{{\"t\":{},\"s\":\"stdout\",\"m\":\"x\"}}\n", u64::MAX / 2);
        fs::write(dir.0.join("1.jsonl"), line).unwrap();
        let mut log = Log::open(&dir.0, limits()).unwrap();
        log.system("next");
        log.finish(Instant::now());
        assert_eq!(dir.lines("current.jsonl")[0].t, u64::MAX / 2 + 1);
    }
}
