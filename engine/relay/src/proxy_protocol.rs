//! The line that tells a server behind us where its client is (the PROXY protocol of haproxy, versions 1 and 2).

use std::net::{IpAddr, SocketAddr};

use proxy_header::{ProxiedAddress, ProxyHeader};

/// Which form the server reads.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ProxyProtocol {
    /// A line of text.
    V1,
    /// Binary.
    V2,
}

impl ProxyProtocol {
    /// The bytes that go before the client's: it is at `client` and has connected to `listener`.
    pub(crate) fn header(self, client: SocketAddr, listener: SocketAddr) -> Vec<u8> {
        let (client, listener) = one_family(client, listener);
        let header = ProxyHeader::with_address(ProxiedAddress::stream(client, listener));
        let mut bytes = Vec::new();
        let encoded = match self {
            Self::V1 => header.encode_v1(&mut bytes),
            Self::V2 => header.encode_v2(&mut bytes),
        };
        // Fails only for two families, or for a writer that is full.
        debug_assert!(encoded.is_ok(), "{encoded:?}");
        bytes
    }
}

/// IPv4 where both are, also when they come from an IPv6 socket that takes both; else IPv6.
fn one_family(client: SocketAddr, listener: SocketAddr) -> (SocketAddr, SocketAddr) {
    let canonical = |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
    let mapped = |address: SocketAddr| match address.ip() {
        IpAddr::V4(v4) => SocketAddr::new(v4.to_ipv6_mapped().into(), address.port()),
        IpAddr::V6(v6) => SocketAddr::new(v6.into(), address.port()),
    };
    let (client, listener) = (canonical(client), canonical(listener));
    if client.is_ipv4() == listener.is_ipv4() { (client, listener) } else { (mapped(client), mapped(listener)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(version: ProxyProtocol, client: &str, listener: &str) -> Vec<u8> {
        version.header(client.parse().unwrap(), listener.parse().unwrap())
    }

    #[test]
    fn version_1_is_a_line_of_text() {
        for (client, listener, line) in [
            ("10.0.0.7:700", "10.0.0.1:2049", "PROXY TCP4 10.0.0.7 10.0.0.1 700 2049\r\n"),
            ("[::ffff:10.0.0.7]:700", "[::ffff:10.0.0.1]:2049", "PROXY TCP4 10.0.0.7 10.0.0.1 700 2049\r\n"),
            ("[2001:db8::7]:700", "[2001:db8::1]:2049", "PROXY TCP6 2001:db8::7 2001:db8::1 700 2049\r\n"),
        ] {
            assert_eq!(String::from_utf8(header(ProxyProtocol::V1, client, listener)).unwrap(), line);
        }
        assert!(header(ProxyProtocol::V1, "10.0.0.7:700", "[2001:db8::1]:2049").starts_with(b"PROXY TCP6 ::ffff:"));
    }

    #[test]
    fn version_2_is_signature_family_length_and_addresses() {
        let mut wanted = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c".to_vec();
        wanted.extend([10, 0, 0, 7, 10, 0, 0, 1, 0x02, 0xbc, 0x08, 0x01]);
        assert_eq!(header(ProxyProtocol::V2, "10.0.0.7:700", "10.0.0.1:2049"), wanted);
        let six = header(ProxyProtocol::V2, "[2001:db8::7]:700", "[2001:db8::1]:2049");
        assert_eq!((six.get(12..16), six.len()), (Some(&[0x21, 0x21, 0, 36][..]), 52));
    }
}
