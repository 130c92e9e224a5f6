//! Success bodies, one for each shape that clients read.
//!
//! What each client reads was taken from recordings of the real ones; `docs/protocols.md` says why
//! each detail matters to whom.

use super::{Dialect, Rendered};
use crate::token::{AccessToken, TokenKey};

/// The shape of a success body. Several dialects share one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// IMDS and the VM extension: strings only, `expires_on` behind `expires_in` because MSAL .NET
    /// lets the later of the two win.
    Metadata,
    /// App Service: `expires_on` alone.
    AppService,
    /// 2017-09-01 with `expires_on` in seconds since the epoch.
    Epoch2017,
    /// 2017-09-01 with `expires_on` as a date.
    Date2017,
    /// Arc: as IMDS, and the selector is echoed. Clients throw the token away without it.
    Arc,
    /// Service Fabric: `expires_on` alone.
    ServiceFabric,
    /// Cloud Shell: as IMDS, with an empty `refresh_token`.
    CloudShell,
}

impl Shape {
    /// How many there are.
    pub const COUNT: usize = 7;
    /// Every shape.
    pub const ALL: [Self; Self::COUNT] = [
        Self::Metadata,
        Self::AppService,
        Self::Epoch2017,
        Self::Date2017,
        Self::Arc,
        Self::ServiceFabric,
        Self::CloudShell,
    ];

    /// The shape of a dialect's answers; `dates` asks for dates in 2017-09-01.
    #[must_use]
    pub fn of(dialect: Dialect, dates: bool) -> Self {
        match dialect {
            Dialect::Imds | Dialect::VmExtension => Self::Metadata,
            Dialect::AppService => Self::AppService,
            Dialect::AppService2017 if dates => Self::Date2017,
            Dialect::AppService2017 => Self::Epoch2017,
            Dialect::Arc => Self::Arc,
            Dialect::ServiceFabric => Self::ServiceFabric,
            Dialect::CloudShell => Self::CloudShell,
        }
    }
}

/// Renders what follows the token in the body that answers a request for `key`. `resource` is the
/// caller's own text, because clients key their caches on it.
#[must_use]
pub fn render(shape: Shape, key: &TokenKey, token: &AccessToken) -> Rendered {
    let mut head = String::from("\"");
    if let Some(client_id) = &token.client_id {
        head.push_str(&format!(",\"client_id\":{}", json_string(client_id)));
    }

    let expires_on = token.lifetime.expires_on_s;
    let mut tail = String::new();
    if let Some(not_before) = token.lifetime.not_before_s {
        tail.push_str(&format!(",\"not_before\":\"{not_before}\""));
    }
    tail.push_str(&format!(
        ",\"resource\":{}",
        json_string(key.resource.as_str())
    ));
    match shape {
        Shape::Arc => tail.push_str(&echo(key, token)),
        Shape::CloudShell => tail.push_str(",\"refresh_token\":\"\""),
        _ => {}
    }
    tail.push_str(",\"token_type\":\"Bearer\"}");

    match shape {
        Shape::Metadata | Shape::Arc | Shape::CloudShell => {
            head.push_str(",\"expires_in\":\"");
            let middle = format!("\",\"expires_on\":\"{expires_on}\",\"ext_expires_in\":\"");
            Rendered::moving([&head, &middle, &format!("\"{tail}")])
        }
        Shape::AppService | Shape::Epoch2017 | Shape::ServiceFabric => {
            Rendered::still(format!("{head},\"expires_on\":\"{expires_on}\"{tail}"))
        }
        Shape::Date2017 => {
            let date = date(expires_on);
            Rendered::still(format!("{head},\"expires_on\":\"{date}\"{tail}"))
        }
    }
}

/// The selector as the caller named it, unless it is the client id, which stands there already.
fn echo(key: &TokenKey, token: &AccessToken) -> String {
    match key.identity.selector() {
        Some(("client_id", _)) if token.client_id.is_some() => String::new(),
        Some((kind, value)) => format!(",\"{kind}\":{}", json_string(value)),
        None => String::new(),
    }
}

/// `06/20/2019 02:57:58 +00:00`, as App Service on Linux writes it.
fn date(unix_s: u64) -> String {
    let (days, second) = (unix_s / 86_400, unix_s % 86_400);
    // Days to a date by eras of 400 years (H. Hinnant, "chrono-Compatible Low-Level Date
    // Algorithms"), from 0000-03-01 so that leap days end years.
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 {
        month_from_march + 3
    } else {
        month_from_march - 9
    };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{month:02}/{day:02}/{year:04} {hour:02}:{minute:02}:{second:02} +00:00")
}

pub(super) fn json_string(text: &str) -> String {
    serde_json::to_string(text).expect("a string always has a JSON form")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::UnixMs;
    use crate::protocol::Digits;
    use crate::token::{Identity, Lifetime, Resource, Secret};

    fn body(shape: Shape, identity: Identity, client_id: Option<&str>) -> String {
        let key = TokenKey {
            upstream: "imds".into(),
            identity,
            resource: Resource::from_decoded(b"https://r/\"x").unwrap(),
            capabilities: vec![],
            extras: vec![],
            client: None,
        };
        let token = AccessToken {
            secret: Secret::new(b"a.b.c".to_vec()),
            lifetime: Lifetime {
                received_at: UnixMs(0),
                expires_on_s: 1_560_999_478,
                not_before_s: Some(10),
                refresh_in_s: None,
            },
            client_id: client_id.map(Into::into),
        };
        let rendered = render(shape, &key, &token);
        String::from_utf8(rendered.with(&token, &Digits::new(90)).concat()).unwrap()
    }

    #[test]
    fn the_metadata_body_has_strings_only_and_expires_on_behind_expires_in() {
        assert_eq!(
            body(Shape::Metadata, Identity::System, Some("id")),
            "{\"access_token\":\"a.b.c\",\"client_id\":\"id\",\"expires_in\":\"90\",\
             \"expires_on\":\"1560999478\",\"ext_expires_in\":\"90\",\"not_before\":\"10\",\
             \"resource\":\"https://r/\\\"x\",\"token_type\":\"Bearer\"}"
        );
    }

    #[test]
    fn every_shape_is_json_with_the_same_token_and_resource() {
        for shape in [
            Shape::Metadata,
            Shape::AppService,
            Shape::Epoch2017,
            Shape::Date2017,
            Shape::Arc,
            Shape::ServiceFabric,
            Shape::CloudShell,
        ] {
            let body = body(shape, Identity::ObjectId("o".into()), None);
            let json: serde_json::Value = serde_json::from_str(&body).unwrap();
            assert_eq!(json["access_token"], "a.b.c", "{shape:?}");
            assert_eq!(json["resource"], "https://r/\"x", "{shape:?}");
            assert_eq!(json["token_type"], "Bearer", "{shape:?}");
            assert!(json["expires_on"].is_string(), "{shape:?}");
            assert_eq!(json.get("client_id"), None, "{shape:?}");
            let moves = matches!(shape, Shape::Metadata | Shape::Arc | Shape::CloudShell);
            assert_eq!(json.get("expires_in").is_some(), moves, "{shape:?}");
            assert_eq!(
                json.get("object_id").is_some(),
                shape == Shape::Arc,
                "{shape:?}"
            );
        }
    }

    #[test]
    fn arc_echoes_the_selector_once() {
        let json: serde_json::Value = serde_json::from_str(&body(
            Shape::Arc,
            Identity::ResourceId("/s/x".into()),
            Some("c"),
        ))
        .unwrap();
        assert_eq!(json["msi_res_id"], "/s/x");
        let body = body(Shape::Arc, Identity::ClientId("c".into()), Some("C"));
        assert_eq!(body.matches("client_id").count(), 1);
    }

    #[test]
    fn dates_are_those_of_app_service() {
        assert_eq!(date(1_560_999_478), "06/20/2019 02:57:58 +00:00");
        assert_eq!(date(0), "01/01/1970 00:00:00 +00:00");
        assert_eq!(date(951_782_400), "02/29/2000 00:00:00 +00:00");
        assert_eq!(date(4_107_542_399), "02/28/2100 23:59:59 +00:00");
        assert_eq!(date(4_107_542_400), "03/01/2100 00:00:00 +00:00");
    }
}
