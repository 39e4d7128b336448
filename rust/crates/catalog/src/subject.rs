//! Who may say what: a fact is believed only from its owner's subject.

use std::sync::Arc;

use godwit_wire::facts::Fact;

use crate::intern::Interners;
use crate::record::MachineKey;

/// The owner of what control says.
pub(crate) const CONTROL: &str = "control";

/// The two streams that a region's readers follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Book {
    /// What the region's own hosts say, and control.
    Facts,
    /// What hosts of other regions say, as the region's mirror has it.
    Mirror,
}

/// The parts of `facts.<region>.<kind>.<owner>.<key>`, or of the same under `mirror`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Subject<'a> {
    pub(crate) book: Book,
    region: &'a str,
    kind: &'a str,
    owner: &'a str,
    key: &'a str,
}

impl<'a> Subject<'a> {
    pub(crate) fn parse(subject: &'a str) -> Option<Self> {
        let mut parts = subject.split('.');
        let book = match parts.next()? {
            "facts" => Book::Facts,
            "mirror" => Book::Mirror,
            _ => return None,
        };
        let (region, kind) = (parts.next()?, parts.next()?);
        let (owner, key) = (parts.next()?, parts.next()?);
        let whole = parts.next().is_none() && !key.is_empty();
        whole.then_some(Subject {
            book,
            region,
            kind,
            owner,
            key,
        })
    }

    /// Whether it is where control says who belongs, to readers of a region.
    pub(crate) fn is_membership(&self, home: &str) -> bool {
        self.kind == "member"
            && self.owner == CONTROL
            && self.book == Book::Facts
            && self.region == home
    }

    /// Whether it is of a kind that edges and DNS use.
    pub(crate) fn is_ours(&self) -> bool {
        matches!(self.kind, "app" | "machine" | "host")
    }

    /// The machine that a record under this subject is about.
    pub(crate) fn machine(&self, names: &mut Interners) -> Option<MachineKey> {
        (self.kind == "machine").then(|| MachineKey {
            id: names.text(self.key),
            host: names.text(self.owner),
        })
    }

    /// The host that a record under this subject is about.
    pub(crate) fn host(&self, names: &mut Interners) -> Option<Arc<str>> {
        (self.kind == "host").then(|| names.text(self.key))
    }

    /// Whether the fact is what this subject's owner may say there, to readers of a region.
    ///
    /// A region's own hosts are believed in its stream only, others' in its mirror only.
    pub(crate) fn admits(&self, fact: &Fact, home: &str) -> bool {
        let place = match self.book {
            Book::Facts => self.region == home,
            Book::Mirror => self.region != home && self.kind != "app",
        };
        place
            && owns(fact)
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
