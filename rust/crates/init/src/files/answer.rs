//! What a request for a file is answered with. Pure.
//!
//! Conditions in the order of RFC 9110 §13.2.2, and single ranges of bytes (§14).

use std::fmt::Write;
use std::ops::Range;
use std::time::{Duration, SystemTime};

use httparse::Request;

use super::kinds::kind;
use super::place::Facts;

/// A response: its head, and which part of the file goes after it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) head: String,
    /// `None` for no body, also where the head tells of one.
    pub(super) part: Option<Range<u64>>,
}

/// What of a request decides how a file is sent.
#[derive(Debug, Default)]
pub(super) struct Asked<'a> {
    if_match: Option<&'a str>,
    if_none_match: Option<&'a str>,
    if_modified_since: Option<&'a str>,
    if_unmodified_since: Option<&'a str>,
    if_range: Option<&'a str>,
    range: Option<&'a str>,
    pub(super) closes: bool,
    pub(super) has_body: bool,
    is_head: bool,
}

impl<'a> Asked<'a> {
    /// Reads a request's head.
    pub(super) fn of(request: &Request<'_, 'a>) -> Self {
        let mut asked = Self {
            // Whoever speaks HTTP/1.0 reads until the end.
            closes: request.version != Some(1),
            is_head: request.method == Some("HEAD"),
            ..Self::default()
        };
        for header in &*request.headers {
            let Ok(value) = std::str::from_utf8(header.value) else {
                continue;
            };
            match &*header.name.to_ascii_lowercase() {
                "if-match" => asked.if_match = Some(value),
                "if-none-match" => asked.if_none_match = Some(value),
                "if-modified-since" => asked.if_modified_since = Some(value),
                "if-unmodified-since" => asked.if_unmodified_since = Some(value),
                "if-range" => asked.if_range = Some(value),
                "range" => asked.range = Some(value),
                "connection" => asked.closes |= value.eq_ignore_ascii_case("close"),
                "content-length" => asked.has_body |= value.trim() != "0",
                "transfer-encoding" => asked.has_body = true,
                _ => {}
            }
        }
        asked
    }

    /// Answers with a file, or with why not.
    pub(super) fn file(&self, facts: &Facts) -> Answer {
        if self.has_changed(facts) {
            return self.without_file("412 Precondition Failed", "");
        }
        if self.is_known(facts) {
            return Answer {
                head: self.head("304 Not Modified", &validators(facts)),
                part: None,
            };
        }
        let ranged = self.range.filter(|_| !self.is_head && self.is_same(facts));
        match ranged.map_or(Part::All, |range| part(range, facts.length)) {
            Part::All => self.sent("200 OK", facts, 0..facts.length, ""),
            Part::Of(part) => {
                let (first, last) = (part.start, part.end - 1);
                let says = format!("content-range: bytes {first}-{last}/{}\r\n", facts.length);
                self.sent("206 Partial Content", facts, part, &says)
            }
            Part::Beyond => {
                let says = format!("content-range: bytes */{}\r\n", facts.length);
                self.without_file("416 Range Not Satisfiable", &says)
            }
        }
    }

    /// Answers with no more than a status and some headers.
    pub(super) fn without_file(&self, status: &str, headers: &str) -> Answer {
        Answer {
            head: self.head(status, &format!("content-length: 0\r\n{headers}")),
            part: None,
        }
    }

    fn sent(&self, status: &str, facts: &Facts, part: Range<u64>, more: &str) -> Answer {
        let (length, kind) = (part.end - part.start, kind(&facts.name));
        let mut headers = validators(facts);
        // Writing to a String does not fail.
        let _ = write!(
            headers,
            "content-type: {kind}\r\ncontent-length: {length}\r\naccept-ranges: bytes\r\n{more}"
        );
        Answer {
            head: self.head(status, &headers),
            part: (!self.is_head).then_some(part),
        }
    }

    fn head(&self, status: &str, headers: &str) -> String {
        let close = if self.closes {
            "connection: close\r\n"
        } else {
            ""
        };
        format!("HTTP/1.1 {status}\r\n{headers}{close}\r\n")
    }

    /// The client wants what it has a part of, and there is another.
    fn has_changed(&self, facts: &Facts) -> bool {
        match (self.if_match, self.if_unmodified_since.and_then(date)) {
            (Some(tags), _) => !names(tags, &facts.tag, Strength::Strong),
            (None, Some(since)) => modified(facts) > since,
            (None, None) => false,
        }
    }

    /// The client has it already.
    fn is_known(&self, facts: &Facts) -> bool {
        match (self.if_none_match, self.if_modified_since.and_then(date)) {
            (Some(tags), _) => names(tags, &facts.tag, Strength::Weak),
            (None, Some(since)) => modified(facts) <= since,
            (None, None) => false,
        }
    }

    /// A part of it belongs to the part that the client has.
    fn is_same(&self, facts: &Facts) -> bool {
        self.if_range.is_none_or(|validator| {
            let of_date = || date(validator).is_some_and(|since| modified(facts) == since);
            names(validator, &facts.tag, Strength::Strong) || of_date()
        })
    }
}

fn validators(facts: &Facts) -> String {
    let modified = httpdate::fmt_http_date(facts.modified);
    format!("last-modified: {modified}\r\netag: {}\r\n", facts.tag)
}

fn date(text: &str) -> Option<SystemTime> {
    httpdate::parse_http_date(text.trim()).ok()
}

/// When it was changed, in whole seconds, as headers tell it.
fn modified(facts: &Facts) -> SystemTime {
    let since = facts.modified.duration_since(SystemTime::UNIX_EPOCH);
    let seconds = since.map_or(0, |since| since.as_secs());
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Strength {
    Strong,
    /// One that the edge made weak, for it compressed the file, is the file's all the same.
    Weak,
}

/// Whether a list of tags has this one.
fn names(tags: &str, tag: &str, strength: Strength) -> bool {
    // No tag of ours has a comma in it.
    tags.split(',').map(str::trim).any(|each| {
        let each = match strength {
            Strength::Weak => each.strip_prefix("W/").unwrap_or(each),
            Strength::Strong => each,
        };
        each == "*" || each == tag
    })
}

#[derive(Debug, PartialEq, Eq)]
enum Part {
    /// All of it, also for what is no single range.
    All,
    Of(Range<u64>),
    /// Behind its end.
    Beyond,
}

fn part(range: &str, length: u64) -> Part {
    let bytes = range.trim().strip_prefix("bytes=");
    let Some((first, last)) = bytes.and_then(|range| range.split_once('-')) else {
        return Part::All;
    };
    let (first, last) = (first.trim(), last.trim());
    let asked = match (number(first), number(last)) {
        (Some(first), None) if last.is_empty() => first..length,
        (Some(first), Some(last)) if first <= last => first..last.saturating_add(1).min(length),
        (None, Some(count)) if first.is_empty() => length.saturating_sub(count)..length,
        _ => return Part::All,
    };
    if asked.is_empty() {
        return Part::Beyond;
    }
    Part::Of(asked)
}

/// Reads digits and nothing else; too many of them are very many.
fn number(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::{Answer, Asked, Part, part};
    use crate::files::place::Facts;

    const TAG: &str = "\"abc-1-a\"";
    const DAY: &str = "Sat, 25 Nov 2023 10:40:00 GMT";
    const BEFORE: &str = "Sat, 25 Nov 2023 10:39:59 GMT";

    fn answer(method: &str, headers: &str) -> Answer {
        let facts = Facts {
            name: b"a/style.css".into(),
            length: 10,
            modified: SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_908_800_750),
            tag: TAG.into(),
        };
        let text = format!("{method} /a HTTP/1.1\r\n{headers}\r\n");
        let mut room = [httparse::EMPTY_HEADER; 16];
        let mut request = httparse::Request::new(&mut room);
        assert!(request.parse(text.as_bytes()).unwrap().is_complete());
        Asked::of(&request).file(&facts)
    }

    fn status(headers: &str) -> String {
        let head = answer("GET", headers).head;
        head.split(' ').nth(1).unwrap().into()
    }

    #[test]
    fn a_file_is_told_of_and_sent() {
        let whole = answer("GET", "");
        let head = format!(
            "HTTP/1.1 200 OK\r\nlast-modified: {DAY}\r\netag: {TAG}\r\n\
             content-type: text/css; charset=utf-8\r\ncontent-length: 10\r\n\
             accept-ranges: bytes\r\n\r\n"
        );
        assert_eq!((&whole.head, whole.part), (&head, Some(0..10)));
        let head_only = answer("HEAD", "range: bytes=1-2\r\n");
        assert_eq!((&head_only.head, head_only.part), (&head, None));
        let last = answer("GET", "connection: Close\r\n").head;
        assert!(last.ends_with("connection: close\r\n\r\n"), "{last}");
    }

    #[test]
    fn conditions_go_in_their_order() {
        for (headers, found) in [
            (format!("if-none-match: {TAG}\r\n"), "304"),
            (format!("if-none-match: \"x\", W/{TAG}\r\n"), "304"),
            ("if-none-match: *\r\n".into(), "304"),
            ("if-none-match: \"x\"\r\n".into(), "200"),
            (
                format!("if-none-match: \"x\"\r\nif-modified-since: {DAY}\r\n"),
                "200",
            ),
            (format!("if-modified-since: {DAY}\r\n"), "304"),
            (format!("if-modified-since: {BEFORE}\r\n"), "200"),
            ("if-modified-since: yesterday\r\n".into(), "200"),
            (format!("if-match: {TAG}\r\n"), "200"),
            (format!("if-match: W/{TAG}\r\n"), "412"),
            ("if-match: \"x\"\r\n".into(), "412"),
            (format!("if-unmodified-since: {BEFORE}\r\n"), "412"),
            (format!("if-unmodified-since: {DAY}\r\n"), "200"),
        ] {
            assert_eq!(status(&headers), found, "{headers}");
        }
        let known = answer("GET", &format!("if-none-match: {TAG}\r\n"));
        assert!(known.part.is_none() && !known.head.contains("content-length"));
    }

    #[test]
    fn a_part_is_sent_of_the_file_that_the_client_has() {
        let some = answer("GET", "range: bytes=2-4\r\n");
        assert_eq!(some.part, Some(2..5));
        assert!(some.head.contains("content-length: 3\r\n"));
        assert!(some.head.contains("content-range: bytes 2-4/10\r\n"));
        for (validator, found) in [
            (TAG, "206"),
            (DAY, "206"),
            (BEFORE, "200"),
            ("\"x\"", "200"),
            ("W/\"abc-1-a\"", "200"),
        ] {
            let headers = format!("range: bytes=2-4\r\nif-range: {validator}\r\n");
            assert_eq!(status(&headers), found, "{validator}");
        }
        let beyond = answer("GET", "range: bytes=10-\r\n").head;
        assert!(beyond.starts_with("HTTP/1.1 416 "), "{beyond}");
        assert!(beyond.contains("content-range: bytes */10\r\n"), "{beyond}");
    }

    #[test]
    fn ranges_are_read_strictly() {
        for (range, length, found) in [
            ("bytes=0-", 10, Part::Of(0..10)),
            ("bytes=9-99999999999999999999999", 10, Part::Of(9..10)),
            ("bytes=-3", 10, Part::Of(7..10)),
            ("bytes=-30", 10, Part::Of(0..10)),
            ("bytes=-0", 10, Part::Beyond),
            ("bytes=0-", 0, Part::Beyond),
            ("bytes=99999999999999999999999-", 10, Part::Beyond),
            ("bytes=4-2", 10, Part::All),
            ("bytes=0-1,3-4", 10, Part::All),
            ("bytes=-", 10, Part::All),
            ("bytes=+1-2", 10, Part::All),
            ("lines=1-2", 10, Part::All),
            ("bytes", 10, Part::All),
        ] {
            assert_eq!(part(range, length), found, "{range}");
        }
    }
}
