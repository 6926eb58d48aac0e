//! Asking responders: on the tunnel's main thread, once for all who want to know the same, and again before an answer
//! runs out.
//!
//! Where to ask is named by the peer's certificate. So only plain HTTP on port 80 is spoken, redirects are not followed,
//! answers have a limit, and neither this host nor its link is asked; `--ocsp-url` and `--ocsp-proxy` are the
//! administrator's, and go where they say.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use rustls::pki_types::UnixTime;
use sealane_io::http::{Http, Reply, Request};
use sealane_io::net;
use sealane_io::rt::{self, Either, Sender, Signal};
use sealane_trust::{Algorithms, Answer, Fingerprint, Status};

use crate::status::options::{HTTP_PORT, HttpUrl, OcspOptions, Proxy, is_near, is_near_by_name, shortened};
use crate::status::{Ask, Question, StatusError, Statuses};

/// The most bytes of an answer.
const ANSWER_BYTES_MAX: usize = 16 * 1024;
/// Longer requests are posted (RFC 5019 section 5).
const GET_BYTES_MAX: usize = 255;
/// Responders of one certificate, and addresses of one responder, that are tried.
const URLS_MAX: usize = 3;
const ADDRESSES_MAX: usize = 3;
/// Certificates that are asked about at the same time.
const FLIGHTS_MAX: usize = 64;
/// The clock may be set: refreshes are looked for at least so often while there are any.
const LOOK_MAX: Duration = Duration::from_secs(600);

const REQUEST_TYPE: &str = "application/ocsp-request";
const RESPONSE_TYPE: &str = "application/ocsp-response";

type Waiting = Rc<RefCell<BTreeMap<Fingerprint, Vec<Sender<Result<Answer, StatusError>>>>>>;

/// Answers what workers want to know, and asks again in time. Never returns.
pub(crate) async fn serve(statuses: Arc<Statuses>) {
    let Some(mut asked) = statuses.asked.lock().unwrap_or_else(PoisonError::into_inner).take() else {
        return std::future::pending().await;
    };
    let (waiting, learned) = (Waiting::default(), Rc::new(Signal::default()));
    loop {
        let next = statuses.with_cache(|cache| cache.next_refresh());
        let pause = async {
            match next {
                None => std::future::pending().await,
                Some(at) => {
                    let left = Duration::from_secs(at.saturating_sub(UnixTime::now().as_secs()));
                    rt::sleep(left.clamp(Duration::from_secs(1), LOOK_MAX)).await;
                }
            }
        };
        // What an answer says changes when the next one is due.
        match rt::race(asked.next(), rt::race(pin!(pause), learned.wait())).await {
            Either::Left(Some(None)) => {}
            Either::Left(Some(Some(Ask { question, answer }))) => {
                begin(&statuses, &waiting, &learned, question, Some(answer))
            }
            Either::Left(None) => return std::future::pending().await,
            Either::Right(Either::Right(())) => {}
            Either::Right(Either::Left(())) => {
                let live = statuses.live();
                let is_live = |certificate: &Fingerprint| live.contains(certificate);
                let due = statuses.with_cache(|cache| cache.take_due(UnixTime::now().as_secs(), is_live));
                due.into_iter().for_each(|question| begin(&statuses, &waiting, &learned, question, None));
            }
        }
    }
}

/// Asks, unless that is under way; whoever waits is told.
fn begin(
    statuses: &Arc<Statuses>,
    waiting: &Waiting,
    learned: &Rc<Signal>,
    question: Arc<Question>,
    answer: Option<Sender<Result<Answer, StatusError>>>,
) {
    let mut all = waiting.borrow_mut();
    if let Some(others) = all.get_mut(&question.fingerprint) {
        others.extend(answer);
        return;
    }
    if all.len() >= FLIGHTS_MAX {
        answer.into_iter().for_each(|answer| drop(answer.try_send(Err(StatusError::Busy))));
        return;
    }
    all.insert(question.fingerprint, answer.into_iter().collect());
    let (statuses, waiting, learned) = (Arc::clone(statuses), Rc::clone(waiting), Rc::clone(learned));
    rt::spawn(async move {
        let asked = rt::catch_panic(ask(&statuses, &question)).await;
        let came = asked.unwrap_or_else(|message| {
            tracing::error!("asking an OCSP responder: internal error (panic: {message})");
            Err(StatusError::Busy)
        });
        let waited = waiting.borrow_mut().remove(&question.fingerprint).unwrap_or_default();
        let is_ahead = waited.is_empty();
        match &came {
            Ok(Answer { status: Status::Revoked(revocation), .. }) if is_ahead => {
                tracing::error!("{} was {revocation}: new connections to it are refused", question.what);
            }
            Err(why) if is_ahead => tracing::warn!("asking again about {}: {why}", question.what),
            _ => {}
        }
        // That a responder does not know it is no answer either.
        if !matches!(&came, Ok(Answer { status: Status::Good | Status::Revoked(_), .. })) {
            statuses.with_cache(|cache| cache.ask_later(&question, UnixTime::now().as_secs()));
        }
        // Whoever does not wait any more does not want to know.
        waited.into_iter().for_each(|answer| drop(answer.try_send(came.clone())));
        learned.set();
    });
}

/// Asks, and learns what is said.
async fn ask(statuses: &Statuses, question: &Arc<Question>) -> Result<Answer, StatusError> {
    let Asked { answer, .. } = ask_all(&statuses.options, statuses.algorithms, question).await?;
    let jitter = sealane_trust::nonce().map_or(0, |[first, ..]| first);
    let counts = statuses.with_cache(|cache| cache.learn_asked(question, answer, jitter, UnixTime::now().as_secs()));
    if let Status::Revoked(revocation) = &counts.status {
        statuses.tell(&question.fingerprint, revocation);
    }
    Ok(counts)
}

/// A response and what it says.
pub(crate) struct Asked {
    pub(crate) answer: Answer,
    pub(crate) response: Vec<u8>,
}

/// Asks one responder after the other, until one has said something that counts.
pub(crate) async fn ask_all(
    options: &OcspOptions,
    algorithms: &'static Algorithms,
    question: &Question,
) -> Result<Asked, StatusError> {
    let urls = match &options.url {
        Some(url) => vec![url.to_string()],
        None => question.urls.iter().take(URLS_MAX).cloned().collect(),
    };
    let started = rt::now();
    let (mut errors, mut unknown) = (Vec::new(), None);
    for (index, url) in urls.iter().enumerate() {
        // A responder that says nothing leaves time for the next.
        let left = options.timeout.saturating_sub(rt::now() - started);
        let limit = left / u32::try_from(urls.len() - index).unwrap_or(1);
        let asked = match rt::timeout(limit, ask_one(options, algorithms, question, url, limit)).await {
            Some(asked) => asked,
            None => Err(format!("nothing for {} s", seconds(limit))),
        };
        match asked {
            Ok(asked) if asked.answer.status == Status::Unknown => unknown = Some(asked),
            Ok(asked) => {
                let (status, until) = (&asked.answer.status, asked.answer.valid_until());
                tracing::debug!("{} says of {}: {status:?}, until {until}", shortened(url), question.what);
                return Ok(asked);
            }
            Err(why) => errors.push(format!("{}: {why}", shortened(url))),
        }
    }
    match unknown {
        Some(asked) => Ok(asked),
        None if errors.is_empty() => Err(StatusError::NoResponder),
        None => Err(StatusError::Asked(errors)),
    }
}

/// Asks the responder at `url`.
async fn ask_one(
    options: &OcspOptions,
    algorithms: &'static Algorithms,
    question: &Question,
    url: &str,
    limit: Duration,
) -> Result<Asked, String> {
    let said = |error: &dyn std::fmt::Display| error.to_string();
    let url: HttpUrl = url.parse().map_err(|error| said(&error))?;
    let nonce = options.nonce.then(sealane_trust::nonce).transpose().map_err(|error| said(&error))?;
    let nonce = nonce.as_ref().map(<[u8; _]>::as_slice);
    let request = sealane_trust::request(&question.certified, nonce).map_err(|error| said(&error))?;
    let is_ours = question.is_ours || options.url.is_some();
    let proxy = options.proxy.as_ref().filter(|proxy| proxy.serves(&url.server.host));
    check_route(&url, proxy, is_ours)?;
    let http = reach(&url, proxy, is_ours, limit).await?;
    let reply = http.exchange(encode(&url, proxy.is_some(), request, nonce.is_some())).await;
    let response = content_of(reply.map_err(|error| said(&error))?)?;
    let answer = sealane_trust::read(&response, &question.certified, nonce, UnixTime::now(), algorithms);
    Ok(Asked { answer: answer.map_err(|error| said(&error))?, response })
}

/// Whether a responder that a certificate names may be asked.
fn check_route(url: &HttpUrl, proxy: Option<&Proxy>, is_ours: bool) -> Result<(), String> {
    if is_ours {
        return Ok(());
    }
    if url.server.port != HTTP_PORT {
        return Err("a certificate may name port 80 only; name another one with --ocsp-url".into());
    }
    if proxy.is_some() && is_near_by_name(&url.server.host) {
        return Err("a proxy is not asked for a host of its own; name it with --ocsp-url".into());
    }
    Ok(())
}

/// Connects to the responder, or to the proxy before it. An address that is silent leaves time for the next.
async fn reach(url: &HttpUrl, proxy: Option<&Proxy>, is_ours: bool, limit: Duration) -> Result<Http, String> {
    let started = rt::now();
    let (server, is_ours) = proxy.map_or((&url.server, is_ours), |proxy| (&proxy.server, true));
    let found = net::resolve(&server.host, server.port).await.map_err(|error| format!("{}: {error}", server.host))?;
    let is_allowed = |address: &SocketAddr| is_ours || !is_near(address.ip());
    let addresses: Vec<_> = found.into_iter().filter(is_allowed).take(ADDRESSES_MAX).collect();
    let mut last = "it is this host or on its link, where only --ocsp-url may lead".to_string();
    for (index, address) in addresses.iter().enumerate() {
        let left = limit.saturating_sub(rt::now() - started);
        // The last one leaves as much for the answer.
        let share = left / u32::try_from(addresses.len() - index + 1).unwrap_or(1);
        match rt::timeout(share, Http::connect(*address)).await {
            Some(Ok(http)) if is_ours || !http.is_own_host() => return Ok(http),
            Some(Ok(_)) => {}
            Some(Err(error)) => last = format!("{address}: {error}"),
            None => last = format!("{address}: no connection within {} s", seconds(share)),
        }
    }
    Err(last)
}

/// To a tenth.
fn seconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 10.0).round() / 10.0
}

/// RFC 5019 section 5 for short requests, RFC 6960 appendix A for others. With a nonce no cache may answer.
fn encode(url: &HttpUrl, for_proxy: bool, request: Vec<u8>, has_nonce: bool) -> Request {
    let HttpUrl { server, path } = url;
    let encoded = sealane_trust::url_encoded(&request);
    // The whole URL counts.
    let got = HttpUrl { server: server.clone(), path: format!("{}/{encoded}", path.trim_end_matches('/')) };
    let fits = !has_nonce && got.to_string().len() <= GET_BYTES_MAX && !path.contains('?');
    let target = if fits { got } else { url.clone() };
    let target = if for_proxy { target.to_string() } else { target.path };
    let host = HttpUrl { server: server.clone(), path: String::new() }.to_string();
    Request {
        host: host.trim_start_matches("http://").into(),
        target,
        content: (!fits).then_some((REQUEST_TYPE, request)),
        accept: RESPONSE_TYPE,
        bytes_max: ANSWER_BYTES_MAX,
    }
}

fn content_of(reply: Reply) -> Result<Vec<u8>, String> {
    let Reply { status, content_type, content } = reply;
    match status {
        200 if content_type.trim().to_ascii_lowercase().starts_with(RESPONSE_TYPE) => Ok(content),
        200 => Err(format!("it sent '{}' instead of {RESPONSE_TYPE}", shortened(&content_type))),
        300..400 => Err(format!("HTTP status {status}: redirects are not followed")),
        status => Err(format!("HTTP status {status}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_requests_are_got_and_long_ones_posted() {
        let url: HttpUrl = "http://ocsp.example.com/ca".parse().unwrap();
        let short = encode(&url, false, vec![0xfb; 80], false);
        assert!(short.target.starts_with("/ca/%2B") && short.content.is_none(), "{short:?}");
        assert_eq!(short.host, "ocsp.example.com");
        for (length, has_nonce) in [(250, false), (80, true)] {
            let long = encode(&url, false, vec![0xfb; length], has_nonce);
            assert!(long.target == "/ca" && long.content.is_some(), "{long:?}");
        }
        let by_proxy = encode(&"http://ocsp.example.com:81/".parse().unwrap(), true, vec![0; 250], false);
        assert_eq!(by_proxy.target, "http://ocsp.example.com:81/");
        assert_eq!(by_proxy.host, "ocsp.example.com:81");
    }

    #[test]
    fn what_certificates_name_is_http_on_its_port_and_not_near_a_proxy() {
        let proxy = Proxy { server: "proxy:3128".parse().unwrap(), except: Vec::new() };
        let check = |url: &str, proxy, is_ours| check_route(&url.parse().unwrap(), proxy, is_ours).is_ok();
        assert!(check("http://ocsp.example.com/", None, false));
        assert!(!check("http://ocsp.example.com:8080/", None, false));
        assert!(check("http://ocsp.example.com:8080/", None, true));
        assert!(!check("http://localhost/", Some(&proxy), false));
        assert!(check("http://localhost/", Some(&proxy), true));
        assert!(check("http://ocsp.example.com/", Some(&proxy), false));
    }
}
