//! Who a server may be: one of several names, a pinned key, asked for by whichever name.

use std::process::{Command, Stdio};

use crate::ocsp::{expect_refused, expect_through, server, tunnel};
use crate::support::authority::Authority;
use crate::support::pki::{Identity, Pki};
use crate::support::sealane::{Sealane, command};

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
