//! TLS as the edge speaks it: one configuration for each profile and certificate.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use godwit_wire::components::TlsAuthority;
use rustls::ServerConfig;
use rustls::crypto::{CryptoProvider, ring};
use rustls::server::{ClientHello, NoServerSessionStorage, ProducesTickets, ResolvesServerCert};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::version::{TLS12, TLS13};

use super::certificates::{Authority, LOOK_EVERY, USED, Written};
use super::plan::Profile;

/// So many are kept; names without connections leave sooner or later.
const KEPT: usize = 8192;

/// Which certificate a client is shown.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Shown {
    /// For a host name, or a whole domain by its wildcard.
    Name(String),
    /// For an app's own address, to a client that names no host.
    Address(String, IpAddr),
    /// For a name that is not the app's: nobody vouches for it.
    SelfSigned(String),
}

/// The TLS of an edge.
#[derive(Debug)]
pub(crate) struct Tls {
    files: TlsAuthority,
    provider: Arc<CryptoProvider>,
    tickets: Arc<dyn ProducesTickets>,
    vouched: Mutex<Vouched>,
    refusing: Arc<ServerConfig>,
}

/// An authority, and what was made with it.
#[derive(Debug)]
struct Vouched {
    authority: Authority,
    /// Its files, as they were when it was read or could not be read last.
    written: Written,
    looked: Instant,
    made: HashMap<(Profile, Shown), Made>,
}

#[derive(Debug)]
struct Made {
    config: Arc<ServerConfig>,
    at: Instant,
}

impl Tls {
    /// # Errors
    /// A sentence: what of the authority cannot be used.
    pub(crate) fn load(files: &TlsAuthority) -> Result<Self, String> {
        let written = Written::of(files);
        let authority = Authority::load(files)?;
        let provider = Arc::new(ring::default_provider());
        let tickets = ring::Ticketer::new().map_err(|error| error.to_string())?;
        let refusing = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&TLS12, &TLS13])
            .map_err(|error| error.to_string())?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(Nothing));
        Ok(Tls {
            files: files.clone(),
            provider,
            tickets,
            vouched: Mutex::new(Vouched {
                authority,
                written,
                looked: Instant::now(),
                made: HashMap::new(),
            }),
            refusing: Arc::new(refusing),
        })
    }

    /// One that ends every handshake with an alert.
    pub(crate) fn refusing(&self) -> Arc<ServerConfig> {
        self.refusing.clone()
    }

    /// The configuration for a connection.
    ///
    /// # Errors
    /// No certificate can be made for the name.
    pub(crate) fn config(
        &self,
        profile: &Profile,
        shown: Shown,
    ) -> Result<Arc<ServerConfig>, String> {
        let key = (profile.clone(), shown);
        let vouched = self.vouched.lock();
        let mut vouched = vouched.unwrap_or_else(PoisonError::into_inner);
        vouched.look(&self.files);
        let Vouched {
            authority, made, ..
        } = &mut *vouched;
        if let Some(held) = made.get(&key).filter(|held| held.at.elapsed() < USED) {
            return Ok(held.config.clone());
        }
        if made.len() >= KEPT {
            made.clear();
        }
        let config = Arc::new(self.make(authority, profile, &key.1)?);
        let at = Instant::now();
        made.insert(
            key,
            Made {
                config: config.clone(),
                at,
            },
        );
        Ok(config)
    }

    fn make(
        &self,
        authority: &Authority,
        profile: &Profile,
        shown: &Shown,
    ) -> Result<ServerConfig, String> {
        let certified = match shown {
            Shown::Name(name) => authority.make(std::slice::from_ref(name)),
            Shown::Address(name, address) => authority.make(&[name.clone(), address.to_string()]),
            Shown::SelfSigned(name) => authority.make_self_signed(std::slice::from_ref(name)),
        }?;
        let versions: &[_] = match (profile.tls12, profile.tls13) {
            (true, false) => &[&TLS12],
            (false, true) => &[&TLS13],
            _ => &[&TLS12, &TLS13],
        };
        let mut config = ServerConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(versions)
            .map_err(|error| error.to_string())?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(SingleCertAndKey::from(certified)));
        config.alpn_protocols.clone_from(&profile.alpn);
        // Sessions are in their tickets, which name the host they are for.
        config.ticketer = self.tickets.clone();
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 1;
        Ok(config)
    }
}

impl Vouched {
    /// Take a renewed authority, once its files are whole; until then the former one serves.
    fn look(&mut self, files: &TlsAuthority) {
        if self.looked.elapsed() < LOOK_EVERY {
            return;
        }
        self.looked = Instant::now();
        let written = Written::of(files);
        if written == self.written {
            return;
        }
        match Authority::load(files) {
            Ok(authority) => {
                self.authority = authority;
                self.made.clear();
                log::info!("the authority for certificates is a renewed one");
            }
            Err(error) => log::warn!("the renewed authority is not used: {error}"),
        }
        self.written = written;
    }
}

/// The certificate for a host name: one for all apps' own names below the domain.
pub(crate) fn shown(name: &str, domain: &str) -> Shown {
    let label = name
        .strip_suffix(domain)
        .and_then(|label| label.strip_suffix('.'));
    match label {
        Some(label) if !label.contains('.') => Shown::Name(format!("*.{domain}")),
        _ => Shown::Name(name.to_owned()),
    }
}

/// No certificate for anybody.
#[derive(Debug)]
struct Nothing;

impl ResolvesServerCert for Nothing {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        None
    }
}
