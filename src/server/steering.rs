//! Which worker takes a connection: the one on the CPU from which the client speaks, within bounds.
//!
//! The kernel runs a small program for each connection that comes in over TCP and lets it choose
//! among the sockets that share the address. On the loopback device, the CPU that runs it is the
//! client's. Client, the kernel's work and worker then share one CPU, no other has to be woken for a
//! request, and that is most of what a request costs otherwise.
//!
//! Steered connections may all come from one CPU, so a worker that has far more than another hands
//! new ones over.

use std::io;
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use nix::libc::{self, sock_filter, sock_fprog};
use nix::sys::socket::{setsockopt, sockopt::AttachReusePortCbpf};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// `BPF_A`: what was computed.
const ACCUMULATOR: u32 = 0x10;
/// A worker may have twice as many connections as another, and so many more.
const SLACK: usize = 16;

/// The CPUs that workers run on, one each.
pub struct Cpus(Vec<usize>);

impl Cpus {
    /// The CPUs that the process may use, if they are as many as the workers and more than one:
    /// else there is nothing to choose, and the system's scheduler does better without us.
    #[must_use]
    pub fn of(workers: usize) -> Option<Self> {
        let allowed = sched_getaffinity(None).ok()?;
        let cpus: Vec<_> = (0..CpuSet::MAX_CPU)
            .filter(|cpu| allowed.is_set(*cpu))
            .collect();
        (workers > 1 && cpus.len() == workers).then_some(Self(cpus))
    }

    /// Binds the calling thread to the CPU of a worker.
    pub(super) fn pin(&self, worker: usize) {
        let mut set = CpuSet::new();
        set.set(self.0[worker]);
        if let Err(error) = sched_setaffinity(None, &set) {
            tracing::info!(%error, worker, "a worker is not bound to its CPU");
        }
    }

    /// Lets the kernel choose among sockets that share an address: the n-th that listens is the
    /// n-th worker's. Where it does not, it spreads connections by a hash of their addresses.
    pub(super) fn steer(&self, socket: &TcpListener) -> io::Result<()> {
        let mut program = self.program();
        let program = sock_fprog {
            len: u16::try_from(program.len()).map_err(io::Error::other)?,
            filter: program.as_mut_ptr(),
        };
        Ok(setsockopt(socket, AttachReusePortCbpf, &program)?)
    }

    /// Says which socket of the group: of the CPU's worker, or of some worker for a CPU that none
    /// has, since a number beyond the group would be no choice at all.
    fn program(&self) -> Vec<sock_filter> {
        const THIS_CPU: i32 = libc::SKF_AD_OFF + libc::SKF_AD_CPU;
        let step = |code: u32, jt, jf, k| sock_filter {
            code: u16::try_from(code).expect("a code has 16 bits"),
            jt,
            jf,
            k,
        };
        let number = |n: usize| u32::try_from(n).expect("CPUs and workers are few");
        let load = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
        let mut program = vec![step(load, 0, 0, THIS_CPU.cast_unsigned())];
        for (worker, cpu) in self.0.iter().enumerate() {
            let is = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
            program.push(step(is, 0, 1, number(*cpu)));
            program.push(step(libc::BPF_RET | libc::BPF_K, 0, 0, number(worker)));
        }
        let rest = libc::BPF_ALU | libc::BPF_MOD | libc::BPF_K;
        program.push(step(rest, 0, 0, number(self.0.len())));
        program.push(step(libc::BPF_RET | ACCUMULATOR, 0, 0, 0));
        program
    }
}

/// How many connections each worker has.
#[derive(Clone)]
pub(super) struct Loads {
    connections: Arc<[AtomicUsize]>,
    /// A worker has no place for more.
    max: usize,
}

impl Loads {
    pub fn new(workers: usize, max: usize) -> Self {
        let connections = (0..workers).map(|_| AtomicUsize::new(0)).collect();
        Self { connections, max }
    }

    pub fn add(&self, worker: usize) {
        self.connections[worker].fetch_add(1, Ordering::Relaxed);
    }

    pub fn take(&self, worker: usize) {
        self.connections[worker].fetch_sub(1, Ordering::Relaxed);
    }

    /// Of all workers.
    pub fn sum(&self) -> usize {
        (0..self.connections.len())
            .map(|worker| self.of(worker))
            .sum()
    }

    pub fn has_place(&self, worker: usize) -> bool {
        self.of(worker) < self.max
    }

    /// Who should have the next connection that comes to this worker; nobody if all are full.
    pub fn taker(&self, worker: usize) -> Option<usize> {
        let mine = self.of(worker);
        // The usual case, in which the others' counts are not read.
        if mine <= SLACK && mine < self.max {
            return Some(worker);
        }
        let least = (0..self.connections.len()).min_by_key(|other| self.of(*other))?;
        if mine > 2 * self.of(least) + SLACK || mine >= self.max {
            return self.has_place(least).then_some(least);
        }
        Some(worker)
    }

    pub fn of(&self, worker: usize) -> usize {
        self.connections[worker].load(Ordering::Relaxed)
    }
}

#[cfg(all(test, not(feature = "loom")))]
mod tests {
    use std::net::TcpStream;
    use std::thread;

    use super::super::fixtures::{any_port, listener};
    use super::super::listener::{Bound, Open};
    use super::super::settings::Address;
    use super::*;
    use crate::protocol::Dialect;

    #[test]
    fn who_has_far_more_than_another_hands_over() {
        let loads = Loads::new(3, 100);
        let give = |worker| loads.add(worker);
        assert_eq!(loads.taker(0), Some(0));
        (0..=SLACK).for_each(|_| give(0));
        assert_eq!(loads.taker(0), Some(1));
        give(1);
        assert_eq!(loads.taker(0), Some(2), "the least");
        give(2);
        assert_eq!(loads.taker(0), Some(0), "twice as many, and the slack");
        give(0);
        give(0);
        assert_eq!(loads.taker(0), Some(1));
        assert_eq!(loads.taker(1), Some(1));
        (0..3).for_each(|_| loads.take(0));
        assert_eq!(loads.taker(0), Some(0));
    }

    #[test]
    fn every_place_is_taken_wherever_callers_come_from() {
        let loads = Loads::new(2, 8);
        let taken = (0..).map_while(|_| loads.taker(0).inspect(|worker| loads.add(*worker)));
        assert_eq!(taken.count(), 16);
        assert!(!loads.has_place(0) && !loads.has_place(1));
        loads.take(1);
        assert_eq!(loads.taker(0), Some(1));
    }

    /// What the program answers on a CPU, by the words of the kernel's filter language.
    fn run(program: &[sock_filter], cpu: u32) -> u32 {
        let (mut at, mut value) = (0, 0);
        loop {
            let sock_filter { code, jt, jf, k } = program[at];
            at += 1;
            match code {
                0x20 => value = cpu,
                0x15 => at += usize::from(if value == k { jt } else { jf }),
                0x94 => value %= k,
                0x06 => return k,
                0x16 => return value,
                _ => panic!("{code:#x}"),
            }
        }
    }

    #[test]
    fn every_cpu_leads_to_a_worker() {
        let program = Cpus(vec![2, 3, 7]).program();
        let chosen = [2, 3, 7, 0, 1, 64, 255].map(|cpu| run(&program, cpu));
        assert_eq!(chosen, [0, 1, 2, 0, 1, 1, 0]);
    }

    #[test]
    fn a_connection_comes_to_the_worker_on_its_clients_cpu() {
        let workers = thread::available_parallelism().map_or(1, usize::from);
        let Some(cpus) = Cpus::of(workers) else {
            assert!(workers == 1 || sched_getaffinity(None).is_err());
            return;
        };
        let listener = listener(any_port(), Dialect::Imds);
        let bound = Bound::bind(&listener, workers).unwrap().unwrap();
        let Address::Tcp(address) = bound.address() else {
            panic!("a TCP listener");
        };
        let cpus = Arc::new(cpus);
        let (open, steered) = bound.open(workers, Some(&cpus)).unwrap();
        assert!(steered);
        for (worker, socket) in open.iter().enumerate() {
            let pinned = Arc::clone(&cpus);
            let connect = move || {
                pinned.pin(worker);
                (0..20)
                    .map(|_| TcpStream::connect(address).unwrap())
                    .collect::<Vec<_>>()
            };
            let clients = thread::spawn(connect).join().unwrap();
            let Open::Tcp(socket) = socket else {
                panic!("a TCP socket");
            };
            let taken = (0..).map_while(|_| socket.accept().ok());
            let taken: Vec<_> = taken.map(|(stream, _)| stream).collect();
            assert_eq!(taken.len(), clients.len(), "worker {worker}");
            assert!(taken[0].nodelay().unwrap(), "as its listener has it");
        }
    }
}
