//! Azure Arc's challenge: key files that only chosen users can read.
//!
//! A caller that names the content of a fresh file in the agent's folder has shown that the machine
//! lets it read there. Owns the folder's files that carry our prefix and touches no others. Promises
//! that a content is good once and for [`LIFETIME_MS`], that at most [`MAX_ALIVE`] are good at a time,
//! and that [`ArcKeys::redeem`] never touches the disk: what it and time have used up is removed by
//! [`ArcKeys::clear`], which like [`ArcKeys::issue`] belongs off the serving threads.
//!
//! What it proves: the caller, or somebody who told it, may read the folder. What it does not: which
//! user that was.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{
    DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, chown, fchown,
};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use ring::rand::{SecureRandom, SystemRandom};
use subtle::{Choice, ConstantTimeEq};
use zeroize::Zeroizing;

use crate::clock::UnixMs;

/// How long a content is good. Clients read the file and ask again at once.
pub const LIFETIME_MS: u64 = 30_000;
/// Challenges that are good at a time: far more than callers at work, far fewer than fill a disk.
pub const MAX_ALIVE: usize = 64;

/// 256 random bits, in hexadecimal: clients send the file's content as a header's value.
const CONTENT_BYTES: usize = 64;
/// Random letters in a file's name. Two files of one name would take each other's place.
const NAME_BYTES: usize = 32;
const PREFIX: &str = "foretoken-";
const SUFFIX: &str = ".key";
/// A file that is not whole yet. Agents' clients accept `.key` alone, so nobody reads it.
const UNFINISHED: &str = ".new";

/// The challenges of one folder.
pub struct ArcKeys {
    place: Place,
    state: Mutex<State>,
}

/// A file that a caller is asked to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Challenge {
    /// Absolute, without whitespace, quotes, comma or `=`: it goes into a header as it is.
    pub path: PathBuf,
}

/// Why there is no challenge now.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// The caller must come back: 429.
    #[error("{MAX_ALIVE} challenges are open")]
    TooMany,
    /// The kernel gave no random bytes.
    #[error("no random bytes")]
    NoRandom,
    /// The file cannot be written.
    #[error("the key file cannot be written: {0}")]
    Disk(#[from] io::Error),
}

/// Why the folder cannot be used. All of them stop the start.
#[derive(Debug, thiserror::Error)]
pub enum ArcError {
    /// Clients cut the challenge at `=`, `,`, quotes or spaces, and open what is left.
    #[error("the folder of Arc keys must be an absolute path without spaces, quotes, ',' or '='")]
    Path,
    /// The machine's real agent answers challenges of its own there.
    #[error("an Azure Connected Machine agent is on this machine: {0}")]
    Agent(String),
    /// Neither a name in `/etc/group` nor a number.
    #[error("there is no group '{0}' in /etc/group; a group known elsewhere is given by number")]
    Group(String),
    /// A link, or a file.
    #[error("the folder of Arc keys is not a folder")]
    NotAFolder,
    /// Somebody else could put files in the place of ours.
    #[error("the folder of Arc keys belongs to user {0}, not to the user that runs this process")]
    Owner(u32),
    /// Group or others may write.
    #[error("the mode {0:04o} of the folder of Arc keys lets others write")]
    Mode(u32),
    /// It could not be made, read or written.
    #[error("the folder of Arc keys cannot be used: {0}")]
    Io(#[from] io::Error),
}

struct Place {
    folder: PathBuf,
    group: Option<u32>,
}

#[derive(Default)]
struct State {
    alive: Vec<Key>,
    /// Files that are good no more and still there.
    litter: Vec<PathBuf>,
}

struct Key {
    content: Zeroizing<[u8; CONTENT_BYTES]>,
    path: PathBuf,
    until: UnixMs,
}

/// Where a machine shows its groups and its agent.
struct Machine<'a> {
    groups: &'a Path,
    agent: &'a Path,
    processes: &'a Path,
}

impl ArcKeys {
    /// Takes the folder into use: makes it (0750, of the group) if it is missing, and removes the
    /// files of ours that an earlier process left.
    ///
    /// # Errors
    /// The path does not fit into a challenge, a real agent is there and `allow_agent` is off,
    /// the group is unknown, others may write, or a file cannot be made.
    pub fn open(folder: &Path, group: Option<&str>, allow_agent: bool) -> Result<Self, ArcError> {
        let machine = Machine {
            groups: Path::new("/etc/group"),
            agent: Path::new("/opt/azcmagent/bin/himds"),
            processes: Path::new("/proc"),
        };
        Self::open_on(&machine, folder, group, allow_agent)
    }

    fn open_on(
        machine: &Machine<'_>,
        folder: &Path,
        group: Option<&str>,
        allow_agent: bool,
    ) -> Result<Self, ArcError> {
        if !fits_a_challenge(folder) {
            return Err(ArcError::Path);
        }
        let group = group
            .map(|name| find_group(machine.groups, name))
            .transpose()?;
        if !allow_agent {
            machine.has_no_agent(folder)?;
        }
        let place = Place {
            folder: folder.to_owned(),
            group,
        };
        place.make()?;
        // The agent's own folder is the agent's, and it was asked for in so many words.
        place.check(allow_agent)?;
        place.sweep()?;
        place.try_out()?;
        Ok(Self {
            place,
            state: Mutex::default(),
        })
    }

    /// Writes a fresh key file. Disk work; also removes what [`clear`](Self::clear) would.
    ///
    /// # Errors
    /// Too many are alive, or the file cannot be made; then nothing is left of it.
    pub fn issue(&self, now: UnixMs) -> Result<Challenge, Refused> {
        let content = random_hex().ok_or(Refused::NoRandom)?;
        let name: Zeroizing<[u8; NAME_BYTES]> = random_hex().ok_or(Refused::NoRandom)?;
        let path = self.place.path(&name, SUFFIX);
        self.clear(now);
        {
            let mut state = self.state();
            if state.alive.len() >= MAX_ALIVE {
                return Err(Refused::TooMany);
            }
            // Before the file is there, so that two who issue at once cannot pass the limit.
            state.alive.push(Key {
                content: content.clone(),
                path: path.clone(),
                until: now.plus(LIFETIME_MS),
            });
        }
        if let Err(error) = self.place.write(&name, &*content) {
            self.state().alive.retain(|key| key.path != path);
            return Err(Refused::Disk(error));
        }
        Ok(Challenge { path })
    }

    /// Whether this is the content of a living key, which it then is no more. Memory only: fit for
    /// a serving thread. The comparison takes as long for a wrong content as for a right one.
    #[must_use]
    pub fn redeem(&self, now: UnixMs, presented: &[u8]) -> bool {
        let mut state = self.state();
        state.expire(now);
        let mut found = usize::MAX;
        let mut any = Choice::from(0);
        for (at, key) in state.alive.iter().enumerate() {
            let same = key.content[..].ct_eq(presented);
            any |= same;
            if bool::from(same) {
                found = at;
            }
        }
        if bool::from(any) {
            let key = state.alive.swap_remove(found);
            state.litter.push(key.path);
        }
        bool::from(any)
    }

    /// Removes the files of keys that were used or are too old. Disk work.
    pub fn clear(&self, now: UnixMs) {
        let litter = {
            let mut state = self.state();
            state.expire(now);
            std::mem::take(&mut state.litter)
        };
        litter.iter().for_each(|path| remove(path));
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing is left half done under this lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for ArcKeys {
    fn drop(&mut self) {
        self.clear(UnixMs(u64::MAX));
    }
}

impl State {
    fn expire(&mut self, now: UnixMs) {
        let old = self.alive.extract_if(.., |key| now >= key.until);
        self.litter.extend(old.map(|key| key.path));
    }
}

impl Place {
    /// Makes what is missing of the path, readable by the group all the way down.
    fn make(&self) -> Result<(), ArcError> {
        let missing: Vec<_> = self
            .folder
            .ancestors()
            .take_while(|path| !path.exists())
            .collect();
        for path in missing.into_iter().rev() {
            DirBuilder::new().mode(0o750).create(path)?;
            chown(path, None, self.group)?;
            // The mode above is less the process's mask.
            fs::set_permissions(path, fs::Permissions::from_mode(0o750))?;
        }
        Ok(())
    }

    fn check(&self, of_the_agent: bool) -> Result<(), ArcError> {
        let facts = fs::symlink_metadata(&self.folder)?;
        let mode = facts.mode() & 0o7777;
        if !facts.is_dir() {
            Err(ArcError::NotAFolder)
        } else if of_the_agent {
            Ok(())
        } else if facts.uid() != rustix::process::geteuid().as_raw() {
            Err(ArcError::Owner(facts.uid()))
        } else if mode & 0o022 != 0 {
            Err(ArcError::Mode(mode))
        } else {
            Ok(())
        }
    }

    /// Removes files that are named as ours are, whoever left them.
    fn sweep(&self) -> io::Result<()> {
        for entry in fs::read_dir(&self.folder)? {
            let entry = entry?;
            if entry.file_name().to_str().is_some_and(is_ours) {
                remove(&entry.path());
            }
        }
        Ok(())
    }

    /// Whether files can be made with this group: said at the start, not to the first caller.
    fn try_out(&self) -> Result<(), ArcError> {
        let name: Zeroizing<[u8; NAME_BYTES]> =
            random_hex().ok_or_else(|| io::Error::other("no random bytes"))?;
        self.write(&name, b"")?;
        remove(&self.path(&name, SUFFIX));
        Ok(())
    }

    /// Not synced: a key that a crash takes along would have been too old at the next start.
    fn write(&self, name: &[u8; NAME_BYTES], content: &[u8]) -> io::Result<()> {
        let unfinished = self.path(name, UNFINISHED);
        let written = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&unfinished)
            .and_then(|file| self.fill(file, content))
            .and_then(|()| fs::rename(&unfinished, self.path(name, SUFFIX)));
        if written.is_err() {
            remove(&unfinished);
        }
        written
    }

    /// The group is set before the mode lets a group in.
    fn fill(&self, mut file: File, content: &[u8]) -> io::Result<()> {
        file.write_all(content)?;
        fchown(&file, None, self.group)?;
        file.set_permissions(fs::Permissions::from_mode(0o640))
    }

    fn path(&self, name: &[u8; NAME_BYTES], suffix: &str) -> PathBuf {
        let name = String::from_utf8_lossy(name);
        self.folder.join(format!("{PREFIX}{name}{suffix}"))
    }
}

impl Machine<'_> {
    fn has_no_agent(&self, folder: &Path) -> Result<(), ArcError> {
        if self.agent.exists() {
            return Err(ArcError::Agent(format!("{} exists", self.agent.display())));
        }
        let is_agent = |entry: &fs::DirEntry| {
            fs::read_to_string(entry.path().join("comm")).is_ok_and(|name| name.trim() == "himds")
        };
        if let Some(process) = entries(self.processes).find(is_agent) {
            let number = process.file_name();
            return Err(ArcError::Agent(format!(
                "process {} is himds",
                number.display()
            )));
        }
        let foreign = entries(folder).map(|entry| entry.file_name()).find(|name| {
            let name = name.to_string_lossy();
            name.ends_with(SUFFIX) && !is_ours(&name)
        });
        foreign.map_or(Ok(()), |name| {
            let path = folder.join(name);
            Err(ArcError::Agent(format!("{} is not ours", path.display())))
        })
    }
}

/// What can be listed of a folder; nothing of one that is not there.
fn entries(folder: &Path) -> impl Iterator<Item = fs::DirEntry> + use<> {
    fs::read_dir(folder)
        .into_iter()
        .flatten()
        .map_while(Result::ok)
}

/// Named as [`Place::path`] names, to the letter: `foretoken-notes.key` is somebody's own.
fn is_ours(name: &str) -> bool {
    let random = name.strip_prefix(PREFIX).and_then(|rest| {
        rest.strip_suffix(SUFFIX)
            .or_else(|| rest.strip_suffix(UNFINISHED))
    });
    random.is_some_and(|text| {
        text.len() == NAME_BYTES && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    })
}

fn fits_a_challenge(folder: &Path) -> bool {
    let plain = |b: u8| b.is_ascii_graphic() && !matches!(b, b'=' | b',' | b'"' | b'\'' | b'\\');
    folder.is_absolute()
        && folder
            .as_os_str()
            .as_encoded_bytes()
            .iter()
            .copied()
            .all(plain)
}

/// A group's number by `name:password:number:members`, or the number itself.
fn find_group(file: &Path, name: &str) -> Result<u32, ArcError> {
    if let Ok(number) = name.parse() {
        return Ok(number);
    }
    let text = fs::read_to_string(file)?;
    let mut groups = text.lines().map(|line| line.split(':'));
    groups
        .find_map(|mut fields| {
            (fields.next() == Some(name)).then(|| fields.nth(1)?.parse().ok())?
        })
        .ok_or_else(|| ArcError::Group(name.to_owned()))
}

/// Best effort: a file that stays is good for nothing, and the next start tries again.
fn remove(path: &Path) {
    if let Err(error) = fs::remove_file(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::debug!(%error, "a used Arc key file could not be removed");
    }
}

/// Random letters `0-9a-f`, two for each random byte.
fn random_hex<const N: usize>() -> Option<Zeroizing<[u8; N]>> {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = Zeroizing::new([0; N]);
    let (random, _) = text.split_at_mut(N / 2);
    SystemRandom::new().fill(random).ok()?;
    // From the back: a byte is read before its place is written.
    for at in (0..N / 2).rev() {
        let byte = usize::from(text[at]);
        text[2 * at] = DIGITS[byte >> 4];
        text[2 * at + 1] = DIGITS[byte & 15];
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    const NOW: UnixMs = UnixMs(1_000_000);

    /// A folder for keys on a machine of its own.
    struct Site(tempfile::TempDir);

    impl Site {
        fn new() -> Self {
            let site = Self(tempfile::tempdir().unwrap());
            let groups = "root:x:0:\nhimds:x:4711:a,b\nbroken\nodd:x:no:\n";
            fs::write(site.path("group"), groups).unwrap();
            fs::create_dir_all(site.path("proc/7")).unwrap();
            fs::write(site.path("proc/7/comm"), "sh\n").unwrap();
            site
        }

        fn path(&self, name: &str) -> PathBuf {
            self.0.path().join(name)
        }

        fn open_with(&self, group: Option<&str>, agent: bool) -> Result<ArcKeys, ArcError> {
            let machine = Machine {
                groups: &self.path("group"),
                agent: &self.path("himds"),
                processes: &self.path("proc"),
            };
            ArcKeys::open_on(&machine, &self.path("tokens"), group, agent)
        }

        fn open(&self) -> ArcKeys {
            self.open_with(None, false).unwrap()
        }

        fn names(&self) -> HashSet<String> {
            let names = entries(&self.path("tokens")).map(|entry| entry.file_name());
            names.map(|name| name.into_string().unwrap()).collect()
        }
    }

    fn read(challenge: &Challenge) -> Vec<u8> {
        fs::read(&challenge.path).unwrap()
    }

    #[test]
    fn a_content_is_good_once_and_its_file_goes() {
        let site = Site::new();
        let keys = site.open();
        let challenge = keys.issue(NOW).unwrap();
        let content = read(&challenge);
        assert!(!keys.redeem(NOW, b""));
        assert!(!keys.redeem(NOW, &content[1..]));
        assert!(!keys.redeem(NOW, &[&content[..], b"\n"].concat()));
        assert!(!keys.redeem(NOW, &content.to_ascii_uppercase()));
        assert!(keys.redeem(NOW, &content));
        assert!(!keys.redeem(NOW, &content));
        assert!(challenge.path.exists(), "redeeming does not touch the disk");
        keys.clear(NOW);
        assert!(site.names().is_empty());
    }

    #[test]
    fn each_of_several_contents_is_good_in_any_order() {
        let site = Site::new();
        let keys = site.open();
        let contents: Vec<_> = (0..5).map(|_| read(&keys.issue(NOW).unwrap())).collect();
        for at in [3, 0, 4, 1, 2] {
            assert!(keys.redeem(NOW, &contents[at]));
        }
        assert!(!contents.iter().any(|content| keys.redeem(NOW, content)));
    }

    #[test]
    fn a_content_is_good_for_its_lifetime_and_no_longer() {
        let site = Site::new();
        let keys = site.open();
        let (early, late) = (keys.issue(NOW).unwrap(), keys.issue(NOW).unwrap());
        let (early, late) = (read(&early), read(&late));
        assert!(keys.redeem(NOW.plus(LIFETIME_MS - 1), &early));
        assert!(!keys.redeem(NOW.plus(LIFETIME_MS), &late));
        keys.clear(NOW.plus(LIFETIME_MS));
        assert!(site.names().is_empty());
    }

    #[test]
    fn one_more_than_may_be_alive_is_refused_until_one_is_used_or_old() {
        let site = Site::new();
        let keys = site.open();
        let first = read(&keys.issue(NOW).unwrap());
        for _ in 1..MAX_ALIVE {
            keys.issue(NOW.plus(1)).unwrap();
        }
        assert!(matches!(keys.issue(NOW.plus(1)), Err(Refused::TooMany)));
        assert_eq!(site.names().len(), MAX_ALIVE);
        assert!(keys.redeem(NOW.plus(1), &first));
        keys.issue(NOW.plus(1)).unwrap();
        assert!(matches!(keys.issue(NOW.plus(1)), Err(Refused::TooMany)));
        keys.issue(NOW.plus(1 + LIFETIME_MS)).unwrap();
        assert_eq!(site.names().len(), 1, "old files go with the next one");
    }

    #[test]
    fn of_many_who_present_one_content_at_once_one_is_let_in() {
        let site = Site::new();
        let keys = site.open();
        let content = read(&keys.issue(NOW).unwrap());
        let let_in: usize = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8)
                .map(|_| scope.spawn(|| usize::from(keys.redeem(NOW, &content))))
                .collect();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap())
                .sum()
        });
        assert_eq!(let_in, 1);
    }

    #[test]
    fn files_have_the_mode_and_the_group_that_let_chosen_users_read() {
        let site = Site::new();
        let root = rustix::process::geteuid().is_root();
        let group = if root {
            4711
        } else {
            rustix::process::getegid().as_raw()
        };
        let name = if root {
            "himds".to_owned()
        } else {
            group.to_string()
        };
        let keys = site.open_with(Some(&name), false).unwrap();
        let challenge = keys.issue(NOW).unwrap();
        for (path, mode) in [(&challenge.path, 0o640), (&site.path("tokens"), 0o750)] {
            let facts = fs::metadata(path).unwrap();
            assert_eq!(
                (facts.mode() & 0o7777, facts.gid()),
                (mode, group),
                "{}",
                path.display()
            );
        }
        for unknown in ["nobodys", "odd", "broken", ""] {
            let opened = site.open_with(Some(unknown), false);
            assert!(matches!(opened, Err(ArcError::Group(_))), "{unknown}");
        }
    }

    #[test]
    fn only_files_named_as_ours_are_ever_removed() {
        let site = Site::new();
        drop(site.open());
        let random = "0123456789abcdef0123456789abcdef";
        let ours = [
            format!("foretoken-{random}.key"),
            format!("foretoken-{random}.new"),
        ];
        let others = [
            format!("{random}.key"),
            format!("foretoken-{random}0.key"),
            format!("foretoken-{random}.key.bak"),
            format!("foretoken-{}.key", random.to_uppercase()),
            format!("Foretoken-{random}.key"),
            "foretoken-notes.key".to_owned(),
        ];
        for name in ours.iter().chain(&others) {
            fs::write(site.path("tokens").join(name), "x").unwrap();
        }
        let keys = site.open_with(None, true).unwrap();
        keys.issue(NOW).unwrap();
        drop(keys);
        assert_eq!(site.names(), others.into_iter().collect());
    }

    #[test]
    fn a_machine_with_a_real_agent_is_refused_unless_asked_for() {
        type Sign = fn(&Site);
        let signs: [Sign; 3] = [
            |site| fs::write(site.path("himds"), "").unwrap(),
            |site| fs::write(site.path("proc/7/comm"), "himds\n").unwrap(),
            |site| fs::write(site.path("tokens/0a1b.key"), "theirs").unwrap(),
        ];
        for sign in signs {
            let site = Site::new();
            drop(site.open());
            sign(&site);
            assert!(matches!(
                site.open_with(None, false),
                Err(ArcError::Agent(_))
            ));
            assert!(site.open_with(None, true).is_ok());
        }
    }

    #[test]
    fn a_folder_that_does_not_fit_into_a_challenge_is_refused_and_not_made() {
        let site = Site::new();
        for name in ["a=b", "a b", "a,b", "a\"b", "a\nb", "ä"] {
            let path = site.path(name);
            assert!(
                matches!(ArcKeys::open(&path, None, true), Err(ArcError::Path)),
                "{name}"
            );
            assert!(!path.exists());
        }
        let relative = ArcKeys::open(Path::new("tokens"), None, true);
        assert!(matches!(relative, Err(ArcError::Path)));
    }

    #[test]
    fn a_folder_that_others_can_write_or_that_is_a_link_is_refused() {
        let site = Site::new();
        drop(site.open());
        fs::set_permissions(site.path("tokens"), fs::Permissions::from_mode(0o770)).unwrap();
        assert!(matches!(
            site.open_with(None, false),
            Err(ArcError::Mode(0o770))
        ));
        fs::rename(site.path("tokens"), site.path("elsewhere")).unwrap();
        std::os::unix::fs::symlink(site.path("elsewhere"), site.path("tokens")).unwrap();
        assert!(matches!(
            site.open_with(None, true),
            Err(ArcError::NotAFolder)
        ));
    }

    #[test]
    fn a_file_that_cannot_be_written_costs_no_place() {
        let site = Site::new();
        let keys = site.open();
        fs::remove_dir_all(site.path("tokens")).unwrap();
        for _ in 0..=MAX_ALIVE {
            assert!(matches!(keys.issue(NOW), Err(Refused::Disk(_))));
        }
        fs::create_dir(site.path("tokens")).unwrap();
        assert!(keys.issue(NOW).is_ok());
    }

    #[test]
    fn contents_are_plain_letters_and_never_the_same_twice() {
        let site = Site::new();
        let keys = site.open();
        let mut seen = HashSet::new();
        for _ in 0..500 {
            let challenge = keys.issue(NOW).unwrap();
            let content = read(&challenge);
            assert_eq!(content.len(), CONTENT_BYTES);
            assert!(content.iter().all(u8::is_ascii_alphanumeric));
            assert!(
                !challenge
                    .path
                    .to_string_lossy()
                    .contains(&*String::from_utf8_lossy(&content))
            );
            assert!(keys.redeem(NOW, &content));
            assert!(seen.insert(content));
        }
    }
}
