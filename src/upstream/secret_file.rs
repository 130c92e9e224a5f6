//! The two files that a source may ask us to show: the one that Arc's challenge names, and the
//! federated token that the platform keeps fresh.
//!
//! Both are read at the moment they are needed, and judged as opened: no pipe, no device, no more
//! than a limit. The folder of Arc's keys is the agent's, and root's: who else may be in it is not
//! looked at.

use std::fs::OpenOptions;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use hyper::header::{HeaderMap, WWW_AUTHENTICATE};
use rustix::fs::OFlags;
use zeroize::Zeroizing;

use super::{Class, FetchError};
use crate::token::Secret;

/// Arc's clients take no more (`protocols.md` §3.4).
const MAX_KEY_BYTES: u64 = 4096;
/// A federated token is one JWT of Kubernetes, a kilobyte or two.
const MAX_ASSERTION_BYTES: u64 = 16 * 1024;

/// Reads the key file that Arc's challenge names: a `.key` file of at most 4096 bytes, right in
/// `folder` and no link.
///
/// # Errors
/// `BadChallenge`: an impostor could otherwise have us read any file to it.
pub(super) async fn arc_key(headers: &HeaderMap, folder: &Path) -> Result<Secret, FetchError> {
    let bad = || FetchError {
        status: Some(401),
        ..FetchError::of(Class::BadChallenge)
    };
    let mut challenges = headers.get_all(WWW_AUTHENTICATE).iter();
    let challenge = challenges.next().filter(|_| challenges.next().is_none());
    let challenge = challenge.and_then(|value| value.to_str().ok());
    let file = challenge
        .and_then(|text| key_file(text, folder))
        .ok_or_else(bad)?;
    let key = read(file, OFlags::NOFOLLOW, MAX_KEY_BYTES)
        .await
        .map_err(|_| bad())?;
    let visible = |b: &u8| b.is_ascii_graphic() || *b == b' ';
    let sound = !key.expose().is_empty() && key.expose().iter().all(visible);
    sound.then_some(key).ok_or_else(bad)
}

/// The file that `Basic realm=PATH` names, if it may be read.
fn key_file(challenge: &str, folder: &Path) -> Option<PathBuf> {
    let (scheme, realm) = challenge.trim().split_once(' ')?;
    let (name, path) = realm.trim().split_once('=')?;
    let known = scheme.eq_ignore_ascii_case("Basic") && name.eq_ignore_ascii_case("realm");
    let path = Path::new(path);
    // The parent is compared byte for byte: `..` and doubled slashes differ.
    let name = path.file_name()?.to_str()?;
    let plain = path.as_os_str() == folder.join(name).as_os_str();
    let is_key = name
        .strip_suffix(".key")
        .is_some_and(|stem| !stem.is_empty());
    (known && plain && is_key).then(|| path.to_owned())
}

/// Reads the federated token, without the newline that an editor leaves.
///
/// # Errors
/// `NoAssertion`.
pub(super) async fn assertion(path: &Path) -> Result<Secret, FetchError> {
    let none = || FetchError::of(Class::NoAssertion);
    // Kubernetes swaps the file by links, so links are followed.
    let token = read(path.to_owned(), OFlags::empty(), MAX_ASSERTION_BYTES).await;
    let token = token.map_err(|_| none())?;
    let trimmed = token.expose().trim_ascii();
    let sound = !trimmed.is_empty() && trimmed.iter().all(u8::is_ascii_graphic);
    sound
        .then(|| Secret::new(trimmed.to_vec()))
        .ok_or_else(none)
}

/// Reads a regular file of at most `most` bytes, off the thread that serves.
async fn read(path: PathBuf, flags: OFlags, most: u64) -> io::Result<Secret> {
    let read = move || {
        // Without NONBLOCK, opening a pipe would wait for a writer.
        let flags = flags | OFlags::NONBLOCK;
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(flags.bits().cast_signed())
            .open(path)?;
        if !file.metadata()?.is_file() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let mut bytes = Zeroizing::new(Vec::with_capacity(usize::try_from(most + 1).unwrap_or(0)));
        file.take(most + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > most {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        Ok(Secret::new(std::mem::take(&mut *bytes)))
    };
    tokio::task::spawn_blocking(read).await?
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap()
    }

    fn key(challenge: &str, folder: &Path) -> Result<Vec<u8>, Class> {
        let mut headers = HeaderMap::new();
        headers.insert(WWW_AUTHENTICATE, challenge.parse().unwrap());
        let key = runtime().block_on(arc_key(&headers, folder));
        key.map(|key| key.expose().to_vec())
            .map_err(|error| error.class)
    }

    #[test]
    fn only_a_key_file_in_the_folder_itself_is_shown() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::create_dir(at("inner")).unwrap();
        let full = "k".repeat(4096);
        for (name, content) in [
            ("good.key", "k3y"),
            ("full.key", &full),
            ("long.key", &format!("{full}k")),
            ("empty.key", ""),
            ("line.key", "a\nb"),
            ("good.txt", "k3y"),
            (".key", "k3y"),
            ("inner/deep.key", "k3y"),
        ] {
            fs::write(at(name), content).unwrap();
        }
        std::os::unix::fs::symlink(at("good.key"), at("link.key")).unwrap();
        fs::create_dir(at("folder.key")).unwrap();
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("other.key"), "k3y").unwrap();

        let root = folder.path().display();
        assert_eq!(
            key(&format!("Basic realm={root}/good.key"), folder.path()),
            Ok(b"k3y".to_vec())
        );
        assert_eq!(
            key(&format!("basic Realm={root}/full.key"), folder.path()),
            Ok(full.into_bytes())
        );
        for wrong in [
            format!("Basic realm={root}/long.key"),
            format!("Basic realm={root}/empty.key"),
            format!("Basic realm={root}/line.key"),
            format!("Basic realm={root}/good.txt"),
            format!("Basic realm={root}/.key"),
            format!("Basic realm={root}/none.key"),
            format!("Basic realm={root}/link.key"),
            format!("Basic realm={root}/folder.key"),
            format!("Basic realm={root}/inner/deep.key"),
            format!("Basic realm={root}/inner/../good.key"),
            format!("Basic realm={root}/./good.key"),
            format!("Basic realm={root}//good.key"),
            format!("Basic realm=\"{root}/good.key\""),
            format!("Basic realm={}/other.key", outside.path().display()),
            "Basic realm=good.key".to_owned(),
            "Basic realm=/etc/passwd".to_owned(),
            format!("Bearer realm={root}/good.key"),
            format!("Basic scope={root}/good.key"),
            "Basic".to_owned(),
        ] {
            assert_eq!(
                key(&wrong, folder.path()),
                Err(Class::BadChallenge),
                "{wrong}"
            );
        }
    }

    #[test]
    fn two_challenges_are_as_bad_as_none() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("good.key");
        fs::write(&file, "k3y").unwrap();
        let challenge = format!("Basic realm={}", file.display());
        let mut headers = HeaderMap::new();
        let ask = |headers: &HeaderMap| {
            let key = runtime().block_on(arc_key(headers, folder.path()));
            key.err().map(|error| error.class)
        };
        assert_eq!(ask(&headers), Some(Class::BadChallenge));
        headers.append(WWW_AUTHENTICATE, challenge.parse().unwrap());
        assert_eq!(ask(&headers), None);
        headers.append(WWW_AUTHENTICATE, challenge.parse().unwrap());
        assert_eq!(ask(&headers), Some(Class::BadChallenge));
    }

    #[test]
    fn a_federated_token_is_one_line_and_may_be_linked() {
        let folder = tempfile::tempdir().unwrap();
        let (file, link) = (folder.path().join("token"), folder.path().join("link"));
        std::os::unix::fs::symlink(&file, &link).unwrap();
        let read = |path: &Path| {
            let token = runtime().block_on(assertion(path));
            token
                .map(|it| it.expose().to_vec())
                .map_err(|error| error.class)
        };
        assert_eq!(read(&link), Err(Class::NoAssertion));
        for (content, meant) in [
            ("h.p.s\n", Ok(b"h.p.s".to_vec())),
            ("", Err(Class::NoAssertion)),
            ("\n", Err(Class::NoAssertion)),
            ("a\nb", Err(Class::NoAssertion)),
            ("é", Err(Class::NoAssertion)),
            (&"x".repeat(16 * 1024 + 1), Err(Class::NoAssertion)),
        ] {
            fs::write(&file, content).unwrap();
            assert_eq!(read(&link), meant, "{content:.10}");
        }
        assert_eq!(read(folder.path()), Err(Class::NoAssertion));
    }
}
