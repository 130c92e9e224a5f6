//! Performs the worker's decisions on cache and store.
//!
//! Everything here happens on one thread, at a time that is passed in, and without waiting: the
//! driver runs it on the refresh thread, simulations run it on virtual time.

use std::collections::HashMap;
use std::sync::Arc;

use super::worker::{Action, Event, LastResult, Settings, Step, Worker};
use crate::cache::{Cache, Entry, KeyId, Leader, PurgeTicket, Slot, is_expired};
use crate::clock::UnixMs;
use crate::store::{Restored, Store};
use crate::telemetry::metrics::Metrics;
use crate::token::{AccessToken, Lifetime, TokenKey};
use crate::upstream::{Class, FetchError};

/// An upstream call to be made.
#[derive(Debug)]
pub struct Job {
    /// Goes back with the answer, to [`Writer::landed`].
    pub id: KeyId,
    /// What to ask for.
    pub key: TokenKey,
}

/// What is to be done, and when to come back.
#[derive(Debug, Default)]
pub struct Work {
    /// Calls to start now.
    pub jobs: Vec<Job>,
    /// When to call [`Writer::woken`], if nothing happens before.
    pub wake_at: Option<UnixMs>,
}

/// A key as operators see it.
#[derive(Debug, Clone)]
pub struct KeyStatus {
    /// The key.
    pub key: TokenKey,
    /// When its token ends.
    pub expires_at: Option<UnixMs>,
    /// Until when it would be served if the upstream died now.
    pub serve_until: Option<UnixMs>,
    /// When the next call is planned; `None` while one is under way or the key is idle.
    pub next_call_at: Option<UnixMs>,
    /// How the last call ended.
    pub last: Option<LastResult>,
    /// Hits as of the last second.
    pub hits: u64,
}

/// The only writer of cache and store.
pub struct Writer {
    worker: Worker,
    cache: Arc<Cache>,
    store: Store,
    metrics: Metrics,
    keys: HashMap<KeyId, Held>,
}

/// What a call brought.
enum Brought {
    New(AccessToken),
    /// The token already held.
    Same(Arc<Entry>, Lifetime),
}

struct Held {
    slot: Arc<Slot>,
    /// Kept until the flight has landed; dropping it lands the flight as lost.
    leader: Option<Leader>,
    last_used: UnixMs,
}

impl Writer {
    /// A writer for this cache and store.
    #[must_use]
    pub fn new(settings: Settings, cache: Arc<Cache>, store: Store, metrics: Metrics) -> Self {
        Self {
            worker: Worker::new(settings),
            cache,
            store,
            metrics,
            keys: HashMap::new(),
        }
    }

    /// Puts tokens of an earlier start into the cache. Those that are over are left out.
    pub fn restore(&mut self, now: UnixMs, restored: Vec<Restored>) -> Work {
        for Restored {
            key,
            token,
            generation,
            last_used,
        } in restored
        {
            self.cache.resume_after(generation);
            let lifetime = token.lifetime;
            if now >= lifetime.expires_at() {
                self.store.remove(&key);
                continue;
            }
            let Ok(slot) = self.cache.add(&key) else {
                break;
            };
            slot.publish(self.cache.entry(&key, token));
            let id = slot.id();
            self.keys.insert(
                id,
                Held {
                    slot,
                    leader: None,
                    last_used,
                },
            );
            // Nothing is started here: the first wake-up sees every restored key at once.
            let step = self
                .worker
                .step(UnixMs(0), Event::Restored(id, lifetime, last_used));
            debug_assert!(step.actions.is_empty(), "no timer fires at the epoch");
        }
        self.woken(now)
    }

    /// Callers wait on a flight that one of them started.
    pub fn demanded(&mut self, now: UnixMs, slot: Arc<Slot>, leader: Leader) -> Work {
        if slot.is_gone() {
            // Purged before the demand got here: the callers have been sent back to the index.
            return self.woken(now);
        }
        let id = slot.id();
        let held = self.keys.entry(id).or_insert(Held {
            slot,
            leader: None,
            last_used: now,
        });
        held.last_used = now;
        held.leader = Some(leader);
        let step = self.worker.step(now, Event::Demanded(id));
        self.perform(step)
    }

    /// Keys that were hit, and when last.
    pub fn used(&mut self, now: UnixMs, used: &[(KeyId, UnixMs)]) -> Work {
        let mut work = self.woken(now);
        for &(id, at) in used {
            if let Some(held) = self.keys.get_mut(&id) {
                held.last_used = held.last_used.max(at);
            }
            let step = self.worker.step(now, Event::Used(id, at));
            work.add(self.perform(step));
        }
        work
    }

    /// A call has ended.
    pub fn landed(
        &mut self,
        now: UnixMs,
        id: KeyId,
        answer: Result<AccessToken, FetchError>,
    ) -> Work {
        let brought = answer.and_then(|token| self.judge(now, id, token));
        // Counted first: whoever is answered by what follows finds the call in the metrics.
        self.metrics.upstream_call(match &brought {
            Ok(Brought::New(_)) => "renewed",
            Ok(Brought::Same(..)) => "unchanged",
            Err(error) => error.class.as_str(),
        });
        let event = match brought {
            Ok(Brought::New(token)) => {
                let lifetime = token.lifetime;
                self.publish(id, token);
                Event::Fetched(id, lifetime, false)
            }
            Ok(Brought::Same(entry, lifetime)) => {
                if let Some(held) = self.keys.get(&id) {
                    held.slot.publish(entry);
                }
                Event::Fetched(id, lifetime, true)
            }
            Err(error) => {
                self.fail(id, &error);
                Event::Failed(id, error)
            }
        };
        if let Some(held) = self.keys.get_mut(&id) {
            held.leader = None;
        }
        let step = self.worker.step(now, event);
        self.perform(step)
    }

    /// Time has passed.
    pub fn woken(&mut self, now: UnixMs) -> Work {
        let step = self.worker.step(now, Event::Woken);
        self.perform(step)
    }

    /// Ends the keys that `which` picks, in memory and on disk. The ticket is over once no worker
    /// holds their tokens.
    pub fn purge(
        &mut self,
        now: UnixMs,
        which: impl Fn(&TokenKey) -> bool,
    ) -> (usize, PurgeTicket, Work) {
        let (ids, ticket) = self.cache.purge(|slot| which(slot.key()));
        let mut work = Work::default();
        for id in &ids {
            if let Some(held) = self.keys.remove(id) {
                self.store.remove(held.slot.key());
            }
            let step = self.worker.step(now, Event::Purged(*id));
            work.add(self.perform(step));
        }
        work.add(self.woken(now));
        (ids.len(), ticket, work)
    }

    /// Every key, for operators; in the order of their keys.
    #[must_use]
    pub fn status(&self) -> Vec<KeyStatus> {
        let mut all: Vec<_> = self
            .keys
            .iter()
            .map(|(id, held)| {
                let entry = held.slot.entry();
                let plan = self.worker.plan(*id);
                KeyStatus {
                    key: held.slot.key().clone(),
                    expires_at: entry.as_ref().map(|e| e.token.lifetime.expires_at()),
                    serve_until: entry.as_ref().map(|e| e.serve_until),
                    next_call_at: plan.and_then(|(at, _)| at),
                    last: plan.map(|(_, last)| last),
                    hits: held.slot.hits(),
                }
            })
            .collect();
        all.sort_by(|a, b| a.key.cmp(&b.key));
        all
    }

    /// Compares what a call brought with what the slot holds.
    fn judge(&self, now: UnixMs, id: KeyId, token: AccessToken) -> Result<Brought, FetchError> {
        let old = self.keys.get(&id).and_then(|held| held.slot.entry());
        let is_same = |old: &Arc<Entry>| old.token.secret.expose() == token.secret.expose();
        match old.filter(is_same) {
            // The same token again, and it is in its last seconds: as good as none.
            Some(old) if is_expired(now, old.serve_until) => Err(FetchError::of(Class::BadExpiry)),
            Some(old) => Ok(Brought::Same(old, token.lifetime)),
            None => Ok(Brought::New(token)),
        }
    }

    /// Puts a token into its slot and the store. If the key was purged during the call, what it
    /// brought is thrown away.
    fn publish(&self, id: KeyId, token: AccessToken) {
        let Some(held) = self.keys.get(&id) else {
            return;
        };
        let (key, token) = (held.slot.key(), Arc::new(token));
        let entry = self.cache.entry(key, Arc::clone(&token));
        let generation = entry.generation;
        if held.slot.publish(entry) {
            self.store.put(key, &token, generation, held.last_used);
        }
    }

    fn fail(&self, id: KeyId, error: &FetchError) {
        let (class, status) = (error.class.as_str(), error.status);
        tracing::warn!(class, status, key = id, "upstream call failed");
        if let Some(held) = self.keys.get(&id) {
            held.slot.fail(&Arc::new(error.clone()));
        }
    }

    fn perform(&mut self, step: Step) -> Work {
        let mut work = Work {
            jobs: Vec::new(),
            wake_at: step.wake_at,
        };
        for action in step.actions {
            match action {
                Action::Fetch(id) => {
                    let Some(held) = self.keys.get_mut(&id) else {
                        continue;
                    };
                    // A renewal flies for callers too, should the token end before it lands. If a
                    // caller has just started the flight, its leader is on the way to us.
                    if held.leader.is_none() {
                        held.leader = held.slot.lead();
                    }
                    work.jobs.push(Job {
                        id,
                        key: held.slot.key().clone(),
                    });
                }
                Action::Retire(id) => {
                    if let Some(held) = self.keys.remove(&id) {
                        self.store.remove(held.slot.key());
                        self.cache.retire(&held.slot);
                    }
                }
            }
        }
        self.metrics.upstream_in_flight(self.worker.in_flight());
        self.metrics.keys(self.cache.len());
        work
    }
}

impl Work {
    fn add(&mut self, later: Work) {
        self.jobs.extend(later.jobs);
        self.wake_at = later.wake_at;
    }
}
