//! The certificates of the kinds that speak TLS, made anew at every start.

use std::io;
use std::sync::Arc;

use rcgen::{
    BasicConstraints, Certificate, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose,
};
use ring::digest;
use rustls::ServerConfig;
use rustls::crypto::ring::default_provider;
use tokio_rustls::TlsAcceptor;

/// The names the certificate is for. The last is for those who answer for it, as DNS does for Entra's.
const NAMES: [&str; 3] = ["localhost", "127.0.0.1", "login.emulator.test"];

/// What a TLS listener presents, and what a caller may be told to trust.
pub(crate) struct Tls {
    pub acceptor: TlsAcceptor,
    /// The SHA-1 of the certificate in upper-case hex.
    pub thumbprint: String,
    pub certificate_pem: String,
    /// The authority that issued it, unless it is self-signed.
    pub ca_pem: Option<String>,
}

impl Tls {
    /// With a certificate that has signed itself.
    pub(crate) fn self_signed() -> io::Result<Self> {
        let key = KeyPair::generate().map_err(io::Error::other)?;
        let certificate = leaf()?.self_signed(&key).map_err(io::Error::other)?;
        Self::new(&certificate, &key, None)
    }

    /// With a certificate issued by an authority of its own.
    pub(crate) fn issued() -> io::Result<Self> {
        let mut authority = params("foretoken-emulator test authority", &[])?;
        authority.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        authority.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let ca_key = KeyPair::generate().map_err(io::Error::other)?;
        let ca = authority.self_signed(&ca_key).map_err(io::Error::other)?;
        let issuer = Issuer::new(authority, ca_key);

        let key = KeyPair::generate().map_err(io::Error::other)?;
        let certificate = leaf()?.signed_by(&key, &issuer).map_err(io::Error::other)?;
        Self::new(&certificate, &key, Some(ca.pem()))
    }

    fn new(certificate: &Certificate, key: &KeyPair, ca_pem: Option<String>) -> io::Result<Self> {
        let key_der = key
            .serialize_der()
            .try_into()
            .map_err(|error: &str| io::Error::other(error))?;
        let config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(io::Error::other)?
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key_der)
            .map_err(io::Error::other)?;
        let hash = digest::digest(
            &digest::SHA1_FOR_LEGACY_USE_ONLY,
            certificate.der().as_ref(),
        );
        Ok(Self {
            acceptor: TlsAcceptor::from(Arc::new(config)),
            thumbprint: hash
                .as_ref()
                .iter()
                .map(|byte| format!("{byte:02X}"))
                .collect(),
            certificate_pem: certificate.pem(),
            ca_pem,
        })
    }
}

fn leaf() -> io::Result<CertificateParams> {
    let mut leaf = params("localhost", &NAMES)?;
    leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    Ok(leaf)
}

fn params(common_name: &str, names: &[&str]) -> io::Result<CertificateParams> {
    let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
    let mut params = CertificateParams::new(names).map_err(io::Error::other)?;
    params
        .distinguished_name
        .push(DnType::CommonName, common_name);
    Ok(params)
}
