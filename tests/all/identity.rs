//! Who a server may be: one of several names, a pinned key, asked for by whichever name.

use std::process::{Command, Stdio};

use crate::far_ends::echo_server;
use crate::ocsp::{expect_refused, expect_through, server, tunnel};
use crate::support::authority::Authority;
use crate::support::openssl::SClient;
use crate::support::pki::{Identity, Pki};
use crate::support::sealane::{DRIVERS, Sealane, command};

/// The pin of a certificate's key, by OpenSSL.
pub fn pin(identity: &Identity) -> String {
    let cert = identity.cert.display();
    let hash = format!(
        "openssl x509 -in {cert} -noout -pubkey | openssl pkey -pubin -outform DER | openssl dgst -sha256 -binary | openssl base64"
    );
    let out = Command::new("sh").args(["-c", &hash]).output().unwrap();
    format!("sha256/{}", String::from_utf8(out.stdout).unwrap().trim())
}

#[test]
fn a_pinned_key_is_wanted_besides_the_chain_or_alone() {
    let (ca, other_ca) = (Authority::new(), Authority::new());
    let (one, two) = (ca.server("one"), ca.server("two"));
    let [pin_of_one, pin_of_two] = [&one, &two].map(pin);
    let self_signed = Identity { cert: other_ca.file("ca.pem"), key: other_ca.file("ca.key") };
    let pin_of_self_signed = pin(&self_signed);
    let expired = &Pki::get().expired;
    let pin_of_expired = pin(expired);
    let ca_of_expired = Pki::get().ca.display().to_string();
    let not_pinned = format!("its key is none of --pin: it is {pin_of_one}");
    let ca_file = ca.ca();
    let cases: Vec<(&Identity, Vec<&str>, Option<&str>)> = vec![
        (&one, vec!["--ca-file", &ca_file, "--server-name", "nfs.test", "--pin", &pin_of_one], None),
        (&one, vec!["--ca-file", &ca_file, "--server-name", "nfs.test", "--pin", &pin_of_two], Some(&not_pinned)),
        (
            &one,
            vec!["--ca-file", &ca_file, "--server-name", "nfs.test", "--pin", &pin_of_two, "--pin", &pin_of_one],
            None,
        ),
        // A pin takes nothing away from what else is wanted.
        (
            &one,
            vec!["--ca-file", &ca_file, "--server-name", "other.test", "--pin", &pin_of_one],
            Some("for another name"),
        ),
        (
            expired,
            vec!["--ca-file", &ca_of_expired, "--server-name", "nfs.test", "--pin", &pin_of_expired],
            Some("has expired"),
        ),
        (
            &self_signed,
            vec!["--ca-file", &ca_file, "--server-name", "nfs.test", "--pin", &pin_of_self_signed],
            Some("CA:TRUE"),
        ),
        // Alone, it is all that is wanted.
        (&self_signed, vec!["--pin-only", "--pin", &pin_of_self_signed], None),
        (expired, vec!["--pin-only", "--pin", &pin_of_expired], None),
        (&one, vec!["--pin-only", "--pin", &pin_of_two], Some(&not_pinned)),
    ];
    for (index, (identity, args, why)) in cases.into_iter().enumerate() {
        let server = server(identity, None, &[if index % 2 == 0 { "-tls1_2" } else { "-tls1_3" }]);
        let connect = format!("127.0.0.1:{}", server.port);
        let mut command = Command::new(crate::support::sealane::binary());
        command.args(["client", "--listen", "127.0.0.1:0", "--log-level", "debug", "--connect", &connect]);
        let tunnel = Sealane::from_command(command.args(args).stdin(Stdio::null()).env_remove("RUST_LOG"));
        match why {
            None => {
                expect_through(&tunnel, &server, "once");
                // A resumed session is judged again.
                expect_through(&tunnel, &server, "twice");
            }
            Some(why) => expect_refused(&tunnel, &server, why),
        }
    }
}

#[test]
fn one_of_several_names_is_enough_and_the_server_is_asked_for_by_the_one_that_is_said() {
    let ca = Authority::new();
    let identity = ca.issue("several", "ca", "subjectAltName=DNS:a.test,DNS:*.wild.test,IP:127.0.0.1");
    let no_names = |server_names: &[&'static str]| {
        server_names.iter().flat_map(|name| ["--server-name", *name]).collect::<Vec<&'static str>>()
    };
    for (names, sni, asked_for, why) in [
        (&["a.test"][..], None, Some("a.test"), None),
        (&["b.test", "a.test"], None, Some("b.test"), None),
        (&["b.test", "127.0.0.1"], None, Some("b.test"), None),
        (&["127.0.0.1"], None, None, None),
        (&["x.wild.test"], None, Some("x.wild.test"), None),
        (&["x.y.wild.test"], None, None, Some("for another name")),
        (&["wild.test"], None, None, Some("for another name")),
        (&["b.test", "c.test"], None, None, Some("for another name")),
        (&["127.0.0.2"], None, None, Some("for another name")),
        (&["a.test"], Some("hidden.test"), Some("hidden.test"), None),
        (&["b.test"], Some("a.test"), None, Some("for another name")),
        (&["a.test"], Some("off"), None, None),
    ] {
        let [cert, key] = [&identity.cert, &identity.key].map(|file| file.display().to_string());
        let server = server(&identity, None, &["-servername", "unused.test", "-cert2", &cert, "-key2", &key]);
        let mut args = no_names(names);
        args.extend(sni.iter().flat_map(|name| ["--sni", *name]));
        let tunnel = tunnel("epoll", &ca, &server, &args);
        match why {
            Some(why) => expect_refused(&tunnel, &server, why),
            None => {
                expect_through(&tunnel, &server, "once");
                let said = server.process.output();
                let has_sni = said.contains("Hostname in TLS extension: ");
                match asked_for {
                    Some(name) => assert!(said.contains(&format!("Hostname in TLS extension: \"{name}\"")), "{said}"),
                    None => assert!(!has_sni, "{said}"),
                }
            }
        }
    }
}

#[test]
fn what_does_not_go_together_is_told_at_start() {
    let pin = "sha256/AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
    for (args, why) in [
        (&["--pin", "sha256/x"][..], "is not sha256/BASE64"),
        (&["--pin", "sha1/AAAA"], "is not sha256/BASE64"),
        (&["--sni", "127.0.0.1"], "only names can be asked for"),
        (&["--insecure-no-verify", "--pin", pin], "cannot be used with"),
        (&["--ocsp", "staple", "--ocsp-chain"], "--ocsp-chain is about asking a responder"),
        (&["--ocsp", "hard", "--ocsp-url", "https://ocsp.test/"], "is not http://"),
        (&["--insecure-no-verify", "--ocsp", "hard"], "does not go with --ocsp soft or hard"),
        (&["--insecure-no-verify", "--crl-file", "x.pem"], "leave --crl-file and --crl-dir out"),
    ] {
        let mut command = command("epoll", 1, args);
        let out = command.output().unwrap();
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(!out.status.success() && said.contains(why), "{args:?}: {said}");
    }
}

#[test]
fn of_all_that_are_certified_only_those_on_the_list_get_in_and_their_names_are_logged() {
    let ca = Authority::new();
    let own = ca.server("own");
    let names = "subjectAltName=DNS:host.test,URI:spiffe://test/nfs\nextendedKeyUsage=clientAuth";
    let client = ca.issue("client", "ca", names);
    let (ca_file, echo) = (ca.ca(), echo_server());
    let [cert, key] = [&own.cert, &own.key].map(|file| file.display().to_string());
    let [client_cert, client_key] = [&client.cert, &client.key].map(|file| file.display().to_string());
    let pin = format!("pin:{}", pin(&client));
    let common = ["--cert", &cert, "--key", &key, "--client-ca", &ca_file];
    for (index, (list, is_in)) in [
        (&[][..], true),
        (&["dns:host.test"], true),
        (&["dns:nobody.test", "uri:spiffe://test/nfs"], true),
        (&["subject:CN=client"], true),
        (&[pin.as_str()], true),
        (&["dns:test"], false),
        (&["uri:spiffe://test/"], false),
        (&["subject:CN=clien"], false),
        (&["dns:nobody.test", "subject:CN=nobody"], false),
    ]
    .into_iter()
    .enumerate()
    {
        let tls = if index % 2 == 0 { "-tls1_2" } else { "-tls1_3" };
        let mut args = common.to_vec();
        args.extend(list.iter().flat_map(|allow| ["--allow", *allow]));
        let sealane = Sealane::server(DRIVERS[index / 2 % 2], echo, &args);
        let mut client =
            SClient::start(sealane.port, &["-cert", &client_cert, "-key", &client_key, "-CAfile", &ca_file, tls]);
        client.line("there and back");
        if is_in {
            client.process.wait_for("there and back");
            sealane.wait_for("client=\"CN=client DNS:host.test URI:spiffe://test/nfs\"");
        } else {
            sealane.wait_for("the client is none that --allow lets in: CN=client DNS:host.test");
            client.process.wait_for("access denied");
            assert_eq!(sealane.process.count("opened: "), 0);
        }
    }
    // Whoever has none, where that is allowed; and one that is shown has to be right.
    let sealane = Sealane::server("epoll", echo, &[&common[..], &["--client-cert", "optional"]].concat());
    let mut anonymous = SClient::start(sealane.port, &["-CAfile", &ca_file]);
    anonymous.line("there and back");
    anonymous.process.wait_for("there and back");
    let foreign = &Pki::get().foreign_client;
    let [cert, key] = [&foreign.cert, &foreign.key].map(|file| file.display().to_string());
    let _foreign = SClient::start(sealane.port, &["-cert", &cert, "-key", &key, "-CAfile", &ca_file]);
    sealane.wait_for("is not signed by a trusted CA");
}
