//! What runs beside the loads: slow clients, and somebody who looks at the server's metrics.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{Scope, ScopedJoinHandle};
use std::time::Duration;

use crate::ask::Asker;
use crate::clock::Now;
use crate::outcome::Counts;
use crate::plan::Target;
use crate::refreshes::Seen;
use crate::slow::{Slow, SlowUse};

/// How often the metrics are looked at.
const LOOK: Duration = Duration::from_millis(100);
/// Stacks of threads of which each has one link.
const STACK_BYTES: usize = 256 * 1024;

/// What runs, until it is told that the loads are over.
pub(crate) struct Beside<'scope> {
    slow: Vec<(&'scope Slow, Vec<Running<'scope, Counts>>)>,
    looks: Option<ScopedJoinHandle<'scope, Vec<Seen>>>,
}

type Running<'scope, T> = ScopedJoinHandle<'scope, anyhow::Result<T>>;

impl<'scope> Beside<'scope> {
    pub(crate) fn start<'env>(
        scope: &'scope Scope<'scope, 'env>,
        slow: &'scope [Slow],
        target: &'scope Target,
        admin: Option<SocketAddr>,
        over: &'scope AtomicBool,
    ) -> anyhow::Result<Self> {
        let start = |slow: &'scope Slow| {
            let each = (0..slow.links).map(|_| {
                let thread = std::thread::Builder::new().stack_size(STACK_BYTES);
                thread.spawn_scoped(scope, || slow.be(target, over))
            });
            Ok((slow, each.collect::<std::io::Result<Vec<_>>>()?))
        };
        let slow = slow.iter().map(start).collect::<anyhow::Result<_>>()?;
        let looks = admin.map(|admin| scope.spawn(move || look(admin, over)));
        Ok(Self { slow, looks })
    }

    /// When the loads are over.
    pub(crate) fn end(self) -> anyhow::Result<(Vec<SlowUse>, Option<Vec<Seen>>)> {
        let told = self.slow.into_iter().map(|(slow, each)| {
            let mut counts = Counts::default();
            for one in each {
                counts.merge(&one.join().expect("a thread that does not panic")?);
            }
            Ok(slow.told(counts))
        });
        let told = told.collect::<anyhow::Result<_>>()?;
        let looks = self.looks.map(ScopedJoinHandle::join);
        Ok((
            told,
            looks.map(|it| it.expect("a thread that does not panic")),
        ))
    }
}

/// Renewals as they happen, by Foretoken's metrics. One link each time: it is a busy server's.
fn look(admin: SocketAddr, over: &AtomicBool) -> Vec<Seen> {
    let (mut seen, mut last) = (Vec::new(), None);
    loop {
        let ends = over.load(Ordering::Relaxed);
        if let Some((renewed, lag_ms)) = renewals(admin)
            && let Some((renewed_before, lag_before_ms)) = last.replace((renewed, lag_ms))
            && renewed > renewed_before
        {
            seen.push(Seen {
                at_ms: Now::read().unix_ms(),
                renewed: renewed - renewed_before,
                lag_ms: lag_ms.saturating_sub(lag_before_ms),
            });
        }
        if ends {
            return seen;
        }
        std::thread::sleep(LOOK);
    }
}

/// How many there were, and the sum of their lags. Nothing from a server that has no such metrics.
fn renewals(admin: SocketAddr) -> Option<(u64, u64)> {
    let request = format!("GET /metrics HTTP/1.1\r\nHost: {admin}\r\n\r\n");
    let mut asker = Asker::open(&Target::Tcp(admin)).ok()?;
    let (_, body) = asker.ask(request.as_bytes()).ok()?;
    let text = String::from_utf8(body).ok()?;
    let value = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().parse().ok()
    };
    Some((
        value("foretoken_refreshes_total")?,
        value("foretoken_refresh_lag_milliseconds_total")?,
    ))
}
