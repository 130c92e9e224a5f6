//! The closed set of wire formats that callers speak, and which paths belong to which.

/// A wire format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Dialect {
    /// Azure's Instance Metadata Service.
    Imds,
    /// App Service, Functions, Container Apps: `2019-08-01`.
    AppService,
    /// App Service before that, and Azure ML: `2017-09-01`.
    AppService2017,
    /// The retired VM extension on port 50342.
    VmExtension,
    /// Azure Arc's agent, with its challenge.
    Arc,
    /// Service Fabric, over TLS.
    ServiceFabric,
    /// Cloud Shell.
    CloudShell,
}

/// What a caller shows to be answered at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proof {
    /// `Metadata: true`, which a forged request cannot set.
    Metadata,
    /// A secret of its own in this header (lower case).
    Secret(&'static str),
    /// `Metadata: true`, then the content of a file that only chosen users can read.
    Challenge,
}

/// Which methods a path takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Methods {
    /// GET.
    Get,
    /// POST with a form.
    Post,
    /// Either.
    GetOrPost,
}

impl Methods {
    /// Whether the method, in the bytes of the wire, is one of them.
    #[must_use]
    pub fn take(self, method: &[u8]) -> bool {
        match self {
            Self::Get => method == b"GET",
            Self::Post => method == b"POST",
            Self::GetOrPost => method == b"GET" || method == b"POST",
        }
    }

    /// The value of `Allow`.
    #[must_use]
    pub fn allow(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Post => "POST",
            Self::GetOrPost => "GET, POST",
        }
    }
}

/// The token endpoint of IMDS and of everything shaped like it: the documented path, msal-node's
/// trailing slash, and msal4j's double slash in front.
const METADATA_PATHS: [&[u8]; 3] = [
    b"/metadata/identity/oauth2/token",
    b"/metadata/identity/oauth2/token/",
    b"//metadata/identity/oauth2/token",
];
/// `IDENTITY_ENDPOINT` as `foretoken env` prints it, and with the slash that clients add.
const APP_SERVICE_PATHS: [&[u8]; 2] = [b"/msi/token", b"/msi/token/"];
/// `MSI_ENDPOINT` in both cases, with the slashes that clients add: msrestazure appends `/?`.
const APP_SERVICE_2017_PATHS: [&[u8]; 6] = [
    b"/MSI/token",
    b"/MSI/token/",
    b"/MSI/token//",
    b"/msi/token",
    b"/msi/token/",
    b"/msi/token//",
];
const OAUTH2_PATHS: [&[u8]; 2] = [b"/oauth2/token", b"/oauth2/token/"];

impl Dialect {
    /// Every dialect, in the order of the configuration reference.
    pub const ALL: [Dialect; 7] = [
        Dialect::Imds,
        Dialect::AppService,
        Dialect::AppService2017,
        Dialect::VmExtension,
        Dialect::Arc,
        Dialect::ServiceFabric,
        Dialect::CloudShell,
    ];

    /// The name used in the configuration, logs and metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Imds => "imds",
            Self::AppService => "app-service",
            Self::AppService2017 => "app-service-2017",
            Self::VmExtension => "vm-extension",
            Self::Arc => "arc",
            Self::ServiceFabric => "service-fabric",
            Self::CloudShell => "cloud-shell",
        }
    }

    /// Its paths, byte for byte. A path that merely resembles one of them is another.
    #[must_use]
    pub fn paths(self) -> &'static [&'static [u8]] {
        match self {
            Self::Imds | Self::Arc | Self::ServiceFabric => &METADATA_PATHS,
            Self::AppService => &APP_SERVICE_PATHS,
            Self::AppService2017 => &APP_SERVICE_2017_PATHS,
            Self::VmExtension | Self::CloudShell => &OAUTH2_PATHS,
        }
    }

    /// The methods that its paths take.
    #[must_use]
    pub fn methods(self) -> Methods {
        match self {
            Self::VmExtension => Methods::GetOrPost,
            Self::CloudShell => Methods::Post,
            _ => Methods::Get,
        }
    }

    /// What its callers show.
    #[must_use]
    pub fn proof(self) -> Proof {
        match self {
            Self::Imds | Self::VmExtension | Self::CloudShell => Proof::Metadata,
            Self::AppService => Proof::Secret("x-identity-header"),
            Self::AppService2017 | Self::ServiceFabric => Proof::Secret("secret"),
            Self::Arc => Proof::Challenge,
        }
    }

    /// Whether two dialects may stand on one listener: they share no path and method, or, for the
    /// two of App Service, `api-version` tells them apart.
    #[must_use]
    pub fn goes_with(self, other: Dialect) -> bool {
        let pair = [self, other];
        let told_apart = pair.contains(&Self::AppService) && pair.contains(&Self::AppService2017);
        let share = self.paths().iter().any(|path| other.paths().contains(path));
        self != other && (told_apart || !share)
    }
}

/// The dialect, among those of a listener, to which a path belongs. Where the two of App Service
/// share a path, `api-version=2017-09-01`, in these letters, asks for the older one.
#[must_use]
pub fn recognise(spoken: &[Dialect], path: &[u8], query: &[u8]) -> Option<Dialect> {
    let mut found = spoken
        .iter()
        .copied()
        .filter(|dialect| dialect.paths().contains(&path));
    let first = found.next()?;
    let Some(second) = found.next() else {
        return Some(first);
    };
    let asks_2017 = query
        .split(|b| *b == b'&')
        .any(|pair| pair == b"api-version=2017-09-01");
    let is_2017 = |dialect: &Dialect| *dialect == Dialect::AppService2017;
    [first, second]
        .into_iter()
        .find(|dialect| is_2017(dialect) == asks_2017)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_listed_paths_are_token_endpoints() {
        for dialect in Dialect::ALL {
            for path in dialect.paths() {
                assert_eq!(recognise(&[dialect], path, b""), Some(dialect));
            }
        }
        for path in [
            "/metadata/identity/oauth2/token//",
            "/metadata//identity/oauth2/token",
            "/metadata/identity\\oauth2/token",
            "/metadata/identity/oauth2%2ftoken",
            "/metadata/identity/oauth2/../oauth2/token",
            "/metadata/identity/oauth2/token;x",
            "/METADATA/identity/oauth2/token",
            "/metadata/identity/oauth2/toke",
            "/msi/token///",
            "/Msi/token",
            "",
        ] {
            assert_eq!(
                recognise(&Dialect::ALL, path.as_bytes(), b""),
                None,
                "{path}"
            );
        }
    }

    #[test]
    fn the_two_of_app_service_are_told_apart_by_api_version() {
        let both = [Dialect::AppService, Dialect::AppService2017];
        let of = |path: &[u8], query: &[u8]| recognise(&both, path, query);
        assert_eq!(
            of(b"/msi/token", b"api-version=2019-08-01"),
            Some(Dialect::AppService)
        );
        assert_eq!(
            of(b"/msi/token/", b"resource=r&api-version=2017-09-01"),
            Some(Dialect::AppService2017)
        );
        assert_eq!(of(b"/msi/token", b""), Some(Dialect::AppService));
        assert_eq!(of(b"/MSI/token/", b""), Some(Dialect::AppService2017));
    }

    #[test]
    fn dialects_that_claim_the_same_requests_do_not_share_a_listener() {
        assert!(!Dialect::Imds.goes_with(Dialect::Arc));
        assert!(!Dialect::VmExtension.goes_with(Dialect::CloudShell));
        assert!(!Dialect::Imds.goes_with(Dialect::Imds));
        assert!(Dialect::AppService.goes_with(Dialect::AppService2017));
        let default = [
            Dialect::Imds,
            Dialect::AppService,
            Dialect::AppService2017,
            Dialect::VmExtension,
        ];
        for (at, one) in default.iter().enumerate() {
            assert!(default[at + 1..].iter().all(|other| one.goes_with(*other)));
        }
    }
}
