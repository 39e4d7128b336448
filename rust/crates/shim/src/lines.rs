//! Bytes to lines: cut at newlines, at a longest length, and made readable. Pure.

/// Collects one stream's bytes.
#[derive(Debug)]
pub(crate) struct Splitter {
    partial: Vec<u8>,
    longest: usize,
}

impl Splitter {
    pub(crate) fn new(longest: usize) -> Self {
        Self {
            partial: Vec::new(),
            longest: longest.max(1),
        }
    }

    /// Gives every line these bytes complete to `line`, without its end.
    pub(crate) fn feed(&mut self, mut bytes: &[u8], mut line: impl FnMut(&[u8])) {
        while let Some(at) = bytes.iter().position(|byte| *byte == b'\n') {
            self.gather(&bytes[..at], &mut line);
            line(without_return(&self.partial));
            self.partial.clear();
            bytes = &bytes[at + 1..];
        }
        self.gather(bytes, &mut line);
    }

    /// Gives what is left without a newline.
    pub(crate) fn finish(&mut self, line: impl FnOnce(&[u8])) {
        if !self.partial.is_empty() {
            line(without_return(&self.partial));
            self.partial.clear();
        }
    }

    fn gather(&mut self, mut bytes: &[u8], line: &mut impl FnMut(&[u8])) {
        while self.partial.len() + bytes.len() > self.longest {
            let fits = self.longest - self.partial.len();
            self.partial.extend_from_slice(&bytes[..fits]);
            let cut = character_boundary(&self.partial);
            line(&self.partial[..cut]);
            self.partial.drain(..cut);
            bytes = &bytes[fits..];
        }
        self.partial.extend_from_slice(bytes);
    }
}

/// Returns where to cut so that no character is torn: at most three bytes before the end.
fn character_boundary(bytes: &[u8]) -> usize {
    let end = bytes.len();
    for back in 1..=3.min(end) {
        let byte = bytes[end - back];
        if byte & 0xc0 == 0x80 {
            continue;
        }
        let needs = match byte {
            0xc0..=0xdf => 2,
            0xe0..=0xef => 3,
            0xf0..=0xf7 => 4,
            _ => 1,
        };
        return if needs > back && end > back {
            end - back
        } else {
            end
        };
    }
    end
}

fn without_return(line: &[u8]) -> &[u8] {
    line.strip_suffix(b"\r").unwrap_or(line)
}

#[cfg(test)]
mod tests {
    use super::Splitter;

    fn split(longest: usize, pieces: &[&[u8]]) -> Vec<String> {
        let mut splitter = Splitter::new(longest);
        let mut lines = Vec::new();
        let mut keep = |line: &[u8]| lines.push(String::from_utf8_lossy(line).into_owned());
        for piece in pieces {
            splitter.feed(piece, &mut keep);
        }
        splitter.finish(&mut keep);
        lines
    }

    #[test]
    fn lines_are_whole_however_the_bytes_come() {
        let text = b"one\r\n\ntwo\nthree";
        for piece in 1..text.len() {
            let pieces: Vec<&[u8]> = text.chunks(piece).collect();
            assert_eq!(
                split(100, &pieces),
                ["one", "", "two", "three"],
                "pieces of {piece}"
            );
        }
    }

    #[test]
    fn a_line_without_end_is_cut_and_nothing_is_lost() {
        let long = vec![b'x'; 25];
        assert_eq!(
            split(10, &[&long, b"\nend\n"]),
            ["x".repeat(10), "x".repeat(10), "x".repeat(5), "end".into()]
        );
        assert_eq!(split(10, &[&long[..10], b"\n"]), ["x".repeat(10)]);
    }

    #[test]
    fn a_cut_tears_no_character() {
        let text = "ä".repeat(10);
        let lines = split(5, &[text.as_bytes()]);
        assert_eq!(lines.concat(), text);
        let euro = "€".repeat(7);
        assert_eq!(split(4, &[euro.as_bytes()]).concat(), euro);
    }

    #[test]
    fn bytes_that_are_no_text_get_through() {
        assert_eq!(split(100, &[&[0xff, 0xfe, b'\n']]), ["\u{fffd}\u{fffd}"]);
        assert_eq!(split(2, &[&[0x80; 7]]).len(), 4);
        assert_eq!(split(1, &["€".as_bytes()]).len(), 3);
    }
}
