//! Whether a server's certificate still stands, asked of OpenSSL's responder and of hostile ones, and stapled by OpenSSL's
//! server.

use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::far_ends::echo_server;
use crate::revoked_live::Watched;
use crate::ring::traced;
use crate::support::authority::{Authority, Behaviour, Reply, Responder, http};
use crate::support::bytes::call;
use crate::support::not_run;
use crate::support::openssl::SServer;
use crate::support::peer::{PeerListener, VERSIONS};
use crate::support::pki::Identity;
use crate::support::process::{SOON, eventually, eventually_within, free_port, have, now, scratch};
use crate::support::sealane::{DRIVERS, Sealane, command, expect_reset, server_command};

/// An OpenSSL server with a certificate and what it staples.
pub fn server(identity: &Identity, staple: Option<&Path>, more: &[&str]) -> SServer {
    let staple = staple.map(|file| file.display().to_string());
    let mut args: Vec<&str> = staple.iter().flat_map(|file| ["-status_file", file]).collect();
    args.extend(more);
    SServer::with_identity(identity, &args)
}

pub fn tunnel(driver: &str, ca: &Authority, server: &SServer, args: &[&str]) -> Sealane {
    let ca = ca.ca();
    let mut all = vec!["--ca-file", &ca];
    all.extend(args);
    Sealane::start(driver, server.port, &all)
}

/// A connection that is let through: what it says arrives.
pub fn expect_through(tunnel: &Sealane, server: &SServer, tag: &str) {
    let _client = tunnel.connect_and_say(format!("through {tag}\n").as_bytes());
    server.process.wait_for(&format!("through {tag}"));
}

/// A connection that is not: nothing arrives, it is reset, and the log says why.
pub fn expect_refused(tunnel: &Sealane, server: &SServer, why: &str) {
    let mut client = tunnel.connect_and_say(b"not through\n");
    expect_reset(&mut client, SOON);
    tunnel.wait_for(why);
    assert!(!server.process.output().contains("not through"), "{}", server.process.output());
}

#[test]
fn a_staple_is_judged_and_a_promise_of_one_kept() {
    let ca = Authority::new();
    let (good, revoked) = (ca.server("good"), ca.server("revoked"));
    let promising = ca.issue("promising", "ca", "subjectAltName=DNS:nfs.test\ntlsfeature=status_request");
    ca.revoke("revoked");
    let staples = ["good", "revoked", "promising"].map(|name| ca.staple(name));
    let [staple, revoked_staple, promised] = &staples;
    let later = ca.file("later");
    std::fs::write(&later, [0x30, 3, 0x0a, 1, 3]).unwrap();
    for (index, tls) in ["-tls1_2", "-tls1_3"].into_iter().enumerate() {
        let driver = DRIVERS[index];
        for (identity, staple, alert, why) in [
            (&good, None, "", None),
            (&good, Some(staple), "", None),
            (&promising, Some(promised), "", None),
            (
                &revoked,
                Some(revoked_staple),
                "certificate revoked",
                Some("it was revoked on 2026-01-02T03:04:05Z (keyCompromise)"),
            ),
            (
                &good,
                Some(&later),
                "bad certificate status response",
                Some("a response that cannot be used: the OCSP responder answers 'tryLater'"),
            ),
            (&good, Some(promised), "bad certificate status response", Some("is about another certificate")),
            (&promising, None, "certificate unknown", Some("it promises a stapled OCSP response")),
        ] {
            let server = server(identity, staple.map(|file| &**file), &[tls]);
            let tunnel = tunnel(driver, &ca, &server, &[]);
            match why {
                None => expect_through(&tunnel, &server, "once"),
                Some(why) => {
                    expect_refused(&tunnel, &server, why);
                    server.process.wait_for(alert);
                }
            }
        }
        // Nobody looks.
        let server = server(&revoked, Some(revoked_staple), &[tls]);
        expect_through(&tunnel(driver, &ca, &server, &["--ocsp", "off"]), &server, "unseen");
    }
}

#[test]
fn a_resumed_session_which_brings_no_staple_goes_on_with_what_is_known() {
    let ca = Authority::new();
    let promising = ca.issue("promising", "ca", "subjectAltName=DNS:nfs.test\ntlsfeature=status_request");
    let staple = ca.staple("promising");
    for (index, tls) in ["-tls1_2", "-tls1_3"].into_iter().enumerate() {
        let server = server(&promising, Some(&staple), &[tls]);
        let tunnel = tunnel(DRIVERS[index], &ca, &server, &[]);
        for tag in ["first", "second"] {
            expect_through(&tunnel, &server, tag);
            eventually("it is closed", || {
                tunnel.process.count("closed: closed by the client") == if tag == "first" { 1 } else { 2 }
            });
        }
        // Said when it is opened and when it is closed.
        assert_eq!(tunnel.process.count(" resumed "), 2, "{}", tunnel.process.output());
    }
}

#[test]
fn a_responder_of_openssl_is_asked_and_heard() {
    let ca = Authority::new();
    let identities = ["good", "revoked", "unknown"].map(|name| ca.server(name));
    ca.revoke("revoked");
    ca.forget("unknown");
    let responder = ca.responder();
    let url = responder.url();
    let unknown = "the OCSP responder does not know it";
    for (index, mode) in ["hard", "soft"].into_iter().enumerate() {
        let whys = [
            None,
            Some("it was revoked on 2026-01-02T03:04:05Z (keyCompromise)"),
            Some(unknown).filter(|_| mode == "hard"),
        ];
        for (identity, why) in identities.iter().zip(whys) {
            for nonce in [&["--ocsp-nonce"][..], &[]] {
                let server = server(identity, None, &[]);
                let args = [&["--ocsp", mode, "--ocsp-url", &url], nonce].concat();
                let tunnel = tunnel(DRIVERS[index], &ca, &server, &args);
                match why {
                    None => expect_through(&tunnel, &server, mode),
                    Some(why) => expect_refused(&tunnel, &server, why),
                }
            }
        }
    }
}

#[test]
fn whatever_a_responder_does_has_its_clear_error() {
    let ca = Arc::new(Authority::new());
    let identity = ca.server("good");
    let other = ca.server("other");
    drop(other);
    let of_another = std::fs::read(ca.staple("other")).unwrap();
    let replayed = std::fs::read(ca.staple("good")).unwrap();
    let response = http(200, "application/ocsp-response", &vec![0; 20_000]);
    let chunked = {
        let head = b"HTTP/1.1 200 OK\r\nContent-Type: application/ocsp-response\r\nTransfer-Encoding: chunked\r\n\r\n";
        [head.as_slice(), b"4000\r\n", &[0; 0x4000], b"\r\n4000\r\n", &[0; 0x4000], b"\r\n0\r\n\r\n"].concat()
    };
    let redirect = b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1/\r\nContent-Length: 0\r\n\r\n".to_vec();
    let cases: Vec<(&str, Behaviour, &str)> = vec![
        ("huge", Box::new(move |_| Reply::Raw(response.clone())), "longer than 16384 bytes"),
        ("huge in pieces", Box::new(move |_| Reply::Raw(chunked.clone())), "longer than 16384 bytes"),
        ("down", Box::new(|_| Reply::Raw(http(503, "text/plain", b"busy"))), "HTTP status 503"),
        ("elsewhere", Box::new(move |_| Reply::Raw(redirect.clone())), "redirects are not followed"),
        (
            "a page",
            Box::new(|_| Reply::Raw(http(200, "text/html", b"<html>"))),
            "'text/html' instead of application/ocsp-response",
        ),
        ("garbage", Box::new(|_| Reply::Response(b"garbage".to_vec())), "cannot be read"),
        ("no HTTP", Box::new(|_| Reply::Raw(b"220 mail.test ESMTP\r\n".to_vec())), "invalid HTTP"),
        ("nothing", Box::new(|_| Reply::Raw(Vec::new())), "connection closed"),
        ("another's", Box::new(move |_| Reply::Response(of_another.clone())), "about another certificate"),
        ("later", Box::new(|_| Reply::Response(vec![0x30, 3, 0x0a, 1, 3])), "'tryLater'"),
        ("silence", Box::new(|_| Reply::Silence), "nothing for 1 s"),
    ];
    for (index, (what, behaviour, why)) in cases.into_iter().enumerate() {
        let responder = Responder::start(behaviour);
        let url = responder.url();
        let args = ["--ocsp-timeout", "1", "--ocsp-url", &url];
        let server = server(&identity, None, &[]);
        let hard = tunnel(DRIVERS[index % 2], &ca, &server, &[&["--ocsp", "hard"], &args[..]].concat());
        expect_refused(&hard, &server, why);
        let soft = tunnel(DRIVERS[index % 2], &ca, &server, &[&["--ocsp", "soft"], &args[..]].concat());
        expect_through(&soft, &server, what);
        soft.wait_for(why);
        let asked = responder.requests().len();
        // The next one does not wait for the same again, and says nothing about it.
        expect_through(&soft, &server, "again");
        assert_eq!(responder.requests().len(), asked, "{what}");
        assert_eq!(soft.process.count("accepted (--ocsp soft)"), 1, "{what}: {}", soft.process.output());
    }
    // An answer from before, where one made for us was asked for; and nobody there.
    let responder = Responder::start(move |_| Reply::Response(replayed.clone()));
    let server = server(&identity, None, &[]);
    let fresh = tunnel("epoll", &ca, &server, &["--ocsp", "hard", "--ocsp-url", &responder.url(), "--ocsp-nonce"]);
    expect_refused(&fresh, &server, "does not repeat our nonce");
    let nobody = format!("http://127.0.0.1:{}", free_port());
    expect_refused(
        &tunnel("epoll", &ca, &server, &["--ocsp", "hard", "--ocsp-url", &nobody]),
        &server,
        "Connection refused",
    );
}

#[test]
fn one_answer_serves_all_connections_and_one_request_all_that_wait() {
    let ca = Arc::new(Authority::new());
    let identity = ca.server("good");
    let answering = Arc::clone(&ca);
    let responder = Responder::start(move |request| {
        std::thread::sleep(Duration::from_millis(500));
        Reply::Response(answering.answer(request))
    });
    let listener = Arc::new(PeerListener::with_identity(VERSIONS[1], &identity));
    for driver in DRIVERS {
        let before = responder.requests().len();
        let sealane = Sealane::start(
            driver,
            listener.port(),
            &["--ca-file", &ca.ca(), "--ocsp", "hard", "--ocsp-url", &responder.url(), "--workers", "2"],
        );
        let accepting = Arc::clone(&listener);
        let peers = std::thread::spawn(move || {
            // Handshakes at the same time, or the first would hold up the others.
            let threads: Vec<_> = (0..4)
                .map(|_| {
                    let listener = Arc::clone(&accepting);
                    std::thread::spawn(move || listener.accept())
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
        });
        let clients: Vec<_> = (0..4).map(|_| sealane.connect()).collect();
        let peers = peers.join().unwrap();
        eventually("all four are open", || sealane.process.count("opened: ") == 4);
        assert_eq!(responder.requests().len() - before, 1, "{:?}", responder.requests());
        let started = now();
        let last = sealane.connect();
        let peer = listener.accept();
        eventually("the last one is open", || sealane.process.count("opened: ") == 5);
        assert!(now() - started < Duration::from_millis(450), "it has not asked");
        assert_eq!(responder.requests().len() - before, 1);
        drop((clients, peers, last, peer));
    }
    assert!(responder.requests().iter().all(|head| head.starts_with("GET /M")), "{:?}", responder.requests());
}

#[test]
fn only_the_connection_with_nothing_to_go_by_waits_for_a_slow_responder() {
    let ca = Arc::new(Authority::new());
    let [quick, slow] = ["quick", "slow"].map(|name| ca.server(name));
    let slow_serial = ca.serial("slow");
    let answering = Arc::clone(&ca);
    let responder = Responder::start(move |request| {
        if request.windows(slow_serial.len()).any(|bytes| bytes == slow_serial) {
            std::thread::sleep(Duration::from_secs(2));
        }
        Reply::Response(answering.answer(request))
    });
    for driver in DRIVERS {
        // One server, which shows one certificate or the other.
        let listener = PeerListener::with_identity(VERSIONS[1], &quick);
        let other = listener.with_other_identity(VERSIONS[1], &slow);
        let args = ["--ca-file", &ca.ca(), "--ocsp", "hard", "--ocsp-url", &responder.url(), "--workers", "1"];
        let sealane = Sealane::start(driver, listener.port(), &args);
        let first = (sealane.connect(), listener.accept());
        eventually("the quick one is known", || sealane.process.count("opened: ") == 1);
        let waiting = (sealane.connect(), other.accept());
        let started = now();
        let known = (sealane.connect(), listener.accept());
        eventually("the one that is known is open", || sealane.process.count("opened: ") == 2);
        assert!(now() - started < Duration::from_millis(1500), "it waited with the other");
        assert_eq!(sealane.process.count("opened: "), 2, "the other waits for its verdict");
        eventually("the slow one is open", || sealane.process.count("opened: ") == 3);
        assert!(now() - started > Duration::from_millis(1500), "it did not wait");
        drop((first, waiting, known));
    }
}

#[test]
fn every_certificate_of_a_chain_is_asked_about_when_that_is_wanted() {
    let ca = Arc::new(Authority::new());
    let is_ca = "basicConstraints=critical,CA:TRUE\nkeyUsage=keyCertSign,digitalSignature";
    ca.issue("between", "ca", is_ca);
    let below = ca.issue("below", "between", "subjectAltName=DNS:nfs.test");
    // Somebody who has the intermediate's key makes another certificate for it, which nobody can revoke.
    ca.run("req -x509 -key between.key -subj /CN=between -days 20 -out decoy.pem");
    let serial_below = ca.serial("below");
    let answering = Arc::clone(&ca);
    let responder = Responder::start(move |request| {
        let is_below = request.windows(serial_below.len()).any(|bytes| bytes == serial_below);
        Reply::Response(answering.answer_of(if is_below { "between" } else { "ca" }, request))
    });
    let url = responder.url();
    let [chain, decoy] = ["between.pem", "decoy.pem"].map(|name| std::fs::read_to_string(ca.file(name)).unwrap());
    std::fs::write(ca.file("chain.pem"), &chain).unwrap();
    std::fs::write(ca.file("with-decoy.pem"), decoy + &chain).unwrap();
    let [chain, with_decoy] = ["chain.pem", "with-decoy.pem"].map(|name| ca.file(name).display().to_string());
    let revoked = "an intermediate certificate of the server's chain is not accepted: it was revoked";
    for is_revoked in [false, true] {
        if is_revoked {
            ca.revoke("between");
        }
        for (index, (mode, chain)) in
            [("hard", &chain), ("soft", &chain), ("hard", &with_decoy), ("soft", &with_decoy)].into_iter().enumerate()
        {
            let server = server(&below, None, &["-cert_chain", chain]);
            let args = ["--ocsp", mode, "--ocsp-url", &url];
            expect_through(&tunnel(DRIVERS[index % 2], &ca, &server, &args), &server, "its own only");
            let whole = tunnel(DRIVERS[index % 2], &ca, &server, &[&args[..], &["--ocsp-chain"]].concat());
            match is_revoked {
                false => expect_through(&whole, &server, "all of it"),
                true => expect_refused(&whole, &server, revoked),
            }
        }
    }
}

#[test]
fn an_answer_is_renewed_before_it_runs_out_and_while_it_counts_nobody_waits_for_a_responder_that_is_gone() {
    // While that takes its time: what is heard then ends live connections.
    let live = DRIVERS.map(|driver| [false, true].map(|is_stapled| Watched::begin(driver, is_stapled)));
    let ca = Arc::new(Authority::new());
    let identity = ca.issue("renewed", "ca", "subjectAltName=DNS:nfs.test");
    let chain = [&identity.cert, &ca.file("ca.pem")].map(|file| std::fs::read_to_string(file).unwrap()).concat();
    std::fs::write(ca.file("chain.pem"), chain).unwrap();
    let answering = Arc::clone(&ca);
    let is_gone = Arc::new(AtomicBool::new(false));
    let goes = Arc::clone(&is_gone);
    // An answer counts for a minute.
    let responder = Responder::start(move |request| match goes.load(Ordering::Relaxed) {
        false => Reply::Response(answering.answer_for(1, request)),
        true => Reply::Silence,
    });
    let (chain, key, url) = (ca.file("chain.pem"), identity.key.display().to_string(), responder.url());
    let args = ["--cert", &chain.display().to_string(), "--key", &key, "--ocsp-staple", "--ocsp-url", &url];
    let server = Sealane::server("epoll", echo_server(), &args);
    server.wait_for("is stapled, good until");
    let stapled = responder.requests().len();
    let args = ["--ca-file", &ca.ca(), "--ocsp", "hard", "--ocsp-url", &url, "--ocsp-nonce"];
    let client = Sealane::start("uring", server.port, &args);
    let connect = |opened: usize| {
        let started = now();
        drop(client.connect_and_say(b"there"));
        eventually("it is open", || client.process.count("opened: ") == opened);
        now() - started
    };
    connect(1);
    connect(2);
    let asked = responder.requests().len();
    assert_eq!((stapled, asked), (1, 2), "each has asked once");
    // Half a minute to three quarters later, each asks again, and no connection has asked for that.
    eventually_within(Duration::from_secs(55), "both ask again", || responder.requests().len() >= asked + 2);
    eventually("the new one is stapled", || server.process.count("is stapled, good until") == 2);
    is_gone.store(true, Ordering::Relaxed);
    assert!(connect(3) < Duration::from_secs(1), "it waited for nobody");
    live.into_iter().flatten().for_each(Watched::expect_its_end);
}

#[test]
fn a_certificate_sends_nobody_to_this_host_and_a_proxy_is_asked_for_others() {
    let ca = Arc::new(Authority::new());
    let aia = |url: &str| format!("subjectAltName=DNS:nfs.test\nauthorityInfoAccess=OCSP;URI:{url}");
    for (name, url, why) in [
        ("loopback", "http://127.0.0.1/", "this host or on its link"),
        ("mapped", "http://[::ffff:127.0.0.1]/", "this host or on its link"),
        ("port", "http://192.0.2.1:8080/", "port 80 only"),
        ("https", "https://192.0.2.1/", "is not http://"),
    ] {
        let server = server(&ca.issue(name, "ca", &aia(url)), None, &[]);
        expect_refused(&tunnel("epoll", &ca, &server, &["--ocsp", "hard"]), &server, why);
    }
    let silent = server(&ca.server("silent"), None, &[]);
    expect_refused(&tunnel("epoll", &ca, &silent, &["--ocsp", "hard"]), &silent, "names no OCSP responder");

    let answering = Arc::clone(&ca);
    let proxy = Responder::start(move |request| Reply::Response(answering.answer(request)));
    let server = server(&ca.issue("proxied", "ca", &aia("http://ocsp.example.test/ca")), None, &[]);
    let by_option = tunnel("uring", &ca, &server, &["--ocsp", "hard", "--ocsp-proxy", &proxy.url()]);
    expect_through(&by_option, &server, "by option");
    let ca_file = ca.ca();
    let mut by_environment = command("epoll", server.port, &["--ca-file", &ca_file, "--ocsp", "hard"]);
    let by_environment = Sealane::from_command(by_environment.env("http_proxy", proxy.url()).env_remove("no_proxy"));
    expect_through(&by_environment, &server, "by environment");
    let requests = proxy.requests();
    assert!(requests.iter().all(|head| head.starts_with("GET http://ocsp.example.test/ca/M")), "{requests:?}");
    assert!(requests.iter().all(|head| head.contains("host: ocsp.example.test\r\n")), "{requests:?}");
    assert_eq!(requests.len(), 2);
}

#[test]
fn a_revocation_is_taken_back_by_a_later_answer_and_by_no_other() {
    let ca = Authority::new();
    let identity = ca.server("turncoat");
    let before = ca.staple("turncoat");
    let kept = ca.file("before");
    std::fs::copy(&before, &kept).unwrap();
    ca.revoke("turncoat");
    let responder = ca.responder();
    let url = responder.url();
    let plain = server(&identity, None, &[]);
    let port = plain.port;
    let tunnels = [
        tunnel("epoll", &ca, &plain, &["--ocsp", "hard", "--ocsp-url", &url]),
        tunnel("uring", &ca, &plain, &["--ocsp", "staple"]),
    ];
    expect_refused(&tunnels[0], &plain, "it was revoked");
    drop(plain);
    let again = |staple: &Path| SServer::at(port, &identity, &["-status_file", &staple.display().to_string()]);
    let revoking = again(&ca.staple("turncoat"));
    expect_refused(&tunnels[1], &revoking, "it was revoked");
    drop(revoking);
    // The same server with an answer from before.
    let old = again(&kept);
    for tunnel in &tunnels {
        let refusals = tunnel.process.count("it was revoked");
        let mut client = tunnel.connect_and_say(b"not through\n");
        expect_reset(&mut client, SOON);
        eventually("it is refused again", || tunnel.process.count("it was revoked") > refusals);
    }
    assert!(!old.process.output().contains("not through"));
    drop(old);
    // It was only on hold. Dates are of whole seconds.
    std::thread::sleep(Duration::from_millis(1100));
    ca.restore("turncoat");
    let new = again(&ca.staple("turncoat"));
    for (tunnel, tag) in tunnels.iter().zip(["asking", "looking"]) {
        expect_through(tunnel, &new, tag);
    }
}

/// What one more connection through the tunnel is in system calls, the waits aside: how often a thread sleeps is not its
/// own.
fn calls_of_a_connection(sealane: &Sealane, listener: &PeerListener, trace: &Path, before: usize) -> usize {
    let calls = || {
        let text = std::fs::read_to_string(trace).unwrap();
        let is_wait = |line: &str| ["epoll_wait(", "futex(", "clock_"].iter().any(|name| line.contains(name));
        text.lines().filter(|line| line.contains('(') && !line.contains("resumed>") && !is_wait(line)).count()
    };
    let began = calls();
    let client = sealane.connect_and_say(&call(1, b"x"));
    let mut peer = listener.accept_talkative();
    assert_eq!(peer.read(45), call(1, b"x"));
    drop((client, peer));
    eventually("it is closed", || sealane.process.count("closed: ") == before + 1);
    calls() - began
}

#[test]
fn with_a_warm_cache_a_connection_makes_no_system_call_more() {
    const CONNECTIONS: usize = 12;
    if !have("strace") {
        return not_run("ocsp::with_a_warm_cache_a_connection_makes_no_system_call_more", "strace is not installed");
    }
    let ca = Arc::new(Authority::new());
    let identity = ca.server("good");
    let answering = Arc::clone(&ca);
    let responder = Responder::start(move |request| Reply::Response(answering.answer(request)));
    let (ca_file, url) = (ca.ca(), responder.url());
    for (driver, version) in DRIVERS.iter().flat_map(|driver| VERSIONS.map(|version| (driver, version))) {
        let asked = responder.requests().len();
        let listener = PeerListener::with_identity(version, &identity);
        let least = [&["--ocsp", "off"][..], &["--ocsp", "hard", "--ocsp-url", &url]].map(|mode| {
            let trace = scratch("ocsp-calls").join("trace");
            let args = [&["--ca-file", &ca_file, "--workers", "1"], mode].concat();
            let options = ["-o", trace.to_str().unwrap()];
            let sealane = Sealane::from_command(&mut traced(&command(driver, listener.port(), &args), &options));
            let counts: Vec<_> =
                (0..CONNECTIONS).map(|before| calls_of_a_connection(&sealane, &listener, &trace, before)).collect();
            // The first one asks. What a thread does now and then belongs to no connection: so the least.
            *counts[2..].iter().min().unwrap()
        });
        assert!(least[0] > 10, "{least:?}: they are not counted");
        assert!(least[1] <= least[0], "{driver} {version:?}: off and hard {least:?}");
        assert_eq!(responder.requests().len() - asked, 1, "a warm cache asks nobody");
    }
}

/// Processor time of all threads so far.
fn used(sealane: &Sealane) -> Duration {
    let tasks = std::fs::read_dir(format!("/proc/{}/task", sealane.process.pid())).unwrap();
    let nanoseconds = tasks.map(|task| {
        let account = std::fs::read_to_string(task.unwrap().path().join("schedstat")).unwrap();
        account.split(' ').next().unwrap().parse::<u64>().unwrap()
    });
    Duration::from_nanos(nanoseconds.sum())
}

/// Measured, not judged: what a machine does to a hundred handshakes is more than what is looked for.
#[test]
fn what_a_warm_cache_costs_a_handshake_is_printed() {
    let ca = Arc::new(Authority::new());
    let identity = ca.server("good");
    let answering = Arc::clone(&ca);
    let responder = Responder::start(move |request| Reply::Response(answering.answer(request)));
    let (ca_file, url) = (ca.ca(), responder.url());
    let listener = PeerListener::with_identity(VERSIONS[1], &identity);
    let tunnels = [&["--ocsp", "off"][..], &["--ocsp", "hard", "--ocsp-url", &url]].map(|mode| {
        let args = [&["--ca-file", &ca_file, "--workers", "1"], mode].concat();
        Sealane::from_command(&mut command("epoll", listener.port(), &args))
    });
    let mut handshake = |sealane: &Sealane| {
        let client = sealane.connect_and_say(&call(1, b"x"));
        let mut peer = listener.accept_talkative();
        assert_eq!(peer.read(45), call(1, b"x"));
        drop((client, peer));
    };
    tunnels.iter().for_each(|sealane| (0..3).for_each(|_| handshake(sealane)));
    let before = [used(&tunnels[0]), used(&tunnels[1])];
    for _ in 0..100 {
        tunnels.iter().for_each(&mut handshake);
    }
    let [off, hard] = [0, 1].map(|index| used(&tunnels[index]) - before[index]);
    eprintln!(
        "100 connections: {off:?} with --ocsp off, {hard:?} with hard: {:.3}",
        hard.as_secs_f64() / off.as_secs_f64()
    );
    assert!(off > Duration::from_millis(1), "it is not counted");
    assert_eq!(responder.requests().len(), 1);
}

/// A client of OpenSSL's that asks for a staple; what it prints.
pub fn asked_by_s_client(port: u16, ca: &Authority, tls: &str) -> String {
    let mut client = Command::new("openssl");
    client.args(["s_client", "-connect", &format!("127.0.0.1:{port}"), "-servername", "nfs.test", "-status", tls]);
    client.arg("-CAfile").arg(ca.ca()).stdin(Stdio::null());
    let out = client.output().unwrap();
    String::from_utf8_lossy(&out.stdout).into_owned()
}

#[test]
fn a_server_staples_the_status_of_its_certificate() {
    let ca = Arc::new(Authority::new());
    let identity = ca.issue("promising", "ca", "subjectAltName=DNS:nfs.test\ntlsfeature=status_request");
    let chain = ca.file("chain.pem");
    let both = [&identity.cert, &ca.file("ca.pem")].map(|file| std::fs::read_to_string(file).unwrap());
    std::fs::write(&chain, both.concat()).unwrap();
    let answering = Arc::clone(&ca);
    let responder = Responder::start(move |request| Reply::Response(answering.answer(request)));
    let (chain, key, url) = (chain.display().to_string(), identity.key.display().to_string(), responder.url());
    let echo = echo_server();
    let args = ["--cert", &chain, "--key", &key, "--ocsp-staple", "--ocsp-url", &url, "--ocsp-timeout", "2"];
    for (index, driver) in DRIVERS.into_iter().enumerate() {
        let asked = responder.requests().len();
        let server = Sealane::server(driver, echo, &args);
        for tls in ["-tls1_2", "-tls1_3"] {
            let said = asked_by_s_client(server.port, &ca, tls);
            assert!(said.contains("OCSP Response Status: successful") && said.contains("Cert Status: good"), "{said}");
        }
        assert_eq!(responder.requests().len() - asked, 1, "asked once for all");
        // Our own client, to whom the certificate promises a staple.
        let client = Sealane::start(DRIVERS[1 - index], server.port, &["--ca-file", &ca.ca()]);
        let mut stream = client.connect_and_say(b"there and back");
        let mut back = [0; 14];
        stream.read_exact(&mut back).unwrap();
        assert_eq!(&back, b"there and back");
    }
    // Its client finds out by the server's own staple.
    ca.revoke("promising");
    let server = Sealane::server("epoll", echo, &args);
    server.wait_for("our certificate was revoked on 2026-01-02T03:04:05Z (keyCompromise)");
    let client = Sealane::start("epoll", server.port, &["--ca-file", &ca.ca()]);
    expect_reset(&mut client.connect_and_say(b"not through"), SOON);
    client.wait_for("the server's certificate is not accepted: it was revoked");
    // Nobody answers: it starts all the same, says so, and staples nothing; and a silent one is waited for no longer than said.
    let silent = Responder::start(|_| Reply::Silence);
    let nobody = format!("http://127.0.0.1:{}", free_port());
    for (url, why) in [(nobody, "Connection refused"), (silent.url(), "nothing for 2 s")] {
        let started = now();
        let server =
            Sealane::server("epoll", echo, &[&args[..5], &["--ocsp-url", &url, "--ocsp-timeout", "2"]].concat());
        let said = asked_by_s_client(server.port, &ca, "-tls1_3");
        assert!(said.contains("OCSP response: no response sent"), "{said}");
        assert!(now() - started < Duration::from_secs(4));
        server.wait_for(why);
    }
    // Without the issuer nothing can be asked, and it says so.
    let alone = identity.cert.display().to_string();
    let mut command =
        server_command("epoll", echo, &["--cert", &alone, "--key", &key, "--ocsp-staple", "--ocsp-url", &url]);
    let out = command.output().unwrap();
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(
        out.status.code() == Some(1) && said.contains("--ocsp-staple: the certificate of its issuer is not at hand"),
        "{said}"
    );
}
