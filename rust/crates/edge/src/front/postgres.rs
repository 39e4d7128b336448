//! How a PostgreSQL client begins: it asks for encryption, or does not; no I/O.
//!
//! Source: PostgreSQL's documentation, "Message Formats" and "SSL Session Encryption".

/// What the first eight bytes ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asks {
    Tls,
    /// GSSAPI's encryption, which is answered with no.
    Gss,
    /// A session in plain text, a cancellation, or what no PostgreSQL client says.
    Other,
}

pub(crate) const REQUEST: usize = 8;
/// Answers to what is asked.
pub(crate) const YES: &[u8] = b"S";
pub(crate) const NO: &[u8] = b"N";

const LENGTH: u64 = 8;
const TLS: u64 = 80_877_103;
const GSS: u64 = 80_877_104;

pub(crate) fn asks(request: [u8; REQUEST]) -> Asks {
    let words = u64::from_be_bytes(request);
    match (words >> 32, words & 0xffff_ffff) {
        (LENGTH, TLS) => Asks::Tls,
        (LENGTH, GSS) => Asks::Gss,
        _ => Asks::Other,
    }
}

/// An error that clients show to people; the connection is closed after it.
pub(crate) fn error(message: &str) -> Vec<u8> {
    let mut fields = Vec::new();
    for (field, text) in [
        (b'S', "FATAL"),
        (b'V', "FATAL"),
        // invalid_authorization_specification, as a server says that demands TLS.
        (b'C', "28000"),
        (b'M', message),
    ] {
        fields.push(field);
        fields.extend(text.bytes());
        fields.push(0);
    }
    fields.push(0);
    let length = u32::try_from(fields.len() + 4).unwrap_or(u32::MAX);
    [b"E".as_slice(), &length.to_be_bytes(), &fields].concat()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn requests_are_told_apart() {
        assert_eq!(asks(*b"\0\0\0\x08\x04\xd2\x16\x2f"), Asks::Tls);
        assert_eq!(asks(*b"\0\0\0\x08\x04\xd2\x16\x30"), Asks::Gss);
        assert_eq!(asks(*b"\0\0\0\x10\x04\xd2\x16\x2e"), Asks::Other);
        assert_eq!(asks(*b"\0\0\0\x54\0\x03\0\0"), Asks::Other);
    }

    #[test]
    fn an_errors_length_is_that_of_all_but_its_type() {
        let error = error("no");
        let [b'E', a, b, c, d, ..] = error[..] else {
            panic!("{error:?}")
        };
        let length = usize::try_from(u32::from_be_bytes([a, b, c, d])).unwrap();
        assert_eq!(length, error.len() - 1);
        assert!(error.ends_with(b"Mno\0\0"));
    }

    proptest! {
        #[test]
        fn nothing_else_is_taken_for_a_request(request in any::<[u8; REQUEST]>()) {
            let known = [*b"\0\0\0\x08\x04\xd2\x16\x2f", *b"\0\0\0\x08\x04\xd2\x16\x30"];
            prop_assert_eq!(asks(request) == Asks::Other, !known.contains(&request));
        }
    }
}
