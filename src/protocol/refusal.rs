//! Error bodies, in each dialect's own shape.

use super::Dialect;
use super::answer::json_string;

/// What an error body says.
#[derive(Debug, Clone, Copy)]
pub struct Complaint<'a> {
    /// The HTTP status, which some shapes repeat.
    pub status: u16,
    /// The error's name in the words of IMDS.
    pub error: &'a str,
    /// A sentence.
    pub description: &'a str,
    /// Ties the answer to a line of somebody's log where the shape has a place for it.
    pub correlation: u128,
}

/// Renders an error body.
#[must_use]
pub fn render(dialect: Dialect, complaint: &Complaint<'_>) -> Vec<u8> {
    let Complaint {
        status,
        error,
        description,
        correlation,
    } = *complaint;
    let (name, text) = (json_string(error), json_string(description));
    let id = guid(correlation);
    let body = match dialect {
        Dialect::Imds | Dialect::Arc | Dialect::VmExtension => {
            format!("{{\"error\":{name},\"error_description\":{text}}}")
        }
        Dialect::AppService => {
            format!("{{\"statusCode\":{status},\"message\":{text},\"correlationId\":\"{id}\"}}")
        }
        Dialect::AppService2017 => {
            format!("{{\"StatusCode\":{status},\"Message\":{text},\"CorrelationId\":\"{id}\"}}")
        }
        Dialect::ServiceFabric => {
            let code = json_string(fabric_code(status, error));
            format!(
                "{{\"error\":{{\"correlationId\":\"{id}\",\"code\":{code},\"message\":{text}}}}}"
            )
        }
        Dialect::CloudShell => {
            format!("{{\"error\":{{\"code\":{name},\"message\":{text}}}}}")
        }
    };
    body.into_bytes()
}

/// The body for an IMDS request without `api-version`, which names the versions instead.
#[must_use]
pub fn render_no_api_version() -> Vec<u8> {
    b"{\"error\":\"Bad request. api-version was not specified in the request. For more information \
      refer to aka.ms/azureimds\",\"newest-versions\":[\"2018-02-01\"]}"
        .to_vec()
}

/// Service Fabric's documented codes.
fn fabric_code(status: u16, error: &str) -> &'static str {
    match (status, error) {
        (401, _) => "SecretHeaderNotFound",
        (404, _) => "ManagedIdentityNotFound",
        (400, "invalid_api_version") => "InvalidApiVersion",
        (400..=499, _) => "ArgumentNullOrEmpty",
        _ => "InternalServerError",
    }
}

fn guid(bits: u128) -> String {
    let hex = format!("{bits:032x}");
    [
        &hex[..8],
        &hex[8..12],
        &hex[12..16],
        &hex[16..20],
        &hex[20..],
    ]
    .join("-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_dialect_complains_in_its_own_shape() {
        let complaint = Complaint {
            status: 400,
            error: "invalid_request",
            description: "Identity \"x\" not found",
            correlation: 0x1234,
        };
        let shown = |dialect| -> serde_json::Value {
            serde_json::from_slice(&render(dialect, &complaint)).unwrap()
        };
        let text = "Identity \"x\" not found";
        let id = "00000000-0000-0000-0000-000000001234";
        for dialect in [Dialect::Imds, Dialect::Arc, Dialect::VmExtension] {
            let body = shown(dialect);
            assert_eq!(
                (&body["error"], &body["error_description"]),
                (&"invalid_request".into(), &text.into())
            );
        }
        let body = shown(Dialect::AppService);
        assert_eq!(
            body,
            serde_json::json!({"statusCode": 400, "message": text, "correlationId": id})
        );
        let body = shown(Dialect::AppService2017);
        assert_eq!(
            body,
            serde_json::json!({"StatusCode": 400, "Message": text, "CorrelationId": id})
        );
        let body = shown(Dialect::ServiceFabric);
        assert_eq!(body["error"]["code"], "ArgumentNullOrEmpty");
        let body = shown(Dialect::CloudShell);
        assert_eq!(body["error"]["code"], "invalid_request");
    }
}
