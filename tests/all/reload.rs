//! SIGHUP: certificates, keys, CAs and CRLs are read again, all of them or none, and no connection feels it.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConnection, StreamOwned};

use crate::far_ends::echo_server;
use crate::ocsp::{asked_by_s_client, expect_refused, expect_through, server};
use crate::support::authority::{Authority, Reply, Responder};
use crate::support::pki::Identity;
use crate::support::process::{eventually, scratch};
use crate::support::sealane::{DRIVERS, Sealane};

const REPLACED: &str = "were read again";
const KEPT: &str = "nothing was replaced";

/// Puts a file in the place of another at once, as renewals do.
pub fn put(from: &Path, to: &Path) {
    let beside = to.with_extension("new");
    std::fs::copy(from, &beside).unwrap();
    std::fs::rename(beside, to).unwrap();
}

/// Has the files read again; waits until that has been said once more.
pub fn reload(sealane: &Sealane, said: &str) {
    let before = sealane.process.count(said);
    sealane.process.signal("HUP");
    eventually("it says what came of SIGHUP", || sealane.process.count(said) > before);
}

fn config(ca: &Authority) -> Arc<rustls::ClientConfig> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(ca.file("ca.pem")).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    // Each one sees the certificate.
    config.resumption = rustls::client::Resumption::disabled();
    Arc::new(config)
}

type Tls = StreamOwned<ClientConnection, TcpStream>;

/// A TLS client's connection that has been there and back; and the certificate that it was shown.
fn connect(config: &Arc<rustls::ClientConfig>, port: u16) -> (Tls, CertificateDer<'static>) {
    let connection = ClientConnection::new(Arc::clone(config), "nfs.test".try_into().unwrap()).unwrap();
    let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(crate::support::process::SOON)).unwrap();
    let mut tls = StreamOwned::new(connection, stream);
    there_and_back(&mut tls);
    let shown = tls.conn.peer_certificates().unwrap()[0].clone().into_owned();
    (tls, shown)
}

/// Ends a connection as TLS wants it.
fn close(mut tls: Tls) {
    tls.conn.send_close_notify();
    tls.flush().unwrap();
}

fn there_and_back(tls: &mut Tls) {
    tls.write_all(b"there and back").unwrap();
    let mut back = [0; 14];
    tls.read_exact(&mut back).unwrap();
    assert_eq!(&back, b"there and back");
}

/// Sends a block there and back, again and again, until it is told to stop; how often.
fn transfer(config: &Arc<rustls::ClientConfig>, port: u16, stop: &AtomicBool) -> usize {
    let (mut tls, _) = connect(config, port);
    let block: Vec<u8> = (0..64 * 1024).map(|index: usize| (index * 31 % 251) as u8).collect();
    let (mut back, mut rounds) = (vec![0; block.len()], 0);
    while !stop.load(Ordering::Relaxed) {
        tls.write_all(&block).unwrap();
        tls.read_exact(&mut back).unwrap();
        assert!(back == block, "round {rounds}");
        rounds += 1;
    }
    close(tls);
    rounds
}

/// Connects again and again, until it is told to stop; how often. Each connection is shown one of these certificates.
fn connect_on(
    config: &Arc<rustls::ClientConfig>,
    port: u16,
    expected: &[CertificateDer<'static>],
    stop: &AtomicBool,
) -> usize {
    let mut opened = 0;
    while !stop.load(Ordering::Relaxed) {
        let (mut tls, shown) = connect(config, port);
        assert!(expected.contains(&shown), "connection {opened}");
        there_and_back(&mut tls);
        close(tls);
        opened += 1;
    }
    opened
}

#[test]
fn a_thousand_connections_feel_nothing_of_fifty_reloads_but_the_new_certificate() {
    const RELOADS: usize = 50;
    const EACH: usize = 20;
    let ca = Authority::new();
    let identities = ["one", "two"].map(|name| ca.server(name));
    let expected = [0, 1].map(|index: usize| CertificateDer::from_pem_file(&identities[index].cert).unwrap());
    let config = config(&ca);
    for driver in DRIVERS {
        let dir = scratch("reload");
        let own = Identity { cert: dir.join("own.pem"), key: dir.join("own.key") };
        let put_both = |identity: &Identity| {
            put(&identity.cert, &own.cert);
            put(&identity.key, &own.key);
        };
        put_both(&identities[0]);
        let (cert, key) = (own.cert.display().to_string(), own.key.display().to_string());
        let sealane = Sealane::server(driver, echo_server(), &["--cert", &cert, "--key", &key]);
        let (mut kept, mut current) = (Vec::new(), 0);
        let (stop, port) = (Arc::new(AtomicBool::new(false)), sealane.port);
        // Others connect all the time, whatever is being reloaded at that moment.
        let connecting: Vec<_> = (0..2)
            .map(|_| {
                let (config, stop, expected) = (Arc::clone(&config), Arc::clone(&stop), expected.clone());
                std::thread::spawn(move || connect_on(&config, port, &expected, &stop))
            })
            .collect();
        let mut beside = 0;
        let transfer = {
            let (config, stop) = (Arc::clone(&config), Arc::clone(&stop));
            std::thread::spawn(move || transfer(&config, port, &stop))
        };
        for round in 0..RELOADS {
            match round % 5 {
                // A key that is not the certificate's, and a file of which only the beginning is there.
                2 => {
                    put(&identities[1 - current].cert, &own.cert);
                    reload(&sealane, KEPT);
                }
                4 => {
                    let half = std::fs::read(&identities[current].cert).unwrap();
                    std::fs::write(&own.cert, &half[..half.len() / 2]).unwrap();
                    reload(&sealane, KEPT);
                }
                _ => {
                    current = 1 - current;
                    put_both(&identities[current]);
                    reload(&sealane, REPLACED);
                }
            }
            for index in 0..EACH {
                let (tls, shown) = connect(&config, sealane.port);
                assert!(shown == expected[current], "{driver}, round {round}: the other certificate");
                if index == 0 {
                    kept.push(tls);
                } else {
                    close(tls);
                }
            }
        }
        stop.store(true, Ordering::Relaxed);
        let rounds = transfer.join().unwrap();
        assert!(rounds > RELOADS, "{driver}: {rounds} blocks went there and back meanwhile");
        for opened in connecting.into_iter().map(|thread| thread.join().unwrap()) {
            assert!(opened > RELOADS, "{driver}: {opened} connections beside the reloads");
            beside += opened;
        }
        // Those from before go on.
        kept.iter_mut().for_each(there_and_back);
        kept.into_iter().for_each(close);
        eventually("all are closed", || {
            sealane.process.count("closed: closed by the client") == RELOADS * EACH + 1 + beside
        });
        let said = sealane.process.output();
        assert!(said.contains("not the key of the certificate") && said.contains("own.pem: "), "{said}");
        assert_eq!(sealane.process.count(KEPT), RELOADS / 5 * 2);
        assert!(!said.contains("WARN closed") && !said.contains("ERROR closed"), "{said}");
    }
}

#[test]
fn a_client_trusts_whom_its_files_name_by_now() {
    let (ca, other_ca) = (Authority::new(), Authority::named("other"));
    let identity = ca.server("server");
    let server = server(&identity, None, &[]);
    let dir = scratch("reload");
    let (ca_file, crl) = (dir.join("ca.pem"), dir.join("list.crl"));
    put(&ca.file("ca.pem"), &ca_file);
    put(&ca.crl("ca", "empty", &["-crldays", "3"]), &crl);
    for driver in DRIVERS {
        let args = ["--ca-file", &ca_file.display().to_string(), "--crl-file", &crl.display().to_string()];
        let sealane = Sealane::start(driver, server.port, &args);
        expect_through(&sealane, &server, "first");
        put(&other_ca.file("ca.pem"), &ca_file);
        reload(&sealane, REPLACED);
        // A session that could be resumed is forgotten as well.
        expect_refused(&sealane, &server, "not signed by a trusted CA");
        std::fs::write(&ca_file, "nothing").unwrap();
        reload(&sealane, KEPT);
        expect_refused(&sealane, &server, "not signed by a trusted CA");
        put(&ca.file("ca.pem"), &ca_file);
        reload(&sealane, REPLACED);
        expect_through(&sealane, &server, "second");
        ca.revoke("server");
        put(&ca.crl("ca", "revoking", &["-crldays", "3"]), &crl);
        reload(&sealane, REPLACED);
        expect_refused(&sealane, &server, "has been revoked, says a CRL");
        ca.restore("server");
        put(&ca.file("empty.crl"), &crl);
    }
}

#[test]
fn what_is_about_to_expire_is_told() {
    let ca = Authority::new();
    let own = ca.server("soon");
    let (cert, key) = (own.cert.display().to_string(), own.key.display().to_string());
    let sealane = Sealane::server("epoll", echo_server(), &["--cert", &cert, "--key", &key]);
    sealane.wait_for("WARN our certificate expires on ");
    // The twentieth has begun.
    eventually("it says when", || {
        [19, 20].iter().any(|days| sealane.process.output().contains(&format!(", in {days} days")))
    });
}

/// Renewals that nobody tells of: a file put in the place of another, and the way in which Kubernetes replaces all files of a
/// volume at once, by the link to their directory.
#[test]
fn what_is_renewed_is_noticed_when_that_was_asked_for() {
    let ca = Authority::new();
    let identities = ["one", "two"].map(|name| ca.server(name));
    let expected = [0, 1].map(|index: usize| CertificateDer::from_pem_file(&identities[index].cert).unwrap());
    let config = config(&ca);
    for driver in DRIVERS {
        let (plain, volume) = (scratch("renewed"), scratch("volume"));
        let version = |index: usize| {
            let dir = volume.join(format!("..version-{index}"));
            std::fs::create_dir_all(&dir).unwrap();
            std::fs::copy(&identities[index].cert, dir.join("own.pem")).unwrap();
            std::fs::copy(&identities[index].key, dir.join("own.key")).unwrap();
            let link = volume.join("..data-new");
            symlink(dir.file_name().unwrap(), &link).unwrap();
            std::fs::rename(link, volume.join("..data")).unwrap();
        };
        version(0);
        for file in ["own.pem", "own.key"] {
            symlink(Path::new("..data").join(file), volume.join(file)).unwrap();
            put(&identities[0].cert.with_extension(file.strip_prefix("own.").unwrap()), &plain.join(file));
        }
        for (dir, is_volume) in [(&plain, false), (&volume, true)] {
            let [cert, key] = ["own.pem", "own.key"].map(|file| dir.join(file).display().to_string());
            let sealane = Sealane::server(driver, echo_server(), &["--cert", &cert, "--key", &key, "--watch"]);
            assert!(connect(&config, sealane.port).1 == expected[0]);
            if is_volume {
                version(1);
            } else {
                put(&identities[1].cert, &dir.join("own.pem"));
                put(&identities[1].key, &dir.join("own.key"));
            }
            sealane.wait_for("--watch: certificates, keys, CAs and CRLs were read again");
            assert!(connect(&config, sealane.port).1 == expected[1]);
            assert_eq!(sealane.process.count("nothing was replaced"), 0, "both files were waited for");
        }
    }
}

#[test]
fn a_reload_keeps_what_is_stapled_and_shows_no_certificate_that_breaks_its_promise() {
    let ca = Arc::new(Authority::new());
    let promising = "subjectAltName=DNS:nfs.test\ntlsfeature=status_request";
    let identities = ["one", "two"].map(|name| ca.issue(name, "ca", promising));
    let dir = scratch("reload");
    let (cert, key) = (dir.join("own.pem"), dir.join("own.key"));
    let put_chain = |identity: &Identity| {
        let chain = [&identity.cert, &ca.file("ca.pem")].map(|file| std::fs::read_to_string(file).unwrap()).concat();
        std::fs::write(dir.join("chain"), chain).unwrap();
        put(&dir.join("chain"), &cert);
        put(&identity.key, &key);
    };
    put_chain(&identities[0]);
    let is_gone = Arc::new(AtomicBool::new(false));
    let (answering, goes) = (Arc::clone(&ca), Arc::clone(&is_gone));
    let responder = Responder::start(move |request| match goes.load(Ordering::Relaxed) {
        false => Reply::Response(answering.answer(request)),
        true => Reply::Raw(Vec::new()),
    });
    let [cert, key] = [&cert, &key].map(|file| file.display().to_string());
    let url = responder.url();
    let args = ["--cert", &cert, "--key", &key, "--ocsp-staple", "--ocsp-url", &url, "--ocsp-timeout", "2"];
    let sealane = Sealane::server("epoll", echo_server(), &args);
    let is_stapled = || asked_by_s_client(sealane.port, &ca, "-tls1_3").contains("Cert Status: good");
    assert!(is_stapled());
    is_gone.store(true, Ordering::Relaxed);
    reload(&sealane, REPLACED);
    assert!(is_stapled(), "the same certificate has its staple still");
    put_chain(&identities[1]);
    reload(&sealane, KEPT);
    sealane.wait_for("the new certificate promises a stapled OCSP response");
    assert!(is_stapled(), "the one before is shown");
    is_gone.store(false, Ordering::Relaxed);
    reload(&sealane, REPLACED);
    assert!(is_stapled(), "the new one, with its own");
}

#[test]
fn what_links_in_directories_lead_to_is_watched_too() {
    let (ca, later) = (Authority::named("first"), Authority::named("later"));
    let elsewhere = scratch("elsewhere");
    std::fs::copy(ca.file("ca.pem"), elsewhere.join("ca.pem")).unwrap();
    // As distributions have it: the name by the hash leads to where the CA is.
    let version = scratch("version");
    symlink(elsewhere.join("ca.pem"), version.join("12345678.0")).unwrap();
    let current = scratch("link").join("current");
    symlink(&version, &current).unwrap();
    let path = current.display().to_string();
    let server = server(&later.server("own"), None, &[]);
    let connect = format!("127.0.0.1:{}", server.port);
    let args = ["--connect", &connect, "--server-name", "nfs.test", "--ca-dir", &path, "--watch", "--sandbox", "off"];
    let mut command = std::process::Command::new(crate::support::sealane::binary());
    command.args(["client", "--listen", "127.0.0.1:0", "--log-level", "debug"]).args(args).env_remove("RUST_LOG");
    let sealane = Sealane::from_command(command.stdin(std::process::Stdio::null()));
    expect_refused(&sealane, &server, "is not signed by a trusted CA");
    put(&later.file("ca.pem"), &elsewhere.join("ca.pem"));
    sealane.wait_for("--watch: certificates, keys, CAs and CRLs were read again");
    expect_through(&sealane, &server, "by what the link leads to");
    // The directory's own name leads elsewhere, which a sandbox would not let be read before a new start.
    let next = scratch("next");
    std::fs::copy(ca.file("ca.pem"), next.join("12345678.0")).unwrap();
    let beside = current.with_extension("new");
    symlink(&next, &beside).unwrap();
    std::fs::rename(beside, &current).unwrap();
    eventually("it is read again", || {
        sealane.process.count("--watch: certificates, keys, CAs and CRLs were read again") >= 2
    });
    expect_refused(&sealane, &server, "is not signed by a trusted CA");
}
