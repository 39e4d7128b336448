//! Request ids: a ULID and the edge's region, `01K8RS…1R-lcl`.

use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use hyper::header::HeaderValue;

const CROCKFORD: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
const ULID_LENGTH: usize = 26;

/// A new request id.
pub(crate) fn new(region: &str) -> HeaderValue {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let mut text = Vec::with_capacity(ULID_LENGTH + 1 + region.len());
    text.extend_from_slice(&ulid(since.as_millis(), rand::random()));
    text.push(b'-');
    text.extend_from_slice(region.as_bytes());
    // A region that is no header text would have been refused at start.
    let id = HeaderValue::from_maybe_shared(Bytes::from(text));
    let mut id = id.unwrap_or_else(|_| HeaderValue::from_static(""));
    // HTTP/2 would otherwise keep every one for the next response, where it never comes again.
    id.set_sensitive(true);
    id
}

fn ulid(millis: u128, random: u128) -> [u8; ULID_LENGTH] {
    let value = (millis << 80) | (random & ((1 << 80) - 1));
    let mut text = [0; ULID_LENGTH];
    for (place, byte) in text.iter_mut().rev().enumerate() {
        let digit = (value >> (5 * place)) & 31;
        *byte = CROCKFORD[usize::try_from(digit).unwrap_or_default()];
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ulid_is_its_time_and_its_randomness() {
        assert_eq!(&ulid(0, 0), b"00000000000000000000000000");
        assert_eq!(
            &ulid((1 << 48) - 1, u128::MAX),
            b"7ZZZZZZZZZZZZZZZZZZZZZZZZZ"
        );
        assert_eq!(&ulid(1_469_918_176_385, 0)[..10], b"01ARYZ6S41");
    }

    #[test]
    fn ids_differ_and_end_with_the_region() {
        let (one, other) = (new("lcl"), new("lcl"));
        assert_ne!(one, other);
        assert_eq!(one.len(), 30);
        assert!(one.to_str().unwrap().ends_with("-lcl"));
    }
}
