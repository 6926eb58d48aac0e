//! The committed table of verdicts (docs/verdicts.md): each line is done, with this program and with OpenSSL's client, and
//! has to come out as it says there. Nobody writes the table but people.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::far_ends::echo_server;
use crate::identity::pin;
use crate::policy::rehash;
use crate::support::authority::{Authority, Reply, Responder, Spec};
use crate::support::openssl::{SClient, SServer, Stunnel};
use crate::support::pki::{Identity, NAME};
use crate::support::process::{SOON, eventually, free_port, now};
use crate::support::sealane::{DRIVERS, Sealane, binary, expect_reset};

/// What is revoked before anything is asked.
const REVOKED: [&str; 3] = ["revoked", "revoked-must-staple", "between-revoked"];
/// Cases that there have to be at least.
const CASES_MIN: usize = 150;

const TABLE: &str = include_str!("../../docs/verdicts.md");

/// One line of the table.
#[derive(Debug)]
struct Case {
    line: usize,
    /// stunnel is asked, not OpenSSL's own programs.
    is_for_stunnel: bool,
    /// Who comes to whom: a client to `sealane server`, or `sealane client` to a server.
    is_of_client: bool,
    /// Which certificate the other end shows, and how it is started.
    peer: String,
    /// What `sealane` is told.
    options: String,
    accepted: bool,
    /// What it says of a refusal.
    says: String,
    /// What OpenSSL makes of it; `None`: it cannot judge that.
    openssl: Option<bool>,
    /// Why they differ.
    because: String,
}

fn cases() -> Vec<Case> {
    let (mut is_of_client, mut is_for_stunnel) = (false, false);
    let rows = TABLE.lines().enumerate().filter(|(_, text)| text.starts_with("| "));
    rows.filter_map(|(index, text)| {
        if text.starts_with("| server |") || text.starts_with("| client |") {
            is_of_client = text.starts_with("| client |");
            is_for_stunnel = text.contains("| stunnel's |");
            return None;
        }
        let cells: Vec<String> =
            text.trim_matches('|').split(" | ").map(|cell| cell.trim().trim_matches('`').to_string()).collect();
        let [peer, options, verdict, says, openssl, because] =
            cells.try_into().unwrap_or_else(|cells| panic!("line {}: {cells:?}", index + 1));
        let verdict_of = |text: &str| match text {
            "accepted" => Some(true),
            "refused" => Some(false),
            "" => None,
            other => panic!("line {}: '{other}'", index + 1),
        };
        Some(Case {
            line: index + 1,
            is_of_client,
            is_for_stunnel,
            accepted: verdict_of(&verdict).unwrap(),
            openssl: verdict_of(&openssl),
            peer,
            options,
            says,
            because,
        })
    })
    .collect()
}

/// The public key infrastructure of the table.
struct World {
    ca: Arc<Authority>,
    /// Nobody's concern.
    other: Authority,
    responder: Responder,
    silent: Responder,
    made: Mutex<BTreeMap<String, Identity>>,
}

const SAN: &str = "subjectAltName=DNS:nfs.test,IP:127.0.0.1";

/// What makes a certificate of the table, by its name there.
fn spec(name: &str) -> Spec {
    let spec = Spec { name: name.into(), extensions: SAN.into(), ..Spec::default() };
    let with = |more: &str| Spec { extensions: format!("{SAN}\n{more}"), ..spec.clone() };
    let named = |san: &str| Spec { extensions: format!("subjectAltName={san}"), ..spec.clone() };
    let keyed = |key: &str| Spec { key: key.into(), ..spec.clone() };
    let dated = |from: &str, to: &str| Spec { dates: Some((from.into(), to.into())), ..spec.clone() };
    let issued = |issuer: &str| Spec { issuer: issuer.into(), ..spec.clone() };
    let ca = |issuer: &str, more: &str| Spec {
        issuer: issuer.into(),
        extensions: format!("basicConstraints=critical,CA:TRUE{more}"),
        ..spec.clone()
    };
    match name {
        "good" | "revoked" | "unknown" => spec,
        "rsa-2048" => keyed("rsa:2048"),
        "rsa-3072" => keyed("rsa:3072"),
        "rsa-1024" => keyed("rsa:1024"),
        "rsa-pss" => keyed("rsa-pss:2048"),
        "p-384" => keyed("ec:P-384"),
        "p-521" => keyed("ec:P-521"),
        "secp256k1" => keyed("ec:secp256k1"),
        "ed25519" => keyed("ed25519"),
        "ed448" => keyed("ed448"),
        "sha1" => Spec { digest: "sha1".into(), ..spec },
        "sha384" => Spec { digest: "sha384".into(), ..spec },
        "sha512" => Spec { digest: "sha512".into(), ..spec },
        "expired" => dated("20200101000000Z", "20210101000000Z"),
        "not-yet" => dated("20400101000000Z", "20410101000000Z"),
        "long-lived" => dated("20200101000000Z", "20990101000000Z"),
        "cn-only" => Spec { subject: format!("/CN={NAME}"), extensions: "keyUsage=digitalSignature".into(), ..spec },
        "cn-and-other-san" => Spec { subject: format!("/CN={NAME}"), ..named("DNS:other.test") },
        "other-name" => named("DNS:other.test"),
        "wildcard" => named("DNS:*.wild.test"),
        "wildcard-deep" => named("DNS:*.*.wild.test"),
        "wildcard-part" => named("DNS:a*.wild.test"),
        "wildcard-top" => named("DNS:*.test"),
        "upper-case" => named("DNS:NFS.Test"),
        "trailing-dot" => named("DNS:nfs.test."),
        "ip-only" => named("IP:127.0.0.1"),
        "ipv6-only" => named("IP:::1"),
        "ip-as-dns" => named("DNS:127.0.0.1"),
        "email-only" => named("email:a@nfs.test"),
        "uri-only" => named("URI:https://nfs.test/"),
        "several-names" => named("DNS:a.test,DNS:b.test,DNS:nfs.test"),
        "eku-server" => with("extendedKeyUsage=serverAuth"),
        "eku-client" => with("extendedKeyUsage=clientAuth"),
        "eku-both" => with("extendedKeyUsage=clientAuth,serverAuth"),
        "eku-any" => with("extendedKeyUsage=anyExtendedKeyUsage"),
        "eku-ocsp" => with("extendedKeyUsage=OCSPSigning"),
        "eku-critical" => with("extendedKeyUsage=critical,serverAuth"),
        "ku-encipherment" => with("keyUsage=critical,keyEncipherment"),
        "ku-cert-sign" => with("keyUsage=critical,keyCertSign"),
        "ca-true" => with("basicConstraints=critical,CA:TRUE"),
        "ca-false" => with("basicConstraints=critical,CA:FALSE"),
        "unknown-critical" => with("1.2.3.4=critical,DER:0500"),
        "unknown-extension" => with("1.2.3.4=DER:0500"),
        "serial-zero" => Spec { serial: Some("0".into()), ..spec },
        "serial-long" => Spec { serial: Some(format!("0x{}", "7f".repeat(20))), ..spec },
        "revoked-must-staple" | "must-staple" => with("tlsfeature=status_request"),
        "between" | "between-revoked" => ca("ca", "\nkeyUsage=critical,keyCertSign,cRLSign"),
        "between-rsa" => Spec { key: "rsa:2048".into(), ..ca("ca", "") },
        "between-p-384" => Spec { key: "ec:P-384".into(), ..ca("ca", "") },
        "between-ed25519" => Spec { key: "ed25519".into(), ..ca("ca", "") },
        "between-expired" => Spec { dates: Some(("20200101000000Z".into(), "20210101000000Z".into())), ..ca("ca", "") },
        "between-no-ca" => Spec { extensions: "basicConstraints=critical,CA:FALSE".into(), ..spec },
        "between-no-basic" => Spec { extensions: "keyUsage=keyCertSign".into(), ..spec },
        "between-no-sign" => ca("ca", "\nkeyUsage=critical,digitalSignature"),
        "between-path-0" => ca("ca", ",pathlen:0"),
        "between-under-0" => ca("between-path-0", ""),
        "between-second" => ca("between", ""),
        "between-permits" => {
            ca("ca", "\nnameConstraints=critical,permitted;DNS:nfs.test,permitted;IP:127.0.0.0/255.0.0.0")
        }
        "between-permits-other" => ca("ca", "\nnameConstraints=critical,permitted;DNS:other.test"),
        "between-excludes" => ca("ca", "\nnameConstraints=critical,excluded;DNS:nfs.test"),
        "between-eku-client" => ca("ca", "\nextendedKeyUsage=clientAuth"),
        "between-eku-server" => ca("ca", "\nextendedKeyUsage=serverAuth"),
        "self" => issued("self"),
        "self-ca" => Spec { issuer: "self".into(), ..with("basicConstraints=critical,CA:TRUE") },
        name if name.starts_with("under-") => issued(name.strip_prefix("under-").unwrap()),
        other => panic!("no certificate '{other}'"),
    }
}

impl World {
    fn new() -> Self {
        let ca = Arc::new(Authority::new());
        let answering = Arc::clone(&ca);
        let responder = Responder::start(move |request| Reply::Response(answering.answer(request)));
        let silent = Responder::start(|_| Reply::Silence);
        let world = Self { ca, other: Authority::named("other"), responder, silent, made: Mutex::default() };
        for name in REVOKED {
            world.identity(name);
            world.ca.revoke(name);
        }
        world.identity("unknown");
        world.ca.forget("unknown");
        world
    }

    /// The certificate of this name, made when it is first wanted.
    fn identity(&self, name: &str) -> Identity {
        if name == "of-other" {
            let mut made = self.made.lock().unwrap();
            let identity = made.entry(name.into()).or_insert_with(|| self.other.server(name));
            return Identity { cert: identity.cert.clone(), key: identity.key.clone() };
        }
        let spec = spec(name);
        if !["ca", "self"].contains(&spec.issuer.as_str()) {
            self.identity(&spec.issuer);
        }
        let mut made = self.made.lock().unwrap();
        let identity = made.entry(name.into()).or_insert_with(|| self.ca.certify(&spec));
        Identity { cert: identity.cert.clone(), key: identity.key.clone() }
    }

    /// Words, of which `{KIND:NAME}` stands for a file, a hash or an address.
    fn expand(&self, text: &str) -> Vec<String> {
        let path = |file: PathBuf| file.display().to_string();
        let word = |word: &str| {
            let Some(inner) = word.strip_prefix('{').and_then(|word| word.strip_suffix('}')) else {
                return word.to_string();
            };
            match inner.split_once(':').unwrap_or((inner, "")) {
                ("ca", _) => self.ca.ca(),
                ("other-ca", _) => self.other.ca(),
                ("cert", name) => path(self.identity(name).cert),
                ("key", name) => path(self.identity(name).key),
                ("pin", name) => pin(&self.identity(name)),
                ("allow-pin", name) => format!("pin:{}", pin(&self.identity(name))),
                ("staple", name) => path(self.staple(name)),
                ("ca-dir", name) => path(self.ca_dir(name)),
                ("crl", name) => path(self.crl(name)),
                ("ocsp", name) => self.responder(name),
                other => panic!("no {other:?}"),
            }
        };
        text.split_whitespace().map(word).collect()
    }

    /// A file with these certificates, made when it is first wanted: others may be reading it.
    fn chain(&self, names: &str) -> PathBuf {
        let certificate = |name: &str| if name == "ca" { self.ca.file("ca.pem") } else { self.identity(name).cert };
        let all: String = names.split(',').map(|name| std::fs::read_to_string(certificate(name)).unwrap()).collect();
        let file = self.ca.file(&format!("{}.chain", names.replace(',', "+")));
        let _one_at_a_time = self.made.lock().unwrap();
        if !file.exists() {
            std::fs::write(&file, all).unwrap();
        }
        file
    }

    fn staple(&self, name: &str) -> PathBuf {
        self.identity(name);
        let file = self.ca.file(&format!("{name}.staple"));
        let _one_at_a_time = self.made.lock().unwrap();
        if file.exists() { file } else { self.ca.staple(name) }
    }

    /// A directory with one certificate, by its hash.
    fn ca_dir(&self, name: &str) -> PathBuf {
        let certificate = match name {
            "ca" => self.ca.file("ca.pem"),
            "other" => self.other.file("ca.pem"),
            name => self.identity(name).cert,
        };
        let directory = self.ca.file(&format!("{name}.ca-dir"));
        let _one_at_a_time = self.made.lock().unwrap();
        if !directory.exists() {
            std::fs::create_dir(&directory).unwrap();
            std::fs::copy(certificate, directory.join("certificate.pem")).unwrap();
            rehash(&directory);
        }
        directory
    }

    fn crl(&self, name: &str) -> PathBuf {
        let (ca, issuer, times): (&Authority, _, &[&str]) = match name {
            "current" => (&self.ca, "ca", &["-crldays", "3"]),
            "expired" => {
                (&self.ca, "ca", &["-crl_lastupdate", "20260101000000Z", "-crl_nextupdate", "20260102000000Z"])
            }
            "other" => (&self.other, "ca", &["-crldays", "3"]),
            "between" => {
                self.identity("between");
                (&self.ca, "between", &["-crldays", "3"])
            }
            other => panic!("no CRL '{other}'"),
        };
        let _one_at_a_time = self.made.lock().unwrap();
        let file = ca.file(&format!("{name}.crl"));
        if file.exists() { file } else { ca.crl(issuer, name, times) }
    }

    fn responder(&self, name: &str) -> String {
        match name {
            "" => self.responder.url(),
            "dead" => format!("http://127.0.0.1:{}", free_port()),
            "silent" => self.silent.url(),
            other => panic!("no responder '{other}'"),
        }
    }
}

/// What OpenSSL's end of a case is told: its certificate, `chain=A,B` behind it, `staple=NAME`, and options of s_server or s_client.
fn openssl_options<'c>(world: &World, cell: &'c str) -> (&'c str, Vec<String>) {
    let mut words = cell.split_whitespace();
    let name = words.next().unwrap();
    let mut args = vec!["-cipher".to_string(), "DEFAULT@SECLEVEL=0".into()];
    for word in words {
        match word.split_once('=') {
            Some(("chain", names)) => {
                args.extend(["-cert_chain".into(), world.chain(names).display().to_string()]);
            }
            Some(("staple", name)) => args.extend(["-status_file".into(), world.staple(name).display().to_string()]),
            _ => args.extend(world.expand(word)),
        }
    }
    (name, args)
}

fn start_server(world: &World, cell: &str) -> SServer {
    let (name, args) = openssl_options(world, cell);
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    SServer::with_identity(&world.identity(name), &args)
}

/// OpenSSL's client, which goes to `port` and says `tag`.
fn start_openssl_client(world: &World, cell: &str, port: u16, tag: &str) -> SClient {
    let (name, mut args) = openssl_options(world, cell);
    if name != "none" {
        let Identity { cert, key } = world.identity(name);
        args.extend(["-cert".into(), cert.display().to_string(), "-key".into(), key.display().to_string()]);
    }
    args.extend(["-CAfile".into(), world.ca.ca()]);
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let mut client = SClient::start(port, &args);
    // It may have ended already.
    let _ = client.input.write_all(format!("{tag}\n").as_bytes());
    client
}

/// `sealane server` as a case has it, before an echo.
fn start_sealane_server(world: &World, case: &Case, echo: u16) -> Sealane {
    let mut args = world.expand(&case.options);
    if !args.iter().any(|arg| arg == "--client-ca") {
        args.extend(["--client-ca".into(), world.ca.ca()]);
    }
    let own = world.identity("good");
    let [cert, key] = [&own.cert, &own.key].map(|file| file.display().to_string());
    args.extend(["--cert".into(), cert, "--key".into(), key]);
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    Sealane::server(DRIVERS[case.line % 2], echo, &args)
}

/// What OpenSSL's server, told the same, makes of the client.
fn openssl_server_accepts(world: &World, case: &Case) -> bool {
    let mut args: Vec<String> =
        ["-cipher", "DEFAULT@SECLEVEL=0", "-Verify", "5", "-verify_return_error", "-CAfile"].map(String::from).into();
    args.push(world.ca.ca());
    let options = world.expand(&case.options);
    for (_, file) in options.iter().zip(options.iter().skip(1)).filter(|(name, _)| *name == "--crl-file") {
        args.extend(["-CRL".into(), file.clone(), "-crl_check_all".into()]);
    }
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let server = SServer::with_identity(&world.identity("good"), &args);
    let tag = format!("asked by line {}", case.line);
    let _client = start_openssl_client(world, &case.peer, server.port, &tag);
    let started = now();
    loop {
        let said = server.process.output();
        match (said.contains(&tag), said.contains("ERROR")) {
            (true, _) => return true,
            (_, true) => return false,
            _ => assert!(now() - started < SOON, "{said}"),
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// The same as [`check`], of a client.
fn check_client(world: &World, case: &Case, echo: u16) -> Result<(), String> {
    if let Some(accepted) = case.openssl
        && openssl_server_accepts(world, case) != accepted
    {
        return Err(format!("OpenSSL's server {}", if accepted { "refuses" } else { "accepts" }));
    }
    let sealane = start_sealane_server(world, case, echo);
    let tag = format!("case {}", case.line);
    let client = start_openssl_client(world, &case.peer, sealane.port, &tag);
    let started = now();
    let is_through = loop {
        let (log, heard) = (sealane.process.output(), client.process.output().contains(&tag));
        match (heard, log.contains("closed: TLS handshake: ")) {
            (true, _) => break true,
            (_, true) => break false,
            _ if now() - started > SOON => return Err(format!("nothing happens: {log}{}", client.process.output())),
            _ => std::thread::sleep(Duration::from_millis(2)),
        }
    };
    let said = errors(&sealane);
    match (is_through, case.accepted) {
        (true, true) => Ok(()),
        (false, false) if said.contains(&case.says) => Ok(()),
        (false, false) => Err(format!("it says: {said}")),
        (is_through, _) => Err(format!("{}: {said}", if is_through { "accepted" } else { "refused" })),
    }
}

fn start_client(world: &World, case: &Case, server: &SServer) -> Sealane {
    let mut args = world.expand(&case.options);
    let has = |option: &str| args.iter().any(|arg| arg == option);
    let (without_ca, without_name) =
        (has("--ca-file") || has("--ca-dir") || has("--pin-only") || has("--insecure-no-verify"), has("--server-name"));
    if !without_ca {
        args.extend(["--ca-file".into(), world.ca.ca()]);
    }
    if !without_name && !args.iter().any(|arg| arg == "--pin-only" || arg == "--any-server-name") {
        args.extend(["--server-name".into(), NAME.into()]);
    }
    let mut client = Command::new(binary());
    client.args(["client", "--listen", "127.0.0.1:0", "--log-level", "debug", "--io", DRIVERS[case.line % 2]]);
    client.args(["--connect", &format!("127.0.0.1:{}", server.port)]).args(args);
    Sealane::from_command(client.stdin(Stdio::null()).env_remove("RUST_LOG").env_remove("http_proxy"))
}

/// What stunnel, told the same, makes of the server.
fn stunnel_accepts(world: &World, case: &Case, server: &SServer) -> bool {
    let args = world.expand(&case.options);
    let pairs = args.iter().zip(args.iter().skip(1));
    let value = |option: &str| pairs.clone().find(|(name, _)| *name == option).map(|(_, value)| value.clone());
    let nonce = if args.iter().any(|arg| arg == "--ocsp-nonce") { "OCSPnonce = yes\n" } else { "" };
    let url = value("--ocsp-url").map_or_else(String::new, |url| format!("OCSP = {url}\n"));
    let name = value("--server-name").unwrap_or_else(|| NAME.into());
    let stunnel = Stunnel::trusting(&world.ca.ca(), &name, server.port, &format!("{url}{nonce}"));
    let tag = format!("by stunnel, line {}", case.line);
    let mut stream = TcpStream::connect(("127.0.0.1", stunnel.port)).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    stream.write_all(format!("{tag}\n").as_bytes()).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    // It ends the connection in any case.
    let _ = stream.read_to_end(&mut Vec::new());
    // What it says at the end of a connection: of that which tried whether it listens, and of this one.
    eventually("both have ended", || stunnel.process.count(" byte(s) sent to TLS") == 2);
    let is_through = stunnel.process.count(": 0 byte(s) sent to TLS") < 2;
    if case.openssl != Some(is_through) {
        eprintln!("stunnel, line {}:\n{}", case.line, stunnel.process.output());
    }
    is_through
}

/// What of a list fits, with OpenSSL's names and colons.
fn listed(value: &str, name: impl Fn(&str) -> Option<String>) -> String {
    value.split(',').filter_map(name).collect::<Vec<_>>().join(":")
}

/// What OpenSSL's client is told about what may be agreed on.
fn openssl_policy(value: impl Fn(&str) -> Option<String>) -> Vec<String> {
    let mut all = Vec::new();
    let mut say = |option: &str, words: String| {
        all.extend([option.to_string(), words].into_iter().filter(|word| !word.is_empty()))
    };
    if let Some(suites) = value("--tls-suites") {
        let is_12 = |suite: &str| suite.contains("_WITH_");
        let of_12 = |suite: &str| {
            let name = suite.trim_start_matches("TLS_").replace("_WITH_", "-").replace("AES_", "AES").replace('_', "-");
            is_12(suite).then_some(name)
        };
        let of_13 = |suite: &str| (!is_12(suite)).then(|| suite.to_string());
        match listed(&suites, of_12) {
            names if names.is_empty() => say("-tls1_3", names),
            names => say("-cipher", names),
        }
        match listed(&suites, of_13) {
            names if names.is_empty() => say("-tls1_2", names),
            names => say("-ciphersuites", names),
        }
    }
    let group = |group: &str| {
        Some(group.replace("x25519", "X25519").replace("secp256r1", "P-256").replace("secp384r1", "P-384"))
    };
    value("--tls-groups").into_iter().for_each(|groups| say("-groups", listed(&groups, group)));
    value("--tls-signatures").into_iter().for_each(|all| say("-sigalgs", listed(&all, |one| Some(one.into()))));
    match (value("--tls").as_deref(), value("--tls-profile").as_deref()) {
        (Some("1.2"), _) => say("-tls1_2", String::new()),
        (Some("1.3"), _) | (_, Some("modern")) => say("-tls1_3", String::new()),
        _ => {}
    }
    all
}

/// What OpenSSL's client, told the same, makes of the server.
fn openssl_accepts(world: &World, case: &Case, server: &SServer) -> bool {
    let mut client = Command::new("openssl");
    client.args(["s_client", "-connect", &format!("127.0.0.1:{}", server.port), "-verify_return_error"]);
    let args = world.expand(&case.options);
    let pairs = args.iter().zip(args.iter().skip(1));
    let value = |option: &str| pairs.clone().find(|(name, _)| *name == option).map(|(_, value)| value.clone());
    match value("--ca-dir") {
        Some(directory) => client.args(["-no-CAfile", "-CApath", &directory]),
        None => client.args(["-CAfile", &value("--ca-file").unwrap_or_else(|| world.ca.ca())]),
    };
    let name = value("--server-name").unwrap_or_else(|| NAME.into());
    match name.parse::<std::net::IpAddr>() {
        Ok(_) => client.args(["-verify_ip", &name]),
        Err(_) => client.args(["-verify_hostname", &name, "-servername", &name]),
    };
    let mut has_crl = false;
    for (_, file) in pairs.clone().filter(|(name, _)| *name == "--crl-file") {
        client.args(["-CRL", file]);
        has_crl = true;
    }
    if has_crl {
        client.arg(if args.iter().any(|arg| arg == "own") { "-crl_check" } else { "-crl_check_all" });
    }
    client.args(openssl_policy(value));
    client.stdin(Stdio::null()).output().unwrap().status.success()
}

/// Whether a case comes out as it says there; if not, how.
fn check(world: &World, case: &Case) -> Result<(), String> {
    let server = start_server(world, &case.peer);
    if let Some(accepted) = case.openssl {
        let (who, verdict) = match case.is_for_stunnel {
            true => ("stunnel", stunnel_accepts(world, case, &server)),
            false => ("OpenSSL's client", openssl_accepts(world, case, &server)),
        };
        if verdict != accepted {
            return Err(format!("{who} {}", if accepted { "refuses" } else { "accepts" }));
        }
    }
    let client = start_client(world, case, &server);
    let tag = format!("case {}", case.line);
    let mut stream = client.connect_and_say(format!("{tag}\n").as_bytes());
    let started = now();
    let is_through = loop {
        let (log, heard) = (client.process.output(), server.process.output().contains(&tag));
        match (heard, log.contains("ERROR closed: ")) {
            (true, _) => break true,
            (_, true) => break false,
            _ if now() - started > SOON => return Err(format!("nothing happens: {log}")),
            _ => std::thread::sleep(Duration::from_millis(2)),
        }
    };
    if is_through != case.accepted {
        return Err(format!("{}: {}", if is_through { "accepted" } else { "refused" }, errors(&client)));
    }
    if !is_through {
        let said = errors(&client);
        if !said.contains(&case.says) {
            return Err(format!("it says: {said}"));
        }
        expect_reset(&mut stream, SOON);
    }
    Ok(())
}

fn errors(client: &Sealane) -> String {
    let log = client.process.output();
    log.lines().filter(|line| line.contains("ERROR") || line.contains("WARN")).collect::<Vec<_>>().join("\n")
}

#[test]
fn every_verdict_of_the_table_is_what_it_says() {
    let (world, cases, echo) = (World::new(), cases(), echo_server());
    let next = AtomicUsize::new(0);
    let wrong = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let checked =
                        if case.is_of_client { check_client(&world, case, echo) } else { check(&world, case) };
                    if let Err(how) = checked {
                        wrong
                            .lock()
                            .unwrap()
                            .push(format!("docs/verdicts.md:{}: {} {}: {how}", case.line, case.peer, case.options));
                    }
                }
            });
        }
    });
    let wrong = wrong.into_inner().unwrap();
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
}

/// A table can be wrong in itself.
#[test]
fn the_table_is_complete() {
    let cases = cases();
    let (mut lines, mut distinct, mut refused) = (BTreeSet::new(), BTreeSet::new(), 0);
    for case in &cases {
        let Case { line, is_of_client, peer, options, accepted, says, openssl, because, .. } = case;
        assert!(lines.insert((is_of_client, peer, options)), "line {line}: it is there twice");
        // The same with another version is no other case.
        let without_version = |text: &str| -> Vec<String> {
            let text = [" -tls1_2", " -tls1_3", "--tls 1.2", "--tls 1.3"]
                .iter()
                .fold(format!(" {text}"), |text, tls| text.replace(tls, ""));
            text.split_whitespace().map(String::from).collect()
        };
        if distinct.insert((is_of_client, without_version(peer), without_version(options))) {
            refused += usize::from(!accepted);
        }
        assert_eq!(says.is_empty(), *accepted, "line {line}: a refusal says why");
        let differs = openssl.is_some_and(|openssl| openssl != *accepted);
        assert!(!differs || !because.is_empty(), "line {line}: why do they differ?");
    }
    let count = distinct.len();
    eprintln!("{} lines, {count} cases without versions, {refused} of them refusals", lines.len());
    assert!(count >= CASES_MIN && 2 * refused >= count, "{count} cases, {refused} of them refusals");
}
