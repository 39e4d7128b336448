//! `WebSockets` by HTTP/2 (RFC 8441), which are requests with `Upgrade` in between.
//!
//! Called by the exchange for a client that asks so, before the request is routed and when the app
//! has answered; by the errand for an app that takes them so.

use h2::ext::Protocol;
use hyper::header::{HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY};
use hyper::http::response;
use hyper::{Method, Request, Response, StatusCode};
use ring::digest::{Context, SHA1_FOR_LEGACY_USE_ONLY};

use super::headers;
use super::refusal::{self, Refusal};

const WEBSOCKET: &str = "websocket";
/// What makes an answer of a key.
const ACCEPTED: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
const BASE64: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Whether a value of `Upgrade` asks for one.
pub(crate) fn is_asked(protocol: &HeaderValue) -> bool {
    protocol
        .as_bytes()
        .eq_ignore_ascii_case(WEBSOCKET.as_bytes())
}

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

/// Make a request for a `WebSocket` what HTTP/2 has for it.
pub(crate) fn to_http_2<B>(request: &mut Request<B>) {
    *request.method_mut() = Method::CONNECT;
    let protocol = Protocol::from_static(WEBSOCKET);
    request.extensions_mut().insert(protocol);
    request.headers_mut().remove(SEC_WEBSOCKET_KEY);
}

/// Make an app's 200 by HTTP/2 what HTTP/1.1 has for it, to a request that had this key.
pub(crate) fn opened_by_http_2<B>(response: &mut Response<B>, key: Option<&HeaderValue>) {
    if response.status() != StatusCode::OK {
        return;
    }
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers::set_upgrade(headers, HeaderValue::from_static(WEBSOCKET));
    if let Some(key) = key {
        headers.insert(SEC_WEBSOCKET_ACCEPT, accept(key));
    }
}

/// Sixteen random bytes in base64, which HTTP/1.1 asks for and HTTP/2 does without (RFC 8441 §5).
fn key() -> HeaderValue {
    base64(&rand::random::<[u8; 16]>())
}

/// What a key is answered with (RFC 6455 §4.2.2).
fn accept(key: &HeaderValue) -> HeaderValue {
    let mut hash = Context::new(&SHA1_FOR_LEGACY_USE_ONLY);
    hash.update(key.as_bytes());
    hash.update(ACCEPTED);
    base64(hash.finish().as_ref())
}

fn base64(bytes: &[u8]) -> HeaderValue {
    let mut text = Vec::with_capacity(bytes.len().div_ceil(3) * 4);
    for three in bytes.chunks(3) {
        let mut bits = [0; 4];
        bits[1..=three.len()].copy_from_slice(three);
        let bits = u32::from_be_bytes(bits);
        for place in 0..4 {
            let letter = BASE64[((bits >> (18 - 6 * place)) & 63) as usize];
            text.push(if place <= three.len() { letter } else { b'=' });
        }
    }
    HeaderValue::from_bytes(&text).expect("letters, digits and signs")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connect(protocol: Option<&'static str>) -> Request<()> {
        let mut request = Request::new(());
        *request.method_mut() = Method::CONNECT;
        if let Some(name) = protocol {
            let protocol = Protocol::from_static(name);
            request.extensions_mut().insert(protocol);
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
    fn an_apps_200_is_a_101_with_the_answer_to_the_key() {
        // RFC 6455 §1.3 and RFC 4648 §10.
        let key = HeaderValue::from_static("dGhlIHNhbXBsZSBub25jZQ==");
        let mut response = Response::new(());
        opened_by_http_2(&mut response, Some(&key));
        assert_eq!(response.status(), StatusCode::SWITCHING_PROTOCOLS);
        let headers = response.headers();
        assert_eq!(
            headers[SEC_WEBSOCKET_ACCEPT],
            "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
        );
        assert_eq!(headers["upgrade"], "websocket");
        for (bytes, text) in [("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v")] {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
        *response.status_mut() = StatusCode::FORBIDDEN;
        opened_by_http_2(&mut response, Some(&key));
        assert_eq!(response.status(), StatusCode::FORBIDDEN);
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
