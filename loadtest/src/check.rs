//! Whether an answer is right: the rules, and a memory that makes them cheap.
//!
//! A token is taken apart once. After that an answer for the same key is compared with the last
//! one for it, byte by byte but for the digits that move with time, and those are read. Tokens stay
//! here: what leaves is an [`Outcome`].

use std::ops::Range;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;

use crate::outcome::{Outcome, Wrong};

/// How far `expires_in` may be off.
const SLACK_MS: u64 = 1_000;

/// When the server may have looked at its clock: from when it was asked until its answer arrived,
/// in milliseconds since the Unix epoch.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Between {
    pub asked_ms: u64,
    pub arrived_ms: u64,
}

/// Checks the answers that one thread gets.
pub(crate) struct Checker {
    resources: Vec<String>,
    /// For each key, the last answer with a token for it.
    known: Vec<Option<Known>>,
}

/// An answer with a token for the right resource; its times are judged anew with each that is like
/// it. Holds a token, so it is not to be printed.
struct Known {
    body: Box<[u8]>,
    /// The digits of `expires_in` and of `ext_expires_in`, in the order in which they stand.
    moving: Vec<Range<usize>>,
    /// Which of these is `expires_in`.
    expires_in: usize,
    ends_s: u64,
}

impl Checker {
    pub(crate) fn new(resources: Vec<String>) -> Self {
        let known = resources.iter().map(|_| None).collect();
        Self { resources, known }
    }

    /// When the token of the last right answer for this key ends, by the wall clock in seconds.
    pub(crate) fn ends_s(&self, key: usize) -> Option<u64> {
        self.known[key].as_ref().map(|known| known.ends_s)
    }

    /// Judges the answer to a request for this key.
    pub(crate) fn judge(&mut self, key: usize, status: u16, body: &[u8], when: Between) -> Outcome {
        if status != 200 {
            return Outcome::Refused(status);
        }
        let known = self.known[key].as_ref();
        if let Some((ends_s, left_s)) = known.and_then(|known| known.reads(body)) {
            return judge_times(ends_s, Some(left_s), when);
        }
        match take_apart(body, &self.resources[key]) {
            Err(wrong) => Outcome::Wrong(wrong),
            Ok(read) => {
                // Remembered even if its times are wrong: a cache may repeat it a million times.
                self.known[key] = Known::new(body, read.ends_s);
                judge_times(read.ends_s, read.left_s, when)
            }
        }
    }
}

fn judge_times(ends_s: u64, left_s: Option<u64>, when: Between) -> Outcome {
    let ends_ms = ends_s.saturating_mul(1_000);
    if ends_ms <= when.arrived_ms {
        return Outcome::Wrong(Wrong::Expired);
    }
    let least = ends_ms.saturating_sub(when.arrived_ms + SLACK_MS);
    let most = ends_ms.saturating_sub(when.asked_ms) + SLACK_MS;
    match left_s.map(|left_s| left_s.saturating_mul(1_000)) {
        Some(left_ms) if (least..=most).contains(&left_ms) => Outcome::Right,
        _ => Outcome::Wrong(Wrong::ExpiresIn),
    }
}

/// What matters of an answer of which the token is for the right resource.
struct Apart {
    /// When it ends, by the answer or by the token, whichever is sooner.
    ends_s: u64,
    left_s: Option<u64>,
}

#[derive(Deserialize)]
struct Body<'a> {
    access_token: &'a str,
    expires_on: Number,
    expires_in: Option<Number>,
    resource: Option<String>,
}

/// Sources write numbers as such or as text.
#[derive(Deserialize)]
#[serde(untagged)]
enum Number {
    Plain(u64),
    Text(String),
}

impl Number {
    fn value(&self) -> Option<u64> {
        match self {
            Self::Plain(value) => Some(*value),
            Self::Text(text) => text.parse().ok(),
        }
    }
}

#[derive(Deserialize)]
struct Claims {
    aud: String,
    exp: u64,
}

fn take_apart(body: &[u8], asked: &str) -> Result<Apart, Wrong> {
    let body: Body = serde_json::from_slice(body).map_err(|_| Wrong::Malformed)?;
    let claims = claims(body.access_token).ok_or(Wrong::Malformed)?;
    if claims.aud != asked {
        return Err(Wrong::Audience);
    }
    if body.resource.is_some_and(|named| named != asked) {
        return Err(Wrong::Resource);
    }
    let says_s = body.expires_on.value().ok_or(Wrong::Malformed)?;
    Ok(Apart {
        ends_s: says_s.min(claims.exp),
        left_s: body.expires_in.and_then(|left| left.value()),
    })
}

fn claims(token: &str) -> Option<Claims> {
    let mut parts = token.split('.');
    let (_, payload, _) = (parts.next()?, parts.next()?, parts.next()?);
    let json = URL_SAFE_NO_PAD.decode(payload).ok()?;
    serde_json::from_slice(&json).ok()
}

impl Known {
    /// Nothing if it has no `expires_in` that could be found again.
    fn new(body: &[u8], ends_s: u64) -> Option<Self> {
        let expires_in = digits_of(body, b"\"expires_in\"")?;
        let mut moving = vec![expires_in.clone()];
        moving.extend(digits_of(body, b"\"ext_expires_in\""));
        moving.sort_by_key(|place| place.start);
        Some(Self {
            expires_in: moving.iter().position(|place| *place == expires_in)?,
            body: body.into(),
            moving,
            ends_s,
        })
    }

    /// When the token ends and how long it is said to last, if this is the same answer but for the
    /// digits that move.
    fn reads(&self, body: &[u8]) -> Option<(u64, u64)> {
        // Another number of digits is another answer: it is taken apart.
        if body.len() != self.body.len() {
            return None;
        }
        let (mut at, mut left_s) = (0, 0);
        for (place, digits) in self.moving.iter().enumerate() {
            if body[at..digits.start] != self.body[at..digits.start] {
                return None;
            }
            let value = number(&body[digits.clone()])?;
            if place == self.expires_in {
                left_s = value;
            }
            at = digits.end;
        }
        (body[at..] == self.body[at..]).then_some((self.ends_s, left_s))
    }
}

/// Where the digits of a member stand, which may be in quotes.
fn digits_of(body: &[u8], name: &[u8]) -> Option<Range<usize>> {
    let at = body.windows(name.len()).position(|it| it == name)? + name.len();
    let skip = |byte: &u8| matches!(byte, b':' | b'"' | b' ');
    let from = at + body[at..].iter().take_while(|byte| skip(byte)).count();
    let digits = body[from..].iter().take_while(|byte| byte.is_ascii_digit());
    let digits = digits.count();
    (digits > 0).then_some(from..from + digits)
}

fn number(digits: &[u8]) -> Option<u64> {
    digits.iter().try_fold(0_u64, |sum, byte| {
        let digit = byte.is_ascii_digit().then(|| u64::from(byte - b'0'))?;
        sum.checked_mul(10)?.checked_add(digit)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW_MS: u64 = 1_800_000_000_500;
    const NOW_S: u64 = NOW_MS / 1_000;
    const ASKED: &str = "https://a";
    const AT_ONCE: Between = Between {
        asked_ms: NOW_MS,
        arrived_ms: NOW_MS,
    };

    fn token(aud: &str, exp: u64) -> String {
        let claims = serde_json::json!({"aud": aud, "exp": exp}).to_string();
        format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(claims))
    }

    fn body(token: &str, expires_in: u64, expires_on: u64, resource: &str) -> String {
        format!(
            r#"{{"access_token":"{token}","expires_in":"{expires_in}","expires_on":"{expires_on}","ext_expires_in":"{expires_in}","resource":"{resource}"}}"#
        )
    }

    fn right(left_s: u64) -> String {
        body(&token(ASKED, NOW_S + 500), left_s, NOW_S + 500, ASKED)
    }

    fn checker() -> Checker {
        Checker::new(vec![ASKED.to_owned(), "https://b".to_owned()])
    }

    fn later(seconds: u64) -> Between {
        let at = NOW_MS + seconds * 1_000;
        Between {
            asked_ms: at,
            arrived_ms: at,
        }
    }

    /// What a checker says that knows nothing, and one that knows the right answer.
    fn judged(body: &str, when: Between) -> Outcome {
        let mut cold = checker();
        let first = cold.judge(0, 200, body.as_bytes(), when);
        let mut warm = checker();
        assert_eq!(
            warm.judge(0, 200, right(499).as_bytes(), AT_ONCE),
            Outcome::Right
        );
        assert!(warm.known[0].is_some());
        assert_eq!(
            warm.judge(0, 200, body.as_bytes(), when),
            first,
            "known or not"
        );
        first
    }

    #[test]
    fn expires_in_may_be_off_by_a_second_and_no_more() {
        let off = Outcome::Wrong(Wrong::ExpiresIn);
        // 499.5 s are left.
        for (left_s, outcome) in [
            (500, Outcome::Right),
            (499, Outcome::Right),
            (501, off),
            (498, off),
            (494, off),
            (0, off),
            (86_399, off),
        ] {
            assert_eq!(judged(&right(left_s), AT_ONCE), outcome, "{left_s}");
        }
        assert_eq!(judged(&right(494), later(5)), Outcome::Right);
        assert_eq!(
            judged(&right(499), later(5)),
            off,
            "an answer kept as it was"
        );
        let slow = Between {
            asked_ms: NOW_MS,
            arrived_ms: NOW_MS + 5_000,
        };
        assert_eq!(
            judged(&right(496), slow),
            Outcome::Right,
            "the clock was read between"
        );
        let without = r#"{"access_token":"T","expires_on":1800000500}"#;
        let without = without.replace('T', &token(ASKED, NOW_S + 500));
        assert_eq!(judged(&without, AT_ONCE), off);
    }

    #[test]
    fn a_token_for_another_resource_is_found_whatever_is_named() {
        let (for_b, end) = (token("https://b", NOW_S + 500), NOW_S + 500);
        for named in [ASKED, "https://b"] {
            let told = judged(&body(&for_b, 499, end, named), AT_ONCE);
            assert_eq!(told, Outcome::Wrong(Wrong::Audience));
        }
        let renamed = body(&token(ASKED, end), 499, end, "https://b");
        assert_eq!(judged(&renamed, AT_ONCE), Outcome::Wrong(Wrong::Resource));
        let mut checker = checker();
        for key in [0, 1] {
            let told = checker.judge(key, 200, right(499).as_bytes(), AT_ONCE);
            assert_eq!(
                told == Outcome::Right,
                key == 0,
                "what one key knows serves no other"
            );
        }
    }

    #[test]
    fn a_token_that_has_ended_is_found_by_its_own_word_or_by_the_answers() {
        let (past, end) = (NOW_S, NOW_S + 500);
        for (exp, on) in [(past, past), (past, end), (end, past)] {
            let told = judged(&body(&token(ASKED, exp), 499, on, ASKED), AT_ONCE);
            assert_eq!(told, Outcome::Wrong(Wrong::Expired), "{exp} {on}");
        }
        assert_eq!(
            judged(&right(0), later(500)),
            Outcome::Wrong(Wrong::Expired)
        );
        assert_eq!(judged(&right(1), later(499)), Outcome::Right);
    }

    #[test]
    fn what_is_no_token_answer_is_malformed() {
        let good = right(499);
        for bad in [
            "",
            "{}",
            "<html>",
            &good[..good.len() - 1],
            &good.replace("e30.", ""),
            &good.replace("expires_on", "expires"),
            &good.replace(ASKED, "\u{1}"),
        ] {
            assert_eq!(
                judged(bad, AT_ONCE),
                Outcome::Wrong(Wrong::Malformed),
                "{bad}"
            );
        }
    }

    #[test]
    fn refusals_are_told_by_their_status() {
        for status in [400, 429, 500, 503] {
            let told = checker().judge(0, status, right(499).as_bytes(), AT_ONCE);
            assert_eq!(told, Outcome::Refused(status));
        }
    }

    #[test]
    fn an_answer_with_wrong_times_is_known_when_it_comes_again() {
        let mut checker = checker();
        for _ in 0..2 {
            let told = checker.judge(0, 200, right(400).as_bytes(), AT_ONCE);
            assert_eq!(told, Outcome::Wrong(Wrong::ExpiresIn));
            assert!(checker.known[0].is_some());
        }
        let other = right(400).replace(".c2ln", ".c2lo");
        assert_eq!(
            checker.known[0].as_ref().unwrap().reads(other.as_bytes()),
            None,
            "another token is another answer"
        );
        assert_eq!(
            checker.judge(0, 200, right(499).as_bytes(), AT_ONCE),
            Outcome::Right
        );
    }

    #[test]
    fn a_renewed_token_takes_the_place_of_the_last_one() {
        let mut checker = checker();
        for end in [500, 900] {
            let body = body(&token(ASKED, NOW_S + end), end - 1, NOW_S + end, ASKED);
            assert_eq!(
                checker.judge(0, 200, body.as_bytes(), AT_ONCE),
                Outcome::Right
            );
            assert_eq!(checker.known[0].as_ref().unwrap().ends_s, NOW_S + end);
        }
    }
}
