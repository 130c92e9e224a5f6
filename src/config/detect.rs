//! `kind = "auto"`: the source that this machine has.
//!
//! Looks in the order of the SDKs (`protocols.md` §2). Promises that a variable that points at
//! Foretoken is taken for what it is, a hint to clients, and passed over.

use super::check::Check;
use super::endpoint::endpoint;
use crate::upstream::Kind;

impl Check<'_> {
    /// The kind of source, and what gave it away.
    pub fn look(&self) -> (Kind, &'static str) {
        let has = |names: &[&str]| {
            names
                .iter()
                .all(|name| self.platform.variable(name).is_some())
        };
        let theirs = |variable| !self.points_at_us(variable);
        let federated = [
            "AZURE_FEDERATED_TOKEN_FILE",
            "AZURE_TENANT_ID",
            "AZURE_CLIENT_ID",
        ];
        let pair = has(&["IDENTITY_ENDPOINT", "IDENTITY_HEADER"]) && theirs("IDENTITY_ENDPOINT");
        let pinned = has(&["IDENTITY_SERVER_THUMBPRINT"]);
        let msi = has(&["MSI_ENDPOINT"]) && theirs("MSI_ENDPOINT");
        if pair && pinned {
            let why =
                "found by $IDENTITY_ENDPOINT, $IDENTITY_HEADER and $IDENTITY_SERVER_THUMBPRINT";
            (Kind::ServiceFabric, why)
        } else if pair {
            (
                Kind::AppService,
                "found by $IDENTITY_ENDPOINT and $IDENTITY_HEADER",
            )
        } else if msi && has(&["MSI_SECRET"]) {
            (Kind::AzureMl, "found by $MSI_ENDPOINT and $MSI_SECRET")
        } else if msi {
            (Kind::CloudShell, "found by $MSI_ENDPOINT alone")
        } else if self.has_arc_pair() && theirs("IDENTITY_ENDPOINT") {
            (Kind::Arc, "found by $IDENTITY_ENDPOINT and $IMDS_ENDPOINT")
        } else if has(&federated) {
            (
                Kind::WorkloadIdentity,
                "found by $AZURE_FEDERATED_TOKEN_FILE",
            )
        } else if self.platform.has_agent() {
            (Kind::Arc, "found by the installed agent of Arc")
        } else {
            (Kind::Imds, "no other source was found")
        }
    }

    /// Whether the platform tells where Arc's agent listens. With a secret beside it, the variable
    /// is another platform's.
    pub fn has_arc_pair(&self) -> bool {
        let has = |name| self.platform.variable(name).is_some();
        has("IDENTITY_ENDPOINT") && has("IMDS_ENDPOINT") && !has("IDENTITY_HEADER")
    }

    /// Whether a variable leads to an address that Foretoken itself takes. One that cannot be read
    /// does not, so that it is told.
    pub fn points_at_us(&self, variable: &str) -> bool {
        let told = self.platform.variable(variable);
        let kinds = [Kind::AppService, Kind::ServiceFabric];
        let mut read = kinds
            .into_iter()
            .filter_map(|kind| endpoint(kind, told?).ok());
        read.any(|endpoint| self.rules.is_ours(endpoint.address))
    }
}

#[cfg(test)]
mod tests {
    use super::super::upstream::tests::{FABRIC, FEDERATED, PAIR, environment, source, source_in};
    use crate::config::Platform;

    #[test]
    fn auto_finds_the_source_in_the_order_of_the_sdks() {
        let thumbprint = (
            "IDENTITY_SERVER_THUMBPRINT",
            "00112233445566778899AABBCCDDEEFF01234567",
        );
        let msi = [
            ("MSI_ENDPOINT", "http://127.0.0.1:1/t"),
            ("MSI_SECRET", "s"),
        ];
        let arc = [
            ("IDENTITY_ENDPOINT", "http://127.0.0.1:40342"),
            ("IMDS_ENDPOINT", "http://x"),
        ];
        let all = [&PAIR[..], &msi, &FEDERATED, &[("IMDS_ENDPOINT", "x")]].concat();
        let fabric = [&[("IDENTITY_ENDPOINT", FABRIC), thumbprint][..], &all].concat();
        for (variables, kind) in [
            (&fabric[..], "service-fabric"),
            (&all, "app-service"),
            (&[&msi[..], &arc, &FEDERATED].concat(), "azure-ml"),
            (&[&msi[..1], &arc, &FEDERATED].concat(), "cloud-shell"),
            (&[&arc[..], &FEDERATED].concat(), "arc"),
            (&FEDERATED, "workload-identity"),
            (&FEDERATED[1..], "imds"),
            (&[("IDENTITY_HEADER", "h"), ("MSI_SECRET", "s")], "imds"),
            (
                &[("AZURE_POD_IDENTITY_AUTHORITY_HOST", "http://127.0.0.1:1")],
                "imds",
            ),
            (
                &[("IDENTITY_ENDPOINT", ""), ("IDENTITY_HEADER", "")],
                "imds",
            ),
        ] {
            let found = source("kind = \"auto\"", variables).unwrap();
            assert_eq!(found.split(' ').next(), Some(kind), "{variables:?}");
        }
    }

    #[test]
    fn auto_never_takes_foretoken_for_a_source() {
        let ours = |name| (name, "http://127.0.0.1:16925/msi/token");
        let secret = ("IDENTITY_HEADER", "h");
        let msi = [ours("MSI_ENDPOINT"), ("MSI_SECRET", "s")];
        let pair = [ours("IDENTITY_ENDPOINT"), secret];
        let find = |variables: &[(&str, &str)]| source("kind = \"auto\"", variables).unwrap();
        assert!(find(&pair).starts_with("imds "));
        assert!(find(&msi).starts_with("imds "));
        assert!(find(&msi[..1]).starts_with("imds "));
        assert!(find(&[&pair[..], &FEDERATED].concat()).starts_with("workload-identity "));
        let theirs = ("MSI_ENDPOINT", "http://127.0.0.1:1/t");
        assert!(find(&[&pair[..], &[theirs, msi[1]]].concat()).starts_with("azure-ml "));
        // One who names the kind is told.
        let told = source("kind = \"app-service\"", &pair).unwrap_err();
        assert!(told.contains("Foretoken itself"), "{told}");
    }

    #[test]
    fn the_installed_agent_is_asked_where_it_is_unless_its_variable_leads_elsewhere() {
        let find = |variables: &[(&str, &str)]| {
            let mut environment = environment(variables);
            environment.platform = std::mem::take(&mut environment.platform).with_agent();
            source_in("kind = \"auto\"", &environment)
        };
        let agent = "arc 127.0.0.1:40342/metadata/identity/oauth2/token";
        assert_eq!(find(&[]).as_deref(), Ok(agent));
        let companion = ("IMDS_ENDPOINT", "http://x");
        let ours = ("IDENTITY_ENDPOINT", "http://127.0.0.1:16925");
        assert_eq!(find(&[ours, companion]).as_deref(), Ok(agent));
        let theirs = ("IDENTITY_ENDPOINT", "http://127.0.0.1:40343");
        let found = find(&[theirs, companion]).unwrap();
        assert_eq!(found, agent.replace("40342", "40343"));
        assert!(find(&FEDERATED).unwrap().starts_with("workload-identity "));
        assert!(!format!("{:?}", Platform::default()).contains("40342"));
    }
}
