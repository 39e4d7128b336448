//! A machine's response as HTTP/1.1 writes it: where its head ends, and its body (RFC 9112 §6). Pure.
//!
//! httparse reads the lines; here is decided what they mean for the bytes after them. What leaves a
//! doubt is refused, or its connection is not used again, so that nobody gets another's response.

use std::error::Error;
use std::fmt;
use std::mem::MaybeUninit;

use bytes::{Buf, Bytes, BytesMut};
use httparse::{Header, ParserConfig, Status};
use hyper::ext::ReasonPhrase;
use hyper::header::{
    CONNECTION, CONTENT_LENGTH, HeaderMap, HeaderName, HeaderValue, TRANSFER_ENCODING,
};
use hyper::{Response, StatusCode};

const MOST_HEADERS: usize = 100;
/// What a head may have in all; as much as hyper takes.
const MOST_HEAD: usize = 8 * 1024 + 4 * 1024 * MOST_HEADERS;
/// A chunk's size and its extensions, or what follows the last chunk.
const MOST_OF_CHUNK: usize = 16 * 1024;
/// So many headers are usually added for the client.
const USUALLY_ADDED: usize = 4;

/// What is no response, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Malformed(&'static str);

/// A response's head, and what is to be expected after it.
#[derive(Debug)]
pub(crate) struct Head {
    pub(crate) response: Response<()>,
    pub(super) framing: Framing,
    /// The connection may carry another request once this response is at its end.
    pub(super) reusable: bool,
}

/// How the end of a body is found, and how much of it is still to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    Length(u64),
    Chunked(Chunked),
    UntilClose,
}

/// Where in a chunked body one is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Chunked {
    Size,
    Data(u64),
    /// The line's end that follows a chunk's data.
    AfterData,
    Trailers,
    Over,
}

/// What is next in a body.
#[derive(Debug, PartialEq)]
pub(super) enum Next {
    Data(Bytes),
    Trailers(HeaderMap),
    /// More has to come first.
    More,
    Over,
}

/// Where a line's parts are, as offsets.
#[derive(Clone, Copy)]
struct Place {
    name: (usize, usize),
    value: (usize, usize),
}

/// The head's lines, as far as they decide about the body.
#[derive(Default)]
struct Said {
    close: bool,
    coded: bool,
    /// Of several codings the last counts.
    chunked: bool,
    length: Option<u64>,
}

/// Take a response's head from what has come; `None` while it is not whole.
///
/// `bodyless` is a response to HEAD. What is said before the response (1xx) is `told`.
pub(super) fn head(
    buffer: &mut BytesMut,
    bodyless: bool,
    told: &impl Fn(StatusCode, &HeaderMap),
) -> Result<Option<Head>, Malformed> {
    while !buffer.is_empty() {
        let Some(read) = read(buffer)? else {
            if buffer.len() > MOST_HEAD {
                return Err(Malformed("its head is too long"));
            }
            return Ok(None);
        };
        let text = buffer.split_to(read.length).freeze();
        if read.status == StatusCode::SWITCHING_PROTOCOLS {
            return Err(Malformed("it switches protocols unasked"));
        }
        let (headers, said) = fields(&text, &read.lines)?;
        if read.status.is_informational() {
            told(read.status, &headers);
            continue;
        }
        let framing = framing(&said, read.status, bodyless, read.is_1_1)?;
        let mut response = Response::new(());
        *response.status_mut() = read.status;
        *response.headers_mut() = headers;
        if said.chunked && said.length.is_some() {
            response.headers_mut().remove(CONTENT_LENGTH);
        }
        if let Some(reason) = read.reason {
            response.extensions_mut().insert(reason);
        }
        let doubtful = said.coded && (said.length.is_some() || !said.chunked);
        let reusable = read.is_1_1 && !said.close && !doubtful && framing != Framing::UntilClose;
        return Ok(Some(Head {
            response,
            framing,
            reusable,
        }));
    }
    Ok(None)
}

/// A head's first line, and how much there is of it.
struct Read {
    length: usize,
    lines: Vec<Place>,
    status: StatusCode,
    is_1_1: bool,
    /// Where it is not what everybody says with that status.
    reason: Option<ReasonPhrase>,
}

fn read(text: &[u8]) -> Result<Option<Read>, Malformed> {
    let mut lines = [const { MaybeUninit::<Header<'_>>::uninit() }; MOST_HEADERS];
    let mut response = httparse::Response::new(&mut []);
    let parser = ParserConfig::default();
    let parsed = parser.parse_response_with_uninit_headers(&mut response, text, &mut lines);
    let length = match parsed {
        Ok(Status::Complete(length)) => length,
        Ok(Status::Partial) => return Ok(None),
        Err(httparse::Error::TooManyHeaders) => return Err(Malformed("it has too many headers")),
        Err(_) => return Err(Malformed("it is no HTTP/1.1")),
    };
    let status = response
        .code
        .and_then(|code| StatusCode::from_u16(code).ok());
    let status = status.ok_or(Malformed("it has no status"))?;
    let said = response.reason.unwrap_or_default();
    let usual = status.canonical_reason() == Some(said);
    let from = |part: &[u8]| {
        let begin = part.as_ptr().addr() - text.as_ptr().addr();
        (begin, begin + part.len())
    };
    let place = |line: &Header<'_>| Place {
        name: from(line.name.as_bytes()),
        value: from(line.value),
    };
    Ok(Some(Read {
        length,
        lines: response.headers.iter().map(place).collect(),
        status,
        is_1_1: response.version == Some(1),
        reason: (!usual)
            .then(|| ReasonPhrase::try_from(said.as_bytes()).ok())
            .flatten(),
    }))
}

/// The headers of a head, sharing its memory, without what nearly all say of this hop alone.
fn fields(text: &Bytes, places: &[Place]) -> Result<(HeaderMap, Said), Malformed> {
    let mut headers = HeaderMap::with_capacity(places.len() + USUALLY_ADDED);
    let mut said = Said::default();
    for place in places {
        let (name, value) = field(text, *place)?;
        if name == CONNECTION {
            said.close |= words(&value).any(|word| word.eq_ignore_ascii_case("close"));
            if matches!(value.as_bytes(), b"keep-alive" | b"close") {
                continue;
            }
        } else if name == CONTENT_LENGTH {
            said.set_length(&value)?;
        } else if name == TRANSFER_ENCODING {
            said.coded = true;
            let last = words(&value).last();
            said.chunked = last.is_some_and(|word| word.eq_ignore_ascii_case("chunked"));
            continue;
        }
        headers.append(name, value);
    }
    Ok((headers, said))
}

fn field(text: &Bytes, place: Place) -> Result<(HeaderName, HeaderValue), Malformed> {
    let name = HeaderName::from_bytes(&text[place.name.0..place.name.1]);
    let value = HeaderValue::from_maybe_shared(text.slice(place.value.0..place.value.1));
    match (name, value) {
        (Ok(name), Ok(value)) => Ok((name, value)),
        _ => Err(Malformed("a header is none")),
    }
}

/// The words of a list; none of what is no text.
fn words(value: &HeaderValue) -> impl Iterator<Item = &str> {
    let text = value.to_str().unwrap_or_default();
    text.split(',').map(str::trim)
}

impl Said {
    /// Several lengths may be said if they are all the same.
    fn set_length(&mut self, value: &HeaderValue) -> Result<(), Malformed> {
        const WRONG: Malformed = Malformed("its length is none");
        let text = value.to_str().map_err(|_| WRONG)?;
        for word in text.split(',').map(str::trim) {
            let digits = !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_digit());
            let length = word.parse().ok().filter(|_| digits).ok_or(WRONG)?;
            if self.length.is_some_and(|before| before != length) {
                return Err(Malformed("it has two lengths"));
            }
            self.length = Some(length);
        }
        Ok(())
    }
}

fn framing(
    said: &Said,
    status: StatusCode,
    bodyless: bool,
    is_1_1: bool,
) -> Result<Framing, Malformed> {
    let without = [StatusCode::NO_CONTENT, StatusCode::NOT_MODIFIED];
    if bodyless || without.contains(&status) {
        return Ok(Framing::Length(0));
    }
    match said.length {
        _ if said.coded && !is_1_1 => Err(Malformed("HTTP/1.0 has no codings")),
        _ if said.chunked => Ok(Framing::Chunked(Chunked::Size)),
        _ if said.coded => Ok(Framing::UntilClose),
        Some(length) => Ok(Framing::Length(length)),
        None => Ok(Framing::UntilClose),
    }
}

impl Framing {
    pub(super) fn is_over(self) -> bool {
        matches!(self, Framing::Length(0) | Framing::Chunked(Chunked::Over))
    }

    /// Take from what has come what is next in the body.
    pub(super) fn next(&mut self, buffer: &mut BytesMut) -> Result<Next, Malformed> {
        match self {
            Framing::Length(0) => Ok(Next::Over),
            Framing::Length(left) => Ok(data(buffer, left)),
            Framing::UntilClose => {
                let mut whatever = u64::MAX;
                Ok(data(buffer, &mut whatever))
            }
            Framing::Chunked(chunked) => chunked.next(buffer),
        }
    }
}

impl Chunked {
    fn next(&mut self, buffer: &mut BytesMut) -> Result<Next, Malformed> {
        loop {
            *self = match self {
                Chunked::Size => match size(buffer)? {
                    None => return Ok(Next::More),
                    Some(0) => Chunked::Trailers,
                    Some(size) => Chunked::Data(size),
                },
                Chunked::Data(0) => Chunked::AfterData,
                Chunked::Data(left) => return Ok(data(buffer, left)),
                Chunked::AfterData => match buffer.get(..2) {
                    None => return Ok(Next::More),
                    Some(b"\r\n") => {
                        buffer.advance(2);
                        Chunked::Size
                    }
                    Some(_) => return Err(Malformed("a chunk is longer than it says")),
                },
                Chunked::Trailers => {
                    let Some(trailers) = trailers(buffer)? else {
                        return Ok(Next::More);
                    };
                    *self = Chunked::Over;
                    if trailers.is_empty() {
                        return Ok(Next::Over);
                    }
                    return Ok(Next::Trailers(trailers));
                }
                Chunked::Over => return Ok(Next::Over),
            }
        }
    }
}

/// Take no more data than there is left.
fn data(buffer: &mut BytesMut, left: &mut u64) -> Next {
    if buffer.is_empty() {
        return Next::More;
    }
    let here = usize::try_from(*left).map_or(buffer.len(), |left| left.min(buffer.len()));
    *left -= here as u64;
    Next::Data(buffer.split_to(here).freeze())
}

/// Take a chunk's first line.
fn size(buffer: &mut BytesMut) -> Result<Option<u64>, Malformed> {
    const WRONG: Malformed = Malformed("a chunk has no size");
    let Some(first) = buffer.first() else {
        return Ok(None);
    };
    if !first.is_ascii_hexdigit() {
        return Err(WRONG);
    }
    match httparse::parse_chunk_size(buffer).map_err(|_| WRONG)? {
        Status::Complete((length, size)) => {
            // The only one is at the line's end, whatever others take for one.
            if buffer[..length - 1].contains(&b'\n') {
                return Err(WRONG);
            }
            buffer.advance(length);
            Ok(Some(size))
        }
        Status::Partial if buffer.len() > MOST_OF_CHUNK => Err(WRONG),
        Status::Partial => Ok(None),
    }
}

/// Take what follows the last chunk.
fn trailers(buffer: &mut BytesMut) -> Result<Option<HeaderMap>, Malformed> {
    const WRONG: Malformed = Malformed("its trailers are none");
    let mut lines = [httparse::EMPTY_HEADER; MOST_HEADERS];
    let (length, trailers) = match httparse::parse_headers(buffer, &mut lines) {
        Ok(Status::Complete((length, lines))) => {
            let mut trailers = HeaderMap::with_capacity(lines.len());
            for line in lines {
                let name = HeaderName::from_bytes(line.name.as_bytes()).map_err(|_| WRONG)?;
                let value = HeaderValue::from_bytes(line.value).map_err(|_| WRONG)?;
                trailers.append(name, value);
            }
            (length, trailers)
        }
        Ok(Status::Partial) if buffer.len() <= MOST_OF_CHUNK => return Ok(None),
        _ => return Err(WRONG),
    };
    buffer.advance(length);
    Ok(Some(trailers))
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the app's response cannot be read: {}", self.0)
    }
}

impl Error for Malformed {}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn head_of(text: &str) -> Result<Option<Head>, Malformed> {
        head(&mut text.as_bytes().into(), false, &|_, _| {})
    }

    fn framed(lines: &str) -> Result<(Framing, bool), Malformed> {
        let head = head_of(&format!("HTTP/1.1 200 OK\r\n{lines}\r\n"))?;
        let head = head.expect("a whole head");
        Ok((head.framing, head.reusable))
    }

    /// All of a body that comes in these pieces, its trailers, and what comes after it.
    fn body(
        mut framing: Framing,
        pieces: &[&[u8]],
    ) -> Result<(Vec<u8>, usize, Vec<u8>), Malformed> {
        let (mut buffer, mut whole, mut trailers) = (BytesMut::new(), Vec::new(), 0);
        let mut pieces = pieces.iter();
        loop {
            match framing.next(&mut buffer)? {
                Next::Data(data) => whole.extend_from_slice(&data),
                Next::Trailers(map) => trailers = map.len(),
                Next::Over => return Ok((whole, trailers, buffer.to_vec())),
                Next::More => match pieces.next() {
                    Some(piece) => buffer.extend_from_slice(piece),
                    None => return Err(Malformed("it ends before its end")),
                },
            }
        }
    }

    #[test]
    fn a_head_is_read_and_what_follows_it_is_left() {
        let text = "HTTP/1.1 404 Nothing Here\r\nA: 1\r\na: 2\r\nContent-Length: 2\r\n\r\nhi";
        let mut buffer = BytesMut::from(text);
        let head = head(&mut buffer, false, &|_, _| {}).unwrap().unwrap();
        let values: Vec<_> = head.response.headers().get_all("a").iter().collect();
        assert_eq!(values, ["1", "2"]);
        assert_eq!(head.response.status(), 404);
        let reason = head.response.extensions().get::<ReasonPhrase>();
        assert_eq!(
            reason.map(ReasonPhrase::as_bytes),
            Some(&b"Nothing Here"[..])
        );
        assert_eq!((head.framing, head.reusable), (Framing::Length(2), true));
        assert_eq!(&buffer[..], b"hi");
    }

    #[test]
    fn the_end_of_a_body_is_where_the_head_says() {
        let length = |length| Ok((Framing::Length(length), true));
        let chunked = Framing::Chunked(Chunked::Size);
        for (lines, wanted) in [
            ("Content-Length: 0\r\n", length(0)),
            ("Content-Length: 5\r\n", length(5)),
            ("Content-Length: 5\r\nContent-Length: 5, 5\r\n", length(5)),
            (
                "Content-Length: 5\r\nConnection: x, Close\r\n",
                Ok((Framing::Length(5), false)),
            ),
            ("Transfer-Encoding: chunked\r\n", Ok((chunked, true))),
            ("Transfer-Encoding: gzip, Chunked\r\n", Ok((chunked, true))),
            (
                "Transfer-Encoding: gzip\r\n",
                Ok((Framing::UntilClose, false)),
            ),
            (
                "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
                Ok((chunked, false)),
            ),
            ("", Ok((Framing::UntilClose, false))),
        ] {
            assert_eq!(framed(lines), wanted, "{lines:?}");
        }
        for lines in [
            "Content-Length: 5\r\nContent-Length: 6\r\n",
            "Content-Length: +5\r\n",
            "Content-Length: \r\n",
            "Content-Length: 99999999999999999999\r\n",
            "Content-Length : 5\r\n",
            "A: 1\r\n continued\r\n",
            "A\r\n",
        ] {
            assert!(framed(lines).is_err(), "{lines:?}");
        }
    }

    #[test]
    fn some_responses_have_no_body_whatever_they_say() {
        let text = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n";
        let to_head = head(&mut text.into(), true, &|_, _| {}).unwrap().unwrap();
        assert!(to_head.framing.is_over() && to_head.reusable);
        for status in [204, 304] {
            let text = format!("HTTP/1.1 {status} x\r\nContent-Length: 5\r\n\r\n");
            assert!(head_of(&text).unwrap().unwrap().framing.is_over());
        }
    }

    #[test]
    fn what_is_said_before_the_response_is_left_out() {
        let early = "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n";
        assert!(head_of(early).unwrap().is_none());
        let text = format!("{early}{early}HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
        let head = head_of(&text).unwrap().unwrap();
        assert_eq!(
            (
                head.response.status().as_u16(),
                head.response.headers().len()
            ),
            (200, 1)
        );
        assert!(head_of("HTTP/1.1 101 Switching Protocols\r\n\r\n").is_err());
    }

    #[test]
    fn an_older_version_is_for_one_response() {
        let text = "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 5\r\n\r\n";
        assert!(!head_of(text).unwrap().unwrap().reusable);
        assert!(head_of("HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").is_err());
        assert!(head_of("HTTP/2 200 OK\r\n\r\n").is_err());
        assert!(head_of("220 mail.example\r\n").is_err());
    }

    #[test]
    fn a_head_has_an_end() {
        let line = format!("A: {}\r\n", "x".repeat(1000));
        let endless = format!("HTTP/1.1 200 OK\r\n{}", line.repeat(MOST_HEAD / 1000));
        assert!(head_of(&endless).is_err());
        assert!(framed(&"A: 1\r\n".repeat(MOST_HEADERS)).is_ok());
        assert!(framed(&"A: 1\r\n".repeat(MOST_HEADERS + 1)).is_err());
    }

    #[test]
    fn of_two_ways_to_say_the_length_one_is_passed_on() {
        let text = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n";
        let head = head_of(text).unwrap().unwrap();
        assert!(!head.response.headers().contains_key(CONTENT_LENGTH));
    }

    #[test]
    fn chunks_are_what_they_say_to_be() {
        let chunked = |text: &str| body(Framing::Chunked(Chunked::Size), &[text.as_bytes()]);
        let whole = chunked("3;a=b\r\nabc\r\n01 \r\nd\r\n0\r\nX: 1\r\nY: 2\r\n\r\nHTTP");
        assert_eq!(whole, Ok((b"abcd".to_vec(), 2, b"HTTP".to_vec())));
        for text in [
            "\r\nabc",
            ";a\r\n",
            "-1\r\na\r\n",
            "0x3\r\nabc\r\n0\r\n\r\n",
            "3\nabc\r\n0\r\n\r\n",
            "3;a\nb\r\nabc\r\n0\r\n\r\n",
            "3\r\nabcd\r\n0\r\n\r\n",
            "11111111111111111\r\nabc",
            "0\r\nX 1\r\n\r\n",
            "3\r\nab",
        ] {
            assert!(chunked(text).is_err(), "{text:?}");
        }
        let endless = format!("3;{}", "a".repeat(MOST_OF_CHUNK));
        assert_eq!(chunked(&endless), Err(Malformed("a chunk has no size")));
        let endless = format!("0\r\nX: {}", "a".repeat(MOST_OF_CHUNK));
        assert_eq!(chunked(&endless), Err(Malformed("its trailers are none")));
    }

    proptest! {
        #[test]
        fn it_does_not_matter_how_a_body_is_cut(
            chunks in proptest::collection::vec("[ -~\r\n]{1,40}", 0..6),
            cut in any::<prop::sample::Index>(),
            other in any::<prop::sample::Index>(),
            trailer in any::<bool>(),
        ) {
            let mut lines: Vec<String> = chunks
                .iter()
                .map(|chunk| format!("{:x}\r\n{chunk}\r\n", chunk.len()))
                .collect();
            lines.push(if trailer { "0\r\na: b\r\n\r\n" } else { "0\r\n\r\n" }.to_owned());
            let text = lines.concat();
            let text = text.as_bytes();
            let (one, two) = (cut.index(text.len()), other.index(text.len()));
            let (one, two) = (one.min(two), one.max(two));
            let pieces = [&text[..one], &text[one..two], &text[two..]];
            let read = body(Framing::Chunked(Chunked::Size), &pieces);
            let whole = chunks.concat().into_bytes();
            prop_assert_eq!(read, Ok((whole.clone(), usize::from(trailer), Vec::new())));
            let length = Framing::Length(whole.len() as u64);
            let (one, two) = (one.min(whole.len()), two.min(whole.len()));
            let pieces = [&whole[..one], &whole[one..two], &whole[two..]];
            prop_assert_eq!(body(length, &pieces), Ok((whole.clone(), 0, Vec::new())));
        }

        #[test]
        fn anything_may_come(text in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = head(&mut text[..].into(), false, &|_, _| {});
            let _ = body(Framing::Chunked(Chunked::Size), &[&text]);
        }
    }
}
