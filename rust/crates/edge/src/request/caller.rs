//! `Fly-Src`: which machine asks, where the edge knows that of its own accord, signed with the
//! cluster's key (spec/network.md §1.8).
//!
//! It knows it of what comes by private addresses alone: the host's packet policy holds a machine
//! to its own address, and its agent says whose that is. Public addresses are reached from behind
//! the host's own address, or not at all, so nobody is named there.

use std::collections::HashMap;
use std::fs;
use std::net::Ipv6Addr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use godwit_catalog::View;
use hyper::HeaderMap;
use hyper::header::{HeaderName, HeaderValue};
use ring::signature::Ed25519KeyPair;
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::pki_types::pem::PemObject;

pub(crate) const SOURCE: HeaderName = HeaderName::from_static("fly-src");
pub(crate) const SIGNATURE: HeaderName = HeaderName::from_static("fly-src-signature");
/// By which a machine asks to be named at public addresses.
pub(crate) const OPT_IN: HeaderName = HeaderName::from_static("fly-src-optin");

/// A key that is not there is looked for again after this.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// Callers that are remembered; no more ask within a second.
const MOST_KEPT: usize = 4096;

/// The machines that ask, and the key by which apps are told of them.
#[derive(Debug)]
pub(crate) struct Callers {
    key_file: Option<PathBuf>,
    key: Mutex<Key>,
    /// What was said of whom last, as it may be said again within that second.
    said: Mutex<HashMap<Ipv6Addr, Said>>,
}

#[derive(Debug)]
enum Key {
    There(Arc<Ed25519KeyPair>),
    /// Since when, if it was looked for.
    Missing(Option<Instant>),
}

#[derive(Clone, Debug)]
struct Said {
    source: HeaderValue,
    signature: HeaderValue,
}

impl Callers {
    pub(crate) fn new(key_file: Option<PathBuf>) -> Self {
        Callers {
            key_file,
            key: Mutex::new(Key::Missing(None)),
            said: Mutex::default(),
        }
    }

    /// Say among a request's headers which machine asks from this private address, if that and
    /// whose it is are known.
    pub(crate) fn introduce(&self, view: &View, address: Ipv6Addr, headers: &mut HeaderMap) {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = since.unwrap_or_default().as_secs();
        if let Some(said) = self.said(view, address, now) {
            headers.insert(SOURCE, said.source);
            headers.insert(SIGNATURE, said.signature);
        }
    }

    fn said(&self, view: &View, address: Ipv6Addr, now: u64) -> Option<Said> {
        let source = source(view, address, now)?;
        let held = locked(&self.said).get(&address).cloned();
        if let Some(held) = held.filter(|held| held.source == source) {
            return Some(held);
        }
        let key = self.key()?;
        let signature = STANDARD.encode(key.sign(source.as_bytes()));
        let said = Said {
            source,
            signature: HeaderValue::try_from(signature).ok()?,
        };
        let mut all = locked(&self.said);
        if all.len() >= MOST_KEPT {
            all.clear();
        }
        all.insert(address, said.clone());
        Some(said)
    }

    fn key(&self) -> Option<Arc<Ed25519KeyPair>> {
        let file = self.key_file.as_ref()?;
        let mut key = locked(&self.key);
        match &*key {
            Key::There(key) => return Some(key.clone()),
            Key::Missing(Some(since)) if since.elapsed() < LOOK_EVERY => return None,
            Key::Missing(_) => {}
        }
        let loaded = fs::read(file)
            .map_err(|error| error.to_string())
            .and_then(|pem| read(&pem));
        match loaded {
            Ok(loaded) => {
                let loaded = Arc::new(loaded);
                *key = Key::There(loaded.clone());
                Some(loaded)
            }
            Err(error) => {
                if matches!(*key, Key::Missing(None)) {
                    let file = file.display();
                    log::warn!("apps are not told which machine asks them: {file}: {error}");
                }
                *key = Key::Missing(Some(Instant::now()));
                None
            }
        }
    }
}

/// `instance=…;app=…;org=…;ts=…` of the machine that has this address.
fn source(view: &View, address: Ipv6Addr, now: u64) -> Option<HeaderValue> {
    let machine = view.own_machine(address)?;
    let app = view.app(&machine.app).filter(|app| app.is_own(machine))?;
    let record = app.record.as_ref()?;
    let words = [&*machine.key.id, &*record.name, &*record.org_slug];
    // What could pass for more than one word, or for none, is not said.
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if words
        .iter()
        .any(|word| word.is_empty() || !word.bytes().all(plain))
    {
        return None;
    }
    let [instance, app, org] = words;
    HeaderValue::try_from(format!("instance={instance};app={app};org={org};ts={now}")).ok()
}

fn read(pem: &[u8]) -> Result<Ed25519KeyPair, String> {
    let der = PrivatePkcs8KeyDer::from_pem_slice(pem).map_err(|error| error.to_string())?;
    let key = Ed25519KeyPair::from_pkcs8_maybe_unchecked(der.secret_pkcs8_der());
    key.map_err(|error| error.to_string())
}

fn locked<T>(held: &Mutex<T>) -> MutexGuard<'_, T> {
    held.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use godwit_catalog::Catalog;
    use godwit_wire::facts::Fact;
    use ring::signature::{ED25519, KeyPair, UnparsedPublicKey};
    use serde_json::{Value, json};

    use super::*;

    const ADDRESS: &str = "fdaa:0:1:a7b:1:0:5:2";
    /// As RFC 8410 §10.3 has it.
    const PEM: &str = "-----BEGIN PRIVATE KEY-----
MC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC
-----END PRIVATE KEY-----
";

    fn machine(changes: &Value) -> Value {
        let mut fact = json!({
            "kind": "machine", "owner": "own", "epoch": 1, "revision": 1, "org_id": "org_1",
            "network_id": "net_1", "network_number": 1, "app_id": "app_1", "app": "hello",
            "machine_id": "m1", "instance_id": "a", "name": "n", "host_id": "own",
            "region": "lcl", "state": "started", "private_ip": ADDRESS,
            "local_ipv4": "172.16.0.5",
        });
        let fields = fact.as_object_mut().unwrap();
        fields.extend(changes.as_object().unwrap().clone());
        fact
    }

    fn app(org_slug: &str, app_id: &str) -> Value {
        json!({
            "kind": "app", "epoch": 1, "revision": 1, "org_id": "org_1", "org_slug": org_slug,
            "network_id": "net_1", "network_number": 1, "app_id": app_id, "app": "hello",
        })
    }

    fn view(facts: &[Value]) -> View {
        let mut catalog = Catalog::new("own", "lcl");
        for fact in facts {
            let fact: Fact = serde_json::from_value(fact.clone()).unwrap();
            catalog.apply_kept(&fact);
        }
        catalog.view().clone()
    }

    fn callers() -> Callers {
        let callers = Callers::new(Some("/nowhere".into()));
        *locked(&callers.key) = Key::There(Arc::new(read(PEM.as_bytes()).unwrap()));
        callers
    }

    fn address() -> Ipv6Addr {
        ADDRESS.parse().unwrap()
    }

    #[test]
    fn a_machine_is_named_and_that_is_signed() {
        let view = view(&[machine(&json!({})), app("acme", "app_1")]);
        let (callers, mut headers) = (callers(), HeaderMap::new());
        headers.insert(SOURCE, HeaderValue::from_static("instance=other"));
        callers.introduce(&view, address(), &mut headers);
        let source = headers[SOURCE].to_str().unwrap();
        let (said, at) = source.rsplit_once(";ts=").unwrap();
        assert_eq!(said, "instance=m1;app=hello;org=acme");
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        assert!(now.as_secs() - at.parse::<u64>().unwrap() < 60);
        let key = read(PEM.as_bytes()).unwrap();
        let public = UnparsedPublicKey::new(&ED25519, key.public_key().as_ref());
        let signature = STANDARD.decode(&headers[SIGNATURE]).unwrap();
        public.verify(source.as_bytes(), &signature).unwrap();
    }

    #[test]
    fn within_a_second_it_is_signed_once() {
        let view = view(&[machine(&json!({})), app("acme", "app_1")]);
        let callers = callers();
        let first = callers.said(&view, address(), 7).unwrap();
        // Without the key only what was said before can be said again.
        *locked(&callers.key) = Key::Missing(Some(Instant::now()));
        let again = callers.said(&view, address(), 7).unwrap();
        assert_eq!(again.signature, first.signature);
        assert!(callers.said(&view, address(), 8).is_none());
    }

    #[test]
    fn whoever_is_not_known_is_not_named() {
        let known = [machine(&json!({})), app("acme", "app_1")];
        let named = |facts: &[Value], at: &str| {
            let said = callers().said(&view(facts), at.parse().unwrap(), 7);
            said.is_some()
        };
        assert!(named(&known, ADDRESS));
        assert!(!named(&known, "fdaa:0:1:a7b:1:0:6:2"));
        let other_host = machine(&json!({"host_id": "other", "owner": "other"}));
        assert!(!named(&[other_host, app("acme", "app_1")], ADDRESS));
        // Nobody says whose app it is, or it is a deleted namesake's machine.
        assert!(!named(&known[..1], ADDRESS));
        assert!(!named(&[machine(&json!({})), app("", "app_1")], ADDRESS));
        assert!(!named(
            &[machine(&json!({})), app("acme", "app_2")],
            ADDRESS
        ));
        let forged = machine(&json!({"machine_id": "m1;app=other"}));
        assert!(!named(&[forged, app("acme", "app_1")], ADDRESS));
    }

    #[test]
    fn nothing_is_said_without_a_key_and_it_may_come_later() {
        let view = view(&[machine(&json!({})), app("acme", "app_1")]);
        assert!(Callers::new(None).said(&view, address(), 7).is_none());
        let file = std::env::temp_dir().join(format!("fly-src-{}", std::process::id()));
        let callers = Callers::new(Some(file.clone()));
        assert!(callers.said(&view, address(), 7).is_none());
        fs::write(&file, PEM).unwrap();
        *locked(&callers.key) = Key::Missing(Instant::now().checked_sub(LOOK_EVERY));
        assert!(callers.said(&view, address(), 7).is_some());
        fs::remove_file(&file).unwrap();
    }
}
