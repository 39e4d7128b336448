//! From a request's path to an open file, and nowhere else.
//!
//! The kernel resolves names below the directory that the config names: it follows no symbolic
//! link, of any of its components either, and leaves the directory by no way.

use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, SystemTime};

use godwit_wire::run_spec::{Directory, Statics};
use godwit_wire::statics::{below, decoded};
use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, Stat, fstat, openat2};
use rustix::io::Errno;

/// Where files are looked for.
#[derive(Debug)]
pub(super) struct Places {
    root: OwnedFd,
    /// The longest prefix first.
    directories: Vec<Directory>,
    revision: String,
}

/// A regular file to be handed out.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) file: OwnedFd,
    pub(super) facts: Facts,
}

/// What is said of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Facts {
    /// By which its type is told.
    pub(super) name: Vec<u8>,
    pub(super) length: u64,
    pub(super) modified: SystemTime,
    /// With its quotes.
    pub(super) tag: String,
}

/// What a path leads to.
#[derive(Debug)]
pub(super) enum Look {
    File(Found),
    /// A directory with an index, whose path ends without a slash.
    Directory,
    Nothing,
    /// It could not be looked for.
    Trouble,
}

impl Places {
    /// Looks below a root, which is `/` but in tests.
    pub(super) fn below(root: OwnedFd, statics: &Statics) -> Self {
        let mut directories = statics.directories.clone();
        let length = |one: &Directory| one.url_prefix.trim_end_matches('/').len();
        directories.sort_by_key(|one| std::cmp::Reverse(length(one)));
        Self {
            root,
            directories,
            revision: statics.revision.clone(),
        }
    }

    /// Looks for what a request's path, without its query, names.
    pub(super) fn look(&self, path: &str) -> Look {
        let Some(path) = decoded(path) else {
            return Look::Nothing;
        };
        let mut directories = self.directories.iter();
        let hit = directories.find_map(|one| Some((one, below(&path, &one.url_prefix)?)));
        let Some((directory, rest)) = hit else {
            return Look::Nothing;
        };
        let Some(name) = plain(rest) else {
            return Look::Nothing;
        };
        match self.open(directory, name, rest.ends_with(b"/")) {
            Ok(look) => look,
            // The server's own want; everything else is a name that leads to no file.
            Err(Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::IO | Errno::AGAIN) => {
                Look::Trouble
            }
            Err(_) => Look::Nothing,
        }
    }

    fn open(&self, directory: &Directory, name: &[u8], slash: bool) -> rustix::io::Result<Look> {
        let path = directory.guest_path.trim_matches('/');
        let folder = resolve(
            &self.root,
            path.as_bytes(),
            OFlags::PATH | OFlags::DIRECTORY,
        )?;
        let index = directory.index_document.as_bytes();
        if slash && index.is_empty() {
            return Ok(Look::Nothing);
        }
        let name = match (name, slash) {
            (b"", true) => index.to_vec(),
            (name, true) => [name, b"/", index].concat(),
            (name, false) => name.to_vec(),
        };
        // Not to wait for whoever opens the other end of a pipe.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
        let file = resolve(&folder, &name, flags)?;
        let stat = fstat(&file)?;
        Ok(match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => Look::File(Found {
                facts: self.facts(name, &stat),
                file,
            }),
            FileType::Directory if !slash && !index.is_empty() => Look::Directory,
            _ => Look::Nothing,
        })
    }

    fn facts(&self, name: Vec<u8>, stat: &Stat) -> Facts {
        let length = u64::try_from(stat.st_size).unwrap_or(0);
        let seconds = u64::try_from(stat.st_mtime).unwrap_or(0);
        let nanoseconds = stat.st_mtime_nsec;
        Facts {
            name,
            length,
            modified: SystemTime::UNIX_EPOCH + Duration::from_secs(seconds),
            tag: format!(
                "\"{}-{seconds:x}.{nanoseconds:x}-{length:x}\"",
                self.revision
            ),
        }
    }
}

fn resolve(folder: &impl AsFd, name: &[u8], flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let name = if name.is_empty() { b"." } else { name };
    let within = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    openat2(folder, name, flags | OFlags::CLOEXEC, Mode::empty(), within)
}

/// What of a path is below a prefix as a name to open; `None` for one that is not plain.
fn plain(rest: &[u8]) -> Option<&[u8]> {
    let name = rest.strip_prefix(b"/").unwrap_or(rest);
    if name.is_empty() {
        return Some(name);
    }
    let name = name.strip_suffix(b"/").unwrap_or(name);
    let odd = |segment: &[u8]| matches!(segment, b"" | b"." | b"..");
    (!name.split(|byte| *byte == b'/').any(odd)).then_some(name)
}

#[cfg(test)]
pub(super) mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::path::PathBuf;

    use godwit_wire::run_spec::{Directory, Statics};
    use rustix::fs::{CWD, Mode, OFlags, mknodat};

    use super::{FileType, Look, Places};

    /// A root with an app's files, and what is not to be found in it.
    pub(in crate::files) struct Root(pub(in crate::files) PathBuf);

    impl Root {
        pub(in crate::files) fn new(name: &str) -> Self {
            let here = format!("godwit-files-{name}-{}", std::process::id());
            let root = Self(std::env::temp_dir().join(here));
            for folder in ["app/public/img", "app/docs/sub", "srv"] {
                fs::create_dir_all(root.0.join(folder)).unwrap();
            }
            for (path, text) in [
                ("app/secret", "secret"),
                ("app/public/style.css", "body{}"),
                ("app/public/grüß dich", "hello"),
                ("app/public/img/a.png", "png"),
                ("app/public/index.html", "no index"),
                ("app/docs/index.html", "docs"),
                ("app/docs/sub/index.html", "sub"),
            ] {
                fs::write(root.0.join(path), text).unwrap();
            }
            for (to, at) in [
                ("../secret", "app/public/up"),
                ("style.css", "app/public/near.css"),
                ("img", "app/public/pictures"),
                ("../app/public", "srv/public"),
            ] {
                symlink(to, root.0.join(at)).unwrap();
            }
            let pipe = root.0.join("app/public/pipe");
            mknodat(CWD, pipe, FileType::Fifo, Mode::from_raw_mode(0o644), 0).unwrap();
            root
        }

        pub(in crate::files) fn places(&self) -> Places {
            let directory = |guest_path: &str, url_prefix: &str, index: &str| Directory {
                guest_path: guest_path.into(),
                url_prefix: url_prefix.into(),
                index_document: index.into(),
            };
            let statics = Statics {
                listen: "127.0.0.1:0".into(),
                revision: "abc".into(),
                directories: vec![
                    directory("/app/public", "/static", ""),
                    directory("/app/docs/", "/static/docs/", "index.html"),
                    directory("/srv/public", "/linked", ""),
                    directory("/nowhere", "/gone", ""),
                ],
            };
            let flags = OFlags::PATH | OFlags::DIRECTORY;
            let root = rustix::fs::open(&self.0, flags, Mode::empty()).unwrap();
            Places::below(root, &statics)
        }
    }

    impl Drop for Root {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn look(places: &Places, path: &str) -> String {
        match places.look(path) {
            Look::File(found) => {
                let mut file = fs::File::from(found.file);
                std::io::read_to_string(&mut file).unwrap()
            }
            Look::Directory => "directory".into(),
            Look::Nothing => "nothing".into(),
            Look::Trouble => "trouble".into(),
        }
    }

    #[test]
    fn a_path_below_a_prefix_is_a_file_below_its_directory() {
        let root = Root::new("hits");
        let places = root.places();
        for (path, text) in [
            ("/static/style.css", "body{}"),
            ("/static/img/a.png", "png"),
            ("/static/img%2fa.png", "png"),
            ("/static/gr%C3%BC%C3%9F%20dich", "hello"),
            ("/static/index.html", "no index"),
            ("/static/docs/", "docs"),
            ("/static/docs/sub/", "sub"),
            ("/static/docs", "directory"),
            ("/static/docs/sub", "directory"),
        ] {
            assert_eq!(look(&places, path), text, "{path}");
        }
    }

    #[test]
    fn nothing_else_is_found() {
        let root = Root::new("misses");
        let places = root.places();
        for path in [
            "/static/../app/secret",
            "/static/../secret",
            "/static/%2e%2e/secret",
            "/static/..%2fsecret",
            "/static/%252e%252e/secret",
            "/static/img/../../secret",
            "/static/./style.css",
            "/static//style.css",
            "/static//",
            "/static/style.css/",
            "/static/style.css%00.png",
            "/static/up",
            "/static/near.css",
            "/static/pictures/a.png",
            "/static/pipe",
            "/static/img",
            "/static/img/",
            "/static/",
            "/static",
            "/static/missing",
            "/static/docs/sub//",
            "/staticstyle.css",
            "/linked/style.css",
            "/gone/style.css",
            "/app/secret",
            "/",
            "",
            "*",
        ] {
            assert_eq!(look(&places, path), "nothing", "{path}");
        }
    }
}
