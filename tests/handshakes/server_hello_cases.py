"""What a TLS client says to `sealane server` in its ClientHello, or in place of it, and what it must get for that."""

from tlslite.constants import ContentType, ExtensionType, GroupName, HandshakeType
from tlslite.extensions import KeyShareEntry
from tlslite.messages import (
    ClientHello,
    ClientKeyExchange,
    Finished,
)

from cases import (
    BEFORE_VERSIONS,
    BOTH,
    BY_CODEC,
    MISSING,
    NO_ALERT,
    NO_TLS,
    OFF_THE_CURVE,
    TLS12,
    TLS13,
    Case,
    Ended,
    Refused,
    Works,
    before,
    changed,
    having,
    in_records,
    listed,
    prefixed,
    rewritten,
    says,
    with_at_once,
    with_extension,
    with_other,
    with_twice,
    without,
)
from peers import Clear, handshake_message, record
from tunnels import CALL

HELLO_RANDOM = bytes(range(32))
GREASE = 0x0A0A
P256_ONLY = {"eccCurves": ["secp256r1"], "keyShares": ["secp256r1"]}


def recoded(**parts):
    """The ClientHello with encoded parts of it as given, lengths included, or as a function makes them of the old."""

    def rewrite(body):
        names, lengths = ("session_id", "suites", "compressions", "extensions"), (1, 2, 1, 2)
        there, at = {"version": body[:2], "random": body[2:34]}, 34
        for name, length in zip(names, lengths):
            end = at + length + int.from_bytes(body[at : at + length], "big")
            there[name], at = body[at:end], end
        there["rest"] = body[at:]
        for name, part in parts.items():
            there[name] = part(there[name]) if callable(part) else part
        return b"".join(there.values())

    return rewritten(ClientHello, rewrite)


def hello(*changes):
    return [changed(ClientHello, *changes)]


def suites(*numbers):
    return having(cipher_suites=list(numbers))


def shares(*entries):
    """The content of a client's key_share: pairs of a group and a public value."""
    return prefixed(b"".join(group.to_bytes(2, "big") + prefixed(public) for group, public in entries))


def own_share_with(**fields):
    """The first key share with other fields, for instance another group."""

    def change(message):
        entry = message.getExtension(ExtensionType.key_share).client_shares[0]
        for name, value in fields.items():
            setattr(entry, name, value)

    return change


def own_share_and(group, public):
    """A further key share behind the client's own."""

    def change(message):
        message.getExtension(ExtensionType.key_share).client_shares.append(KeyShareEntry().create(group, public))

    return change


def named(name):
    def change(message):
        message.getExtension(ExtensionType.server_name).create(name)

    return change


def says_and_ends(data):
    def speak(wire):
        wire.send(data)
        wire.tap.end_sending()

    return speak


def psk(identity, binders):
    """The content of pre_shared_key with one identity and these binders."""
    return prefixed(prefixed(identity) + bytes(4)) + prefixed(b"".join(prefixed(binder, 1) for binder in binders))


def with_last_extension(number, data):
    def change(message):
        with_extension(number, data)(message)
        message.extensions.append(message.extensions.pop(0))

    return change


def with_binder(change_bytes):
    def change(message):
        extension = message.getExtension(ExtensionType.pre_shared_key)
        extension.binders = [change_bytes(bytearray(binder)) for binder in extension.binders]

    return change


def turned(data):
    data[0] ^= 1
    return data


# What a TLS 1.2 client says at least.
MINIMAL_HELLO = (
    b"\x03\x03" + HELLO_RANDOM + b"\x00" + listed(0xC02B) + b"\x01\x00"
    + prefixed(
        b"\x00\x0a" + prefixed(listed(GroupName.x25519))
        + b"\x00\x0d" + prefixed(listed(0x0403))
        + b"\x00\x0b" + prefixed(b"\x01\x00")
    )
)  # fmt: skip
HELLO_RECORD = record(ContentType.handshake, handshake_message(HandshakeType.client_hello, MINIMAL_HELLO))
SSL2_HELLO = bytes.fromhex("802e0100020015000000100100800200800300800400800500800600400700c0") + bytes(16)
SERVER_HELLO = b"\x03\x03" + HELLO_RANDOM + b"\x00\xc0\x2b\x00"
EARLY_DATA = record(ContentType.application_data, bytes(100))
OFFERS_EARLY_DATA = changed(
    ClientHello,
    with_extension(ExtensionType.early_data),
    with_last_extension(ExtensionType.pre_shared_key, psk(bytes(160), [bytes(32)])),
)


# fmt: off
HELLOS = [
    Case("nothing-wrong", BOTH, [], Works("so that the other cases fail for what they do")),
    # What is no ClientHello.
    Case("ssl2-hello", TLS12, says(SSL2_HELLO),
         Refused("decode_error", "InvalidContentType", "RFC 6176 3, RFC 8446 5", "unexpected_message", NO_TLS)),
    Case("http", TLS12, says(b"GET / HTTP/1.1\r\nHost: nfs.test\r\n\r\n"),
         Refused("decode_error", "InvalidContentType", "RFC 8446 5", "unexpected_message", NO_TLS)),
    Case("rpc-in-clear", TLS12, says(CALL),
         Refused("decode_error", "InvalidContentType", "RFC 8446 5", "unexpected_message", NO_TLS)),
    Case("record-type-unknown", TLS12, says(record(99, b"x")),
         Refused("decode_error", "InvalidContentType", "RFC 8446 5", "unexpected_message", NO_TLS)),
    Case("data-first", TLS12, says(record(ContentType.application_data, CALL)),
         Refused("unexpected_message", "got ApplicationData", "RFC 8446 5")),
    Case("ccs-first", TLS12, says(record(ContentType.change_cipher_spec, b"\x01") + HELLO_RECORD),
         Refused("unexpected_message", "got ChangeCipherSpec",
                 "RFC 8446 5: before the first ClientHello it is an unexpected record")),
    Case("heartbeat-first", TLS12, says(record(ContentType.heartbeat, b"\x01\x40\x00")),
         Refused("decode_error", "InvalidContentType", "RFC 8446 5; it was the way of CVE-2014-0160",
                 "unexpected_message", NO_TLS)),
    Case("server-hello-first", TLS12, says(record(ContentType.handshake, handshake_message(2, SERVER_HELLO))),
         Refused("unexpected_message", "got ServerHello", "RFC 8446 4")),
    Case("message-unknown-first", TLS12, says(record(ContentType.handshake, handshake_message(99, b""))),
         Refused("unexpected_message", "got HandshakeType(0x63)", "RFC 8446 4")),
    Case("finished-first", TLS12, says(record(ContentType.handshake, handshake_message(20, bytes(12)))),
         Refused("unexpected_message", "got Finished", "RFC 8446 4")),
    Case("record-empty", TLS12, says(record(ContentType.handshake, b"")),
         Refused("decode_error", "InvalidEmptyPayload",
                 "RFC 8446 5.1, 5.4: no zero-length fragments of handshake messages", "unexpected_message", BY_CODEC)),
    Case("record-too-long", TLS12, says(record(ContentType.handshake, bytes([1, 0, 0x41, 0]) + bytes(0x4900))),
         Refused("decode_error", "MessageTooLarge", "RFC 8446 5.1", "record_overflow", BY_CODEC)),
    Case("alert-first", TLS12, says(record(ContentType.alert, b"\x02\x28")),
         Ended("the alert HandshakeFailure", "RFC 8446 6.2: after a fatal alert both close, nobody answers it")),
    Case("alert-cut", TLS12, says(record(ContentType.alert, b"\x02")),
         Refused("decode_error", "MissingData", "RFC 8446 6, 5.1")),
    Case("hello-cut", TLS12, says_and_ends(HELLO_RECORD[:40]),
         Ended("the client closed the connection during the TLS handshake", "RFC 8446 6.1: an end without an alert")),
    Case("hello-of-more-than-64-KiB", TLS12, says(record(22, b"\x01\x01\x00\x01" + bytes(0x3000))),
         Ended("HandshakePayloadTooLarge", "RFC 8446 4.1.2: the parts of a ClientHello cannot fill so much",
               "illegal_parameter", NO_ALERT)),
    # Versions.
    Case("ssl3", TLS12, [recoded(version=b"\x03\x00", extensions=b"")],
         Refused("handshake_failure", "SignatureAlgorithmsExtensionRequired", "RFC 8446 D.2, RFC 5246 E.1",
                 "protocol_version", BEFORE_VERSIONS)),
    Case("tls10", TLS12, [recoded(version=b"\x03\x01")],
         Refused("protocol_version", "Tls12NotOffered", "RFC 8446 D.2, RFC 5246 E.1")),
    Case("tls11", TLS12, [recoded(version=b"\x03\x02")],
         Refused("protocol_version", "Tls12NotOffered", "RFC 8446 D.2, RFC 5246 E.1")),
    Case("tls10-without-extensions", TLS12, [recoded(version=b"\x03\x01", extensions=b"")],
         Refused("handshake_failure", "SignatureAlgorithmsExtensionRequired", "RFC 8446 D.2, RFC 5246 E.1",
                 "protocol_version", BEFORE_VERSIONS)),
    Case("supported-versions-old", TLS13,
         hello(with_other(ExtensionType.supported_versions, listed(0x0302, 0x0301, length=1))),
         Refused("protocol_version", "Tls12NotOfferedOrEnabled", "RFC 8446 4.2.1")),
    Case("supported-versions-unknown", TLS13,
         hello(with_other(ExtensionType.supported_versions, listed(0x0305, length=1))),
         Refused("protocol_version", "Tls12NotOfferedOrEnabled", "RFC 8446 4.2.1")),
    Case("supported-versions-empty", TLS13, hello(with_other(ExtensionType.supported_versions, b"\x00")),
         Refused("decode_error", "IllegalEmptyList", "RFC 8446 4.2.1: two bytes at least")),
    Case("legacy-version-of-the-future", TLS12, [recoded(version=b"\x03\x04")],
         Works("RFC 8446 4.2.1: without supported_versions this is TLS 1.2")),
    Case("fallback-scsv", TLS12, hello(suites(0xC02B, 0x5600)),
         Works("RFC 7507 3", "inappropriate_fallback", "clients of TLS 1.3 notice a downgrade by ServerHello.random")),
    # Cipher suites.
    Case("suites-unknown", BOTH, hello(suites(0xFEFE)),
         Refused("handshake_failure", "NoCipherSuitesInCommon", "RFC 8446 4.1.1, RFC 5246 7.4.1.2")),
    Case("suites-cbc", TLS12, hello(suites(0xC009, 0xC013, 0xC023, 0xC027)),
         Refused("handshake_failure", "NoCipherSuitesInCommon", "RFC 5246 7.4.1.2")),
    Case("suites-rsa", TLS12, hello(suites(0x009C, 0x002F)),
         Refused("handshake_failure", "NoCipherSuitesInCommon", "RFC 5246 7.4.1.2")),
    Case("suites-dhe", TLS12, hello(suites(0x009E, 0x0033)),
         Refused("handshake_failure", "NoCipherSuitesInCommon", "RFC 5246 7.4.1.2")),
    Case("suites-anonymous", TLS12, hello(suites(0x0034, 0xC018, 0x00A6)),
         Refused("handshake_failure", "NoCipherSuitesInCommon", "RFC 5246 7.4.1.2")),
    Case("suites-null", TLS12, hello(suites(0x0000, 0x0001, 0xC006)),
         Refused("handshake_failure", "NoCipherSuitesInCommon", "RFC 5246 7.4.1.2")),
    Case("suites-export", TLS12, hello(suites(0x0003, 0x0008, 0x0014)),
         Refused("handshake_failure", "NoCipherSuitesInCommon", "RFC 5246 7.4.1.2")),
    Case("suites-for-another-key", TLS12, hello(suites(0xC02F, 0xC030)),
         Refused("handshake_failure", "NoCipherSuitesInCommon", "RFC 5246 7.4.1.2: RSA, and the certificate is ECDSA")),
    Case("suites-of-the-other-version", TLS12, hello(suites(0x1301, 0x1302)),
         Refused("handshake_failure", "NoCipherSuitesInCommon", "RFC 8446 4.1.1")),
    Case("suites-of-the-other-version", TLS13, hello(suites(0xC02B, 0xC02C)),
         Refused("handshake_failure", "NoCipherSuitesInCommon", "RFC 8446 4.1.1")),
    Case("suites-empty", BOTH, hello(suites()),
         Refused("decode_error", "IllegalEmptyList", "RFC 8446 4.1.2: two bytes at least")),
    Case("suites-of-odd-length", BOTH, [recoded(suites=b"\x00\x03\x13\x01\xc0")],
         Refused("decode_error", "MissingData", "RFC 8446 6.2")),
    # Groups and key shares.
    Case("groups-unknown", TLS12, hello(with_other(ExtensionType.supported_groups, listed(GroupName.secp521r1))),
         Refused("handshake_failure", "NoKxGroupsInCommon", "RFC 8422 4")),
    Case("groups-unknown", TLS13,
         hello(with_other(ExtensionType.supported_groups, listed(GroupName.secp521r1)),
               own_share_with(group=GroupName.secp521r1)),
         Refused("handshake_failure", "NoKxGroupsInCommon", "RFC 8446 4.1.1")),
    Case("groups-missing", TLS12, hello(without(ExtensionType.supported_groups)),
         Refused("handshake_failure", "NoKxGroupsInCommon", "RFC 8422 4: a server may take any curve, or none",
                 "a handshake", "every client that does ECDHE names its groups")),
    Case("groups-missing", TLS13, hello(without(ExtensionType.supported_groups)),
         Refused("handshake_failure", "NoKxGroupsInCommon", "RFC 8446 9.2", "missing_extension", MISSING)),
    Case("groups-empty", BOTH, hello(with_other(ExtensionType.supported_groups, listed())),
         Refused("decode_error", "IllegalEmptyList", "RFC 8446 4.2.7: two bytes at least")),
    Case("point-formats-compressed-only", TLS12, hello(with_other(ExtensionType.ec_point_formats, b"\x01\x01")),
         Refused("illegal_parameter", "UncompressedEcPointsRequired", "RFC 8422 5.1.2")),
    Case("key-share-missing", TLS13, hello(without(ExtensionType.key_share)),
         Refused("handshake_failure", "KeyShareExtensionRequired", "RFC 8446 9.2", "missing_extension", MISSING)),
    Case("key-share-empty", TLS13, [], Works("RFC 8446 4.2.8: it asks for a HelloRetryRequest"),
         settings={"keyShares": []}),
    Case("key-share-of-no-supported-group", TLS13, hello(own_share_with(group=GroupName.secp521r1)),
         Refused("illegal_parameter", "RefusedToFollowHelloRetryRequest", "RFC 8446 4.2.8: servers may check")),
    Case("key-share-twice", TLS13, hello(own_share_and(GroupName.x25519, bytes([9]) + bytes(31))),
         Refused("illegal_parameter", "OfferedDuplicateKeyShares", "RFC 8446 4.2.8: servers may check")),
    Case("key-share-unknown-beside", TLS13, hello(own_share_and(GREASE, b"\x00")),
         Works("RFC 8701 3.1: unknown values are ignored")),
    Case("key-share-zero", TLS13, hello(with_other(ExtensionType.key_share, shares((GroupName.x25519, bytes(32))))),
         Refused("illegal_parameter", "InvalidKeyShare", "RFC 8446 7.4.2, RFC 7748 6.1")),
    Case("key-share-short", TLS13, hello(with_other(ExtensionType.key_share, shares((GroupName.x25519, bytes(31))))),
         Refused("illegal_parameter", "InvalidKeyShare", "RFC 8446 4.2.8.2")),
    Case("key-share-of-no-bytes", TLS13, hello(with_other(ExtensionType.key_share, shares((GroupName.x25519, b"")))),
         Refused("decode_error", "IllegalEmptyValue", "RFC 8446 4.2.8: one byte at least")),
    Case("key-share-off-the-curve", TLS13,
         hello(with_other(ExtensionType.key_share, shares((GroupName.secp256r1, OFF_THE_CURVE)))),
         Refused("illegal_parameter", "InvalidKeyShare", "RFC 8446 4.2.8.2"), settings=P256_ONLY),
    Case("key-share-compressed", TLS13,
         hello(with_other(ExtensionType.key_share, shares((GroupName.secp256r1, b"\x03" + OFF_THE_CURVE[1:33])))),
         Refused("illegal_parameter", "InvalidKeyShare", "RFC 8446 4.2.8.2: uncompressed only"), settings=P256_ONLY),
    Case("key-share-cut", TLS13, hello(with_other(ExtensionType.key_share, b"\x00\x24\x00\x1d\x00\x20" + bytes(16))),
         Refused("decode_error", "MessageTooShort", "RFC 8446 6.2")),
    Case("point-off-the-curve", TLS12, [changed(ClientKeyExchange, having(ecdh_Yc=OFF_THE_CURVE))],
         Refused("illegal_parameter", "InvalidKeyShare", "RFC 8422 5.11"), settings=P256_ONLY),
    Case("point-zero", TLS12, [changed(ClientKeyExchange, having(ecdh_Yc=bytes(32)))],
         Refused("illegal_parameter", "InvalidKeyShare", "RFC 8422 5.11, RFC 7748 6.1")),
    Case("point-empty", TLS12, [changed(ClientKeyExchange, having(ecdh_Yc=b""))],
         Ended("IllegalEmptyValue", "RFC 8422 5.4: one byte at least", "decode_error", NO_ALERT)),
    Case("key-exchange-with-a-tail", TLS12, [rewritten(ClientKeyExchange, lambda body: body + b"\x00")],
         Refused("decode_error", "InvalidDhParams", "RFC 5246 7.2.2")),
    # Signature algorithms.
    Case("signatures-missing", TLS12, hello(without(ExtensionType.signature_algorithms)),
         Refused("handshake_failure", "SignatureAlgorithmsExtensionRequired",
                 "RFC 5246 7.4.1.4.1: it means SHA-1, which RFC 9155 forbids")),
    Case("signatures-missing", TLS13, hello(without(ExtensionType.signature_algorithms)),
         Refused("handshake_failure", "SignatureAlgorithmsExtensionRequired", "RFC 8446 9.2", "missing_extension",
                 MISSING)),
    Case("signatures-of-another-key", BOTH,
         hello(with_other(ExtensionType.signature_algorithms, listed(0x0804, 0x0805))),
         Refused("handshake_failure", "NoSignatureSchemesInCommon", "RFC 8446 4.4.2.2, RFC 5246 7.4.3")),
    Case("signatures-sha1", BOTH, hello(with_other(ExtensionType.signature_algorithms, listed(0x0203, 0x0201))),
         Refused("handshake_failure", "NoSignatureSchemesInCommon", "RFC 8446 4.2.3, RFC 9155 4")),
    Case("signatures-empty", BOTH, hello(with_other(ExtensionType.signature_algorithms, listed())),
         Refused("decode_error", "NoSignatureSchemes", "RFC 8446 4.2.3: two bytes at least")),
    # How a ClientHello is encoded.
    Case("session-id-long", BOTH, [recoded(session_id=b"\x21" + bytes(33))],
         Refused("decode_error", "TrailingData", "RFC 8446 4.1.2, 6.2")),
    Case("compressions-empty", BOTH, [recoded(compressions=b"\x00")],
         Refused("decode_error", "IllegalEmptyList", "RFC 8446 4.1.2: one byte at least")),
    Case("compressions-without-null", BOTH, [recoded(compressions=b"\x01\x01")],
         Refused("illegal_parameter", "NullCompressionRequired", "RFC 8446 4.1.2, RFC 5246 7.4.1.2")),
    Case("compressions-many", TLS12, [recoded(compressions=b"\x02\x01\x00")],
         Works("RFC 5246 7.4.1.2: null is among them")),
    Case("compressions-many", TLS13, [recoded(compressions=b"\x02\x01\x00")],
         Refused("illegal_parameter", "OfferedIncorrectCompressions", "RFC 8446 4.1.2")),
    Case("extensions-longer-than-hello", BOTH, [recoded(extensions=lambda there: b"\xff\xff" + there[2:])],
         Refused("decode_error", "MessageTooShort", "RFC 8446 6.2")),
    Case("extension-longer-than-extensions", BOTH,
         [recoded(extensions=lambda there: there[:4] + b"\xff\xff" + there[6:])],
         Refused("decode_error", "MessageTooShort", "RFC 8446 6.2")),
    Case("hello-with-a-tail", BOTH, [recoded(rest=b"\x00")],
         Refused("decode_error", "TrailingData", "RFC 8446 4.2: nothing behind the extensions")),
    Case("hello-of-no-bytes", BOTH, [rewritten(ClientHello, lambda body: b"")],
         Refused("decode_error", "MissingData", "RFC 8446 6.2")),
    Case("extension-twice", BOTH, hello(with_twice(ExtensionType.supported_groups)),
         Refused("illegal_parameter", "DuplicateExtension", "RFC 8446 4.2: not more than one of a type")),
    Case("extension-unknown-twice", BOTH, hello(with_extension(0xFEFE), with_extension(0xFEFE)),
         Refused("illegal_parameter", "DuplicateExtension", "RFC 8446 4.2: not more than one of a type")),
    Case("extension-unknown", BOTH, hello(with_extension(0xFEFE, b"what is this")),
         Works("RFC 8446 4.1.2: unknown extensions are ignored")),
    Case("grease", BOTH,
         hello(lambda message: message.cipher_suites.insert(0, GREASE), with_extension(GREASE),
               lambda message: message.getExtension(ExtensionType.supported_groups).groups.insert(0, GREASE),
               lambda message: message.getExtension(ExtensionType.signature_algorithms).sigalgs.insert(0, (10, 10))),
         Works("RFC 8701 3.1: unknown values are ignored")),
    Case("grease-version", TLS13,
         hello(with_other(ExtensionType.supported_versions, listed(GREASE, 0x0305, 0x0304, length=1))),
         Works("RFC 8701 3.1: unknown values are ignored")),
    Case("hello-of-48-KiB", BOTH, hello(with_extension(21, bytes(48 << 10))), Works("RFC 7685: padding is ignored")),
    Case("hello-in-records-of-a-byte", BOTH, [in_records(ClientHello, 1)],
         Works("RFC 8446 5.1: messages may be cut anywhere")),
    Case("hello-in-another-record-version", BOTH, [in_records(ClientHello, 1 << 14, 0x0300)],
         Works("RFC 8446 5.1, RFC 5246 E.1: any {3, x}")),
    # Extensions.
    Case("name-twice", BOTH,
         hello(with_other(ExtensionType.server_name, prefixed((b"\x00" + prefixed(b"nfs.test")) * 2))),
         Refused("decode_error", "InvalidServerName",
                 "RFC 6066 3: not more than one name of a type; it names no alert")),
    Case("name-empty", BOTH, hello(with_other(ExtensionType.server_name, prefixed(b"\x00" + prefixed(b"")))),
         Refused("decode_error", "IllegalEmptyValue", "RFC 6066 3: one byte at least")),
    Case("name-of-another", BOTH, hello(named(b"other.test")),
         Works("RFC 6066 3: there is one certificate; whether it is right is for the client to judge")),
    Case("alpn", BOTH, hello(with_extension(ExtensionType.alpn, prefixed(b"\x06sunrpc"))),
         Works("RFC 7301 3.2: who selects none need not answer")),
    Case("alpn-empty", BOTH, hello(with_extension(ExtensionType.alpn, listed())),
         Refused("decode_error", "IllegalEmptyList", "RFC 7301 3.1: two bytes at least")),
    Case("heartbeat-offered", BOTH, hello(with_extension(ExtensionType.heartbeat, b"\x01")),
         Works("RFC 6520 2: it is not taken up")),
    Case("renegotiation-info-of-nothing", TLS12,
         hello(with_extension(ExtensionType.renegotiation_info, prefixed(bytes(12), 1))),
         Works("RFC 5746 3.6: must be empty in the first handshake", "handshake_failure",
               "there is no renegotiation here that it could be mixed up with")),
    Case("extended-master-secret-missing", TLS12, hello(without(ExtensionType.extended_master_secret)),
         Works("RFC 7627 5.2: a server may go on"), settings={"useExtendedMasterSecret": False}),
    Case("ticket-of-nobody", TLS12, hello(with_other(ExtensionType.session_ticket, bytes(range(160)))),
         Works("RFC 5077 3.1: a ticket that cannot be opened means a full handshake")),
    Case("ticket-of-nobody", TLS13,
         hello(with_last_extension(ExtensionType.pre_shared_key, psk(bytes(160), [bytes(32)]))),
         Works("RFC 8446 4.2.11: an unknown identity means a full handshake")),
    Case("ticket", BOTH, [], Works("so that the next ones fail for what they do"), resumes=True),
    Case("binder-wrong", TLS13, hello(with_binder(turned)),
         Refused("decrypt_error", "IncorrectBinder", "RFC 8446 4.2.11, 6.2"), resumes=True),
    Case("binder-of-another-hash", TLS13, hello(with_binder(lambda binder: binder + bytes(16))),
         Refused("decrypt_error", "IncorrectBinder", "RFC 8446 4.2.11.2: no hash of the session's makes so many bytes"),
         resumes=True),
    Case("binder-missing", TLS13, hello(with_last_extension(ExtensionType.pre_shared_key, psk(bytes(160), []))),
         Refused("decode_error", "IllegalEmptyList", "RFC 8446 4.2.11: 33 bytes at least")),
    Case("binder-too-many", TLS13,
         hello(with_last_extension(ExtensionType.pre_shared_key, psk(bytes(160), [bytes(32)] * 2))),
         Refused("illegal_parameter", "PskExtensionWithMismatchedIdsAndBinders",
                 "RFC 8446 4.2.11: one for each identity")),
    Case("psk-not-last", TLS13, hello(with_extension(ExtensionType.pre_shared_key, psk(bytes(160), [bytes(32)]))),
         Refused("illegal_parameter", "PreSharedKeyIsNotFinalExtension", "RFC 8446 4.2.11")),
    Case("psk-without-modes", TLS13,
         hello(without(ExtensionType.psk_key_exchange_modes),
               with_last_extension(ExtensionType.pre_shared_key, psk(bytes(160), [bytes(32)]))),
         Refused("missing_extension", "MissingPskModesExtension", "RFC 8446 4.2.9, 6.2")),
    Case("early-data", TLS13, [OFFERS_EARLY_DATA, before(Finished, Clear(EARLY_DATA))],
         Works("RFC 8446 4.2.10: whoever refuses early data skips what cannot be opened")),
    Case("early-data-at-once", TLS13, [OFFERS_EARLY_DATA, with_at_once(ClientHello, Clear(EARLY_DATA))],
         Works("RFC 8446 4.2.10: whoever refuses early data skips what cannot be opened")),
]
