use serde_json::{Value, json};

use super::*;
use crate::token::Resource;
use crate::upstream::settings::{Endpoint, Federation};

const NOW: UnixMs = UnixMs(1_000_000_000);
const ID: &str = "aaaaaaaa-1111-4222-8333-444444444444";

fn endpoint() -> Endpoint {
    Endpoint::plain("127.0.0.1:4000".parse().unwrap(), "/token")
}

fn imds() -> Source {
    Source::Imds(endpoint())
}

fn entra() -> Source {
    Source::WorkloadIdentity(Federation {
        host: "login.example".into(),
        port: 443,
        tenant: "t".into(),
        client_id: ID.into(),
        token_file: "/token".into(),
        ca_file: None,
    })
}

fn key(identity: Identity) -> TokenKey {
    TokenKey {
        upstream: "any".into(),
        identity,
        resource: Resource::from_decoded("https://a b&c=d/é".as_bytes()).unwrap(),
        capabilities: Vec::new(),
        extras: Vec::new(),
        client: None,
    }
}

fn read_of(source: &Source, identity: Identity, changes: Value) -> Result<AccessToken, Class> {
    let mut body = json!({
        "access_token": "h.p.s", "client_id": "C1", "expires_in": "86399",
        "expires_on": "1086399", "ext_expires_in": "86399", "not_before": "999700",
        "resource": "https://a b&c=d/é", "token_type": "Bearer",
    });
    let Value::Object(changes) = changes else {
        panic!("an object")
    };
    for (name, value) in changes {
        body[name] = value;
    }
    bytes_of(source, identity, body.to_string().as_bytes())
}

fn bytes_of(source: &Source, identity: Identity, body: &[u8]) -> Result<AccessToken, Class> {
    let times = Times {
        sent: UnixMs(NOW.0 - 3000),
        received: NOW,
    };
    read_token(source, &key(identity), body, times).map_err(|error| error.class)
}

fn read(changes: Value) -> Result<AccessToken, Class> {
    read_of(&imds(), Identity::ClientId("c1".into()), changes)
}

#[test]
fn a_good_answer_is_taken_apart() {
    let token = read(json!({"refresh_in": 43200})).ok().unwrap();
    assert_eq!(token.secret.expose(), b"h.p.s");
    assert_eq!(token.client_id.as_deref(), Some("C1"));
    assert_eq!(
        token.lifetime,
        Lifetime {
            received_at: NOW,
            expires_on_s: 1_086_399,
            not_before_s: Some(999_700),
            refresh_in_s: Some(43_200),
        }
    );
    for end in [json!(1_086_399), json!("01/13/1970 13:46:39 +00:00")] {
        let token = read(json!({"expires_on": end})).ok().unwrap();
        assert_eq!(token.lifetime.expires_on_s, 1_086_399, "{end}");
    }
}

#[test]
fn answers_that_do_not_fit_the_question_are_refused_by_class() {
    let cases = [
        (json!({"resource": "https://other"}), Class::WrongResource),
        (
            json!({"resource": "https://a b&c=d/é/"}),
            Class::WrongResource,
        ),
        (json!({"resource": 5}), Class::WrongResource),
        (json!({"client_id": "c2"}), Class::WrongClient),
        (json!({"client_id": 7}), Class::Malformed),
        (json!({"client_id": "x".repeat(65)}), Class::Malformed),
        (json!({"expires_on": "1000000"}), Class::BadExpiry),
        (json!({"expires_on": "1086399000"}), Class::BadExpiry),
        (json!({"expires_on": u64::MAX}), Class::BadExpiry),
        (json!({"expires_on": "-5"}), Class::Malformed),
        (json!({"expires_on": -5}), Class::Malformed),
        (json!({"expires_on": 1_086_399.5}), Class::Malformed),
        (json!({"expires_on": null}), Class::Malformed),
        (json!({"expires_on": ""}), Class::Malformed),
        (json!({"expires_on": ["1086399"]}), Class::Malformed),
        (json!({"access_token": ""}), Class::Malformed),
        (json!({"access_token": null}), Class::Malformed),
        (json!({"access_token": "a\r\nb"}), Class::Malformed),
        (json!({"access_token": "a b"}), Class::Malformed),
        (json!({"access_token": "a\"b"}), Class::Malformed),
        (json!({"access_token": "é"}), Class::Malformed),
        (json!({"access_token": 5}), Class::Malformed),
        (json!({"token_type": "pop"}), Class::Malformed),
        (json!({"token_type": 5}), Class::Malformed),
    ];
    for (changes, class) in cases {
        assert_eq!(read(changes.clone()).err(), Some(class), "{changes}");
    }
    // A reader of members by their order would take the last.
    let list = format!(
        "[\"t\"{},\"1086399\"]",
        ",null".repeat(7) + &",\"1086399\"".repeat(4)
    );
    for body in [
        "",
        "[]",
        "<html>",
        "{\"access_token\":\"t\"",
        "null",
        "{}",
        &list,
    ] {
        let refused = bytes_of(&imds(), Identity::System, body.as_bytes());
        assert_eq!(refused.err(), Some(Class::Malformed), "{body}");
    }
}

#[test]
fn a_body_that_is_not_utf_8_is_refused_wherever_that_is() {
    let body = |x: &[u8]| {
        let start = b"{\"access_token\":\"t\",\"expires_on\":1086399,\"resource\":\"https://a b&c=d/\xc3\xa9\",\"x\":\"";
        [start, x, b"\"}"].concat()
    };
    let read = |x: &[u8]| bytes_of(&imds(), Identity::System, &body(x)).err();
    assert_eq!(read("é".as_bytes()), None);
    // No letter, half of one, one of too many bytes, half of a pair.
    for x in [&b"\xff\xfe"[..], b"\xc3", b"\xc0\xaf", b"\xed\xa0\x80"] {
        assert_eq!(read(x), Some(Class::Malformed), "{x:x?}");
        let told = [b"{\"error\":\"e\",\"x\":\"", x, b"\"}"].concat();
        assert_eq!(read_detail(&told), None, "{x:x?}");
    }
}

#[test]
fn a_member_that_stands_twice_is_refused() {
    let body = |twice: &str| {
        format!("{{\"access_token\":\"t\",\"expires_on\":1086399,\"other\":1,\"other\":2{twice}}}")
    };
    let read = |twice: &str| bytes_of(&imds(), Identity::System, body(twice).as_bytes()).err();
    assert_eq!(read(""), None, "unknown ones may");
    for twice in ["\"access_token\":\"u\"", "\"expires_on\":1086400"] {
        assert_eq!(
            read(&format!(",{twice}")),
            Some(Class::Malformed),
            "{twice}"
        );
    }
}

#[test]
fn entra_says_how_long_and_we_count_from_when_we_asked() {
    let body = |left: &str| format!("{{\"access_token\":\"t\",\"expires_in\":{left}}}");
    let end = |left: &str| {
        let token = bytes_of(&entra(), Identity::System, body(left).as_bytes());
        token.map(|token| token.lifetime.expires_on_s)
    };
    assert_eq!(end("3599"), Ok(999_997 + 3599));
    assert_eq!(end("\"3599\""), Ok(999_997 + 3599));
    assert_eq!(end("3"), Err(Class::BadExpiry), "over when it arrived");
    assert_eq!(end("18446744073709551615"), Err(Class::Malformed));
    assert_eq!(end("604801"), Ok(999_997 + 604_801));
    assert_eq!(end("604804"), Err(Class::BadExpiry));
    // All others say when; how long may be as old as their cache.
    let managed = bytes_of(&imds(), Identity::System, body("3599").as_bytes());
    assert_eq!(managed.err(), Some(Class::Malformed));
}

#[test]
fn arcs_agent_has_to_echo_the_selector() {
    let arc = Source::Arc {
        endpoint: endpoint(),
        folder: "/tokens".into(),
    };
    let read = |identity: &Identity, changes: Value| {
        let bare = json!({"client_id": null});
        let mut changes = changes;
        if changes.get("client_id").is_none() {
            changes["client_id"] = bare["client_id"].clone();
        }
        read_of(&arc, identity.clone(), changes).err()
    };
    let upper = ID.to_uppercase();
    let [client, object, resource] = [
        Identity::ClientId(ID.into()),
        Identity::ObjectId(ID.into()),
        Identity::ResourceId("/s/r".into()),
    ];
    assert_eq!(read(&Identity::System, json!({})), None);
    for (identity, echo) in [
        (&client, json!({"client_id": upper})),
        (&object, json!({"object_id": upper})),
        (&resource, json!({"msi_res_id": "/S/R"})),
        (&resource, json!({"mi_res_id": "/s/r"})),
    ] {
        assert_eq!(read(identity, echo.clone()), None, "{echo}");
        assert_eq!(
            read(identity, json!({})),
            Some(Class::WrongClient),
            "{echo}"
        );
    }
    // The machine's own, with its client id.
    for identity in [&object, &resource] {
        let machines = json!({"client_id": "the-machine"});
        assert_eq!(read(identity, machines), Some(Class::WrongClient));
    }
    let other = json!({"object_id": "other", "client_id": ID});
    assert_eq!(read(&object, other), Some(Class::WrongClient));
}

#[test]
fn app_service_may_spell_the_resource_with_its_slash() {
    let secret = || Secret::new(b"s".to_vec());
    let slash = json!({"resource": "https://a b&c=d/é/"});
    let system = Identity::System;
    for source in [
        Source::AppService(endpoint(), secret()),
        Source::AppService2017(endpoint(), secret()),
    ] {
        assert!(read_of(&source, system.clone(), slash.clone()).is_ok());
        let other = json!({"resource": "https://a b&c=d/é//"});
        let refused = read_of(&source, system.clone(), other).err();
        assert_eq!(refused, Some(Class::WrongResource));
    }
    let fabric = Source::CloudShell(endpoint());
    let refused = read_of(&fabric, system, slash).err();
    assert_eq!(refused, Some(Class::WrongResource));
}

#[test]
fn the_default_identity_of_azure_ml_is_checked_like_one_that_was_asked_for() {
    let source = Source::AzureMl {
        endpoint: endpoint(),
        secret: Secret::new(b"s".to_vec()),
        default_client_id: Some("c9".into()),
    };
    let read = |id: &str| read_of(&source, Identity::System, json!({"client_id": id})).err();
    assert_eq!(read("C9"), None);
    assert_eq!(read("c1"), Some(Class::WrongClient));
}

#[test]
fn a_failure_told_with_200_is_a_failure() {
    let source = Source::AppService2017(endpoint(), Secret::new(b"s".to_vec()));
    let times = Times {
        sent: NOW,
        received: NOW,
    };
    let read = |body: Value| {
        let body = body.to_string();
        read_token(&source, &key(Identity::System), body.as_bytes(), times).err()
    };
    let told = json!({
        "ExceptionMessage": "", "ErrorCode": "service_unavailable", "ServiceErrorCodes": null,
        "StatusCode": 503, "Message": null, "CorrelationId": "x",
    });
    let error = read(told.clone()).unwrap();
    assert_eq!((error.class, error.status), (Class::ServerError, Some(503)));
    let detail = ("service_unavailable".into(), "".into());
    assert_eq!(error.detail, Some(detail));
    let mut limited = told.clone();
    limited["StatusCode"] = json!(429);
    assert_eq!(read(limited).unwrap().class, Class::Throttled);
    let mut odd = told.clone();
    odd["StatusCode"] = json!(200);
    odd["access_token"] = json!("t");
    odd["expires_on"] = json!(1_086_399);
    assert_eq!(read(odd).unwrap().class, Class::ServerError);
}

#[test]
fn each_kind_of_source_has_its_own_words_for_an_error() {
    for (body, code, text) in [
        (json!({"error": "e", "error_description": "d"}), "e", "d"),
        (json!({"error": "e"}), "e", ""),
        (
            json!({"error": {"code": "c", "message": "m", "correlationId": "x"}}),
            "c",
            "m",
        ),
        (
            json!({"statusCode": 400, "message": "m"}),
            "invalid_request",
            "m",
        ),
        (
            json!({"StatusCode": 400, "Message": "m"}),
            "invalid_request",
            "m",
        ),
        (json!({"ErrorCode": "c", "ExceptionMessage": "m"}), "c", "m"),
    ] {
        let read = read_detail(body.to_string().as_bytes());
        assert_eq!(read, Some((code.into(), text.into())), "{body}");
    }
    for none in ["<html>", "{}", "[]", "{\"error\":5}", "{\"error\":{}}"] {
        assert_eq!(read_detail(none.as_bytes()), None, "{none}");
    }
    let long = json!({"error": "e", "error_description": "é".repeat(2000)});
    let (_, text) = read_detail(long.to_string().as_bytes()).unwrap();
    assert_eq!(text.len(), 512);
}

#[test]
fn a_404_is_final_only_on_service_fabric() {
    let class = |kind| read_refusal(kind, 404, &HeaderMap::new(), b"", NOW).class;
    assert_eq!(class(Kind::Imds), Class::NotFound);
    assert_eq!(class(Kind::ServiceFabric), Class::Denied);
}
