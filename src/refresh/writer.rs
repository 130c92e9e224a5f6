//! Performs the worker's decisions on cache and store.
//!
//! Everything here happens on one thread, at a time that is passed in, and without waiting: the
//! driver runs it on the refresh thread, simulations run it on virtual time.

mod status;

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;

use super::breaker::KeyName;
use super::runway::{self, Runways};
use super::worker::{Action, Event, LastResult, Settings, Step, Worker};
use crate::cache::{Cache, Entry, KeyId, Leader, PurgeTicket, Slot, is_expired};
use crate::clock::anchor::MAX_BELIEVED_MS;
use crate::clock::{News, Seen, UnixMs};
use crate::store::{Restored, Store};
use crate::telemetry::metrics::Metrics;
use crate::token::{AccessToken, Lifetime, TokenKey};
use crate::upstream::{Ask, Class, FetchError};

pub use status::{KeyStatus, Status};

/// Between two looks at all keys.
const SURVEY_MS: u64 = 1000;

/// An upstream call to be made.
#[derive(Debug)]
pub struct Job {
    /// Goes back with the answer, to [`Writer::landed`].
    pub id: KeyId,
    /// What to ask.
    pub ask: Ask,
}

/// What is to be done, and when to come back.
#[derive(Debug, Default)]
pub struct Work {
    /// Calls to start now.
    pub jobs: Vec<Job>,
    /// When to call [`Writer::woken`], if nothing happens before.
    pub wake_at: Option<UnixMs>,
}

/// The only writer of cache and store.
pub struct Writer {
    outage_to_survive_ms: u64,
    /// When all keys were looked at last, and when they may be to make room.
    surveyed_at: UnixMs,
    make_room_at: UnixMs,
    /// Of the last call, if it failed.
    failure: Option<(UnixMs, &'static str)>,
    worker: Worker,
    cache: Arc<Cache>,
    store: Store,
    metrics: Metrics,
    /// The upstream's name in keys.
    upstream: Box<str>,
    /// Stored keys of other upstreams, or without a place: not served, but purged with the rest.
    elsewhere: Vec<TokenKey>,
    /// Stored tokens that are over by the clock at start, until the upstream has said what time it
    /// is.
    over: Vec<Restored>,
    keys: HashMap<KeyId, Held>,
    /// Names keys for the worker: a slot's id ends with the slot.
    names: RandomState,
    /// When a trouble of keys without a token was last logged, by its class.
    told_cold: HashMap<&'static str, UnixMs>,
    /// The clocks do not agree, and nobody has told yet that the upstream is out of reach.
    in_doubt: bool,
}

/// The sorts of clock steps, as the metrics tell them apart.
const STEPS: [&str; 4] = ["forward", "backward", "start", "upstream"];

/// Between two log lines about keys without a token and the same kind of trouble.
const COLD_NEWS_MS: u64 = 60_000;

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
    /// The class of the last call's failure, if it failed: logged when it changes.
    failing: Option<Class>,
    /// The token, as far as its runway goes.
    token: Option<(UnixMs, Lifetime)>,
    /// Less was left than the floor when its last call ended, and the log has said so.
    below: bool,
    /// Its token is of an earlier start.
    restored: bool,
    /// An operator wants another token; its next call says so.
    unwanted: bool,
}

impl Writer {
    /// A writer for this cache and store. `upstream` is the live upstream's name in keys.
    #[must_use]
    pub fn new(
        settings: Settings,
        upstream: &str,
        cache: Arc<Cache>,
        store: Store,
        metrics: Metrics,
    ) -> Self {
        let failures = Class::ALL.map(Class::as_str);
        metrics.expect_clock_steps(STEPS);
        metrics.expect_results(["renewed", "unchanged"].into_iter().chain(failures));
        Self {
            outage_to_survive_ms: settings.outage_to_survive_ms,
            surveyed_at: UnixMs(0),
            make_room_at: UnixMs(0),
            failure: None,
            worker: Worker::new(settings),
            cache,
            store,
            metrics,
            upstream: upstream.into(),
            elsewhere: Vec::new(),
            over: Vec::new(),
            keys: HashMap::new(),
            names: RandomState::new(),
            told_cold: HashMap::new(),
            in_doubt: false,
        }
    }

    /// Puts tokens of an earlier start into the cache. Those that are over are left out, and so are
    /// those of another upstream: to ask ours for them would mix the two up. They stay on disk for
    /// a start with that upstream.
    pub fn restore(&mut self, now: UnixMs, restored: Vec<Restored>) -> Work {
        self.take_back(now, restored);
        self.woken(now)
    }

    /// As [`restore`](Self::restore), when the clocks may not agree: what either of them leaves
    /// alive is kept, and checked.
    pub fn restore_seen(&mut self, seen: &Seen, restored: Vec<Restored>) -> Work {
        self.take_back(seen.earliest, restored);
        let mut work = self.clock(seen);
        work.add(self.woken(seen.now));
        work
    }

    fn take_back(&mut self, now: UnixMs, mut restored: Vec<Restored>) {
        // Nothing may get a generation that is on disk, and the places go to those used last.
        for record in &restored {
            self.cache.resume_after(record.generation);
        }
        restored.sort_by_key(|record| std::cmp::Reverse(record.last_used));
        for record in restored {
            if now >= record.token.lifetime.expires_at() {
                self.over.push(record);
            } else if let Some(event) = self.hold(record) {
                // Nothing is started here: the first wake-up sees every restored key at once.
                let step = self.worker.step(UnixMs(0), event);
                debug_assert!(step.actions.is_empty(), "no timer fires at the epoch");
            }
        }
    }

    /// Puts a stored token into the cache.
    fn hold(&mut self, record: Restored) -> Option<Event> {
        let Restored {
            key,
            token,
            last_used,
            ..
        } = record;
        if key.upstream != self.upstream {
            self.elsewhere.push(key);
            return None;
        }
        let key = Arc::new(key);
        let Ok(slot) = self.cache.add(Arc::clone(&key)) else {
            // No place for it, but it can still be purged.
            self.elsewhere.push(Arc::unwrap_or_clone(key));
            return None;
        };
        let lifetime = token.lifetime;
        let entry = self.cache.entry(&key, token, []);
        let serve_until = entry.serve_until;
        slot.publish(entry);
        let id = slot.id();
        let mut held = Held::new(slot, last_used);
        held.token = Some((serve_until, lifetime));
        held.restored = true;
        self.keys.insert(id, held);
        Some(Event::Restored(id, lifetime, last_used))
    }

    /// The upstream has said what time it is: what was over only by the clock at start is taken
    /// back, unless a call has been made for it since.
    fn judge_those_over(&mut self, now: UnixMs) -> Work {
        let mut work = Work::default();
        for record in std::mem::take(&mut self.over) {
            if let Some(slot) = self.cache.find(&record.key) {
                // What its call brings replaces the record. Until then a purge has to end that too.
                if slot.entry().is_none() {
                    self.elsewhere.push(record.key);
                }
                continue;
            }
            if now >= record.token.lifetime.expires_at() {
                self.store.remove(&record.key);
            } else if let Some(event) = self.hold(record) {
                let step = self.worker.step(now, event);
                work.add(self.perform(now, step));
            }
        }
        work
    }

    /// What has become known about the clocks. To be told before anything else that happens at
    /// `seen.now`: a key that seems to be over, or unused for days, only by a step is kept.
    pub fn clock(&mut self, seen: &Seen) -> Work {
        let mut work = Work::default();
        self.in_doubt &= seen.doubtful;
        self.worker.clock_moved(seen.moved_ms);
        self.metrics.clock_skew(seen.skew_ms);
        for news in &seen.news {
            let event = match *news {
                News::Believed { by_ms } => {
                    tracing::info!(by_ms, "the wall clock stepped forward and is believed");
                    continue;
                }
                News::Agreed => {
                    tracing::info!("the wall clock agrees with the upstream's again");
                    continue;
                }
                News::Skewed { by_ms } => {
                    let ahead_ms = by_ms;
                    tracing::warn!(ahead_ms, "the upstream's clock differs from this machine's");
                    continue;
                }
                News::Stepped { by_ms } => {
                    let sort = if by_ms > 0 { "forward" } else { "backward" };
                    self.doubt(sort, by_ms)
                }
                News::Behind { by_ms } => self.doubt("start", by_ms),
                News::Contradicted { by_ms } => self.doubt("upstream", by_ms),
                News::Decided { by_ms, wall_ms } => {
                    self.in_doubt = false;
                    // What was noted on the later clock is not in the future.
                    for held in self.keys.values_mut() {
                        held.last_used = held.last_used.min(seen.now);
                    }
                    self.told_cold.retain(|_, at| *at <= seen.now);
                    if wall_ms.unsigned_abs() > MAX_BELIEVED_MS.unsigned_abs() {
                        tracing::warn!(by_ms, wall_ms, "this machine's wall clock is wrong");
                    } else {
                        tracing::info!(by_ms, "the upstream has decided what time it is");
                    }
                    Event::ClockDecided
                }
            };
            let step = self.worker.step(seen.now, event);
            work.add(self.perform(seen.now, step));
        }
        if seen.confirmed && !self.over.is_empty() {
            work.add(self.judge_those_over(seen.now));
        }
        work
    }

    fn doubt(&mut self, sort: &'static str, by_ms: i64) -> Event {
        self.in_doubt = true;
        self.metrics.clock_step(sort);
        tracing::warn!(
            sort,
            by_ms,
            "the clocks do not agree: every token is checked"
        );
        Event::ClockStepped
    }

    /// Callers wait on a flight that one of them started.
    pub fn demanded(&mut self, now: UnixMs, slot: Arc<Slot>, leader: Leader) -> Work {
        if slot.is_gone() || leader.is_over() {
            // Purged, or answered by a renewal, before the demand got here.
            return self.woken(now);
        }
        let id = slot.id();
        let held = self.keys.entry(id).or_insert_with(|| Held::new(slot, now));
        held.last_used = now;
        held.leader = Some(leader);
        let forced = held.leader.as_ref().is_some_and(Leader::is_forced);
        let name = KeyName(self.names.hash_one(held.slot.key()));
        let step = self.worker.step(now, Event::Demanded(id, name, forced));
        self.perform(now, step)
    }

    /// Keys that were hit, and when last.
    pub fn used(&mut self, now: UnixMs, used: &[(KeyId, UnixMs)]) -> Work {
        let mut work = self.woken(now);
        for &(id, at) in used {
            if let Some(held) = self.keys.get_mut(&id) {
                held.last_used = held.last_used.max(at.min(now));
            }
            let step = self.worker.step(now, Event::Used(id, at));
            work.add(self.perform(now, step));
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
        let failed = brought.as_ref().err();
        self.failure = failed.map(|error| (now, error.class.as_str()));
        let event = match brought {
            Ok(Brought::New(token)) => {
                let lifetime = token.lifetime;
                self.publish(id, token);
                self.compare_with_floor(now, id, false);
                Event::Fetched(id, lifetime, false)
            }
            Ok(Brought::Same(entry, lifetime)) => {
                if let Some(held) = self.keys.get(&id) {
                    held.slot.publish(entry);
                }
                self.compare_with_floor(now, id, true);
                Event::Fetched(id, lifetime, true)
            }
            Err(error) => {
                let unheard = matches!(error.class, Class::Unreachable | Class::Timeout);
                if unheard && std::mem::take(&mut self.in_doubt) {
                    tracing::warn!("the upstream is out of reach: the later clock decides for now");
                }
                self.fail(now, id, &error);
                Event::Failed(id, error)
            }
        };
        if let Some(held) = self.keys.get_mut(&id) {
            held.leader = None;
            // A wish that came while the call was under way has been met by it.
            held.unwanted = false;
            if !matches!(event, Event::Failed(..)) && held.failing.take().is_some() {
                let key = held.slot.key();
                let (identity, resource) = (&key.identity, &key.resource);
                tracing::info!(%identity, %resource, "upstream calls succeed again");
            }
        }
        let step = self.worker.step(now, event);
        if let Some(lag_ms) = step.lag_ms {
            self.metrics.refreshed(lag_ms);
        }
        self.perform(now, step)
    }

    /// Time has passed.
    pub fn woken(&mut self, now: UnixMs) -> Work {
        let step = self.worker.step(now, Event::Woken);
        self.perform(now, step)
    }

    /// Ends the keys that `which` picks, in memory and on disk; without `which`, everything. The
    /// ticket is over once no worker holds their tokens; [`Store::settle`] says when the disk
    /// does not either.
    pub fn purge(
        &mut self,
        now: UnixMs,
        which: Option<&(dyn Fn(&TokenKey) -> bool + Send)>,
    ) -> (usize, PurgeTicket, Work) {
        let (ids, ticket) = self
            .cache
            .purge(|slot| which.is_none_or(|which| which(slot.key())));
        let elsewhere = self
            .elsewhere
            .extract_if(.., |key| which.is_none_or(|which| which(key)));
        let over = self
            .over
            .extract_if(.., |it| which.is_none_or(|which| which(&it.key)));
        let elsewhere: Vec<_> = elsewhere.chain(over.map(|it| it.key)).collect();
        if which.is_none() {
            self.store.remove_all();
        } else {
            elsewhere.iter().for_each(|key| self.store.remove(key));
            self.store.remove_unclaimed();
        }
        // All of them before the worker hears of the first: what it does then may meet the others.
        for id in &ids {
            if let Some(held) = self.keys.remove(id) {
                self.store.remove(held.slot.key());
            }
        }
        let mut work = Work::default();
        for id in &ids {
            let step = self.worker.step(now, Event::Purged(*id));
            work.add(self.perform(now, step));
        }
        work.add(self.woken(now));
        (ids.len() + elsewhere.len(), ticket, work)
    }

    /// Calls for the keys that `which` picks, or for all, as soon as nobody else needs the budget.
    /// Says which those are, and which it picks that hold no token to renew.
    pub fn renew(
        &mut self,
        now: UnixMs,
        which: Option<&(dyn Fn(&TokenKey) -> bool + Send)>,
    ) -> (HashMap<KeyId, TokenKey>, Vec<TokenKey>, Work) {
        let (mut asked, mut empty) = (HashMap::new(), Vec::new());
        for (id, held) in &mut self.keys {
            let key = held.slot.key();
            if which.is_some_and(|which| !which(key)) {
                continue;
            }
            held.unwanted = held.token.is_some();
            if held.token.is_some() {
                asked.insert(*id, key.clone());
            } else {
                empty.push(key.clone());
            }
        }
        let mut work = self.woken(now);
        for id in asked.keys() {
            let step = self.worker.step(now, Event::Renew(*id));
            work.add(self.perform(now, step));
        }
        (asked, empty, work)
    }

    /// How the last call for a key ended, if the key is still held.
    #[must_use]
    pub fn last(&self, id: KeyId) -> Option<LastResult> {
        self.keys.get(&id)?;
        self.worker.plan(id).map(|(_, last)| last)
    }

    /// Once for each turn of the driver: publishes how many keys there are, and makes room for
    /// others; and once a second how long they would be served.
    pub fn survey(&mut self, now: UnixMs, work: &mut Work) {
        self.make_room(now, work);
        // Counting locks the index for a moment.
        self.metrics.keys(self.cache.len());
        if now.since(self.surveyed_at) < SURVEY_MS && now >= self.surveyed_at {
            return;
        }
        self.surveyed_at = now;
        let keys = self.keys.values().filter_map(|held| {
            let (serve_until, lifetime) = held.token?;
            Some(runway::Held {
                serve_until,
                lifetime,
                last_used: held.last_used,
            })
        });
        let Runways { shortest_ms, below } = runway::runways(now, self.outage_to_survive_ms, keys);
        self.metrics.runway(shortest_ms / 1000, below);
        self.metrics.breaker(self.worker.breaker());
    }

    /// Keeps places free for keys that callers ask for next. First go keys without a token that
    /// nobody waits for any more; then those that served nobody but who asked first, the longest
    /// unused first. A token of an earlier start stays: whom it served then is not known.
    fn make_room(&mut self, now: UnixMs, work: &mut Work) {
        let excess = runway::excess(self.cache.len(), self.cache.limits().max_keys);
        if excess == 0 || (now < self.make_room_at && self.make_room_at.since(now) <= SURVEY_MS) {
            return;
        }
        let mut spare: Vec<_> = self
            .keys
            .iter()
            .filter_map(|(id, held)| {
                let (hits, last_used) = (held.slot.hits(), held.last_used);
                let goes = if held.token.is_none() {
                    held.slot.is_abandoned()
                } else {
                    let idle = held.leader.is_none() && !held.restored;
                    idle && runway::spare(now, hits, last_used)
                };
                let rank = (held.token.is_some(), last_used, *id);
                goes.then_some(rank)
            })
            .collect();
        spare.sort_unstable();
        spare.truncate(excess);
        if spare.len() < excess {
            // There is no more to be had: looking at all keys again at once would not help.
            self.make_room_at = now.plus(SURVEY_MS);
        }
        for (has_token, _, id) in spare {
            let Some(held) = self.keys.remove(&id) else {
                continue;
            };
            if has_token {
                self.store.remove(held.slot.key());
            }
            self.cache.retire(&held.slot);
            let step = self.worker.step(now, Event::Purged(id));
            work.add(self.perform(now, step));
        }
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

    /// Says so, once until it is otherwise, if a call for a key has ended and less is left than the
    /// outage to survive: calling more often does not help there.
    fn compare_with_floor(&mut self, now: UnixMs, id: KeyId, same: bool) {
        let Some(held) = self.keys.get_mut(&id) else {
            return;
        };
        let Some((serve_until, _)) = held.token else {
            return;
        };
        let left = serve_until.since(now);
        let below = left < self.outage_to_survive_ms;
        if std::mem::replace(&mut held.below, below) || !below {
            return;
        }
        let key = held.slot.key();
        let (identity, resource) = (&key.identity, &key.resource);
        let (left_s, wanted_s) = (left / 1000, self.outage_to_survive_ms / 1000);
        if same {
            tracing::warn!(
                %identity, %resource, left_s, wanted_s,
                "the upstream repeats a token that is too short for the outage to survive"
            );
        } else {
            tracing::warn!(
                %identity, %resource, left_s, wanted_s,
                "a token's whole life is too short for the outage to survive"
            );
        }
    }

    /// Puts a token into its slot and the store. If the key was purged during the call, what it
    /// brought is thrown away.
    fn publish(&mut self, id: KeyId, token: AccessToken) {
        let Some(held) = self.keys.get_mut(&id) else {
            return;
        };
        let (key, token) = (held.slot.key(), Arc::new(token));
        let entry = self
            .cache
            .entry(key, Arc::clone(&token), held.slot.wanted());
        let generation = entry.generation;
        held.token = Some((entry.serve_until, token.lifetime));
        held.restored = false;
        if held.slot.publish(entry) {
            self.store.put(key, &token, generation, held.last_used);
        }
    }

    fn fail(&mut self, now: UnixMs, id: KeyId, error: &FetchError) {
        let Some(held) = self.keys.get_mut(&id) else {
            return;
        };
        // Once for each kind of trouble and key: an outage of hours has thousands of calls. A key
        // without a token is forgotten with its trouble, so for all of those once in a while.
        let class = error.class;
        let news = held.failing.replace(class) != Some(class);
        let cold = held.slot.entry().is_none();
        let told = self.told_cold.get(class.as_str()).copied();
        let lately = cold && told.is_some_and(|at| now.since(at) < COLD_NEWS_MS);
        if news && !lately {
            if cold {
                self.told_cold.insert(class.as_str(), now);
            }
            let key = held.slot.key();
            tracing::warn!(
                class = class.as_str(),
                status = error.status,
                identity = %key.identity,
                resource = %key.resource,
                "upstream calls fail"
            );
        }
        held.slot.fail(&Arc::new(error.clone()));
    }

    fn perform(&mut self, now: UnixMs, step: Step) -> Work {
        let mut work = Work {
            jobs: Vec::new(),
            wake_at: step.wake_at,
        };
        let mut actions = VecDeque::from(step.actions);
        while let Some(action) = actions.pop_front() {
            let Some(held) = self.keys.get_mut(action.id()) else {
                // Among those that are being purged, and the worker has yet to hear of it.
                if let Action::Fetch(id) = action {
                    let step = self.worker.step(now, Event::Abandoned(id));
                    work.wake_at = step.wake_at;
                    actions.extend(step.actions);
                }
                continue;
            };
            match action {
                Action::Fetch(id) => {
                    // Left by all its callers, or ended by a worker that found a foreign entry in
                    // it: no call is made, and the worker takes it back.
                    if held.slot.is_gone() || held.slot.is_abandoned() {
                        if let Some(held) = self.keys.remove(&id) {
                            self.cache.retire(&held.slot);
                        }
                        let step = self.worker.step(now, Event::Abandoned(id));
                        work.wake_at = step.wake_at;
                        actions.extend(step.actions);
                        continue;
                    }
                    // A renewal flies for callers too, should the token end before it lands. If a
                    // caller has just started the flight, its leader is on the way to us.
                    if held.leader.is_none() {
                        held.leader = held.slot.lead();
                    }
                    let unwanted = std::mem::take(&mut held.unwanted);
                    let held_entry = || held.slot.entry().filter(|_| unwanted);
                    let revoked = held.slot.rejected().or_else(held_entry);
                    let ask = Ask {
                        key: held.slot.key().clone(),
                        revoked: revoked.map(|entry| entry.hash()),
                    };
                    work.jobs.push(Job { id, ask });
                }
                Action::Refuse(_, error) => {
                    held.slot.fail(&error);
                    held.leader = None;
                }
                Action::Retire(id) => {
                    // A slot that is gone has, or will have, a successor with records of its own;
                    // one without an entry has none.
                    if held.slot.entry().is_some() {
                        self.store.remove(held.slot.key());
                    }
                    self.cache.retire(&held.slot);
                    self.keys.remove(&id);
                }
            }
        }
        self.metrics.upstream_in_flight(self.worker.in_flight());
        work
    }
}

impl Held {
    fn new(slot: Arc<Slot>, last_used: UnixMs) -> Self {
        Self {
            slot,
            leader: None,
            last_used,
            failing: None,
            token: None,
            below: false,
            restored: false,
            unwanted: false,
        }
    }
}

impl Work {
    /// What is to be done after this as well.
    pub fn add(&mut self, later: Work) {
        self.jobs.extend(later.jobs);
        self.wake_at = later.wake_at;
    }
}
