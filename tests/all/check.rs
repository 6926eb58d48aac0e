//! `sealane check`: one line names what is wrong.

use std::net::TcpListener;
use std::process::{Command, Stdio};

use crate::support::authority::{Authority, Reply, Responder};
use crate::support::openssl::SServer;
use crate::support::pki::Identity;
use crate::support::process::free_port;
use crate::support::sealane::{Sealane, binary};

struct Checked {
    out: String,
    said: String,
    status: Option<i32>,
}

fn check(connect: &str, args: &[&str]) -> Checked {
    let mut command = Command::new(binary());
    command.args(["check", "--connect", connect]).args(args).stdin(Stdio::null()).env_remove("RUST_LOG");
    let done = command.output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Checked { out: text(done.stdout), said: text(done.stderr), status: done.status.code() }
}

/// One line names the cause, on standard output among the others and on standard error alone.
fn expect_cause(connect: &str, args: &[&str], step: &str, cause: &str) {
    let Checked { out, said, status } = check(connect, args);
    let failed: Vec<&str> = out.lines().filter(|line| line.starts_with("FAILED")).collect();
    assert!(failed.len() == 1 && failed[0].contains(step) && failed[0].contains(cause), "{cause}:\n{out}{said}");
    assert!(said.lines().count() == 1 && said.contains(cause), "{cause}: {said}");
    assert_eq!(status, Some(1));
}

/// Answers NULL: its own words come back as a reply.
fn nfs_server() -> u16 {
    use std::io::{Read, Write};
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            std::thread::spawn(move || {
                let mut call = [0; 44];
                while stream.read_exact(&mut call).is_ok() {
                    let words = [0x8000_0018, u32::from_be_bytes(call[4..8].try_into().unwrap()), 1, 0, 0, 0, 0];
                    let reply: Vec<u8> = words.into_iter().flat_map(u32::to_be_bytes).collect();
                    stream.write_all(&reply).unwrap();
                }
            });
        }
    });
    port
}

fn args(identity: &Identity) -> [String; 4] {
    let [cert, key] = [&identity.cert, &identity.key].map(|file| file.display().to_string());
    ["--cert".into(), cert, "--key".into(), key]
}

#[test]
fn what_works_is_explained_step_by_step() {
    let ca = Authority::new();
    let identity = ca.server("server");
    let own = args(&identity);
    let server = Sealane::server("epoll", nfs_server(), &own.each_ref().map(String::as_str));
    let connect = format!("127.0.0.1:{}", server.port);
    let ca_file = ca.ca();
    let Checked { out, said, status } = check(&connect, &["--ca-file", &ca_file, "--server-name", "nfs.test"]);
    assert_eq!((status, said.as_str()), (Some(0), ""), "{out}");
    for words in [
        "ok     driver     ",
        "ok     name       127.0.0.1: 127.0.0.1 (",
        "accepts connections (",
        "ok     tls        TLS 1.3 TLS_AES_",
        "X25519",
        "1: CN=server, issued by CN=root, valid from ",
        ", for DNS:nfs.test IP:127.0.0.1",
        "ok     trust      it leads to a trusted CA, and is for nfs.test",
        "ok     ocsp       nothing was stapled, nobody is asked",
        "ok     crl        none is given",
        "ok     nfs        NULL is answered in ",
        "ok     resumption the second connection resumed the session",
    ] {
        assert!(out.contains(words), "{words}:\n{out}");
    }
    assert!(!out.contains('\x1b'), "colours are for terminals");
    let Checked { out, status, .. } = check(&connect, &["--ca-file", &ca_file, "--server-name", "nfs.test", "--json"]);
    let json: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert!(json["ok"] == true && json["steps"].as_array().unwrap().len() >= 8 && status == Some(0), "{out}");
    let Checked { out, status, .. } =
        check(&connect, &["--ca-file", &ca_file, "--server-name", "other.test", "--json"]);
    let json: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert!(json["ok"] == false && status == Some(1), "{out}");
}

#[test]
fn of_broken_set_ups_one_line_names_the_cause() {
    let (ca, other_ca) = (Authority::new(), Authority::named("other"));
    let (good, revoked) = (ca.server("good"), ca.server("revoked"));
    ca.revoke("revoked");
    let (ca_file, other) = (ca.ca(), other_ca.ca());
    let trust = ["--ca-file", ca_file.as_str(), "--server-name", "nfs.test"];
    let at = |server: &SServer| format!("127.0.0.1:{}", server.port);
    expect_cause("no-such-host.invalid:2049", &trust, "name", "cannot resolve no-such-host.invalid");
    expect_cause(
        &format!("127.0.0.1:{}", free_port()),
        &trust,
        "connect",
        "does not accept a connection: Connection refused",
    );
    let plain = format!("127.0.0.1:{}", nfs_server());
    expect_cause(&plain, &trust, "tls", "does not seem to speak TLS");
    let server = SServer::with_identity(&good, &[]);
    expect_cause(
        &at(&server),
        &["--ca-file", &other, "--server-name", "nfs.test"],
        "tls",
        "is not signed by a trusted CA",
    );
    expect_cause(&at(&server), &["--ca-file", &ca_file, "--server-name", "else.test"], "tls", "is for another name");
    let nobody = ["--ocsp", "hard", "--ocsp-url", &format!("http://127.0.0.1:{}", free_port())].map(String::from);
    let nobody: Vec<&str> = nobody.iter().map(String::as_str).collect();
    expect_cause(&at(&server), &[&trust[..], &nobody].concat(), "ocsp", "Connection refused");
    let old = SServer::with_identity(&good, &["-tls1_2"]);
    expect_cause(&at(&old), &[&trust[..], &["--tls", "1.3"]].concat(), "tls", "ProtocolVersion");
    let responder = {
        let ca = std::sync::Arc::new(ca);
        let answering = std::sync::Arc::clone(&ca);
        (Responder::start(move |request| Reply::Response(answering.answer(request))), ca)
    };
    let server = SServer::with_identity(&revoked, &[]);
    let url = responder.0.url();
    let hard = [&trust[..], &["--ocsp", "hard", "--ocsp-url", &url]].concat();
    expect_cause(&at(&server), &hard, "ocsp", "it was revoked on 2026-01-02T03:04:05Z (keyCompromise)");
    let expired = &crate::support::pki::Pki::get().expired;
    let pki_ca = crate::support::pki::Pki::get().ca.display().to_string();
    let server = SServer::with_identity(expired, &[]);
    expect_cause(&at(&server), &["--ca-file", &pki_ca, "--server-name", "nfs.test"], "tls", "has expired");
    for tls in ["1.2", "1.3"] {
        let clients_ca = ["--client-ca", ca_file.as_str(), "--tls", tls].map(String::from);
        let mut own = args(&good).to_vec();
        own.extend(clients_ca);
        let own: Vec<&str> = own.iter().map(String::as_str).collect();
        let server = Sealane::server("epoll", nfs_server(), &own);
        let (step, cause) = match tls {
            "1.2" => ("tls", "demands a client certificate"),
            _ => ("nfs", "demands a client certificate"),
        };
        expect_cause(&format!("127.0.0.1:{}", server.port), &trust, step, cause);
    }
    // One that is not let in: under TLS 1.3 that comes when its handshake is done.
    let [cert, key] = [&good.cert, &good.key].map(|file| file.display().to_string());
    let mut own = args(&good).to_vec();
    own.extend(["--client-ca", ca_file.as_str(), "--allow", "dns:nobody.test", "--tls", "1.3"].map(String::from));
    let own: Vec<&str> = own.iter().map(String::as_str).collect();
    let server = Sealane::server("epoll", nfs_server(), &own);
    let shown = [&trust[..], &["--cert", &cert, "--key", &key]].concat();
    expect_cause(&format!("127.0.0.1:{}", server.port), &shown, "nfs", "the peer sent the alert access_denied");
    // TLS is there, and nothing that speaks NFS.
    let own = args(&good);
    let server = Sealane::server(
        "epoll",
        free_port(),
        &[&own.each_ref().map(String::as_str)[..], &["--retry-timeout", "1"]].concat(),
    );
    expect_cause(&format!("127.0.0.1:{}", server.port), &trust, "nfs", "no NFS server behind it answers");
}

#[test]
fn what_a_server_was_accepted_by_is_told() {
    let ca = Authority::new();
    let (identity, revoked) = (ca.server("server"), ca.server("revoked"));
    let (staple, list) = (ca.staple("server").display().to_string(), ca.crl("ca", "list", &["-crldays", "3"]));
    ca.revoke("revoked");
    let (list, current) =
        (list.display().to_string(), ca.crl("ca", "current", &["-crldays", "3"]).display().to_string());
    let (ca_file, pin) = (ca.ca(), crate::identity::pin(&identity));
    let own = args(&identity);
    let server = Sealane::server("epoll", nfs_server(), &own.each_ref().map(String::as_str));
    let connect = format!("127.0.0.1:{}", server.port);
    let trust = ["--ca-file", ca_file.as_str()];
    for (args, words) in [
        (
            &["--server-name", "b.test", "--server-name", "nfs.test"][..],
            "trust      it leads to a trusted CA, and is for nfs.test",
        ),
        (&["--server-name", "nfs.test", "--pin", &pin], "and is for nfs.test, and its key is one of --pin"),
        (&["--server-name", "127.0.0.1"], "and is for 127.0.0.1"),
        (&["--server-name", "nfs.test", "--crl-file", &list], "crl        none names a certificate of its chain"),
    ] {
        let Checked { out, .. } = check(&connect, &[&trust[..], args].concat());
        assert!(out.contains(words), "{words}:\n{out}");
    }
    let Checked { out, .. } = check(&connect, &["--insecure-no-verify"]);
    assert!(out.contains("trust      NOT verified (--insecure-no-verify)"), "{out}");
    let Checked { out, .. } = check(&connect, &["--pin-only", "--pin", &pin]);
    assert!(out.contains("trust      its key is one of --pin; chain, name and dates are not looked at"), "{out}");
    let server = SServer::with_identity(&identity, &["-status_file", &staple]);
    let at = format!("127.0.0.1:{}", server.port);
    let Checked { out, .. } = check(&at, &[&trust[..], &["--server-name", "nfs.test"]].concat());
    assert!(out.contains("ocsp       good, stapled, of ") && out.contains(" s old), until "), "{out}");
    let server = SServer::with_identity(&revoked, &[]);
    let connect = format!("127.0.0.1:{}", server.port);
    let args = [&trust[..], &["--server-name", "nfs.test", "--crl-file", &current]].concat();
    expect_cause(&connect, &args, "tls", "the server's certificate has been revoked, says a CRL");
}
