//! What is said on a stream before its response, such as early hints (RFC 8297).

use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::{Acquire, Release};
use std::sync::{Mutex, MutexGuard, PoisonError};

use hyper::{HeaderMap, Response, StatusCode};

/// Of all that is said before one response.
const MOST_BYTES: usize = 16 * 1024;

/// What is to be said by one stream. Who has something said wakes the stream's task.
#[derive(Debug, Default)]
pub(crate) struct Hints {
    waiting: AtomicBool,
    said: Mutex<Said>,
}

#[derive(Debug, Default)]
struct Said {
    /// Not sent yet.
    heads: Vec<Response<()>>,
    /// Bytes of names and values, sent or not.
    length: usize,
    /// The response has begun.
    over: bool,
}

impl Hints {
    /// Have a head said before the response; whether that may be.
    pub(crate) fn say(&self, status: StatusCode, headers: HeaderMap) -> bool {
        let length: usize = headers
            .iter()
            .map(|(name, value)| name.as_str().len() + value.len())
            .sum();
        let mut said = self.said();
        if said.over || said.length + length > MOST_BYTES {
            return false;
        }
        let mut head = Response::new(());
        *head.status_mut() = status;
        *head.headers_mut() = headers;
        said.length += length;
        said.heads.push(head);
        self.waiting.store(true, Release);
        true
    }

    /// Take what is to be sent now.
    pub(crate) fn take(&self) -> Vec<Response<()>> {
        if !self.waiting.load(Acquire) {
            return Vec::new();
        }
        self.waiting.store(false, Release);
        std::mem::take(&mut self.said().heads)
    }

    /// The response begins: what was not sent is left out.
    pub(super) fn end(&self) {
        let mut said = self.said();
        said.over = true;
        said.heads = Vec::new();
    }

    fn said(&self) -> MutexGuard<'_, Said> {
        self.said.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use hyper::header::{HeaderValue, LINK};

    use super::*;

    fn hint(hints: &Hints) -> bool {
        let mut headers = HeaderMap::new();
        headers.insert(LINK, HeaderValue::from_static("</a.css>"));
        hints.say(StatusCode::from_u16(103).unwrap(), headers)
    }

    #[test]
    fn no_more_is_said_than_a_client_should_take_in() {
        let hints = Hints::default();
        let most = MOST_BYTES / "link</a.css>".len();
        assert!((0..most).all(|_| hint(&hints)));
        assert!(!hint(&hints));
        assert_eq!(hints.take().len(), most);
        assert!(!hint(&hints), "what is sent counts too");
    }

    #[test]
    fn nothing_is_said_once_the_response_begins() {
        let hints = Hints::default();
        assert!(hint(&hints));
        hints.end();
        assert!(hints.take().is_empty());
        assert!(!hint(&hints));
    }
}
