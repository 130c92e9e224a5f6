//! The retired extension of virtual machines, once on `localhost:50342`: `/oauth2/token`, asked
//! by GET, by a posted form, or by a POST with its parameters in the query.

use crate::fields::Fields;
use crate::identities::Selector;
use crate::refusals::{ErrorShape, Refusal, Words};
use crate::rules::{ApiVersions, MetadataTrue, RenewBy, Rules, TokenPath};
use crate::token_reply::Success;

pub(super) fn rules() -> Rules<'static> {
    Rules {
        path: TokenPath::Exactly("/oauth2/token"),
        methods: &["GET", "POST"],
        metadata: Some(MetadataTrue::Exactly),
        secret: None,
        api_versions: ApiVersions::Any,
        selectors: &[
            ("client_id", Selector::ClientId),
            ("object_id", Selector::ObjectId),
            ("msi_res_id", Selector::ResourceId),
        ],
        renew_by: RenewBy::Nothing,
        forms: true,
        errors: ErrorShape::OAuth,
    }
}

/// As Cloud Shell, which took it over.
pub(super) fn success(it: &Success<'_>) -> Fields {
    super::cloud_shell::success(it)
}

pub(super) fn words(refusal: &Refusal) -> Option<Words> {
    match refusal {
        Refusal::NoSuchPath(uri) => Some(Words::new(
            401,
            "unknown_source",
            format!("Unknown Source {uri}"),
        )),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use crate::Kind;
    use crate::testing::{Asker, RESOURCE, names};

    const FORM: &str = "Metadata: true\r\nContent-Type: application/x-www-form-urlencoded\r\n";

    fn vm_extension() -> Asker {
        Asker::new(Kind::VmExtension).with_lines(FORM)
    }

    #[test]
    fn it_can_be_asked_in_three_ways() {
        let asker = vm_extension();
        let guid = "aaaaaaaa-1111-4222-8333-444444444444";
        let parameters = format!("resource={RESOURCE}&client_id={guid}");
        let in_query = format!("/oauth2/token?api-version=2018-02-01&{parameters}");
        for reply in [
            asker.get(&in_query),
            asker.post(&in_query, ""),
            asker.post("/oauth2/token", &parameters),
        ] {
            assert_eq!(reply.claims()["appid"], guid);
            assert_eq!(names(&reply.body)[1], "refresh_token");
        }
        let selector = format!("client_id={guid}");
        assert_eq!(asker.emulator.counts().calls_for(&selector, RESOURCE), 3);
    }

    #[test]
    fn another_path_is_an_unknown_source() {
        let asker = vm_extension();
        let reply = asker.get("/metadata/identity/oauth2/token?resource=r");
        assert_eq!(
            (reply.status, reply.body.as_str()),
            (
                401,
                r#"{"error":"unknown_source","error_description":"Unknown Source /metadata/identity/oauth2/token?resource=r"}"#
            )
        );
    }

    #[test]
    fn it_wants_the_metadata_header_and_nobody_in_between() {
        let asker = vm_extension();
        let target = format!("/oauth2/token?resource={RESOURCE}");
        for lines in ["", "Metadata: true\r\nX-Forwarded-For: 10.0.0.1\r\n"] {
            assert_eq!(asker.send("GET", &target, lines, "").status, 400);
        }
    }
}
