//! Names of signals, as in `STOPSIGNAL` and the API: `SIGINT`, `INT`, `2`, `SIGRTMIN+3`.

/// The first real-time signal a program can use; the C library keeps the two before it.
const REALTIME_FIRST: i32 = 34;
const REALTIME_LAST: i32 = 64;

const NAMES: [(&str, i32); 33] = [
    ("HUP", 1),
    ("INT", 2),
    ("QUIT", 3),
    ("ILL", 4),
    ("TRAP", 5),
    ("ABRT", 6),
    ("IOT", 6),
    ("BUS", 7),
    ("FPE", 8),
    ("KILL", 9),
    ("USR1", 10),
    ("SEGV", 11),
    ("USR2", 12),
    ("PIPE", 13),
    ("ALRM", 14),
    ("TERM", 15),
    ("STKFLT", 16),
    ("CHLD", 17),
    ("CONT", 18),
    ("STOP", 19),
    ("TSTP", 20),
    ("TTIN", 21),
    ("TTOU", 22),
    ("URG", 23),
    ("XCPU", 24),
    ("XFSZ", 25),
    ("VTALRM", 26),
    ("PROF", 27),
    ("WINCH", 28),
    ("IO", 29),
    ("POLL", 29),
    ("PWR", 30),
    ("SYS", 31),
];

/// Returns the number of a signal, `None` for what is not one.
pub(crate) fn number(name: &str) -> Option<i32> {
    let bare = name.trim().to_ascii_uppercase();
    let bare = bare.strip_prefix("SIG").unwrap_or(&bare);
    if let Some((_, number)) = NAMES.iter().find(|(known, _)| *known == bare) {
        return Some(*number);
    }
    let number = match bare.strip_prefix("RT") {
        Some(rest) => match (rest.strip_prefix("MIN"), rest.strip_prefix("MAX")) {
            (Some(""), _) => REALTIME_FIRST,
            (_, Some("")) => REALTIME_LAST,
            (Some(offset), _) => {
                REALTIME_FIRST.checked_add(offset.strip_prefix('+')?.parse().ok()?)?
            }
            (_, Some(offset)) => {
                REALTIME_LAST.checked_sub(offset.strip_prefix('-')?.parse().ok()?)?
            }
            _ => return None,
        },
        None => bare.parse().ok()?,
    };
    (1..=REALTIME_LAST).contains(&number).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::number;

    #[test]
    fn every_spelling_is_understood() {
        for (name, expected) in [
            ("SIGINT", 2),
            ("int", 2),
            ("9", 9),
            ("SIGRTMIN+3", 37),
            ("SIGRTMIN", 34),
            ("RTMAX-1", 63),
            (" SIGQUIT ", 3),
        ] {
            assert_eq!(number(name), Some(expected), "{name}");
        }
    }

    #[test]
    fn anything_else_is_no_signal() {
        for name in [
            "",
            "SIG",
            "SIGFOO",
            "0",
            "65",
            "-1",
            "SIGRTMIN+99",
            "SIGRTMIN-1",
            "RT",
        ] {
            assert_eq!(number(name), None, "{name}");
        }
    }
}
