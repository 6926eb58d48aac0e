//! A certificate authority run by OpenSSL: it revokes, and its responder answers for it.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::openssl::accepting_port;
use super::pki::Identity;
use super::process::{Process, SOON, scratch};

/// Root, index and certificates, in one directory.
pub struct Authority {
    dir: PathBuf,
    serial: AtomicUsize,
}

fn openssl(dir: &Path, args: &str) -> String {
    let done = Command::new("openssl").args(args.split_whitespace()).current_dir(dir).output().unwrap();
    assert!(done.status.success(), "openssl {args}: {}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8_lossy(&done.stdout).into_owned()
}

/// A certificate that is to be made.
#[derive(Clone, Debug)]
pub struct Spec {
    pub name: String,
    /// `ca`, the name of another certificate, or `self`.
    pub issuer: String,
    /// `rsa:BITS`, `rsa-pss:BITS`, `ec:CURVE`, or an algorithm that has no choice.
    pub key: String,
    /// `/CN=` and the name, where it is empty.
    pub subject: String,
    /// Lines of extensions.
    pub extensions: String,
    pub digest: String,
    pub serial: Option<String>,
    /// The first and the last moment, as OpenSSL wants them.
    pub dates: Option<(String, String)>,
}

impl Default for Spec {
    fn default() -> Self {
        let text = String::from;
        Self {
            name: String::new(),
            issuer: text("ca"),
            key: text("ec:P-256"),
            subject: String::new(),
            extensions: String::new(),
            digest: text("sha256"),
            serial: None,
            dates: None,
        }
    }
}

impl Spec {
    fn key_arguments(&self) -> String {
        match self.key.split_once(':') {
            Some(("ec", curve)) => format!("-algorithm EC -pkeyopt ec_paramgen_curve:{curve}"),
            Some(("rsa", bits)) => format!("-algorithm RSA -pkeyopt rsa_keygen_bits:{bits}"),
            Some(("rsa-pss", bits)) => format!("-algorithm RSA-PSS -pkeyopt rsa_keygen_bits:{bits}"),
            _ => format!("-algorithm {}", self.key),
        }
    }
}

const KEY: &str = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes";
const SERVER: &str = "subjectAltName=DNS:nfs.test,IP:127.0.0.1";

impl Authority {
    pub fn new() -> Self {
        Self::named("root")
    }

    /// With a name of its own: CRLs go by their issuer's name.
    pub fn named(name: &str) -> Self {
        let dir = scratch("authority");
        openssl(&dir, &format!("req -x509 {KEY} -keyout ca.key -out ca.pem -days 30 -subj /CN={name}"));
        std::fs::write(dir.join("index.txt"), "").unwrap();
        let authority = Self { dir, serial: AtomicUsize::new(1) };
        authority.issue("responder", "ca", "extendedKeyUsage=OCSPSigning");
        authority
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    pub fn ca(&self) -> String {
        self.file("ca.pem").display().to_string()
    }

    /// A server's certificate.
    pub fn server(&self, name: &str) -> Identity {
        self.issue(name, "ca", SERVER)
    }

    /// A certificate of `issuer` with these lines of extensions.
    pub fn issue(&self, name: &str, issuer: &str, extensions: &str) -> Identity {
        let serial = self.serial.fetch_add(1, Ordering::Relaxed) + 0x1000;
        std::fs::write(self.file("extensions"), format!("authorityKeyIdentifier=keyid\n{extensions}\n")).unwrap();
        openssl(&self.dir, &format!("req -new {KEY} -keyout {name}.key -out {name}.csr -subj /CN={name}"));
        openssl(
            &self.dir,
            &format!(
                "x509 -req -in {name}.csr -CA {issuer}.pem -CAkey {issuer}.key -set_serial {serial} -days 20 -extfile extensions \
                 -out {name}.pem"
            ),
        );
        self.index(&format!("V\t301231235959Z\t\t{serial:X}\tunknown\t/CN={name}\n"));
        Identity { cert: self.file(&format!("{name}.pem")), key: self.file(&format!("{name}.key")) }
    }

    /// Any certificate.
    pub fn certify(&self, spec: &Spec) -> Identity {
        let Spec { name, issuer, extensions, digest, dates, .. } = spec;
        let subject = if spec.subject.is_empty() { format!("/CN={name}") } else { spec.subject.clone() };
        let serial = spec.serial.clone().unwrap_or_else(|| {
            let serial = self.serial.fetch_add(1, Ordering::Relaxed) + 0x1000;
            self.index(&format!("V\t301231235959Z\t\t{serial:X}\tunknown\t/CN={name}\n"));
            serial.to_string()
        });
        std::fs::write(self.file(&format!("{name}.ext")), format!("{extensions}\n")).unwrap();
        self.run(&format!("genpkey {} -out {name}.key", spec.key_arguments()));
        self.run(&format!("req -new -key {name}.key -subj {subject} -out {name}.csr"));
        let signer = match issuer.as_str() {
            "self" => format!("-signkey {name}.key"),
            issuer => format!("-CA {issuer}.pem -CAkey {issuer}.key"),
        };
        match dates {
            None => self.run(&format!(
                "x509 -req -in {name}.csr {signer} -set_serial {serial} -days 20 -{digest} -extfile {name}.ext -out {name}.pem"
            )),
            // x509 knows days only.
            Some((from, to)) => {
                let text = "[ca]\ndefault_ca=d\n[d]\ndatabase=made.txt\nnew_certs_dir=.\npolicy=p\nunique_subject=no\nserial=made.srl\n\
                            default_md=sha256\n[p]\ncommonName=supplied\n";
                std::fs::write(self.file("made.cnf"), text).unwrap();
                std::fs::write(self.file("made.txt"), "").unwrap();
                std::fs::write(self.file("made.srl"), "0F00\n").unwrap();
                self.run(&format!(
                    "ca -config made.cnf -batch -notext -in {name}.csr -out {name}.pem -cert {issuer}.pem -keyfile {issuer}.key \
                     -startdate {from} -enddate {to} -extfile {name}.ext"
                ));
            }
        }
        Identity { cert: self.file(&format!("{name}.pem")), key: self.file(&format!("{name}.key")) }
    }

    fn index(&self, line: &str) {
        let mut index = std::fs::OpenOptions::new().append(true).open(self.file("index.txt")).unwrap();
        index.write_all(line.as_bytes()).unwrap();
    }

    /// Revokes a certificate for the compromise of its key.
    pub fn revoke(&self, name: &str) {
        self.change(name, |line| {
            line.replacen("V\t301231235959Z\t\t", "R\t301231235959Z\t260102030405Z,keyCompromise\t", 1)
        });
    }

    fn change(&self, name: &str, change: impl Fn(&str) -> String) {
        let index = std::fs::read_to_string(self.file("index.txt")).unwrap();
        let end = format!("/CN={name}");
        let lines = index.lines().map(|line| if line.ends_with(&end) { change(line) } else { line.into() } + "\n");
        std::fs::write(self.file("index.txt"), lines.collect::<String>()).unwrap();
    }

    /// A CRL of `issuer` with all that was revoked so far; its file.
    pub fn crl(&self, issuer: &str, name: &str, times: &[&str]) -> PathBuf {
        let text = format!(
            "[ca]\ndefault_ca=d\n[d]\ndatabase=index.txt\ncertificate={issuer}.pem\nprivate_key={issuer}.key\ndefault_md=sha256\n\
             crlnumber=crlnumber\ncrl_extensions=e\n[e]\nauthorityKeyIdentifier=keyid:always\n"
        );
        std::fs::write(self.file("ca.cnf"), text).unwrap();
        std::fs::write(self.file("crlnumber"), "01\n").unwrap();
        self.run(&format!("ca -config ca.cnf -gencrl -out {name}.crl {}", times.join(" ")));
        self.file(&format!("{name}.crl"))
    }

    /// One of OpenSSL's programs in the authority's directory.
    pub fn run(&self, args: &str) {
        self.printed(args);
    }

    /// What it printed.
    pub fn printed(&self, args: &str) -> String {
        openssl(&self.dir, args)
    }

    /// Has the responder forget a certificate.
    pub fn forget(&self, name: &str) {
        let index = std::fs::read_to_string(self.file("index.txt")).unwrap();
        let end = format!("/CN={name}");
        let lines = index.lines().filter(|line| !line.ends_with(&end)).map(|line| format!("{line}\n"));
        std::fs::write(self.file("index.txt"), lines.collect::<String>()).unwrap();
    }

    /// Takes a revocation back.
    pub fn restore(&self, name: &str) {
        self.change(name, |line| {
            line.replacen("R\t301231235959Z\t260102030405Z,keyCompromise\t", "V\t301231235959Z\t\t", 1)
        });
    }

    /// The serial number of a certificate, as it is written in requests.
    pub fn serial(&self, name: &str) -> Vec<u8> {
        let mut x509 = Command::new("openssl");
        x509.args(["x509", "-noout", "-serial", "-in", &format!("{name}.pem")]).current_dir(&self.dir);
        let out = x509.output().unwrap().stdout;
        let digits = String::from_utf8(out).unwrap().trim().replace("serial=", "");
        let bytes = (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap());
        let bytes: Vec<u8> = bytes.collect();
        [&[2, bytes.len() as u8], bytes.as_slice()].concat()
    }

    /// What OpenSSL's responder answers to a request.
    pub fn answer(&self, request: &[u8]) -> Vec<u8> {
        self.answer_with("ca", "responder", 5, request)
    }

    /// The same, good for so many minutes.
    pub fn answer_for(&self, minutes: u32, request: &[u8]) -> Vec<u8> {
        self.answer_with("ca", "responder", minutes, request)
    }

    /// The same about certificates of `issuer`, by its own key.
    pub fn answer_of(&self, issuer: &str, request: &[u8]) -> Vec<u8> {
        self.answer_with(issuer, issuer, 5, request)
    }

    fn answer_with(&self, issuer: &str, signer: &str, minutes: u32, request: &[u8]) -> Vec<u8> {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("answer{}", COUNT.fetch_add(1, Ordering::Relaxed));
        std::fs::write(self.file(&format!("{name}.req")), request).unwrap();
        openssl(
            &self.dir,
            &format!(
                "ocsp -index index.txt -CA {issuer}.pem -rsigner {signer}.pem -rkey {signer}.key -nmin {minutes} -reqin {name}.req \
                 -respout {name}.der"
            ),
        );
        std::fs::read(self.file(&format!("{name}.der"))).unwrap()
    }

    /// A response about a certificate, to be stapled; its file.
    pub fn staple(&self, name: &str) -> PathBuf {
        openssl(&self.dir, &format!("ocsp -issuer ca.pem -cert {name}.pem -no_nonce -reqout {name}.req"));
        let response = self.answer(&std::fs::read(self.file(&format!("{name}.req"))).unwrap());
        let file = self.file(&format!("{name}.staple"));
        std::fs::write(&file, response).unwrap();
        file
    }

    /// OpenSSL's responder at work. It hangs on a connection that ends without a request: nobody may try its port.
    pub fn responder(&self) -> OpensslResponder {
        let mut command = Command::new("openssl");
        command.args("ocsp -index index.txt -CA ca.pem -rsigner responder.pem -rkey responder.key -nmin 5".split(' '));
        command.args(["-port", "0"]).current_dir(&self.dir).stdin(Stdio::null());
        let process = Process::start(&mut command);
        process.wait_for("waiting for OCSP client connections");
        let port = accepting_port(&process, "ACCEPT [::]:");
        OpensslResponder { _process: process, port }
    }
}

pub struct OpensslResponder {
    _process: Process,
    pub port: u16,
}

impl OpensslResponder {
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }
}

/// What a responder of ours does with an OCSP request, however that came.
pub type Behaviour = Box<dyn Fn(&[u8]) -> Reply + Send + Sync>;

pub enum Reply {
    /// An OCSP response.
    Response(Vec<u8>),
    /// These very bytes.
    Raw(Vec<u8>),
    /// Nothing, for ever.
    Silence,
}

/// A responder of our own, honest or not, which counts.
pub struct Responder {
    pub port: u16,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Responder {
    pub fn start(behaviour: impl Fn(&[u8]) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let requests: Arc<Mutex<Vec<String>>> = Arc::default();
        let (behaviour, heard): (Arc<Behaviour>, _) = (Arc::new(Box::new(behaviour)), Arc::clone(&requests));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(stream) = stream else { return };
                let (behaviour, heard) = (Arc::clone(&behaviour), Arc::clone(&heard));
                std::thread::spawn(move || serve(stream, &behaviour, &heard));
            }
        });
        Self { port, requests }
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The heads of all requests so far.
    pub fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }
}

fn serve(mut stream: TcpStream, behaviour: &Behaviour, heard: &Mutex<Vec<String>>) {
    stream.set_read_timeout(Some(SOON)).unwrap();
    let mut bytes = Vec::new();
    let mut part = [0; 4096];
    let (head, content) = loop {
        let Ok(count @ 1..) = stream.read(&mut part) else { return };
        bytes.extend(&part[..count]);
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let Some((head, _)) = text.split_once("\r\n\r\n") else { continue };
        let length = head
            .to_ascii_lowercase()
            .split("content-length: ")
            .nth(1)
            .map_or(0, |rest| rest.split("\r\n").next().unwrap().parse().unwrap());
        let start = head.len() + 4;
        if bytes.len() >= start + length {
            break (head.to_string(), bytes[start..start + length].to_vec());
        }
    };
    let content = if head.starts_with("GET ") { decoded(head.split(' ').nth(1).unwrap()) } else { content };
    heard.lock().unwrap().push(head);
    let reply = match behaviour(&content) {
        Reply::Response(response) => http(200, "application/ocsp-response", &response),
        Reply::Raw(bytes) => bytes,
        Reply::Silence => return std::thread::sleep(Duration::from_secs(60)),
    };
    let _ = stream.write_all(&reply);
}

/// An HTTP response.
pub fn http(status: u16, kind: &str, content: &[u8]) -> Vec<u8> {
    let head = format!("HTTP/1.1 {status} X\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\r\n", content.len());
    [head.as_bytes(), content].concat()
}

/// The request in the last segment of a path: base64, percent-encoded.
fn decoded(path: &str) -> Vec<u8> {
    let segment = path.rsplit('/').next().unwrap();
    let text = segment.replace("%2B", "+").replace("%2F", "/").replace("%3D", "=");
    let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let digits: Vec<u32> = text
        .trim_end_matches('=')
        .bytes()
        .map(|sign| alphabet.iter().position(|known| *known == sign).unwrap() as u32)
        .collect();
    digits
        .chunks(4)
        .flat_map(|four| {
            let bits = four.iter().fold(0, |bits, digit| bits << 6 | digit) << (6 * (4 - four.len()));
            [16, 8, 0].map(|shift| (bits >> shift) as u8).into_iter().take(four.len() * 6 / 8)
        })
        .collect()
}
