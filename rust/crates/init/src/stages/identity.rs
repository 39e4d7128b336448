//! Who the machine is: host name, /etc/hosts, /etc/resolv.conf, machine id, files it was given.
//!
//! Runs after the root was switched, so every path is the machine's own.

use std::fs::{self, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, chown};
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use godwit_wire::run_spec::{File, HostsEntry, Resolver, RunSpec};

use super::{Context, Staged, ensure_directory, failed};
use crate::forwarding;

const STAGE: &str = "files";
/// Of what the host renews: every user of the machine may read it.
const RENEWED_MODE: u32 = 0o444;

/// Names the machine and writes the files it was given.
pub(crate) fn assume(spec: &RunSpec) -> Staged<()> {
    rustix::system::sethostname(spec.hostname.as_bytes())
        .stage(STAGE, format_args!("host name {:?}", spec.hostname))?;
    if Path::new("/etc").is_symlink() {
        write_about(spec, Path::new("/etc"))?;
    }
    put_files(&spec.files)
}

/// Makes what standard input says one of the machine's files, which readers see whole.
///
/// `godwit-init put`: how the host renews what a machine was given.
pub(crate) fn put_input(path: &Path) -> Staged<()> {
    let doing = || format!("cannot write {}", path.display());
    let mut content = Vec::new();
    io::stdin()
        .read_to_end(&mut content)
        .stage(STAGE, doing())?;
    let new = path.with_extension("new");
    if let Some(directory) = path.parent() {
        ensure_directory(STAGE, directory)?;
    }
    replace(&new, &content, RENEWED_MODE)?;
    fs::rename(&new, path).stage(STAGE, doing())
}

/// Writes files that the machine, or one of its containers, was given.
pub(crate) fn put_files(files: &[File]) -> Staged<()> {
    files.iter().try_for_each(put)
}

/// Writes what programs read about the machine into the upper layer of its root.
///
/// Written through the overlay, each would first have it copy `/etc` up.
pub(crate) fn write_below(spec: &RunSpec, image: &Path, upper: &Path) -> Staged<()> {
    let etc = upper.join("etc");
    match image.join("etc").symlink_metadata() {
        Ok(found) if found.is_dir() => {
            like(&etc, &found).stage(STAGE, format_args!("cannot make {}", etc.display()))?;
        }
        // A link is followed once the root is joined.
        Ok(_) => return Ok(()),
        Err(_) => ensure_directory(STAGE, &etc)?,
    }
    write_about(spec, &etc)
}

fn write_about(spec: &RunSpec, etc: &Path) -> Staged<()> {
    for (name, content, mode) in [
        ("hostname", format!("{}\n", spec.hostname), 0o644),
        ("hosts", hosts(&spec.hosts), 0o644),
        ("resolv.conf", resolv_conf(&spec.resolver), 0o644),
        ("machine-id", fresh_machine_id()?, 0o444),
    ] {
        replace(&etc.join(name), content.as_bytes(), mode)?;
    }
    Ok(())
}

/// Ensures a directory with the owner and mode of another.
fn like(path: &Path, other: &fs::Metadata) -> std::io::Result<()> {
    if !path.is_dir() {
        fs::create_dir(path)?;
        chown(path, Some(other.uid()), Some(other.gid()))?;
        fs::set_permissions(path, fs::Permissions::from_mode(other.mode() & 0o7777))?;
    }
    Ok(())
}

/// Returns the text of /etc/hosts.
pub(crate) fn hosts(entries: &[HostsEntry]) -> String {
    let lines: Vec<String> = entries
        .iter()
        .map(|entry| format!("{}\t{}\n", entry.address, entry.names.join(" ")))
        .collect();
    lines.concat()
}

/// Returns the text of /etc/resolv.conf.
pub(crate) fn resolv_conf(resolver: &Resolver) -> String {
    let own = [forwarding::ADDRESS.to_string()];
    let asked = if resolver.forwards.is_empty() {
        &resolver.nameservers[..]
    } else {
        &own
    };
    let servers = asked.iter().map(|server| format!("nameserver {server}\n"));
    let words = [
        ("search", &resolver.searches),
        ("options", &resolver.options),
    ];
    let others = words
        .into_iter()
        .filter(|(_, values)| !values.is_empty())
        .map(|(word, values)| format!("{word} {}\n", values.join(" ")));
    servers.chain(others).collect::<Vec<_>>().concat()
}

/// A fresh one per boot: the image's is everybody's.
fn fresh_machine_id() -> Staged<String> {
    let uuid = fs::read_to_string("/proc/sys/kernel/random/uuid").stage(STAGE, "machine id")?;
    Ok(uuid.trim().replace('-', "") + "\n")
}

/// Writes a file in place of whatever was there; of a link the link itself is replaced.
fn replace(path: &Path, content: &[u8], mode: u32) -> Staged<()> {
    if path.symlink_metadata().is_ok_and(|found| !found.is_dir()) {
        fs::remove_file(path).stage(STAGE, format_args!("cannot replace {}", path.display()))?;
    }
    write(path, content, mode)
}

fn put(file: &File) -> Staged<()> {
    let path = Path::new(&file.path);
    if !path.is_absolute() {
        return Err(failed(
            STAGE,
            format_args!("{} is not an absolute path", file.path),
        ));
    }
    if let Some(parent) = path.parent() {
        ensure_directory(STAGE, parent)?;
    }
    let content = STANDARD
        .decode(&file.content_base64)
        .stage(STAGE, format_args!("content of {}", file.path))?;
    write(path, &content, file.mode)
}

fn write(path: &Path, content: &[u8], mode: u32) -> Staged<()> {
    let doing = || format!("cannot write {}", path.display());
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(mode)
        .open(path)
        .stage(STAGE, doing())?;
    file.write_all(content).stage(STAGE, doing())?;
    file.set_permissions(fs::Permissions::from_mode(mode))
        .stage(STAGE, doing())
}

#[cfg(test)]
mod tests {
    use godwit_wire::run_spec::{File, Forward, HostsEntry, Resolver};

    use super::{hosts, put, replace, resolv_conf};

    #[test]
    fn hosts_has_a_line_per_entry() {
        let entries = [
            HostsEntry {
                address: "127.0.0.1".into(),
                names: vec!["localhost".into()],
            },
            HostsEntry {
                address: "fdaa::2".into(),
                names: vec!["a".into(), "b".into()],
            },
        ];
        assert_eq!(hosts(&entries), "127.0.0.1\tlocalhost\nfdaa::2\ta b\n");
    }

    #[test]
    fn resolv_conf_leaves_out_what_is_empty() {
        assert_eq!(resolv_conf(&Resolver::default()), "nameserver fdaa::3\n");
        let full = Resolver {
            nameservers: vec!["fdaa::3".into(), "10.0.0.1".into()],
            searches: vec!["internal".into(), "example".into()],
            options: vec!["ndots:1".into()],
            forwards: Vec::new(),
        };
        assert_eq!(
            resolv_conf(&full),
            "nameserver fdaa::3\nnameserver 10.0.0.1\nsearch internal example\noptions ndots:1\n"
        );
    }

    #[test]
    fn with_names_to_forward_resolv_conf_names_the_forwarder_alone() {
        let forward = Forward {
            basename: "corp.example".into(),
            address: "10.0.0.1".into(),
        };
        let resolver = Resolver {
            forwards: vec![forward],
            ..Resolver::default()
        };
        assert_eq!(resolv_conf(&resolver), "nameserver 127.0.0.83\n");
    }

    #[test]
    fn a_link_is_replaced_and_its_target_left_alone() {
        let dir = std::env::temp_dir().join(format!("godwit-identity-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let (link, target) = (dir.join("resolv.conf"), dir.join("stub"));
        std::fs::write(&target, "old").unwrap();
        std::os::unix::fs::symlink(&target, &link).unwrap();
        replace(&link, b"new", 0o644).unwrap();
        assert_eq!(std::fs::read_to_string(&target).unwrap(), "old");
        assert_eq!(std::fs::read_to_string(&link).unwrap(), "new");
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn files_need_an_absolute_path_and_real_base64() {
        let file = |path: &str, content: &str| File {
            path: path.into(),
            content_base64: content.into(),
            mode: 0o600,
        };
        assert!(
            put(&file("etc/x", ""))
                .unwrap_err()
                .message
                .contains("not an absolute path")
        );
        assert!(put(&file("/tmp/godwit-x", "%")).is_err());
    }
}
