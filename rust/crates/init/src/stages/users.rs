//! `user:group` of an image's config, resolved in the root's own /etc/passwd and /etc/group.
//!
//! The rules are those of OCI runtimes: a number needs no entry; a group given by name must
//! exist; further groups come with a user only when no group was given.

/// Who a process runs as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct User {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Beside `gid`.
    pub(crate) groups: Vec<u32>,
    pub(crate) home: String,
}

/// Resolves `""`, `name`, `uid`, `name:group`, `uid:gid` and the mixtures.
pub(crate) fn resolve(spec: &str, passwd: &str, group: &str) -> Result<User, String> {
    let (wanted, wanted_group) = spec.split_once(':').unwrap_or((spec, ""));
    let wanted = if wanted.is_empty() { "0" } else { wanted };
    let number = wanted.parse::<u32>().ok();
    let entry = entries(passwd, 6).find(|fields| match number {
        Some(uid) => fields[2].parse() == Ok(uid),
        None => fields[0] == wanted,
    });
    let mut user = User {
        uid: number.unwrap_or(0),
        gid: 0,
        groups: vec![],
        home: "/".into(),
    };
    match &entry {
        Some(fields) => {
            let wrong = |what| format!("/etc/passwd: {what} of {} is not a number", fields[0]);
            user.uid = fields[2].parse().map_err(|_| wrong("uid"))?;
            user.gid = fields[3].parse().map_err(|_| wrong("gid"))?;
            if !fields[5].is_empty() {
                fields[5].clone_into(&mut user.home);
            }
        }
        None if number.is_none() => {
            return Err(format!(
                "no such user: {wanted:?} is not in the image's /etc/passwd"
            ));
        }
        None if user.uid == 0 => "/root".clone_into(&mut user.home),
        None => {}
    }
    if !wanted_group.is_empty() {
        user.gid = group_number(wanted_group, group)?;
    } else if let Some(fields) = entry {
        user.groups = groups_of(fields[0], user.gid, group);
    }
    Ok(user)
}

fn group_number(wanted: &str, group: &str) -> Result<u32, String> {
    if let Ok(gid) = wanted.parse() {
        return Ok(gid);
    }
    entries(group, 3)
        .find(|fields| fields[0] == wanted)
        .and_then(|fields| fields[2].parse().ok())
        .ok_or_else(|| format!("no such group: {wanted:?} is not in the image's /etc/group"))
}

fn groups_of(name: &str, own: u32, group: &str) -> Vec<u32> {
    let mut found: Vec<u32> = entries(group, 4)
        .filter(|fields| fields[3].split(',').any(|member| member.trim() == name))
        .filter_map(|fields| fields[2].parse().ok())
        .filter(|gid| *gid != own)
        .collect();
    found.dedup();
    found
}

/// Yields the colon-separated entries that have at least so many fields.
fn entries(text: &str, least: usize) -> impl Iterator<Item = Vec<&str>> {
    text.lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| line.split(':').collect::<Vec<_>>())
        .filter(move |fields| fields.len() >= least)
}

#[cfg(test)]
mod tests {
    use super::{User, resolve};

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\n\
        # a comment\n\
        broken line\n\
        app:x:1000:1001::/home/app:/bin/sh\n\
        www-data:x:33:33::/var/www:/usr/sbin/nologin\n";
    const GROUP: &str =
        "root:x:0:\napp:x:1001:\nwww-data:x:33:app\ndocker:x:999:root,app\nodd:x:abc:app\n";

    fn user(uid: u32, gid: u32, groups: &[u32], home: &str) -> User {
        User {
            uid,
            gid,
            groups: groups.to_vec(),
            home: home.into(),
        }
    }

    #[test]
    fn every_form_resolves() {
        for (spec, expected) in [
            ("", user(0, 0, &[999], "/root")),
            ("app", user(1000, 1001, &[33, 999], "/home/app")),
            ("1000", user(1000, 1001, &[33, 999], "/home/app")),
            ("app:www-data", user(1000, 33, &[], "/home/app")),
            ("app:7", user(1000, 7, &[], "/home/app")),
            ("4711", user(4711, 0, &[], "/")),
            ("4711:4712", user(4711, 4712, &[], "/")),
            (":www-data", user(0, 33, &[], "/root")),
            ("www-data:", user(33, 33, &[], "/var/www")),
        ] {
            assert_eq!(resolve(spec, PASSWD, GROUP), Ok(expected), "{spec:?}");
        }
    }

    #[test]
    fn an_image_without_databases_runs_as_root_or_by_number() {
        assert_eq!(resolve("", "", ""), Ok(user(0, 0, &[], "/root")));
        assert_eq!(
            resolve("65532:65532", "", ""),
            Ok(user(65532, 65532, &[], "/"))
        );
    }

    #[test]
    fn unknown_names_are_named() {
        assert!(
            resolve("ghost", PASSWD, GROUP)
                .unwrap_err()
                .contains("no such user: \"ghost\"")
        );
        let error = resolve("app:ghosts", PASSWD, GROUP).unwrap_err();
        assert!(error.contains("no such group: \"ghosts\""));
        assert!(resolve("99999999999", PASSWD, GROUP).is_err());
    }
}
