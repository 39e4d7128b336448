//! Which paths of requests the `statics` of a machine's config cover. Pure.
//!
//! Read here by the edge and by the file server in the guest, so that neither takes a path for
//! another than the other does.

use std::borrow::Cow;

/// Returns a request's path with its escapes read, once; `None` when it names no file.
pub fn decoded(path: &str) -> Option<Cow<'_, [u8]>> {
    let bytes = path.as_bytes();
    if !bytes.contains(&b'%') {
        return Some(Cow::Borrowed(bytes));
    }
    let mut read = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some((&first, after)) = rest.split_first() {
        rest = after;
        if first != b'%' {
            read.push(first);
            continue;
        }
        let (&[high, low], after) = after.split_first_chunk::<2>()?;
        let byte = u8::try_from(digit(high)? * 16 + digit(low)?).ok()?;
        if byte == 0 {
            return None;
        }
        read.push(byte);
        rest = after;
    }
    Some(Cow::Owned(read))
}

/// Returns what of a path is below a prefix, with its slash; empty for the prefix itself.
pub fn below<'a>(path: &'a [u8], prefix: &str) -> Option<&'a [u8]> {
    let rest = path.strip_prefix(prefix.trim_end_matches('/').as_bytes())?;
    matches!(rest.first(), None | Some(b'/')).then_some(rest)
}

fn digit(byte: u8) -> Option<u32> {
    char::from(byte).to_digit(16)
}

#[cfg(test)]
mod tests {
    use super::{below, decoded};

    #[test]
    fn escapes_are_read_once() {
        for (path, read) in [
            ("/a/b.css", Some("/a/b.css")),
            ("/a%20b%2Fc", Some("/a b/c")),
            ("/%25%32%65", Some("/%2e")),
            ("/gr%C3%BC%c3%9f", Some("/grüß")),
            ("/a%00b", None),
            ("/a%2", None),
            ("/a%", None),
            ("/a%zz", None),
            ("/a%+1", None),
        ] {
            let found = decoded(path);
            assert_eq!(found.as_deref(), read.map(str::as_bytes), "{path}");
        }
    }

    #[test]
    fn a_prefix_ends_with_a_segment() {
        for (path, prefix, rest) in [
            ("/static/a", "/static", Some("/a")),
            ("/static/a", "/static/", Some("/a")),
            ("/static/", "/static", Some("/")),
            ("/static", "/static/", Some("")),
            ("/statics", "/static", None),
            ("/a", "/", Some("/a")),
            ("/", "/", Some("/")),
            ("/Static/a", "/static", None),
        ] {
            let found = below(path.as_bytes(), prefix);
            assert_eq!(found, rest.map(str::as_bytes), "{path} {prefix}");
        }
    }
}
