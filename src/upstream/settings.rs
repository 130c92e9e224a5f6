//! What the upstream needs to know: which source of tokens there is, and how to ask it.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use ring::digest::{SHA256, digest};

use crate::token::{Identity, Secret};

/// Which source of tokens to ask, and how hard.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The source. Shared, because it may hold a secret, and secrets are not copied.
    pub source: Arc<Source>,
    /// Calls under way at once, for the whole machine. IMDS allows 5 per VM.
    pub max_in_flight: usize,
    /// Calls started in any one second, for the whole machine. IMDS allows 20 per VM.
    pub max_per_second: usize,
}

/// The closed set of sources, as `upstream.kind` names them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Azure's Instance Metadata Service.
    Imds,
    /// App Service, Functions, Container Apps, Automation: `2019-08-01`.
    AppService,
    /// App Service before that: `2017-09-01`.
    AppService2017,
    /// Azure ML compute: `2017-09-01` with a default identity.
    AzureMl,
    /// Azure Arc's agent, with its challenge.
    Arc,
    /// Service Fabric, over pinned TLS.
    ServiceFabric,
    /// Cloud Shell: tokens of the signed-in user.
    CloudShell,
    /// The retired VM extension.
    VmExtension,
    /// A federated token file, exchanged at Entra.
    WorkloadIdentity,
}

/// A source of tokens, with all that it takes to ask it.
pub enum Source {
    /// [`Kind::Imds`].
    Imds(Endpoint),
    /// [`Kind::AppService`], with the value of `X-IDENTITY-HEADER`.
    AppService(Endpoint, Secret),
    /// [`Kind::AppService2017`], with the value of `secret`.
    AppService2017(Endpoint, Secret),
    /// [`Kind::AzureMl`].
    AzureMl {
        /// Where it listens.
        endpoint: Endpoint,
        /// The value of `secret`.
        secret: Secret,
        /// The client id that a question without a selector is about, where the platform names one.
        default_client_id: Option<Box<str>>,
    },
    /// [`Kind::Arc`].
    Arc {
        /// Where the agent listens.
        endpoint: Endpoint,
        /// The only folder in which a challenge may name a file.
        folder: PathBuf,
    },
    /// [`Kind::ServiceFabric`].
    ServiceFabric {
        /// Where it listens, over TLS.
        endpoint: Endpoint,
        /// The value of `Secret`: it names the calling service.
        secret: Secret,
        /// Which certificate is trusted.
        thumbprint: Thumbprint,
    },
    /// [`Kind::CloudShell`].
    CloudShell(Endpoint),
    /// [`Kind::VmExtension`].
    VmExtension(Endpoint),
    /// [`Kind::WorkloadIdentity`].
    WorkloadIdentity(Federation),
}

/// Stands before what tells secrets apart in a source's name, which is shown to nobody.
const MARKED: &str = " #";

/// Where a source listens. An address, never a name: asking DNS for the place that hands out
/// credentials would let DNS choose it.
#[derive(Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Where to connect to.
    pub address: SocketAddr,
    /// The value of `Host`: what was typed, without the port where that is the scheme's own.
    pub authority: Box<str>,
    /// The path, and the query if it has one; begins with `/`.
    pub target: Box<str>,
}

/// What a federated token is exchanged with, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Federation {
    /// Entra's host. The one name that is looked up: its certificate proves that it is the right
    /// one.
    pub host: Box<str>,
    /// Its port.
    pub port: u16,
    /// The tenant's GUID or domain.
    pub tenant: Box<str>,
    /// Whose token a question without a selector is about.
    pub client_id: Box<str>,
    /// The file that the platform keeps fresh; read for each call.
    pub token_file: PathBuf,
    /// Certificates to trust instead of those that browsers trust, in PEM.
    pub ca_file: Option<PathBuf>,
}

/// The SHA-1 of a certificate's DER: how Service Fabric names its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Thumbprint(pub [u8; 20]);

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 9] = [
        Self::Imds,
        Self::AppService,
        Self::AppService2017,
        Self::AzureMl,
        Self::Arc,
        Self::ServiceFabric,
        Self::CloudShell,
        Self::VmExtension,
        Self::WorkloadIdentity,
    ];

    /// The name used in the configuration, logs and token keys.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Imds => "imds",
            Self::AppService => "app-service",
            Self::AppService2017 => "app-service-2017",
            Self::AzureMl => "azure-ml",
            Self::Arc => "arc",
            Self::ServiceFabric => "service-fabric",
            Self::CloudShell => "cloud-shell",
            Self::VmExtension => "vm-extension",
            Self::WorkloadIdentity => "workload-identity",
        }
    }
}

impl Source {
    /// Its kind.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::Imds(_) => Kind::Imds,
            Self::AppService(..) => Kind::AppService,
            Self::AppService2017(..) => Kind::AppService2017,
            Self::AzureMl { .. } => Kind::AzureMl,
            Self::Arc { .. } => Kind::Arc,
            Self::ServiceFabric { .. } => Kind::ServiceFabric,
            Self::CloudShell(_) => Kind::CloudShell,
            Self::VmExtension(_) => Kind::VmExtension,
            Self::WorkloadIdentity(_) => Kind::WorkloadIdentity,
        }
    }

    /// Where it listens; `None` for Entra, which is found by its name.
    #[must_use]
    pub fn endpoint(&self) -> Option<&Endpoint> {
        match self {
            Self::Imds(endpoint)
            | Self::AppService(endpoint, _)
            | Self::AppService2017(endpoint, _)
            | Self::AzureMl { endpoint, .. }
            | Self::Arc { endpoint, .. }
            | Self::ServiceFabric { endpoint, .. }
            | Self::CloudShell(endpoint)
            | Self::VmExtension(endpoint) => Some(endpoint),
            Self::WorkloadIdentity(_) => None,
        }
    }

    /// A [name](Self::name) as people may see it, without what tells secrets apart.
    #[must_use]
    pub fn shown(name: &str) -> &str {
        name.split(MARKED).next().unwrap_or_default()
    }

    /// The client id that a question for this identity is about, where it is about one.
    #[must_use]
    pub fn client_id_asked<'s>(&'s self, identity: &'s Identity) -> Option<&'s str> {
        match (identity, self) {
            (Identity::ClientId(id), _) => Some(id),
            (
                Identity::System,
                Self::AzureMl {
                    default_client_id, ..
                },
            ) => default_client_id.as_deref(),
            _ => None,
        }
    }

    /// Its name in token keys: whatever decides whose tokens it gives, if nobody is named, is in
    /// it. So no stored token is taken for one of another source.
    #[must_use]
    pub fn name(&self) -> String {
        let kind = self.kind().as_str();
        let place = |at: &Endpoint| format!("{kind} {}{}", at.address, path(at));
        match self {
            // Its path is the same everywhere.
            Self::Imds(endpoint) => format!("{kind} {}", endpoint.address),
            // The secret stands for the service that asks (`protocols.md` §3.5).
            Self::AppService(endpoint, secret)
            | Self::AppService2017(endpoint, secret)
            | Self::AzureMl {
                endpoint,
                secret,
                default_client_id: None,
            }
            | Self::ServiceFabric {
                endpoint, secret, ..
            } => format!("{}{MARKED}{}", place(endpoint), mark(secret.expose())),
            Self::AzureMl {
                endpoint,
                secret,
                default_client_id: Some(id),
            } => format!("{} {id}{MARKED}{}", place(endpoint), mark(secret.expose())),
            Self::Arc { endpoint, .. }
            | Self::CloudShell(endpoint)
            | Self::VmExtension(endpoint) => place(endpoint),
            Self::WorkloadIdentity(Federation {
                host,
                port,
                tenant,
                client_id,
                ..
            }) => format!("{kind} {host}:{port}/{tenant} {client_id}"),
        }
    }
}

/// The path; of a query no more than a mark, as it may hold a secret.
fn path(endpoint: &Endpoint) -> String {
    match endpoint.target.split_once('?') {
        Some((path, query)) => format!("{path}{MARKED}{}", mark(query.as_bytes())),
        None => endpoint.target.to_string(),
    }
}

/// Tells two secrets apart and reveals neither.
fn mark(secret: &[u8]) -> String {
    let hash = digest(&SHA256, secret);
    let start = hash.as_ref()[..8].iter();
    start.map(|byte| format!("{byte:02x}")).collect()
}

/// Without secrets, so that settings can be printed.
impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_tuple("Source");
        shown.field(&self.kind());
        if let Some(endpoint) = self.endpoint() {
            shown.field(endpoint);
        }
        match self {
            Self::AzureMl {
                default_client_id, ..
            } => shown.field(default_client_id),
            Self::Arc { folder, .. } => shown.field(folder),
            Self::ServiceFabric { thumbprint, .. } => shown.field(thumbprint),
            Self::WorkloadIdentity(federation) => shown.field(federation),
            _ => &mut shown,
        }
        .finish()
    }
}

/// Without the query, which may hold a secret.
impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.target.split('?').next().unwrap_or_default();
        write!(f, "{}{path} at {}", self.authority, self.address)
    }
}

impl Endpoint {
    /// The path on which IMDS and Arc's agent hand out tokens.
    pub const IMDS_PATH: &'static str = "/metadata/identity/oauth2/token";

    /// Azure's own IMDS.
    #[must_use]
    pub fn imds() -> Self {
        let address = SocketAddr::from((Ipv4Addr::new(169, 254, 169, 254), 80));
        Self::plain(address, Self::IMDS_PATH)
    }

    /// An endpoint over plain HTTP, named by its address.
    #[must_use]
    pub fn plain(address: SocketAddr, target: &str) -> Self {
        // As SDKs write it: the port is left out where it is HTTP's own.
        let authority = match address {
            SocketAddr::V4(v4) if v4.port() == 80 => v4.ip().to_string(),
            _ => address.to_string(),
        };
        Self {
            address,
            authority: authority.into(),
            target: target.into(),
        }
    }
}

impl Thumbprint {
    /// Reads 40 hexadecimal digits, in either case; spaces and colons between them are left out, as
    /// MSAL does.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let digits = text.bytes().filter(|b| !matches!(b, b' ' | b':'));
        let digits = digits.map(|b| {
            char::from(b)
                .to_digit(16)
                .and_then(|it| u8::try_from(it).ok())
        });
        let digits = digits.collect::<Option<Vec<u8>>>()?;
        let bytes: Vec<_> = digits
            .chunks(2)
            .map(|two| two.iter().fold(0, |sum, d| sum << 4 | d))
            .collect();
        (digits.len() == 40).then_some(())?;
        bytes.try_into().ok().map(Self)
    }
}

/// As Service Fabric writes it: 40 digits in upper case.
impl fmt::Display for Thumbprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02X}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(target: &str) -> Endpoint {
        Endpoint::plain("127.0.0.1:2377".parse().unwrap(), target)
    }

    #[test]
    fn a_thumbprint_is_read_as_people_and_tools_write_it() {
        let plain = "00112233445566778899AABBCCDDEEFF01234567";
        let read = Thumbprint::parse(plain).unwrap();
        assert_eq!(read.to_string(), plain);
        for other in [
            "00:11:22:33:44:55:66:77:88:99:aa:bb:cc:dd:ee:ff:01:23:45:67",
            "00 11 22 33 44 55 66 77 88 99 AA BB CC DD EE FF 01 23 45 67",
        ] {
            assert_eq!(Thumbprint::parse(other), Some(read), "{other}");
        }
        for wrong in [
            "",
            "00",
            &plain[1..],
            &format!("{plain}0"),
            &plain.replace('A', "g"),
        ] {
            assert_eq!(Thumbprint::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn the_name_tells_services_apart_and_shows_no_secret() {
        let fabric = |secret: &str| Source::ServiceFabric {
            endpoint: endpoint("/token?code=hidden"),
            secret: Secret::new(secret.into()),
            thumbprint: Thumbprint([0; 20]),
        };
        let (one, other) = (
            fabric("first-secret").name(),
            fabric("second-secret").name(),
        );
        assert_ne!(one, other);
        assert_eq!(Source::shown(&one), Source::shown(&other));
        let service = |secret: &str| {
            let secret = Secret::new(secret.into());
            Source::AppService(endpoint("/token"), secret).name()
        };
        assert_ne!(service("first-secret"), service("second-secret"));
        for hidden in ["first-secret", "second-secret", "hidden"] {
            assert!(!format!("{one}{other}").contains(hidden));
        }
        let imds = Source::Imds(Endpoint::imds());
        assert_eq!(imds.name(), "imds 169.254.169.254:80");
        let shown = format!("{:?}", fabric("first-secret"));
        assert!(
            shown.contains("/token") && shown.contains("127.0.0.1:2377"),
            "{shown}"
        );
        for hidden in ["first-secret", "hidden"] {
            assert!(!shown.contains(hidden), "{shown}");
        }
    }

    #[test]
    fn the_port_of_http_is_left_out_of_the_host() {
        assert_eq!(&*Endpoint::imds().authority, "169.254.169.254");
        assert_eq!(&*endpoint("/").authority, "127.0.0.1:2377");
    }
}
