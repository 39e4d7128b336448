//! What kind of content a file's name promises.

/// Endings in lower case, in order.
const KINDS: [(&str, &str); 47] = [
    ("aac", "audio/aac"),
    ("apng", "image/apng"),
    ("avif", "image/avif"),
    ("bmp", "image/bmp"),
    ("cjs", "text/javascript; charset=utf-8"),
    ("css", "text/css; charset=utf-8"),
    ("csv", "text/csv; charset=utf-8"),
    ("eot", "application/vnd.ms-fontobject"),
    ("flac", "audio/flac"),
    ("gif", "image/gif"),
    ("gz", "application/gzip"),
    ("htm", "text/html; charset=utf-8"),
    ("html", "text/html; charset=utf-8"),
    ("ico", "image/x-icon"),
    ("jpeg", "image/jpeg"),
    ("jpg", "image/jpeg"),
    ("js", "text/javascript; charset=utf-8"),
    ("json", "application/json"),
    ("jsonld", "application/ld+json"),
    ("m4a", "audio/mp4"),
    ("map", "application/json"),
    ("md", "text/markdown; charset=utf-8"),
    ("mjs", "text/javascript; charset=utf-8"),
    ("mov", "video/quicktime"),
    ("mp3", "audio/mpeg"),
    ("mp4", "video/mp4"),
    ("oga", "audio/ogg"),
    ("ogg", "audio/ogg"),
    ("ogv", "video/ogg"),
    ("otf", "font/otf"),
    ("pdf", "application/pdf"),
    ("png", "image/png"),
    ("svg", "image/svg+xml"),
    ("tar", "application/x-tar"),
    ("ttf", "font/ttf"),
    ("txt", "text/plain; charset=utf-8"),
    ("vtt", "text/vtt; charset=utf-8"),
    ("wasm", "application/wasm"),
    ("wav", "audio/wav"),
    ("webm", "video/webm"),
    ("webmanifest", "application/manifest+json"),
    ("webp", "image/webp"),
    ("woff", "font/woff"),
    ("woff2", "font/woff2"),
    ("xhtml", "application/xhtml+xml"),
    ("xml", "application/xml"),
    ("zip", "application/zip"),
];
const LONGEST: usize = 11;
const UNKNOWN: &str = "application/octet-stream";

/// Returns the type of what is called so.
pub(super) fn kind(name: &[u8]) -> &'static str {
    let file = name.rsplit(|byte| *byte == b'/').next().unwrap_or(name);
    let mut parts = file.rsplit(|byte| *byte == b'.');
    let ending = parts.next().unwrap_or_default();
    // Without a point all of it would be the ending.
    if parts.next().is_none() || ending.len() > LONGEST {
        return UNKNOWN;
    }
    let ending = ending.to_ascii_lowercase();
    let found = KINDS.binary_search_by(|(known, _)| known.as_bytes().cmp(&ending));
    found.map_or(UNKNOWN, |at| KINDS[at].1)
}

#[cfg(test)]
mod tests {
    use super::{KINDS, LONGEST, kind};

    #[test]
    fn the_last_ending_counts_in_any_case() {
        for (name, found) in [
            ("a/b.min.CSS", "text/css; charset=utf-8"),
            ("app.wasm", "application/wasm"),
            ("a.b/css", "application/octet-stream"),
            ("css", "application/octet-stream"),
            ("a.", "application/octet-stream"),
            ("archive.tar.gz", "application/gzip"),
            (".html", "text/html; charset=utf-8"),
        ] {
            assert_eq!(kind(name.as_bytes()), found, "{name}");
        }
    }

    #[test]
    fn the_table_is_in_order() {
        assert!(KINDS.is_sorted_by(|one, next| one.0 < next.0));
        assert_eq!(KINDS.iter().map(|(end, _)| end.len()).max(), Some(LONGEST));
    }
}
