//! What both ends have to agree on: versions, suites and groups, by OpenSSL's names.

use crate::dialect::keys::Fate;
use crate::dialect::lines::Entry;
use crate::dialect::translate::{Done, Settings, Words, wrong};

/// What is allowed of TLS 1.2 and 1.3.
pub(super) fn versions(settings: &Settings<'_>, words: &mut Words<'_>) -> Done<()> {
    let (mut tls_12, mut tls_13) = (true, true);
    let version = |entry: &Entry| match entry.value.to_ascii_lowercase().as_str() {
        "all" => Ok(None),
        "sslv2" => Ok(Some(0)),
        "sslv3" => Ok(Some(1)),
        "tlsv1" | "tlsv1.0" => Ok(Some(10)),
        "tlsv1.1" => Ok(Some(11)),
        "tlsv1.2" => Ok(Some(12)),
        "tlsv1.3" => Ok(Some(13)),
        _ => wrong(entry, "all, TLSv1.2 or TLSv1.3"),
    };
    let too_old = "it is older than TLSv1.2, which is the oldest that is spoken";
    let mut entries = Vec::new();
    for name in ["sslVersion", "sslVersionMin", "sslVersionMax"] {
        let Some(entry) = settings.last(name) else { continue };
        entries.push(entry);
        let Some(version) = version(entry)? else { continue };
        match name {
            "sslVersionMin" => tls_12 &= version <= 12,
            _ if version < 12 => return wrong(entry, too_old),
            "sslVersion" => (tls_12, tls_13) = (tls_12 && version == 12, tls_13 && version == 13),
            _ => tls_13 &= version >= 13,
        }
    }
    let (mut no_tls_12, mut no_tls_13) = (false, false);
    for entry in settings.all("options") {
        let (is_set, name) = match entry.value.strip_prefix('-') {
            Some(name) => (false, name),
            None => (true, entry.value.as_str()),
        };
        match name.trim_start_matches("SSL_OP_") {
            "NO_TLSv1_2" => no_tls_12 = is_set,
            "NO_TLSv1_3" => no_tls_13 = is_set,
            known if OPTIONS.contains(&known) => {
                words.ignore(entry, "an option of OpenSSL, which is not here");
                continue;
            }
            _ => return wrong(entry, "no option of OpenSSL's that is known by this name"),
        }
        entries.push(entry);
    }
    (tls_12, tls_13) = (tls_12 && !no_tls_12, tls_13 && !no_tls_13);
    let allowed = match (tls_12, tls_13) {
        (true, true) => "1.2-1.3",
        (true, false) => "1.2",
        (false, true) => "1.3",
        (false, false) => match entries.last() {
            Some(last) => return wrong(last, "neither TLSv1.2 nor TLSv1.3 is left"),
            None => return Ok(()),
        },
    };
    for entry in &entries {
        words.scribe.note(entry, Fate::Mapped, format!("--tls {allowed}"));
    }
    if !entries.is_empty() {
        words.words.extend(["--tls".into(), allowed.into()]);
    }
    Ok(())
}

/// OpenSSL's names of the suites of TLS 1.2 that are spoken, in the order in which they are preferred, and IANA's.
const SUITES_12: [(&str, &str); 6] = [
    ("ECDHE-ECDSA-AES256-GCM-SHA384", "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384"),
    ("ECDHE-ECDSA-AES128-GCM-SHA256", "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"),
    ("ECDHE-ECDSA-CHACHA20-POLY1305", "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256"),
    ("ECDHE-RSA-AES256-GCM-SHA384", "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384"),
    ("ECDHE-RSA-AES128-GCM-SHA256", "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"),
    ("ECDHE-RSA-CHACHA20-POLY1305", "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256"),
];
const SUITES_13: [&str; 3] = ["TLS_AES_256_GCM_SHA384", "TLS_AES_128_GCM_SHA256", "TLS_CHACHA20_POLY1305_SHA256"];

/// Whether a word of OpenSSL's lists means this suite.
fn means(word: &str, suite: &str) -> bool {
    word.split('+').all(|part| match part {
        "HIGH" | "DEFAULT" | "ALL" | "TLSv1.2" => true,
        "FIPS" => suite.contains("GCM"),
        "ECDHE" | "EECDH" | "kECDHE" | "kEECDH" => true,
        "AES" | "AES128" | "AES256" | "CHACHA20" => suite.contains(part),
        "AESGCM" => suite.contains("GCM"),
        "ECDSA" | "aECDSA" => suite.contains("-ECDSA-"),
        "RSA" | "aRSA" => suite.contains("-RSA-"),
        name => name == suite,
    })
}

/// What of OpenSSL's list is spoken here, by IANA's names.
fn suites_12(list: &str) -> Vec<&'static str> {
    let (mut chosen, mut banned): (Vec<&(&str, &str)>, Vec<&str>) = Default::default();
    for word in list.split([':', ',', ' ', ';']).filter(|word| !word.is_empty() && !word.starts_with('@')) {
        if let Some(word) = word.strip_prefix(['!', '-']) {
            chosen.retain(|(name, _)| !means(word, name));
        } else if !word.starts_with('+') {
            let more = SUITES_12.iter().filter(|(name, _)| means(word, name) && !banned.contains(name));
            let more: Vec<_> = more.filter(|suite| !chosen.contains(suite)).collect();
            chosen.extend(more);
        }
        if let Some(word) = word.strip_prefix('!') {
            banned.extend(SUITES_12.iter().filter(|(name, _)| means(word, name)).map(|(name, _)| name));
        }
    }
    chosen.into_iter().map(|(_, name)| *name).collect()
}

/// Why a higher level is refused.
pub(super) const LEVEL_MAX: &str = "level 2 is the highest: keys of 112 bits (RSA-2048) are accepted";

/// OpenSSL's options, as stunnel lists them, but those that are obeyed.
const OPTIONS: [&str; 50] = [
    "ALL",
    "ALLOW_CLIENT_RENEGOTIATION",
    "ALLOW_NO_DHE_KEX",
    "ALLOW_UNSAFE_LEGACY_RENEGOTIATION",
    "CIPHER_SERVER_PREFERENCE",
    "CISCO_ANYCONNECT",
    "CLEANSE_PLAINTEXT",
    "COOKIE_EXCHANGE",
    "CRYPTOPRO_TLSEXT_BUG",
    "DISABLE_TLSEXT_CA_NAMES",
    "DONT_INSERT_EMPTY_FRAGMENTS",
    "ENABLE_KTLS",
    "ENABLE_MIDDLEBOX_COMPAT",
    "EPHEMERAL_RSA",
    "IGNORE_UNEXPECTED_EOF",
    "LEGACY_SERVER_CONNECT",
    "MICROSOFT_BIG_SSLV3_BUFFER",
    "MICROSOFT_SESS_ID_BUG",
    "MSIE_SSLV2_RSA_PADDING",
    "NETSCAPE_CA_DN_BUG",
    "NETSCAPE_CHALLENGE_BUG",
    "NETSCAPE_DEMO_CIPHER_CHANGE_BUG",
    "NETSCAPE_REUSE_CIPHER_CHANGE_BUG",
    "NO_ANTI_REPLAY",
    "NO_COMPRESSION",
    "NO_DTLS_MASK",
    "NO_DTLSv1",
    "NO_DTLSv1_2",
    "NO_ENCRYPT_THEN_MAC",
    "NO_EXTENDED_MASTER_SECRET",
    "NO_QUERY_MTU",
    "NO_RENEGOTIATION",
    "NO_SESSION_RESUMPTION_ON_RENEGOTIATION",
    "NO_SSLv2",
    "NO_SSLv3",
    "NO_TICKET",
    "NO_TLSv1",
    "NO_TLSv1_1",
    "PKCS1_CHECK_1",
    "PKCS1_CHECK_2",
    "PRIORITIZE_CHACHA",
    "SAFARI_ECDHE_ECDSA_BUG",
    "SINGLE_DH_USE",
    "SINGLE_ECDH_USE",
    "SSLEAY_080_CLIENT_DH_BUG",
    "SSLREF2_REUSE_CERT_TYPE_BUG",
    "TLSEXT_PADDING",
    "TLS_BLOCK_PADDING_BUG",
    "TLS_D5_BUG",
    "TLS_ROLLBACK_BUG",
];

/// Which suites and groups of OpenSSL's lists are spoken.
pub(super) fn suites_and_groups(settings: &Settings<'_>, words: &mut Words<'_>) -> Done<()> {
    let (ciphers, suites) = (settings.last("ciphers"), settings.last("ciphersuites"));
    if let Some(entry) = ciphers {
        let levels = entry.value.split([':', ',', ' ', ';']).filter_map(|word| word.strip_prefix("@SECLEVEL="));
        if levels.into_iter().any(|level| !matches!(level.parse::<u8>(), Ok(0..=2))) {
            return wrong(entry, LEVEL_MAX);
        }
    }
    if ciphers.is_some() || suites.is_some() {
        let of_13: Vec<&str> = match suites {
            None => SUITES_13.to_vec(),
            Some(entry) => entry.value.split(':').filter(|name| SUITES_13.contains(name)).collect(),
        };
        let of_12 = ciphers.map_or_else(|| suites_12("ALL"), |entry| suites_12(&entry.value));
        for (entry, is_empty) in [(ciphers, of_12.is_empty()), (suites, of_13.is_empty())] {
            match entry {
                Some(entry) if is_empty => {
                    return wrong(entry, "none of these is spoken: ECDHE with AES-GCM or ChaCha20-Poly1305");
                }
                _ => {}
            }
        }
        let all = [of_13, of_12].concat().join(",");
        for entry in [ciphers, suites].into_iter().flatten() {
            words.scribe.note(entry, Fate::Mapped, format!("--tls-suites {all}"));
        }
        words.words.extend(["--tls-suites".into(), all]);
    }
    if let Some(entry) = settings.last("curves") {
        let group = |name: &str| match name {
            "X25519" | "x25519" => Some("x25519"),
            "P-256" | "prime256v1" | "secp256r1" => Some("secp256r1"),
            "P-384" | "secp384r1" => Some("secp384r1"),
            _ => None,
        };
        let groups: Vec<&str> = entry.value.split(':').filter_map(group).collect();
        if groups.is_empty() {
            return wrong(entry, "none of these is spoken: X25519, P-256, P-384");
        }
        words.say(entry, &["--tls-groups", &groups.join(",")]);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_ciphers_are_read_as_openssl_reads_them() {
        let count = |list: &str| suites_12(list).len();
        for (list, wanted) in [
            ("HIGH", 6),
            ("HIGH:!RSA", 3),
            ("ECDHE+AESGCM", 4),
            ("DEFAULT:-CHACHA20:@SECLEVEL=2", 4),
            ("!aRSA:ALL", 3),
            ("-aRSA:ALL", 6),
            ("HIGH:-SSLv2", 6),
            ("AES128-SHA:ECDHE-RSA-AES128-GCM-SHA256", 1),
            ("PSK", 0),
        ] {
            assert_eq!(count(list), wanted, "{list}");
        }
        assert_eq!(suites_12("ECDHE-RSA-AES128-GCM-SHA256:ALL")[0], "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256");
    }
}
