//! `[upstream]`: where tokens come from.
//!
//! Promises that the metadata service is asked unless the file says otherwise; that a kind takes
//! its endpoint and its secret from the platform's own variables where the file does not type them;
//! and that `auto` looks for the source as the SDKs do, but never takes Foretoken for one. Leaves
//! the form of an endpoint to `endpoint.rs`, and what `auto` finds to `detect.rs`.

use std::ops::{Range, RangeInclusive};
use std::path::PathBuf;
use std::sync::Arc;

use zeroize::Zeroizing;

use super::check::{Check, fixed};
use super::effective::{Meant, Origin};
use super::endpoint::endpoint;
use super::mistake::{At, Complaint};
use super::raw::{Table, Typed};
use super::value;
use crate::token::Secret;
use crate::upstream::{Endpoint, Federation, Kind, Settings, Source, Thumbprint, is_host};

/// IMDS allows 5 calls at once per VM; one is left to programs that ask it directly.
const MAX_IN_FLIGHT: usize = 4;
const MAX_IN_FLIGHT_LIMITS: RangeInclusive<usize> = 1..=64;

/// IMDS allows 20 calls a second per VM; five are left to programs that ask it directly.
const MAX_PER_SECOND: usize = 15;
const MAX_PER_SECOND_LIMITS: RangeInclusive<usize> = 1..=1000;

/// Platforms use GUIDs and the like.
const MAX_SECRET_BYTES: usize = 1024;

/// Where Arc's agent puts its keys; every client insists on it (`protocols.md` §3.4).
const ARC_FOLDER: &str = "/var/opt/azcmagent/tokens";
const ENTRA: &str = "https://login.microsoftonline.com";

/// A typed `kind`.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Choice {
    Of(Kind),
    Auto,
}

impl Choice {
    const ALL: [Self; 10] = {
        let mut all = [Self::Auto; 10];
        let mut at = 0;
        while at < Kind::ALL.len() {
            all[at] = Self::Of(Kind::ALL[at]);
            at += 1;
        }
        all
    };

    fn as_str(self) -> &'static str {
        match self {
            Self::Of(kind) => kind.as_str(),
            Self::Auto => "auto",
        }
    }
}

/// The table, once its kind is known.
struct Of<'a> {
    table: &'a Table<'a>,
    kind: Kind,
    /// Where the kind is typed: what it lacks is told there.
    at: Range<usize>,
    /// By `auto`: then nothing else is typed.
    found: bool,
}

impl Check<'_> {
    pub fn upstream(&mut self, table: &Table<'_>) -> Option<Settings> {
        let source = self.source(table);
        let typed = table.integer("max_in_flight");
        let meaning = |typed: &_| value::number(typed, &MAX_IN_FLIGHT_LIMITS);
        let default = fixed(MAX_IN_FLIGHT);
        let in_flight = self.option("upstream.max_in_flight", typed, meaning, default);
        let typed = table.integer("max_per_second");
        let meaning = |typed: &_| value::number(typed, &MAX_PER_SECOND_LIMITS);
        let default = fixed(MAX_PER_SECOND);
        let per_second = self.option("upstream.max_per_second", typed, meaning, default);
        Some(Settings {
            source: Arc::new(source?),
            max_in_flight: in_flight?.value,
            max_per_second: per_second?.value,
        })
    }

    fn source(&mut self, table: &Table<'_>) -> Option<Source> {
        let kind = self.kind(table);
        let of = Of {
            table,
            // A kind that is wrong hides no mistake in the endpoint.
            kind: kind.as_ref().map_or(Kind::Imds, |kind| kind.value),
            at: kind
                .as_ref()
                .and_then(|kind| kind.origin.span())
                .unwrap_or_default(),
            found: matches!(&kind, Some(kind) if matches!(kind.origin, Origin::Found(..))),
        };
        if kind.is_some() {
            self.strangers(&of);
        }
        let endpoint = |check: &mut Self, variable, default: Option<Endpoint>| {
            let meaning = |typed: &str| endpoint(of.kind, typed);
            // Told already: it is not looked at as if it were for the kind that was found.
            if of.found && !matches!(of.table.string("endpoint"), Ok(None)) {
                return None;
            }
            let settled = check.given(&of, "endpoint", variable, meaning, default)?;
            check.rules.endpoint = Some(Meant {
                value: settled.value.address,
                origin: match settled.origin.span() {
                    Some(span) => Origin::File(span),
                    // The variable has no place in the file; the kind that reads it has.
                    None if of.at.is_empty() => Origin::Default,
                    None => Origin::File(of.at.clone()),
                },
            });
            Some(settled.value)
        };
        let local = |port: u16, target| {
            let address = std::net::SocketAddr::from(([127, 0, 0, 1], port));
            Some(Endpoint::plain(address, target))
        };
        let source = match of.kind {
            Kind::Imds => Source::Imds(endpoint(self, "", Some(Endpoint::imds()))?),
            Kind::AppService => {
                let endpoint = endpoint(self, "IDENTITY_ENDPOINT", None);
                let secret = self.platform_secret(&of, "IDENTITY_HEADER");
                Source::AppService(endpoint?, secret?)
            }
            Kind::AppService2017 => {
                let endpoint = endpoint(self, "MSI_ENDPOINT", None);
                let secret = self.platform_secret(&of, "MSI_SECRET");
                Source::AppService2017(endpoint?, secret?)
            }
            Kind::AzureMl => {
                let endpoint = endpoint(self, "MSI_ENDPOINT", None);
                let secret = self.platform_secret(&of, "MSI_SECRET");
                let variable = "DEFAULT_IDENTITY_CLIENT_ID";
                let meaning = |typed: &str| word(typed).map(Some);
                let id = self.given(&of, "default_client_id", variable, meaning, Some(None));
                Source::AzureMl {
                    endpoint: endpoint?,
                    secret: secret?,
                    default_client_id: id?.value,
                }
            }
            Kind::Arc => {
                let agent = local(40342, Endpoint::IMDS_PATH);
                let told =
                    self.has_arc_pair() && !(of.found && self.points_at_us("IDENTITY_ENDPOINT"));
                let variable = if told { "IDENTITY_ENDPOINT" } else { "" };
                let endpoint = endpoint(self, variable, agent);
                let folder = self.folder.clone();
                let meaning =
                    |typed: &str| value::path(typed, &folder).map(|path| value::tidied(&path));
                let folder = self.given(&of, "arc_folder", "", meaning, Some(ARC_FOLDER.into()));
                self.rules.arc_upstream.clone_from(&folder);
                Source::Arc {
                    endpoint: endpoint?,
                    folder: folder?.value,
                }
            }
            Kind::ServiceFabric => {
                let endpoint = endpoint(self, "IDENTITY_ENDPOINT", None);
                let secret = self.platform_secret(&of, "IDENTITY_HEADER");
                let variable = "IDENTITY_SERVER_THUMBPRINT";
                let thumbprint = self.given(&of, "thumbprint", variable, thumbprint, None);
                Source::ServiceFabric {
                    endpoint: endpoint?,
                    secret: secret?,
                    thumbprint: thumbprint?.value,
                }
            }
            Kind::CloudShell => Source::CloudShell(endpoint(self, "MSI_ENDPOINT", None)?),
            Kind::VmExtension => {
                Source::VmExtension(endpoint(self, "", local(50342, "/oauth2/token"))?)
            }
            Kind::WorkloadIdentity => Source::WorkloadIdentity(self.federation(&of)?),
        };
        kind.map(|_| source)
    }

    fn kind(&mut self, table: &Table<'_>) -> Option<Meant<Kind>> {
        let typed = table.string("kind");
        let meaning = |typed: &str| value::choice(typed, &Choice::ALL, Choice::as_str);
        let default = fixed(Choice::Of(Kind::Imds));
        let choice = self.option("upstream.kind", typed, meaning, default)?;
        let Choice::Of(kind) = choice.value else {
            let (kind, why) = self.look();
            let origin = Origin::Found(choice.origin.span().unwrap_or_default(), why);
            self.retell("upstream.kind", origin.clone());
            return Some(Meant {
                value: kind,
                origin,
            });
        };
        Some(choice.map(|_| kind))
    }

    fn federation(&mut self, of: &Of<'_>) -> Option<Federation> {
        let folder = self.folder.clone();
        let path = |typed: &str| value::path(typed, &folder);
        let default = Some(authority(ENTRA).expect("it is one"));
        let authority = self.given(of, "authority", "AZURE_AUTHORITY_HOST", authority, default);
        let tenant = self.given(of, "tenant", "AZURE_TENANT_ID", word, None);
        let client_id = self.given(of, "client_id", "AZURE_CLIENT_ID", word, None);
        let variable = "AZURE_FEDERATED_TOKEN_FILE";
        let token_file = self.given(of, "token_file", variable, path, None);
        let some = |typed: &str| path(typed).map(Some);
        let ca_file: Option<Meant<Option<PathBuf>>> =
            self.given(of, "ca_file", "", some, Some(None));
        let (host, port) = authority?.value;
        Some(Federation {
            host,
            port,
            tenant: tenant?.value,
            client_id: client_id?.value,
            token_file: token_file?.value,
            ca_file: ca_file?.value,
        })
    }

    /// An option that a kind has: what was typed, else what the platform's variable says, else the
    /// default, else a mistake.
    fn given<T>(
        &mut self,
        of: &Of<'_>,
        key: &'static str,
        variable: &'static str,
        meaning: impl Fn(&str) -> Result<T, Complaint>,
        default: Option<T>,
    ) -> Option<Meant<T>> {
        let typed = of.table.string(key);
        let default = match (&typed, self.platform.variable(variable)) {
            (Ok(None), Some(told)) => match meaning(told) {
                Ok(value) => Some(Meant {
                    value,
                    origin: Origin::Environment(variable),
                }),
                Err(complaint) => {
                    self.found.push(complaint.of(variable).at(of.at.clone()));
                    None
                }
            },
            // Of a text that is not all TOML it is not known that it is missing.
            (Ok(None), None) if default.is_none() && !self.whole => None,
            (Ok(None), None) if default.is_none() => {
                let lack = missing(of.kind, key, variable);
                self.found.push(lack.at(of.at.clone()));
                None
            }
            _ => default.and_then(fixed),
        };
        self.option(&format!("upstream.{key}"), typed, meaning, default)
    }

    /// The platform's secret: typed, in a file, or in its variable.
    fn platform_secret(&mut self, of: &Of<'_>, variable: &'static str) -> Option<Secret> {
        let (folder, files) = (self.folder.clone(), self.secret_files);
        match of.table.string("secret_file") {
            Ok(None) => {
                let meaning = |typed: &str| secret(typed.as_bytes().to_vec().into());
                self.given(of, "secret", variable, meaning, None)
            }
            Ok(Some(file)) if !matches!(of.table.string("secret"), Ok(None)) => {
                let hint = "leave one of them out";
                let both = Complaint::new("there is a `secret` and a `secret_file`", hint);
                self.found.push(both.at(file.span));
                None
            }
            file => {
                let meaning = |typed: &str| secret(files(&value::path(typed, &folder)?)?);
                self.option("upstream.secret", file, meaning, None)
            }
        }
        .map(|meant| meant.value)
    }

    /// Complains about options that the kind does not have.
    fn strangers(&mut self, of: &Of<'_>) {
        const SECRET: &[Kind] = &[
            Kind::AppService,
            Kind::AppService2017,
            Kind::AzureMl,
            Kind::ServiceFabric,
        ];
        pub const FEDERATED: &[Kind] = &[Kind::WorkloadIdentity];
        let options: [(&str, &[Kind]); 10] = [
            ("secret", SECRET),
            ("secret_file", SECRET),
            ("thumbprint", &[Kind::ServiceFabric]),
            ("default_client_id", &[Kind::AzureMl]),
            ("arc_folder", &[Kind::Arc]),
            ("authority", FEDERATED),
            ("tenant", FEDERATED),
            ("client_id", FEDERATED),
            ("token_file", FEDERATED),
            ("ca_file", FEDERATED),
        ];
        let mut stranger = |key: &str, typed: Typed<&str>, kinds: &[Kind]| {
            let Ok(Some(At { span, .. })) = typed else {
                return;
            };
            let (message, hint) = if of.found {
                let message = format!("`{key}` is typed, and the kind is left to be found");
                (message, "name the kind, or leave this out".to_owned())
            } else {
                let names: Vec<_> = kinds
                    .iter()
                    .map(|kind| format!("{kind:?}", kind = kind.as_str()))
                    .collect();
                let message = format!("`{key}` means nothing to the kind {}", of.kind.as_str());
                (
                    message,
                    format!("it is for the kind {}", names.join(" or ")),
                )
            };
            self.found.push(Complaint::new(message, hint).at(span));
        };
        for (key, kinds) in options {
            // These choose nobody: `auto` may find a source that needs them.
            if of.found && matches!(key, "arc_folder" | "ca_file") {
                continue;
            }
            if of.found || !kinds.contains(&of.kind) {
                stranger(key, of.table.string(key), kinds);
            }
        }
        if of.found || of.kind == Kind::WorkloadIdentity {
            let others: Vec<_> = Kind::ALL
                .into_iter()
                .filter(|kind| *kind != of.kind)
                .collect();
            stranger("endpoint", of.table.string("endpoint"), &others);
        }
    }
}

fn missing(kind: Kind, key: &str, variable: &str) -> Complaint {
    let hint = if variable.is_empty() {
        "type it".to_owned()
    } else {
        format!("type it, or start Foretoken where the platform sets ${variable}")
    };
    Complaint::new(format!("{:?} needs `{key}`", kind.as_str()), hint)
}

/// What goes into a header as it is. Never repeated.
fn secret(typed: Zeroizing<Vec<u8>>) -> Result<Secret, Complaint> {
    let mut typed = typed;
    let sound = typed.iter().all(u8::is_ascii_graphic);
    if sound && (1..=MAX_SECRET_BYTES).contains(&typed.len()) {
        Ok(Secret::new(std::mem::take(&mut *typed)))
    } else {
        let hint =
            format!("it is 1 to {MAX_SECRET_BYTES} visible ASCII characters, without spaces");
        Err(Complaint::new(
            "the secret cannot be sent in a header",
            hint,
        ))
    }
}

fn thumbprint(typed: &str) -> Result<Thumbprint, Complaint> {
    Thumbprint::parse(typed).ok_or_else(|| {
        let hint = "write the SHA-1 of the certificate: 40 hexadecimal digits";
        Complaint::new(format!("{typed:?} is not a thumbprint"), hint)
    })
}

/// A GUID, or a domain.
fn word(typed: &str) -> Result<Box<str>, Complaint> {
    let sound = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.');
    if !typed.is_empty() && typed.len() <= 128 && typed.bytes().all(sound) {
        Ok(typed.into())
    } else {
        let hint = "write the GUID, or the domain of a tenant";
        Err(Complaint::new(format!("{typed:?} is no id"), hint))
    }
}

/// `https://HOST[:PORT]`.
fn authority(typed: &str) -> Result<(Box<str>, u16), Complaint> {
    let read = || {
        let rest = typed.strip_prefix("https://")?;
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (host, port) = match rest.split_once(':') {
            None => (rest, 443),
            Some((host, port)) => (host, port.parse().ok().filter(|port| *port != 0)?),
        };
        // A number may have a sign.
        (!rest.contains('+')).then_some(())?;
        is_host(host).then(|| (Box::from(host), port))
    };
    read().ok_or_else(|| {
        let hint = "write \"https://HOST\", like \"https://login.microsoftonline.com\"";
        // Somebody's password, it may be.
        let shown = typed.rsplit('@').next().unwrap_or_default();
        Complaint::new(format!("{shown:?} is no authority"), hint)
    })
}

#[cfg(test)]
pub(super) mod tests {
    use std::path::Path;

    use crate::config::{Environment, Platform, parse};

    pub const FABRIC: &str = "https://localhost:2377/metadata/identity/oauth2/token";
    pub const PAIR: [(&str, &str); 2] = [
        ("IDENTITY_ENDPOINT", "http://127.0.0.1:41741/msi/token"),
        ("IDENTITY_HEADER", "the-header"),
    ];
    pub const FEDERATED: [(&str, &str); 3] = [
        ("AZURE_FEDERATED_TOKEN_FILE", "/token"),
        ("AZURE_TENANT_ID", "tenant"),
        ("AZURE_CLIENT_ID", "client"),
    ];

    pub fn environment(variables: &[(&str, &str)]) -> Environment {
        let value = |name: &str| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).into())
        };
        Environment {
            state_directory: Some("/var/lib/foretoken".into()),
            working_directory: "/etc/foretoken".into(),
            platform: Platform::with(value),
            ..Environment::default()
        }
    }

    pub fn source(text: &str, variables: &[(&str, &str)]) -> Result<String, String> {
        source_in(text, &environment(variables))
    }

    pub fn source_in(text: &str, environment: &Environment) -> Result<String, String> {
        let text = format!("[upstream]\n{text}\n");
        let settings = parse(&text, Path::new("f.toml"), environment);
        let settings = settings.map_err(|mistakes| mistakes.to_string())?;
        Ok(settings.upstream.source.name())
    }

    fn is_mark(part: &str) -> bool {
        part.starts_with('#')
    }

    #[test]
    fn each_kind_takes_the_platforms_own_variables() {
        let fabric = [
            PAIR[1],
            ("IDENTITY_ENDPOINT", FABRIC),
            ("IDENTITY_SERVER_THUMBPRINT", &"Aa".repeat(20)),
        ];
        let ml = [
            ("MSI_ENDPOINT", "http://127.0.0.1:1/t"),
            ("MSI_SECRET", "s"),
            ("DEFAULT_IDENTITY_CLIENT_ID", "the-default"),
        ];
        let arc = [
            ("IDENTITY_ENDPOINT", "http://localhost:40343"),
            ("IMDS_ENDPOINT", "http://x"),
        ];
        for (kind, variables, name) in [
            (
                "app-service",
                &PAIR[..],
                "app-service 127.0.0.1:41741/msi/token",
            ),
            ("app-service-2017", &ml, "app-service-2017 127.0.0.1:1/t"),
            ("azure-ml", &ml, "azure-ml 127.0.0.1:1/t the-default"),
            (
                "arc",
                &arc,
                "arc 127.0.0.1:40343/metadata/identity/oauth2/token",
            ),
            (
                "arc",
                &PAIR,
                "arc 127.0.0.1:40342/metadata/identity/oauth2/token",
            ),
            ("cloud-shell", &ml, "cloud-shell 127.0.0.1:1/t"),
            (
                "vm-extension",
                &[],
                "vm-extension 127.0.0.1:50342/oauth2/token",
            ),
            (
                "workload-identity",
                &FEDERATED,
                "workload-identity login.microsoftonline.com:443/tenant client",
            ),
            ("imds", &PAIR, "imds 169.254.169.254:80"),
        ] {
            let found = source(&format!("kind = \"{kind}\""), variables);
            // Behind the place stands a mark of the secret, where there is one.
            let found = found.unwrap_or_else(|told| panic!("{kind}: {told}"));
            let parts: Vec<_> = found.split(' ').filter(|part| !is_mark(part)).collect();
            assert_eq!(parts.join(" "), name, "{kind}");
        }
        let name = source("kind = \"service-fabric\"", &fabric).unwrap();
        assert!(name.starts_with("service-fabric 127.0.0.1:2377/metadata/identity/oauth2/token "));
    }

    #[test]
    fn what_is_typed_goes_before_what_the_platform_says() {
        let typed = "kind = \"app-service\"\nendpoint = \"http://127.0.0.1:9/x\"";
        let found = source(typed, &PAIR).unwrap();
        assert!(found.starts_with("app-service 127.0.0.1:9/x "), "{found}");
        // Without a kind, nothing of the platform's is read.
        assert_eq!(source("", &PAIR).unwrap(), "imds 169.254.169.254:80");
    }

    #[test]
    fn a_secret_of_the_platform_is_never_repeated() {
        let bad = [PAIR[0], ("IDENTITY_HEADER", "hush hush")];
        let told = source("kind = \"app-service\"", &bad).unwrap_err();
        assert!(
            told.contains("$IDENTITY_HEADER") && !told.contains("hush"),
            "{told}"
        );
        let shown = format!("{:?}", environment(&PAIR));
        assert!(shown.contains("IDENTITY_HEADER") && !shown.contains("the-header"));
    }
}
