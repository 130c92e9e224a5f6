//! One certificate of our own, for listeners that speak TLS.
//!
//! Service Fabric's clients trust a certificate by the SHA-1 of its DER, which stands in their
//! environment: a new certificate breaks every client until each is told. So a pair is made once,
//! and the promises follow from that: two loads give the same certificate, and a file that cannot be
//! used is an error that says so, never a reason to make another.
//!
//! On disk, in the folder given: `cert.pem` (0644) and `key.pem` (0600, ours alone, judged on the
//! descriptor that is then read). Each is written whole or not at all, the certificate last: a
//! crash between the two leaves a key alone, which is said at the next start.
//!
//! SHA-1 is what those clients compare. It picks out one certificate here and signs nothing.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use rustix::fs::OFlags;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use zeroize::Zeroizing;

const CERT: &str = "cert.pem";
const KEY: &str = "key.pem";
/// Far more than a certificate with one key takes.
const MAX_FILE_BYTES: u16 = u16::MAX;
/// Node checks the name that it called; the others compare the thumbprint.
const NAMES: [&str; 3] = ["localhost", "127.0.0.1", "::1"];
/// Whoever pins a certificate gains nothing from its end. No clock is asked, either: a machine
/// whose clock is wrong at its first start would have a certificate that is wrong for ever.
const VALID_YEARS: (i32, i32) = (2020, 2099);

/// Why there is no certificate. All of them stop the start.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A crash while the pair was made, or somebody removed one of them.
    #[error("{} is missing beside {}; remove both to have a new pair made", .missing.display(), .there.display())]
    Half {
        /// The one that is gone.
        missing: PathBuf,
        /// The one that is left.
        there: PathBuf,
    },
    /// A link, folder, device, pipe or socket.
    #[error("{} is not a regular file", .0.display())]
    NotRegular(PathBuf),
    /// Somebody else could replace it.
    #[error("{} belongs to user {owner}, not to the user that runs this process", .path.display())]
    Owner {
        /// The file.
        path: PathBuf,
        /// Whose it is.
        owner: u32,
    },
    /// Others may read the key, or write either file.
    #[error("the mode {mode:04o} of {} lets others in", .path.display())]
    Mode {
        /// The file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// Not what its name says.
    #[error("{} is damaged: {what}", .path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What the reader says.
        what: String,
    },
    /// Read, but not a pair.
    #[error("the certificate and its key cannot be used: {0}")]
    Unusable(#[from] rustls::Error),
    /// No pair could be made.
    #[error("no certificate could be made: {0}")]
    NotMade(#[from] rcgen::Error),
    /// A file or the folder could not be read or made.
    #[error("{} cannot be used: {error}", .path.display())]
    Io {
        /// What was being used.
        path: PathBuf,
        /// Why it cannot be.
        error: io::Error,
    },
}

/// Reads the pair in `folder`, or makes it (and the folder, 0700) at first start: TLS 1.2 and 1.3,
/// no ALPN, so that nobody agrees on HTTP/2.
///
/// # Errors
/// A file fails a check, is damaged or missing beside the other, or cannot be read or made.
pub fn load_or_create(folder: &Path) -> Result<Arc<ServerConfig>, TlsError> {
    let (cert_path, key_path) = (folder.join(CERT), folder.join(KEY));
    match (is_there(&cert_path)?, is_there(&key_path)?) {
        (true, true) => {}
        (false, false) => create(folder)?,
        (cert, _) => {
            let (there, missing) = if cert {
                (cert_path, key_path)
            } else {
                (key_path, cert_path)
            };
            return Err(TlsError::Half { missing, there });
        }
    }
    let cert = read_cert(&cert_path)?;
    let text = read(&key_path, 0o077)?;
    let key = PrivateKeyDer::from_pem_slice(&text).map_err(|error| damaged(&key_path, &error))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![cert], key)?;
    // A resumed session would spare a local handshake of a millisecond, at the price of state that
    // outlives the connection. Clients that pin look at the certificate each time.
    config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

/// What goes into `IDENTITY_SERVER_THUMBPRINT`: SHA-1 of the certificate's DER, 40 hexadecimal
/// digits in upper case, as Service Fabric writes it. Makes nothing.
///
/// # Errors
/// There is no certificate yet, or it fails a check.
pub fn thumbprint(folder: &Path) -> Result<String, TlsError> {
    let cert = read_cert(&folder.join(CERT))?;
    let hash = digest(&SHA1_FOR_LEGACY_USE_ONLY, &cert);
    Ok(hash.as_ref().iter().map(|b| format!("{b:02X}")).collect())
}

fn create(folder: &Path) -> Result<(), TlsError> {
    let key = rcgen::KeyPair::generate()?;
    let mut params = rcgen::CertificateParams::new(NAMES.map(str::to_owned))?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    let name = rcgen::DnType::CommonName;
    params.distinguished_name.push(name, "Foretoken");
    let (first, last) = VALID_YEARS;
    params.not_before = rcgen::date_time_ymd(first, 1, 1);
    params.not_after = rcgen::date_time_ymd(last, 12, 31);
    params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
    let cert = params.self_signed(&key)?;

    let mut builder = DirBuilder::new();
    let made = builder.recursive(true).mode(0o700).create(folder);
    made.map_err(|error| failed(folder, error))?;
    let text = Zeroizing::new(key.serialize_pem());
    write(folder, KEY, 0o600, text.as_bytes())?;
    write(folder, CERT, 0o644, cert.pem().as_bytes())
}

/// The file is there whole after a crash, or not at all.
fn write(folder: &Path, name: &str, mode: u32, bytes: &[u8]) -> Result<(), TlsError> {
    let path = folder.join(name);
    let unfinished = path.with_added_extension("new");
    let fill = |mut file: File| {
        // The mode at opening is less the process's mask.
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    // One that a crash left: nobody has ever read it.
    let _ = fs::remove_file(&unfinished);
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&unfinished)
        .and_then(fill)
        .and_then(|()| fs::rename(&unfinished, &path))
        .and_then(|()| File::open(folder)?.sync_all())
        .map_err(|error| {
            let _ = fs::remove_file(&unfinished);
            failed(&path, error)
        })
}

fn is_there(path: &Path) -> Result<bool, TlsError> {
    match fs::symlink_metadata(path) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(failed(path, error)),
    }
}

fn read_cert(path: &Path) -> Result<CertificateDer<'static>, TlsError> {
    let text = read(path, 0o022)?;
    CertificateDer::from_pem_slice(&text).map_err(|error| damaged(path, &error))
}

/// Reads a regular file of ours whose mode has none of the bits `refused`.
fn read(path: &Path, refused: u32) -> Result<Zeroizing<Vec<u8>>, TlsError> {
    // Without NONBLOCK, opening a pipe would wait for a writer.
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(flags.bits().cast_signed())
        .open(path)
        .map_err(|error| match error.raw_os_error() {
            Some(code) if code == rustix::io::Errno::LOOP.raw_os_error() => {
                TlsError::NotRegular(path.to_owned())
            }
            _ => failed(path, error),
        })?;
    let facts = file.metadata().map_err(|error| failed(path, error))?;
    let (path_of, mode) = (|| path.to_owned(), facts.mode() & 0o7777);
    if !facts.is_file() {
        return Err(TlsError::NotRegular(path_of()));
    }
    if facts.uid() != rustix::process::geteuid().as_raw() {
        let owner = facts.uid();
        return Err(TlsError::Owner {
            path: path_of(),
            owner,
        });
    }
    if mode & refused != 0 {
        return Err(TlsError::Mode {
            path: path_of(),
            mode,
        });
    }
    if facts.len() > MAX_FILE_BYTES.into() {
        return Err(damaged(path, &"it is too long"));
    }
    // Room for all of it at once: growing would leave copies of the key behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(MAX_FILE_BYTES.into()));
    let read = file.take(MAX_FILE_BYTES.into()).read_to_end(&mut bytes);
    read.map_err(|error| failed(path, error))?;
    Ok(bytes)
}

fn failed(path: &Path, error: io::Error) -> TlsError {
    let path = path.to_owned();
    TlsError::Io { path, error }
}

fn damaged(path: &Path, what: &dyn std::fmt::Display) -> TlsError {
    TlsError::Damaged {
        path: path.to_owned(),
        what: what.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
    use rustls::crypto::{
        WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature,
    };
    use rustls::pki_types::{ServerName, UnixTime};
    use rustls::{
        ClientConfig, ClientConnection, DigitallySignedStruct, ProtocolVersion, ServerConnection,
        SignatureScheme, Stream, SupportedProtocolVersion,
    };

    use super::*;

    /// Trusts one certificate, as Service Fabric's clients do.
    #[derive(Debug)]
    struct Pinned(String, WebPkiSupportedAlgorithms);

    impl ServerCertVerifier for Pinned {
        fn verify_server_cert(
            &self,
            end_entity: &CertificateDer<'_>,
            _: &[CertificateDer<'_>],
            _: &ServerName<'_>,
            _: &[u8],
            _: UnixTime,
        ) -> Result<ServerCertVerified, rustls::Error> {
            let hash = digest(&SHA1_FOR_LEGACY_USE_ONLY, end_entity);
            let hex: String = hash.as_ref().iter().map(|b| format!("{b:02X}")).collect();
            if hex == self.0 {
                Ok(ServerCertVerified::assertion())
            } else {
                Err(rustls::Error::General(hex))
            }
        }

        fn verify_tls12_signature(
            &self,
            message: &[u8],
            cert: &CertificateDer<'_>,
            signed: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            verify_tls12_signature(message, cert, signed, &self.1)
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            cert: &CertificateDer<'_>,
            signed: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            verify_tls13_signature(message, cert, signed, &self.1)
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            self.1.supported_schemes()
        }
    }

    fn provider() -> Arc<rustls::crypto::CryptoProvider> {
        Arc::new(rustls::crypto::ring::default_provider())
    }

    fn pinned(thumbprint: &str, version: &'static SupportedProtocolVersion) -> ClientConfig {
        let algorithms = provider().signature_verification_algorithms;
        let mut config = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[version])
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Pinned(thumbprint.to_owned(), algorithms)))
            .with_no_client_auth();
        config.alpn_protocols = vec![b"h2".into(), b"http/1.1".into()];
        config
    }

    /// Says one word over TLS; what was agreed on, or why nothing was.
    fn talk(
        server: Arc<ServerConfig>,
        client: ClientConfig,
    ) -> io::Result<(Option<ProtocolVersion>, Option<Vec<u8>>)> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let thread = std::thread::spawn(move || -> io::Result<()> {
            let (mut socket, _) = listener.accept()?;
            let mut tls = ServerConnection::new(server).map_err(io::Error::other)?;
            let mut word = [0; 4];
            Stream::new(&mut tls, &mut socket).read_exact(&mut word)?;
            assert_eq!(&word, b"word");
            Ok(())
        });
        let name = ServerName::try_from("localhost").map_err(io::Error::other)?;
        let mut tls = ClientConnection::new(Arc::new(client), name).map_err(io::Error::other)?;
        let mut socket = TcpStream::connect(address)?;
        let said = Stream::new(&mut tls, &mut socket).write_all(b"word");
        drop(socket);
        let heard = thread.join().expect("no panic");
        said.and(heard)?;
        Ok((
            tls.protocol_version(),
            tls.alpn_protocol().map(<[u8]>::to_vec),
        ))
    }

    #[test]
    fn a_client_that_pins_the_thumbprint_completes_a_handshake_in_both_versions() {
        let folder = tempfile::tempdir().unwrap();
        let server = load_or_create(folder.path()).unwrap();
        let thumbprint = thumbprint(folder.path()).unwrap();
        for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
            let agreed = talk(Arc::clone(&server), pinned(&thumbprint, version)).unwrap();
            assert_eq!(
                agreed,
                (Some(version.version), None),
                "and on no other protocol"
            );
        }
        let other = "0".repeat(40);
        assert!(talk(server, pinned(&other, &rustls::version::TLS13)).is_err());
    }

    #[test]
    fn a_client_that_checks_names_finds_all_of_ours() {
        let folder = tempfile::tempdir().unwrap();
        let server = load_or_create(folder.path()).unwrap();
        let cert = read_cert(&folder.path().join(CERT)).unwrap();
        let cert = rustls::server::ParsedCertificate::try_from(&cert).unwrap();
        for name in NAMES {
            let name = ServerName::try_from(name).unwrap();
            rustls::client::verify_server_name(&cert, &name).unwrap();
        }
        let other = ServerName::try_from("other.example").unwrap();
        assert!(rustls::client::verify_server_name(&cert, &other).is_err());
        assert!(server.alpn_protocols.is_empty());
    }

    #[test]
    fn the_certificate_stays_the_same_over_loads() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("deep/tls");
        assert!(thumbprint(&place).is_err(), "asking makes nothing");
        assert!(!place.exists());
        load_or_create(&place).unwrap();
        let first = (
            thumbprint(&place).unwrap(),
            fs::read(place.join(KEY)).unwrap(),
        );
        load_or_create(&place).unwrap();
        let second = (
            thumbprint(&place).unwrap(),
            fs::read(place.join(KEY)).unwrap(),
        );
        assert_eq!(first, second);
        assert_eq!(first.0.len(), 40);
        let mode = |name| fs::metadata(place.join(name)).unwrap().mode() & 0o7777;
        assert_eq!((mode(CERT), mode(KEY)), (0o644, 0o600));
        assert_eq!(entries(&place), ["cert.pem", "key.pem"]);
    }

    #[test]
    fn the_thumbprint_is_the_sha1_of_the_der() {
        let folder = tempfile::tempdir().unwrap();
        load_or_create(folder.path()).unwrap();
        let text = fs::read_to_string(folder.path().join(CERT)).unwrap();
        let body: String = text
            .lines()
            .filter(|line| !line.starts_with("--"))
            .collect();
        let der = {
            use base64::Engine as _;
            base64::engine::general_purpose::STANDARD
                .decode(body)
                .unwrap()
        };
        let sha1 = digest(&SHA1_FOR_LEGACY_USE_ONLY, &der);
        let hex: String = sha1.as_ref().iter().map(|b| format!("{b:02X}")).collect();
        assert_eq!(thumbprint(folder.path()).unwrap(), hex);
    }

    #[test]
    fn a_key_that_others_can_read_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        load_or_create(folder.path()).unwrap();
        let set = |name, mode| {
            let path = folder.path().join(name);
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        };
        for (name, refused, right) in [
            (KEY, 0o640, 0o600),
            (KEY, 0o604, 0o400),
            (CERT, 0o664, 0o444),
        ] {
            set(name, refused);
            let loaded = load_or_create(folder.path());
            assert!(
                matches!(loaded, Err(TlsError::Mode { mode, .. }) if mode == refused),
                "{name}"
            );
            set(name, right);
            assert!(load_or_create(folder.path()).is_ok(), "{name}");
        }
    }

    #[test]
    fn broken_files_are_an_error_and_stay_as_they_are() {
        let folder = tempfile::tempdir().unwrap();
        load_or_create(folder.path()).unwrap();
        let other = tempfile::tempdir().unwrap();
        load_or_create(other.path()).unwrap();
        let pem = |folder: &tempfile::TempDir, name| fs::read(folder.path().join(name)).unwrap();
        let good = (pem(&folder, CERT), pem(&folder, KEY));
        for name in [CERT, KEY] {
            let path = folder.path().join(name);
            let whole = fs::read(&path).unwrap();
            let half = whole[..whole.len() / 2].to_vec();
            let foreign = pem(&other, name);
            for bad in [
                vec![],
                half,
                b"no PEM".to_vec(),
                foreign,
                vec![b'\n'; 70_000],
            ] {
                fs::write(&path, &bad).unwrap();
                assert!(load_or_create(folder.path()).is_err(), "{name}");
                assert_eq!(fs::read(&path).unwrap(), bad);
            }
            fs::remove_file(&path).unwrap();
            let loaded = load_or_create(folder.path());
            assert!(matches!(loaded, Err(TlsError::Half { .. })));
            assert!(!path.exists());
            std::os::unix::fs::symlink(other.path().join(name), &path).unwrap();
            let loaded = load_or_create(folder.path());
            assert!(matches!(loaded, Err(TlsError::NotRegular(_))));
            fs::remove_file(&path).unwrap();
            fs::write(&path, if name == CERT { &good.0 } else { &good.1 }).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        }
        assert!(load_or_create(folder.path()).is_ok());
    }

    #[test]
    fn what_a_crash_left_unfinished_is_no_obstacle() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("key.pem.new"), "half").unwrap();
        load_or_create(folder.path()).unwrap();
        assert_eq!(entries(folder.path()), ["cert.pem", "key.pem"]);
    }

    fn entries(folder: &Path) -> Vec<String> {
        let names = fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name());
        let mut names: Vec<_> = names.map(|name| name.into_string().unwrap()).collect();
        names.sort();
        names
    }
}
