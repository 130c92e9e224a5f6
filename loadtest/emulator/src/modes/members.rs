//! Modes of the members of the body: the token, whose it is, and when it ends.

use serde_json::{Value, json};

use super::Keep::{Either, No, Yes};
use super::{
    ALL, ALL_BUT_ENTRA, Group, IMDS_LIKE, Mode, WITH_CLIENT_ID, WITH_EXPIRES_IN,
    WITH_EXT_EXPIRES_IN, WITH_NOT_BEFORE, edit, rows,
};
use crate::FaultKind;
use crate::faults::ExpirySpelling;

const HOUR_S: i64 = 3600;
const ELSEWHERE: &str = "https://elsewhere.invalid";
const NOBODY: &str = "99999999-9999-4999-8999-999999999999";

fn without(name: &str) -> FaultKind {
    edit([(name, Value::Null)])
}

fn token(value: Value) -> FaultKind {
    edit([("access_token", value)])
}

fn issued(shift_s: i64, lifetime_s: Option<u64>) -> FaultKind {
    FaultKind::Issue {
        shift_s,
        lifetime_s,
    }
}

fn spelled(spelling: ExpirySpelling) -> FaultKind {
    FaultKind::Expiry { spelling }
}

/// `expires_on` with this value, and no `expires_in` to fall back on.
fn on(value: Value) -> FaultKind {
    ends("expires_on", value, "expires_in")
}

/// `expires_in` with this value, and no `expires_on` to fall back on.
fn within(value: Value) -> FaultKind {
    ends("expires_in", value, "expires_on")
}

fn ends(told: &str, value: Value, untold: &str) -> FaultKind {
    edit([
        (told, value),
        (untold, Value::Null),
        ("ext_expires_in", Value::Null),
    ])
}

pub(super) fn members() -> Vec<Mode> {
    rows! { Group::Member;
        "no-access-token", ALL, No, "an answer without a token" => without("access_token");
        "no-resource", ALL_BUT_ENTRA, Either, "without `resource`" => without("resource");
        "no-token-type", ALL, Either, "without `token_type`" => without("token_type");
        "no-client-id", WITH_CLIENT_ID, Either, "without `client_id`" => without("client_id");
        "no-not-before", WITH_NOT_BEFORE, Yes, "without `not_before`" => without("not_before");
        "token-empty", ALL, No, "an empty token" => token("".into());
        "token-number", ALL, No, "a number for a token" => token(7.into());
        "token-object", ALL, No, "an object for a token" => token(json!({"t": 1}));
        "token-list", ALL, No, "a list for a token" => token(json!(["t"]));
        "token-true", ALL, No, "a truth for a token" => token(true.into());
        "token-spaces", ALL, No, "a token with spaces" => token("a b c".into());
        "token-line-breaks", ALL, No, "a token with escaped CR and LF and a header behind" =>
            token("abc\r\nSet-Cookie: a=b\r\n\r\n".into());
        "token-control", ALL, No, "a token with an escaped NUL and bell" =>
            token("a\u{0}b\u{7}c".into());
        "token-not-ascii", ALL, No, "a token with letters beyond ASCII" => token("fähre-令牌".into());
        "token-type-pop", ALL, No, "a proof-of-possession token" =>
            edit([("token_type", "pop".into())]);
        "token-type-empty", ALL, No, "an empty `token_type`" => edit([("token_type", "".into())]);
        "token-type-lower-case", ALL, Yes, "`bearer` in lower case" =>
            edit([("token_type", "bearer".into())]);
        "wrong-resource", ALL_BUT_ENTRA, No,
            "a genuine token for another resource, which is named" =>
            FaultKind::OtherResource { resource: ELSEWHERE.to_owned() };
        "resource-renamed", ALL_BUT_ENTRA, No, "the right token, another resource named" =>
            edit([("resource", ELSEWHERE.into())]);
        "resource-empty", ALL_BUT_ENTRA, No, "an empty `resource`" =>
            edit([("resource", "".into())]);
        "resource-line-breaks", ALL_BUT_ENTRA, No, "a `resource` with escaped CR and LF" =>
            edit([("resource", "https://a\r\nX-Injected: 1\r\n\r\n".into())]);
        "wrong-client", WITH_CLIENT_ID, No,
            "a genuine token of another client; told only by one who asked by `client_id`" =>
            FaultKind::OtherClient { client_id: NOBODY.to_owned() };
        "client-id-line-breaks", WITH_CLIENT_ID, Either, "a `client_id` with CR and LF" =>
            edit([("client_id", "a\r\nX-Injected: 1\r\n\r\n".into())]);
    }
}

pub(super) fn lives() -> Vec<Mode> {
    rows! { Group::Expiry;
        "expired-token", ALL, No, "a token that ended an hour ago, and says so" =>
            issued(-2 * HOUR_S, Some(3600));
        "not-yet-valid-token", ALL, Either, "a token that is good from an hour ahead on" =>
            issued(HOUR_S, None);
        "ending-token", ALL, Either, "a token with 2 seconds left" => issued(-3598, Some(3600));
        "short-token", ALL, Yes, "a token with a life of 10 seconds" => issued(0, Some(10));
        "older-token", ALL, Yes, "a token with a third of its life gone, issued anew" =>
            issued(-8 * HOUR_S, Some(86_400));
        "unchanged", ALL, Yes, "the last token once more, whatever is asked for" =>
            FaultKind::Unchanged;
        "no-expiry", ALL, No, "nothing that says when it ends" => on(Value::Null);
        "no-expires-on", IMDS_LIKE, Either, "without `expires_on`" => without("expires_on");
        "no-expires-in", IMDS_LIKE, Yes, "without `expires_in`" => without("expires_in");
        "no-ext-expires-in", WITH_EXT_EXPIRES_IN, Yes, "without `ext_expires_in`" =>
            without("ext_expires_in");
        "expires-in-stale", IMDS_LIKE, Yes, "`expires_in` of a day more than is left" =>
            edit([("expires_in", "172800".into())]);
    }
}

/// One member alone says when the token ends, and says it oddly.
pub(super) fn spellings() -> Vec<Mode> {
    rows! { Group::Expiry;
        "expires-in-zero", WITH_EXPIRES_IN, No, "`expires_in` alone, and it is 0" =>
            within("0".into());
        "expires-in-negative", WITH_EXPIRES_IN, No, "`expires_in` alone, and it is -1" =>
            within("-1".into());
        "expires-in-words", WITH_EXPIRES_IN, No, "`expires_in` alone, and it is `soon`" =>
            within("soon".into());
        "expires-in-overflow", WITH_EXPIRES_IN, No,
            "`expires_in` alone, and it is a number of 20 digits" =>
            within("99999999999999999999".into());
        "expires-on-past", ALL_BUT_ENTRA, No, "`expires_on` alone, and it is an hour of 2001" =>
            on("1000000000".into());
        "expires-on-zero", ALL_BUT_ENTRA, No, "`expires_on` alone, and it is 0" => on("0".into());
        "expires-on-negative", ALL_BUT_ENTRA, No, "`expires_on` alone, and it is -1" =>
            on("-1".into());
        "expires-on-far", ALL_BUT_ENTRA, No,
            "`expires_on` alone, and it is the last second of 9999" =>
            on("253402300799".into());
        "expires-on-overflow", ALL_BUT_ENTRA, No,
            "`expires_on` alone, and it is a number of 20 digits" =>
            on("99999999999999999999".into());
        "expires-on-exponent", ALL_BUT_ENTRA, No,
            "`expires_on` alone, and it is a number with an exponent" =>
            on("4e9".into());
        "expires-on-words", ALL_BUT_ENTRA, No, "`expires_on` alone, and it is `tomorrow`" =>
            on("tomorrow".into());
        "expires-on-empty", ALL_BUT_ENTRA, No, "`expires_on` alone, and it is an empty text" =>
            on("".into());
        "expires-on-true", ALL_BUT_ENTRA, No, "`expires_on` alone, and it is a truth" =>
            on(true.into());
        "expires-on-list", ALL_BUT_ENTRA, No, "`expires_on` alone, and it is a list" =>
            on(json!([4_102_444_800_u64]));
        "expires-on-ms", ALL_BUT_ENTRA, No,
            "`expires_on` alone, right but in another spelling: milliseconds" =>
            spelled(ExpirySpelling::Milliseconds);
        "expires-on-hex", ALL_BUT_ENTRA, No,
            "`expires_on` alone, right but in another spelling: hexadecimal" =>
            spelled(ExpirySpelling::Hex);
        "expires-on-number", ALL_BUT_ENTRA, Either,
            "`expires_on` alone, right but in another spelling: a number" =>
            spelled(ExpirySpelling::Number);
        "expires-on-float", ALL_BUT_ENTRA, Either,
            "`expires_on` alone, right but in another spelling: a number with a fraction" =>
            spelled(ExpirySpelling::Float);
        "expires-on-float-text", ALL_BUT_ENTRA, Either,
            "`expires_on` alone, right but in another spelling: a fraction as text" =>
            spelled(ExpirySpelling::FloatText);
        "expires-on-spaced", ALL_BUT_ENTRA, Either,
            "`expires_on` alone, right but in another spelling: seconds between spaces" =>
            spelled(ExpirySpelling::Spaced);
        "expires-on-iso", ALL_BUT_ENTRA, Either,
            "`expires_on` alone, right but in another spelling: an ISO 8601 date" =>
            spelled(ExpirySpelling::Iso8601);
        "expires-on-us-date", ALL_BUT_ENTRA, Either,
            "`expires_on` alone, right but in another spelling: an American date" =>
            spelled(ExpirySpelling::UsDate);
    }
}
