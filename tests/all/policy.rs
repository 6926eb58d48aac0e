//! What is agreed on with a TLS peer, whom it has to be certified by where that is a directory, and who is told the secrets.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use crate::far_ends::echo_server;
use crate::ocsp::{expect_refused, expect_through, server};
use crate::support::authority::{Authority, Spec};
use crate::support::is_root;
use crate::support::openssl::SClient;
use crate::support::pki::{Identity, Pki};
use crate::support::process::{eventually, scratch};
use crate::support::sealane::{DRIVERS, Sealane, command, server_command};

/// Names what is in a directory by hashes.
pub fn rehash(directory: &Path) {
    let done = Command::new("openssl").arg("rehash").arg(directory).output().unwrap();
    assert!(done.status.success(), "{done:?}");
}

#[test]
fn cas_may_be_in_a_directory_by_their_hashes_and_come_and_go_in_it() {
    let (ca, later, never) = (Authority::named("first"), Authority::named("later"), Authority::named("never"));
    let directory = scratch("cas");
    let path = directory.display().to_string();
    let copy = |ca: &Authority, name: &str| fs::copy(ca.file("ca.pem"), directory.join(name)).unwrap();
    copy(&ca, "first.pem");
    copy(&never, "not-linked.txt");
    rehash(&directory);
    // What else such directories hold: a CRL by its hash, and what was removed.
    fs::write(directory.join("12345678.r0"), "a CRL").unwrap();
    std::os::unix::fs::symlink("gone.pem", directory.join("87654321.0")).unwrap();
    for driver in DRIVERS {
        let servers = [&ca, &later, &never].map(|ca| server(&ca.server("own"), None, &[]));
        let tunnels = servers.each_ref().map(|server| {
            let args = ["--ca-dir", &path, "--server-name", "nfs.test", "--sandbox", "auto", "--connect"];
            let mut command = Command::new(crate::support::sealane::binary());
            command.args(["client", "--listen", "127.0.0.1:0", "--io", driver, "--log-level", "debug"]);
            Sealane::from_command(command.args(args).arg(format!("127.0.0.1:{}", server.port)).env_remove("RUST_LOG"))
        });
        tunnels[0].wait_for("87654321.0: leads nowhere: this CA is left out");
        expect_through(&tunnels[0], &servers[0], "the first CA");
        expect_refused(&tunnels[1], &servers[1], "is not signed by a trusted CA");
        expect_refused(&tunnels[2], &servers[2], "is not signed by a trusted CA");
        copy(&later, "later.pem");
        rehash(&directory);
        std::os::unix::fs::symlink("gone.pem", directory.join("87654321.0")).unwrap_or_default();
        for tunnel in &tunnels {
            tunnel.process.signal("HUP");
            tunnel.wait_for("were read again");
        }
        expect_through(&tunnels[0], &servers[0], "still the first CA");
        expect_through(&tunnels[1], &servers[1], "another CA by now");
        expect_refused(&tunnels[2], &servers[2], "is not signed by a trusted CA");
        fs::remove_file(directory.join("later.pem")).unwrap();
        rehash(&directory);
        std::os::unix::fs::symlink("gone.pem", directory.join("87654321.0")).unwrap_or_default();
    }
}

#[test]
fn clients_may_be_certified_by_a_directory() {
    let ca = Authority::new();
    let own = ca.server("own");
    let directory = scratch("client-cas");
    fs::copy(ca.file("ca.pem"), directory.join("ca.pem")).unwrap();
    rehash(&directory);
    let [path, cert, key] = [&directory, &own.cert, &own.key].map(|file| file.display().to_string());
    let args = ["--cert", &cert, "--key", &key, "--client-ca-dir", &path, "--allow", "subject:CN=client"];
    let sealane = Sealane::server("epoll", echo_server(), &args);
    let client = ca.issue("client", "ca", "extendedKeyUsage=clientAuth");
    let foreign = &Pki::get().foreign_client;
    for (Identity { cert, key }, is_good) in [(&client, true), (foreign, false)] {
        let [cert, key] = [cert, key].map(|file| file.display().to_string());
        let mut client = SClient::start(sealane.port, &["-cert", &cert, "-key", &key, "-CAfile", &ca.ca()]);
        client.line("there and back");
        if is_good {
            client.process.wait_for("there and back");
        } else {
            sealane.wait_for("is not signed by a trusted CA");
            client.process.wait_for("unknown ca");
        }
    }
}

#[test]
fn the_handshake_is_signed_by_the_schemes_that_are_named_at_either_end() {
    let ca = Authority::new();
    let certified = |name: &str, extensions: &str| {
        let key = "rsa:2048".into();
        ca.certify(&Spec { name: name.into(), key, extensions: extensions.into(), ..Spec::default() })
    };
    let own = certified("own", "subjectAltName=DNS:nfs.test,IP:127.0.0.1");
    let client = certified("client", "extendedKeyUsage=clientAuth");
    let ca_file = ca.ca();
    let [cert, key] = [&own.cert, &own.key].map(|file| file.display().to_string());
    let [client_cert, client_key] = [&client.cert, &client.key].map(|file| file.display().to_string());
    for (index, (tls, scheme, kind, digest)) in [
        ("-tls1_2", "rsa_pkcs1_sha384", "RSA", "SHA384"),
        ("-tls1_2", "rsa_pss_rsae_sha512", "RSA-PSS", "SHA512"),
        ("-tls1_3", "rsa_pss_rsae_sha384", "RSA-PSS", "SHA384"),
    ]
    .into_iter()
    .enumerate()
    {
        let driver = DRIVERS[index % 2];
        // Both ends are told by OpenSSL how the other one has signed.
        let said = [format!("Peer signing digest: {digest}"), format!("Peer signature type: {kind}\n")];
        let peer = server(&own, None, &[tls, "-Verify", "2", "-CAfile", &ca_file, "-verify_return_error"]);
        let version = if tls == "-tls1_2" { "1.2" } else { "1.3" };
        let args = ["--ca-file", &ca_file, "--cert", &client_cert, "--key", &client_key, "--tls", version];
        let args = [&args[..], &["--tls-signatures", scheme]].concat();
        expect_through(&Sealane::start(driver, peer.port, &args), &peer, "signed");
        said.iter().for_each(|said| peer.process.wait_for(said));
        let args = ["--cert", &cert, "--key", &key, "--tls", version, "--tls-signatures", scheme];
        let sealane = Sealane::server(driver, echo_server(), &args);
        let mut peer = SClient::start(sealane.port, &[tls, "-CAfile", &ca_file]);
        peer.line("there and back");
        peer.process.wait_for("there and back");
        said.iter().for_each(|said| peer.process.wait_for(said));
    }
    // The preferred one of those that both have.
    for order in ["rsa_pss_rsae_sha256,rsa_pss_rsae_sha512", "rsa_pss_rsae_sha512,rsa_pss_rsae_sha256"] {
        let peer = server(&own, None, &["-tls1_3", "-Verify", "2", "-CAfile", &ca_file, "-verify_return_error"]);
        let args = ["--ca-file", &ca_file, "--cert", &client_cert, "--key", &client_key, "--tls-signatures", order];
        expect_through(&Sealane::start("epoll", peer.port, &args), &peer, "in order");
        let digest = if order.starts_with("rsa_pss_rsae_sha256") { "SHA256" } else { "SHA512" };
        peer.process.wait_for(&format!("Peer signing digest: {digest}"));
    }
    // Whoever speaks TLS 1.3 has to sign by a scheme of it.
    let only_12 = ["--cert", &cert, "--key", &key, "--tls-signatures", "rsa_pkcs1_sha256,ed25519"];
    let out = server_command("epoll", 1, &only_12).output().unwrap();
    assert!(String::from_utf8_lossy(&out.stderr).contains("or by none of TLS 1.3 (see --tls)"), "{out:?}");
    // A peer that signs by none of them, and a key of ours.
    let peer = server(&own, None, &["-sigalgs", "RSA+SHA256"]);
    let args = ["--ca-file", &ca_file, "--tls", "1.2", "--tls-signatures", "rsa_pss_rsae_sha256,ed25519"];
    expect_refused(&Sealane::start("epoll", peer.port, &args), &peer, "HandshakeFailure");
    for (mut command, file) in [
        (
            command("epoll", 1, &["--cert", &client_cert, "--key", &client_key, "--tls-signatures", "ed25519"]),
            "client.key",
        ),
        (server_command("epoll", 1, &["--cert", &cert, "--key", &key, "--tls-signatures", "ed25519"]), "own.key"),
    ] {
        let out = command.output().unwrap();
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        let why = format!("{file}: signs by none of --tls-signatures");
        assert!(out.status.code() == Some(1) && said.contains(&why), "{said}");
    }
}

#[test]
fn secrets_are_told_to_a_file_only_if_both_the_environment_and_the_command_line_want_it() {
    let directory = scratch("secrets");
    let lines = |file: &Path| -> BTreeSet<String> {
        let text = fs::read_to_string(file).unwrap_or_default();
        text.lines().filter(|line| !line.starts_with('#')).map(str::to_lowercase).collect()
    };
    for (index, (tls, driver)) in ["-tls1_2", "-tls1_3"].into_iter().zip(DRIVERS).enumerate() {
        let [theirs, ours] = ["theirs", "ours"].map(|name| directory.join(format!("{name}-{index}")));
        let peer = server(&Pki::get().server, None, &[tls, "-keylogfile", theirs.to_str().unwrap()]);
        let start = |args: &[&str]| {
            let mut command = command(driver, peer.port, args);
            Sealane::from_command(command.env("SSLKEYLOGFILE", &ours))
        };
        let quiet = start(&[]);
        quiet.wait_for("SSLKEYLOGFILE is set, and no secret is written to it");
        expect_through(&quiet, &peer, "in secret");
        assert!(!ours.exists());
        // OpenSSL told its file what this connection's secrets are.
        let of_others = lines(&theirs);
        let loud = start(&["--allow-key-log", "--sandbox", "auto"]);
        loud.wait_for("the secrets of ALL connections are written to");
        // It goes on behind a reload, when no file can be opened any more.
        loud.process.signal("HUP");
        loud.wait_for("were read again");
        expect_through(&loud, &peer, "in the open");
        let wanted = || -> BTreeSet<String> {
            // OpenSSL tells one more, of the exporter, which rustls tells, too; one of 1.2.
            lines(&theirs).difference(&of_others).cloned().collect()
        };
        eventually("all secrets are told", || !wanted().is_empty() && wanted() == lines(&ours));
        assert_eq!(fs::metadata(&ours).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(lines(&ours).iter().any(|line| line.starts_with(["client_random", "server_traffic_secret_0"][index])));
    }
    // Whom it would be told, besides.
    let [open, link, pipe] = ["open", "link", "pipe"].map(|name| directory.join(name));
    fs::write(&open, "").unwrap();
    fs::set_permissions(&open, fs::Permissions::from_mode(0o644)).unwrap();
    std::os::unix::fs::symlink(directory.join("ours-0"), &link).unwrap();
    assert!(Command::new("mkfifo").arg("-m600").arg(&pipe).status().unwrap().success());
    let [open, link, pipe] = [open, link, pipe].map(|file| file.display().to_string());
    if is_root() {
        let foreign = directory.join("foreign");
        fs::write(&foreign, "").unwrap();
        fs::set_permissions(&foreign, fs::Permissions::from_mode(0o600)).unwrap();
        assert!(Command::new("chown").arg("65534").arg(&foreign).status().unwrap().success());
        let mut command = command("epoll", 1, &["--allow-key-log"]);
        let out = command.env("SSLKEYLOGFILE", &foreign).output().unwrap();
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(out.status.code() == Some(1) && said.contains("it belongs to another user"), "{said}");
    }
    for (variable, status, why) in [
        (Some(open.as_str()), 1, "open: others may read or change it: chmod 600"),
        (Some(&link), 1, "link: Too many levels of symbolic links"),
        (Some(&pipe), 1, "pipe: "),
        (None, 2, "--allow-key-log: SSLKEYLOGFILE names no file"),
        (Some(""), 2, "--allow-key-log: SSLKEYLOGFILE names no file"),
        (Some("/no/such/directory/file"), 1, "SSLKEYLOGFILE: /no/such/directory/file: No such file"),
    ] {
        let mut command = command("epoll", 1, &["--allow-key-log"]);
        command.env_remove("SSLKEYLOGFILE").envs(variable.map(|value| ("SSLKEYLOGFILE", value)));
        let out = command.output().unwrap();
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(out.status.code() == Some(status) && said.contains(why), "{:?}: {said}", out.status);
    }
}
