//! The shipped path: a whole Foretoken on sockets, with a source and a clock of the test's own.

use std::future::{Future, ready};
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr};
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use foretoken::app::App;
use foretoken::clock::{Clock, UnixMs};
use foretoken::config::Settings;
use foretoken::token::{AccessToken, Lifetime, Secret};
use foretoken::upstream::{Ask, Class, FetchError, TokenSource};

use crate::support::{http, replay, settings, tcp_addresses};

/// The first second of 2026.
pub const START: UnixMs = UnixMs(1_767_225_600_000);
/// Far enough away that nothing falls due.
pub const END_S: u64 = START.0 / 1000 + 60 * 86_400;
/// Resources with this in their name are refused by the source.
pub const REFUSED: &str = "nobody";

/// Answers at once, and the same whenever it is asked.
pub struct Source(pub Clock);

impl TokenSource for Source {
    fn fetch(
        &self,
        ask: Ask,
    ) -> impl Future<Output = Result<AccessToken, FetchError>> + Send + 'static {
        if ask.key.resource.as_str().contains(REFUSED) {
            return ready(Err(FetchError {
                status: Some(400),
                detail: Some(("invalid_resource".into(), "no such \"resource\"".into())),
                ..FetchError::of(Class::Denied)
            }));
        }
        let token = STANDARD.encode(ask.key.canonical_bytes());
        ready(Ok(AccessToken {
            secret: Secret::new(token.into_bytes()),
            lifetime: Lifetime {
                received_at: self.0.now(),
                expires_on_s: END_S,
                not_before_s: Some(START.as_secs()),
                refresh_in_s: None,
            },
            client_id: Some("aaaaaaaa-1111-4222-8333-444444444444".into()),
        }))
    }
}

/// What both sides run by: a listener for each way to be asked, one of them without
/// `Metadata: true`, and Service Fabric in clear, since TLS is another's subject.
pub fn common(folder: &Path) -> Settings {
    let more = format!(
        "max_in_flight = 16\nmax_per_second = 1000\n[server]\nworkers = 1\n\
         [store]\nmode = \"off\"\n{}",
        replay::listeners(folder)
    );
    let upstream = SocketAddr::from(([127, 0, 0, 1], 9));
    let mut settings = settings(upstream, folder, &more);
    let listeners = &mut settings.server.listeners;
    listeners[0].without_metadata = true;
    listeners
        .iter_mut()
        .for_each(|listener| listener.tls = None);
    settings
}

/// Foretoken as it is shipped.
pub struct Ours {
    app: App,
    addresses: Vec<SocketAddr>,
}

impl Ours {
    pub fn start(settings: &Settings, clock: &Clock) -> Self {
        let app = App::start_with(settings, Source(clock.clone()), clock.clone());
        let app = app.expect("Foretoken starts");
        let addresses = tcp_addresses(&app).collect();
        Self { app, addresses }
    }

    /// Sends all bytes on a connection of their own, ends its side, and gives all that came back.
    pub fn send(&self, listener: usize, bytes: &[u8]) -> Vec<u8> {
        let mut stream = http::connect(self.addresses[listener]).expect("a connection");
        // It may refuse and close before it has read everything; what it said counts.
        let _ = stream.write_all(bytes);
        let _ = stream.shutdown(Shutdown::Write);
        let mut answers = Vec::new();
        if let Err(error) = stream.read_to_end(&mut answers) {
            panic!("{error} after {} bytes", answers.len());
        }
        answers
    }

    pub fn stop(self) {
        self.app.stop();
    }
}
