//! Which responses are compressed, with what, and what their headers say then. Pure.

use hyper::header::{
    ACCEPT_ENCODING, ACCEPT_RANGES, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE,
    ETAG, Entry, HeaderMap, HeaderName, HeaderValue, VARY,
};
use hyper::{StatusCode, Version};

/// A shorter body is smaller as it is, with the headers that a coding takes.
const SHORTEST: u64 = 1024;

/// Checksums of the very bytes that an app has sent.
const DIGESTS: [HeaderName; 4] = [
    HeaderName::from_static("content-digest"),
    HeaderName::from_static("repr-digest"),
    HeaderName::from_static("digest"),
    HeaderName::from_static("content-md5"),
];

/// Kinds besides `text/…`, `…+json`, `…+xml` and `…+text` that shrink.
const SHRINKING: [&str; 19] = [
    "application/eot",
    "application/geo+json-seq",
    "application/graphql",
    "application/javascript",
    "application/json",
    "application/json-seq",
    "application/jsonl",
    "application/rtf",
    "application/toml",
    "application/vnd.ms-fontobject",
    "application/wasm",
    "application/x-javascript",
    "application/x-ndjson",
    "application/x-yaml",
    "application/xml",
    "application/yaml",
    "font/otf",
    "font/ttf",
    "image/bmp",
];

/// How a body is compressed; the first that a client takes is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Coding {
    Zstd,
    Brotli,
    Gzip,
    Deflate,
}

impl Coding {
    const ALL: [Coding; 4] = [Coding::Zstd, Coding::Brotli, Coding::Gzip, Coding::Deflate];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Coding::Zstd => "zstd",
            Coding::Brotli => "br",
            Coding::Gzip => "gzip",
            Coding::Deflate => "deflate",
        }
    }

    fn named(name: &str) -> Option<Self> {
        let known = |coding: &Self| coding.name().eq_ignore_ascii_case(name);
        let former = name.eq_ignore_ascii_case("x-gzip").then_some(Coding::Gzip);
        Coding::ALL.into_iter().find(known).or(former)
    }

    fn bit(self) -> u8 {
        1 << self as u8
    }
}

/// The codings that a client takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Accepted(u8);

impl Accepted {
    /// What a request says; nothing if nobody may change the response on its way.
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        if has(headers, &CACHE_CONTROL, "no-transform") {
            return Accepted::default();
        }
        let (mut taken, mut refused, mut any) = (0, 0, false);
        for (name, wanted) in words(headers, &ACCEPT_ENCODING).map(weighed) {
            match Coding::named(name) {
                Some(coding) if wanted => taken |= coding.bit(),
                Some(coding) => refused |= coding.bit(),
                None => any |= name == "*" && wanted,
            }
        }
        if any {
            // Who names none means what everybody has.
            taken |= Coding::Gzip.bit();
        }
        Accepted(taken & !refused)
    }

    fn first(self) -> Option<Coding> {
        let taken = |coding: &Coding| self.0 & coding.bit() != 0;
        Coding::ALL.into_iter().find(taken)
    }
}

/// With what a response is compressed; `None` leaves it as it is.
///
/// One without a body is not asked for.
pub(crate) fn choose(
    accepted: Accepted,
    version: Version,
    status: StatusCode,
    headers: &HeaderMap,
) -> Option<Coding> {
    let coding = accepted.first()?;
    // Before 1.1 a body of unknown length ends with its connection.
    let spoken = version >= Version::HTTP_11;
    let whole = ![
        StatusCode::NO_CONTENT,
        StatusCode::PARTIAL_CONTENT,
        StatusCode::NOT_MODIFIED,
    ]
    .contains(&status);
    let length = headers.get(CONTENT_LENGTH).and_then(|length| {
        let length = length.to_str().ok()?;
        length.parse::<u64>().ok()
    });
    let fits = spoken
        && whole
        && length.is_none_or(|length| length >= SHORTEST)
        && shrinks(headers)
        && !headers.contains_key(CONTENT_ENCODING)
        && !has(headers, &CACHE_CONTROL, "no-transform")
        && !DIGESTS.iter().any(|name| headers.contains_key(name));
    fits.then_some(coding)
}

/// Let a response's headers speak of the compressed body.
pub(crate) fn declare(headers: &mut HeaderMap, coding: Coding) {
    headers.insert(CONTENT_ENCODING, HeaderValue::from_static(coding.name()));
    headers.remove(CONTENT_LENGTH);
    // A part of it is a part of something else.
    headers.remove(ACCEPT_RANGES);
    let varies = has(headers, &VARY, "accept-encoding") || has(headers, &VARY, "*");
    if !varies {
        headers.append(VARY, HeaderValue::from_static("accept-encoding"));
    }
    if let Entry::Occupied(mut entry) = headers.entry(ETAG)
        && !entry.get().as_bytes().starts_with(b"W/")
    {
        let weak = [b"W/", entry.get().as_bytes()].concat();
        match HeaderValue::from_bytes(&weak) {
            Ok(weak) => entry.insert(weak),
            Err(_) => entry.remove(),
        };
    }
}

/// Take `Content-Encoding: none` away, by which an app says that its body is to stay as it is.
/// Returns whether it did.
pub(crate) fn opt_out(headers: &mut HeaderMap) -> bool {
    let none = headers
        .get(CONTENT_ENCODING)
        .is_some_and(|coding| coding.as_bytes().trim_ascii().eq_ignore_ascii_case(b"none"));
    if none {
        headers.remove(CONTENT_ENCODING);
    }
    none
}

/// Whether a body of its kind gets smaller.
///
/// Events do, but last for hours: an encoder's memory for each would be dear.
fn shrinks(headers: &HeaderMap) -> bool {
    let kind = headers
        .get(CONTENT_TYPE)
        .and_then(|kind| kind.to_str().ok());
    let Some(kind) = kind.and_then(|kind| kind.split(';').next()) else {
        return false;
    };
    let kind = kind.trim().to_ascii_lowercase();
    let ends = |suffix: &&str| kind.ends_with(suffix);
    let text = kind.starts_with("text/") && kind != "text/event-stream";
    text || ["+json", "+xml", "+text"].iter().any(ends) || SHRINKING.contains(&kind.as_str())
}

/// `gzip;q=0.5` as its name and whether it is wanted at all.
fn weighed(word: &str) -> (&str, bool) {
    let (name, rest) = word.split_once(';').unwrap_or((word, ""));
    let weight = rest.split(';').find_map(|field| {
        let (key, value) = field.split_once('=')?;
        key.trim().eq_ignore_ascii_case("q").then(|| value.trim())
    });
    // What is no number was meant to be one.
    let unwanted = weight.is_some_and(|weight| weight.parse::<f32>().is_ok_and(|q| q <= 0.0));
    (name.trim(), !unwanted)
}

fn has(headers: &HeaderMap, name: &HeaderName, wanted: &str) -> bool {
    words(headers, name).any(|word| word.eq_ignore_ascii_case(wanted))
}

fn words<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    let values = headers.get_all(name).iter();
    let texts = values.filter_map(|value| value.to_str().ok());
    texts
        .flat_map(|text| text.split(','))
        .map(str::trim)
        .filter(|word| !word.is_empty())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn headers(lines: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, HeaderValue::from_str(value).unwrap());
        }
        headers
    }

    fn accepted(text: &str) -> Option<&'static str> {
        let accepted = Accepted::of(&headers(&[("accept-encoding", text)]));
        accepted.first().map(Coding::name)
    }

    fn chosen(status: u16, lines: &[(&'static str, &str)]) -> bool {
        let accepted = Accepted::of(&headers(&[("accept-encoding", "gzip")]));
        let status = StatusCode::from_u16(status).unwrap();
        choose(accepted, Version::HTTP_11, status, &headers(lines)).is_some()
    }

    #[test]
    fn the_first_coding_that_a_client_takes_is_used() {
        for (text, coding) in [
            ("gzip, deflate, br, zstd", Some("zstd")),
            ("gzip, deflate, br", Some("br")),
            ("deflate;q=1.0, GZIP;q=0.2", Some("gzip")),
            ("deflate", Some("deflate")),
            ("zstd;q=0, br; q=0.000, x-gzip", Some("gzip")),
            ("*", Some("gzip")),
            ("*, gzip;q=0", None),
            ("*;q=0", None),
            ("identity", None),
            ("", None),
        ] {
            assert_eq!(accepted(text), coding, "{text}");
        }
    }

    #[test]
    fn nothing_is_changed_that_must_not_be() {
        let html = ("content-type", "text/html; charset=utf-8");
        assert!(chosen(200, &[html]));
        assert!(chosen(404, &[html, ("content-length", "1024")]));
        assert!(chosen(200, &[("content-type", "application/problem+JSON")]));
        for status in [204, 206, 304] {
            assert!(!chosen(status, &[html]), "{status}");
        }
        for (name, value) in [
            ("content-length", "1023"),
            ("content-encoding", "br"),
            ("content-encoding", "identity"),
            ("cache-control", "public, No-Transform"),
            ("content-digest", "sha-256=:AA==:"),
        ] {
            assert!(!chosen(200, &[html, (name, value)]), "{name}: {value}");
        }
        for kind in [
            "text/event-stream",
            "image/png",
            "application/grpc",
            "nonsense",
        ] {
            assert!(!chosen(200, &[("content-type", kind)]), "{kind}");
        }
        assert!(!chosen(200, &[]));
        let asked = headers(&[
            ("accept-encoding", "gzip"),
            ("cache-control", "no-transform"),
        ]);
        assert_eq!(Accepted::of(&asked), Accepted::default());
        let gzip = Accepted(Coding::Gzip.bit());
        let html = headers(&[html]);
        assert_eq!(choose(gzip, Version::HTTP_10, StatusCode::OK, &html), None);
    }

    #[test]
    fn headers_speak_of_what_is_sent() {
        let mut sent = headers(&[
            ("content-length", "5000"),
            ("accept-ranges", "bytes"),
            ("vary", "Cookie"),
            ("etag", "\"abc\""),
        ]);
        declare(&mut sent, Coding::Zstd);
        let wanted = [
            ("content-encoding", "zstd"),
            ("vary", "Cookie"),
            ("vary", "accept-encoding"),
            ("etag", "W/\"abc\""),
        ];
        assert_eq!(sent, headers(&wanted));
        let same = [("vary", "Origin, Accept-Encoding"), ("etag", "W/\"abc\"")];
        let mut sent = headers(&same);
        declare(&mut sent, Coding::Gzip);
        sent.remove(CONTENT_ENCODING);
        assert_eq!(sent, headers(&same));
    }

    #[test]
    fn an_app_opts_out() {
        let mut none = headers(&[("content-encoding", "None")]);
        assert!(opt_out(&mut none) && none.is_empty());
        let mut gzip = headers(&[("content-encoding", "gzip")]);
        assert!(!opt_out(&mut gzip) && gzip.len() == 1);
    }

    proptest! {
        #[test]
        fn no_client_is_a_surprise(text in "[ -~]{0,100}") {
            let _ = accepted(&text);
        }
    }
}
