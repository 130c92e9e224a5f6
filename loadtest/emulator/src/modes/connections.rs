//! Modes of the connection: how it comes about, and where it breaks under an answer.

use super::Keep::{Either, No, Yes};
use super::{ALL, Group, Mode, NONE, OVER_TLS, accept, rows, script, send_then};
use crate::faults::{Accept, FaultKind};
use crate::script::Step::{self, AwaitNext, Close, Drip, Hang, Reset, Send};

/// The right head, cut off within a header.
const HALF_HEAD: &str = "HTTP/1.1 200 OK\r\n{lines}Date: {date}\r\nContent-Len";
/// The right head, and no body.
const HEAD: &str = "{head}\r\n";
/// The right head and half of the body.
const HALF_BODY: &str = "{head}\r\n{half}";
const ANSWER: &str = "{head}\r\n{body}";
const BANNER: &str = "SSH-2.0-OpenSSH_9.2p1\r\n";
const PLAIN: &str = "HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n";

fn drip(text: &str, bytes: usize, pause_ms: u64) -> Step {
    Drip {
        text: text.to_owned(),
        bytes,
        pause_ms,
    }
}

pub(super) fn connecting() -> Vec<Mode> {
    rows! { Group::Connect;
        "connect-refused", ALL, No, "nobody listens at the address" => accept(Accept::Refuse);
        "backlog-full", ALL, No, "the backlog is full: nobody accepts" => accept(Accept::Full);
        "accept-reset", ALL, No, "a connection is reset at once" => accept(Accept::Reset);
        "accept-close", ALL, No, "a connection is closed at once" => accept(Accept::Close);
        "accept-hang", ALL, No, "a connection is kept and never read" => accept(Accept::Ignore);
        "speaks-first", ALL, No, "another protocol: the server greets first" =>
            accept(Accept::Say(BANNER.to_owned()));
        "tls-plain", OVER_TLS, No, "plain HTTP answers a TLS handshake" =>
            accept(Accept::Say(PLAIN.to_owned()));
        "tls-other-certificate", OVER_TLS, No, "a certificate that nobody was told of" =>
            accept(Accept::OtherCertificate);
        "dns-failure", NONE, No,
            "a name is not found: most kinds are reached by address, and resolvers lie elsewhere" =>
            FaultKind::Reset;
    }
}

pub(super) fn breaking() -> Vec<Mode> {
    rows! { Group::Connection;
        "hang", ALL, No, "nothing comes, and the connection stays open" => FaultKind::Hang;
        "hang-mid-header", ALL, No,
            "half of the head comes, then nothing" =>
            send_then(HALF_HEAD, Hang);
        "hang-after-headers", ALL, No, "the head comes, then nothing" => send_then(HEAD, Hang);
        "hang-mid-body", ALL, No,
            "half of the body comes, then nothing" =>
            send_then(HALF_BODY, Hang);
        "close", ALL, No, "the connection is closed without an answer" => script([Close]);
        "close-mid-header", ALL, No, "closed within the head" => send_then(HALF_HEAD, Close);
        "close-after-headers", ALL, No, "closed before the body" => send_then(HEAD, Close);
        "half-body", ALL, No, "closed within the body" => send_then(HALF_BODY, Close);
        "reset", ALL, No, "reset without an answer" => FaultKind::Reset;
        "reset-mid-header", ALL, No, "reset within the head" => send_then(HALF_HEAD, Reset);
        "reset-after-headers", ALL, No, "reset before the body" => send_then(HEAD, Reset);
        "reset-mid-body", ALL, No, "reset within the body" => send_then(HALF_BODY, Reset);
        "drip", ALL, Yes, "the right answer, its body in pieces of 16 bytes" =>
            FaultKind::Drip { chunk_bytes: 16, pause_ms: 1 };
        "drip-head", ALL, Yes, "the right answer, its head in pieces of 16 bytes" =>
            script([drip(HEAD, 16, 1), Send("{body}".to_owned())]);
        "slow-drip", ALL, Either, "the right answer, a byte every 50 ms: over a minute" =>
            script([drip(ANSWER, 1, 50)]);
        "keep-alive-close", ALL, Yes, "the right answer; then closed, though to be kept" =>
            FaultKind::CloseKeptAlive { after_ms: 0 };
        "keep-alive-close-late", ALL, Yes,
            "the right answer; closed 20 ms later, though to be kept" =>
            FaultKind::CloseKeptAlive { after_ms: 20 };
        "keep-alive-race", ALL, Yes, "the right answer; closed as the next request is written" =>
            script([Send(ANSWER.to_owned()), AwaitNext, Close]);
        "keep-alive-race-reset", ALL, Yes,
            "the right answer; reset as the next request is written" =>
            script([Send(ANSWER.to_owned()), AwaitNext, Reset]);
    }
}
