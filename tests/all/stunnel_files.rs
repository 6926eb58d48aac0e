//! `sealane stunnel`: files of stunnel's are followed, explained, or refused with the line that cannot be.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::far_ends::echo_server;
use crate::support::authority::Authority;
use crate::support::not_run;
use crate::support::openssl::SServer;
use crate::support::pki::{Identity, Pki};
use crate::support::process::{Process, SOON, eventually, free_port, have, scratch, wait_for_port};
use crate::support::sealane::binary;

const PAGE: &str = include_str!("../../docs/stunnel.md");

fn stunnel(args: &[&str]) -> Command {
    let mut command = Command::new(binary());
    command.arg("stunnel").args(args).stdin(Stdio::null()).env_remove("RUST_LOG");
    command
}

fn printed(args: &[&str]) -> String {
    let out = stunnel(args).output().unwrap();
    assert!(out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}

fn written(text: &str) -> PathBuf {
    let file = scratch("stunnel").join("nfs.conf");
    std::fs::write(&file, text).unwrap();
    file
}

#[test]
fn the_page_has_each_key_of_the_manual_and_what_the_program_says_of_it() {
    let rows = printed(&["--keys"]);
    assert!(PAGE.ends_with(&rows), "docs/stunnel.md: its table is not what 'sealane stunnel --keys' prints");
    let manual = Path::new("/usr/share/man/man8/stunnel4.8.gz");
    if !manual.exists() {
        return not_run("stunnel_files::the_page_has_each_key_of_the_manual", "stunnel4's manual is not there");
    }
    let text = Command::new("zcat").arg(manual).output().unwrap().stdout;
    let text =
        String::from_utf8_lossy(&text).replace("\\fB", "").replace("\\fR", "").replace("\\s-1", "").replace("\\s0", "");
    // `.IP "key = VALUE" 4`, also where troff is told of two ways to write it.
    let items =
        text.lines().filter_map(|line| line.trim_start_matches(".ie n ").strip_prefix(".IP \"")?.split_once(" = "));
    let keys: BTreeSet<&str> = items.map(|(key, _)| key).filter(|key| !key.contains(' ')).collect();
    assert!(keys.len() > 80 && keys.contains("checkHost") && keys.contains("execArgs"), "{keys:?}");
    for key in keys {
        assert!(rows.contains(&format!("| `{key}` |")), "'{key}' is in stunnel's manual and not in the table");
    }
}

/// A file with a tunnel to a server, and the server's own.
struct Pair {
    client: u16,
    server: u16,
    text: String,
}

impl Pair {
    fn new(client: &str, server: &str, echo: u16, own: &Identity) -> Self {
        let [client_port, server_port] = [free_port(), free_port()];
        let [cert, key] = [&own.cert, &own.key].map(|file| file.display().to_string());
        let text = format!(
            "; both ends in one\nforeground = yes\nsocket = l:TCP_NODELAY=1\n[client]\nclient = yes\naccept = 127.0.0.1:{client_port}\nconnect = \
             127.0.0.1:{server_port}\n{client}\n[server]\naccept = 127.0.0.1:{server_port}\nconnect = {echo}\ncert = {cert}\nkey = {key}\n{server}\n"
        );
        Self { client: client_port, server: server_port, text }
    }

    /// Starts a program that serves the file; whether bytes come back through both.
    fn is_through(&self, command: &mut Command) -> (bool, Process) {
        let process = Process::start(command.stdin(Stdio::null()));
        wait_for_port(self.client);
        wait_for_port(self.server);
        let mut stream = TcpStream::connect(("127.0.0.1", self.client)).unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        let mut back = [0; 14];
        let is_through = stream.write_all(b"there and back").is_ok() && stream.read_exact(&mut back).is_ok();
        assert!(!is_through || &back == b"there and back");
        (is_through, process)
    }
}

#[test]
fn each_option_of_openssl_that_stunnel_lists_is_known() {
    if !have("stunnel4") {
        return not_run("stunnel_files::each_option_of_openssl", "stunnel4 is not there");
    }
    let listed = Command::new("stunnel4").arg("-options").output().unwrap();
    let listed = String::from_utf8_lossy(&listed.stderr).into_owned();
    let names: Vec<_> = listed.lines().filter_map(|line| line.trim().strip_prefix("options = ")).collect();
    assert!(names.len() > 40, "{listed}");
    let explained = |name: &str| {
        let text = format!("[a]\nclient = yes\naccept = 127.0.0.1:1\nconnect = h:2\noptions = {name}\n");
        stunnel(&["--explain", written(&text).to_str().unwrap()]).output().unwrap()
    };
    for name in names {
        // One of them is a mask, which also takes away what is spoken.
        let is_known = explained(name).status.success();
        assert_eq!(is_known, name != "NO_SSL_MASK", "{name}");
    }
    assert!(!explained("NO_TLSv1.3").status.success(), "a name that is misspelled");
}

#[test]
fn a_file_does_here_what_it_does_with_stunnel() {
    let (ca, other) = (Authority::named("one"), Authority::named("other"));
    let own = ca.server("own");
    let client = ca.issue("client", "ca", "extendedKeyUsage=clientAuth");
    let [cert, key] = [&client.cert, &client.key].map(|file| file.display().to_string());
    let (ca_file, other_file, own_file) = (ca.ca(), other.ca(), own.cert.display().to_string());
    let shown = format!("cert = {cert}\nkey = {key}\n");
    let trusted = format!("CAfile = {ca_file}\nverifyChain = yes\n");
    let echo = echo_server();
    let is_there = have("stunnel4");
    for (client, server, is_good) in [
        // Nothing is verified.
        (String::new(), String::new(), true),
        (format!("CAfile = {other_file}"), String::new(), true),
        (trusted.clone(), String::new(), true),
        (format!("CAfile = {ca_file}\nverify = 2"), String::new(), true),
        (format!("{trusted}checkHost = nfs.test"), String::new(), true),
        (format!("{trusted}checkHost = other.test\ncheckHost = nfs.test"), String::new(), true),
        (format!("{trusted}checkIP = 127.0.0.1"), String::new(), true),
        (format!("{trusted}checkHost = other.test"), String::new(), false),
        (format!("CAfile = {other_file}\nverifyChain = yes"), String::new(), false),
        (format!("CAfile = {own_file}\nverify = 4"), String::new(), true),
        (format!("CAfile = {ca_file}\nverify = 4"), String::new(), false),
        (format!("CAfile = {own_file}\nverifyPeer = yes"), String::new(), true),
        (format!("CAfile = {cert}\nverifyPeer = yes"), String::new(), false),
        (shown.clone(), trusted.clone(), true),
        (String::new(), trusted.clone(), false),
        (String::new(), format!("CAfile = {ca_file}\nverify = 1"), true),
        (shown.clone(), format!("CAfile = {other_file}\nverifyChain = yes"), false),
        (String::new(), format!("{trusted}requireCert = no"), true),
        (String::new(), format!("requireCert = no\nCAfile = {ca_file}\nverify = 2"), false),
        (format!("verifyChain = no\nCAfile = {other_file}\nverify = 2"), String::new(), false),
        (format!("verify = 2\nCAfile = {other_file}\nverifyChain = no"), String::new(), true),
        ("options = NO_TLSv1_3\noptions = -NO_TLSv1_3".into(), "sslVersionMin = TLSv1.3".into(), true),
        (shown.clone(), format!("CAfile = {cert}\nverify = 4"), true),
        (shown.clone(), format!("CAfile = {own_file}\nverify = 4"), false),
        ("sslVersion = TLSv1.2".into(), "sslVersion = TLSv1.2".into(), true),
        ("sslVersion = TLSv1.2".into(), "sslVersion = TLSv1.3".into(), false),
        ("options = NO_TLSv1_3".into(), "sslVersionMin = TLSv1.3".into(), false),
        ("ciphers = ECDHE-ECDSA-AES128-GCM-SHA256\nsslVersion = TLSv1.2".into(), "ciphers = HIGH:!aRSA".into(), true),
        ("ciphers = ECDHE+CHACHA20\nsslVersion = TLSv1.2".into(), "ciphers = HIGH:!CHACHA20".into(), false),
        ("curves = P-256".into(), "curves = X25519:P-256".into(), true),
        ("curves = P-256".into(), "curves = P-384".into(), false),
    ] {
        let pair = Pair::new(&client, &server, echo, &own);
        let file = written(&pair.text);
        let (is_through, process) = pair.is_through(stunnel(&[file.to_str().unwrap()]).env("RUST_LOG", "debug"));
        assert_eq!(is_through, is_good, "{client}\n--\n{server}\n{}", process.output());
        drop(process);
        if !is_there {
            continue;
        }
        // The same with stunnel itself, on ports of its own.
        let pair = Pair::new(&client, &server, echo, &own);
        let text = format!("pid =\n{}", pair.text);
        let (is_through, process) = pair.is_through(Command::new("stunnel4").arg(written(&text)));
        assert_eq!(is_through, is_good, "stunnel: {client}\n--\n{server}\n{}", process.output());
    }
    if !is_there {
        not_run("stunnel_files::a_file_does_here_what_it_does_with_stunnel", "stunnel4 is not there");
    }
}

#[test]
fn what_is_not_verified_is_said_and_what_each_line_becomes_explained() {
    let own = &Pki::get().server;
    let pair = Pair::new("TIMEOUTidle = 70\ndelay = yes\nsni =", "", echo_server(), own);
    let file = written(&pair.text);
    let name = file.to_str().unwrap();
    let (is_through, process) = pair.is_through(&mut stunnel(&[name]));
    assert!(is_through, "{}", process.output());
    process.wait_for("[client]: the server is NOT verified");
    eventually("two tunnels listen", || process.count("listening on 127.0.0.1:") == 2);
    process.signal("TERM");
    let explained = printed(&["--explain", name]);
    for words in [
        "nfs.conf:8:1: TIMEOUTidle = 70\n    supported: --idle-timeout 70\n",
        "nfs.conf:9:1: delay = yes\n    ignored with notice: names are looked up for each connection in any case\n",
        "nfs.conf:10:1: sni = \n    mapped: --sni off\n",
        "[client]\n    sealane client --listen 127.0.0.1:",
        "[server]\n    sealane server --listen 127.0.0.1:",
    ] {
        assert!(explained.contains(words), "{words}:\n{explained}");
    }
}

#[test]
fn the_servers_of_a_file_are_tried() {
    let ca = Authority::new();
    let own = ca.server("own");
    let server = SServer::with_identity(&own, &[]);
    let (ca_file, port, nobody) = (ca.ca(), server.port, free_port());
    let service = |name: &str, connect: u16, more: &str| {
        format!(
            "[{name}]\nclient = yes\naccept = 127.0.0.1:1\nconnect = 127.0.0.1:{connect}\nCAfile = {ca_file}\nverifyChain = yes\n{more}\n"
        )
    };
    let file = written(&[service("one", nobody, ""), service("two", port, "checkHost = other.test")].concat());
    let out = stunnel(&["--check", file.to_str().unwrap()]).output().unwrap();
    let (told, said) = (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    let places: Vec<_> = ["[one]\n", "does not accept a connection: Connection refused", "[two]\n", "for another name"]
        .map(|words| told.find(words).unwrap_or_else(|| panic!("{words}: {told}")))
        .into();
    assert!(places.is_sorted(), "{told}");
    assert!(out.status.code() == Some(1) && said.contains("[one]: connect: "), "{said}");
}

#[test]
fn a_line_that_cannot_be_followed_is_named() {
    let service = "[nfs]\nclient = yes\naccept = 127.0.0.1:1\nconnect = 127.0.0.1:2\n";
    for (text, status, why) in [
        (format!("{service}chekHost = x"), 2, "nfs.conf:5:1: no key 'chekHost' is known: did you mean checkHost?"),
        (format!("foreground = perhaps\n{service}"), 2, "nfs.conf:1:14: foreground = perhaps: yes, quiet or no"),
        (format!("chroot = /run/x\n{service}"), 2, "nfs.conf:1:10: chroot = /run/x: "),
        (format!("foreground = yes\n{service}fips = yes"), 2, "nfs.conf:6:1: fips is about the whole program"),
        (format!("foreground = yes\n{service}CAfile = /none.pem\nverify = 2"), 1, "[nfs]: /none.pem: No such file"),
        (
            format!("foreground = yes\n{service}local = nowhere"),
            2,
            "[nfs]: invalid value 'nowhere' for '--bind-address",
        ),
        ("foreground = yes\nnonsense".into(), 2, "nfs.conf:2:1: neither 'key = value' nor [section]"),
    ] {
        let out = stunnel(&[written(&text).to_str().unwrap()]).output().unwrap();
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(out.status.code() == Some(status) && said.contains(why), "{text}: {:?} {said}", out.status);
        assert_eq!(said.lines().count(), 1, "{said}");
    }
    let out = stunnel(&["/no/such/file.conf"]).output().unwrap();
    assert!(String::from_utf8_lossy(&out.stderr).contains("/no/such/file.conf: No such file"));
}
