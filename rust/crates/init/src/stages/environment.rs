//! A process's environment: what it was given, and defaults for PATH, HOME and TERM.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// Variables as a program gets them: values are bytes.
pub(crate) type Environment = BTreeMap<String, OsString>;

/// Where programs are looked for when nobody said.
pub(crate) const DEFAULT_PATH: &str =
    "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Returns what was given as text and what as base64; or the name of what is no base64.
pub(crate) fn join(
    text: &BTreeMap<String, String>,
    base64: &BTreeMap<String, String>,
) -> Result<Environment, String> {
    let mut env: Environment = text
        .iter()
        .map(|(name, value)| (name.clone(), value.into()))
        .collect();
    for (name, value) in base64 {
        let bytes = STANDARD.decode(value).map_err(|_| name.clone())?;
        env.insert(name.clone(), OsString::from_vec(bytes));
    }
    Ok(env)
}

/// Returns `given` with defaults for what a program may rely on.
pub(crate) fn complete(given: Environment, home: &str, tty: bool) -> Environment {
    let mut env = given;
    env.entry("PATH".into())
        .or_insert_with(|| DEFAULT_PATH.into());
    env.entry("HOME".into()).or_insert_with(|| home.into());
    if tty {
        env.entry("TERM".into()).or_insert_with(|| "xterm".into());
    }
    env
}

/// Tells whether a variable can be put into an environment at all.
pub(crate) fn is_valid(name: &str, value: &OsStr) -> bool {
    !name.is_empty() && !name.contains(['=', '\0']) && !value.as_bytes().contains(&0)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::{DEFAULT_PATH, complete, is_valid, join};

    #[test]
    fn defaults_fill_gaps_and_replace_nothing() {
        let given = BTreeMap::from([("HOME".to_owned(), "/srv".into())]);
        let env = complete(given, "/root", true);
        assert_eq!(env["HOME"], "/srv");
        assert_eq!(env["PATH"], DEFAULT_PATH);
        assert_eq!(env["TERM"], "xterm");
    }

    #[test]
    fn term_is_only_for_terminals() {
        assert!(!complete(BTreeMap::new(), "/", false).contains_key("TERM"));
    }

    #[test]
    fn what_no_environment_can_hold_is_refused() {
        assert!(is_valid("A", "b=c\n".as_ref()));
        assert!(!is_valid("", "x".as_ref()));
        assert!(!is_valid("A=B", "x".as_ref()));
        assert!(!is_valid("A", "x\0y".as_ref()));
    }

    #[test]
    fn values_are_bytes_and_those_in_base64_win() {
        let of = |name: &str, value: &str| BTreeMap::from([(name.to_owned(), value.to_owned())]);
        let env = join(&of("A", "text"), &of("A", "gP8B")).unwrap();
        assert_eq!(env["A"].as_encoded_bytes(), b"\x80\xff\x01");
        assert_eq!(
            join(&BTreeMap::new(), &of("B", "no base64")),
            Err("B".into())
        );
    }
}
