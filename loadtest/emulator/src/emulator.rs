//! The handle: starts an emulator on a thread of its own, steers it, and stops it.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use tokio::runtime::Handle;
use tokio::sync::oneshot;

use crate::door::{Door, listen};
use crate::faults::Fault;
use crate::kind::assertion;
use crate::plan::{ModeError, Planned};
use crate::scenario::{Scenario, ScenarioState};
use crate::server::{serve, serve_control};
use crate::settings::{Limits, Settings, Tuning};
use crate::tally::Counts;
use crate::world::World;
use crate::{Entra, Kind, Latency, Pressure};
use crate::{time, timeline};

/// A running emulator. Every method may be called from any thread, inside a runtime or not;
/// dropping it stops it.
pub struct Emulator {
    world: Arc<World>,
    runtime: Handle,
    control: Option<SocketAddr>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Emulator {
    /// Starts an emulator. It is listening when this returns.
    ///
    /// # Errors
    /// If it cannot listen on the address, if `key_pem` is not a usable key (`InvalidInput`), if
    /// a file or folder of the kind cannot be written, or if the thread cannot be started.
    pub fn start(settings: Settings) -> io::Result<Self> {
        let listener = listen(settings.listen)?;
        let address = listener.local_addr()?;
        let control_listener = settings.control.map(listen).transpose()?;
        let control = match &control_listener {
            Some(listener) => Some(listener.local_addr()?),
            None => None,
        };
        let world = Arc::new(World::new(settings, address)?);
        if let Kind::Entra(Entra {
            federated_token_file: Some(file),
            ..
        }) = &world.kind
        {
            fs::write(file, federated_token(&world, Entra::FILE_TOKEN_LIFETIME_S))?;
        }

        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let handle = runtime.handle().clone();
        let (door, control_listener) = {
            let _entered = handle.enter();
            let control = control_listener.map(tokio::net::TcpListener::from_std);
            (Door::new(listener, &world)?, control.transpose()?)
        };
        let (stop, stopped) = oneshot::channel::<()>();
        let shared = Arc::clone(&world);
        let thread = thread::Builder::new()
            .name("emulator".to_owned())
            .spawn(move || {
                runtime.block_on(async {
                    if let Some(listener) = control_listener {
                        tokio::spawn(serve_control(listener, Arc::clone(&shared)));
                    }
                    tokio::select! {
                        () = serve(door, shared) => {}
                        _ = stopped => {}
                    }
                });
                // Dropping the runtime here drops every connection, and with it its socket.
            })?;
        Ok(Self {
            world,
            runtime: handle,
            control,
            stop: Some(stop),
            thread: Some(thread),
        })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.world.address
    }

    /// The same as a URL: `http://127.0.0.1:50000`, or `https` for kinds that speak TLS.
    #[must_use]
    pub fn base_url(&self) -> String {
        self.world.base_url()
    }

    /// Where the control path listens besides, if that was chosen.
    #[must_use]
    pub fn control_address(&self) -> Option<SocketAddr> {
        self.control
    }

    /// The counts since the start or the last reset.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.world.tally().read()
    }

    /// Counts from zero again; calls in progress stay in progress.
    pub fn reset_counts(&self) {
        self.world.tally().reset();
    }

    /// The last request on the token path, refused ones included: head and body exactly as they
    /// arrived, secrets not masked.
    #[must_use]
    pub fn last_request(&self) -> Option<Vec<u8>> {
        self.world.journal().last()
    }

    /// The last 64 requests on the token path, oldest first, as [`Self::last_request`] shows them.
    #[must_use]
    pub fn requests(&self) -> Vec<Vec<u8>> {
        self.world.journal().all()
    }

    /// Forgets the requests seen so far.
    pub fn forget_requests(&self) {
        self.world.journal().clear();
    }

    /// The environment variables that the platform would set, so that a client finds this
    /// emulator.
    #[must_use]
    pub fn environment(&self) -> Vec<(&'static str, String)> {
        self.world.kind.environment(&self.world)
    }

    /// Puts a fault in force in place of all that are, or takes them all away.
    pub fn set_fault(&self, fault: Option<Fault>) {
        self.world.change_plan(|plan| plan.set(fault));
    }

    /// Puts a mode of the catalogue in force beside those that are; one of the same name gives
    /// way. A name will do for all token requests until it is cleared.
    ///
    /// # Errors
    /// If there is no such mode, if it does not apply to the kind, or if its share is none.
    pub fn set_mode(&self, planned: impl Into<Planned>) -> Result<(), ModeError> {
        let (planned, kind) = (planned.into(), &self.world.kind);
        self.world
            .change_plan(|plan| plan.add(&planned, kind, time::steady()))
    }

    /// Takes a mode away, if it is in force.
    pub fn clear_mode(&self, name: &str) {
        self.world.change_plan(|plan| plan.clear(name));
    }

    /// Takes every fault away, with or without a name.
    pub fn clear_modes(&self) {
        self.set_fault(None);
    }

    /// The modes in force, with what is left of each.
    #[must_use]
    pub fn active_modes(&self) -> Vec<Planned> {
        self.world.plan().planned(time::steady())
    }

    /// Plays a scenario from its start, in place of the one that is played.
    pub fn play(&self, scenario: Scenario) {
        timeline::start(&self.world, scenario, &self.runtime);
    }

    /// Ends the scenario that is played, if one is, and goes back to the settings before it.
    pub fn stop_scenario(&self) {
        timeline::stop(&self.world);
    }

    /// Where the scenario that is played stands.
    #[must_use]
    pub fn scenario(&self) -> Option<ScenarioState> {
        timeline::state(&self.world)
    }

    /// Sets how long granted token requests wait, in place of `latency_ms`; `None` goes back to
    /// that.
    ///
    /// # Errors
    /// If it is not a distribution of waits.
    pub fn set_latency(&self, latency: Option<Latency>) -> Result<(), &'static str> {
        self.world.set_latency(latency)
    }

    /// Takes capacity away that comes back by itself, unless it is hammered; `None` gives all of
    /// it back.
    ///
    /// # Errors
    /// If its rates or shares are none.
    pub fn set_pressure(&self, pressure: Option<Pressure>) -> Result<(), &'static str> {
        self.world.set_pressure(pressure)
    }

    /// Sets the life, in seconds, of tokens issued from now on; at least 1.
    pub fn set_lifetime_s(&self, lifetime_s: u64) {
        self.world.tune(|tuning| tuning.lifetime_s = lifetime_s);
    }

    /// Sets how many milliseconds a granted token request waits.
    pub fn set_latency_ms(&self, latency_ms: u64) {
        self.world.tune(|tuning| tuning.latency_ms = latency_ms);
    }

    /// Sets the limits on token requests.
    pub fn set_limits(&self, limits: Limits) {
        self.world.tune(|tuning| tuning.limits = limits);
    }

    /// Sets the share of its life (0 to 1) at or below which a token is replaced by a new one.
    pub fn set_reissue_below(&self, share: f64) {
        self.world.tune(|tuning| tuning.reissue_below = share);
    }

    /// The tuning now in force.
    #[must_use]
    pub fn tuning(&self) -> Tuning {
        self.world.tuning()
    }

    /// Forgets the issued tokens, so that the next request for each gets a new one.
    pub fn forget_tokens(&self) {
        self.world.issuer().forget_all();
    }

    /// The public signing key as a JSON Web Key Set.
    #[must_use]
    pub fn jwks(&self) -> String {
        self.world.key.jwks()
    }

    /// For kinds that speak TLS: the SHA-1 of the certificate, 40 digits of upper-case hex.
    #[must_use]
    pub fn thumbprint(&self) -> Option<String> {
        self.world.tls.as_ref().map(|tls| tls.thumbprint.clone())
    }

    /// For kinds that speak TLS: the certificate as PEM, for `localhost`, `127.0.0.1` and
    /// `login.emulator.test`.
    #[must_use]
    pub fn certificate_pem(&self) -> Option<String> {
        self.world
            .tls
            .as_ref()
            .map(|tls| tls.certificate_pem.clone())
    }

    /// For Entra: the certificate of the authority that issued its own, as PEM.
    #[must_use]
    pub fn ca_pem(&self) -> Option<String> {
        self.world.tls.as_ref().and_then(|tls| tls.ca_pem.clone())
    }

    /// A federated token that Entra accepts as an assertion for this many seconds from now; 0
    /// makes one that has expired.
    #[must_use]
    pub fn federated_token(&self, lifetime_s: u64) -> String {
        federated_token(&self.world, lifetime_s)
    }

    /// With a canary: the text found, character for character, in every token of this emulator,
    /// so that a search for it finds any token. It is the encoded start of the payload.
    #[must_use]
    pub fn canary_in_tokens(&self) -> Option<String> {
        self.world.issuance.canary_in_tokens()
    }

    /// Stops: closes the listener and every connection, and waits until that is done.
    pub fn stop(self) {
        drop(self);
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            // It fails only if the thread has ended already.
            let _ = stop.send(());
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// For kinds other than Entra, which take none, that of the default subject.
fn federated_token(world: &World, lifetime_s: u64) -> String {
    let default = Entra::default();
    let options = match &world.kind {
        Kind::Entra(options) => options,
        _ => &default,
    };
    let now_s = time::unix_ms() / 1000;
    assertion::issue(&world.key, &options.subject, now_s, lifetime_s)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Connection, ask, get, start, token_target, unlimited};

    #[test]
    fn it_can_start_again_on_the_address_it_just_left() {
        let mut emulator = unlimited();
        let address = emulator.address();
        for _ in 0..5 {
            let mut open = Connection::open(&emulator);
            assert_eq!(open.get(&token_target("")).unwrap().status, 200);
            emulator.stop();
            assert!(
                open.get("/metadata/versions").is_err(),
                "stopping closes connections"
            );
            emulator = start(Settings {
                listen: address,
                ..Settings::default()
            });
            assert_eq!(emulator.address(), address);
        }
    }

    #[test]
    fn a_key_given_as_text_is_used_or_refused() {
        let published = unlimited().jwks();
        let broken = Settings {
            key_pem: Some("no key".to_owned()),
            ..Settings::default()
        };
        let error = Emulator::start(broken).err().unwrap();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        let same = Settings {
            key_pem: Some(crate::PUBLISHED_TEST_KEY_PEM.to_owned()),
            ..Settings::default()
        };
        assert_eq!(start(same).jwks(), published);
    }

    #[tokio::test]
    async fn it_can_be_used_from_within_a_runtime() {
        let emulator = unlimited();
        assert_eq!(ask(&emulator, "").status, 200);
        emulator.stop();
    }

    #[test]
    fn listening_everywhere_leads_verifiers_to_the_address_they_used() {
        let listen = "0.0.0.0:0".parse().unwrap();
        let emulator = start(Settings {
            listen,
            ..Settings::default()
        });
        let configuration = get(&emulator, "/.well-known/openid-configuration").json();
        assert_eq!(configuration["jwks_uri"], "http://test/discovery/keys");
    }
}
