//! `--config FILE`: one JSON file, written by `godwit up`.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;

/// Read the configuration that the arguments name.
///
/// # Errors
/// A sentence for the operator: wrong usage, no such file, or the field that does not fit.
pub fn from_args<T: DeserializeOwned>(args: impl Iterator<Item = OsString>) -> Result<T, String> {
    let path = path_of(args)?;
    read(&path)
}

fn path_of(mut args: impl Iterator<Item = OsString>) -> Result<PathBuf, String> {
    let program = args.next().unwrap_or_default();
    match (args.next(), args.next(), args.next()) {
        (Some(flag), Some(path), None) if flag == "--config" => Ok(path.into()),
        _ => Err(format!(
            "usage: {} --config FILE",
            Path::new(&program).display()
        )),
    }
}

fn read<T: DeserializeOwned>(path: &Path) -> Result<T, String> {
    let text = fs::read(path).map_err(|error| format!("{}: {error}", path.display()))?;
    serde_json::from_slice(&text).map_err(|error| format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(words: &[&str]) -> impl Iterator<Item = OsString> {
        words
            .iter()
            .map(OsString::from)
            .collect::<Vec<_>>()
            .into_iter()
    }

    #[test]
    fn usage_is_told_when_the_arguments_are_wrong() {
        for words in [
            &["x"][..],
            &["x", "--config"],
            &["x", "--config", "a", "b"],
            &["x", "a", "b"],
        ] {
            let error = from_args::<serde_json::Value>(args(words)).unwrap_err();
            assert_eq!(error, "usage: x --config FILE");
        }
    }

    #[test]
    fn a_missing_file_is_named() {
        let error =
            from_args::<serde_json::Value>(args(&["x", "--config", "/no/such"])).unwrap_err();
        assert!(error.starts_with("/no/such: "), "{error}");
    }
}
