//! Links that ask once and then stay, to see what each costs the server.

use std::thread;
use std::time::Duration;

use anyhow::Context as _;

use crate::ask::Asker;
use crate::measure::Around;
use crate::plan::Plan;
use crate::process::Usage;
use crate::report::{Idle, float, rounded};

/// Open links that wait for nothing.
pub(crate) struct IdleLinks {
    links: Vec<Asker>,
    before_kib: u64,
    with_kib: u64,
}

impl IdleLinks {
    /// From no link to memory to report: how long a server may take to notice that links are gone.
    const NOTICE: Duration = Duration::from_secs(3);

    pub(crate) fn open(loads: &[(String, Plan)], around: &Around) -> anyhow::Result<Option<Self>> {
        let Some((_, plan)) = loads.first().filter(|_| around.idle > 0) else {
            return Ok(None);
        };
        let pid = around
            .pid
            .context("idle links are measured at a server whose process is known")?;
        let asked = || -> anyhow::Result<Asker> {
            let mut link = Asker::open(&plan.target)?;
            link.token(&plan.target, 0, plan.keys)?;
            Ok(link)
        };
        // What a server makes for its first link is not what each costs.
        drop(asked()?);
        let before_kib = Usage::read(pid)?.memory_kib();
        let links = (0..around.idle).map(|_| asked());
        let links = links.collect::<anyhow::Result<_>>()?;
        Ok(Some(Self {
            links,
            before_kib,
            with_kib: Usage::read(pid)?.memory_kib(),
        }))
    }

    pub(crate) fn close(self, around: &Around) -> anyhow::Result<Idle> {
        let links = self.links.len();
        drop(self.links);
        thread::sleep(Self::NOTICE);
        let after = around.pid.map(Usage::read).transpose()?;
        Ok(Idle {
            links,
            before_kib: self.before_kib,
            with_kib: self.with_kib,
            kib_per_link: rounded(
                (float(self.with_kib) - float(self.before_kib)) / float(links as u64),
            ),
            after_close_kib: after.unwrap_or_default().memory_kib(),
        })
    }
}
