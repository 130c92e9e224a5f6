//! What is wrong with an answer, or keeps it from coming.

use std::collections::BTreeSet;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use foretoken_load::{Counts, Driven, Keep, Length, Plan, Target, drive};

use crate::fake::{Act, Fake, RESOURCE, Token, answer, serve};

/// The request that is answered otherwise.
const ODD: usize = 5;
const REQUESTS: u64 = 20;

fn plan(fake: &Fake) -> Plan {
    Plan {
        length: Length::Requests(REQUESTS),
        timeout: Duration::from_secs(10),
        ..Plan::new(Target::Tcp(fake.address))
    }
}

fn run(plan: &Plan) -> Driven {
    drive(plan, |_| {}).unwrap()
}

/// Everything is right but the answer to one request.
fn with_one(odd: impl Fn() -> Act + Send + Sync + 'static) -> (Counts, Fake) {
    with_one_in(Duration::from_secs(10), odd)
}

fn with_one_in(timeout: Duration, odd: impl Fn() -> Act + Send + Sync + 'static) -> (Counts, Fake) {
    let fake = Fake::start(move |number, _| {
        if number == ODD {
            odd()
        } else {
            Act::Send(Token::RIGHT.answer())
        }
    });
    let counts = run(&Plan {
        timeout,
        ..plan(&fake)
    })
    .counts;
    assert_eq!(counts.requests(), REQUESTS);
    (counts, fake)
}

#[test]
fn each_wrong_answer_is_counted_as_what_it_is() {
    let other = "https://storage.azure.com";
    let right = Token::RIGHT;
    let cases = [
        (
            "audience",
            Token {
                aud: other,
                ..right
            }
            .answer(),
        ),
        (
            "audience",
            Token {
                aud: other,
                named: other,
                ..right
            }
            .answer(),
        ),
        (
            "resource",
            Token {
                named: other,
                ..right
            }
            .answer(),
        ),
        (
            "expired",
            Token {
                left_s: -1,
                ..right
            }
            .answer(),
        ),
        ("expires_in", Token { off_s: 5, ..right }.answer()),
        ("expires_in", Token { off_s: -5, ..right }.answer()),
        ("malformed", answer(200, "<html>come back later</html>")),
        (
            "malformed",
            answer(200, &right.body().replace("access", "excess")),
        ),
    ];
    for (name, odd) in cases {
        let (counts, fake) = with_one(move || Act::Send(odd.clone()));
        assert_eq!(counts.wrong, [(name, 1)].into(), "{name}");
        assert_eq!(counts.right, REQUESTS - 1, "{name}");
        assert_eq!(counts.by_status, [(200, REQUESTS)].into());
        assert_eq!((counts.failed_in_all(), fake.links()), (0, 1));
    }
}

#[test]
fn a_refusal_is_counted_by_its_status_and_is_not_wrong() {
    for status in [429, 500, 503] {
        let (counts, _) = with_one(move || Act::Send(answer(status, "{}")));
        assert_eq!(counts.by_status, [(200, REQUESTS - 1), (status, 1)].into());
        assert_eq!((counts.refused(), counts.wrong_in_all()), (1, 0));
    }
}

#[test]
fn each_answer_that_does_not_come_is_counted_as_what_it_is() {
    let whole = Token::RIGHT.answer();
    let half = whole[..whole.len() - 40].to_owned();
    let in_head = whole[..20].to_owned();
    let stall = half.clone();
    let cases: [(_, Box<dyn Fn() -> Act + Send + Sync>); 6] = [
        ("closed", Box::new(|| Act::Close)),
        ("cut", Box::new(move || Act::SendAndClose(half.clone()))),
        ("cut", Box::new(move || Act::SendAndClose(in_head.clone()))),
        ("timed_out", Box::new(move || Act::Send(stall.clone()))),
        ("timed_out", Box::new(|| Act::Send(String::new()))),
        (
            "not_http",
            Box::new(|| Act::Send("220 ready\r\n".to_owned())),
        ),
    ];
    for (name, odd) in cases {
        let timeout = Duration::from_secs(if name == "timed_out" { 1 } else { 10 });
        let (counts, fake) = with_one_in(timeout, odd);
        assert_eq!(counts.failed, [(name, 1)].into(), "{name}");
        assert_eq!(counts.right, REQUESTS - 1, "{name}");
        assert_eq!(fake.links(), 2, "{name}: the rest goes over a new link");
    }
}

#[test]
fn an_answer_that_nobody_asked_for_is_wrong() {
    let twice = Token::RIGHT.answer().repeat(2);
    let (counts, fake) = with_one(move || Act::Send(twice.clone()));
    assert_eq!(counts.wrong, [("unasked", 1)].into());
    assert_eq!(fake.links(), 2);
}

#[test]
fn a_server_that_is_not_there_is_counted_and_not_hammered() {
    let fake = Fake::start(|_, _| Act::Close);
    let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let target = Target::Tcp(gone.local_addr().unwrap());
    drop(gone);
    let plan = Plan {
        target,
        length: Length::For(Duration::from_millis(200)),
        ..plan(&fake)
    };
    let counts = run(&plan).counts;
    let refused = counts.failed["connect"];
    assert_eq!(counts.requests(), refused);
    assert!((1..=21).contains(&refused), "one each 10 ms: {refused}");
}

#[test]
fn a_server_that_fails_each_request_is_not_hammered() {
    let closes = Fake::start(|_, _| Act::Close);
    let babbles = Fake::start(|_, _| Act::Send("220 ready\r\n".to_owned()));
    for (name, fake) in [("closed", closes), ("not_http", babbles)] {
        let driven = run(&Plan {
            length: Length::For(Duration::from_millis(200)),
            ..plan(&fake)
        });
        let counts = driven.counts;
        let failed = counts.failed[name];
        assert_eq!(counts.requests(), failed);
        assert!((1..=21).contains(&failed), "one each 10 ms: {failed}");
    }
}

#[test]
fn kept_links_are_kept_and_others_are_not() {
    for (keep, links, opened) in [(Keep::Alive, 4, 4), (Keep::OneRequest, 4, 20)] {
        let fake = Fake::start(|_, _| Act::Send(Token::RIGHT.answer()));
        let driven = run(&Plan {
            keep,
            links,
            threads: 2,
            ..plan(&fake)
        });
        assert_eq!(driven.counts.right, REQUESTS);
        assert_eq!(
            (driven.links_opened, fake.links()),
            (opened, usize::try_from(opened).unwrap())
        );
    }
}

#[test]
fn a_link_that_the_server_ends_properly_costs_no_request() {
    let fake = Fake::start(|number, _| {
        let right = Token::RIGHT.answer();
        match number % 3 {
            0 => Act::SendAndClose(right.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n")),
            _ => Act::Send(right),
        }
    });
    let driven = run(&plan(&fake));
    assert_eq!(
        (driven.counts.right, driven.counts.failed_in_all()),
        (REQUESTS, 0)
    );
    assert_eq!(driven.links_opened, 8, "one more after each of seven");
}

#[test]
fn a_link_that_the_server_ends_without_a_word_is_opened_again() {
    let fake = Fake::start(|_, _| Act::SendAndClose(Token::RIGHT.answer()));
    let driven = run(&plan(&fake));
    // The next request may be on its way when the end of the link comes.
    let closed = driven.counts.failed.get("closed").copied().unwrap_or(0);
    assert_eq!(driven.counts.right + closed, REQUESTS);
    assert!(driven.counts.right >= REQUESTS / 2, "{:?}", driven.counts);
}

#[test]
fn what_a_socket_does_not_take_at_once_is_sent_later() {
    const MANY: usize = 1_000;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("slow.sock");
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    std::thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        // More requests than a socket holds have been made by now.
        std::thread::sleep(Duration::from_millis(100));
        let right = |_: usize, _: &str| Act::Send(Token::RIGHT.answer());
        serve(stream, &right, &AtomicUsize::new(0));
    });
    let plan = Plan {
        pipeline: MANY,
        length: Length::Requests(MANY as u64),
        timeout: Duration::from_secs(5),
        ..Plan::new(Target::Unix(path))
    };
    assert_eq!(run(&plan).counts.right, MANY as u64);
}

#[test]
fn pipelined_answers_are_each_judged_against_their_own_request() {
    let fake = Fake::start(|_, head| {
        let (_, rest) = head.split_once("resource=").unwrap();
        let resource = rest.split([' ', '&']).next().unwrap().to_owned();
        let resource: &'static str = resource.leak();
        Act::Send(
            Token {
                aud: resource,
                named: resource,
                ..Token::RIGHT
            }
            .answer(),
        )
    });
    let piped = Plan {
        pipeline: 16,
        links: 2,
        keys: 50,
        length: Length::Requests(1_000),
        ..plan(&fake)
    };
    assert_eq!(run(&piped).counts.right, 1_000);

    // One for all: right for those who asked for it.
    let fake = Fake::start(|_, _| Act::Send(Token::RIGHT.answer()));
    let all = run(&Plan {
        target: Target::Tcp(fake.address),
        ..piped
    });
    assert_eq!(all.counts.wrong, [("audience", 1_000)].into());
}

#[test]
fn an_answer_in_small_pieces_is_whole() {
    let pieces = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let target = Target::Tcp(pieces.local_addr().unwrap());
    std::thread::spawn(move || {
        use std::io::{Read as _, Write as _};
        let (mut stream, _) = pieces.accept().unwrap();
        stream.set_nodelay(true).unwrap();
        while let Ok(1..) = stream.read(&mut [0; 4096]) {
            for piece in Token::RIGHT.answer().as_bytes().chunks(100) {
                stream.write_all(piece).unwrap();
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    });
    let plan = Plan {
        length: Length::Requests(5),
        ..Plan::new(target)
    };
    assert_eq!(run(&plan).counts.right, 5);
}

#[test]
fn every_request_is_of_one_of_the_clients_and_has_an_id_of_its_own() {
    let heads = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&heads);
    let fake = Fake::start(move |_, head| {
        seen.lock().unwrap().push(head.to_owned());
        Act::Send(Token::RIGHT.answer())
    });
    let clients = [
        "python-azure-identity",
        "rust-object-store",
        "js-azure-identity",
    ];
    let weights = [3, 1, 0];
    let plan = Plan {
        clients: clients
            .iter()
            .zip(weights)
            .map(|(name, weight)| (name.parse().unwrap(), weight))
            .collect(),
        length: Length::Requests(400),
        ..plan(&fake)
    };
    assert_eq!(run(&plan).counts.right, 400);
    let heads = heads.lock().unwrap();
    let of = |agent: &str| heads.iter().filter(|head| head.contains(agent)).count();
    let (python, rust) = (
        of("azsdk-python-identity/1.27.0"),
        of("object_store/0.14.2"),
    );
    assert_eq!(python + rust, 400);
    assert!((250..=350).contains(&python), "{python}");
    let ids = heads
        .iter()
        .filter_map(|head| head.split_once("x-ms-client-request-id: "));
    let ids: BTreeSet<_> = ids.map(|(_, id)| &id[..36]).collect();
    assert_eq!(
        ids.len(),
        python,
        "the Python SDK sends one, object_store none"
    );
    let host = format!("\r\nHost: {}\r\n", fake.address);
    assert!(
        heads
            .iter()
            .all(|head| head.contains(RESOURCE) || head.contains("vault.azure.net"))
    );
    assert!(heads[0].to_lowercase().contains(&host.to_lowercase()));
    assert_eq!(fake.requests(), 400);
}
