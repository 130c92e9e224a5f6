//! Where settings come from: one file, the secrets that it names, and a few facts about the
//! process.
//!
//! The only file of the program that reads the environment. What the platform says there about its
//! source of tokens is used where the configuration asks for it, and nowhere else: whoever can set a
//! variable must not be able to choose who hands out credentials.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use zeroize::Zeroizing;

use super::mistake::{Complaint, ConfigError};

/// A configuration is a page of text. The limit keeps a device or a log file, named by mistake,
/// from filling the memory.
const MAX_FILE_BYTES: u64 = 64 << 10;

/// A secret is a line. The limit is above the longest that is taken, so that a longer one is told
/// apart from it.
const MAX_SECRET_FILE_BYTES: u64 = 1 << 10;

/// Reads the file that a `secret_file` names.
pub(super) type SecretFiles = dyn Fn(&Path) -> Result<Zeroizing<Vec<u8>>, Complaint>;

/// The facts about the process that defaults are made of.
#[derive(Debug, Clone, Default)]
pub struct Environment {
    /// `$STATE_DIRECTORY`: folders that systemd made for the service, separated by colons.
    pub state_directory: Option<OsString>,
    /// `$CREDENTIALS_DIRECTORY`: systemd's folder of this service's secrets.
    pub credentials_directory: Option<OsString>,
    /// `$XDG_STATE_HOME`.
    pub xdg_state_home: Option<OsString>,
    /// `$HOME`.
    pub home: Option<OsString>,
    /// What a configuration file named by a relative path is relative to.
    pub working_directory: PathBuf,
    /// CPUs that this process may use; 0 where that is unknown.
    pub cpus: usize,
    /// What the platform tells about its source of tokens.
    pub platform: Platform,
}

/// The variables by which Azure's platforms tell SDKs where tokens come from (`protocols.md` §2).
/// `AZURE_POD_IDENTITY_AUTHORITY_HOST` is not among them: it points clients at Foretoken.
const PLATFORM_VARIABLES: [&str; 11] = [
    "IDENTITY_ENDPOINT",
    "IDENTITY_HEADER",
    "IDENTITY_SERVER_THUMBPRINT",
    "IMDS_ENDPOINT",
    "MSI_ENDPOINT",
    "MSI_SECRET",
    "DEFAULT_IDENTITY_CLIENT_ID",
    "AZURE_AUTHORITY_HOST",
    "AZURE_TENANT_ID",
    "AZURE_CLIENT_ID",
    "AZURE_FEDERATED_TOKEN_FILE",
];

/// What `StateDirectory=` of `packaging/foretoken.service` comes to.
const UNIT_STATE: &str = "/var/lib/foretoken";

/// Where Arc's agent is installed.
const HIMDS: &str = "/opt/azcmagent/bin/himds";

/// What the platform tells about its source of tokens.
#[derive(Clone, Default)]
pub struct Platform {
    /// The variables that are set and not empty.
    variables: Vec<(&'static str, Zeroizing<String>)>,
    /// Whether Arc's agent is installed.
    agent: bool,
}

impl Platform {
    fn of_process() -> Self {
        Self {
            agent: Path::new(HIMDS).exists(),
            ..Self::with(|name| std::env::var_os(name))
        }
    }

    /// A platform that sets these variables; a value that is not text is one that means nothing.
    #[must_use]
    pub fn with(value: impl Fn(&str) -> Option<OsString>) -> Self {
        let text = |value: OsString| Zeroizing::new(value.to_string_lossy().into_owned());
        let set = |name: &&'static str| Some((*name, value(name).map(text)?));
        let variables = PLATFORM_VARIABLES.iter().filter_map(set);
        Self {
            variables: variables.filter(|(_, value)| !value.is_empty()).collect(),
            agent: false,
        }
    }

    /// A variable's value, if it is set and not empty.
    pub(super) fn variable(&self, name: &str) -> Option<&str> {
        let found = self.variables.iter().find(|(known, _)| *known == name);
        found.map(|(_, value)| value.as_str())
    }

    /// Whether Arc's agent is installed.
    pub(super) fn has_agent(&self) -> bool {
        self.agent
    }

    /// The same, with Arc's agent installed.
    #[must_use]
    pub fn with_agent(self) -> Self {
        Self {
            agent: true,
            ..self
        }
    }
}

/// Names alone: some values are secrets.
impl fmt::Debug for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.variables.iter().map(|(name, _)| name).collect();
        f.debug_tuple("Platform").field(&names).finish()
    }
}

impl Environment {
    /// The facts about this process.
    #[must_use]
    pub fn of_process() -> Self {
        Self {
            state_directory: std::env::var_os("STATE_DIRECTORY"),
            credentials_directory: std::env::var_os("CREDENTIALS_DIRECTORY"),
            xdg_state_home: std::env::var_os("XDG_STATE_HOME"),
            home: std::env::var_os("HOME"),
            working_directory: std::env::current_dir().unwrap_or_default(),
            cpus: std::thread::available_parallelism().map_or(0, usize::from),
            platform: Platform::of_process(),
        }
    }

    /// As [`of_process`](Self::of_process), for somebody who asks the service: where nothing else
    /// is said, its state is where the unit has it, if this user may look there.
    #[must_use]
    pub fn of_operator() -> Self {
        let process = Self::of_process();
        let unit = std::fs::read_dir(UNIT_STATE).map(|_| UNIT_STATE.into());
        Self {
            state_directory: process.state_directory.or(unit.ok()),
            ..process
        }
    }

    /// systemd's folder of credentials, which is absolute.
    pub(super) fn credentials(&self) -> Option<PathBuf> {
        let folder = PathBuf::from(self.credentials_directory.as_ref()?);
        folder.is_absolute().then_some(folder)
    }

    /// The folder for what outlives a restart, and the variable that names it. Relative values
    /// are passed over, as the XDG base directory specification asks.
    pub(super) fn state(&self) -> Option<(PathBuf, &'static str)> {
        let first = |list: &OsStr| {
            let entry = list.as_bytes().split(|b| *b == b':').next();
            PathBuf::from(OsStr::from_bytes(entry.unwrap_or_default()))
        };
        let systemd = self.state_directory.as_deref().map(first);
        let xdg = self.xdg_state_home.as_ref();
        let xdg = xdg.map(|base| Path::new(base).join("foretoken"));
        let home = self.home.as_ref();
        let home = home.map(|home| Path::new(home).join(".local/state/foretoken"));
        [
            (systemd, "STATE_DIRECTORY"),
            (xdg, "XDG_STATE_HOME"),
            (home, "HOME"),
        ]
        .into_iter()
        .find_map(|(folder, variable)| Some((folder.filter(|f| f.is_absolute())?, variable)))
    }
}

/// The text of a configuration file.
pub(super) fn read(path: &Path) -> Result<Zeroizing<String>, ConfigError> {
    let read = || {
        let mut text = Zeroizing::new(String::new());
        let file = File::open(path)?;
        let bytes = file.take(MAX_FILE_BYTES + 1).read_to_string(&mut text)?;
        if bytes as u64 > MAX_FILE_BYTES {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        Ok(text)
    };
    read().map_err(|source| ConfigError::Unreadable {
        path: path.to_owned(),
        source,
    })
}

/// The secret in a file, without the newline that an editor leaves at its end. The file is judged
/// as opened, so that it cannot be exchanged in between.
pub(super) fn secret(path: &Path) -> Result<Zeroizing<Vec<u8>>, Complaint> {
    let shown = path.display();
    let unreadable = |error: io::Error| {
        let hint = "name a file that this user can read; a relative path starts at the folder of \
                    the configuration";
        Complaint::new(format!("cannot read {shown}: {error}"), hint)
    };
    // A pipe, opened to be read, would otherwise wait for somebody to write.
    let nonblocking = OFlags::NONBLOCK.bits().cast_signed();
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(nonblocking)
        .open(path)
        .map_err(unreadable)?;
    let facts = file.metadata().map_err(unreadable)?;
    if !facts.is_file() {
        let message = format!("{shown} is not a regular file");
        return Err(Complaint::new(message, "name a file that holds the secret"));
    }
    if facts.mode() & 0o077 != 0 {
        let mode = facts.mode() & 0o777;
        let message = format!("{shown} is open to other users (mode {mode:03o})");
        return Err(Complaint::new(message, "keep it to its owner: chmod 600"));
    }
    let mut bytes = Zeroizing::new(Vec::new());
    file.take(MAX_SECRET_FILE_BYTES)
        .read_to_end(&mut bytes)
        .map_err(unreadable)?;
    if bytes.last() == Some(&b'\n') {
        bytes.pop();
    }
    Ok(bytes)
}

/// For a text that comes without its files.
pub(super) fn no_secret_files(_: &Path) -> Result<Zeroizing<Vec<u8>>, Complaint> {
    let hint = "load the configuration from its file, or give the secret itself";
    Err(Complaint::new("no other file is read here", hint))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_secret_is_its_file_without_one_newline_at_the_end() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("secret");
        for (content, expected) in [("abc\n", "abc"), ("abc\n\n", "abc\n"), (" abc", " abc")] {
            fs::write(&file, content).unwrap();
            fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
            assert_eq!(*secret(&file).unwrap(), expected.as_bytes());
        }
    }

    #[test]
    fn a_secret_is_a_regular_file_for_its_owner_alone() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("secret");
        fs::write(&file, "0123456789abcdef").unwrap();
        let told = |path: &Path| secret(path).unwrap_err().message;
        for mode in [0o640, 0o604, 0o620, 0o777] {
            fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
            assert!(told(&file).contains("open to other users"), "{mode:o}");
        }
        assert!(told(folder.path()).contains("not a regular file"));
        assert!(told(Path::new("/dev/null")).contains("not a regular file"));
        assert!(told(&folder.path().join("none")).contains("cannot read"));
    }

    fn state(systemd: &str, xdg: &str, home: &str) -> Option<(String, &'static str)> {
        let set = |value: &str| (value != "-").then(|| value.into());
        let environment = Environment {
            state_directory: set(systemd),
            xdg_state_home: set(xdg),
            home: set(home),
            ..Environment::default()
        };
        let (folder, variable) = environment.state()?;
        Some((folder.display().to_string(), variable))
    }

    #[test]
    fn systemd_is_asked_before_xdg_and_xdg_before_home() {
        let found = |folder: &str, variable| Some((folder.to_owned(), variable));
        assert_eq!(
            state("/var/lib/f", "/x", "/h"),
            found("/var/lib/f", "STATE_DIRECTORY")
        );
        assert_eq!(
            state("-", "/x", "/h"),
            found("/x/foretoken", "XDG_STATE_HOME")
        );
        assert_eq!(
            state("-", "-", "/h"),
            found("/h/.local/state/foretoken", "HOME")
        );
        assert_eq!(state("-", "-", "-"), None);
    }

    #[test]
    fn the_first_of_several_state_directories_counts() {
        let folder = state("/var/lib/a:/var/lib/b", "-", "-").unwrap().0;
        assert_eq!(folder, "/var/lib/a");
    }

    #[test]
    fn empty_and_relative_values_are_passed_over() {
        assert_eq!(state("", "here", "/h").unwrap().1, "HOME");
    }

    #[test]
    fn a_file_without_end_is_refused() {
        let error = read(Path::new("/dev/zero")).unwrap_err();
        assert!(matches!(error, ConfigError::Unreadable { source, .. }
            if source.kind() == io::ErrorKind::FileTooLarge));
    }
}
