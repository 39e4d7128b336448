//! What the edge says to an app of a request's client (spec/network.md §1.8). Pure.
//!
//! Kept beside a request's own headers until somebody asks for all of them: to put nine headers
//! into a map and to take them out again costs more than to write them, and most requests say
//! nothing of the kind themselves.

use std::net::IpAddr;

use bytes::Bytes;
use hyper::Version;
use hyper::header::{Entry, HeaderMap, HeaderName, HeaderValue, VIA};

use crate::request::forwarded::{FORWARDED_FOR, FORWARDED_PROTO, Forwarded};
use crate::request::headers::{extend, via};

const FLY_CLIENT_IP: HeaderName = HeaderName::from_static("fly-client-ip");
const FLY_FORWARDED_PORT: HeaderName = HeaderName::from_static("fly-forwarded-port");
const FLY_REGION: HeaderName = HeaderName::from_static("fly-region");
pub(super) const FLY_REQUEST_ID: HeaderName = HeaderName::from_static("fly-request-id");
const FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
const FORWARDED_SSL: HeaderName = HeaderName::from_static("x-forwarded-ssl");

/// Who connected where; made once per connection.
#[derive(Clone, Debug)]
pub(crate) struct Connected {
    /// The peer's address.
    pub(crate) client_ip: HeaderValue,
    /// `<peer's address>, <the address it connected to>`.
    forwarded_for: HeaderValue,
    /// The external port it connected to.
    port: HeaderValue,
    /// It speaks TLS.
    secure: bool,
    region: HeaderValue,
    /// All of this as lines of HTTP/1.1.
    lines: Bytes,
}

/// What is said of one request, and is not yet among its headers.
#[derive(Clone, Debug)]
pub(crate) struct Introduction<'a> {
    pub(crate) connected: &'a Connected,
    /// What a forwarder that connected says of whom it asks for.
    pub(crate) forwarded: Option<Box<Forwarded>>,
    pub(crate) id: HeaderValue,
    /// In which the client has asked.
    pub(crate) version: Version,
}

impl Connected {
    /// `local` is the address the peer has connected to, `port` the external port.
    pub(crate) fn new(
        peer: IpAddr,
        local: IpAddr,
        port: u16,
        secure: bool,
        region: &HeaderValue,
    ) -> Self {
        let mut connected = Connected {
            client_ip: text(&peer.to_string()),
            forwarded_for: text(&format!("{peer}, {local}")),
            port: text(&port.to_string()),
            secure,
            region: region.clone(),
            lines: Bytes::new(),
        };
        let mut lines = Vec::new();
        for (name, value) in connected.said(None) {
            write(&mut lines, &name, value.as_bytes());
        }
        connected.lines = lines.into();
        connected
    }

    /// What is the same for all its requests, but for what a forwarder says of one.
    fn said(&self, forwarded: Option<&Forwarded>) -> [(HeaderName, HeaderValue); 7] {
        let client_ip = forwarded.and_then(|forwarded| forwarded.client_ip.as_ref());
        let secure = forwarded.and_then(|forwarded| forwarded.secure);
        let (proto, ssl) = if secure.unwrap_or(self.secure) {
            ("https", "on")
        } else {
            ("http", "off")
        };
        [
            (FLY_CLIENT_IP, client_ip.unwrap_or(&self.client_ip).clone()),
            (FLY_FORWARDED_PORT, self.port.clone()),
            (FLY_REGION, self.region.clone()),
            (FORWARDED_FOR, self.forwarded_for.clone()),
            (FORWARDED_PROTO, HeaderValue::from_static(proto)),
            (FORWARDED_SSL, HeaderValue::from_static(ssl)),
            (FORWARDED_PORT, self.port.clone()),
        ]
    }
}

impl Introduction<'_> {
    /// Put it among a request's headers: its lists go on, its port is kept, its claims are not.
    pub(crate) fn put(&self, headers: &mut HeaderMap) {
        for (name, value) in self.connected.said(self.forwarded.as_deref()) {
            if name == FORWARDED_FOR {
                extend(headers, name, &value);
            } else if name == FORWARDED_PORT {
                if let Entry::Vacant(entry) = headers.entry(name) {
                    entry.insert(value);
                }
            } else {
                headers.insert(name, value);
            }
        }
        headers.insert(FLY_REQUEST_ID, self.id.clone());
        extend(headers, VIA, &via(self.version));
    }

    /// Write it after headers that say nothing of the kind.
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        if self.forwarded.is_none() {
            out.extend_from_slice(&self.connected.lines);
        } else {
            for (name, value) in self.connected.said(self.forwarded.as_deref()) {
                write(out, &name, value.as_bytes());
            }
        }
        write(out, &FLY_REQUEST_ID, self.id.as_bytes());
        write(out, &VIA, via(self.version).as_bytes());
    }
}

/// Write a header as a line.
pub(crate) fn write(out: &mut Vec<u8>, name: &HeaderName, value: &[u8]) {
    for piece in [name.as_str().as_bytes(), b": ", value, b"\r\n"] {
        out.extend_from_slice(piece);
    }
}

fn text(text: &str) -> HeaderValue {
    // Addresses and numbers are header text.
    HeaderValue::from_str(text).unwrap_or_else(|_| HeaderValue::from_static(""))
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn what_is_written_is_what_is_put() {
        let region = HeaderValue::from_static("lcl");
        let forwarded = |client_ip: Option<&'static str>, secure| {
            let client_ip = client_ip.map(HeaderValue::from_static);
            Some(Box::new(Forwarded { client_ip, secure }))
        };
        for (secure, version, forwarded, told) in [
            (
                false,
                Version::HTTP_11,
                None,
                ("203.0.113.9", "http", "off"),
            ),
            (true, Version::HTTP_2, None, ("203.0.113.9", "https", "on")),
            (
                false,
                Version::HTTP_11,
                forwarded(Some("198.51.100.7"), Some(true)),
                ("198.51.100.7", "https", "on"),
            ),
            (
                true,
                Version::HTTP_2,
                forwarded(None, Some(false)),
                ("203.0.113.9", "http", "off"),
            ),
        ] {
            let peer = Ipv4Addr::new(203, 0, 113, 9).into();
            let connected = Connected::new(peer, Ipv4Addr::LOCALHOST.into(), 80, secure, &region);
            let introduction = Introduction {
                connected: &connected,
                forwarded,
                id: HeaderValue::from_static("01K8-lcl"),
                version,
            };
            let (mut put, mut written) = (HeaderMap::new(), Vec::new());
            introduction.put(&mut put);
            introduction.write(&mut written);
            let mut lines = [httparse::EMPTY_HEADER; 16];
            written.extend_from_slice(b"\r\n");
            let parsed = httparse::parse_headers(&written, &mut lines).unwrap();
            let read: HeaderMap = parsed
                .unwrap()
                .1
                .iter()
                .map(|line| {
                    let name = HeaderName::from_bytes(line.name.as_bytes()).unwrap();
                    (name, HeaderValue::from_bytes(line.value).unwrap())
                })
                .collect();
            for (name, value) in [
                (FLY_CLIENT_IP, told.0),
                (FORWARDED_PROTO, told.1),
                (FORWARDED_SSL, told.2),
                // Who connected is who forwards.
                (FORWARDED_FOR, "203.0.113.9, 127.0.0.1"),
            ] {
                assert_eq!(put[&name], value, "{name}");
            }
            assert_eq!((read.len(), read), (9, put));
        }
    }
}
