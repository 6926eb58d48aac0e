//! The certificate that a client shows: each kind of key in each form that files have, and what mount helpers make.

use std::fs;
use std::path::{Path, PathBuf};

use crate::ocsp::expect_through;
use crate::support::authority::{Authority, Spec};
use crate::support::openssl::SServer;
use crate::support::pki::{Identity, Pki};
use crate::support::sealane::{DRIVERS, Sealane, command};

const CLIENT: &str = "extendedKeyUsage=clientAuth";

/// An OpenSSL server that demands a client certificate which `ca` vouches for, and tells its subject.
fn demanding(ca: &str, tls: &str) -> SServer {
    SServer::with_identity(&Pki::get().server, &[tls, "-Verify", "2", "-CAfile", ca, "-verify_return_error"])
}

/// Shows `certificate` with `key` to a server of each TLS version; it has to see this subject.
fn expect_shown(ca: &str, certificate: &str, key: &str, subject: &str) {
    for (driver, tls) in DRIVERS.into_iter().zip(["-tls1_2", "-tls1_3"]) {
        let server = demanding(ca, tls);
        let tunnel = Sealane::start(driver, server.port, &["--cert", certificate, "--key", key]);
        expect_through(&tunnel, &server, key);
        server.process.wait_for(subject);
    }
}

/// What a start with this certificate and key says that fails.
fn refusal(certificate: &str, key: &str) -> String {
    let out = command("epoll", 1, &["--cert", certificate, "--key", key]).output().unwrap();
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert_eq!(out.status.code(), Some(1), "{said}");
    said.lines().last().unwrap_or_default().to_string()
}

fn certified(ca: &Authority, name: &str, key: &str) -> Identity {
    ca.certify(&Spec { name: name.into(), key: key.into(), extensions: CLIENT.into(), ..Spec::default() })
}

fn text(file: &Path) -> String {
    file.display().to_string()
}

#[test]
fn each_kind_of_key_is_read_in_each_of_its_forms() {
    let ca = Authority::new();
    for (name, key, old_form) in [
        ("rsa-2048", "rsa:2048", Some("BEGIN RSA PRIVATE KEY")),
        ("rsa-3072", "rsa:3072", None),
        ("p-256", "ec:P-256", Some("BEGIN EC PRIVATE KEY")),
        ("p-384", "ec:P-384", Some("BEGIN EC PRIVATE KEY")),
        ("ed25519", "ed25519", None),
    ] {
        let Identity { cert, key } = certified(&ca, name, key);
        let subject = format!("subject=CN = {name}");
        assert!(fs::read_to_string(&key).unwrap().contains("BEGIN PRIVATE KEY"), "PKCS#8");
        expect_shown(&ca.ca(), &text(&cert), &text(&key), &subject);
        let Some(old_form) = old_form else { continue };
        let old = ca.file(&format!("{name}.old"));
        ca.run(&format!("pkey -in {name}.key -traditional -out {name}.old"));
        let mut pem = fs::read_to_string(&old).unwrap();
        assert!(pem.contains(old_form), "{pem}");
        if name == "p-256" {
            // `openssl ecparam -genkey` writes the curve before the key.
            ca.run("ecparam -name prime256v1 -out parameters.pem");
            pem.insert_str(0, &fs::read_to_string(ca.file("parameters.pem")).unwrap());
            fs::write(&old, pem).unwrap();
        }
        expect_shown(&ca.ca(), &text(&cert), &text(&old), &subject);
    }
}

#[test]
fn certificate_chain_and_key_may_be_in_one_file_with_words_between_them() {
    let ca = Authority::new();
    ca.certify(&Spec {
        name: "between".into(),
        extensions: "basicConstraints=critical,CA:TRUE".into(),
        ..Spec::default()
    });
    let below = Spec { name: "below".into(), issuer: "between".into(), ..Spec::default() };
    let Identity { cert, key } = ca.certify(&Spec { extensions: CLIENT.into(), ..below });
    let read = |file: &PathBuf| fs::read_to_string(file).unwrap();
    let all = ca.file("all.pem");
    let parts = ["# the key\n", &read(&key), "Our certificate:\n", &read(&cert), "\n", &read(&ca.file("between.pem"))];
    fs::write(&all, parts.concat().replace('\n', "\r\n")).unwrap();
    expect_shown(&ca.ca(), &text(&all), &text(&all), "subject=CN = below");
}

#[test]
fn keys_that_cannot_be_used_are_refused_at_start_by_a_line_that_says_what_would_be_right() {
    let ca = Authority::new();
    certified(&ca, "good", "rsa:2048");
    ca.run("pkcs8 -topk8 -in good.key -v2 aes-256-cbc -passout pass:secret -out pkcs8.key");
    ca.run("rsa -in good.key -traditional -aes256 -passout pass:secret -out pkcs1.key");
    certified(&ca, "curve", "ec:P-256");
    ca.run("ec -in curve.key -aes256 -passout pass:secret -out sec1.key");
    let decrypt = "the private key is encrypted; decrypt it first (openssl pkey -in FILE -out FILE)";
    for (cert, key, why) in [
        ("good.pem", "pkcs8.key", decrypt),
        ("good.pem", "pkcs1.key", decrypt),
        ("curve.pem", "sec1.key", decrypt),
        ("good.pem", "curve.key", "not the key of the certificate in "),
        ("good.pem", "good.pem", "contains no PEM private key (PKCS#8, PKCS#1 or SEC1)"),
        ("good.key", "good.key", "contains no PEM certificate"),
    ] {
        let said = refusal(&text(&ca.file(cert)), &text(&ca.file(key)));
        let file = if key == cert && cert == "good.key" { cert } else { key };
        assert!(said.contains(&format!("{file}: {why}")), "{cert} {key}: {said}");
    }
    // What this program cannot sign with.
    for (name, kind) in [("p-521", "ec:P-521"), ("rsa-1024", "rsa:1024"), ("ed448", "ed448")] {
        let Identity { cert, key } = certified(&ca, name, kind);
        let said = refusal(&text(&cert), &text(&key));
        assert!(said.contains(&format!("{name}.key: a key that cannot be signed with here")), "{name}: {said}");
    }
}

/// The certificate of mount helpers: made by `openssl ca -selfsign` with a fresh database for each mount.
#[test]
fn what_mount_helpers_make_is_sent_as_it_is_and_accepted_by_openssl() {
    let ca = Authority::new();
    let config = "\
[req]
prompt = no
distinguished_name = name
req_extensions = mount
[name]
CN = fs-0123456789abcdef0.mount.test
[mount]
subjectKeyIdentifier = hash
1.3.6.1.4.1.4843.7.1 = ASN1:UTF8String:fsap-0123456789abcdef0
1.3.6.1.4.1.4843.7.2 = ASN1:SEQUENCE:signature
1.3.6.1.4.1.4843.7.3 = ASN1:UTF8String:fs-0123456789abcdef0
1.3.6.1.4.1.4843.7.4 = ASN1:SEQUENCE:client
[signature]
access = UTF8String:EXAMPLE
time = UTCTIME:260101000000Z
signature = FORMAT:HEX,OCTETSTRING:00ff
[client]
source = UTF8String:helper
[ca]
default_ca = local
[local]
database = made/index.txt
serial = made/serial
new_certs_dir = made
private_key = mount.key
default_md = sha256
policy = any
unique_subject = no
x509_extensions = mount
[any]
CN = supplied
";
    let made = ca.file("made");
    fs::create_dir(&made).unwrap();
    for (file, content) in [("made/index.txt", ""), ("made/serial", "00"), ("mount.cnf", config)] {
        fs::write(ca.file(file), content).unwrap();
    }
    ca.run("genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:3072 -out mount.key");
    ca.run("req -new -config mount.cnf -key mount.key -out mount.csr");
    ca.run("ca -batch -notext -selfsign -config mount.cnf -in mount.csr -days 1 -out mount.pem");
    let [cert, key] = ["mount.pem", "mount.key"].map(|name| text(&ca.file(name)));
    let described = ca.printed("x509 -in mount.pem -noout -text");
    for what in ["Serial Number: 0 (0x0)", "Version: 3", "1.3.6.1.4.1.4843.7.4", "3072 bit"] {
        assert!(described.contains(what), "{what}: {described}");
    }
    assert!(!described.contains("Basic Constraints"), "{described}");
    // It vouches for itself: the far end of such a mount goes by what is in it, not by a chain.
    expect_shown(&cert, &cert, &key, "subject=CN = fs-0123456789abcdef0.mount.test");
    let server = demanding(&cert, "-tls1_2");
    let tunnel = Sealane::start("epoll", server.port, &["--cert", &cert, "--key", &key]);
    expect_through(&tunnel, &server, "byte for byte");
    let shown = server.process.output();
    let pem = fs::read_to_string(&cert).unwrap();
    assert!(shown.contains(pem.trim()), "{shown}\n{pem}");
}
