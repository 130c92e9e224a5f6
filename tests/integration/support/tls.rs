//! TLS as a client speaks it that knows one certificate.

use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use super::http;

/// A client that trusts this certificate alone.
pub fn trusting(cert: &Path) -> Arc<ClientConfig> {
    let cert = CertificateDer::from_pem_file(cert).expect("a certificate");
    let mut roots = RootCertStore::empty();
    roots.add(cert).expect("a certificate to trust");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    Arc::new(config)
}

/// A connection to `localhost` at this address.
pub fn connect(
    address: SocketAddr,
    config: &Arc<ClientConfig>,
) -> StreamOwned<ClientConnection, TcpStream> {
    let stream = http::connect(address).expect("a connection");
    let name = "localhost".try_into().expect("a name");
    let session = ClientConnection::new(Arc::clone(config), name);
    StreamOwned::new(session.expect("a session"), stream)
}
