//! What a query is about, and who is asked. Pure.

use std::net::{IpAddr, SocketAddr};

use godwit_wire::run_spec::Resolver;

const PORT: u16 = 53;
const HEADER: usize = 12;
/// The first bit of a message's flags: it is an answer.
const ANSWER: u8 = 0x80;
const RECURSION: u8 = 0x80;
const SERVER_FAILURE: u8 = 2;
const MOST_LABEL: u8 = 63;

/// Who is asked for which names.
#[derive(Debug)]
pub(super) struct Rules {
    /// Labels from the last to the first, in lower case; the longest first.
    rules: Vec<(Vec<Vec<u8>>, Vec<SocketAddr>)>,
    others: Vec<SocketAddr>,
}

impl Rules {
    pub(super) fn new(resolver: &Resolver) -> Self {
        let mut rules: Vec<(Vec<Vec<u8>>, Vec<SocketAddr>)> = Vec::new();
        for forward in &resolver.forwards {
            let Some(address) = address(&forward.address) else {
                continue;
            };
            let labels = labels(&forward.basename);
            match rules.iter_mut().find(|(known, _)| *known == labels) {
                Some((_, addresses)) => addresses.push(address),
                None => rules.push((labels, vec![address])),
            }
        }
        rules.sort_by_key(|(labels, _)| std::cmp::Reverse(labels.len()));
        Self {
            rules,
            others: resolver
                .nameservers
                .iter()
                .filter_map(|given| address(given))
                .collect(),
        }
    }

    /// Returns who is asked, the first of them first.
    ///
    /// What cannot be read goes where names without a rule go: whoever is there says so.
    pub(super) fn asked(&self, message: &[u8]) -> &[SocketAddr] {
        let Some(name) = name(message) else {
            return &self.others;
        };
        let fits = |labels: &[Vec<u8>]| {
            labels.len() <= name.len() && labels.iter().zip(&name).all(|(one, other)| one == other)
        };
        self.rules
            .iter()
            .find(|(labels, _)| fits(labels))
            .map_or(&self.others, |(_, addresses)| addresses)
    }
}

/// Whether a message answers a query, as far as its header says.
pub(super) fn answers(message: &[u8], query: &[u8]) -> bool {
    message.len() >= HEADER && message[..2] == query[..2] && message[2] & ANSWER != 0
}

/// Whether a message is long enough to be a query.
pub(super) fn is_query(message: &[u8]) -> bool {
    message.len() >= HEADER && message[2] & ANSWER == 0
}

/// Returns the answer to a query that nobody would answer: the query itself, marked so.
pub(super) fn failure(query: &[u8]) -> Vec<u8> {
    let mut answer = query.to_vec();
    answer[2] |= ANSWER;
    answer[3] = RECURSION | SERVER_FAILURE;
    answer
}

fn address(given: &str) -> Option<SocketAddr> {
    let plain: Option<IpAddr> = given.parse().ok();
    plain.map_or_else(
        || given.parse().ok(),
        |address| Some(SocketAddr::new(address, PORT)),
    )
}

fn labels(name: &str) -> Vec<Vec<u8>> {
    let parts = name.split('.').rev().filter(|part| !part.is_empty());
    parts
        .map(|part| part.to_ascii_lowercase().into_bytes())
        .collect()
}

/// Returns the labels of the name that is asked for, from the last to the first.
fn name(message: &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut rest = message.get(HEADER..)?;
    let mut found = Vec::new();
    loop {
        let (&length, after) = rest.split_first()?;
        if length == 0 {
            found.reverse();
            return Some(found);
        }
        if length > MOST_LABEL {
            return None;
        }
        let (label, following) = after.split_at_checked(usize::from(length))?;
        found.push(label.to_ascii_lowercase());
        rest = following;
    }
}

#[cfg(test)]
mod tests {
    use godwit_wire::run_spec::{Forward, Resolver};

    use super::{Rules, answers, failure, is_query, name};

    fn query(name: &str) -> Vec<u8> {
        let mut message = vec![7, 9, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        for label in name.split('.').filter(|label| !label.is_empty()) {
            message.push(u8::try_from(label.len()).unwrap());
            message.extend(label.as_bytes());
        }
        message.extend([0, 0, 1, 0, 1]);
        message
    }

    fn rules(given: &[(&str, &str)]) -> Rules {
        Rules::new(&Resolver {
            nameservers: vec!["fdaa::3".into(), "not an address".into()],
            forwards: given
                .iter()
                .map(|(basename, address)| Forward {
                    basename: (*basename).into(),
                    address: (*address).into(),
                })
                .collect(),
            ..Resolver::default()
        })
    }

    fn asked(rules: &Rules, name: &str) -> Vec<String> {
        let addresses = rules.asked(&query(name)).iter();
        addresses.map(ToString::to_string).collect()
    }

    #[test]
    fn the_longest_rule_a_name_falls_under_says_who_is_asked() {
        let rules = rules(&[
            ("example.com", "10.0.0.1"),
            ("Corp.Example.com.", "[fdaa::9]:5353"),
            ("example.com", "10.0.0.2:54"),
        ]);
        for (name, addresses) in [
            ("example.com", vec!["10.0.0.1:53", "10.0.0.2:54"]),
            ("www.EXAMPLE.com", vec!["10.0.0.1:53", "10.0.0.2:54"]),
            ("a.b.corp.example.com", vec!["[fdaa::9]:5353"]),
            ("notexample.com", vec!["[fdaa::3]:53"]),
            ("com", vec!["[fdaa::3]:53"]),
            ("", vec!["[fdaa::3]:53"]),
        ] {
            assert_eq!(asked(&rules, name), addresses, "{name}");
        }
    }

    #[test]
    fn what_cannot_be_read_goes_where_names_without_a_rule_go() {
        let rules = rules(&[("example.com", "10.0.0.1")]);
        let whole = query("www.example.com");
        for end in 0..whole.len() - 5 {
            let others = rules.asked(&whole[..end]);
            assert_eq!(others[0].to_string(), "[fdaa::3]:53", "{end}");
        }
        let mut pointing = query("www.example.com");
        pointing[12] = 0xc0;
        assert_eq!(name(&pointing), None);
    }

    #[test]
    fn an_answer_has_the_querys_number_and_says_that_it_is_one() {
        let asked = query("example.com");
        let mut answer = asked.clone();
        answer[2] |= 0x80;
        assert!(is_query(&asked));
        assert!(!is_query(&answer));
        assert!(answers(&answer, &asked));
        assert!(!answers(&asked, &asked));
        answer[0] ^= 1;
        assert!(!answers(&answer, &asked));
        assert!(!answers(&[], &asked));
        assert!(answers(&failure(&asked), &asked));
    }
}
