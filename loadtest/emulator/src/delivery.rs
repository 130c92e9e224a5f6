//! How an answer goes out: whole, spoilt, or not at all.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use crate::faults::{FaultKind, html_page};
use crate::refusals::status_reply;
use crate::reply::Reply;
use crate::script::{self, Step};
use crate::template::{self, Values};
use crate::world::World;

/// A stream of bytes over a TCP socket that faults can get at.
pub(crate) trait Wire: AsyncRead + AsyncWrite + Unpin {
    fn socket(&self) -> &TcpStream;
}

impl Wire for TcpStream {
    fn socket(&self) -> &TcpStream {
        self
    }
}

impl Wire for TlsStream<TcpStream> {
    fn socket(&self) -> &TcpStream {
        self.get_ref().0
    }
}

pub(crate) enum Delivery {
    Whole(Reply),
    Drip {
        reply: Reply,
        chunk_bytes: usize,
        pause: Duration,
    },
    Truncated {
        reply: Reply,
        send_bytes: usize,
    },
    /// Whole, with the promise to keep the connection, which is then broken.
    ThenClose {
        reply: Reply,
        pause: Duration,
    },
    Script {
        reply: Reply,
        steps: Vec<Step>,
        url: String,
    },
    Hang,
    Reset,
}

/// What becomes of the connection.
pub(crate) enum After {
    GoOn,
    Close,
    CloseIn(Duration),
}

/// What a fault makes of a reply to a request for `target`. Those that change the token or its
/// members have done so before, those of the connection before that.
pub(crate) fn spoil(
    world: &World,
    target: &str,
    reply: Reply,
    fault: Option<&FaultKind>,
) -> Delivery {
    let url = || format!("{}{target}", world.base_url());
    let of_status = |status: Option<u16>, reply: Reply| match status {
        Some(status) => status_reply(&world.kind, status),
        None => reply,
    };
    let fill = |text: &str, reply: &Reply| {
        let (server, url) = (world.kind.server_header(), &url());
        template::fill(text, &Values { reply, server, url })
    };
    match fault {
        None
        | Some(
            FaultKind::OtherResource { .. }
            | FaultKind::OtherClient { .. }
            | FaultKind::Edit { .. }
            | FaultKind::Expiry { .. }
            | FaultKind::Issue { .. }
            | FaultKind::Unchanged
            | FaultKind::Accept { .. },
        ) => Delivery::Whole(reply),
        Some(FaultKind::Rewrite { text, status }) => {
            let body = fill(text, &reply);
            Delivery::Whole(Reply {
                status: *status,
                body,
                ..reply
            })
        }
        Some(FaultKind::Script { steps, status }) => Delivery::Script {
            reply: of_status(*status, reply),
            steps: steps.clone(),
            url: url(),
        },
        Some(FaultKind::Status {
            status,
            retry_after_s,
        }) => {
            let reply = status_reply(&world.kind, *status);
            Delivery::Whole(match retry_after_s {
                Some(seconds) => reply.with("Retry-After", seconds),
                None => reply,
            })
        }
        Some(FaultKind::Body {
            status,
            text,
            content_type,
        }) => Delivery::Whole(match content_type {
            Some(content_type) => Reply::new(*status, content_type.clone(), text.clone()),
            None => Reply::json(*status, text.clone()),
        }),
        Some(FaultKind::Header { line, status }) => {
            let reply = of_status(*status, reply);
            let line = String::from_utf8_lossy(&fill(line, &reply)).into_owned();
            Delivery::Whole(reply.with_line(line))
        }
        Some(FaultKind::Html) => {
            let page = html_page(world.address);
            Delivery::Whole(Reply::new(200, "text/html; charset=utf-8", page))
        }
        Some(FaultKind::Hang) => Delivery::Hang,
        Some(FaultKind::Reset) => Delivery::Reset,
        Some(FaultKind::Drip {
            chunk_bytes,
            pause_ms,
        }) => Delivery::Drip {
            reply,
            chunk_bytes: (*chunk_bytes).max(1),
            pause: Duration::from_millis(*pause_ms),
        },
        Some(FaultKind::Truncate { send_bytes }) => Delivery::Truncated {
            reply,
            send_bytes: *send_bytes,
        },
        Some(FaultKind::CloseKeptAlive { after_ms }) => Delivery::ThenClose {
            reply: reply.with("Connection", "keep-alive"),
            pause: Duration::from_millis(*after_ms),
        },
    }
}

impl Delivery {
    /// Sends the answer in its way.
    pub(crate) async fn send(
        self,
        stream: &mut impl Wire,
        server: &str,
        keep_alive: bool,
    ) -> io::Result<After> {
        match self {
            Self::Whole(reply) => {
                reply.send(stream, server, keep_alive).await?;
                Ok(After::GoOn)
            }
            Self::ThenClose { reply, pause } => {
                reply.send(stream, server, true).await?;
                Ok(After::CloseIn(pause))
            }
            Self::Drip {
                reply,
                chunk_bytes,
                pause,
            } => {
                let head = reply.head(server, keep_alive);
                stream.write_all(head.as_bytes()).await?;
                script::drip(stream, &reply.body, chunk_bytes, pause).await?;
                Ok(After::GoOn)
            }
            Self::Truncated { reply, send_bytes } => {
                let sent = send_bytes.min(reply.body.len().saturating_sub(1));
                let mut bytes = reply.head(server, keep_alive).into_bytes();
                bytes.extend_from_slice(&reply.body[..sent]);
                stream.write_all(&bytes).await?;
                stream.shutdown().await?;
                Ok(After::Close)
            }
            Self::Script { reply, steps, url } => {
                let values = Values {
                    reply: &reply,
                    server,
                    url: &url,
                };
                script::play(&steps, stream, &values).await
            }
            Self::Hang => {
                script::hang(stream).await?;
                Ok(After::Close)
            }
            Self::Reset => {
                script::reset(stream)?;
                Ok(After::Close)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;

    use serde_json::Value;

    use crate::testing::{Asker, Connection, ask, get, names, token_target, unlimited};
    use crate::{Entra, Fault, FaultKind, Kind, ServiceFabric};

    #[test]
    fn a_status_fault_has_the_body_and_header_asked_for() {
        let emulator = unlimited();
        let kind = FaultKind::Status {
            status: 503,
            retry_after_s: Some(7),
        };
        emulator.set_fault(Some(Fault::times(kind, 1)));
        let reply = ask(&emulator, "");
        assert_eq!(
            (reply.status, reply.header("retry-after")),
            (503, Some("7"))
        );
        assert!(reply.json()["error_description"].is_string());
        assert_eq!(ask(&emulator, "").status, 200);
        let counts = emulator.counts();
        assert_eq!((counts.faulted, counts.tokens_issued), (1, 1));
    }

    #[test]
    fn a_fault_leaves_refusals_alone_unless_it_is_for_all_requests() {
        let emulator = unlimited();
        let fault = Fault::always(FaultKind::Status {
            status: 500,
            retry_after_s: None,
        });
        emulator.set_fault(Some(fault.clone()));
        assert_eq!(ask(&emulator, "&client_id=x").status, 400);
        emulator.set_fault(Some(fault.for_all_requests()));
        assert_eq!(ask(&emulator, "&client_id=x").status, 500);
        assert_eq!(get(&emulator, "/_emulator/counts").status, 200);
    }

    #[test]
    fn a_reset_is_seen_as_a_reset() {
        let emulator = unlimited();
        emulator.set_fault(Some(Fault::times(FaultKind::Reset, 1)));
        let error = Connection::open(&emulator)
            .get(&token_target(""))
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    }

    #[test]
    fn a_truncated_body_is_shorter_than_announced() {
        let emulator = unlimited();
        emulator.set_fault(Some(Fault::always(FaultKind::Truncate { send_bytes: 20 })));
        let mut connection = Connection::open(&emulator);
        assert_eq!(
            connection.get(&token_target("")).unwrap_err().kind(),
            ErrorKind::UnexpectedEof
        );

        emulator.set_fault(Some(Fault::always(FaultKind::Truncate {
            send_bytes: usize::MAX,
        })));
        let mut connection = Connection::open(&emulator);
        assert_eq!(
            connection.get(&token_target("")).unwrap_err().kind(),
            ErrorKind::UnexpectedEof
        );
    }

    #[test]
    fn a_dripped_body_arrives_whole_and_the_connection_goes_on() {
        let emulator = unlimited();
        let drip = FaultKind::Drip {
            chunk_bytes: 100,
            pause_ms: 1,
        };
        emulator.set_fault(Some(Fault::times(drip, 1)));
        let mut connection = Connection::open(&emulator);
        let dripped = connection.get(&token_target("")).unwrap().token();
        assert_eq!(connection.get(&token_target("")).unwrap().token(), dripped);
    }

    #[test]
    fn a_body_is_sent_exactly_as_it_is_given() {
        let emulator = unlimited();
        for (status, text, content_type) in [
            (200, "{\"access_token\":", None),
            (200, "", Some("text/plain")),
            (503, "\u{feff}null", Some("application/json")),
        ] {
            let kind = FaultKind::Body {
                status,
                text: text.to_owned(),
                content_type: content_type.map(str::to_owned),
            };
            emulator.set_fault(Some(Fault::times(kind, 1)));
            let reply = ask(&emulator, "");
            assert_eq!((reply.status, reply.body.as_str()), (status, text));
            let expected = content_type.unwrap_or("application/json; charset=utf-8");
            assert_eq!(reply.header("content-type"), Some(expected));
        }
        assert_eq!(emulator.counts().tokens_issued, 0);
    }

    #[test]
    fn a_header_line_makes_a_redirect_or_goes_with_the_right_answer() {
        let emulator = unlimited();
        let fault = |status| FaultKind::Header {
            line: "Location: http://127.0.0.1:1/".to_owned(),
            status,
        };
        emulator.set_fault(Some(Fault::times(fault(Some(302)), 1)));
        let redirect = ask(&emulator, "");
        assert_eq!(
            (redirect.status, redirect.header("location")),
            (302, Some("http://127.0.0.1:1/"))
        );
        emulator.set_fault(Some(Fault::times(fault(None), 1)));
        let reply = ask(&emulator, "");
        assert_eq!(reply.header("location"), Some("http://127.0.0.1:1/"));
        reply.token();
    }

    #[test]
    fn an_edited_answer_keeps_its_order() {
        let emulator = unlimited();
        let fault = br#"{"kind":"edit","members":
            {"expires_on":7,"resource":null,"refresh_in":"9","client_id":[]},"times":1}"#;
        emulator.set_fault(Some(Fault::from_json(fault).unwrap()));
        let reply = ask(&emulator, "");
        assert_eq!(
            names(&reply.body),
            [
                "access_token",
                "client_id",
                "expires_in",
                "expires_on",
                "ext_expires_in",
                "not_before",
                "token_type",
                "refresh_in"
            ]
        );
        assert_eq!(
            (&reply.json()["expires_on"], &reply.json()["client_id"]),
            (&7.into(), &Value::Array(vec![]))
        );
    }

    #[test]
    fn a_connection_that_was_to_be_kept_is_closed() {
        let emulator = unlimited();
        let kind = FaultKind::CloseKeptAlive { after_ms: 1 };
        emulator.set_fault(Some(Fault::times(kind, 1)));
        let mut connection = Connection::open(&emulator);
        let reply = connection.get(&token_target("")).unwrap();
        assert_eq!(reply.header("connection"), Some("keep-alive"));
        reply.token();
        assert_eq!(connection.read_to_end().unwrap(), "");
    }

    #[test]
    fn faults_and_the_control_path_work_over_tls_too() {
        for kind in [
            Kind::ServiceFabric(ServiceFabric::default()),
            Kind::Entra(Entra::default()),
        ] {
            let asker = Asker::new(kind);
            let fault = |kind| {
                asker
                    .emulator
                    .set_fault(Some(Fault::times(kind, 1).for_all_requests()));
                Connection::open(&asker.emulator).get("/")
            };
            let error = fault(FaultKind::Reset).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ConnectionReset);
            let error = fault(FaultKind::Truncate { send_bytes: 1 }).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::UnexpectedEof);
            assert_eq!(fault(FaultKind::Html).unwrap().status, 200);
            let drip = FaultKind::Drip {
                chunk_bytes: 9,
                pause_ms: 1,
            };
            assert_eq!(fault(drip).unwrap().status, 404);
            for mut connection in [
                Connection::open(&asker.emulator),
                Connection::open_plain(&asker.emulator),
            ] {
                let counts = connection.get("/_emulator/counts").unwrap();
                assert_eq!(counts.json()["faulted"], 4);
            }
            let keys = asker.get("/.well-known/openid-configuration").json()["jwks_uri"].clone();
            let base = asker.emulator.base_url();
            assert_eq!(keys, format!("{base}/discovery/keys"));
            assert_eq!(asker.get("/discovery/keys").body, asker.emulator.jwks());
        }
    }

    #[test]
    fn a_page_of_html_comes_with_status_200() {
        let emulator = unlimited();
        emulator.set_fault(Some(Fault::times(FaultKind::Html, 1)));
        let reply = ask(&emulator, "");
        assert_eq!(
            reply.header("content-type"),
            Some("text/html; charset=utf-8")
        );
        assert!(reply.status == 200 && reply.body.starts_with("<!DOCTYPE html>"));
    }

    #[test]
    fn a_wrong_token_is_genuine_but_for_another() {
        let emulator = unlimited();
        let resource = "https://vault.azure.net".to_owned();
        emulator.set_fault(Some(Fault::times(FaultKind::OtherResource { resource }, 1)));
        let reply = ask(&emulator, "");
        assert_eq!(reply.claims()["aud"], "https://vault.azure.net");
        assert_eq!(reply.json()["resource"], "https://vault.azure.net");

        let client_id = "99999999-1111-4222-8333-444444444444".to_owned();
        emulator.set_fault(Some(Fault::times(FaultKind::OtherClient { client_id }, 1)));
        let reply = ask(&emulator, "&client_id=aaaaaaaa-1111-4222-8333-444444444444");
        assert_eq!(
            reply.claims()["appid"],
            "99999999-1111-4222-8333-444444444444"
        );
        assert_eq!(
            reply.json()["client_id"],
            "99999999-1111-4222-8333-444444444444"
        );
    }
}
