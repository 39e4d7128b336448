//! The file server in a machine, which is asked first for what the machine's `statics` cover.
//!
//! It is asked by the edge of the machine's own host, whoever the client came to: what a request
//! is for is decided once a machine is, by that machine's own config. What it has no file for is
//! sent to the app, as if nobody had looked.

use std::io;
use std::net::SocketAddrV4;
use std::sync::Arc;
use std::time::Duration;

use godwit_wire::facts::Statics;
use godwit_wire::statics::{below, decoded};
use hyper::header::{
    HeaderMap, HeaderName, IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE,
    IF_UNMODIFIED_SINCE, RANGE,
};

use crate::machines::upstream::{self, Kept, Upstream};

/// No name of a file is longer, with escapes.
const LONGEST_PATH: usize = 8_192;
/// What a file server heeds of a request's headers, each no longer than this.
const HEEDED: [HeaderName; 6] = [
    IF_MATCH,
    IF_MODIFIED_SINCE,
    IF_NONE_MATCH,
    IF_RANGE,
    IF_UNMODIFIED_SINCE,
    RANGE,
];
const LONGEST_HEEDED: usize = 1_024;

/// A machine's file server.
#[derive(Debug)]
pub(crate) struct Files {
    address: SocketAddrV4,
    statics: Arc<Statics>,
    /// The worker's connections there.
    kept: Arc<Kept>,
}

impl Files {
    pub(crate) fn new(address: SocketAddrV4, statics: &Arc<Statics>, kept: Arc<Kept>) -> Self {
        Files {
            address,
            statics: statics.clone(),
            kept,
        }
    }

    /// Whether it may have a file for a path.
    pub(crate) fn cover(&self, path: &str) -> bool {
        if path.len() > LONGEST_PATH {
            return false;
        }
        let prefixes = &self.statics.prefixes;
        decoded(path).is_some_and(|path| prefixes.iter().any(|one| below(&path, one).is_some()))
    }

    /// A connection to it: one that is kept, unless it must be `fresh`; `None` when nobody listens
    /// there, for then its machine runs since before the release that can.
    pub(crate) async fn reach(
        &self,
        within: Duration,
        fresh: bool,
    ) -> io::Result<Option<Upstream>> {
        let kept = (!fresh).then(|| self.kept.take(false, true)).flatten();
        if let Some(kept) = kept {
            return Ok(Some(kept.into_files()));
        }
        match upstream::connect_files(self.address, within, &self.kept).await {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(None),
            connected => connected.map(Some),
        }
    }
}

/// What a file server is told of a request's headers: nothing of the client but its terms.
pub(crate) fn heeded(headers: &HeaderMap) -> HeaderMap {
    let mut told = HeaderMap::new();
    for name in HEEDED {
        let value = headers.get(&name);
        if let Some(value) = value.filter(|value| value.len() <= LONGEST_HEEDED) {
            told.insert(name, value.clone());
        }
    }
    told
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_covered_by_any_prefix() {
        let statics = Statics {
            port: 1,
            prefixes: vec!["/static".into(), "/grün/".into()],
        };
        let address = SocketAddrV4::new(std::net::Ipv4Addr::LOCALHOST, 1);
        let files = Files::new(address, &Arc::new(statics), Arc::default());
        for (path, covered) in [
            ("/static/a.css", true),
            ("/%73tatic/a%20b", true),
            ("/gr%C3%BCn/a", true),
            ("/statics", false),
            ("/", false),
            ("/static/%", false),
        ] {
            assert_eq!(files.cover(path), covered, "{path}");
        }
        assert!(!files.cover(&format!("/static/{}", "a".repeat(LONGEST_PATH))));
    }

    #[test]
    fn only_the_terms_are_told() {
        let mut headers = HeaderMap::new();
        let long = "\"x\",".repeat(400);
        for (name, value) in [
            ("cookie", "session=secret"),
            ("authorization", "Bearer secret"),
            ("range", "bytes=1-2"),
            ("if-none-match", &long),
        ] {
            headers.insert(name, value.parse().unwrap());
        }
        let told = heeded(&headers);
        assert_eq!(told.len(), 1);
        assert_eq!(told["range"], "bytes=1-2");
    }
}
