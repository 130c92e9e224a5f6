//! Every case of `tests/golden/json`: a token answer with one odd thing in it. The name says what
//! has to come of it: `y_` is accepted with the token and the end that are written there, `n_` is
//! refused, and `i_` may go either way, but never as another token.

use std::fs;
use std::path::Path;

use foretoken::clock::UnixMs;
use foretoken::token::{AccessToken, Identity, Resource, TokenKey};
use foretoken::upstream::answer::{Times, read_token};
use foretoken::upstream::{Class, Endpoint, FetchError, Source};

/// How many files there are of each sort: one that is lost must be missed.
const COUNTS: [(&str, usize); 3] = [("y_", 66), ("n_", 306), ("i_", 38)];

const NOW_S: u64 = 1_700_000_000;
/// The end of every token but those in [`OTHER_ENDS`].
const END_S: u64 = 1_700_086_399;
const OTHER_ENDS: [(&str, u64); 2] = [
    ("y_expires_on_next_second", NOW_S + 1),
    ("y_expires_on_in_a_week", NOW_S + 7 * 24 * 3600),
];

const CLIENT_ID: &str = "aaaaaaaa-1111-4222-8333-444444444444";

/// What the name begins with, where it is not [`Class::Malformed`].
const CLASSES: [(&str, Class); 6] = [
    ("n_wrong_resource_", Class::WrongResource),
    ("n_wrong_client_", Class::WrongClient),
    ("n_bad_expiry_", Class::BadExpiry),
    ("n_server_error_", Class::ServerError),
    ("n_throttled_", Class::Throttled),
    ("n_denied_", Class::Denied),
];

struct Case {
    /// Without the ending.
    name: String,
    body: Vec<u8>,
}

fn cases(sort: &str) -> Vec<Case> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/json");
    let files = fs::read_dir(folder).expect("the corpus");
    let mut cases: Vec<_> = files
        .map(|file| file.expect("a file").path())
        .map(|path| Case {
            name: path.file_stem().expect("a name").display().to_string(),
            body: fs::read(&path).expect("a case"),
        })
        .filter(|case| case.name.starts_with(sort))
        .collect();
    cases.sort_by(|a, b| a.name.cmp(&b.name));
    cases
}

/// The token that is written in a case: its name, but where the case is about the token itself.
fn written(name: &str) -> String {
    match name {
        "y_token_escaped_slashes" => "y.token/escaped/slashes.sig".into(),
        "y_token_raw_slashes" => "y.token/raw/slashes.sig".into(),
        "y_token_every_visible_byte" => ('!'..='~').filter(|c| !"\"\\".contains(*c)).collect(),
        "y_token_one_byte" => "y".into(),
        "y_token_long" => format!("y.{}.sig", "a".repeat(20_000)),
        _ => format!("{}.sig", name.replacen('_', ".", 1).replace('_', "-")),
    }
}

/// Reads a case as the answer to one question at IMDS.
fn answer(body: &[u8]) -> Result<AccessToken, FetchError> {
    let key = TokenKey {
        upstream: "imds".into(),
        identity: Identity::ClientId(CLIENT_ID.into()),
        resource: Resource::from_decoded(b"https://vault.azure.net").expect("a resource"),
        capabilities: Vec::new(),
        extras: Vec::new(),
        client: None,
    };
    let times = Times {
        sent: UnixMs(NOW_S * 1000 - 250),
        received: UnixMs(NOW_S * 1000),
    };
    read_token(&Source::Imds(Endpoint::imds()), &key, body, times)
}

/// What is wrong with an accepted token, if something is.
fn fault(name: &str, token: &AccessToken) -> Option<String> {
    let secret = String::from_utf8_lossy(token.secret.expose()).into_owned();
    let other = OTHER_ENDS.iter().find(|(it, _)| *it == name);
    let end = other.map_or(END_S, |(_, end)| *end);
    if secret != written(name) {
        return Some(format!("{name}: token {secret}"));
    }
    let got = token.lifetime.expires_on_s;
    (got != end).then(|| format!("{name}: ends {got}"))
}

#[test]
fn no_case_is_lost_or_of_no_sort() {
    for (sort, count) in COUNTS {
        assert_eq!(cases(sort).len(), count, "{sort}");
    }
    let all: usize = COUNTS.iter().map(|(_, count)| count).sum();
    assert_eq!(cases("").len(), all);
}

#[test]
fn good_answers_are_accepted_with_their_token_and_end() {
    let wrong: Vec<_> = cases("y_")
        .iter()
        .filter_map(|case| match answer(&case.body) {
            Ok(token) => fault(&case.name, &token),
            Err(error) => Some(format!("{}: {error}", case.name)),
        })
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn bad_answers_are_refused_by_class() {
    let wrong: Vec<_> = cases("n_")
        .iter()
        .filter_map(|case| {
            let named = CLASSES.iter().find(|(it, _)| case.name.starts_with(it));
            let class = named.map_or(Class::Malformed, |(_, class)| *class);
            match answer(&case.body) {
                Ok(_) => Some(format!("{}: accepted", case.name)),
                Err(error) if error.class == class => None,
                Err(error) => Some(format!("{}: {error}", case.name)),
            }
        })
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn doubtful_answers_are_refused_or_read_as_they_are_written() {
    let wrong: Vec<_> = cases("i_")
        .iter()
        .filter_map(|case| fault(&case.name, &answer(&case.body).ok()?))
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}
