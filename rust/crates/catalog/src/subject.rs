//! Who may say what: a fact is believed only from its owner's subject.

use godwit_wire::facts::Fact;

/// The owner of what control says.
pub(crate) const CONTROL: &str = "control";

/// The parts of `facts.<region>.<kind>.<owner>.<key>`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Subject<'a> {
    region: &'a str,
    kind: &'a str,
    owner: &'a str,
    key: &'a str,
}

impl<'a> Subject<'a> {
    pub(crate) fn parse(subject: &'a str) -> Option<Self> {
        let mut parts = subject.split('.');
        let prefix = parts.next()?;
        let (region, kind) = (parts.next()?, parts.next()?);
        let (owner, key) = (parts.next()?, parts.next()?);
        let whole = prefix == "facts" && parts.next().is_none() && !key.is_empty();
        whole.then_some(Subject {
            region,
            kind,
            owner,
            key,
        })
    }

    /// Whether the fact is what this subject's owner may say there.
    pub(crate) fn admits(&self, fact: &Fact) -> bool {
        owns(fact)
            && match fact {
                Fact::App(f) => self.is("app", CONTROL, &f.app),
                Fact::Machine(f) => {
                    self.is("machine", &f.host_id, &f.machine_id) && self.region == f.region
                }
                Fact::Host(f) => {
                    self.is("host", &f.host_id, &f.host_id) && self.region == f.region
                }
            }
    }

    fn is(&self, kind: &str, owner: &str, key: &str) -> bool {
        (self.kind, self.owner, self.key) == (kind, owner, key)
    }
}

/// Whether the owner that a fact names is the one its kind belongs to.
pub(crate) fn owns(fact: &Fact) -> bool {
    match fact {
        Fact::App(f) => f.owner == CONTROL,
        Fact::Machine(f) => f.owner == f.host_id,
        Fact::Host(f) => f.owner == f.host_id,
    }
}
