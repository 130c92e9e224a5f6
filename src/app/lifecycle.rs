//! Running until somebody says stop.

use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};

use super::App;

/// How often the process looks after its threads.
const LOOK: Duration = Duration::from_secs(1);

/// Why the process ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// SIGTERM or SIGINT.
    Asked,
    /// A thread has panicked; the supervisor starts us again, from the store.
    Broken,
}

/// Runs until SIGTERM or SIGINT, then stops cleanly. `each_second` is called in between.
///
/// # Errors
/// Signals cannot be received.
pub fn until_signal(app: App, mut each_second: impl AsyncFnMut(&App)) -> std::io::Result<Ended> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let ended = runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut hangup = signal(SignalKind::hangup())?;
        let mut look = tokio::time::interval(LOOK);
        Ok::<_, std::io::Error>(loop {
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
                    each_second(&app).await;
                }
            }
        })
    })?;
    app.stop();
    Ok(ended)
}
