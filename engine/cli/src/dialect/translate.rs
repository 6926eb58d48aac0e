//! From the lines of a file to what a tunnel is told: each service becomes a command line of `sealane client` or `sealane server`,
//! and each line is told what became of it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::dialect::agreement;
use crate::dialect::keys::{self, Fate, Key, Scope};
use crate::dialect::lines::{Entry, Lines, Place, Section, Wrong};
use crate::dialect::program::{Program, program};
use crate::tunnels::Service;

/// What became of a line.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Note {
    pub(crate) place: Place,
    pub(crate) key: String,
    pub(crate) value: String,
    pub(crate) fate: Fate,
    /// Options of ours, or why it changes nothing.
    pub(crate) becomes: String,
}

/// What a whole file becomes.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Plan {
    pub(crate) program: Program,
    pub(crate) services: Vec<Service>,
    /// In the file's order.
    pub(crate) notes: Vec<Note>,
}

pub(super) type Done<T> = Result<T, Wrong>;

pub(super) fn wrong<T>(entry: &Entry, what: impl Into<String>) -> Done<T> {
    Err(Wrong { place: entry.value_at, what: format!("{} = {}: {}", entry.key, entry.value, what.into()) })
}

/// What became of a line, to be filled in where it is used.
#[derive(Default)]
pub(super) struct Scribe(Vec<Note>);

impl Scribe {
    /// Whether it is told what became of this line.
    pub(super) fn has(&self, entry: &Entry) -> bool {
        self.0.iter().any(|note| note.place == entry.key_at)
    }

    /// All of it, in the file's order.
    pub(super) fn notes(mut self) -> Vec<Note> {
        // What stands before the first section is used by each.
        self.0.sort_by_key(|note| note.place);
        self.0.dedup_by(|one, other| one.place == other.place && one.becomes == other.becomes);
        self.0
    }

    pub(super) fn note(&mut self, entry: &Entry, fate: Fate, becomes: impl Into<String>) {
        let Entry { key, value, key_at, .. } = entry;
        self.0.push(Note { place: *key_at, key: key.clone(), value: value.clone(), fate, becomes: becomes.into() });
    }
}

/// What `lines` become.
///
/// # Errors
/// The first line that cannot be followed, and must not be ignored.
pub(crate) fn translate(lines: &Lines) -> Done<Plan> {
    let mut scribe = Scribe::default();
    let (global, defaults) = sort(&lines.global)?;
    let program = program(&global, &mut scribe)?;
    let Some(_) = lines.sections.first() else {
        let place = Place { line: 1, column: 1 };
        return Err(Wrong { place, what: "no [service]: a connection on standard input (inetd) is not served".into() });
    };
    let mut services = Vec::new();
    for section in &lines.sections {
        services.extend(services_of(section, &defaults, &mut scribe)?);
    }
    Ok(Plan { program, services, notes: scribe.notes() })
}

pub(super) type Known<'f> = (&'f Entry, &'static Key);

fn known(entry: &Entry) -> Done<Known<'_>> {
    keys::find(&entry.key).map(|key| (entry, key)).ok_or_else(|| {
        let nearest = keys::nearest(&entry.key, keys::KEYS.iter().map(|key| key.name));
        let hint = nearest.map_or_else(String::new, |name| format!(": did you mean {name}?"));
        Wrong { place: entry.key_at, what: format!("no key '{}' is known{hint}", entry.key) }
    })
}

/// What is for the whole program, and what is for all services.
fn sort(entries: &[Entry]) -> Done<(Vec<Known<'_>>, Vec<Known<'_>>)> {
    let all: Vec<_> = entries.iter().map(known).collect::<Done<_>>()?;
    Ok(all.into_iter().partition(|(_, key)| key.scope != Scope::Service))
}

pub(super) fn refuse_or_ignore(entry: &Entry, key: &Key, scribe: &mut Scribe) -> Done<()> {
    match key.fate {
        Fate::Refused => wrong(entry, key.note),
        _ => {
            scribe.note(entry, Fate::Ignored, key.note);
            Ok(())
        }
    }
}

pub(super) fn yes(entry: &Entry) -> Done<bool> {
    match entry.value.to_ascii_lowercase().as_str() {
        "yes" => Ok(true),
        "no" => Ok(false),
        _ => wrong(entry, "yes or no"),
    }
}

fn seconds(entry: &Entry) -> Done<u64> {
    entry.value.parse().or_else(|_| wrong(entry, "a whole number of seconds"))
}

/// The settings of a service: its own lines, and before them those of all.
pub(super) struct Settings<'f> {
    lines: Vec<Known<'f>>,
}

impl<'f> Settings<'f> {
    /// The last one counts.
    pub(super) fn last(&self, name: &str) -> Option<&'f Entry> {
        self.all(name).last()
    }

    pub(super) fn all(&self, name: &str) -> impl Iterator<Item = &'f Entry> {
        let entries = self.lines.iter().filter(move |(_, key)| key.name == name);
        entries.map(|(entry, _)| *entry)
    }

    fn is_yes(&self, name: &str) -> Done<Option<bool>> {
        self.last(name).map(yes).transpose()
    }
}

/// The words of a command line, and what they were made of.
pub(super) struct Words<'s> {
    pub(super) words: Vec<String>,
    pub(super) scribe: &'s mut Scribe,
}

impl Words<'_> {
    pub(super) fn say(&mut self, entry: &Entry, words: &[&str]) {
        let fate = keys::find(&entry.key).map_or(Fate::Mapped, |key| key.fate);
        self.scribe.note(entry, fate, words.join(" "));
        self.words.extend(words.iter().map(ToString::to_string));
    }

    pub(super) fn ignore(&mut self, entry: &Entry, why: &str) {
        self.scribe.note(entry, Fate::Ignored, why);
    }
}

/// What a section comes to: a service for each address that it is to accept at.
fn services_of(section: &Section, defaults: &[Known<'_>], scribe: &mut Scribe) -> Done<Vec<Service>> {
    let own: Vec<_> = section.entries.iter().map(known).collect::<Done<_>>()?;
    if let Some((entry, _)) = own.iter().find(|(_, key)| key.scope == Scope::Global) {
        let what = format!("{} is about the whole program: it belongs before the first [service]", entry.key);
        return Err(Wrong { place: entry.key_at, what });
    }
    let settings = Settings { lines: defaults.iter().copied().chain(own).collect() };
    let is_client = settings.is_yes("client")?.unwrap_or(false);
    let mut words = Words { words: vec![if is_client { "client" } else { "server" }.into()], scribe };
    if let Some(client) = settings.last("client") {
        let mode = if is_client { "sealane client" } else { "sealane server" };
        words.scribe.note(client, Fate::Supported, mode);
    }
    let addresses = addresses(section, &settings, is_client, &mut words)?;
    identity(section, &settings, is_client, &mut words)?;
    verification(&settings, is_client, &mut words)?;
    revocation(&settings, is_client, &mut words)?;
    agreement::versions(&settings, &mut words)?;
    agreement::suites_and_groups(&settings, &mut words)?;
    times(&settings, &mut words)?;
    others(&settings, is_client, &mut words)?;
    let Words { words, scribe } = words;
    for (entry, key) in &settings.lines {
        if !scribe.has(entry) {
            refuse_or_ignore(entry, key, scribe)?;
        }
    }
    let service = |address: Vec<String>| {
        let (mode, rest) = words.split_at(1);
        Service { name: section.name.clone(), arguments: [mode, &address, rest].concat() }
    };
    Ok(addresses.into_iter().map(service).collect())
}

fn only_one<'f>(settings: &Settings<'f>, name: &str, section: &Section) -> Done<&'f Entry> {
    let mut all = settings.all(name);
    let Some(first) = all.next() else {
        return Err(Wrong { place: section.at, what: format!("[{}] has no '{name}'", section.name) });
    };
    match all.next() {
        Some(second) => wrong(
            second,
            format!("there is one {name} already: what an NFS client has opened is known to one server only"),
        ),
        None => Ok(first),
    }
}

/// The words for each address that is listened at.
fn addresses(
    section: &Section,
    settings: &Settings<'_>,
    is_client: bool,
    words: &mut Words<'_>,
) -> Done<Vec<Vec<String>>> {
    let mut all = Vec::new();
    for accept in settings.all("accept") {
        let mut address = listen(accept)?;
        address.truncate(if is_client { 3 } else { 2 });
        words.scribe.note(accept, Fate::Supported, address.join(" "));
        all.push(address);
    }
    if all.is_empty() {
        return Err(Wrong { place: section.at, what: format!("[{}] has no 'accept'", section.name) });
    }
    let connect = only_one(settings, "connect", section)?;
    words.say(connect, &["--connect", &server(connect)?]);
    if let Some(local) = settings.last("local") {
        words.say(local, &["--bind-address", &local.value]);
    }
    Ok(all)
}

/// What a client's tunnel needs to be told that listens elsewhere than on loopback.
const NOT_LOOPBACK: &str = "--allow-non-loopback-listen";

/// Where a client's tunnel listens.
pub(super) fn listen(accept: &Entry) -> Done<Vec<String>> {
    let address = accepted_at(accept)?;
    let more = (!address.ip().to_canonical().is_loopback()).then(|| NOT_LOOPBACK.to_string());
    Ok(["--listen".to_string(), address.to_string()].into_iter().chain(more).collect())
}

/// `host:port`, an IPv6 address in brackets; without a host, this one.
pub(super) fn server(connect: &Entry) -> Done<String> {
    let (host, port) = host_and_port(connect)?;
    let host = if host.is_empty() { "localhost" } else { host };
    Ok(if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") })
}

/// `[host:]port`; an IPv6 address needs no brackets: the last colon separates.
fn host_and_port(entry: &Entry) -> Done<(&str, u16)> {
    if entry.value.starts_with('/') {
        return wrong(entry, "unix sockets are not served: NFS goes over TCP");
    }
    let (host, port) = entry.value.rsplit_once(':').unwrap_or(("", &entry.value));
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    match port.parse() {
        Ok(port) if port != 0 => Ok((host, port)),
        _ => wrong(entry, "[host:]port, with a port from 1 to 65535"),
    }
}

fn accepted_at(entry: &Entry) -> Done<SocketAddr> {
    let (host, port) = host_and_port(entry)?;
    match host {
        "" => Ok((Ipv4Addr::UNSPECIFIED, port).into()),
        "::" => Ok((Ipv6Addr::UNSPECIFIED, port).into()),
        "localhost" => Ok((Ipv4Addr::LOCALHOST, port).into()),
        host => match host.parse::<IpAddr>() {
            Ok(address) => Ok((address, port).into()),
            Err(_) => wrong(entry, "an address of this host, or localhost"),
        },
    }
}

fn identity(section: &Section, settings: &Settings<'_>, is_client: bool, words: &mut Words<'_>) -> Done<()> {
    let (cert, key) = (settings.last("cert"), settings.last("key"));
    match (cert, key) {
        (Some(cert), _) => {
            words.say(cert, &["--cert", &cert.value]);
            match key {
                Some(key) => words.say(key, &["--key", &key.value]),
                // The key is in the same file.
                None => words.words.extend(["--key".into(), cert.value.clone()]),
            }
            Ok(())
        }
        (None, Some(key)) => wrong(key, "a key without 'cert'"),
        (None, None) if is_client => Ok(()),
        (None, None) => {
            Err(Wrong { place: section.at, what: format!("[{}] is a server's and has no 'cert'", section.name) })
        }
    }
}

/// What stunnel's options on verification come to.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
struct Verification {
    chain: bool,
    peer: bool,
    /// Of clients.
    required: bool,
}

/// Line by line, as stunnel does it: a later one takes back what an earlier one wanted.
fn verification_of(settings: &Settings<'_>) -> Done<Verification> {
    let mut wanted = Verification::default();
    for (entry, key) in &settings.lines {
        match key.name {
            "verify" => {
                wanted = match entry.value.as_str() {
                    "0" => Verification::default(),
                    "1" => Verification { chain: true, ..Verification::default() },
                    "2" => Verification { chain: true, peer: false, required: true },
                    "3" => Verification { chain: true, peer: true, required: true },
                    "4" => Verification { chain: false, peer: true, required: true },
                    _ => return wrong(entry, "0 to 4"),
                }
            }
            "verifyChain" => {
                wanted.chain = yes(entry)?;
                wanted.required |= wanted.chain;
            }
            "verifyPeer" => {
                wanted.peer = yes(entry)?;
                wanted.required |= wanted.peer;
            }
            "requireCert" => wanted.required = yes(entry)?,
            _ => {}
        }
    }
    Ok(wanted)
}

/// A server is asked for by the name that is connected to, whatever names its certificate may be for.
fn asked_for(settings: &Settings<'_>, names: &[&Entry]) -> Vec<String> {
    let connect = settings.last("connect").and_then(|connect| host_and_port(connect).ok());
    let host = connect.map_or("", |(host, _)| host);
    let is_name = !host.is_empty() && host.parse::<IpAddr>().is_err();
    let is_same = names.first().is_none_or(|first| first.value.eq_ignore_ascii_case(host));
    match settings.last("sni") {
        None if is_name && !is_same => vec!["--sni".into(), host.into()],
        _ => Vec::new(),
    }
}

fn verification(settings: &Settings<'_>, is_client: bool, words: &mut Words<'_>) -> Done<()> {
    let wanted = verification_of(settings)?;
    let is_verified = wanted.chain || wanted.peer;
    let asking = ["verify", "verifyChain", "verifyPeer"].iter().find_map(|name| settings.last(name));
    let has_cas = settings.last("CAfile").or(settings.last("CApath")).is_some();
    let names: Vec<_> = settings.all("checkHost").chain(settings.all("checkIP")).collect();
    if let (true, false, Some(asking)) = (is_verified, has_cas, asking) {
        return wrong(asking, "it takes 'CAfile' or 'CApath'");
    }
    if let (false, true, false, Some(entry)) = (is_client, wanted.required, is_verified, settings.last("requireCert")) {
        return wrong(
            entry,
            "whatever certificate is shown: it takes 'verifyChain = yes' or 'verifyPeer = yes' besides",
        );
    }
    if let (false, Some(name)) = (is_verified, names.first()) {
        return wrong(name, "it takes 'verifyChain = yes' or 'verifyPeer = yes'");
    }
    let (file, directory) = if is_client { ("--ca-file", "--ca-dir") } else { ("--client-ca", "--client-ca-dir") };
    for (name, option) in [("CAfile", file), ("CApath", directory)] {
        for entry in settings.all(name) {
            if is_verified {
                words.say(entry, &[option, &entry.value]);
            } else {
                words.ignore(entry, "nothing is verified without verify, verifyChain or verifyPeer");
            }
        }
    }
    match (is_client, is_verified) {
        (true, true) => {
            for name in &names {
                words.say(name, &["--server-name", &name.value]);
            }
            words.words.extend(asked_for(settings, &names));
            if names.is_empty() {
                words.words.push("--any-server-name".into());
            }
        }
        (true, false) => words.words.push("--insecure-no-verify".into()),
        (false, _) => {
            for name in settings.all("checkHost") {
                words.say(name, &["--allow", &format!("dns:{}", name.value)]);
            }
            for name in settings.all("checkIP") {
                words.say(name, &["--allow", &format!("ip:{}", name.value)]);
            }
            if is_verified && !wanted.required && names.is_empty() {
                words.words.extend(["--client-cert".into(), "optional".into()]);
            }
        }
    }
    if wanted.peer {
        words.words.push("--trusted-only".into());
    }
    for name in ["verify", "verifyChain", "verifyPeer", "requireCert"] {
        if let Some(entry) = settings.last(name) {
            let what = match (is_client, wanted) {
                (_, Verification { peer: true, .. }) => {
                    "the peer's certificate must be one of those in CAfile or CApath"
                }
                (true, Verification { chain: true, .. }) if names.is_empty() => "the chain is verified, for any name",
                (_, Verification { chain: true, required: true, .. }) => "the chain is verified",
                (true, Verification { chain: true, .. }) => "the chain is verified",
                (false, Verification { chain: true, .. }) => "the chain is verified if a client shows one",
                _ => "NOTHING is verified",
            };
            words.scribe.note(entry, Fate::Supported, what);
        }
    }
    Ok(())
}

fn revocation(settings: &Settings<'_>, is_client: bool, words: &mut Words<'_>) -> Done<()> {
    for (name, option) in [("CRLfile", "--crl-file"), ("CRLpath", "--crl-dir")] {
        settings.all(name).for_each(|entry| words.say(entry, &[option, &entry.value]));
    }
    let url = settings.last("OCSP");
    let aia = settings.last("OCSPaia");
    let asks = url.is_some() || settings.is_yes("OCSPaia")?.unwrap_or(false);
    if !asks {
        // It changes nothing, but it is there.
        for name in ["OCSPaia", "OCSPnonce", "OCSPrequire", "TIMEOUTocsp"] {
            settings
                .all(name)
                .for_each(|entry| words.ignore(entry, "no responder is asked: neither OCSP nor OCSPaia = yes"));
        }
        if is_client {
            words.words.extend(["--ocsp".into(), "off".into()]);
        }
        return Ok(());
    }
    if !is_client {
        let entry = url.or(aia);
        return entry
            .map_or(Ok(()), |entry| wrong(entry, "responders are not asked about clients: use CRLfile or CRLpath"));
    }
    let is_hard = settings.is_yes("OCSPrequire")?.unwrap_or(true);
    let mode = if is_hard { "hard" } else { "soft" };
    words.words.extend(["--ocsp".into(), mode.into()]);
    if let Some(entry) = url {
        words.say(entry, &["--ocsp-url", &entry.value]);
    }
    if let Some(entry) = aia {
        match yes(entry)? {
            // With one responder for all, stunnel asks it about the peer's certificate only.
            true if url.is_none() => words.say(entry, &["--ocsp-chain"]),
            true => words.ignore(entry, "OCSP names the responder"),
            false => words.ignore(entry, "no changes nothing"),
        }
    }
    for entry in settings.all("OCSPrequire") {
        words.scribe.note(entry, Fate::Supported, format!("--ocsp {mode}"));
    }
    for entry in settings.all("OCSPnonce") {
        if yes(entry)? { words.say(entry, &["--ocsp-nonce"]) } else { words.ignore(entry, "no changes nothing") }
    }
    if let Some(entry) = settings.last("TIMEOUTocsp") {
        words.say(entry, &["--ocsp-timeout", &seconds(entry)?.max(1).to_string()]);
    }
    Ok(())
}

/// What the keys about times become, and what stunnel does where one is missing.
const TIMES: [(&str, &str, &str); 4] = [
    ("TIMEOUTconnect", "--connect-timeout", "10"),
    ("TIMEOUTbusy", "--handshake-timeout", "300"),
    ("TIMEOUTidle", "--idle-timeout", "43200"),
    ("TIMEOUTclose", "--close-timeout", "60"),
];

fn times(settings: &Settings<'_>, words: &mut Words<'_>) -> Done<()> {
    for (name, option, default) in TIMES {
        let Some(entry) = settings.last(name) else {
            words.words.extend([option.into(), default.into()]);
            continue;
        };
        let time = match seconds(entry)? {
            // The shortest that there is.
            0 if name == "TIMEOUTclose" => "0.001".into(),
            seconds => seconds.max(1).to_string(),
        };
        words.say(entry, &[option, &time]);
    }
    Ok(())
}

fn others(settings: &Settings<'_>, is_client: bool, words: &mut Words<'_>) -> Done<()> {
    for entry in settings.all("sni") {
        match (is_client, entry.value.as_str()) {
            (true, "") => words.say(entry, &["--sni", "off"]),
            (true, name) => words.say(entry, &["--sni", name]),
            (false, _) => return wrong(entry, "a server's services are told apart by their ports"),
        }
    }
    for entry in settings.all("protocol") {
        match (is_client, entry.value.to_ascii_lowercase().as_str()) {
            (false, "proxy") => words.say(entry, &["--proxy-protocol", "v1"]),
            (true, "proxy") => return wrong(entry, "only a server's end tells where clients are"),
            _ => return wrong(entry, "of the protocols, only proxy is spoken"),
        }
    }
    for entry in settings.all("failover") {
        match entry.value.to_ascii_lowercase().as_str() {
            "prio" | "rr" => words.ignore(entry, "there is one server"),
            _ => return wrong(entry, "rr or prio"),
        }
    }
    for entry in settings.all("securityLevel") {
        match entry.value.parse::<u8>() {
            Ok(0..=2) => words.ignore(entry, "what is spoken is of level 2: 112 bits"),
            _ => return wrong(entry, agreement::LEVEL_MAX),
        }
    }
    for entry in settings.all("libwrap") {
        if yes(entry)? {
            return wrong(entry, "/etc/hosts.allow is not looked at");
        }
        words.ignore(entry, "no changes nothing");
    }
    for entry in settings.all("transparent") {
        match entry.value.to_ascii_lowercase().as_str() {
            "none" | "no" => words.ignore(entry, "none changes nothing"),
            _ => return wrong(entry, "none: the server sees this host's address"),
        }
    }
    let accepted = settings.all("accept").map(accepted_at).collect::<Done<Vec<_>>>()?;
    let is_local = accepted.iter().all(|at| at.ip().is_loopback());
    settings.all("socket").try_for_each(|entry| socket(entry, is_client, is_local, words))
}

/// Those that stunnel knows on Linux.
const SOCKET_OPTIONS: [&str; 22] = [
    "IPV6_V6ONLY",
    "IP_FREEBIND",
    "IP_TOS",
    "IP_TTL",
    "SO_BINDTODEVICE",
    "SO_DEBUG",
    "SO_DONTROUTE",
    "SO_KEEPALIVE",
    "SO_LINGER",
    "SO_OOBINLINE",
    "SO_RCVBUF",
    "SO_RCVLOWAT",
    "SO_RCVTIMEO",
    "SO_REUSEADDR",
    "SO_SNDBUF",
    "SO_SNDLOWAT",
    "SO_SNDTIMEO",
    "TCP_KEEPCNT",
    "TCP_KEEPIDLE",
    "TCP_KEEPINTVL",
    "TCP_MAXSEG",
    "TCP_NODELAY",
];

/// `a|l|r:OPTION=VALUE`, of the listener, the accepted or the connected socket.
fn socket(entry: &Entry, is_client: bool, is_local: bool, words: &mut Words<'_>) -> Done<()> {
    let parts = entry.value.split_once(':').and_then(|(side, rest)| Some((side, rest.split_once('=')?)));
    let Some((side @ ("a" | "l" | "r"), (option, value))) = parts else {
        return wrong(entry, "a:OPTION=VALUE, l:OPTION=VALUE or r:OPTION=VALUE");
    };
    let is_off = ["no", "0"].contains(&value.to_ascii_lowercase().as_str());
    if !SOCKET_OPTIONS.contains(&option) {
        return wrong(entry, "no option of sockets that is known by this name");
    }
    // Which of them speaks TLS.
    let is_tls = side == if is_client { "r" } else { "l" };
    match (option, is_tls) {
        ("SO_KEEPALIVE", true) if is_off => words.say(entry, &["--keepalive", "0"]),
        ("TCP_KEEPIDLE", true) => words.say(entry, &["--keepalive", value]),
        ("IP_FREEBIND", _) if side == "a" && !is_off => {
            return wrong(entry, "an address is bound that is there: start the tunnel when it is");
        }
        ("SO_RCVBUF", true) => words.say(entry, &["--receive-buffer", value]),
        ("SO_SNDBUF", true) => words.say(entry, &["--send-buffer", value]),
        ("SO_BINDTODEVICE", _) if side == "a" && value == "lo" && is_local => {
            words.ignore(entry, "what is accepted on a loopback address comes from there");
        }
        ("SO_BINDTODEVICE", _) if side != "l" => {
            return wrong(entry, "sockets are bound to addresses, not to devices: give 'accept' or 'local' one");
        }
        _ => words.ignore(entry, "as this program has it"),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dialect::program::Foreground;

    fn plan(text: &str) -> Done<Plan> {
        translate(&Lines::parse(text.as_bytes()).unwrap())
    }

    fn arguments(text: &str) -> String {
        plan(text).unwrap().services[0].arguments.join(" ")
    }

    fn refusal(text: &str) -> String {
        plan(text).unwrap_err().to_string()
    }

    const CLIENT: &str = "client = yes\naccept = 127.0.0.1:20049\nconnect = nfs.test:2049\n";
    const TIMES_OF_STUNNEL: &str =
        "--connect-timeout 10 --handshake-timeout 300 --idle-timeout 43200 --close-timeout 60";
    const HEAD: &str = "client --listen 127.0.0.1:20049 --connect nfs.test:2049";

    #[test]
    fn verification_is_what_stunnel_has_it_to_be() {
        for (lines, wanted) in [
            ("", "--insecure-no-verify --ocsp off"),
            ("verify = 0\nCAfile = ca.pem", "--insecure-no-verify --ocsp off"),
            ("verify = 2\nCAfile = ca.pem", "--ca-file ca.pem --any-server-name --ocsp off"),
            (
                "verifyChain = yes\nCAfile = ca.pem\ncheckHost = a\ncheckHost = b",
                "--ca-file ca.pem --server-name a --server-name b --sni nfs.test --ocsp off",
            ),
            (
                "verifyChain = yes\nCApath = cas\ncheckIP = 10.0.0.1",
                "--ca-dir cas --server-name 10.0.0.1 --sni nfs.test --ocsp off",
            ),
            ("verifyChain = no\nverify = 2\nCAfile = ca.pem", "--ca-file ca.pem --any-server-name --ocsp off"),
            ("verify = 2\nverifyChain = no\nCAfile = ca.pem", "--insecure-no-verify --ocsp off"),
            ("verify = 4\nCAfile = peer.pem", "--ca-file peer.pem --any-server-name --trusted-only --ocsp off"),
        ] {
            assert_eq!(
                arguments(&format!("[a]\n{CLIENT}{lines}")),
                format!("{HEAD} {wanted} {TIMES_OF_STUNNEL}"),
                "{lines}"
            );
        }
        for (lines, why) in [
            ("verify = 2", "5:10: verify = 2: it takes 'CAfile' or 'CApath'"),
            ("checkHost = a", "5:13: checkHost = a: it takes 'verifyChain = yes'"),
            ("verify = 5", "5:10: verify = 5: 0 to 4"),
            ("verifyChain = maybe", "5:15: verifyChain = maybe: yes or no"),
        ] {
            assert!(
                refusal(&format!("[a]\n{CLIENT}{lines}")).contains(why),
                "{}",
                refusal(&format!("[a]\n{CLIENT}{lines}"))
            );
        }
    }

    #[test]
    fn what_cannot_be_followed_is_refused_with_its_place() {
        for (text, why) in [
            ("foo = 1\n", "1:1: no key 'foo' is known"),
            ("[a]\nclinet = yes", "2:1: no key 'clinet' is known: did you mean client?"),
            ("[a]\npid = /x", "2:1: pid is about the whole program"),
            ("fips = yes\n[a]", "1:8: fips = yes: nothing here is FIPS validated"),
            ("client = yes", "1:1: no [service]"),
            ("[a]\nclient = yes", "1:1: [a] has no 'accept'"),
            ("[a]\naccept = 0", "[host:]port, with a port from 1 to 65535"),
            ("[a]\naccept = 1\nconnect = 2", "1:1: [a] is a server's and has no 'cert'"),
            (
                "[a]\naccept = 1\nconnect = 2\ncert = c\nrequireCert = yes",
                "5:15: requireCert = yes: whatever certificate",
            ),
            (
                "[a]\naccept = 1\nconnect = 2\ncert = c\nsocket = a:SO_BINDTODEVICE=lo",
                "5:10: socket = a:SO_BINDTODEVICE=lo: ",
            ),
            ("[a]\naccept = 1\nconnect = 2\nconnect = 3", "4:11: connect = 3: there is one connect already"),
            ("[a]\naccept = 1\nconnect = 2\nclient = yes\nPSKsecrets = x", "pre-shared keys are not supported"),
            (
                "[a]\naccept = 1\nconnect = 2\nclient = yes\nsocket = l:FOO=bar",
                "5:10: socket = l:FOO=bar: no option of sockets",
            ),
            (
                "[a]\naccept = 1\nconnect = 2\nclient = yes\nsocket = a:IP_FREEBIND=yes",
                "an address is bound that is there",
            ),
            ("[a]\naccept = 1\nconnect = 2\nclient = yes\noptions = NO_TLSv1.3", "no option of OpenSSL's"),
            ("[a]\naccept = 1\nconnect = 2\nclient = yes\nsecurityLevel = 3", "level 2 is the highest"),
            ("[a]\naccept = 1\nconnect = 2\nclient = yes\nciphers = HIGH:@SECLEVEL=3", "level 2 is the highest"),
            ("[a]\naccept = 1\nconnect = 2\nclient = yes\nlibwrap = yes", "/etc/hosts.allow is not looked at"),
            ("[a]\naccept = 1\nconnect = 2\nclient = yes\nsslVersion = TLSv1.1", "older than TLSv1.2"),
            ("[a]\naccept = 1\nconnect = 2\nclient = yes\nciphers = AES128-SHA", "none of these is spoken"),
            ("[a]\naccept = 1\nconnect = 2\nclient = yes\nexec = /bin/sh", "no programs are started"),
        ] {
            assert!(refusal(text).contains(why), "{text}: {}", refusal(text));
        }
    }

    #[test]
    fn addresses_are_written_in_many_ways() {
        for (accept, listen) in [
            ("20049", "0.0.0.0:20049 "),
            (":::20049", "[::]:20049"),
            ("::1:20049", "[::1]:20049"),
            ("[::1]:20049", "[::1]:20049"),
            ("localhost:20049", "127.0.0.1:20049"),
        ] {
            let text = arguments(&format!("[a]\nclient=yes\naccept={accept}\nconnect = 2600::1:2049"));
            assert!(
                text.starts_with(&format!("client --listen {listen}")) && text.contains("--connect [2600::1]:2049"),
                "{text}"
            );
            assert_eq!(text.contains("--allow-non-loopback-listen"), ["20049", ":::20049"].contains(&accept), "{text}");
        }
        assert!(arguments("[a]\nclient=yes\naccept=1\nconnect = 2049").contains("--connect localhost:2049"));
    }

    #[test]
    fn each_address_of_a_service_is_listened_at() {
        let text = "[a]\nclient = yes\naccept = 127.0.0.1:1\naccept = :::2\nconnect = nfs.test:2049\n[b]\naccept = 3\nconnect = 4\ncert = c";
        let plan = translate(&Lines::parse(text.as_bytes()).unwrap()).unwrap();
        let begun: Vec<_> =
            plan.services.iter().map(|service| (service.name.as_str(), service.arguments[..4].join(" "))).collect();
        let wanted = [
            ("a", "client --listen 127.0.0.1:1 --connect"),
            ("a", "client --listen [::]:2 --allow-non-loopback-listen"),
            ("b", "server --listen 0.0.0.0:3 --connect"),
        ];
        assert_eq!(begun, wanted.map(|(name, words)| (name, words.to_string())));
    }

    #[test]
    fn a_server_becomes_one() {
        let text = "[a]\naccept = 0.0.0.0:2049\nconnect = 12049\ncert = both.pem\nCApath = cas\nverifyChain = yes\nprotocol = proxy\n\
                    checkHost = one.test\ncheckHost = two.test";
        let wanted = "server --listen 0.0.0.0:2049 --connect localhost:12049 --cert both.pem --key both.pem --client-ca-dir cas \
                      --allow dns:one.test --allow dns:two.test";
        assert_eq!(arguments(text), format!("{wanted} {TIMES_OF_STUNNEL} --proxy-protocol v1"));
    }

    #[test]
    fn each_line_is_told_what_became_of_it() {
        let text = "; EFS\nfips = no\nforeground = quiet\npid =\nsocket = l:SO_REUSEADDR=yes\n[efs]\nclient = yes\naccept = \
                    127.0.0.1:20070\nconnect = fs.test:2049\nsslVersion = TLSv1.2\nrenegotiation = no\nTIMEOUTbusy = 20\nTIMEOUTclose = \
                    0\nTIMEOUTidle = 70\ndelay = yes\nverify = 2\nCAfile = ca.pem\ncert = c.pem\nkey = k.pem\ncheckHost = fs.test\n";
        let plan = plan(text).unwrap();
        assert_eq!(plan.program.foreground, Foreground::Quiet);
        let lines: Vec<usize> = plan.notes.iter().map(|note| note.place.line).collect();
        assert_eq!(lines, (2..=20).filter(|line| *line != 6).collect::<Vec<_>>(), "{:#?}", plan.notes);
        let wanted = "client --listen 127.0.0.1:20070 --connect fs.test:2049 --cert c.pem --key k.pem --ca-file ca.pem --server-name \
                      fs.test --ocsp off --tls 1.2 --connect-timeout 10 --handshake-timeout 20 --idle-timeout 70 --close-timeout 0.001";
        assert_eq!(plan.services[0].arguments.join(" "), wanted);
    }
}
