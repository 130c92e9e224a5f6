//! Running until somebody says stop.

use std::io;
use std::time::Duration;

use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::App;
use super::systemd::{Supervisor, stopping};

/// How often the process looks after its threads.
pub(super) const LOOK: Duration = Duration::from_secs(1);

/// Why the process ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// SIGTERM or SIGINT.
    Asked,
    /// A thread has panicked; the supervisor starts us again, from the store.
    Broken,
}

/// The signals that a supervisor or a terminal sends, heard from [`listen`](Self::listen) on.
pub struct Signals {
    runtime: Runtime,
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    /// Before the start, so that a stop that comes during it is clean too: callers are answered
    /// before the start has ended.
    ///
    /// # Errors
    /// Signals cannot be received.
    pub fn listen() -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let entered = runtime.enter();
        let (terminate, interrupt, hangup) = (
            signal(SignalKind::terminate())?,
            signal(SignalKind::interrupt())?,
            signal(SignalKind::hangup())?,
        );
        drop(entered);
        Ok(Self {
            runtime,
            terminate,
            interrupt,
            hangup,
        })
    }

    /// Tells the supervisor that tokens are served, and runs until SIGTERM or SIGINT; then stops
    /// cleanly. `each_second` is called in between.
    pub fn run(self, mut app: App, mut each_second: impl AsyncFnMut(&App)) -> Ended {
        let Self {
            runtime,
            mut terminate,
            mut interrupt,
            mut hangup,
        } = self;
        let mut supervisor = Supervisor::serving(&app);
        let ended = runtime.block_on(async {
            let mut look = tokio::time::interval(LOOK);
            loop {
                tokio::select! {
                    _ = terminate.recv() => break Ended::Asked,
                    _ = interrupt.recv() => break Ended::Asked,
                    _ = hangup.recv() => {
                        tracing::warn!("SIGHUP does nothing: a new configuration needs a restart");
                    }
                    _ = look.tick() => {
                        if app.is_broken() {
                            break Ended::Broken;
                        }
                        supervisor.look();
                        app.tick();
                        each_second(&app).await;
                    }
                }
            }
        });
        stopping();
        app.stop();
        ended
    }
}
