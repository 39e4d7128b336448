//! The last view on disk, from which an edge or DNS server starts when nobody else answers.
//!
//! One JSON document with one fact per line, so that a damaged line costs one fact:
//! `{"v":1,"host_id":"…","facts":[` ⏎ fact `,` ⏎ … ⏎ `]}`. Written to a temporary file that
//! takes the name of the old one once it is on the disk.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use godwit_wire::facts::Fact;
use serde::{Deserialize, Serialize};

use crate::catalog::{Catalog, Outcome};
use crate::view::View;

const FORMAT: u32 = 1;

#[derive(Serialize, Deserialize)]
struct Header {
    v: u32,
    host_id: String,
    facts: Vec<Fact>,
}

/// What a file held.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Loaded {
    pub facts: usize,
    pub skipped: usize,
}

/// Keep a view in a file.
pub fn save(path: &Path, host_id: &str, view: &View) -> io::Result<()> {
    let temporary = path.with_extension("tmp");
    let result = write(&temporary, host_id, view).and_then(|()| fs::rename(&temporary, path));
    if result.is_err() {
        // The old view stays; a half-written one is of no use to anybody.
        let _ = fs::remove_file(&temporary);
        return result;
    }
    match path.parent() {
        Some(folder) => File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

/// Take a kept view into a catalog; `None` if there is no file.
///
/// # Errors
/// The file cannot be read, or is of another host or a later format.
pub fn load(path: &Path, catalog: &mut Catalog) -> io::Result<Option<Loaded>> {
    let mut lines = match File::open(path) {
        Ok(file) => BufReader::new(file).split(b'\n'),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let first = lines.next().transpose()?.unwrap_or_default();
    check(&first, catalog.host_id())?;
    let mut loaded = Loaded::default();
    for line in lines {
        let line = line?;
        let line = line.strip_suffix(b",").unwrap_or(&line);
        if line.is_empty() || line == b"]}" {
            continue;
        }
        let outcome = serde_json::from_slice(line).map(|fact| catalog.apply_kept(&fact));
        match outcome {
            Ok(Outcome::Applied | Outcome::Stale | Outcome::Ours | Outcome::Beside) => {
                loaded.facts += 1;
            }
            Ok(Outcome::Skipped(_)) | Err(_) => loaded.skipped += 1,
        }
    }
    Ok(Some(loaded))
}

fn write(path: &Path, host_id: &str, view: &View) -> io::Result<()> {
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)?;
    let mut out = BufWriter::new(file);
    let header = Header {
        v: FORMAT,
        host_id: host_id.to_owned(),
        facts: Vec::new(),
    };
    let header = serde_json::to_string(&header)?;
    out.write_all(header.strip_suffix("]}").unwrap_or(&header).as_bytes())?;
    let mut separator = "\n";
    for fact in view.facts() {
        out.write_all(separator.as_bytes())?;
        serde_json::to_writer(&mut out, &fact)?;
        separator = ",\n";
    }
    out.write_all(b"\n]}\n")?;
    out.into_inner()?.sync_all()
}

fn check(first: &[u8], host_id: &str) -> io::Result<()> {
    let wrong = |why: String| Err(io::Error::new(io::ErrorKind::InvalidData, why));
    let whole = [first, b"]}"].concat();
    match serde_json::from_slice::<Header>(&whole) {
        Err(error) => wrong(format!("no view: {error}")),
        Ok(header) if header.v > FORMAT => wrong(format!("format {} is too new", header.v)),
        Ok(header) if header.host_id != host_id => {
            wrong(format!("it is of host {}", header.host_id))
        }
        Ok(_) => Ok(()),
    }
}
