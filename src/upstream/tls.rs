//! Whom to trust over TLS: one pinned certificate, or what a certificate authority vouches for.
//!
//! TLS 1.2 and 1.3, by ring alone. No protocol is offered beside HTTP/1.1.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{
    CryptoProvider, ring as provider, verify_tls12_signature, verify_tls13_signature,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
};

use super::settings::Thumbprint;

/// Why nobody can be trusted. All of them stop the start.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// `upstream.ca_file`.
    #[error("{} holds no certificates that can be trusted: {what}", .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// No certificate can be for it.
    #[error("{0:?} is not the name of a host")]
    Name(Box<str>),
}

/// Whether a certificate can be for this name.
#[must_use]
pub fn is_host(name: &str) -> bool {
    ServerName::try_from(name).is_ok()
}

/// Trusts the certificate with this thumbprint and no other, whatever name, end or issuer it has.
pub(super) fn pinned(thumbprint: Thumbprint) -> Arc<ClientConfig> {
    let crypto = Arc::new(provider::default_provider());
    let pin = Pin {
        thumbprint,
        crypto: Arc::clone(&crypto),
    };
    let config = ClientConfig::builder_with_provider(crypto)
        .with_safe_default_protocol_versions()
        .expect("ring has both versions")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(pin))
        .with_no_client_auth();
    without_resumption(config)
}

/// Trusts what the certificates of the file vouch for; without a file,
/// those that browsers trust.
///
/// # Errors
/// The file holds none.
pub(super) fn vouched(ca_file: Option<&Path>) -> Result<Arc<ClientConfig>, TrustError> {
    let roots = match ca_file {
        Some(path) => roots_of(path)?,
        // Mozilla's list, built in: the same on every machine, and in a container without any.
        None => webpki_roots::TLS_SERVER_ROOTS.iter().cloned().collect(),
    };
    let config = ClientConfig::builder_with_provider(Arc::new(provider::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("ring has both versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(without_resumption(config))
}

/// A call an hour gains nothing from tickets, and each handshake looks at the certificate.
fn without_resumption(mut config: ClientConfig) -> Arc<ClientConfig> {
    config.resumption = rustls::client::Resumption::disabled();
    Arc::new(config)
}

fn roots_of(path: &Path) -> Result<RootCertStore, TrustError> {
    let wrong = |what: String| TrustError::File {
        path: path.to_owned(),
        what,
    };
    let mut roots = RootCertStore::empty();
    let found = CertificateDer::pem_file_iter(path).map_err(|error| wrong(error.to_string()))?;
    for certificate in found {
        let certificate = certificate.map_err(|error| wrong(error.to_string()))?;
        let added = roots.add(certificate);
        added.map_err(|error| wrong(error.to_string()))?;
    }
    if roots.is_empty() {
        return Err(wrong("there is none in it".to_owned()));
    }
    Ok(roots)
}

/// Service Fabric's rule: the SHA-1 of the DER is what the environment says (`protocols.md` §3.5).
///
/// It picks out one certificate; that the other end holds its key is shown by the signature over
/// the handshake, which is verified as ever.
#[derive(Debug)]
struct Pin {
    thumbprint: Thumbprint,
    crypto: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Pin {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let hash = digest(&SHA1_FOR_LEGACY_USE_ONLY, end_entity);
        if hash.as_ref() == self.thumbprint.0 {
            Ok(ServerCertVerified::assertion())
        } else {
            let why = CertificateError::ApplicationVerificationFailure;
            Err(Error::InvalidCertificate(why))
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.crypto.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.crypto.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.crypto
            .signature_verification_algorithms
            .supported_schemes()
    }
}
