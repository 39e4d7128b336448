//! Lines in Prometheus' text form.

use std::fmt::Write;

pub(crate) fn head(page: &mut String, name: &str, kind: &str) {
    let _ = writeln!(page, "# TYPE {name} {kind}");
}

pub(crate) fn line(page: &mut String, name: &str, labels: &str, value: u64) {
    let _ = match labels {
        "" => writeln!(page, "{name} {value}"),
        labels => writeln!(page, "{name}{{{labels}}} {value}"),
    };
}

pub(crate) fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_escaped() {
        assert_eq!(escaped("a\"b\\c\nd"), "a\\\"b\\\\c\\nd");
    }
}
