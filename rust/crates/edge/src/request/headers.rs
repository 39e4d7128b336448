//! Header edits on the way to the app and back (spec/network.md §1.8). Pure.

use godwit_wire::facts::HttpOptions;
use hyper::header::{
    CONNECTION, CONTENT_LENGTH, COOKIE, EXPECT, Entry, HOST, HeaderMap, HeaderName, HeaderValue,
    SERVER, TE, TRAILER, TRANSFER_ENCODING, UPGRADE, VIA,
};
use hyper::http::uri::{Authority, PathAndQuery, Scheme};
use hyper::{Request, Uri, Version};

use crate::backhaul;
use crate::request::caller;
use crate::request::introduction::FLY_REQUEST_ID;

/// HTTP/2 without TLS by way of an upgrade, which RFC 9113 §3.1 has given up.
const H2C: &[u8] = b"h2c";
const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PREFERRED_UNAVAILABLE: HeaderName =
    HeaderName::from_static("fly-preferred-instance-unavailable");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

/// What a port's options cannot add: it is how the response is framed.
const FRAMING: [HeaderName; 4] = [CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING, UPGRADE];

/// What only the platform may say to an app.
const PLATFORM_ONLY: [HeaderName; 7] = [
    HeaderName::from_static("fly-replay-src"),
    HeaderName::from_static("fly-replay-failed"),
    HeaderName::from_static("fly-replay-cache-status"),
    PREFERRED_UNAVAILABLE,
    caller::SOURCE,
    caller::SIGNATURE,
    caller::OPT_IN,
];

/// Which headers a message came with of those that mean something to the edge.
///
/// Most have hardly any: to look at all there are once costs less than to ask for each.
#[derive(Clone, Copy, Debug, Default)]
#[allow(
    clippy::struct_excessive_bools,
    reason = "each is a header, or a family of them"
)]
pub(crate) struct Seen {
    pub(crate) connection: bool,
    /// Others of one hop alone.
    hop: bool,
    te: bool,
    upgrade: bool,
    expect: bool,
    cookie: bool,
    /// A client says which codings it takes.
    pub(crate) accepts_coding: bool,
    /// An app says how its body is coded.
    pub(crate) coded: bool,
    /// `fly-…`
    pub(crate) fly: bool,
    /// Proxies before this one say something of the client, or of themselves.
    forwarded: bool,
    /// What only edges say to each other.
    backhaul: bool,
}

impl Seen {
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        let mut seen = Seen::default();
        for name in headers.keys() {
            match name.as_str() {
                "connection" => seen.connection = true,
                "http2-settings" | "keep-alive" | "proxy-connection" | "transfer-encoding" => {
                    seen.hop = true;
                }
                "te" => seen.te = true,
                "upgrade" => seen.upgrade = true,
                "expect" => seen.expect = true,
                "cookie" => seen.cookie = true,
                "accept-encoding" => seen.accepts_coding = true,
                "content-encoding" => seen.coded = true,
                "via" => seen.forwarded = true,
                name if name.starts_with("fly-") => seen.fly = true,
                name if name.starts_with("x-forwarded-") => seen.forwarded = true,
                name if name.starts_with(backhaul::PREFIX) => seen.backhaul = true,
                _ => {}
            }
        }
        seen
    }

    /// Whether a client says itself any of what edges say of clients.
    pub(crate) fn introduced(self) -> bool {
        self.fly || self.forwarded
    }
}

/// What tells a request with `Upgrade` from others: the protocol it asks for.
///
/// None if HTTP/2 is among those: behind such a tunnel a client would ask the app for what the edge
/// never sees, as other hosts and paths. It is answered by HTTP/1.1 then (RFC 9110 §7.8).
pub(crate) fn upgrade_of(
    version: Version,
    headers: &HeaderMap,
    seen: Seen,
) -> Option<HeaderValue> {
    if !(seen.upgrade && seen.connection && version == Version::HTTP_11) {
        return None;
    }
    let listed = tokens(headers).any(|token| token.eq_ignore_ascii_case("upgrade"));
    let protocol = headers.get(UPGRADE).filter(|_| listed)?;
    let mut names = protocol
        .as_bytes()
        .split(|byte| matches!(byte, b',' | b'/'));
    let is_h2c = names.any(|name| name.trim_ascii().eq_ignore_ascii_case(H2C));
    (!is_h2c).then(|| protocol.clone())
}

/// Whether a request's body is in chunks and in nothing else, as all that read it agree.
pub(crate) fn is_plainly_chunked(headers: &HeaderMap) -> bool {
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    let first = codings.next();
    first.is_none_or(|coding| coding.as_bytes().eq_ignore_ascii_case(b"chunked"))
        && codings.next().is_none()
}

/// Turn a client's headers into the app's, but for what the edge says itself (`introduction`).
///
/// `host` is the authority of a request that has no Host header.
pub(crate) fn to_app(
    headers: &mut HeaderMap,
    seen: Seen,
    version: Version,
    host: Option<HeaderValue>,
) {
    let wants_trailers = seen.te && accepts_trailers(headers);
    drop_hop_by_hop(headers, seen);
    if wants_trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
    if seen.fly {
        drop_claims(headers);
    }
    // The edge itself asks the client to continue, once a machine takes the request.
    if seen.expect {
        headers.remove(EXPECT);
    }
    if let Some(host) = host {
        headers.insert(HOST, host);
    }
    if seen.cookie && version == Version::HTTP_2 {
        join_cookies(headers);
    }
}

/// Drop what only the platform may say to an app, from headers or from trailers.
pub(crate) fn drop_claims(headers: &mut HeaderMap) {
    for name in PLATFORM_ONLY {
        headers.remove(name);
    }
}

/// Turn an app's headers into the client's, as its port wants them.
pub(crate) fn to_client(
    headers: &mut HeaderMap,
    seen: Seen,
    id: &HeaderValue,
    version: Version,
    wanted: Option<&HttpOptions>,
) {
    drop_hop_by_hop(headers, seen);
    if !wanted.is_some_and(|wanted| wanted.pristine) {
        platform(headers, id, version);
    }
    let Some(wanted) = wanted else {
        return;
    };
    for name in &wanted.remove {
        headers.remove(name);
    }
    for (name, value) in &wanted.add {
        let named = HeaderName::try_from(name.as_str());
        if let (Ok(name), Ok(value)) = (named, HeaderValue::from_str(value))
            && !FRAMING.contains(&name)
        {
            headers.append(name, value);
        }
    }
}

/// Turn headers that an app says before its response into the client's.
pub(crate) fn to_interim(headers: &mut HeaderMap) {
    drop_hop_by_hop(headers, Seen::of(headers));
    headers.remove(CONTENT_LENGTH);
    let of_platform = |name: &&HeaderName| name.as_str().starts_with("fly-");
    let names: Vec<HeaderName> = headers.keys().filter(of_platform).cloned().collect();
    for name in names {
        headers.remove(name);
    }
}

/// Turn a request into one of HTTP/2: its host is part of its target.
pub(crate) fn to_h2<B>(request: &mut Request<B>) {
    let host = request.headers_mut().remove(HOST);
    let authority = host.and_then(|host| Authority::try_from(host.as_bytes()).ok());
    let mut parts = std::mem::take(request.uri_mut()).into_parts();
    parts.scheme = Some(Scheme::HTTP);
    parts.authority = Some(authority.unwrap_or_else(|| Authority::from_static("localhost")));
    if parts.path_and_query.is_none() {
        parts.path_and_query = Some(PathAndQuery::from_static("/"));
    }
    if let Ok(uri) = Uri::from_parts(parts) {
        *request.uri_mut() = uri;
    }
    *request.version_mut() = Version::HTTP_2;
}

/// Say who answered and to which request.
pub(crate) fn platform(headers: &mut HeaderMap, id: &HeaderValue, version: Version) {
    let server = concat!("Godwit/", env!("CARGO_PKG_VERSION"));
    headers.insert(SERVER, HeaderValue::from_static(server));
    headers.insert(FLY_REQUEST_ID, id.clone());
    extend(headers, VIA, &via(version));
}

/// Make headers those of an upgrade, which are of this hop alone.
pub(crate) fn set_upgrade(headers: &mut HeaderMap, protocol: HeaderValue) {
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, protocol);
}

/// What the edge says of itself, to both sides.
pub(super) fn via(version: Version) -> HeaderValue {
    HeaderValue::from_static(match version {
        Version::HTTP_2 => "2 godwit",
        Version::HTTP_10 => "1.0 godwit",
        _ => "1.1 godwit",
    })
}

/// What says that the machine that was preferred does not take the request.
pub(crate) fn unavailable(preferred: &str) -> Option<(HeaderName, HeaderValue)> {
    let id = HeaderValue::from_str(preferred).ok()?;
    Some((PREFERRED_UNAVAILABLE, id))
}

/// Remove what concerns one connection only (RFC 9110 §7.6.1), and what only edges say.
pub(crate) fn drop_hop_by_hop(headers: &mut HeaderMap, seen: Seen) {
    if seen.connection {
        // What nearly all say is no header, or goes anyway.
        let usual = |value: &HeaderValue| matches!(value.as_bytes(), b"keep-alive" | b"close");
        let others = headers
            .get_all(CONNECTION)
            .iter()
            .any(|value| !usual(value));
        let named: Vec<HeaderName> = others
            .then(|| tokens(headers).filter_map(|token| token.parse().ok()))
            .into_iter()
            .flatten()
            .collect();
        for name in named {
            // Who lists these in Connection would take them from the app or cut the message.
            if name != HOST && name != TRAILER {
                headers.remove(name);
            }
        }
        headers.remove(CONNECTION);
    }
    if seen.hop {
        for name in [
            HTTP2_SETTINGS,
            KEEP_ALIVE,
            PROXY_CONNECTION,
            TRANSFER_ENCODING,
        ] {
            headers.remove(name);
        }
    }
    if seen.te {
        headers.remove(TE);
    }
    if seen.upgrade {
        headers.remove(UPGRADE);
    }
    if seen.backhaul {
        backhaul::forget(headers);
    }
}

fn tokens(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let values = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok());
    values
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .filter(|token| !token.is_empty())
}

fn accepts_trailers(headers: &HeaderMap) -> bool {
    let values = headers
        .get_all(TE)
        .iter()
        .filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|token| {
        let coding = token.split(';').next().unwrap_or_default();
        coding.trim().eq_ignore_ascii_case("trailers")
    })
}

/// Append to a list header, and make it one line.
pub(super) fn extend(headers: &mut HeaderMap, name: HeaderName, more: &HeaderValue) {
    match headers.entry(name) {
        Entry::Vacant(entry) => {
            entry.insert(more.clone());
        }
        Entry::Occupied(mut entry) => {
            let mut all = Vec::new();
            for value in entry.iter().chain([more]) {
                if !all.is_empty() {
                    all.extend_from_slice(b", ");
                }
                all.extend_from_slice(value.as_bytes());
            }
            if let Ok(joined) = HeaderValue::from_bytes(&all) {
                entry.insert(joined);
            }
        }
    }
}

/// HTTP/2 may cut Cookie into several; HTTP/1.1 knows one (RFC 9113 §8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    let Entry::Occupied(mut entry) = headers.entry(COOKIE) else {
        return;
    };
    let parts: Vec<&[u8]> = entry.iter().map(HeaderValue::as_bytes).collect();
    if parts.len() < 2 {
        return;
    }
    if let Ok(joined) = HeaderValue::from_bytes(&parts.join(&b"; "[..])) {
        entry.insert(joined);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::request::introduction::{Connected, Introduction};

    fn edited(lines: &[(&'static str, &'static str)], version: Version) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, HeaderValue::from_static(value));
        }
        let (peer, local) = ([203, 0, 113, 9].into(), [198, 51, 100, 1].into());
        let region = HeaderValue::from_static("lcl");
        let introduction = Introduction {
            connected: &Connected::new(peer, local, 80, false, &region),
            forwarded: None,
            id: HeaderValue::from_static("01K8-lcl"),
            version,
        };
        let seen = Seen::of(&headers);
        to_app(&mut headers, seen, version, None);
        introduction.put(&mut headers);
        headers
    }

    fn all<'a>(headers: &'a HeaderMap, name: &str) -> Vec<&'a str> {
        headers
            .get_all(name)
            .iter()
            .map(|value| value.to_str().unwrap())
            .collect()
    }

    #[test]
    fn an_app_learns_who_connected_where() {
        let headers = edited(&[("host", "hello.example")], Version::HTTP_11);
        for (name, value) in [
            ("fly-client-ip", "203.0.113.9"),
            ("fly-forwarded-port", "80"),
            ("fly-region", "lcl"),
            ("fly-request-id", "01K8-lcl"),
            ("x-forwarded-for", "203.0.113.9, 198.51.100.1"),
            ("x-forwarded-proto", "http"),
            ("x-forwarded-ssl", "off"),
            ("x-forwarded-port", "80"),
            ("via", "1.1 godwit"),
            ("host", "hello.example"),
        ] {
            assert_eq!(all(&headers, name), [value], "{name}");
        }
    }

    #[test]
    fn a_clients_lists_are_kept_and_its_claims_are_not() {
        let sent = [
            ("x-forwarded-for", "192.0.2.1"),
            ("x-forwarded-for", "192.0.2.2"),
            ("x-forwarded-port", "8443"),
            ("x-forwarded-proto", "https"),
            ("fly-client-ip", "192.0.2.3"),
            ("fly-forwarded-port", "1"),
            ("fly-region", "xxx"),
            ("fly-src", "instance=x"),
            ("fly-src", "instance=y"),
            ("fly-src-signature", "x"),
            ("fly-src-optin", "*"),
            ("via", "1.0 cache"),
        ];
        let headers = edited(&sent, Version::HTTP_2);
        let list = "192.0.2.1, 192.0.2.2, 203.0.113.9, 198.51.100.1";
        assert_eq!(all(&headers, "x-forwarded-for"), [list]);
        assert_eq!(all(&headers, "x-forwarded-port"), ["8443"]);
        assert_eq!(all(&headers, "x-forwarded-proto"), ["http"]);
        assert_eq!(all(&headers, "fly-client-ip"), ["203.0.113.9"]);
        assert_eq!(all(&headers, "fly-forwarded-port"), ["80"]);
        assert_eq!(all(&headers, "fly-region"), ["lcl"]);
        for name in ["fly-src", "fly-src-signature", "fly-src-optin"] {
            assert!(!headers.contains_key(name), "{name}");
        }
        assert_eq!(all(&headers, "via"), ["1.0 cache, 2 godwit"]);
    }

    #[test]
    fn what_concerns_one_connection_stays_on_it() {
        let sent = [
            ("connection", "close, X-Private"),
            ("connection", "host"),
            ("x-private", "1"),
            ("host", "hello.example"),
            ("keep-alive", "timeout=5"),
            ("proxy-connection", "keep-alive"),
            ("te", "gzip, trailers;q=0.5"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "h2c"),
            ("http2-settings", "AAMAAABkAAQAAP__"),
            ("expect", "100-continue"),
        ];
        let headers = edited(&sent, Version::HTTP_11);
        for name in [
            "connection",
            "x-private",
            "keep-alive",
            "proxy-connection",
            "upgrade",
            "http2-settings",
        ] {
            assert!(!headers.contains_key(name), "{name}");
        }
        assert!(!headers.contains_key("transfer-encoding") && !headers.contains_key("expect"));
        assert_eq!(all(&headers, "te"), ["trailers"]);
        assert_eq!(all(&headers, "host"), ["hello.example"]);
    }

    #[test]
    fn chunks_are_plain_by_one_line_of_one_word() {
        for (lines, plain) in [
            (&[][..], true),
            (&["chunked"], true),
            (&["Chunked"], true),
            (&["chunked", "chunked"], false),
            (&["chunked, chunked"], false),
            (&["gzip, chunked"], false),
            (&["gzip", "chunked"], false),
            (&["identity"], false),
        ] {
            let coding = |line: &&'static str| (TRANSFER_ENCODING, HeaderValue::from_static(line));
            let headers: HeaderMap = lines.iter().map(coding).collect();
            assert_eq!(is_plainly_chunked(&headers), plain, "{lines:?}");
        }
    }

    #[test]
    fn cookies_of_http_2_become_one() {
        let headers = edited(&[("cookie", "a=1"), ("cookie", "b=2")], Version::HTTP_2);
        assert_eq!(all(&headers, "cookie"), ["a=1; b=2"]);
    }

    #[test]
    fn an_upgrade_is_one_of_http_1_1_that_connection_names() {
        let mut headers = HeaderMap::new();
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
        let upgrade =
            |version, headers: &HeaderMap| upgrade_of(version, headers, Seen::of(headers));
        assert_eq!(upgrade(Version::HTTP_11, &headers), None);
        headers.insert(CONNECTION, HeaderValue::from_static("keep-alive, Upgrade"));
        assert!(upgrade(Version::HTTP_11, &headers).is_some());
        assert_eq!(upgrade(Version::HTTP_10, &headers), None);
    }

    #[test]
    fn an_upgrade_to_http_2_is_none() {
        for (asked, is_one) in [
            ("h2c", false),
            ("websocket, H2C", false),
            ("h2c/1, websocket", false),
            ("websocket", true),
            ("h2cx", true),
        ] {
            let headers = HeaderMap::from_iter([
                (
                    CONNECTION,
                    HeaderValue::from_static("Upgrade, HTTP2-Settings"),
                ),
                (UPGRADE, HeaderValue::from_static(asked)),
            ]);
            let protocol = upgrade_of(Version::HTTP_11, &headers, Seen::of(&headers));
            assert_eq!(protocol.is_some(), is_one, "{asked}");
        }
    }

    #[test]
    fn a_client_learns_who_answered() {
        let mut headers = HeaderMap::new();
        headers.insert(SERVER, HeaderValue::from_static("nginx"));
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
        let seen = Seen::of(&headers);
        to_client(
            &mut headers,
            seen,
            &HeaderValue::from_static("01K8-lcl"),
            Version::HTTP_2,
            None,
        );
        assert!(headers[SERVER].to_str().unwrap().starts_with("Godwit/"));
        assert_eq!(headers[FLY_REQUEST_ID], "01K8-lcl");
        assert_eq!(headers[VIA], "2 godwit");
        assert!(!headers.contains_key(CONNECTION));
    }

    #[test]
    fn a_port_may_want_other_headers() {
        let wanted = HttpOptions {
            pristine: true,
            remove: vec!["X-Secret".to_owned()],
            add: [
                ("x-added", "1"),
                ("x-added", "2"),
                ("content-length", "5"),
                ("a b", "c"),
            ]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .to_vec(),
            ..HttpOptions::default()
        };
        let mut headers = HeaderMap::new();
        headers.insert(SERVER, HeaderValue::from_static("nginx"));
        headers.insert("x-secret", HeaderValue::from_static("1"));
        let id = HeaderValue::from_static("01K8-lcl");
        let seen = Seen::of(&headers);
        to_client(&mut headers, seen, &id, Version::HTTP_11, Some(&wanted));
        assert_eq!(all(&headers, "x-added"), ["1", "2"]);
        assert_eq!(all(&headers, "server"), ["nginx"]);
        assert_eq!(headers.len(), 3);
    }

    #[test]
    fn a_request_of_http_2_names_its_host_in_its_target() {
        let mut request = Request::new(());
        *request.uri_mut() = Uri::from_static("/a?b");
        let host = HeaderValue::from_static("hello.example:80");
        request.headers_mut().insert(HOST, host);
        to_h2(&mut request);
        assert_eq!(request.uri(), "http://hello.example:80/a?b");
        assert!(request.headers().is_empty());
    }

    proptest! {
        #[test]
        fn no_connection_header_breaks_an_edit(value in "[ -~]{0,40}") {
            let mut headers = HeaderMap::new();
            headers.insert(CONNECTION, HeaderValue::from_str(&value).unwrap());
            headers.insert(HOST, HeaderValue::from_static("hello.example"));
            let seen = Seen::of(&headers);
            drop_hop_by_hop(&mut headers, seen);
            prop_assert!(!headers.contains_key(CONNECTION));
            prop_assert!(headers.contains_key(HOST));
        }
    }
}
