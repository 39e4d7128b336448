//! The one writer of the catalog: decides which record is believed, and keeps the view.
//!
//! Rules, in order: a record that cannot be read or that its subject's owner may not say is
//! skipped and counted; a record replaces another of its subject only with a greater
//! (epoch, revision), a tombstone also the very record it is made of, which the mirror buries
//! when its owner says nothing of it any more; what the own host's agent says of its machines is believed over what the
//! bus says of them, and once the agent has said everything, over the bus for good.

use std::collections::HashSet;
use std::sync::Arc;

use godwit_wire::facts::{AppFact, Fact, HostFact, MachineFact, MemberState, Membership};

use crate::intern::Interners;
use crate::record::{AppRecord, Host, Machine, MachineKey, Version};
use crate::subject::{self, Book, Subject};
use crate::tombstones::{Key, Tombstones};
use crate::view::View;

/// What became of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The view changed.
    Applied,
    /// A record as new or newer is held already.
    Stale,
    /// The bus told of a machine of this host, whose agent has the word.
    Ours,
    /// A kind of fact that is for others: neither edges nor DNS have a use for it.
    Beside,
    Skipped(Skip),
}

/// Why a record is not believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Skip {
    /// Not a fact of a form this release reads.
    Unreadable,
    /// Not under the subject of its owner.
    Owner,
}

/// Records that were not believed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Skips {
    pub unreadable: u64,
    pub owner: u64,
}

/// Where a record came from.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Source {
    Bus,
    Agent,
}

/// The catalog of one process; see the module.
#[derive(Debug)]
pub struct Catalog {
    host_id: Arc<str>,
    region: Arc<str>,
    view: View,
    names: Interners,
    tombstones: Tombstones,
    /// Machines of this host that its agent told of since `agent_begins`.
    announced: HashSet<MachineKey>,
    /// Machines of this host whose held record the agent told.
    from_agent: HashSet<MachineKey>,
    agent_synced: bool,
    /// What a whole reading of each stream has told so far; `None` between readings.
    readings: Readings,
    /// Hosts that control has removed: nothing they say counts.
    removed: HashSet<Arc<str>>,
    skips: Skips,
}

#[derive(Debug, Default)]
struct Readings {
    facts: Option<Reading>,
    mirror: Option<Reading>,
}

impl Readings {
    fn of(&mut self, book: Book) -> &mut Option<Reading> {
        match book {
            Book::Facts => &mut self.facts,
            Book::Mirror => &mut self.mirror,
        }
    }
}

/// What one reading of a stream of the bus, from its beginning, has told.
#[derive(Debug, Default)]
struct Reading {
    machines: HashSet<MachineKey>,
    hosts: HashSet<Arc<str>>,
}

impl Catalog {
    /// An empty catalog of a host in a region.
    pub fn new(host_id: &str, region: &str) -> Self {
        Catalog {
            host_id: host_id.into(),
            region: region.into(),
            view: View::default(),
            names: Interners::default(),
            tombstones: Tombstones::default(),
            announced: HashSet::new(),
            from_agent: HashSet::new(),
            agent_synced: false,
            readings: Readings::default(),
            removed: HashSet::new(),
            skips: Skips::default(),
        }
    }

    /// The catalog as it is now.
    pub fn view(&self) -> &View {
        &self.view
    }

    /// The host that this catalog is on.
    pub fn host_id(&self) -> &str {
        &self.host_id
    }

    /// What was skipped since the start.
    pub fn skips(&self) -> Skips {
        self.skips
    }

    /// How many deleted subjects are remembered.
    pub fn tombstones(&self) -> usize {
        self.tombstones.len()
    }

    /// Take a message of the bus.
    pub fn apply_bus(&mut self, subject: &str, payload: &[u8]) -> Outcome {
        let subject = Subject::parse(subject);
        if subject.is_some_and(|subject| subject.is_membership(&self.region)) {
            return self.apply_membership(payload);
        }
        if subject.is_some_and(|subject| !subject.is_ours()) {
            return Outcome::Beside;
        }
        if let Some(subject) = subject
            && let Some(reading) = self.readings.of(subject.book)
        {
            // By its subject: what this release cannot read is there all the same.
            if let Some(key) = subject.machine(&mut self.names) {
                reading.machines.insert(key);
            } else if let Some(host) = subject.host(&mut self.names) {
                reading.hosts.insert(host);
            }
        }
        let Ok(fact) = serde_json::from_slice::<Fact>(payload) else {
            return self.skip(Skip::Unreadable);
        };
        match subject {
            Some(subject) if subject.admits(&fact, &self.region) => self.apply(&fact, Source::Bus),
            _ => self.skip(Skip::Owner),
        }
    }

    /// Take a record of a view that was kept on disk; it counts as said by the bus.
    pub fn apply_kept(&mut self, fact: &Fact) -> Outcome {
        if subject::owns(fact) {
            self.apply(fact, Source::Bus)
        } else {
            self.skip(Skip::Owner)
        }
    }

    /// Take a fact from the agent of this host.
    pub fn apply_agent(&mut self, fact: &Fact) -> Outcome {
        let ours = match fact {
            Fact::App(_) => false,
            Fact::Machine(f) => f.host_id == *self.host_id,
            Fact::Host(f) => f.host_id == *self.host_id,
        };
        if ours && subject::owns(fact) {
            self.apply(fact, Source::Agent)
        } else {
            self.skip(Skip::Owner)
        }
    }

    /// Count a line or message that could not be read at all.
    pub fn skip_unreadable(&mut self) {
        self.skip(Skip::Unreadable);
    }

    /// The agent begins to tell everything it owns.
    pub fn agent_begins(&mut self) {
        self.announced.clear();
    }

    /// The agent has told everything: what it did not tell of is gone. Returns how many were.
    pub fn agent_synced(&mut self) -> usize {
        self.agent_synced = true;
        let mut gone = self.view.keys_of_host(&self.host_id);
        gone.retain(|key| !self.announced.contains(key));
        for key in &gone {
            self.view.take_machine(key);
            self.from_agent.remove(key);
        }
        gone.len()
    }

    /// A reading of a stream begins: the newest record of every subject follows.
    pub fn bus_begins(&mut self, book: Book) {
        *self.readings.of(book) = Some(Reading::default());
    }

    /// The reading has told everything, and long enough ago that owners who had to tell
    /// everything anew have done so. What it did not tell is gone: its tombstone has left the
    /// stream while this catalog was away. Only machines of hosts that the reading told of: a
    /// stream that lost its content takes nothing from the view. Returns how many were gone.
    pub fn bus_settled(&mut self, book: Book) -> usize {
        let Some(reading) = self.readings.of(book).take() else {
            return 0;
        };
        let mut gone = 0;
        for host in reading.hosts.iter().filter(|host| **host != self.host_id) {
            let mut keys = self.view.keys_of_host(host);
            keys.retain(|key| !reading.machines.contains(key));
            for key in &keys {
                self.view.take_machine(key);
            }
            gone += keys.len();
        }
        gone
    }

    /// Take what control says of a host: of one that it removed nothing is left.
    fn apply_membership(&mut self, payload: &[u8]) -> Outcome {
        let Ok(said) = serde_json::from_slice::<Membership>(payload) else {
            return self.skip(Skip::Unreadable);
        };
        if said.owner != subject::CONTROL {
            return self.skip(Skip::Owner);
        }
        let host: Arc<str> = said.host_id.as_str().into();
        let belongs = said.state != MemberState::Removed;
        let control = said.services.get("control").filter(|_| belongs);
        let at = control.and_then(|at| Some((said.host_number, at.parse().ok()?)));
        let moved = self.view.set_control(&host, at);
        if belongs {
            // Of a database that was restored from before: its word counts.
            self.removed.remove(&host);
            return if moved {
                Outcome::Applied
            } else {
                Outcome::Beside
            };
        }
        if !self.removed.insert(host.clone()) {
            return Outcome::Stale;
        }
        for key in self.view.keys_of_host(&host) {
            self.view.take_machine(&key);
        }
        self.view.take_host(&host);
        Outcome::Applied
    }

    fn apply(&mut self, fact: &Fact, source: Source) -> Outcome {
        let host = match fact {
            Fact::App(_) => None,
            Fact::Machine(fact) => Some(fact.host_id.as_str()),
            Fact::Host(fact) => Some(fact.host_id.as_str()),
        };
        if host.is_some_and(|host| self.removed.contains(host)) {
            return Outcome::Stale;
        }
        match fact {
            Fact::App(fact) => self.apply_app(fact),
            Fact::Machine(fact) => self.apply_machine(fact, source),
            Fact::Host(fact) => self.apply_host(fact),
        }
    }

    fn apply_machine(&mut self, fact: &MachineFact, source: Source) -> Outcome {
        let Ok(machine) = Machine::read(fact, &mut self.names) else {
            return self.skip(Skip::Unreadable);
        };
        let (key, version) = (machine.key.clone(), machine.version);
        if key.host == self.host_id && !self.believes(&key, source) {
            return Outcome::Ours;
        }
        if source == Source::Agent {
            self.announced.insert(key.clone());
        }
        let outranks = source == Source::Agent && !self.from_agent.contains(&key);
        let held = self.view.machine_record(&key).map(|held| held.version);
        let buried = Key::Machine(key.clone());
        let ends = fact.deleted && held == Some(version);
        if !outranks && !ends && !newer(version, held, self.tombstones.version(&buried)) {
            return Outcome::Stale;
        }
        if source == Source::Agent {
            self.from_agent.insert(key.clone());
        }
        if fact.deleted {
            self.view.take_machine(&key);
            self.announced.remove(&key);
            self.tombstones.put(buried, version);
        } else {
            self.tombstones.forget(&buried);
            self.view.put_machine(Arc::new(machine), &self.host_id);
        }
        Outcome::Applied
    }

    fn apply_app(&mut self, fact: &AppFact) -> Outcome {
        let record = AppRecord::read(fact, &mut self.names);
        let buried = Key::App(record.name.clone());
        let app = self.view.app(&record.name);
        let held = app.and_then(|app| Some(app.record.as_ref()?.version));
        if !newer(record.version, held, self.tombstones.version(&buried)) {
            return Outcome::Stale;
        }
        if fact.deleted {
            self.view.take_app(&record.name);
            self.tombstones.put(buried, record.version);
        } else {
            self.tombstones.forget(&buried);
            self.view.put_app(&Arc::new(record));
        }
        Outcome::Applied
    }

    fn apply_host(&mut self, fact: &HostFact) -> Outcome {
        let host = Host::read(fact, &mut self.names);
        let buried = Key::Host(host.id.clone());
        let held = self.view.host(&host.id).map(|held| held.version);
        if !newer(host.version, held, self.tombstones.version(&buried)) {
            return Outcome::Stale;
        }
        if fact.deleted {
            self.view.take_host(&host.id);
            self.tombstones.put(buried, host.version);
        } else {
            self.tombstones.forget(&buried);
            self.view.put_host(Arc::new(host));
        }
        Outcome::Applied
    }

    /// Whether a source has a say about a machine of this host.
    fn believes(&self, key: &MachineKey, source: Source) -> bool {
        source == Source::Agent || (!self.agent_synced && !self.from_agent.contains(key))
    }

    fn skip(&mut self, why: Skip) -> Outcome {
        match why {
            Skip::Unreadable => self.skips.unreadable += 1,
            Skip::Owner => self.skips.owner += 1,
        }
        Outcome::Skipped(why)
    }
}

/// Whether a version is greater than what is held or buried of its subject.
fn newer(version: Version, held: Option<Version>, buried: Option<Version>) -> bool {
    held.max(buried).is_none_or(|known| version > known)
}
