//! The names of all tables and options, and what an unknown one was likely meant to be.

use super::mistake::Complaint;

/// Every option: its table, its key and a value that shows its form.
pub(super) const OPTIONS: [(&str, &str, &str); 44] = [
    ("listener", "address", r#""127.0.0.1:16925""#),
    ("listener", "dialects", r#"["imds"]"#),
    ("listener", "expires_on_2017", r#""date""#),
    ("listener", "without_metadata", "true"),
    ("listener", "tls", r#""/var/lib/foretoken/tls""#),
    ("listener", "arc_folder", r#""/var/opt/azcmagent/tokens""#),
    ("listener", "arc_group", r#""himds""#),
    ("listener", "arc_allow_agent", "true"),
    ("client", "name", r#""orders""#),
    // No example of a secret: somebody would use it.
    ("client", "secret", r#""…""#),
    ("client", "secret_file", r#""orders.secret""#),
    ("client", "identities", r#"["system"]"#),
    ("client", "resources", r#"["https://vault.azure.net"]"#),
    ("client", "default_identity", r#""system""#),
    ("admin", "address", r#""127.0.0.1:16926""#),
    ("admin", "socket", r#""/run/foretoken/admin.sock""#),
    ("upstream", "kind", r#""imds""#),
    ("upstream", "endpoint", r#""http://169.254.169.254""#),
    ("upstream", "secret", r#""…""#),
    ("upstream", "secret_file", r#""upstream.secret""#),
    (
        "upstream",
        "thumbprint",
        r#""7CB2E7C1A0D2B1C0F4A4C8E2E9D6C1B0A3F5D7E9""#,
    ),
    (
        "upstream",
        "default_client_id",
        r#""aaaaaaaa-1111-4222-8333-444444444444""#,
    ),
    ("upstream", "arc_folder", r#""/var/opt/azcmagent/tokens""#),
    (
        "upstream",
        "authority",
        r#""https://login.microsoftonline.com""#,
    ),
    ("upstream", "tenant", r#""contoso.onmicrosoft.com""#),
    (
        "upstream",
        "client_id",
        r#""aaaaaaaa-1111-4222-8333-444444444444""#,
    ),
    (
        "upstream",
        "token_file",
        r#""/var/run/secrets/azure/tokens/azure-identity-token""#,
    ),
    (
        "upstream",
        "ca_file",
        r#""/etc/ssl/certs/ca-certificates.crt""#,
    ),
    ("upstream", "max_in_flight", "4"),
    ("upstream", "max_per_second", "15"),
    ("refresh", "outage_to_survive", r#""6h""#),
    ("refresh", "time_scale", "1"),
    ("limits", "max_keys", "10000"),
    ("limits", "max_waiters", "20000"),
    ("limits", "max_negatives", "1000"),
    ("store", "mode", r#""sealed""#),
    ("store", "engine", r#""sled""#),
    ("store", "path", r#""/var/lib/foretoken/store""#),
    ("store", "key", r#""/var/lib/foretoken/foretoken.key""#),
    ("server", "workers", "4"),
    ("server", "pin_workers", "false"),
    ("server", REMOTE, "true"),
    ("log", "level", r#""info""#),
    ("log", "format", r#""text""#),
];

/// The option that lets listeners stand where other machines reach them. Its name is its warning.
pub(super) const REMOTE: &str = "i_understand_that_tokens_leave_this_machine";

/// The tables that may come again.
pub(super) const REPEATED: [&str; 2] = ["listener", "client"];

/// The known name that a mistyped one is likely to mean.
pub(super) fn nearest<'n>(
    typed: &str,
    known: impl IntoIterator<Item = &'n str>,
) -> Option<&'n str> {
    let typed = typed.to_lowercase();
    // One slip, and one more for every four letters: enough for `maxInFlight`, too little to
    // take any short word for `log` or `key`.
    let allowed = 1 + typed.chars().count() / 4;
    known
        .into_iter()
        .map(|name| (strsim::osa_distance(&typed, name), name))
        .filter(|(distance, _)| *distance <= allowed)
        .min()
        .map(|(_, name)| name)
}

/// Every table, in the order of the reference.
pub(super) fn table_names() -> impl Iterator<Item = &'static str> {
    [
        "listener", "client", "admin", "upstream", "refresh", "limits", "store", "server", "log",
    ]
    .into_iter()
}

/// The options of a table.
pub(super) fn keys(table: &str) -> impl Iterator<Item = &'static str> {
    OPTIONS
        .iter()
        .filter(move |option| option.0 == table)
        .map(|option| option.1)
}

/// A value that shows an option's form.
pub(super) fn example(table: &str, key: &str) -> &'static str {
    let mut options = OPTIONS.iter();
    let option = options.find(|option| (option.0, option.1) == (table, key));
    option.map_or("", |option| option.2)
}

/// How a table is headed in the file.
pub(super) fn heading(table: &str) -> String {
    if REPEATED.contains(&table) {
        format!("[[{table}]]")
    } else {
        format!("[{table}]")
    }
}

/// A name that stands outside all tables and is none of them.
pub(super) fn unknown_table(name: &str) -> Complaint {
    let message = format!("there is no table or option {name:?} here");
    let hint = match nearest(name, table_names()) {
        Some(near) => format!("did you mean `{}`?", heading(near)),
        None => belongs(name).unwrap_or_else(|| {
            let all: Vec<_> = table_names().map(heading).collect();
            format!("the tables are {}", all.join(", "))
        }),
    };
    Complaint::new(message, hint)
}

/// A name in a table that has no such option.
pub(super) fn unknown_key(table: &str, name: &str) -> Complaint {
    let message = format!("{} has no option {name:?}", heading(table));
    let hint = match nearest(name, keys(table)) {
        Some(near) => format!("did you mean `{near}`?"),
        None => belongs(name).unwrap_or_else(|| {
            let all: Vec<_> = keys(table).map(|key| format!("`{key}`")).collect();
            format!("its options are {}", all.join(", "))
        }),
    };
    Complaint::new(message, hint)
}

/// Says where an option that was typed in the wrong table has its place.
fn belongs(name: &str) -> Option<String> {
    let homes: Vec<_> = OPTIONS
        .iter()
        .filter(|option| option.1 == name)
        .map(|option| heading(option.0))
        .collect();
    (!homes.is_empty()).then(|| format!("`{name}` belongs under {}", homes.join(" or ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_option_belongs_to_a_table_and_every_table_has_options() {
        assert!(
            OPTIONS
                .iter()
                .all(|option| table_names().any(|t| t == option.0))
        );
        assert!(table_names().all(|table| keys(table).next().is_some()));
    }

    #[test]
    fn a_slip_of_the_finger_finds_its_name() {
        let upstream = || keys("upstream");
        for typed in [
            "maxInFlight",
            "max-in-flight",
            "max_inflight",
            "max_in_fligth",
        ] {
            assert_eq!(nearest(typed, upstream()), Some("max_in_flight"), "{typed}");
        }
        assert_eq!(nearest("Kind", upstream()), Some("kind"));
        assert_eq!(nearest("timeout", upstream()), None);
    }
}
