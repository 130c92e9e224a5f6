//! What `foretoken env` prints, dialect by dialect.

use clap::Parser;

use super::*;

const CLIENTS: &str = "[[client]]\nname = \"orders\"\nsecret = \"0123456789-orders\"\n\
    identities = [\"system\"]\n[[client]]\nname = \"billing\"\nsecret = \"it's-$HOME-%n-pay\"\n\
    identities = [\"system\"]\n";

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    args: Args,
}

fn advice_of(config: &str, line: &str) -> Result<Advice> {
    let environment = Environment {
        state_directory: Some("/nonexistent".into()),
        ..Environment::default()
    };
    let settings = config::parse(config, Path::new("f.toml"), &environment);
    let settings = settings.unwrap_or_else(|mistakes| panic!("{mistakes}"));
    let line = Line::try_parse_from(["env"].into_iter().chain(line.split(' ')))?;
    advise(&settings, &line.args)
}

fn printed(config: &str, line: &str) -> String {
    let advice = advice_of(config, line).unwrap();
    let variables = advice.variables.iter();
    let lines: Vec<_> = variables
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    lines.join("\n")
}

fn refused(config: &str, line: &str) -> String {
    format!("{:#}", advice_of(config, line).err().unwrap())
}

fn listening(address: &str, dialects: &str) -> String {
    format!("[[listener]]\naddress = \"{address}\"\ndialects = [{dialects}]\n")
}

#[test]
fn imds_needs_no_client_and_no_configuration() {
    let expected = "AZURE_POD_IDENTITY_AUTHORITY_HOST=http://127.0.0.1:16925";
    assert_eq!(printed("", "--dialect imds"), expected);
}

#[test]
fn app_service_has_both_pairs_where_the_listener_speaks_both() {
    let new = "IDENTITY_ENDPOINT=http://127.0.0.1:16925/msi/token\n\
               IDENTITY_HEADER=0123456789-orders";
    let old = "MSI_ENDPOINT=http://127.0.0.1:16925/MSI/token/\nMSI_SECRET=0123456789-orders";
    let line = "orders --dialect app-service";
    assert_eq!(printed(CLIENTS, line), format!("{new}\n{old}"));
    assert_eq!(printed(CLIENTS, &format!("{line} --both false")), new);
    let alone = format!(
        "{CLIENTS}{}",
        listening("127.0.0.1:16925", "\"app-service\"")
    );
    assert_eq!(printed(&alone, line), new);
    assert_eq!(printed(CLIENTS, "orders --dialect app-service-2017"), old);
}

#[test]
fn dotnet_has_the_pair_of_app_service_instead_of_imds() {
    let line = "orders --dialect imds --sdk dotnet --both false";
    let expected = printed(CLIENTS, "orders --dialect app-service --both false");
    assert_eq!(printed(CLIENTS, line), expected);
    assert!(refused(CLIENTS, "--dialect imds --sdk dotnet").contains("name the client"));
}

#[test]
fn arc_and_cloud_shell_have_listeners_of_their_own() {
    let config = listening("127.0.0.1:40342", "\"arc\"") + &listening("[::1]:1", "\"cloud-shell\"");
    assert_eq!(
        printed(&config, "--dialect arc"),
        "IDENTITY_ENDPOINT=http://127.0.0.1:40342/metadata/identity/oauth2/token\n\
         IMDS_ENDPOINT=http://127.0.0.1:40342"
    );
    let expected = "MSI_ENDPOINT=http://[::1]:1/oauth2/token";
    assert_eq!(printed(&config, "--dialect cloud-shell"), expected);
}

#[test]
fn arc_clients_are_told_where_they_look_for_key_files() {
    let config = listening("127.0.0.1:40342", "\"arc\"") + "arc_folder = \"/t\"\n";
    let notes = advice_of(&config, "--dialect arc")
        .unwrap()
        .notes
        .join("\n");
    assert!(
        notes.contains(ARC_FOLDER) && notes.contains("/t"),
        "{notes}"
    );
}

#[test]
fn the_vm_extension_has_one_variable_and_says_who_reads_it() {
    let line = "--dialect vm-extension";
    let expected = "MSI_ENDPOINT=http://127.0.0.1:16925/oauth2/token";
    assert_eq!(printed("", line), expected);
    let notes = |config: &str| advice_of(config, line).unwrap().notes.join("\n");
    for words in [
        "msrestazure",
        "localhost:50342",
        "do not find 127.0.0.1:16925",
    ] {
        assert!(notes("").contains(words), "{words}: {}", notes(""));
    }
    let built_in = listening("127.0.0.1:50342", "\"vm-extension\"");
    assert!(!notes(&built_in).contains("do not find"));
}

#[test]
fn service_fabric_has_the_thumbprint_of_the_certificate() {
    let folder = tempfile::tempdir().unwrap();
    let tls = format!("tls = {:?}\n", folder.path().display().to_string());
    let config = listening("127.0.0.1:2377", "\"service-fabric\"") + &tls + CLIENTS;
    let line = "orders --dialect service-fabric";
    assert!(refused(&config, line).contains("start the server once"));

    let certificate = folder.path().join("cert.pem");
    std::fs::write(&certificate, thumbprint::tests::PEM).unwrap();
    let thumbprint = thumbprint::tests::THUMBPRINT;
    assert_eq!(
        printed(&config, line),
        format!(
            "IDENTITY_ENDPOINT=https://localhost:2377/metadata/identity/oauth2/token\n\
             IDENTITY_HEADER=0123456789-orders\nIDENTITY_SERVER_THUMBPRINT={thumbprint}"
        )
    );
    let notes = advice_of(&config, line).unwrap().notes.join("\n");
    let node = format!("NODE_EXTRA_CA_CERTS={}", certificate.display());
    assert!(notes.contains(&node), "{notes}");
}

#[test]
fn the_first_listener_that_a_url_can_name_is_named() {
    let config = listening("unix:/run/a.sock", "\"imds\"")
        + &listening("127.0.0.1:0", "\"imds\"")
        + &listening("127.0.0.1:7000", "\"app-service\"")
        + &listening("127.0.0.1:7001", "\"imds\"")
        + &listening("127.0.0.1:7002", "\"imds\"");
    assert!(printed(&config, "--dialect imds").ends_with("http://127.0.0.1:7001"));
    let only = listening("unix:/run/a.sock", "\"imds\"");
    assert!(refused(&only, "--dialect imds").contains("Unix sockets"));
    assert!(refused(&only, "--dialect arc").contains("no listener speaks arc"));
}

#[test]
fn another_listener_is_named_when_it_is_asked_for() {
    let config = listening("127.0.0.1:7001", "\"imds\"")
        + &listening("127.0.0.1:7002", "\"app-service\"")
        + &listening("[::1]:7003", "\"imds\"");
    let line = "--dialect imds --listener";
    let named = |at: &str| printed(&config, &format!("{line} {at}"));
    assert!(named("127.0.0.1:7001").ends_with("http://127.0.0.1:7001"));
    assert!(named("[::1]:7003").ends_with("http://[::1]:7003"));
    for at in ["127.0.0.1:7002", "127.0.0.1:7003", "127.0.0.1:1"] {
        let why = refused(&config, &format!("{line} {at}"));
        let list = "imds; it is spoken at 127.0.0.1:7001, [::1]:7003";
        assert!(why.contains(at) && why.ends_with(list), "{why}");
    }
    assert!(advice_of(&config, &format!("{line} imds")).is_err());

    // Who does not choose is told that there was a choice; the default listeners are none.
    let notes = |config: &str, line| advice_of(config, line).unwrap().notes.join("\n");
    let told = "imds is spoken at 127.0.0.1:7001, [::1]:7003; this names the first";
    assert!(notes(&config, "--dialect imds").contains(told));
    let chosen = "--dialect imds --listener 127.0.0.1:7001";
    assert!(!notes(&config, chosen).contains("is spoken at"));
    assert!(!notes("", "--dialect imds").contains("is spoken at"));
}

#[test]
fn every_address_of_the_machine_is_called_by_the_loopback_one() {
    let signed = "[server]\ni_understand_that_tokens_leave_this_machine = true\n";
    let any = |address| format!("{signed}{}", listening(address, "\"imds\""));
    let named = |address| printed(&any(address), "--dialect imds");
    assert!(named("0.0.0.0:7000").ends_with("http://127.0.0.1:7000"));
    assert!(named("[::]:7000").ends_with("http://[::1]:7000"));
    assert!(named("10.0.0.4:7000").ends_with("http://10.0.0.4:7000"));
}

#[test]
fn a_client_is_named_where_there_is_a_secret_and_known_wherever_it_is_named() {
    let missing = refused(CLIENTS, "--dialect app-service");
    assert!(
        missing.contains("the configuration has orders, billing"),
        "{missing}"
    );
    assert!(refused("", "--dialect app-service").contains("no [[client]]"));
    assert!(refused(CLIENTS, "odrers --dialect imds").contains("no client is called"));
    assert!(printed(CLIENTS, "orders --dialect imds").starts_with("AZURE_POD"));
    assert!(refused("", "--dialect kerberos").contains("app-service-2017"));
}

#[test]
fn notes_tell_no_secret() {
    for dialect in ["imds", "app-service", "app-service-2017", "vm-extension"] {
        for format in ["sh", "systemd", "docker", "dotenv"] {
            let line = format!("billing --dialect {dialect} --format {format} --sdk dotnet");
            let advice = advice_of(CLIENTS, &line).unwrap();
            assert!(!advice.notes.is_empty());
            assert!(!advice.notes.join("\n").contains("$HOME"), "{line}");
        }
    }
}

#[test]
fn a_line_is_written_for_its_reader() {
    let line = |format: &str| {
        let line = format!("billing --dialect app-service --format {format}");
        let advice = advice_of(CLIENTS, &line).unwrap();
        let (name, value) = &advice.variables[1];
        let parsed = Line::try_parse_from(["env"].into_iter().chain(line.split(' ')));
        parsed
            .unwrap_or_else(|e| panic!("{e}"))
            .args
            .format
            .assignment(name, value)
    };
    assert_eq!(line("sh"), r"export IDENTITY_HEADER='it'\''s-$HOME-%n-pay'");
    assert_eq!(
        line("systemd"),
        r#"Environment="IDENTITY_HEADER=it's-$HOME-%%n-pay""#
    );
    assert_eq!(line("docker"), r"-e 'IDENTITY_HEADER=it'\''s-$HOME-%n-pay'");
    assert_eq!(line("dotenv"), r#"IDENTITY_HEADER="it's-\$HOME-%n-pay""#);
}
