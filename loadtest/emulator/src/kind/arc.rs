//! The agent of an Azure Arc machine: like IMDS, but a caller must first prove that it may read
//! a file the agent has just written.
//!
//! The first request is answered 401 with the path of the file in `WWW-Authenticate`; the second
//! carries what stands in it. A file serves once.

use std::collections::VecDeque;
use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{self, PathBuf};

use crate::claims::random_bytes;
use crate::fields::Fields;
use crate::http::Request;
use crate::identities::{Selector, guid};
use crate::refusals::{ErrorShape, Refusal};
use crate::rules::{ApiVersions, MetadataTrue, RenewBy, Rules, TokenPath};
use crate::token_reply::Success;

/// Most key files at a time; the oldest goes when another is written.
const KEY_FILE_LIMIT: usize = 64;

/// Choices for [`crate::Kind::Arc`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArcAgent {
    /// Where key files are written; created with mode 0700 if it does not exist. The real folder
    /// is `/var/opt/azcmagent/tokens`. Default: a folder among the temporary files.
    pub key_folder: PathBuf,
    /// Whether to be an agent from before user-assigned identities: it ignores every selector,
    /// and echoes none. Default false.
    pub old_agent: bool,
}

impl Default for ArcAgent {
    fn default() -> Self {
        Self {
            key_folder: std::env::temp_dir().join("foretoken-emulator-keys"),
            old_agent: false,
        }
    }
}

impl ArcAgent {
    pub(super) fn rules(&self) -> Rules<'static> {
        Rules {
            path: TokenPath::Exactly("/metadata/identity/oauth2/token"),
            methods: &["GET"],
            // The platform's own PowerShell sample sends `True`.
            metadata: Some(MetadataTrue::InAnyCase),
            secret: None,
            api_versions: ApiVersions::OneOf(&["2019-08-15", "2019-11-01", "2020-06-01"]),
            selectors: if self.old_agent {
                &[]
            } else {
                &[
                    ("client_id", Selector::ClientId),
                    ("object_id", Selector::ObjectId),
                    ("msi_res_id", Selector::ResourceId),
                ]
            },
            renew_by: RenewBy::Nothing,
            forms: false,
            errors: ErrorShape::OAuth,
        }
    }
}

/// As IMDS, but without `client_id`; the selector comes last, under the name it was asked by.
pub(super) fn success(it: &Success<'_>) -> Fields {
    let fields = Fields::default()
        .with("access_token", it.token)
        .with("expires_in", it.expires_in_s.to_string())
        .with("expires_on", it.expires_on_s.to_string())
        .with("ext_expires_in", it.expires_in_s.to_string())
        .with("not_before", it.not_before_s.to_string())
        .with("resource", it.resource)
        .with("token_type", "Bearer");
    match it.asked_by {
        Some((name, value)) => fields.with(name, value.as_str()),
        None => fields,
    }
}

/// The key files that were written and not yet used. They are removed with it.
#[derive(Debug)]
pub(crate) struct Challenges {
    folder: PathBuf,
    /// Path and content, oldest first.
    outstanding: VecDeque<(PathBuf, String)>,
}

impl Challenges {
    /// Creates the folder if need be.
    pub(crate) fn new(options: &ArcAgent) -> io::Result<Self> {
        let folder = path::absolute(&options.key_folder)?;
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&folder)?;
        Ok(Self {
            folder,
            outstanding: VecDeque::new(),
        })
    }

    /// Lets a request pass that carries the content of a key file, and removes the file. Any
    /// other is refused with a new challenge.
    pub(crate) fn check(&mut self, request: &Request) -> Result<(), Refusal> {
        let mut values = request.header("authorization");
        let proof = match (values.next(), values.next()) {
            (Some(value), None) => value.strip_prefix(b"Basic "),
            _ => None,
        };
        let found = proof.and_then(|proof| {
            self.outstanding
                .iter()
                .position(|(_, content)| content.as_bytes() == proof)
        });
        if let Some((path, _)) = found.and_then(|at| self.outstanding.remove(at)) {
            // If it is gone already, all the better.
            let _ = fs::remove_file(path);
            return Ok(());
        }
        let path = self.write_key().map_err(|_| Refusal::NoKeyFile)?;
        Err(Refusal::Challenge(path.display().to_string()))
    }

    fn write_key(&mut self) -> io::Result<PathBuf> {
        while self.outstanding.len() >= KEY_FILE_LIMIT {
            self.remove_oldest();
        }
        let path = self.folder.join(format!("{}.key", guid(random_bytes())));
        let content = format!("{}{}", guid(random_bytes()), guid(random_bytes()));
        OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o640)
            .open(&path)?
            .write_all(content.as_bytes())?;
        self.outstanding.push_back((path.clone(), content));
        Ok(path)
    }

    fn remove_oldest(&mut self) {
        if let Some((path, _)) = self.outstanding.pop_front() {
            let _ = fs::remove_file(path);
        }
    }
}

impl Drop for Challenges {
    fn drop(&mut self) {
        while !self.outstanding.is_empty() {
            self.remove_oldest();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::Kind;
    use crate::testing::{Asker, RESOURCE, Response, names};

    fn agent(test: &str, old_agent: bool) -> (Asker, PathBuf) {
        let key_folder =
            std::env::temp_dir().join(format!("emulator-arc-{}-{test}", std::process::id()));
        let kind = Kind::Arc(ArcAgent {
            key_folder: key_folder.clone(),
            old_agent,
        });
        (
            Asker::new(kind).with_lines("Metadata: True\r\n"),
            key_folder,
        )
    }

    fn target(more: &str) -> String {
        format!("/metadata/identity/oauth2/token?api-version=2020-06-01&resource={RESOURCE}{more}")
    }

    fn realm(reply: &Response) -> PathBuf {
        assert_eq!(reply.status, 401, "{}", reply.body);
        let challenge = reply.header("www-authenticate").unwrap();
        challenge.strip_prefix("Basic realm=").unwrap().into()
    }

    /// Asks twice, as a client does.
    fn ask(asker: &Asker, target: &str) -> Response {
        let key = fs::read_to_string(realm(&asker.get(target))).unwrap();
        let lines = format!("Metadata: true\r\nAuthorization: Basic {key}\r\n");
        asker.send("GET", target, &lines, "")
    }

    #[test]
    fn a_caller_that_can_read_the_key_file_gets_a_token() {
        let (asker, folder) = agent("read", false);
        let challenge = asker.get(&target(""));
        assert_eq!(names(&challenge.body), ["error", "error_description"]);
        let path = realm(&challenge);
        assert_eq!(path.parent(), Some(folder.as_path()));
        assert_eq!(path.extension().unwrap(), "key");
        let mode = |path: &PathBuf| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&folder), mode(&path)), (0o700, 0o640));

        let reply = ask(&asker, &target(""));
        assert_eq!(
            names(&reply.body),
            [
                "access_token",
                "expires_in",
                "expires_on",
                "ext_expires_in",
                "not_before",
                "resource",
                "token_type"
            ]
        );
        let counts = asker.emulator.counts();
        assert_eq!(
            (counts.challenged, counts.refused, counts.token_calls),
            (2, 0, 1)
        );
        asker.emulator.stop();
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 0);
        fs::remove_dir(folder).unwrap();
    }

    #[test]
    fn a_key_serves_once_and_a_wrong_one_gets_a_new_challenge() {
        let (asker, folder) = agent("once", false);
        let path = realm(&asker.get(&target("")));
        let key = fs::read_to_string(&path).unwrap();
        let lines = format!("Metadata: true\r\nAuthorization: Basic {key}\r\n");
        asker.send("GET", &target(""), &lines, "").token();
        assert!(!path.exists());
        let again = realm(&asker.send("GET", &target(""), &lines, ""));
        assert!(again != path && again.exists());
        let basic = lines.replace("Basic", "Bearer");
        realm(&asker.send("GET", &target(""), &basic, ""));
        assert_eq!(asker.emulator.counts().refused, 2);
        drop(asker);
        fs::remove_dir(folder).unwrap();
    }

    #[test]
    fn the_selector_is_echoed_as_it_was_written() {
        let (asker, folder) = agent("echo", false);
        let guid = "AAAAAAAA-1111-4222-8333-444444444444";
        for name in ["client_id", "object_id"] {
            let reply = ask(&asker, &target(&format!("&{name}={guid}")));
            assert_eq!(reply.json()[name], guid);
            assert_eq!(names(&reply.body).last().unwrap(), name);
        }
        drop(asker);
        fs::remove_dir(folder).unwrap();
    }

    #[test]
    fn an_old_agent_gives_the_token_of_the_machine_to_all() {
        let (asker, folder) = agent("old", true);
        let machine = ask(&asker, &target(""));
        let other = ask(
            &asker,
            &target("&client_id=aaaaaaaa-1111-4222-8333-444444444444"),
        );
        assert_eq!(other.token(), machine.token());
        assert_eq!(names(&other.body).last().unwrap(), "token_type");
        drop(asker);
        fs::remove_dir(folder).unwrap();
    }

    #[test]
    fn a_request_that_breaks_a_rule_gets_no_challenge() {
        let (asker, folder) = agent("rules", false);
        for (target, lines) in [
            (target(""), ""),
            (target(""), "Metadata: true\r\nX-Forwarded-For: 1.1.1.1\r\n"),
            (
                target("").replace("2020-06-01", "2018-02-01"),
                asker.lines(),
            ),
            (target("&resource=x"), asker.lines()),
        ] {
            assert_eq!(asker.send("GET", &target, lines, "").status, 400);
        }
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 0);
        drop(asker);
        fs::remove_dir(folder).unwrap();
    }

    #[test]
    fn key_files_are_bounded() {
        let (asker, folder) = agent("bounded", false);
        for _ in 0..KEY_FILE_LIMIT + 5 {
            asker.get(&target(""));
        }
        assert_eq!(fs::read_dir(&folder).unwrap().count(), KEY_FILE_LIMIT);
        drop(asker);
        fs::remove_dir(folder).unwrap();
    }
}
