//! Alert descriptions (RFC 8446 section 6, RFC 5246 section 7.2).

use core::fmt;

/// The second byte of an alert.
#[derive(Clone, Copy, Eq, PartialEq)]
pub struct AlertDescription(pub u8);

impl AlertDescription {
    /// The sender will write no more.
    pub const CLOSE_NOTIFY: Self = Self(0);
    /// A message that must not come at this point.
    pub const UNEXPECTED_MESSAGE: Self = Self(10);
    /// A record that does not authenticate.
    pub const BAD_RECORD_MAC: Self = Self(20);
    /// A record that is too long.
    pub const RECORD_OVERFLOW: Self = Self(22);
    /// A certificate that was revoked.
    pub const CERTIFICATE_REVOKED: Self = Self(44);
    /// A certificate that has run out.
    pub const CERTIFICATE_EXPIRED: Self = Self(45);
    /// A certificate that is not accepted for another reason.
    pub const CERTIFICATE_UNKNOWN: Self = Self(46);
    /// A value that is not allowed in a message that can be parsed.
    pub const ILLEGAL_PARAMETER: Self = Self(47);
    /// A certificate that is valid, and not let in.
    pub const ACCESS_DENIED: Self = Self(49);
    /// A message that cannot be parsed.
    pub const DECODE_ERROR: Self = Self(50);
    /// The sender fails for a reason of its own.
    pub const INTERNAL_ERROR: Self = Self(80);
    /// The sender stops for a reason of its own; in TLS 1.3 close_notify follows.
    pub const USER_CANCELED: Self = Self(90);
    /// TLS 1.2: the answer to a HelloRequest that is refused.
    pub const NO_RENEGOTIATION: Self = Self(100);
    /// A stapled OCSP response that cannot be used.
    pub const BAD_CERTIFICATE_STATUS_RESPONSE: Self = Self(113);

    /// The name that the RFCs use, where there is one.
    pub fn name(self) -> Option<&'static str> {
        Some(match self.0 {
            0 => "close_notify",
            10 => "unexpected_message",
            20 => "bad_record_mac",
            22 => "record_overflow",
            40 => "handshake_failure",
            42 => "bad_certificate",
            43 => "unsupported_certificate",
            44 => "certificate_revoked",
            45 => "certificate_expired",
            46 => "certificate_unknown",
            47 => "illegal_parameter",
            48 => "unknown_ca",
            49 => "access_denied",
            50 => "decode_error",
            51 => "decrypt_error",
            70 => "protocol_version",
            71 => "insufficient_security",
            80 => "internal_error",
            86 => "inappropriate_fallback",
            90 => "user_canceled",
            100 => "no_renegotiation",
            109 => "missing_extension",
            110 => "unsupported_extension",
            112 => "unrecognized_name",
            113 => "bad_certificate_status_response",
            115 => "unknown_psk_identity",
            116 => "certificate_required",
            120 => "no_application_protocol",
            _ => return None,
        })
    }

    /// The two bytes of the alert: a warning for close_notify and no_renegotiation, else fatal.
    pub fn encode(self) -> [u8; 2] {
        let level = if matches!(self, Self::CLOSE_NOTIFY | Self::NO_RENEGOTIATION) { 1 } else { 2 };
        [level, self.0]
    }
}

impl fmt::Display for AlertDescription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "{}", self.0),
        }
    }
}

impl fmt::Debug for AlertDescription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
