//! The token service of Cloud Shell: a form posted to `/oauth2/token`. The token is that of the
//! person signed in, so whatever selects an identity is ignored.

use crate::fields::Fields;
use crate::refusals::ErrorShape;
use crate::rules::{ApiVersions, MetadataTrue, RenewBy, Rules, TokenPath};
use crate::token_reply::Success;

pub(super) fn rules() -> Rules<'static> {
    Rules {
        path: TokenPath::Exactly("/oauth2/token"),
        methods: &["POST"],
        metadata: Some(MetadataTrue::Exactly),
        secret: None,
        api_versions: ApiVersions::Any,
        selectors: &[],
        renew_by: RenewBy::Nothing,
        forms: true,
        errors: ErrorShape::Nested,
    }
}

/// As IMDS used to answer: with an empty `refresh_token`, and no `client_id`.
pub(super) fn success(it: &Success<'_>) -> Fields {
    Fields::default()
        .with("access_token", it.token)
        .with("refresh_token", "")
        .with("expires_in", it.expires_in_s.to_string())
        .with("expires_on", it.expires_on_s.to_string())
        .with("not_before", it.not_before_s.to_string())
        .with("resource", it.resource)
        .with("token_type", "Bearer")
}

#[cfg(test)]
mod tests {
    use crate::Kind;
    use crate::testing::{Asker, RESOURCE, names};

    const FORM: &str = "Metadata: true\r\nContent-Type: application/x-www-form-urlencoded; \
                        charset=utf-8\r\n";

    fn cloud_shell() -> Asker {
        Asker::new(Kind::CloudShell).with_lines(FORM)
    }

    fn body() -> String {
        format!("resource={RESOURCE}")
    }

    #[test]
    fn a_posted_form_gets_a_reply_like_that_of_the_old_imds() {
        let reply = cloud_shell().post("/oauth2/token", &body());
        let expected = [
            "access_token",
            "refresh_token",
            "expires_in",
            "expires_on",
            "not_before",
            "resource",
            "token_type",
        ];
        assert_eq!(names(&reply.body), expected);
        assert_eq!(reply.json()["refresh_token"], "");
        assert_eq!(reply.json()["resource"], RESOURCE);
    }

    #[test]
    fn a_chunked_form_is_taken_and_kept_as_it_arrived() {
        let asker = cloud_shell();
        let body = body();
        let (one, two) = body.split_at(5);
        let request = format!(
            "POST /oauth2/token HTTP/1.1\r\nHost: t\r\n{FORM}Transfer-Encoding: chunked\r\n\r\n\
             {:x}\r\n{one}\r\n{:X}\r\n{two}\r\n0\r\n\r\n",
            one.len(),
            two.len()
        );
        assert_eq!(asker.raw(&request).json()["resource"], RESOURCE);
        assert_eq!(asker.emulator.last_request(), Some(request.into_bytes()));
    }

    #[test]
    fn a_body_framed_in_two_ways_or_in_an_unknown_one_is_refused() {
        let asker = cloud_shell();
        for framing in [
            "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
            "Transfer-Encoding: gzip, chunked\r\n",
        ] {
            let request =
                format!("POST /oauth2/token HTTP/1.1\r\nHost: t\r\n{FORM}{framing}\r\n0\r\n\r\n");
            assert_eq!(asker.raw(&request).status, 400, "{framing}");
        }
        assert_eq!(asker.emulator.last_request(), None);
    }

    #[test]
    fn parameters_may_stand_in_the_query_but_not_twice() {
        let asker = cloud_shell();
        assert_eq!(asker.post("/oauth2/token?xms_cc=CP1", &body()).status, 200);
        let twice = asker.post("/oauth2/token?resource=r", &body());
        assert_eq!(twice.status, 400);
        assert_eq!(names(&twice.body), ["error"]);
    }

    #[test]
    fn other_requests_are_refused_in_its_own_shape() {
        let asker = cloud_shell();
        for (method, lines, body, status) in [
            ("GET", FORM, "", 405),
            ("POST", "", "", 400),
            ("POST", "Metadata: true\r\n", "resource=r", 400),
            ("POST", FORM, "", 400),
            ("POST", FORM, "resource=%zz", 400),
        ] {
            let reply = asker.send(method, "/oauth2/token", lines, body);
            assert_eq!(reply.status, status, "{method} {lines} {body}");
            let error = &reply.json()["error"];
            assert!(error["code"].is_string() && error["message"].is_string());
        }
        let selector = format!("{}&client_id=nobody", body());
        asker.post("/oauth2/token", &selector).token();
    }
}
