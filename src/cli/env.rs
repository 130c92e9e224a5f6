//! `foretoken env`: the environment variables that point a client at a listener.
//!
//! Owns which variables a dialect's clients look at, and what to know beside them. Promises that
//! standard output holds assignments and nothing else: notes go to standard error. A client's
//! secret is among them, since this is how a client is told it.

mod format;
mod thumbprint;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use clap::builder::{PossibleValuesParser, TypedValueParser as _};
use clap::{ArgAction, ValueEnum};

use self::format::Format;
use super::Failure;
use crate::authz::Client;
use crate::config::{self, Environment, Settings};
use crate::protocol::{Dialect, Proof};
use crate::server::{Address, Listener};

/// The only folder that Arc's clients take key files from.
const ARC_FOLDER: &str = "/var/opt/azcmagent/tokens";
/// The port that clients of the VM extension have built in.
const VM_EXTENSION_PORT: u16 = 50342;

#[derive(clap::Args)]
pub(super) struct Args {
    /// The client, by its name in the configuration; not needed where the dialect has no secret.
    name: Option<String>,
    /// The dialect that the client speaks.
    #[arg(long, value_parser = dialects())]
    dialect: Dialect,
    /// How to write the variables.
    #[arg(long, value_enum, default_value = "sh")]
    format: Format,
    /// The client's SDK, where it needs variables of its own.
    #[arg(long, value_enum)]
    sdk: Option<Sdk>,
    /// Add the pair for older SDKs where the listener speaks `app-service-2017` as well.
    #[arg(long, value_name = "true|false", default_value_t = true, action = ArgAction::Set)]
    both: bool,
    /// The listener, by its address in the configuration; without it, the first of the dialect.
    #[arg(long, value_name = "IP:PORT")]
    listener: Option<SocketAddr>,
    /// The configuration file of the server.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Sdk {
    /// .NET, whose `DefaultAzureCredential` looks for a metadata service in a way of its own.
    Dotnet,
}

fn dialects() -> impl clap::builder::TypedValueParser<Value = Dialect> {
    let names = PossibleValuesParser::new(Dialect::ALL.map(Dialect::as_str));
    names.try_map(|name| {
        let mut all = Dialect::ALL.into_iter();
        all.find(|dialect| dialect.as_str() == name)
            .ok_or("no such dialect")
    })
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let settings = config::load(args.config.as_deref(), &Environment::of_process())?;
    let advice = advise(&settings, args)?;
    for (name, value) in &advice.variables {
        println!("{}", args.format.assignment(name, value));
    }
    for note in &advice.notes {
        eprintln!("note: {note}");
    }
    Ok(())
}

/// What to set, and what to know about it.
#[derive(Default)]
struct Advice {
    variables: Vec<(&'static str, String)>,
    notes: Vec<String>,
}

impl Advice {
    fn set(&mut self, name: &'static str, value: impl Into<String>) {
        self.variables.push((name, value.into()));
    }

    fn note(&mut self, note: impl Into<String>) {
        self.notes.push(note.into());
    }
}

fn advise(settings: &Settings, args: &Args) -> Result<Advice> {
    let mut advice = Advice::default();
    let mut dialect = args.dialect;
    if (dialect, args.sdk) == (Dialect::Imds, Some(Sdk::Dotnet)) {
        advice.note(
            "DefaultAzureCredential of .NET passes over any metadata service whose address is not \
             169.254.169.254, so this is the dialect app-service, which it takes",
        );
        dialect = Dialect::AppService;
    }
    let secret = secret(settings, args.name.as_deref(), dialect, &mut advice)?;
    let (listener, address) = listener(settings, dialect, args.listener, &mut advice)?;
    let http = format!("http://{}", called(address, &mut advice));
    match dialect {
        Dialect::Imds => {
            advice.set("AZURE_POD_IDENTITY_AUTHORITY_HOST", http);
            advice.note(
                "the SDKs for Go and Rust do not look at this variable: give them the dialect \
                 app-service; for DefaultAzureCredential of .NET there is --sdk dotnet",
            );
        }
        Dialect::AppService => {
            advice.set("IDENTITY_ENDPOINT", format!("{http}/msi/token"));
            advice.set("IDENTITY_HEADER", secret);
            if args.both && listener.dialects.contains(&Dialect::AppService2017) {
                app_service_2017(&mut advice, &http, secret);
            }
        }
        Dialect::AppService2017 => {
            app_service_2017(&mut advice, &http, secret);
            advice.note(
                "msrestazure wants APPSETTING_WEBSITE_SITE_NAME too, with any value; \
                 IDENTITY_ENDPOINT must not be set",
            );
        }
        Dialect::VmExtension => vm_extension(&mut advice, &http, address),
        Dialect::Arc => {
            advice.set(
                "IDENTITY_ENDPOINT",
                format!("{http}/metadata/identity/oauth2/token"),
            );
            advice.set("IMDS_ENDPOINT", http);
            arc(&mut advice, listener);
        }
        Dialect::ServiceFabric => service_fabric(&mut advice, listener, address, secret)?,
        Dialect::CloudShell => {
            advice.set("MSI_ENDPOINT", format!("{http}/oauth2/token"));
            advice.note("MSI_SECRET must not be set; MSAL for Python does not look at this");
        }
    }
    if args.format == Format::Docker {
        advice.note("a container reaches these addresses with --network host only");
    }
    Ok(advice)
}

/// The client's secret; empty where the dialect has none.
fn secret<'s>(
    settings: &'s Settings,
    name: Option<&str>,
    dialect: Dialect,
    advice: &mut Advice,
) -> Result<&'s str> {
    let names = || settings.clients.iter().map(|client| &*client.name);
    let client = name.map(|name| {
        let mut clients = settings.clients.iter();
        let client = clients.find(|client| &*client.name == name);
        client.with_context(|| format!("no client is called {name:?}; {}", known(names())))
    });
    let client: Option<&Client> = client.transpose()?;
    if !matches!(dialect.proof(), Proof::Secret(_)) {
        if client.is_some() {
            advice.note(format!(
                "callers of {} show no secret, so nothing here is of the client",
                dialect.as_str()
            ));
        }
        return Ok("");
    }
    let Some(client) = client else {
        let dialect = dialect.as_str();
        bail!(
            "{dialect} takes a client's secret: name the client; {}",
            known(names())
        );
    };
    advice.note("the secret is printed in clear: keep it where only the client can read it");
    str::from_utf8(client.secret.expose()).context("the client's secret is no text")
}

fn known<'n>(names: impl Iterator<Item = &'n str>) -> String {
    let names: Vec<_> = names.collect();
    if names.is_empty() {
        "the configuration has no [[client]]".to_owned()
    } else {
        format!("the configuration has {}", names.join(", "))
    }
}

/// The listener of a dialect that was asked for, or else the first that a URL can name.
fn listener<'s>(
    settings: &'s Settings,
    dialect: Dialect,
    wanted: Option<SocketAddr>,
    advice: &mut Advice,
) -> Result<(&'s Listener, SocketAddr)> {
    let listeners = settings.server.listeners.iter();
    let mut speakers = listeners
        .filter(|it| it.dialects.contains(&dialect))
        .peekable();
    let dialect = dialect.as_str();
    if speakers.peek().is_none() {
        bail!("no listener speaks {dialect}: add it to the `dialects` of a [[listener]]");
    }
    let named: Vec<_> = speakers
        .filter_map(|listener| match listener.address {
            Address::Tcp(address) if address.port() != 0 => Some((listener, address)),
            Address::Tcp(_) | Address::Unix(_) => None,
        })
        .collect();
    let Some(first) = named.first() else {
        bail!("{dialect} is spoken only on Unix sockets and on port 0, which no URL can name");
    };
    let list = || {
        let addresses: Vec<_> = named.iter().map(|(_, at)| at.to_string()).collect();
        addresses.join(", ")
    };
    if let Some(wanted) = wanted {
        let found = named.iter().find(|(_, address)| *address == wanted);
        let found = found.with_context(|| {
            format!(
                "no listener at {wanted} speaks {dialect}; it is spoken at {}",
                list()
            )
        });
        return found.copied();
    }
    // The IPv6 twin of the default listener is no other place.
    if named.iter().filter(|(it, _)| !it.optional).count() > 1 {
        advice.note(format!(
            "{dialect} is spoken at {}; this names the first, --listener takes another",
            list()
        ));
    }
    Ok(*first)
}

/// The address to call for one that is listened on.
fn called(address: SocketAddr, advice: &mut Advice) -> SocketAddr {
    if !address.ip().is_unspecified() {
        return address;
    }
    advice.note(format!(
        "{address} is every address of the machine; this names the loopback one"
    ));
    let loopback = if address.is_ipv4() {
        [127, 0, 0, 1].into()
    } else {
        [0, 0, 0, 0, 0, 0, 0, 1].into()
    };
    SocketAddr::new(loopback, address.port())
}

fn app_service_2017(advice: &mut Advice, http: &str, secret: &str) {
    advice.set("MSI_ENDPOINT", format!("{http}/MSI/token/"));
    advice.set("MSI_SECRET", secret);
}

fn vm_extension(advice: &mut Advice, http: &str, address: SocketAddr) {
    advice.set("MSI_ENDPOINT", format!("{http}/oauth2/token"));
    advice.note(
        "msrestazure (unless APPSETTING_WEBSITE_SITE_NAME is set) and go-autorest read MSI_ENDPOINT; \
         ms-rest-nodeauth takes such an address as its option msiEndpoint; the others of that age have \
         http://localhost:50342/oauth2/token built in",
    );
    advice.note(
        "current SDKs take MSI_ENDPOINT alone for Cloud Shell: set it for the program that needs it, not \
         for the machine",
    );
    if address.port() != VM_EXTENSION_PORT {
        advice.note(format!(
            "those do not find {address}: give 127.0.0.1:50342 and [::1]:50342 a [[listener]]"
        ));
    }
}

fn arc(advice: &mut Advice, listener: &Listener) {
    let Some(arc) = &listener.arc else { return };
    advice.note(match &arc.group {
        Some(group) => format!("the client reads key files, so it has to be in the group {group}"),
        None => "the client reads key files: `arc_group` names the group that may".to_owned(),
    });
    if arc.folder != Path::new(ARC_FOLDER) {
        advice.note(format!(
            "clients take key files from {ARC_FOLDER} only, and `arc_folder` is {}",
            arc.folder.display()
        ));
    }
}

fn service_fabric(
    advice: &mut Advice,
    listener: &Listener,
    address: SocketAddr,
    secret: &str,
) -> Result<()> {
    let folder = listener
        .tls
        .as_deref()
        .context("the listener has no `tls` folder")?;
    let certificate = folder.join("cert.pem");
    let port = address.port();
    // The certificate is made out to this name, and clients that do not pin check it.
    let endpoint = format!("https://localhost:{port}/metadata/identity/oauth2/token");
    advice.set("IDENTITY_ENDPOINT", endpoint);
    advice.set("IDENTITY_HEADER", secret);
    advice.set(
        "IDENTITY_SERVER_THUMBPRINT",
        thumbprint::of_file(&certificate)?,
    );
    advice.note(format!(
        "SDKs for Node do not look at the thumbprint: give them NODE_EXTRA_CA_CERTS={}",
        certificate.display()
    ));
    Ok(())
}

#[cfg(test)]
mod tests;
