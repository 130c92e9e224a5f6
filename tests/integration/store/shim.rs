//! The C library's calls below the state folder, which fail, end the process or are slow on demand.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::Command;

use tempfile::TempDir;

use super::site::Site;

/// Calls that make bytes or names durable; each kind is a bit, as in the shim.
pub const SYNC: u64 = 4;
/// All that change the disk, and what is opened.
pub const ALL: u64 = 127;

/// What becomes of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// It fails with EIO.
    Broken = 5,
    /// It fails with ENOSPC.
    Full = 28,
    /// In its place the process ends, as by a kill.
    Kill = 1000,
    /// It takes 5 s.
    Slow = 2000,
    /// It returns when all is well again.
    Hang = 3000,
}

/// The status of a process that was ended in the place of a call.
pub const KILLED: i32 = 77;

const SEEN: u64 = 0;
const MET: u64 = 1;
const KINDS: u64 = 2;

/// The library, built.
pub struct Library {
    folder: TempDir,
}

impl Library {
    /// `None` where there is no C compiler.
    pub fn build() -> Option<Self> {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let source =
            PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/integration/store/shim.c");
        let built = Command::new("cc")
            .args(["-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o"])
            .arg(folder.path().join("shim.so"))
            .arg(source)
            .arg("-ldl")
            .status();
        let built = built.ok()?;
        assert!(built.success(), "the shim compiles");
        Some(Self { folder })
    }
}

/// What one process and its test both see.
pub struct Page {
    file: File,
    path: PathBuf,
    _folder: TempDir,
}

impl Page {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("page");
        let mut options = File::options();
        let options = options.read(true).write(true).create_new(true);
        let file = options.open(&path).expect("a file");
        file.set_len(64).expect("a file");
        Self {
            file,
            path,
            _folder: folder,
        }
    }

    /// The command's calls are met as this page says.
    pub fn preload(&self, mut command: Command, library: &Library, site: &Site) -> Command {
        command
            .env("LD_PRELOAD", library.folder.path().join("shim.so"))
            .env("SHIM_PAGE", &self.path)
            .env("SHIM_ROOT", site.folder.path());
        command
    }

    /// From now on the calls of `kinds` from the `first` to the `last` are met, counted from here.
    pub fn set(&self, kinds: u64, first: u64, last: u64, how: How) {
        // The kinds come last: until then nothing is met.
        self.write(KINDS, &[0]);
        self.write(SEEN, &[0, 0]);
        self.write(KINDS + 1, &[first, last, how as u64]);
        self.write(KINDS, &[kinds]);
    }

    /// All is well again.
    pub fn clear(&self) {
        self.write(KINDS, &[0, 0, 0, 0]);
    }

    /// How many calls were met so far.
    pub fn met(&self) -> u64 {
        self.read(MET)
    }

    fn write(&self, at: u64, values: &[u64]) {
        let bytes: Vec<u8> = values.iter().flat_map(|it| it.to_ne_bytes()).collect();
        self.file.write_all_at(&bytes, at * 8).expect("our file");
    }

    fn read(&self, at: u64) -> u64 {
        let mut bytes = [0; 8];
        self.file
            .read_exact_at(&mut bytes, at * 8)
            .expect("our file");
        u64::from_ne_bytes(bytes)
    }
}
