//! How many connections clients have: from one neighbourhood of addresses, and to one app.
//!
//! Each takes a descriptor or two for as long as its client likes; whoever opens many gets no more,
//! so that what the process may have is enough for all.

use std::net::IpAddr;
use std::sync::Arc;

use super::crowd::{Crowd, Place};
use super::handshakes::source;
use super::refused::Refused;

#[derive(Debug)]
pub(crate) struct Connections {
    of_source: Crowd<IpAddr>,
    of_app: Crowd<Arc<str>>,
}

impl Connections {
    pub(super) fn new(most_of_source: usize, most_of_app: usize) -> Self {
        Connections {
            of_source: Crowd::of(most_of_source),
            of_app: Crowd::of(most_of_app),
        }
    }

    /// One from there.
    ///
    /// # Errors
    /// There are too many.
    pub(super) fn from(&self, client: IpAddr) -> Result<Place<IpAddr>, Refused> {
        let place = self.of_source.enter(&source(client));
        place.ok_or(Refused::TooManyConnectionsOfSource)
    }

    /// One to an app, where it is known to whom it is before a request says so.
    ///
    /// # Errors
    /// There are too many.
    pub(super) fn to(&self, app: &Arc<str>) -> Result<Place<Arc<str>>, Refused> {
        let place = self.of_app.enter(app);
        place.ok_or(Refused::TooManyConnectionsOfApp)
    }
}
