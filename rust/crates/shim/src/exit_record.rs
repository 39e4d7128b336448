//! `exit.json`: how a boot ended, on disk before anybody is told.
//!
//! Its space is taken when the machine starts, so that a disk which filled up meanwhile cannot
//! keep the record from being written.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use godwit_wire::shim::ExitRecord;

const RESERVED: [u8; 16_384] = [b' '; 16_384];

#[derive(Debug)]
pub(crate) struct Place {
    directory: PathBuf,
    reserved: File,
}

impl Place {
    /// Removes the last boot's record and takes the space for this one's.
    pub(crate) fn reserve(directory: &Path) -> io::Result<Self> {
        match fs::remove_file(directory.join("exit.json")) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut reserved = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o640)
            .open(directory.join("exit.json.part"))?;
        reserved.write_all(&RESERVED)?;
        Ok(Self {
            directory: directory.to_owned(),
            reserved,
        })
    }

    /// Writes the record and syncs it, file and directory.
    pub(crate) fn record(&mut self, record: &ExitRecord) -> io::Result<()> {
        let text = serde_json::to_vec(record)?;
        self.reserved.rewind()?;
        self.reserved.write_all(&text)?;
        self.reserved.set_len(text.len() as u64)?;
        self.reserved.sync_all()?;
        fs::rename(
            self.directory.join("exit.json.part"),
            self.directory.join("exit.json"),
        )?;
        File::open(&self.directory)?.sync_all()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use godwit_wire::shim::{Cause, ExitRecord, VmmExit};

    use super::Place;

    #[test]
    fn the_last_boots_record_goes_and_this_ones_comes_whole() {
        let dir = std::env::temp_dir().join(format!("godwit-exit-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("exit.json"), "old").unwrap();
        let mut place = Place::reserve(&dir).unwrap();
        assert!(!dir.join("exit.json").exists());
        let record = ExitRecord {
            v: 1,
            machine_id: "m".into(),
            instance_id: "i".into(),
            exited_at_ms: 1,
            start_kind: godwit_wire::shim::StartKind::Cold,
            cause: Cause::Vmm,
            guest: None,
            failure: None,
            vmm: VmmExit {
                exit_code: Some(0),
                signal: None,
            },
        };
        place.record(&record).unwrap();
        let read = fs::read(dir.join("exit.json")).unwrap();
        assert_eq!(serde_json::from_slice::<ExitRecord>(&read).unwrap(), record);
        assert!(!dir.join("exit.json.part").exists());
        fs::remove_dir_all(dir).unwrap();
    }
}
