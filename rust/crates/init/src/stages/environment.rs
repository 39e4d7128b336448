//! A process's environment: what it was given, and defaults for PATH, HOME and TERM.

use std::collections::BTreeMap;

/// Where programs are looked for when nobody said.
pub(crate) const DEFAULT_PATH: &str =
    "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Returns `given` with defaults for what a program may rely on.
pub(crate) fn complete(
    given: &BTreeMap<String, String>,
    home: &str,
    tty: bool,
) -> BTreeMap<String, String> {
    let mut env = given.clone();
    env.entry("PATH".into())
        .or_insert_with(|| DEFAULT_PATH.into());
    env.entry("HOME".into()).or_insert_with(|| home.into());
    if tty {
        env.entry("TERM".into()).or_insert_with(|| "xterm".into());
    }
    env
}

/// Tells whether a variable can be put into an environment at all.
pub(crate) fn is_valid(name: &str, value: &str) -> bool {
    !name.is_empty() && !name.contains(['=', '\0']) && !value.contains('\0')
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::{DEFAULT_PATH, complete, is_valid};

    #[test]
    fn defaults_fill_gaps_and_replace_nothing() {
        let given = BTreeMap::from([("HOME".to_owned(), "/srv".to_owned())]);
        let env = complete(&given, "/root", true);
        assert_eq!(env["HOME"], "/srv");
        assert_eq!(env["PATH"], DEFAULT_PATH);
        assert_eq!(env["TERM"], "xterm");
    }

    #[test]
    fn term_is_only_for_terminals() {
        assert!(!complete(&BTreeMap::new(), "/", false).contains_key("TERM"));
    }

    #[test]
    fn what_no_environment_can_hold_is_refused() {
        assert!(is_valid("A", "b=c\n"));
        assert!(!is_valid("", "x"));
        assert!(!is_valid("A=B", "x"));
        assert!(!is_valid("A", "x\0y"));
    }
}
