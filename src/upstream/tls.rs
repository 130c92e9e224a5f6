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
    let found: Result<Vec<_>, _> = found.collect();
    // Of a system's many, some may be beyond this library; the others do.
    roots.add_parsable_certificates(found.map_err(|error| wrong(error.to_string()))?);
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

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, CertifiedIssuer, KeyPair};
    use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
    use rustls::server::{ClientHello, ResolvesServerCert};
    use rustls::sign::CertifiedKey;
    use rustls::{ClientConnection, ServerConfig, ServerConnection, SupportedProtocolVersion};

    use super::*;

    #[derive(Debug)]
    struct Shows(Arc<CertifiedKey>);

    impl ResolvesServerCert for Shows {
        fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
            Some(Arc::clone(&self.0))
        }
    }

    /// A server that shows this certificate and signs with this key, whether they belong together
    /// or not.
    fn server(
        certificate: &CertificateDer<'static>,
        key: &KeyPair,
        version: &'static SupportedProtocolVersion,
    ) -> ServerConnection {
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let key = provider::sign::any_supported_type(&key).unwrap();
        let shown = CertifiedKey::new(vec![certificate.clone()], key);
        let config = ServerConfig::builder_with_provider(Arc::new(provider::default_provider()))
            .with_protocol_versions(&[version])
            .unwrap()
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(Shows(Arc::new(shown))));
        ServerConnection::new(Arc::new(config)).unwrap()
    }

    /// What the client makes of the server.
    fn handshake(
        config: &Arc<ClientConfig>,
        name: &'static str,
        mut server: ServerConnection,
    ) -> Result<(), Error> {
        let name = ServerName::try_from(name).unwrap();
        let mut client = ClientConnection::new(Arc::clone(config), name).unwrap();
        for _ in 0..10 {
            let mut sent = Vec::new();
            client.write_tls(&mut sent).unwrap();
            server.read_tls(&mut sent.as_slice()).unwrap();
            let _ = server.process_new_packets();
            let mut answered = Vec::new();
            server.write_tls(&mut answered).unwrap();
            client.read_tls(&mut answered.as_slice()).unwrap();
            client.process_new_packets()?;
        }
        assert!(!client.is_handshaking(), "it ends one way or the other");
        Ok(())
    }

    fn pin(certificate: &CertificateDer<'_>) -> Arc<ClientConfig> {
        let hash = digest(&SHA1_FOR_LEGACY_USE_ONLY, certificate);
        pinned(Thumbprint(hash.as_ref().try_into().unwrap()))
    }

    #[test]
    fn the_pinned_certificate_is_trusted_only_with_its_own_key() {
        let (own, foreign) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
        let params = CertificateParams::new(["elsewhere".to_owned()]).unwrap();
        let certificate = params.self_signed(&own).unwrap().der().clone();
        let other = params.self_signed(&foreign).unwrap().der().clone();
        for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
            let try_at = |shown, key, pinned| {
                handshake(&pin(pinned), "localhost", server(shown, key, version))
            };
            assert_eq!(try_at(&certificate, &own, &certificate), Ok(()));
            for refused in [
                try_at(&certificate, &foreign, &certificate),
                try_at(&other, &foreign, &certificate),
            ] {
                assert!(
                    matches!(refused, Err(Error::InvalidCertificate(_))),
                    "{refused:?}"
                );
            }
        }
    }

    #[test]
    fn entra_is_whoever_its_name_is_vouched_for() {
        let ca_params = {
            let mut params = CertificateParams::new([]).unwrap();
            params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
            params
        };
        let ca = CertifiedIssuer::self_signed(ca_params, KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(["login.example".to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &ca).unwrap().der().clone();
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("ca.pem");
        std::fs::write(&file, ca.pem()).unwrap();
        let config = vouched(Some(&file)).unwrap();
        let try_as = |config: &_, name| {
            handshake(
                config,
                name,
                server(&certificate, &key, &rustls::version::TLS13),
            )
        };
        assert_eq!(try_as(&config, "login.example"), Ok(()));
        assert!(try_as(&config, "login.other").is_err());
        assert!(try_as(&vouched(None).unwrap(), "login.example").is_err());
        std::fs::write(&file, "nothing").unwrap();
        assert!(matches!(vouched(Some(&file)), Err(TrustError::File { .. })));
    }
}
