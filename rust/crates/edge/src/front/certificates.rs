//! Certificates for apps' names, made here by the authority that this edge was given.
//!
//! The key of what is made lives in this process alone and is made anew with each start.

use std::fmt;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use godwit_wire::components::TlsAuthority;
use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, Issuer, KeyPair,
    KeyUsagePurpose,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::sign::{CertifiedKey, SigningKey};

const LASTS: Duration = Duration::from_hours(90 * 24);
/// Clients' clocks are late by less.
const BACKDATED: Duration = Duration::from_hours(24);
/// The files are looked at again after this.
pub(crate) const LOOK_EVERY: Duration = Duration::from_secs(2);
/// Made anew after this.
pub(crate) const USED: Duration = Duration::from_hours(24);

/// An authority of this host's own, and the chain that vouches for it.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    chain: Vec<CertificateDer<'static>>,
    leaf_key: KeyPair,
    signing: Arc<dyn SigningKey>,
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority").finish_non_exhaustive()
    }
}

/// When an authority's files were written last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Written([Option<SystemTime>; 2]);

impl Written {
    pub(crate) fn of(files: &TlsAuthority) -> Self {
        let at = |path: &Path| fs::metadata(path).and_then(|of| of.modified()).ok();
        Written([at(&files.certificate_file), at(&files.key_file)])
    }
}

impl Authority {
    /// # Errors
    /// A sentence with the file that cannot be used.
    pub(crate) fn load(files: &TlsAuthority) -> Result<Self, String> {
        let certificate = &files.certificate_file;
        let chain = CertificateDer::pem_file_iter(certificate)
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .map_err(|error| said(certificate, &error))?;
        let own = chain.first();
        let own = own.ok_or_else(|| said(certificate, &"it holds no certificate"))?;
        let key = fs::read_to_string(&files.key_file).map_err(|e| said(&files.key_file, &e))?;
        let key = KeyPair::from_pem(&key).map_err(|error| said(&files.key_file, &error))?;
        CertifiedKey::new(chain.clone(), signing(&key)?)
            .keys_match()
            .map_err(|error| said(certificate, &error))?;
        let issuer = Issuer::from_ca_cert_der(own, key).map_err(|e| said(certificate, &e))?;
        let leaf_key = KeyPair::generate().map_err(|error| format!("no key: {error}"))?;
        let signing = signing(&leaf_key)?;
        Ok(Authority {
            issuer,
            chain,
            leaf_key,
            signing,
        })
    }

    /// Make a certificate for host names or addresses.
    ///
    /// # Errors
    /// One of the names can be in no certificate.
    pub(crate) fn make(&self, names: &[String]) -> Result<CertifiedKey, String> {
        let params = params(names)?;
        let made = params.signed_by(&self.leaf_key, &self.issuer);
        let made = made.map_err(|error| format!("{names:?}: {error}"))?;
        let mut chain = vec![made.der().clone()];
        chain.extend(self.chain.iter().cloned());
        Ok(CertifiedKey::new(chain, self.signing.clone()))
    }

    /// Make one that nobody vouches for.
    ///
    /// # Errors
    /// One of the names can be in no certificate.
    pub(crate) fn make_self_signed(&self, names: &[String]) -> Result<CertifiedKey, String> {
        let made = params(names)?.self_signed(&self.leaf_key);
        let made = made.map_err(|error| format!("{names:?}: {error}"))?;
        Ok(CertifiedKey::new(
            vec![made.der().clone()],
            self.signing.clone(),
        ))
    }
}

fn params(names: &[String]) -> Result<CertificateParams, String> {
    let mut params =
        CertificateParams::new(names).map_err(|error| format!("{names:?}: {error}"))?;
    let now = SystemTime::now();
    params.not_before = (now - BACKDATED).into();
    params.not_after = (now + LASTS).into();
    params.use_authority_key_identifier_extension = true;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.distinguished_name = DistinguishedName::new();
    // Bounded by X.520; what counts is among the alternative names.
    if let Some(name) = names.first().filter(|name| name.len() <= 64) {
        params.distinguished_name.push(DnType::CommonName, name);
    }
    Ok(params)
}

fn signing(key: &KeyPair) -> Result<Arc<dyn SigningKey>, String> {
    let der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    rustls::crypto::ring::sign::any_supported_type(&der).map_err(|error| error.to_string())
}

fn said(path: &Path, error: &dyn fmt::Display) -> String {
    format!("{}: {error}", path.display())
}
