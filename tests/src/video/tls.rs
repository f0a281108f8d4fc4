//! The certificates of the lab's servers, and clients that trust nothing else.

use std::sync::Arc;

use anyhow::{Context, Result};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, KeyUsagePurpose};
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

/// A certificate for some names, by an authority made for this run only.
#[derive(Debug)]
pub struct Certificates {
    authority: CertificateDer<'static>,
    /// The server's certificate and the authority's, PEM.
    pub chain_pem: String,
    /// The server's private key, PEM.
    pub key_pem: String,
}

impl Certificates {
    /// Makes an authority and has it sign one certificate for all `names`.
    ///
    /// # Errors
    /// If there is no randomness, or a name is none.
    pub fn make(names: &[&str]) -> Result<Self> {
        let mut root = CertificateParams::new(Vec::new())?;
        root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        root.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = KeyPair::generate().context("cannot make the authority's key")?;
        let authority = CertifiedIssuer::self_signed(root, key)?;
        let key = KeyPair::generate().context("cannot make the server's key")?;
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let certificate = CertificateParams::new(names)?.signed_by(&key, &authority)?;
        Ok(Self {
            authority: authority.der().clone(),
            chain_pem: certificate.pem() + &authority.pem(),
            key_pem: key.serialize_pem(),
        })
    }

    /// A client that trusts the authority and offers one application protocol (ALPN).
    ///
    /// # Errors
    /// If the authority's certificate is none.
    pub fn client(&self, protocol: &str) -> Result<Arc<ClientConfig>> {
        let mut roots = RootCertStore::empty();
        roots.add(self.authority.clone())?;
        let mut config = ClientConfig::builder()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![protocol.as_bytes().to_vec()];
        Ok(Arc::new(config))
    }
}
