//! Every key that stunnel's manual knows, and what becomes of it here. The migration page is made of this table.

/// Where a key may stand.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Scope {
    /// Before the first section.
    Global,
    /// In a section, or before the first one for all of them.
    Service,
    /// Wherever it likes; before the first section it is about the whole program.
    Both,
}

impl Scope {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Global => "program",
            Self::Service => "service",
            Self::Both => "both",
        }
    }
}

/// What becomes of a key.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Fate {
    /// It does what stunnel does.
    Supported,
    /// It does what comes closest.
    Mapped,
    /// It changes nothing, which is said.
    Ignored,
    /// The file is refused, for this value or for any.
    Refused,
}

impl Fate {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Supported => "supported",
            Self::Mapped => "mapped",
            Self::Ignored => "ignored with notice",
            Self::Refused => "refused",
        }
    }
}

/// A key.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Key {
    /// As the manual writes it; files may write it in any case.
    pub(crate) name: &'static str,
    pub(crate) scope: Scope,
    /// Whether it may be given several times; otherwise the last one counts.
    pub(crate) repeats: bool,
    pub(crate) fate: Fate,
    /// What it becomes, or why it does not.
    pub(crate) note: &'static str,
}

const fn key(name: &'static str, scope: Scope, fate: Fate, note: &'static str) -> Key {
    Key { name, scope, repeats: false, fate, note }
}

const fn several(name: &'static str, scope: Scope, fate: Fate, note: &'static str) -> Key {
    Key { name, scope, repeats: true, fate, note }
}

const NO_ENGINES: &str = "there is no OpenSSL here, so no engines; keys are files";
const NO_RANDOM_FILES: &str = "random numbers come from the kernel";
const NO_WINDOWS: &str = "for Windows only";
const NO_PROGRAMS: &str = "no programs are started for connections: an NFS server is connected to";
const NO_PROTOCOLS: &str = "of the protocols, only proxy is spoken, which has no settings";
const NO_PSK: &str = "pre-shared keys are not supported: use certificates";

use Fate::{Ignored, Mapped, Refused, Supported};
use Scope::{Both, Global, Service};

/// All of them, in the manual's order.
pub(crate) const KEYS: &[Key] = &[
    key(
        "chroot",
        Global,
        Refused,
        "files, certificates and resolvers would have to be in there; the sandbox leaves the process less: leave it out",
    ),
    key("compression", Global, Ignored, "TLS compression is never agreed on"),
    key(
        "debug",
        Both,
        Supported,
        "a level by name or number, with a facility or without; that of a section is not looked at",
    ),
    key("EGD", Global, Ignored, NO_RANDOM_FILES),
    key("engine", Global, Ignored, NO_ENGINES),
    key("engineCtrl", Global, Ignored, NO_ENGINES),
    key("engineDefault", Global, Ignored, NO_ENGINES),
    key("fips", Global, Mapped, "no changes nothing; yes is refused: nothing here is FIPS validated"),
    key(
        "foreground",
        Global,
        Supported,
        "no, the default: goes on in the background once all addresses are bound, and prints nothing; yes, quiet: stays",
    ),
    key("iconActive", Global, Ignored, NO_WINDOWS),
    key("iconError", Global, Ignored, NO_WINDOWS),
    key("iconIdle", Global, Ignored, NO_WINDOWS),
    key("log", Global, Supported, "append or overwrite"),
    key("output", Global, Supported, "the log file, opened anew upon SIGUSR1; stunnel's form of lines"),
    key("pid", Global, Supported, "written once all addresses are bound, removed in the end; an empty one is none"),
    key("RNDbytes", Global, Ignored, NO_RANDOM_FILES),
    key("RNDfile", Global, Ignored, NO_RANDOM_FILES),
    key("RNDoverwrite", Global, Ignored, NO_RANDOM_FILES),
    key("service", Global, Supported, "the name in syslog"),
    key("syslog", Global, Supported, "yes, the default: the log goes to syslog, too"),
    key("taskbar", Global, Ignored, NO_WINDOWS),
    several(
        "accept",
        Service,
        Supported,
        "[host:]port, all IPv4 addresses without a host, :::port for IPv6; a service for each; unix sockets are refused: an NFS client connects by TCP",
    ),
    several("CAengine", Service, Refused, NO_ENGINES),
    several("CApath", Service, Supported, "names by hashes, as openssl rehash makes them (--ca-dir, --client-ca-dir)"),
    several("CAfile", Service, Supported, "--ca-file, --client-ca"),
    key("cert", Service, Supported, "PEM, the chain and perhaps the key (--cert)"),
    several(
        "checkEmail",
        Service,
        Refused,
        "an NFS server or client is a host, and no person: use checkHost or checkIP",
    ),
    several("checkHost", Service, Supported, "any of checkHost and checkIP is enough (--server-name; --allow dns:)"),
    several("checkIP", Service, Supported, "any of checkHost and checkIP is enough (--server-name; --allow ip:)"),
    key("ciphers", Service, Mapped, "those of the list that are ECDHE with AEAD, of TLS 1.2 (--tls-suites)"),
    key("ciphersuites", Service, Mapped, "those of TLS 1.3 (--tls-suites)"),
    key("client", Service, Supported, "yes: sealane client; no: sealane server"),
    several("config", Service, Refused, "there is no OpenSSL here to be configured: use the keys of their own"),
    several(
        "connect",
        Service,
        Supported,
        "[host:]port; several are refused: what an NFS client has opened is known to one server only; unix sockets are: an NFS server listens by TCP",
    ),
    several("CRLpath", Service, Supported, "all that is in it (--crl-dir)"),
    several("CRLfile", Service, Supported, "--crl-file"),
    key("curves", Service, Mapped, "X25519, P-256 and P-384 of the list (--tls-groups)"),
    key("logId", Service, Ignored, "lines name the peer's address"),
    key("delay", Service, Ignored, "names are looked up for each connection in any case"),
    key("engineId", Service, Refused, NO_ENGINES),
    key("engineNum", Service, Refused, NO_ENGINES),
    key("exec", Service, Refused, NO_PROGRAMS),
    key("execArgs", Service, Refused, NO_PROGRAMS),
    key("failover", Service, Mapped, "there is one connect"),
    key("ident", Service, Refused, "nobody is asked who a client is (RFC 1413): use certificates"),
    several("include", Both, Refused, "the parts belong into one file, or each has a process of its own"),
    key("key", Service, Supported, "without it, that in the file of cert (--key)"),
    key("libwrap", Service, Mapped, "no changes nothing; yes is refused: /etc/hosts.allow is not looked at"),
    key("local", Service, Supported, "--bind-address"),
    key("OCSP", Service, Supported, "--ocsp-url"),
    key("OCSPaia", Service, Supported, "--ocsp hard, of all certificates of the chain (--ocsp-chain)"),
    several("OCSPflag", Service, Refused, "responses are verified in full"),
    key("OCSPnonce", Service, Supported, "--ocsp-nonce"),
    key("OCSPrequire", Service, Supported, "yes: --ocsp hard; no: --ocsp soft"),
    several("options", Service, Mapped, "NO_TLSv1_2 and NO_TLSv1_3; others change nothing here, -NAME takes one back"),
    key("protocol", Service, Mapped, "proxy (--proxy-protocol v1); others are refused"),
    key("protocolAuthentication", Service, Refused, NO_PROTOCOLS),
    key("protocolDomain", Service, Refused, NO_PROTOCOLS),
    key("protocolHeader", Service, Refused, NO_PROTOCOLS),
    key("protocolHost", Service, Refused, NO_PROTOCOLS),
    key("protocolPassword", Service, Refused, NO_PROTOCOLS),
    key("protocolUsername", Service, Refused, NO_PROTOCOLS),
    key("PSKidentity", Service, Refused, NO_PSK),
    key("PSKsecrets", Service, Refused, NO_PSK),
    key("pty", Service, Refused, NO_PROGRAMS),
    key("redirect", Service, Refused, "who is not let in is told so, and goes nowhere else"),
    key("renegotiation", Service, Ignored, "TLS 1.2 connections are never renegotiated"),
    key("reset", Service, Ignored, "an error is a RST in any case: NFS clients wait for ever after a FIN"),
    key("retry", Service, Ignored, "it is about exec"),
    key("securityLevel", Service, Ignored, "what is spoken is of level 2, 112 bits; a higher one is refused"),
    key("requireCert", Service, Supported, "--client-cert required; yes with nothing to verify it by is refused"),
    key(
        "setgid",
        Both,
        Supported,
        "of the whole program, with setuid (--group); root changes nothing, nor does it in a section",
    ),
    key("setuid", Both, Supported, "of the whole program (--user); root changes nothing, nor does it in a section"),
    key("sessionCacheSize", Service, Ignored, "the cache of sessions has a bound of its own"),
    key("sessionCacheTimeout", Service, Ignored, "sessions are kept as long as TLS has it"),
    key("session", Service, Ignored, "sessions are kept as long as TLS has it"),
    key("sessionResume", Service, Ignored, "sessions are resumed; whoever resumes one is judged again"),
    key("sessiond", Service, Refused, "there is no cache of sessions elsewhere"),
    several(
        "sni",
        Service,
        Mapped,
        "client: --sni, where nothing is off; a server's is refused: a service is chosen by its port",
    ),
    several(
        "socket",
        Service,
        Mapped,
        "SO_KEEPALIVE, TCP_KEEPIDLE, SO_RCVBUF and SO_SNDBUF; SO_BINDTODEVICE is refused, but for lo with a loopback address; others are as this program has them",
    ),
    key("sslVersion", Service, Mapped, "TLSv1.2 or TLSv1.3 (--tls); all is both; older ones are refused"),
    key("sslVersionMax", Service, Mapped, "TLSv1.2 or TLSv1.3 (--tls); older ones are refused"),
    key("sslVersionMin", Service, Mapped, "TLSv1.2 or TLSv1.3 (--tls); with an older one, TLSv1.2"),
    key("stack", Service, Ignored, "connections have no threads of their own"),
    key("ticketKeySecret", Service, Ignored, "tickets are made with keys of this process"),
    key("ticketMacSecret", Service, Ignored, "tickets are made with keys of this process"),
    key("TIMEOUTbusy", Service, Supported, "--handshake-timeout"),
    key("TIMEOUTclose", Service, Supported, "--close-timeout; 0: close_notify is not waited for"),
    key("TIMEOUTconnect", Service, Supported, "--connect-timeout"),
    key("TIMEOUTidle", Service, Supported, "a connection over which nothing goes for so long is reset"),
    key("TIMEOUTocsp", Service, Supported, "--ocsp-timeout"),
    key("transparent", Service, Mapped, "none; others are refused: the server sees this host's address"),
    key("verify", Service, Supported, "0 to 4"),
    key("verifyChain", Service, Supported, "yes or no"),
    key(
        "verifyPeer",
        Service,
        Supported,
        "yes: the certificate must be one of those in CAfile or CApath (--trusted-only)",
    ),
];

/// A key by its name in a file, in any case.
pub(crate) fn find(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.name.eq_ignore_ascii_case(name))
}

/// The name that is meant, most likely: the nearest one, if it is near.
pub(crate) fn nearest<'n>(name: &str, among: impl IntoIterator<Item = &'n str>) -> Option<&'n str> {
    let name = name.to_ascii_lowercase();
    let all = among.into_iter().map(|known| (strsim::damerau_levenshtein(&name, &known.to_ascii_lowercase()), known));
    let (changes, known) = all.min_by_key(|(changes, _)| *changes)?;
    (changes <= name.chars().count().div_ceil(3)).then_some(known)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_key_is_there_once() {
        for (index, key) in KEYS.iter().enumerate() {
            assert_eq!(KEYS.iter().position(|other| other.name.eq_ignore_ascii_case(key.name)), Some(index));
            assert!(!key.note.is_empty() && !key.note.ends_with('.'), "{}", key.name);
        }
        assert_eq!(find("CAFILE").map(|key| key.name), Some("CAfile"));
    }

    #[test]
    fn the_nearest_name_is_suggested_if_it_is_near() {
        let names = || KEYS.iter().map(|key| key.name);
        for (typed, meant) in [
            ("chekHost", Some("checkHost")),
            ("ca-file", Some("CAfile")),
            ("xyzzy", None),
            ("TIMEOUTidel", Some("TIMEOUTidle")),
        ] {
            assert_eq!(nearest(typed, names()), meant, "{typed}");
        }
    }
}
