//! Which clock is right: a state machine over readings of both and what the upstream says.
//!
//! Pure: it looks at no clock. The timeline is the boot-time clock plus an offset. While the clocks
//! agree, the offset only ever grows, by small forward steps of the wall clock. A step that is
//! larger, or backward, makes the timeline doubtful: the later of the two clocks is in force, so
//! that nothing is served that either says is over, until the upstream's `Date` decides. If none
//! comes, because the upstream is out of reach, the later clock stays in force: it has decided.
//!
//! While the timeline is certain, a `Date` that shows it to be behind by up to five minutes moves it
//! forward, so that no token is served in the minutes in which it is over elsewhere.
//!
//! So the timeline goes back only at a [`News::Decided`], and `expires_in` grows at no other time.

use super::{Boot, UnixMs};

/// Forward steps of the wall clock up to this are believed at once: a paused virtual machine's boot
/// clock stands still for up to half a minute, and time services correct a few minutes.
pub const MAX_BELIEVED_MS: i64 = 5 * 60 * 1000;

/// The wall clock may be so far behind the timeline without a doubt: a leap second, and the time
/// that passes between two readings. What it loses adds up, so that creeping back is noticed too.
pub const MAX_IGNORED_MS: i64 = 1500;

/// The upstream's clock may differ so much from ours.
const MAX_SKEW_MS: i64 = MAX_BELIEVED_MS;

/// A `Date` before 2020 or after 2100 is not looked at: no clock that issues tokens is there.
const DATES: std::ops::Range<u64> = 1_577_836_800_000..4_102_444_800_000;

/// After the upstream contradicted clocks that agree, it is not heard on that for an hour, so that
/// one whose `Date` is random does not have every key asked for again and again.
const CONTRADICTION_PAUSE_MS: u64 = 3_600_000;

/// Both clocks, read together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reading {
    /// What the wall clock shows.
    pub wall: UnixMs,
    /// What the boot-time clock shows.
    pub boot: Boot,
}

impl Reading {
    /// Wall time minus boot time.
    #[must_use]
    pub fn offset(self) -> i64 {
        difference(self.wall.0, self.boot.0)
    }
}

/// An upstream's `Date`, which has whole seconds, and between which moments it was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dated {
    /// What it says.
    pub date: UnixMs,
    /// Before the request went out.
    pub sent: Boot,
    /// After the answer came in.
    pub received: Boot,
}

/// What has become known about the clocks; for the log, and for whoever keeps times.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum News {
    /// The wall clock took a small step forward, and the timeline with it.
    Believed {
        /// How far, in milliseconds.
        by_ms: i64,
    },
    /// The wall clock stepped, by too much or backward: the later clock is in force.
    Stepped {
        /// How far, in milliseconds.
        by_ms: i64,
    },
    /// The newest stored token was received after what the wall clock shows at start.
    Behind {
        /// How long after, in milliseconds.
        by_ms: i64,
    },
    /// The clocks agree, and the upstream's differs: its next answer decides.
    Contradicted {
        /// How far the upstream is ahead, in milliseconds.
        by_ms: i64,
    },
    /// The upstream's `Date` has decided.
    Decided {
        /// How far the timeline has moved, in milliseconds.
        by_ms: i64,
        /// How far the wall clock is ahead of it, in milliseconds.
        wall_ms: i64,
    },
    /// The wall clock was put right by itself: both clocks agree again.
    Agreed,
    /// The upstream's clock differs from the wall clock by other seconds or minutes than before. If
    /// it is ahead, the timeline has followed it; if it is behind, tokens end a little early.
    Skewed {
        /// How far the upstream is ahead, in milliseconds.
        by_ms: i64,
    },
}

/// Whether the timeline is certain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It is, as far as anybody knows.
    Settled,
    /// There are two clocks, of which the later is in force.
    Doubtful {
        /// The offset of the earlier one.
        earlier: i64,
        /// Answers to questions that were sent before do not decide.
        since: Boot,
    },
}

/// The state machine.
#[derive(Debug, Clone)]
pub struct Anchor {
    /// The timeline is boot time plus this.
    offset: i64,
    /// The wall clock's offset, as far as it has been accounted for.
    wall: i64,
    state: State,
    /// What the upstream decided on against the wall clock, moved by what was believed since.
    overruled: Option<i64>,
    /// How far the upstream is ahead of the wall clock, as its last `Date` shows it, and what was
    /// last said of that. In milliseconds.
    skew: i64,
    told_skew: i64,
    /// Whether the upstream has ever spoken for this timeline, or has decided on it.
    confirmed: bool,
    /// When the upstream last contradicted clocks that agree.
    contradicted: Option<Boot>,
    /// What its time would make of the timeline, and when it said so: a second answer to a question
    /// sent since, and to the same end, decides.
    suspect: Option<(Boot, i64)>,
}

impl Anchor {
    /// The timeline that starts with the wall clock.
    #[must_use]
    pub fn new(reading: Reading) -> Self {
        Self {
            offset: reading.offset(),
            wall: reading.offset(),
            state: State::Settled,
            overruled: None,
            skew: 0,
            told_skew: 0,
            confirmed: false,
            contradicted: None,
            suspect: None,
        }
    }

    /// The timeline's offset from boot time.
    #[must_use]
    pub fn offset(&self) -> i64 {
        self.offset
    }

    /// The wall clock's offset as it was accounted for.
    #[must_use]
    pub fn wall(&self) -> i64 {
        self.wall
    }

    /// How far the upstream's clock is ahead of the wall clock, as its last `Date` shows it, in
    /// milliseconds.
    #[must_use]
    pub fn skew(&self) -> i64 {
        self.skew
    }

    /// Whether the upstream has ever spoken for this timeline, or has decided on it.
    #[must_use]
    pub fn is_confirmed(&self) -> bool {
        self.confirmed
    }

    /// Whether the timeline is certain.
    #[must_use]
    pub fn state(&self) -> State {
        self.state
    }

    /// The time by the timeline.
    #[must_use]
    pub fn now(&self, boot: Boot) -> UnixMs {
        at(boot, self.offset)
    }

    /// The time by the earlier of the clocks; the timeline itself while it is certain.
    #[must_use]
    pub fn earliest(&self, boot: Boot) -> UnixMs {
        match self.state {
            State::Settled => self.now(boot),
            State::Doubtful { earlier, .. } => at(boot, earlier),
        }
    }

    /// Takes a reading of both clocks in.
    pub fn read(&mut self, reading: Reading) -> Option<News> {
        let by_ms = reading.offset().saturating_sub(self.wall);
        if (-MAX_IGNORED_MS..=0).contains(&by_ms) {
            return None;
        }
        self.wall = reading.offset();
        // A wall clock that the upstream has overruled is believed nothing of any size.
        let believed = match self.overruled {
            Some(_) => MAX_IGNORED_MS,
            None => MAX_BELIEVED_MS,
        };
        if (1..=believed).contains(&by_ms) {
            self.forward(by_ms);
            return (by_ms > MAX_IGNORED_MS).then_some(News::Believed { by_ms });
        }
        self.suspect = None;
        if self.overruled.is_some() && agree(self.offset, self.wall) {
            self.offset = self.offset.max(self.wall);
            self.overruled = None;
            return Some(News::Agreed);
        }
        self.doubt(self.wall, reading.boot);
        Some(News::Stepped { by_ms })
    }

    /// The wall clock has gone ahead of boot time by a little.
    fn forward(&mut self, by_ms: i64) {
        match &mut self.state {
            // The later clock is in force, and no more than that: one that goes to and fro does not
            // drive the timeline ahead of both.
            State::Doubtful { earlier, .. } => {
                self.offset = self.offset.max(self.wall);
                *earlier = earlier.saturating_add(by_ms).min(self.offset);
            }
            // It has caught up with the upstream's, which the timeline follows already.
            State::Settled if agree(self.offset, self.wall) => {
                self.offset = self.offset.max(self.wall);
            }
            // Time has passed on every clock, as in a pause of the machine.
            State::Settled => {
                self.offset = self.offset.saturating_add(by_ms);
                self.overruled = self.overruled.map(|it| it.saturating_add(by_ms));
            }
        }
    }

    /// Takes the receipt of the newest stored token in, at start: so late it is at least.
    pub fn remember(&mut self, newest: UnixMs, boot: Boot) -> Option<News> {
        let by_ms = difference(newest.0, self.now(boot).0);
        if by_ms <= MAX_BELIEVED_MS {
            // Minutes may be what the timeline was ahead of the wall clock, by the upstream's.
            self.offset = self.offset.saturating_add(by_ms.max(0));
            return None;
        }
        self.doubt(difference(newest.0, boot.0), boot);
        Some(News::Behind { by_ms })
    }

    /// Takes the upstream's `Date` in.
    pub fn learn(&mut self, dated: Dated) -> Option<News> {
        let Dated {
            date,
            sent,
            received,
        } = dated;
        if !DATES.contains(&date.0) || received < sent {
            return None;
        }
        // The upstream's clock was read in the second that the date names, at some moment of the
        // call.
        let low = difference(date.0, received.0);
        let high = difference(date.0.saturating_add(999), sent.0);
        let State::Doubtful { earlier, since } = self.state else {
            return self.compare(dated, low, high);
        };
        if sent < since {
            return None;
        }
        // The nearest; of two that are equally near, the later.
        let mut candidates = [self.offset, self.wall, earlier];
        candidates.sort_unstable_by_key(|offset| std::cmp::Reverse(*offset));
        let skew = |offset: &i64| skew(*offset, low, high);
        let nearest = candidates.into_iter();
        let nearest = nearest.min_by_key(|offset| skew(offset).unsigned_abs());
        let nearest = nearest.filter(|offset| is_near(skew(offset)));
        Some(self.decide(nearest.map_or(high, |offset| offset.max(low))))
    }

    /// The clocks agree, or the upstream has decided between them: what does it say now?
    fn compare(&mut self, dated: Dated, low: i64, high: i64) -> Option<News> {
        let base = self.overruled.unwrap_or(self.wall);
        let (by_ms, of_base) = (skew(self.offset, low, high), skew(base, low, high));
        if is_near(by_ms) && is_near(of_base) {
            self.confirmed = true;
            self.skew = skew(self.wall, low, high);
            // Behind: followed at once, by five minutes from its base at most.
            self.offset = self.offset.saturating_add(by_ms.max(0));
            if by_ms < -MAX_IGNORED_MS && of_base.abs() <= MAX_IGNORED_MS {
                // Ahead of both other clocks: one slip of the upstream's may have led it there.
                return self.suspect(dated, base.max(low), None);
            }
            self.suspect = None;
            let differs = !agree(self.skew, self.told_skew);
            return differs.then(|| {
                self.told_skew = self.skew;
                News::Skewed { by_ms: self.skew }
            });
        }
        if !self.confirmed {
            return Some(self.decide(high));
        }
        self.suspect(dated, high, Some(News::Contradicted { by_ms }))
    }

    /// The upstream would have the timeline elsewhere: that is `news` the first time within an hour,
    /// and the second time it is so.
    fn suspect(&mut self, dated: Dated, offset: i64, news: Option<News>) -> Option<News> {
        let Dated { sent, received, .. } = dated;
        match self.suspect {
            Some((since, _)) if sent < since => None,
            Some((_, before)) if is_near(before.saturating_sub(offset)) => {
                Some(self.decide(offset))
            }
            Some(_) => {
                self.suspect = Some((received, offset));
                None
            }
            None => {
                let pause = |last: Boot| last.0.saturating_add(CONTRADICTION_PAUSE_MS);
                let rested = self
                    .contradicted
                    .is_none_or(|last| received.0 >= pause(last));
                if !rested {
                    return None;
                }
                self.contradicted = Some(received);
                self.suspect = Some((received, offset));
                news
            }
        }
    }

    /// There is one more clock: from now on the latest is in force.
    fn doubt(&mut self, other: i64, since: Boot) {
        self.overruled = None;
        let earlier = match self.state {
            State::Settled => self.offset.min(other),
            State::Doubtful { earlier, .. } => earlier.min(other),
        };
        self.offset = self.offset.max(other);
        self.state = State::Doubtful { earlier, since };
    }

    fn decide(&mut self, offset: i64) -> News {
        let by_ms = offset.saturating_sub(self.offset);
        self.offset = offset;
        self.state = State::Settled;
        (self.confirmed, self.suspect) = (true, None);
        // The news of the decision says it.
        self.skew = offset.saturating_sub(self.wall);
        self.told_skew = self.skew;
        self.overruled = (!is_near(self.skew)).then_some(offset);
        let wall_ms = self.wall.saturating_sub(offset);
        News::Decided { by_ms, wall_ms }
    }
}

/// Boot time plus an offset, held at both ends of time.
#[must_use]
pub(super) fn at(boot: Boot, offset: i64) -> UnixMs {
    UnixMs(boot.0.saturating_add_signed(offset))
}

/// `a` minus `b`, held at both ends.
#[must_use]
pub(super) fn difference(a: u64, b: u64) -> i64 {
    let all = i128::from(a) - i128::from(b);
    let least = i64::MIN;
    i64::try_from(all).unwrap_or(if all < 0 { least } else { i64::MAX })
}

/// How far a clock that was read between these offsets is ahead of this one.
fn skew(offset: i64, low: i64, high: i64) -> i64 {
    match offset {
        offset if offset < low => low.saturating_sub(offset),
        offset if offset > high => high.saturating_sub(offset),
        _ => 0,
    }
}

fn is_near(skew: i64) -> bool {
    (-MAX_SKEW_MS..=MAX_SKEW_MS).contains(&skew)
}

fn agree(a: i64, b: i64) -> bool {
    a.saturating_sub(b).saturating_abs() <= MAX_IGNORED_MS
}

#[cfg(test)]
mod tests;
