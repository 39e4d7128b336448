//! What is a `WebSocket` for a client by HTTP/2 (RFC 8441): the app hears of it by HTTP/1.1.
//!
//! Called by the exchange, before the request is routed and when the app has answered.

use hyper::ext::Protocol;
use hyper::header::{HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY};
use hyper::http::response;
use hyper::{Method, Request, StatusCode};
use rand::RngExt;

use super::refusal::{self, Refusal};

const WEBSOCKET: &str = "websocket";
const BASE64: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Make a CONNECT the request that HTTP/1.1 has for it; returns the protocol to upgrade to.
///
/// # Errors
/// Another kind of CONNECT is refused: the edge is no forward proxy.
pub(crate) fn from_http_2<B>(request: &mut Request<B>) -> Result<HeaderValue, Refusal> {
    let protocol = request.extensions().get::<Protocol>().map(Protocol::as_str);
    match protocol {
        Some(name) if name.eq_ignore_ascii_case(WEBSOCKET) => {}
        Some(name) => return Err(refusal::protocol(name)),
        None => return Err(refusal::method("CONNECT")),
    }
    *request.method_mut() = Method::GET;
    request.headers_mut().insert(SEC_WEBSOCKET_KEY, key());
    Ok(HeaderValue::from_static(WEBSOCKET))
}

/// Make the app's 101 what a client by HTTP/2 is told.
pub(crate) fn opened(response: &mut response::Parts) {
    response.status = StatusCode::OK;
    response.headers.remove(SEC_WEBSOCKET_ACCEPT);
}

/// Sixteen random bytes in base64, which HTTP/1.1 asks for and HTTP/2 does without (RFC 8441 §5).
fn key() -> HeaderValue {
    let mut random = rand::rng();
    let mut text = [b'='; 24];
    for letter in &mut text[..21] {
        *letter = BASE64[random.random_range(0..64)];
    }
    // Of the last sextet that counts two bits belong to the bytes.
    text[21] = BASE64[random.random_range(0..4) << 4];
    HeaderValue::from_bytes(&text).expect("letters, digits and signs")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connect(protocol: Option<&'static str>) -> Request<()> {
        let mut request = Request::new(());
        *request.method_mut() = Method::CONNECT;
        if let Some(name) = protocol {
            request.extensions_mut().insert(Protocol::from_static(name));
        }
        request
    }

    #[test]
    fn a_websocket_becomes_a_get_with_a_key() {
        let mut request = connect(Some("websocket"));
        assert_eq!(from_http_2(&mut request).unwrap(), "websocket");
        assert_eq!(request.method(), Method::GET);
        let key = request.headers()[SEC_WEBSOCKET_KEY].to_str().unwrap();
        assert_eq!((key.len(), &key[22..]), (24, "=="));
        assert!("AQgw".contains(&key[21..22]), "{key}");
    }

    #[test]
    fn other_tunnels_are_refused() {
        for (protocol, status) in [
            (None, StatusCode::METHOD_NOT_ALLOWED),
            (Some("connect-udp"), StatusCode::NOT_IMPLEMENTED),
        ] {
            let refused = from_http_2(&mut connect(protocol)).unwrap_err();
            assert_eq!(refused.status, status);
        }
    }
}
