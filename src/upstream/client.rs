//! A client of one source: question, call, answer.

use std::sync::Arc;
use std::time::Duration;

use hyper::{StatusCode, header};
use rustls::pki_types::ServerName;

use super::answer::{Times, read_refusal, read_token};
use super::http::{Answer, At, Place, call};
use super::question::{Question, question};
use super::retry_after::http_date;
use super::secret_file::{arc_key, assertion};
use super::settings::{Endpoint, Source};
use super::tls::{TrustError, pinned, vouched};
use super::{Ask, Class, FetchError, TokenSource};
use crate::clock::Clock;
use crate::token::AccessToken;

/// The whole of one try, connecting and Arc's second request included. IMDS answers within seconds
/// when it answers.
const DEADLINE: Duration = Duration::from_secs(10);

/// A client of one source of tokens.
#[derive(Clone)]
pub struct Client {
    source: Arc<Source>,
    place: Place,
    clock: Clock,
}

impl Client {
    /// A client of `source`. Nothing is asked yet.
    ///
    /// # Errors
    /// Entra is to be asked, and its name is none or there are no certificates to trust.
    pub fn new(source: Arc<Source>, clock: Clock) -> Result<Self, TrustError> {
        let place = match &*source {
            Source::WorkloadIdentity(federation) => {
                let config = vouched(federation.ca_file.as_deref())?;
                let (host, port) = (&federation.host, federation.port);
                let authority = match port {
                    443 => host.clone(),
                    port => format!("{host}:{port}").into(),
                };
                let name = ServerName::try_from(host.to_string());
                let name = name.map_err(|_| TrustError::Name(host.clone()))?;
                Place {
                    at: At::Name(host.clone(), port),
                    authority,
                    tls: Some((name, config)),
                }
            }
            Source::ServiceFabric {
                endpoint,
                thumbprint,
                ..
            } => Place {
                tls: Some((endpoint.address.ip().into(), pinned(*thumbprint))),
                ..plain(endpoint)
            },
            other => plain(other.endpoint().expect("only Entra has none")),
        };
        Ok(Self {
            source,
            place,
            clock,
        })
    }

    async fn ask(&self, ask: &Ask) -> Result<AccessToken, FetchError> {
        let mut question = question(&self.source, ask)?;
        if let Source::WorkloadIdentity(federation) = &*self.source {
            question.show(&assertion(&federation.token_file).await?);
        }
        if let Source::Arc { folder, .. } = &*self.source {
            let challenge = self.call(&question).await?;
            match challenge.status {
                StatusCode::UNAUTHORIZED => {}
                // Whoever answers without a challenge is not Arc's agent.
                StatusCode::OK => return Err(FetchError::of(Class::BadChallenge)),
                _ => return Err(self.refusal(&challenge)),
            }
            question.redeem(&arc_key(&challenge.headers, folder).await?)?;
        }
        let sent = self.clock.boot();
        let answer = self.call(&question).await?;
        // On the timeline as the answer's `Date` left it.
        let received = self.clock.now();
        let took_ms = self.clock.boot().0.saturating_sub(sent.0);
        let sent = received.minus(took_ms);
        if answer.status != StatusCode::OK {
            return Err(self.refusal(&answer));
        }
        let body = answer.body().ok_or_else(|| FetchError {
            status: Some(200),
            ..FetchError::of(Class::Malformed)
        })?;
        read_token(&self.source, &ask.key, body, Times { sent, received })
    }

    /// Asks, and tells the clock the time that the source has. Whatever the answer is: a refusal is
    /// dated like a token. The clock has to know before the token's own times are looked at.
    async fn call(&self, question: &Question) -> Result<Answer, FetchError> {
        let sent = self.clock.boot();
        let answer = call(&self.place, question).await?;
        let date = answer.headers.get(header::DATE);
        if let Some(date) = date.and_then(|date| http_date(date.as_bytes())) {
            self.clock.learn(date, sent);
        }
        Ok(answer)
    }

    fn refusal(&self, answer: &Answer) -> FetchError {
        let (kind, now) = (self.source.kind(), self.clock.now());
        read_refusal(
            kind,
            answer.status.as_u16(),
            &answer.headers,
            // The status and the time to wait are in the head; only its own words are lost.
            answer.body().unwrap_or_default(),
            now,
        )
    }
}

impl TokenSource for Client {
    fn fetch(
        &self,
        ask: Ask,
    ) -> impl Future<Output = Result<AccessToken, FetchError>> + Send + 'static {
        let this = self.clone();
        async move {
            let deadline = tokio::time::timeout(DEADLINE, this.ask(&ask));
            deadline.await.map_err(|_| FetchError::of(Class::Timeout))?
        }
    }
}

fn plain(endpoint: &Endpoint) -> Place {
    Place {
        at: At::Address(endpoint.address),
        authority: endpoint.authority.clone(),
        tls: None,
    }
}
