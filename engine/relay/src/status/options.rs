//! What OCSP is told: how strict it is, and how responders are reached.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::time::Duration;

use crate::config::{ConfigError, Endpoint};

/// How strict a client is about the status of its server's certificate.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum OcspMode {
    /// Nobody asks, and what is stapled is not looked at.
    Off,
    /// What is stapled has to be right; certificates that promise it (RFC 7633) have to come with it. Nobody is asked.
    #[default]
    Staple,
    /// A responder is asked where nothing good was stapled. What is revoked is refused, what nobody knows is not.
    Soft,
    /// The same, and what is not known to be good is refused.
    Hard,
}

impl OcspMode {
    /// Whether responders are asked.
    pub fn asks(self) -> bool {
        matches!(self, Self::Soft | Self::Hard)
    }
}

/// Everything that OCSP is told.
#[derive(Clone, Debug)]
pub struct OcspOptions {
    /// How strict.
    pub mode: OcspMode,
    /// Intermediate certificates are judged too.
    pub chain: bool,
    /// Asked instead of what certificates name.
    pub url: Option<HttpUrl>,
    /// Between us and the responder.
    pub proxy: Option<Proxy>,
    /// For an answer, all attempts together.
    pub timeout: Duration,
    /// Answers have to repeat a nonce, so that they are made for us.
    pub nonce: bool,
}

impl Default for OcspOptions {
    fn default() -> Self {
        let timeout = Duration::from_secs(5);
        Self { mode: OcspMode::default(), chain: false, url: None, proxy: None, timeout, nonce: false }
    }
}

/// A URL of the scheme `http`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct HttpUrl {
    /// Where.
    pub server: Endpoint,
    /// Path and query.
    pub path: String,
}

/// The port of http.
pub(crate) const HTTP_PORT: u16 = 80;

impl FromStr for HttpUrl {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        let wrong = || ConfigError(format!("'{}' is not http://HOST[:PORT][/PATH]", shortened(text)));
        if text.split(['/', '?', '#']).nth(2).is_some_and(|authority| authority.contains('@')) {
            // With a password, perhaps: it is not repeated.
            return Err(ConfigError("a URL with a user name or a password is not accepted".into()));
        }
        let url: hyper::Uri = text.parse().map_err(|_| wrong())?;
        let authority = url.authority().filter(|_| url.scheme_str() == Some("http")).ok_or_else(wrong)?;
        let host = authority.host();
        // A port that is none is no port to the parser.
        let port = match authority.as_str().strip_prefix(host) {
            Some("") => HTTP_PORT,
            Some(rest) => rest.strip_prefix(':').and_then(|port| port.parse().ok()).ok_or_else(wrong)?,
            None => return Err(wrong()),
        };
        if host.is_empty() || port == 0 {
            return Err(wrong());
        }
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host).into();
        let path = url.path_and_query().map_or("/", |path| path.as_str()).into();
        Ok(Self { server: Endpoint { host, port }, path })
    }
}

impl fmt::Display for HttpUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { server: Endpoint { host, port }, path } = self;
        let host = if host.contains(':') { format!("[{host}]") } else { host.clone() };
        match *port {
            HTTP_PORT => write!(f, "http://{host}{path}"),
            port => write!(f, "http://{host}:{port}{path}"),
        }
    }
}

/// As much of what a peer wrote as belongs into a line.
pub(crate) fn shortened(text: &str) -> String {
    text.chars().filter(|sign| !sign.is_control()).take(200).collect()
}

/// An HTTP proxy, and for whom it is not.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Proxy {
    /// Where it is.
    pub server: Endpoint,
    /// Hosts, and the ends of their names, as `no_proxy` has them; `*` is all.
    pub except: Vec<String>,
}

impl Proxy {
    /// That of the environment: `http_proxy` and `no_proxy`, which `curl` reads too. Not `HTTP_PROXY`: a CGI program has
    /// that from its client.
    ///
    /// # Errors
    /// `http_proxy` is no URL.
    pub fn from_environment() -> Result<Option<Self>, ConfigError> {
        let Some(url) = std::env::var("http_proxy").ok().filter(|url| !url.is_empty()) else { return Ok(None) };
        let url = if url.contains("://") { url } else { format!("http://{url}") };
        let url: HttpUrl = url.parse().map_err(|error| ConfigError(format!("http_proxy: {error}")))?;
        let except = std::env::var("no_proxy").or_else(|_| std::env::var("NO_PROXY")).unwrap_or_default();
        let except = except.split(',').map(|host| host.trim().to_ascii_lowercase()).filter(|host| !host.is_empty());
        Ok(Some(Self { server: url.server, except: except.collect() }))
    }

    /// Whether it is asked for what `host` has.
    pub(crate) fn serves(&self, host: &str) -> bool {
        let host = host.to_ascii_lowercase();
        !self.except.iter().any(|except| {
            let end = except.trim_start_matches('.');
            except == "*" || host == end || host.strip_suffix(end).is_some_and(|front| front.ends_with('.'))
        })
    }
}

/// Whether an address is this host's, its link's, or nobody's: nothing that a certificate may send us to.
pub(crate) fn is_near(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(address) => {
            address.is_loopback()
                || address.is_link_local()
                || address.is_multicast()
                || address.is_broadcast()
                // 0.0.0.0/8 is "this host on this network" (RFC 1122 section 3.2.1.3).
                || address.octets().first() == Some(&0)
        }
        IpAddr::V6(address) => {
            let segments = address.segments();
            match segments {
                // NAT64 (RFC 6052 section 2.1) of an IPv4 address.
                [0x64, 0xff9b, 0, 0, 0, 0, high, low] => is_near(embedded(high, low)),
                // 6to4 (RFC 3056).
                [0x2002, high, low, ..] => is_near(embedded(high, low)),
                // "IPv4-compatible", and with it the loopback and the unspecified address.
                [0, 0, 0, 0, 0, 0, ..] => true,
                // Where a cloud's hosts find their credentials.
                [0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254] => true,
                _ => address.is_multicast() || address.is_unicast_link_local(),
            }
        }
    }
}

fn embedded(high: u16, low: u16) -> IpAddr {
    std::net::Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low)).into()
}

/// Whether a proxy would take a host for itself or its link, as far as its name tells: a proxy looks names up for us.
pub(crate) fn is_near_by_name(host: &str) -> bool {
    let host = host.trim_end_matches('.').to_ascii_lowercase();
    if let Ok(address) = host.parse() {
        return is_near(address);
    }
    let last = host.rsplit('.').next().unwrap_or_default();
    // Some resolvers take "127.1", "2130706433" and "0x7f000001" for addresses.
    last == "localhost" || last.starts_with(|sign: char| sign.is_ascii_digit()) || !host.contains('.')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_of_http_and_have_a_host() {
        for (text, host, port, path) in [
            ("http://ocsp.example.com", "ocsp.example.com", 80, "/"),
            ("http://ocsp.example.com:8080/a/b?c", "ocsp.example.com", 8080, "/a/b?c"),
            ("http://[2001:db8::1]/x", "2001:db8::1", 80, "/x"),
        ] {
            let url: HttpUrl = text.parse().unwrap();
            assert_eq!((url.server.host.as_str(), url.server.port, url.path.as_str()), (host, port, path), "{text}");
        }
        for text in [
            "https://ocsp.example.com/",
            "ldap://ocsp.example.com/",
            "ocsp.example.com",
            "http:///x",
            "http://host:0/",
            "http://host:99999/",
            "http://a b/",
            "/x",
            "",
        ] {
            assert!(text.parse::<HttpUrl>().is_err(), "{text}");
        }
        for text in ["http://user@host/", "http://user:secret@host:80/x"] {
            let error = text.parse::<HttpUrl>().unwrap_err().to_string();
            assert!(error.contains("user name") && !error.contains("secret"), "{error}");
        }
        let shown: HttpUrl = "http://[2001:db8::1]:81".parse().unwrap();
        assert_eq!(shown.to_string(), "http://[2001:db8::1]:81/");
    }

    #[test]
    fn a_certificate_sends_us_nowhere_near() {
        for (address, near) in [
            ("127.0.0.1", true),
            ("127.9.9.9", true),
            ("0.0.0.0", true),
            ("169.254.169.254", true),
            ("224.0.0.1", true),
            ("255.255.255.255", true),
            ("::1", true),
            ("::", true),
            ("::ffff:127.0.0.1", true),
            ("::127.0.0.1", true),
            ("fe80::1", true),
            ("ff02::1", true),
            ("64:ff9b::7f00:1", true),
            ("64:ff9b::a9fe:a9fe", true),
            ("2002:7f00:1::1", true),
            ("fd00:ec2::254", true),
            ("10.0.0.1", false),
            ("192.0.2.1", false),
            ("2001:db8::1", false),
            ("64:ff9b::c000:201", false),
            ("fd00::1", false),
        ] {
            assert_eq!(is_near(address.parse().unwrap()), near, "{address}");
        }
        for (host, near) in [
            ("localhost", true),
            ("LocalHost.", true),
            ("a.localhost", true),
            ("metadata", true),
            ("127.1", true),
            ("0x7f000001", true),
            ("2130706433", true),
            ("169.254.169.254", true),
            ("::1", true),
            ("10.0.0.1", false),
            ("ocsp.example.com", false),
        ] {
            assert_eq!(is_near_by_name(host), near, "{host}");
        }
    }

    #[test]
    fn a_proxy_is_not_for_those_that_no_proxy_names() {
        let except = ["localhost", ".example.com", "example.net", "192.0.2.1"].map(String::from).into();
        let proxy = Proxy { server: "proxy:3128".parse().unwrap(), except };
        for (host, served) in [
            ("ocsp.example.com", false),
            ("EXAMPLE.com", false),
            ("notexample.com", true),
            ("a.example.net", false),
            ("192.0.2.1", false),
            ("192.0.2.10", true),
            ("localhost", false),
        ] {
            assert_eq!(proxy.serves(host), served, "{host}");
        }
        let nobody = Proxy { except: ["*".into()].into(), ..proxy };
        assert!(!nobody.serves("ocsp.example.org"));
    }
}
