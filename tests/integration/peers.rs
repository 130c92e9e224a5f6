//! The corpus at other servers beside ours: bare hyper always, nginx where it is installed.
//! Foretoken is never the more lenient. `./recipes peers` writes the table,
//! `docs/http_strictness.md`.

use std::convert::Infallible;
use std::fmt::Write as _;
use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tempfile::TempDir;

use crate::corpus::Target;
use crate::support::corpus::{Case, load, play};
use crate::support::wait::until;

/// All three answer at once or not at all; whoever is silent for this long says nothing more.
const QUIET: Duration = Duration::from_millis(300);
const THREADS: usize = 8;
/// Names the file that gets the table.
const TABLE: &str = "FORETOKEN_TABLE";

#[test]
fn no_peer_is_stricter_than_foretoken_on_any_case() {
    let cases = load();
    let (hyper, nginx) = (bare_hyper(), Nginx::start());
    let next = AtomicUsize::new(0);
    let work = || {
        let target = Target::start();
        let mut rows = Vec::new();
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some(case) = cases.get(at) else {
                return rows;
            };
            let nginx = nginx.as_ref().map(|nginx| accepted(case, nginx.address));
            let ours = accepted(case, target.address(case));
            rows.push((at, [Some(ours), Some(accepted(case, hyper)), nginx]));
        }
    };
    let mut rows: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(work)).collect();
        let ended = threads.into_iter().map(std::thread::ScopedJoinHandle::join);
        ended.flat_map(|rows| rows.expect("no panic")).collect()
    });
    rows.sort_unstable();
    let rows: Vec<_> = rows
        .into_iter()
        .map(|(at, row)| (&cases[at], row))
        .collect();
    let lenient: Vec<_> = rows
        .iter()
        .filter(|(_, [ours, peers @ ..])| peers.iter().flatten().any(|p| Some(*p) < *ours))
        .map(|(case, row)| format!("{}: {row:?}", case.name))
        .collect();
    assert!(
        lenient.is_empty(),
        "more lenient than a peer:\n{}",
        lenient.join("\n")
    );
    match (std::env::var_os(TABLE), &nginx) {
        (Some(file), Some(nginx)) => {
            fs::write(file, table(&rows, &nginx.version)).expect("a table");
        }
        (Some(_), None) => panic!("the table needs nginx, which is not installed"),
        (None, None) => eprintln!("nginx is not installed: compared with hyper alone"),
        (None, Some(_)) => {}
    }
}

/// How many requests of a case a server takes for good ones.
fn accepted(case: &Case, address: SocketAddr) -> usize {
    let seen = play(address, &case.bytes, case.ends, usize::MAX, QUIET);
    seen.expect("a connection").accepted()
}

/// hyper as it comes: every request is read with its body and answered with 200. It ends with the
/// process.
fn bare_hyper() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("its address");
    listener.set_nonblocking(true).expect("a socket");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    std::thread::spawn(move || {
        let local = tokio::task::LocalSet::new();
        local.block_on(&runtime, async {
            let listener = tokio::net::TcpListener::from_std(listener).expect("a socket");
            while let Ok((stream, _)) = listener.accept().await {
                tokio::task::spawn_local(async {
                    let io = TokioIo::new(stream);
                    // What is wrong here is the client's doing, and is seen by the client.
                    let _ = http1::Builder::new()
                        .serve_connection(io, service_fn(take))
                        .await;
                });
            }
        });
    });
    address
}

async fn take(request: Request<Incoming>) -> Result<Response<Empty<Bytes>>, Infallible> {
    let whole = request.into_body().collect().await.is_ok();
    let mut response = Response::new(Empty::new());
    if !whole {
        *response.status_mut() = hyper::StatusCode::BAD_REQUEST;
    }
    Ok(response)
}

/// nginx with `return 200` for everything. Killed when dropped.
struct Nginx {
    child: Child,
    address: SocketAddr,
    version: String,
    _folder: TempDir,
}

impl Nginx {
    /// `None` where it is not installed.
    fn start() -> Option<Self> {
        let places = ["/usr/sbin/nginx", "/usr/bin/nginx", "/usr/local/sbin/nginx"];
        let program = places.into_iter().find(|path| Path::new(path).exists())?;
        let said = Command::new(program)
            .arg("-v")
            .output()
            .expect("its version");
        let said = String::from_utf8_lossy(&said.stderr).into_owned();
        let version = said
            .trim()
            .rsplit('/')
            .next()
            .unwrap_or_default()
            .to_owned();
        let folder = tempfile::tempdir().expect("a temporary folder");
        let free = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = free.local_addr().expect("its address");
        drop(free);
        let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|kind| format!("{kind}_temp_path {kind};\n"))
            .concat();
        let config = format!(
            "daemon off;\nmaster_process off;\npid pid;\nerror_log stderr crit;\n\
             events {{ worker_connections 512; }}\n\
             http {{\naccess_log off;\n{temporary}\
             server {{ listen {address}; location / {{ return 200; }} }}\n}}\n"
        );
        fs::write(folder.path().join("nginx.conf"), config).expect("its configuration");
        let mut child = Command::new(program)
            .arg("-p")
            .arg(folder.path())
            .args(["-c", "nginx.conf", "-e", "stderr"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("nginx starts");
        until("nginx listens", || {
            assert!(
                child.try_wait().expect("our child").is_none(),
                "nginx has ended"
            );
            std::net::TcpStream::connect(address).is_ok()
        });
        Some(Self {
            child,
            address,
            version,
            _folder: folder,
        })
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

type Row<'a> = (&'a Case, [Option<usize>; 3]);

fn table(rows: &[Row<'_>], nginx: &str) -> String {
    let alone = |peer: usize| {
        let lenient = |(_, row): &&Row<'_>| row[peer] > row[0];
        rows.iter().filter(lenient).count()
    };
    let mut text = format!(
        "# How strict the door is\n\n\
         Written by `./recipes peers`, which plays each case of `tests/golden/http` (see its \
         `index.toml`) to Foretoken, to a bare hyper server that answers every request with 200, and \
         to nginx {nginx} with `return 200`. A cell says whether the request was taken for a good \
         one; where a case holds several, how many of them. nginx answers before it reads a body.\n\n\
         The last two take anything for an answer, so where they accept a path, a method or a header \
         that Foretoken refuses, that is no fault of theirs: the table shows that the reverse never \
         happens. Of {} cases, hyper accepts more than Foretoken in {}, nginx in {}; Foretoken \
         accepts more than either in none.\n\n\
         | Case | What it is | Foretoken | hyper | nginx |\n|---|---|---|---|---|\n",
        rows.len(),
        alone(1),
        alone(2),
    );
    for (case, row) in rows {
        let cells = row.map(|count| match count {
            None => String::new(),
            Some(0) => "refused".to_owned(),
            Some(1) => "accepted".to_owned(),
            Some(many) => format!("{many} accepted"),
        });
        let why = case.why.replace('|', "\\|");
        let [ours, hyper, nginx] = cells;
        writeln!(
            text,
            "| `{}` | {why} | {ours} | {hyper} | {nginx} |",
            case.name
        )
        .expect("a string takes it");
    }
    text
}
