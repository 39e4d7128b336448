//! From a request to its app: the host name in the request, and what it leads to.

use std::borrow::Cow;
use std::sync::Arc;

use godwit_catalog::{App, View};
use hyper::header::HOST;
use hyper::{HeaderMap, Uri};

/// A request that names no host, or several.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NoHost;

/// What a request says of its host: `:authority` or an absolute target before the Host header.
pub(crate) fn authority<'a>(uri: &'a Uri, headers: &'a HeaderMap) -> Result<&'a [u8], NoHost> {
    if let Some(authority) = uri.authority() {
        return Ok(authority.as_str().as_bytes());
    }
    let mut values = headers.get_all(HOST).iter();
    match (values.next(), values.next()) {
        (Some(value), None) => Ok(value.as_bytes()),
        _ => Err(NoHost),
    }
}

/// The host's name in that, in lower case.
pub(crate) fn host(authority: &[u8]) -> Result<Cow<'_, str>, NoHost> {
    let ascii = authority.is_ascii().then_some(authority);
    let text = ascii.and_then(|ascii| std::str::from_utf8(ascii).ok());
    text.and_then(normalise).ok_or(NoHost)
}

/// The app that a normalised host name leads to.
///
/// `<app>.<apps_domain>` leads to an app of which only machines are known, so that a host cut
/// off from the bus serves what it runs.
pub(crate) fn app<'a>(view: &'a View, host: &str, apps_domain: &str) -> Option<&'a Arc<App>> {
    let named = view.app_of_hostname(host);
    named.or_else(|| {
        let name = host.strip_suffix(apps_domain)?.strip_suffix('.')?;
        view.app(name).filter(|app| app.record.is_none())
    })
}

/// Where the same is found by TLS.
pub(crate) fn https(host: &str, port: u16, uri: &Uri) -> String {
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let host = if host.contains(':') {
        format!("[{host}]")
    } else {
        host.to_owned()
    };
    match port {
        443 => format!("https://{host}{path}"),
        port => format!("https://{host}:{port}{path}"),
    }
}

/// Lower case, without user, port and trailing dot; `None` if that leaves no name.
fn normalise(authority: &str) -> Option<Cow<'_, str>> {
    if is_normal(authority) {
        return Some(authority.into());
    }
    let host = authority
        .rsplit_once('@')
        .map_or(authority, |(_, host)| host);
    let host = match host.strip_prefix('[') {
        Some(literal) => literal.split_once(']')?.0,
        None => host.split_once(':').map_or(host, |(host, _)| host),
    };
    let host = host.strip_suffix('.').unwrap_or(host);
    if host.is_empty() {
        return None;
    }
    let upper = host.bytes().any(|byte| byte.is_ascii_uppercase());
    Some(if upper {
        host.to_ascii_lowercase().into()
    } else {
        host.into()
    })
}

/// Whether there is nothing to take away, as with nearly all.
fn is_normal(authority: &str) -> bool {
    let plain = |byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.');
    !authority.is_empty() && !authority.ends_with('.') && authority.bytes().all(plain)
}

#[cfg(test)]
mod tests {
    use std::fmt::Debug;

    use hyper::header::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    fn of(uri: &Uri, headers: &HeaderMap) -> Result<String, NoHost> {
        host(authority(uri, headers)?).map(Cow::into_owned)
    }

    fn of_header(value: impl TryInto<HeaderValue, Error: Debug>) -> Result<String, NoHost> {
        let headers = HeaderMap::from_iter([(HOST, value.try_into().unwrap())]);
        of(&Uri::from_static("/path"), &headers)
    }

    #[test]
    fn the_port_the_case_and_the_last_dot_do_not_matter() {
        for value in [
            "hello.example",
            "Hello.Example:8080",
            "hello.example.",
            "HELLO.EXAMPLE.:1",
        ] {
            assert_eq!(of_header(value).as_deref(), Ok("hello.example"));
        }
        assert_eq!(of_header("[::1]:8080").as_deref(), Ok("::1"));
    }

    #[test]
    fn a_request_without_one_host_is_refused() {
        assert_eq!(of_header(""), Err(NoHost));
        assert_eq!(of_header(":80"), Err(NoHost));
        assert_eq!(of_header("[::1"), Err(NoHost));
        assert_eq!(of_header("a\u{e9}.example".as_bytes()), Err(NoHost));
        assert_eq!(of(&Uri::from_static("/"), &HeaderMap::new()), Err(NoHost));
        let mut twice = HeaderMap::new();
        twice.append(HOST, HeaderValue::from_static("a.example"));
        twice.append(HOST, HeaderValue::from_static("b.example"));
        assert_eq!(of(&Uri::from_static("/"), &twice), Err(NoHost));
    }

    #[test]
    fn the_target_goes_before_the_header() {
        let headers = HeaderMap::from_iter([(HOST, HeaderValue::from_static("other.example"))]);
        let uri = Uri::from_static("http://user@Hello.example:81/x");
        assert_eq!(of(&uri, &headers).as_deref(), Ok("hello.example"));
    }

    #[test]
    fn the_place_by_tls_keeps_host_and_path() {
        let uri = Uri::from_static("http://a.example:80/x?y=1");
        assert_eq!(https("a.example", 443, &uri), "https://a.example/x?y=1");
        assert_eq!(
            https("::1", 8443, &Uri::from_static("/")),
            "https://[::1]:8443/"
        );
    }

    proptest! {
        #[test]
        fn a_host_is_normal_already_when_normalised_once(authority in "\\PC{0,60}") {
            if let Some(once) = normalise(&authority).map(Cow::into_owned) {
                prop_assert!(!once.bytes().any(|b| b.is_ascii_uppercase()));
            }
        }
    }
}
