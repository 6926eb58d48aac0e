//! Certificates that were revoked by a CRL, of either end.

use std::process::Stdio;

use crate::far_ends::echo_server;
use crate::ocsp::{expect_refused, expect_through, server, tunnel};
use crate::support::authority::Authority;
use crate::support::openssl::SClient;
use crate::support::process::eventually;
use crate::support::sealane::{DRIVERS, Sealane, command};

fn text(file: std::path::PathBuf) -> String {
    file.display().to_string()
}

#[test]
fn a_server_that_a_crl_names_is_refused() {
    let ca = Authority::new();
    let (good, bad) = (ca.server("good"), ca.server("bad"));
    ca.revoke("bad");
    let current = text(ca.crl("ca", "current", &["-crldays", "3"]));
    let past = ["-crl_lastupdate", "20260101000000Z", "-crl_nextupdate", "20260102000000Z"];
    let expired = text(ca.crl("ca", "expired", &past));
    let other = Authority::named("other");
    let of_another = text(other.crl("ca", "other", &["-crldays", "3"]));
    let directory = ca.file("lists");
    std::fs::create_dir(&directory).unwrap();
    std::fs::copy(&current, directory.join("a.pem")).unwrap();
    std::fs::copy(&of_another, directory.join("b.pem")).unwrap();
    let directory = text(directory);
    let der = ca.file("current.der");
    ca.run(&format!("crl -in {current} -outform DER -out {}", der.display()));
    let der = text(der);
    let revoked = "the server's certificate has been revoked, says a CRL";
    for (index, (identity, args, why)) in [
        (&good, vec!["--crl-file", &current], None),
        (&bad, vec!["--crl-file", &current], Some(revoked)),
        (&good, vec!["--crl-file", &der], None),
        (&bad, vec!["--crl-file", &der], Some(revoked)),
        (&bad, vec!["--crl-file", &of_another, "--crl-file", &current], Some(revoked)),
        (&good, vec!["--crl-dir", &directory], None),
        (&bad, vec!["--crl-dir", &directory], Some(revoked)),
        (&good, vec!["--crl-file", &of_another], Some("there is no CRL of an issuer in its chain")),
        (&good, vec!["--crl-file", &expired], Some("has expired")),
        (&good, vec!["--crl-file", &expired, "--crl-expired", "accept"], None),
        (&bad, vec!["--crl-file", &expired, "--crl-expired", "accept"], Some(revoked)),
        (&bad, vec![], None),
    ]
    .into_iter()
    .enumerate()
    {
        let server = server(identity, None, &[if index % 2 == 0 { "-tls1_2" } else { "-tls1_3" }]);
        let tunnel = tunnel(DRIVERS[index / 2 % 2], &ca, &server, &args);
        match why {
            None => expect_through(&tunnel, &server, "once"),
            Some(why) => expect_refused(&tunnel, &server, why),
        }
    }
}

#[test]
fn the_whole_chain_is_looked_for_unless_told_otherwise() {
    let ca = Authority::new();
    ca.issue("between", "ca", "basicConstraints=critical,CA:TRUE\nkeyUsage=keyCertSign,cRLSign");
    let below = ca.issue("below", "between", "subjectAltName=DNS:nfs.test");
    let (clean, of_between) =
        (text(ca.crl("ca", "clean", &["-crldays", "3"])), text(ca.crl("between", "lower", &["-crldays", "3"])));
    ca.revoke("between");
    let revoking = text(ca.crl("ca", "revoking", &["-crldays", "3"]));
    let chain = text(ca.file("between.pem"));
    let server = server(&below, None, &["-cert_chain", &chain]);
    for (args, why) in [
        (vec!["--crl-file", &clean, "--crl-file", &of_between], None),
        (vec!["--crl-file", &revoking, "--crl-file", &of_between], Some("has been revoked, says a CRL")),
        (vec!["--crl-file", &of_between], Some("there is no CRL of an issuer in its chain")),
        (vec!["--crl-file", &of_between, "--crl-check", "own"], None),
        (vec!["--crl-file", &revoking, "--crl-file", &of_between, "--crl-check", "own"], None),
    ] {
        let tunnel = tunnel("epoll", &ca, &server, &args);
        match why {
            None => expect_through(&tunnel, &server, "once"),
            Some(why) => expect_refused(&tunnel, &server, why),
        }
    }
}

#[test]
fn a_client_that_a_crl_names_does_not_get_in() {
    let ca = Authority::new();
    let own = ca.server("own");
    let clients = ["good-client", "bad-client"].map(|name| ca.issue(name, "ca", "extendedKeyUsage=clientAuth"));
    ca.revoke("bad-client");
    let (list, ca_file) = (text(ca.crl("ca", "list", &["-crldays", "3"])), ca.ca());
    let (cert, key) = (text(own.cert), text(own.key));
    let args = ["--cert", &cert, "--key", &key, "--client-ca", &ca_file, "--crl-file", &list];
    for (index, tls) in ["-tls1_2", "-tls1_3"].into_iter().enumerate() {
        let sealane = Sealane::server(DRIVERS[index], echo_server(), &args);
        for (client, is_good) in clients.iter().zip([true, false]) {
            let (cert, key) = (text(client.cert.clone()), text(client.key.clone()));
            let mut client = SClient::start(sealane.port, &["-cert", &cert, "-key", &key, "-CAfile", &ca_file, tls]);
            client.line("there and back");
            if is_good {
                client.process.wait_for("there and back");
            } else {
                sealane.wait_for("the client's certificate has been revoked, says a CRL");
                client.process.wait_for("certificate revoked");
            }
        }
    }
}

#[test]
fn a_list_that_is_missing_lets_nobody_in_whom_it_revokes() {
    let ca = Authority::new();
    let own = ca.server("own");
    let client = ca.issue("bad", "ca", "extendedKeyUsage=clientAuth");
    let directory = ca.file("lists");
    std::fs::create_dir(&directory).unwrap();
    std::fs::copy(ca.crl("ca", "old", &["-crldays", "3"]), directory.join("b.crl")).unwrap();
    ca.revoke("bad");
    let current = ca.crl("ca", "current", &["-crldays", "3"]);
    std::os::unix::fs::symlink(&current, directory.join("a.crl")).unwrap();
    let (ca_file, cert, key, lists) = (ca.ca(), text(own.cert), text(own.key), text(directory));
    let args = ["--cert", &cert, "--key", &key, "--client-ca", &ca_file, "--crl-dir", &lists];
    let sealane = Sealane::server("epoll", echo_server(), &args);
    let (cert, key) = (text(client.cert), text(client.key));
    for attempt in 1..=2 {
        let _client = SClient::start(sealane.port, &["-cert", &cert, "-key", &key, "-CAfile", &ca_file]);
        eventually("it is refused", || {
            sealane.process.count("the client's certificate has been revoked, says a CRL") == attempt
        });
        if attempt == 1 {
            std::fs::remove_file(&current).unwrap();
            sealane.process.signal("HUP");
            sealane.wait_for("nothing was replaced, what was read before stays in use");
            sealane.wait_for("a.crl: No such file");
        }
    }
}

#[test]
fn what_is_no_crl_is_told_at_start() {
    let ca = Authority::new();
    let (empty, garbage) = (ca.file("empty.pem"), ca.file("garbage.der"));
    std::fs::write(&empty, "nothing\n").unwrap();
    std::fs::write(&garbage, [0x30, 3, 2, 1, 5]).unwrap();
    let directory = ca.file("directory");
    std::fs::create_dir(&directory).unwrap();
    for (option, file, why) in [
        ("--crl-file", text(ca.file("missing.pem")), "missing.pem: No such file"),
        ("--crl-file", text(empty), "empty.pem: contains no CRL"),
        ("--crl-file", ca.ca(), "ca.pem: contains no CRL"),
        ("--crl-file", text(garbage), "garbage.der: CRL 1 cannot be used"),
        ("--crl-dir", text(directory), "directory: there is no CRL in it"),
        ("--crl-dir", text(ca.file("missing")), "missing: No such file"),
    ] {
        let out = command("epoll", 1, &["--ca-file", &ca.ca(), option, &file]).stdin(Stdio::null()).output().unwrap();
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(out.status.code() == Some(1) && said.contains(why), "{option} {file}: {said}");
    }
}
