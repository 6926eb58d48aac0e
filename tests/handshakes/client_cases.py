"""What a TLS server does to `sealane client`, and what it must get for it.

Whenever it is refused, the NFS client is reset.
"""

from tlslite.constants import ContentType, ExtensionType, GroupName, HandshakeType
from tlslite.messages import (
    Alert,
    ApplicationData,
    Certificate,
    CertificateRequest,
    CertificateVerify,
    ChangeCipherSpec,
    EncryptedExtensions,
    Finished,
    Heartbeat,
    ServerHello,
    ServerHelloDone,
    ServerKeyExchange,
)
from tlslite.utils.x25519 import X25519_G, x25519

from cases import (
    BOTH,
    BY_CODEC,
    NO_ALERT,
    NO_TLS,
    OFF_THE_CURVE,
    TLS12,
    TLS13,
    Case,
    Ended,
    Refused,
    Works,
    after,
    answer,
    before,
    chain,
    changed,
    dropped,
    first_bit_turned,
    followed_in_its_record,
    having,
    instead,
    last_bit_turned,
    listed,
    prefixed,
    rewritten,
    says,
    sealed,
    spoilt,
    twice,
    with_at_once,
    with_extension,
    with_other,
    with_twice,
    without,
)
from peers import Clear, handshake, handshake_message, record
from tunnels import CALL, REPLY

# The random of a HelloRetryRequest, and how that of a server ends that speaks TLS 1.3 and has been kept from it.
RETRY_RANDOM = bytes.fromhex("cf21ad74e59a6111be1d8c021e65b891c2a211167abb8c5e079e09e2c8a8339c")
DOWNGRADE = b"DOWNGRD"
SUITE = b"\x13\x01"
P256_ONLY = {"eccCurves": ["secp256r1"], "keyShares": ["secp256r1"]}
PUBLIC = bytes(x25519(bytearray(range(32)), bytearray(X25519_G)))


def extensions(*pairs):
    return prefixed(b"".join(number.to_bytes(2, "big") + prefixed(data) for number, data in pairs))


def retry(hello, *pairs, suite=SUITE, version=0x0304):
    """The body of a HelloRetryRequest with these extensions."""
    head = b"\x03\x03" + RETRY_RANDOM + prefixed(hello.session_id, 1) + suite + b"\x00"
    return head + extensions((ExtensionType.supported_versions, version.to_bytes(2, "big")), *pairs)


def group(number):
    return ExtensionType.key_share, number.to_bytes(2, "big")


def retries(*requests):
    """A server that answers each ClientHello by a HelloRetryRequest with these extensions."""

    def speak(wire):
        for pairs in requests:
            wire.say(HandshakeType.server_hello, retry(wire.client_hello(), *pairs))

    return speak


def retries_with(**fields):
    def speak(wire):
        hello = wire.client_hello()
        wire.say(HandshakeType.server_hello, retry(hello, group(GroupName.secp384r1), **fields))

    return speak


def retries_and_changes_its_suite(wire):
    wire.say(HandshakeType.server_hello, retry(wire.client_hello(), group(GroupName.secp384r1)))
    hello = wire.client_hello()
    head = b"\x03\x03" + bytes(32) + prefixed(hello.session_id, 1) + b"\x13\x02\x00"
    share = GroupName.secp384r1.to_bytes(2, "big") + prefixed(b"\x04" + bytes(96))
    wire.say(
        HandshakeType.server_hello,
        head + extensions((ExtensionType.supported_versions, b"\x03\x04"), (ExtensionType.key_share, share)),
    )


def after_hello(*data):
    """Bytes in clear as the answer to the ClientHello."""

    def speak(wire):
        wire.client_hello()
        says(*data)(wire)

    return speak


def ends_at_once(wire):
    wire.tap.end_sending()


def hello(*changes):
    """The ServerHello changed, but not a HelloRetryRequest before it."""
    rule = changed(ServerHello, *changes)

    def unless_retry(message, connection):
        is_retry = isinstance(message, ServerHello) and message.random == RETRY_RANDOM
        return None if is_retry else rule(message, connection)

    return [unless_retry]


def random_that_ends(tail):
    def change(message):
        message.random = message.random[: -len(tail)] + tail

    return change


def signed_again(*changes):
    """The ServerKeyExchange changed, and signed as it is then and for the hellos as they were sent."""

    def rule(message, connection):
        if not isinstance(message, ServerKeyExchange):
            return None
        for change in changes:
            change(message)
        digest = message.hash(connection.client_random(), connection.server_hello.random)
        message.signature = connection.key.sign(digest[:32], hashAlg="sha256")
        return [message]

    return rule


def share(number, public):
    """The content of a server's key_share."""
    return with_other(ExtensionType.key_share, number.to_bytes(2, "big") + prefixed(public))


def said(*things):
    """When the call has come these, and its reply, to which something must come back."""

    def then(connection):
        asked = answer(connection, *things)
        connection.answer(1)
        return asked

    return then


def said_until_refused(*things):
    def then(connection):
        connection.answer(len(CALL))
        connection.say(*things)
        connection.until_fatal()

    return then


def said_harmless(*things):
    return lambda connection: answer(connection, *things)


def asks_to_renegotiate(connection):
    """A HelloRequest, which is answered by a warning."""
    asked = connection.answer(len(CALL))
    connection.say(handshake(HandshakeType.hello_request))
    content_type, content = connection.next_record()
    if (content_type, content) != (ContentType.alert, b"\x01\x64"):
        raise ValueError(f"{content_type} {content.hex()} instead of the warning no_renegotiation")
    connection.sendall(REPLY)
    return asked


def updates_keys(connection):
    asked = connection.answer(len(CALL))
    for _ in connection.send_keyupdate_request(1):
        pass
    connection.sendall(REPLY)
    return asked


def ticket(lifetime=60, ticket_bytes=b"ticket", tail=extensions()):
    body = lifetime.to_bytes(4, "big") + bytes(4) + prefixed(b"n", 1) + prefixed(ticket_bytes) + tail
    return handshake(HandshakeType.new_session_ticket, body)


def request(*pairs, context=b""):
    """A TLS 1.3 CertificateRequest."""
    return handshake(HandshakeType.certificate_request, prefixed(context, 1) + extensions(*pairs))


def key_exchange(curve_type=b"\x03", curve=GroupName.x25519, point=PUBLIC, signature=b"\x04\x03" + prefixed(bytes(64))):
    """A TLS 1.2 ServerKeyExchange by hand."""
    return handshake(
        HandshakeType.server_key_exchange, curve_type + curve.to_bytes(2, "big") + prefixed(point, 1) + signature
    )


SIGNATURES = (ExtensionType.signature_algorithms, listed(0x0403, 0x0804))
CCS = record(ContentType.change_cipher_spec, b"\x01")
FINISHED_13 = handshake_message(HandshakeType.finished, bytes(32))

# fmt: off
CASES = [
    Case("nothing-wrong", BOTH, [], Works("so that the other cases fail for what they do")),
    Case("certificate-rsa", BOTH, [], Works("so that the other cases fail for what they do"), shows="server-rsa"),
    # What is no TLS, and what ends it.
    Case("http", TLS12, after_hello(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n"),
         Refused("decode_error", "InvalidContentType", "RFC 8446 5", "unexpected_message", NO_TLS)),
    Case("ssh", TLS12, after_hello(b"SSH-2.0-OpenSSH_9.9\r\n"),
         Refused("decode_error", "InvalidContentType", "RFC 8446 5", "unexpected_message", NO_TLS)),
    Case("rpc-in-clear", TLS12, after_hello(REPLY),
         Refused("decode_error", "InvalidContentType", "RFC 8446 5", "unexpected_message", NO_TLS)),
    Case("data-first", TLS12, after_hello(record(ContentType.application_data, REPLY)),
         Refused("unexpected_message", "got ApplicationData", "RFC 8446 5")),
    Case("record-empty", TLS12, after_hello(record(ContentType.handshake, b"")),
         Refused("decode_error", "InvalidEmptyPayload", "RFC 8446 5.1", "unexpected_message", BY_CODEC)),
    Case("record-too-long", TLS12, after_hello(record(ContentType.handshake, bytes([2, 0, 0x41, 0]) + bytes(0x4900))),
         Refused("decode_error", "MessageTooLarge", "RFC 8446 5.1", "record_overflow", BY_CODEC)),
    Case("alert-handshake-failure", TLS12, after_hello(record(ContentType.alert, b"\x02\x28")),
         Ended("the alert HandshakeFailure", "RFC 8446 6.2: nobody answers it")),
    Case("alert-protocol-version", TLS12, after_hello(record(ContentType.alert, b"\x02\x46")),
         Ended("the alert ProtocolVersion", "RFC 8446 6.2: nobody answers it")),
    Case("alert-unknown", TLS12, after_hello(record(ContentType.alert, b"\x02\xee")),
         Ended("refused the handshake with the alert", "RFC 8446 6: unknown alerts are errors")),
    Case("close-notify-first", TLS12, after_hello(record(ContentType.alert, b"\x01\x00")),
         Ended("gave up after 1 s", "RFC 8446 6.1: nothing comes behind it", "an end at once",
               "it is not sealed, so it counts for nothing; a server that closes ends its connection, too")),
    Case("end-at-once", TLS12, ends_at_once,
         Ended("the server closed the connection during the TLS handshake",
               "RFC 8446 6.1: it is tried again for --retry-timeout")),
    Case("client-hello-back", TLS12, lambda wire: wire.send(record(22, wire.next_record()[1])),
         Refused("unexpected_message", "got ClientHello", "RFC 8446 4")),
    Case("finished-first", TLS12, after_hello(record(22, handshake_message(20, bytes(12)))),
         Refused("unexpected_message", "got Finished", "RFC 8446 4")),
    Case("hello-request-first", TLS12, [before(ServerHello, Clear(record(22, handshake_message(0, b""))))],
         Refused("unexpected_message", "got HelloRequest", "RFC 5246 7.4.1.1: ignored while a handshake goes on",
                 "going on", "no server has a reason to send it there")),
    # ServerHello.
    Case("version-ssl3", TLS12, hello(having(server_version=(3, 0))),
         Refused("protocol_version", "ServerDoesNotSupportTls12Or13", "RFC 5246 E.1")),
    Case("version-tls10", TLS12, hello(having(server_version=(3, 1))),
         Refused("protocol_version", "ServerDoesNotSupportTls12Or13", "RFC 5246 E.1")),
    Case("version-tls11", TLS12, hello(having(server_version=(3, 2))),
         Refused("protocol_version", "ServerDoesNotSupportTls12Or13", "RFC 5246 E.1")),
    Case("version-tls13-as-legacy", TLS13, hello(having(server_version=(3, 4))),
         Works("RFC 8446 4.1.3: it must be 0x0303", "illegal_parameter",
               "the version is agreed on by supported_versions, and Finished covers both")),
    Case("supported-version-unknown", TLS13, hello(with_other(ExtensionType.supported_versions, b"\x03\x05")),
         Refused("protocol_version", "ServerDoesNotSupportTls12Or13", "RFC 8446 4.2.1", "illegal_parameter",
                 "it says as much")),
    Case("supported-version-tls12", TLS13, hello(with_other(ExtensionType.supported_versions, b"\x03\x03")),
         Refused("illegal_parameter", "SelectedTls12UsingTls13VersionExtension", "RFC 8446 4.2.1")),
    Case("supported-version-grease", TLS13, hello(with_other(ExtensionType.supported_versions, b"\x7a\x7a")),
         Refused("protocol_version", "ServerDoesNotSupportTls12Or13", "RFC 8446 4.2.1", "illegal_parameter",
                 "it says as much")),
    Case("supported-version-cut", TLS13, hello(with_other(ExtensionType.supported_versions, b"\x03")),
         Refused("decode_error", "MissingData", "RFC 8446 6.2")),
    Case("downgrade-to-tls12", TLS12, [*hello(random_that_ends(DOWNGRADE + b"\x01")), signed_again()],
         Refused("illegal_parameter", "AttemptedDowngradeToTls12WhenTls13IsSupported", "RFC 8446 4.1.3")),
    Case("downgrade-to-tls11", TLS12, [*hello(random_that_ends(DOWNGRADE + b"\x00")), signed_again()],
         Works("RFC 8446 4.1.3", "illegal_parameter",
               "a server that has agreed on TLS 1.2 does not send this mark, and TLS 1.1 is refused")),
    Case("suite-not-offered", TLS12, hello(having(cipher_suite=0xC009)),
         Refused("handshake_failure", "SelectedUnofferedCipherSuite", "RFC 5246 7.4.1.3, 7.2.2", "illegal_parameter",
                 "it says as much")),
    Case("suite-not-offered", TLS13, hello(having(cipher_suite=0x1305)),
         Refused("handshake_failure", "SelectedUnofferedCipherSuite", "RFC 8446 4.1.3", "illegal_parameter",
                 "it says as much")),
    Case("suite-null", TLS12, hello(having(cipher_suite=0)),
         Refused("handshake_failure", "SelectedUnofferedCipherSuite", "RFC 5246 7.4.1.3, 7.2.2", "illegal_parameter",
                 "it says as much")),
    Case("suite-of-the-other-version", TLS12, hello(having(cipher_suite=0x1301)),
         Refused("illegal_parameter", "SelectedUnusableCipherSuiteForVersion", "RFC 8446 B.4: not for TLS 1.2")),
    Case("suite-of-the-other-version", TLS13, hello(having(cipher_suite=0xC02B)),
         Refused("illegal_parameter", "SelectedUnusableCipherSuiteForVersion", "RFC 8446 B.4: not for TLS 1.3")),
    Case("session-id-of-another", TLS13, hello(having(session_id=bytearray(32))),
         Works("RFC 8446 4.1.3", "illegal_parameter", "nothing is made of it, and Finished covers it")),
    Case("session-id-missing", TLS13, hello(having(session_id=bytearray())),
         Works("RFC 8446 4.1.3", "illegal_parameter", "nothing is made of it, and Finished covers it")),
    Case("session-id-long", BOTH, hello(having(session_id=bytearray(33))),
         Refused("decode_error", "TrailingData", "RFC 8446 6.2")),
    Case("compression", BOTH, hello(having(compression_method=1)),
         Refused("illegal_parameter", "SelectedUnofferedCompression", "RFC 8446 4.1.3, RFC 5246 7.4.1.3")),
    Case("extension-unasked", BOTH, hello(with_extension(0xFEFE)),
         Refused("unsupported_extension", "UnsolicitedServerHelloExtension", "RFC 8446 4.2, RFC 5246 7.4.1.4")),
    Case("heartbeat-unasked", BOTH, hello(with_extension(ExtensionType.heartbeat, b"\x01")),
         Refused("unsupported_extension", "UnsolicitedServerHelloExtension", "RFC 8446 4.2, RFC 5246 7.4.1.4")),
    Case("extension-of-another-message", TLS13, hello(with_extension(ExtensionType.server_name)),
         Refused("unsupported_extension", "UnexpectedCleartextExtension",
                 "RFC 8446 4.2: known, but not for this message", "illegal_parameter", "it says as much")),
    Case("extension-twice", TLS12, hello(with_extension(ExtensionType.extended_master_secret)),
         Refused("illegal_parameter", "DuplicateExtension", "RFC 8446 4.2: not more than one of a type")),
    Case("extension-twice", TLS13, hello(with_twice(ExtensionType.supported_versions)),
         Refused("illegal_parameter", "DuplicateExtension", "RFC 8446 4.2: not more than one of a type")),
    Case("hello-with-a-tail", BOTH, [rewritten(ServerHello, lambda body: body + b"\x00")],
         Refused("decode_error", "TrailingData", "RFC 8446 4.2")),
    Case("hello-cut", BOTH, [rewritten(ServerHello, lambda body: body[:36])],
         Refused("decode_error", "MissingData", "RFC 8446 6.2")),
    Case("hello-twice", TLS12, [twice(ServerHello)], Refused("unexpected_message", "got ServerHello", "RFC 5246 7.4")),
    Case("hello-twice", TLS13,
         [before(EncryptedExtensions, handshake(2, b"\x03\x03" + bytes(32) + b"\x00" + SUITE + b"\x00"))],
         Refused("unexpected_message", "got ServerHello", "RFC 8446 4.1.3")),
    Case("renegotiation-info-of-nothing", TLS12,
         hello(without(ExtensionType.renegotiation_info),
               with_extension(ExtensionType.renegotiation_info, prefixed(bytes(12), 1))),
         Works("RFC 5746 3.4", "handshake_failure", "there is no renegotiation here that it could be mixed up with")),
    Case("point-formats-compressed-only", TLS12,
         hello(without(ExtensionType.ec_point_formats), with_extension(ExtensionType.ec_point_formats, b"\x01\x01")),
         Refused("handshake_failure", "ServerHelloMustOfferUncompressedEcPoints", "RFC 8422 5.1.2, 5.2",
                 "illegal_parameter", "it says as much")),
    # Key shares and HelloRetryRequest.
    Case("key-share-missing", TLS13, hello(without(ExtensionType.key_share)),
         Refused("missing_extension", "MissingKeyShare", "RFC 8446 9.2, 6.2")),
    Case("key-share-of-no-offered-group", TLS13, hello(share(GroupName.secp521r1, b"\x04" + bytes(132))),
         Refused("illegal_parameter", "WrongGroupForKeyShare", "RFC 8446 4.2.8")),
    Case("key-share-of-another-group", TLS13, hello(share(GroupName.secp384r1, b"\x04" + bytes(96))),
         Refused("illegal_parameter", "WrongGroupForKeyShare", "RFC 8446 4.2.8: that of a share that was sent")),
    Case("key-share-zero", TLS13, hello(share(GroupName.x25519, bytes(32))),
         Refused("illegal_parameter", "InvalidKeyShare", "RFC 8446 7.4.2, RFC 7748 6.1")),
    Case("key-share-short", TLS13, hello(share(GroupName.x25519, bytes(31))),
         Refused("illegal_parameter", "InvalidKeyShare", "RFC 8446 4.2.8.2")),
    Case("key-share-of-no-bytes", TLS13, hello(share(GroupName.x25519, b"")),
         Refused("decode_error", "IllegalEmptyValue", "RFC 8446 4.2.8: one byte at least")),
    Case("key-share-off-the-curve", TLS13, hello(share(GroupName.secp256r1, OFF_THE_CURVE)),
         Refused("illegal_parameter", "InvalidKeyShare", "RFC 8446 4.2.8.2"), settings=P256_ONLY),
    Case("retry", TLS13, [], Works("so that the next ones fail for what they do"), settings=P256_ONLY),
    Case("retry-for-the-same-group", TLS13, retries([group(GroupName.x25519)]),
         Refused("illegal_parameter", "IllegalHelloRetryRequestWithOfferedGroup", "RFC 8446 4.2.8")),
    Case("retry-for-an-unknown-group", TLS13, retries([group(GroupName.secp521r1)]),
         Refused("illegal_parameter", "IllegalHelloRetryRequestWithUnofferedNamedGroup", "RFC 8446 4.2.8")),
    Case("retry-for-nothing", TLS13, retries([]),
         Refused("illegal_parameter", "IllegalHelloRetryRequestWithNoChanges", "RFC 8446 4.1.4: it changes nothing")),
    Case("retry-twice", TLS13, retries([group(GroupName.secp384r1)], [group(GroupName.secp256r1)]),
         Refused("unexpected_message", "got HelloRetryRequest", "RFC 8446 4.1.4")),
    Case("retry-with-an-empty-cookie", TLS13, retries([(ExtensionType.cookie, prefixed(b""))]),
         Refused("decode_error", "IllegalEmptyValue", "RFC 8446 4.2.2: one byte at least")),
    Case("retry-with-an-unknown-extension", TLS13, retries([group(GroupName.secp384r1), (0xFEFE, b"")]),
         Refused("unsupported_extension", "UnknownHelloRetryRequestExtension", "RFC 8446 4.1.4, 4.2")),
    Case("retry-with-an-extension-twice", TLS13, retries([group(GroupName.secp384r1)] * 2),
         Refused("illegal_parameter", "DuplicateExtension", "RFC 8446 4.2")),
    Case("retry-with-an-unknown-suite", TLS13, retries_with(suite=b"\x13\x05"),
         Refused("illegal_parameter", "IllegalHelloRetryRequestWithUnofferedCipherSuite", "RFC 8446 4.1.4")),
    Case("retry-of-another-version", TLS13, retries_with(version=0x0303),
         Refused("illegal_parameter", "IllegalHelloRetryRequestWithUnsupportedVersion", "RFC 8446 4.1.4, 4.2.1")),
    Case("retry-and-another-suite", TLS13, retries_and_changes_its_suite,
         Refused("illegal_parameter", "SelectedDifferentCipherSuiteAfterRetry", "RFC 8446 4.1.4")),
    # EncryptedExtensions and CertificateRequest.
    Case("encrypted-extensions-missing", TLS13, [dropped(EncryptedExtensions)],
         Refused("unexpected_message", "got Certificate", "RFC 8446 4.3.1")),
    Case("encrypted-extensions-in-clear", TLS13,
         [before(EncryptedExtensions, Clear(record(22, handshake_message(8, extensions()))))],
         Refused("bad_record_mac", "cannot decrypt peer's message", "RFC 8446 5.2: it cannot be opened")),
    Case("encrypted-extensions-in-the-hello's-record", TLS13,
         [followed_in_its_record(ServerHello, handshake_message(8, extensions()))],
         Refused("unexpected_message", "KeyEpochWithPendingFragment",
                 "RFC 8446 5.1: a message before new keys ends its record")),
    Case("encrypted-extensions-unasked", TLS13, [instead(EncryptedExtensions, handshake(8, extensions((0xFEFE, b""))))],
         Refused("unsupported_extension", "UnsolicitedEncryptedExtension", "RFC 8446 4.2")),
    Case("encrypted-extensions-with-key-share", TLS13,
         [instead(EncryptedExtensions,
                  handshake(8, extensions((ExtensionType.key_share, b"\x00\x1d" + prefixed(PUBLIC)))))],
         Refused("unsupported_extension", "DisallowedEncryptedExtension",
                 "RFC 8446 4.3.1, 4.2: known, but not for this message", "illegal_parameter", "it says as much")),
    Case("encrypted-extensions-with-alpn", TLS13,
         [instead(EncryptedExtensions, handshake(8, extensions((ExtensionType.alpn, prefixed(b"\x06sunrpc")))))],
         Refused("unsupported_extension", "UnsolicitedEncryptedExtension", "RFC 8446 4.2: it was not offered")),
    Case("encrypted-extensions-with-early-data", TLS13,
         [instead(EncryptedExtensions, handshake(8, extensions((ExtensionType.early_data, b""))))],
         Refused("unsupported_extension", "UnsolicitedEncryptedExtension", "RFC 8446 4.2: it was not offered")),
    Case("encrypted-extensions-twice-the-same", TLS13,
         [instead(EncryptedExtensions, handshake(8, extensions((0, b""), (0, b""))))],
         Refused("illegal_parameter", "DuplicateExtension", "RFC 8446 4.2")),
    Case("encrypted-extensions-cut", TLS13, [instead(EncryptedExtensions, handshake(8, b"\x00\x04\x00"))],
         Refused("decode_error", "MessageTooShort", "RFC 8446 6.2")),
    Case("request", BOTH, [], Works("RFC 8446 4.4.2, RFC 5246 7.4.6: who has none shows none"), demands=True),
    Case("request-without-signatures", TLS13, [instead(CertificateRequest, request())],
         Refused("handshake_failure", "NoCertificateRequestSignatureSchemesInCommon", "RFC 8446 4.3.2, 9.2",
                 "missing_extension", "a request without any is one that nobody can fulfil"), demands=True),
    Case("request-with-a-context", TLS13, [instead(CertificateRequest, request(SIGNATURES, context=b"x"))],
         Refused("decode_error", "InvalidCertRequest", "RFC 8446 4.3.2: empty in a handshake", "illegal_parameter",
                 BY_CODEC), demands=True),
    Case("request-with-an-unknown-extension", TLS13, [instead(CertificateRequest, request(SIGNATURES, (0xFEFE, b"x")))],
         Works("RFC 8446 4.3.2: unknown extensions are ignored"), demands=True),
    Case("request-with-an-extension-twice", TLS13, [instead(CertificateRequest, request(SIGNATURES, SIGNATURES))],
         Refused("illegal_parameter", "DuplicateExtension", "RFC 8446 4.2"), demands=True),
    Case("request-without-signatures", TLS12,
         [instead(CertificateRequest, handshake(13, b"\x01\x40" + prefixed(b"") + prefixed(b"")))],
         Refused("decode_error", "NoSignatureSchemes", "RFC 5246 7.4.4: two bytes at least"), demands=True),
    Case("request-twice", BOTH, [twice(CertificateRequest)],
         Refused("unexpected_message", "got CertificateRequest", "RFC 8446 4.3.2, RFC 5246 7.4"), demands=True),
    Case("request-late", TLS13, [after(Certificate, request(SIGNATURES))],
         Refused("unexpected_message", "got CertificateRequest", "RFC 8446 4.3.2")),
    # Certificates.
    Case("certificate-for-another-name", BOTH, [],
         Refused("bad_certificate", "is for another name", "RFC 8446 6.2, RFC 5246 7.2.2"), shows="server-other-name"),
    Case("certificate-expired", BOTH, [], Refused("certificate_expired", "has expired", "RFC 8446 6.2, RFC 5246 7.2.2"),
         shows="server-expired"),
    Case("certificate-of-the-future", BOTH, [],
         Refused("certificate_expired", "is not valid yet",
                 "RFC 8446 6.2, RFC 5246 7.2.2: expired or not currently valid"), shows="server-future"),
    Case("certificate-of-stranger", BOTH, [], Refused("unknown_ca", "UnknownIssuer", "RFC 8446 6.2, RFC 5246 7.2.2"),
         shows="server-of-stranger"),
    Case("certificate-of-a-client", BOTH, [],
         Refused("unsupported_certificate", "lacks serverAuth", "RFC 8446 6.2, RFC 5280 4.2.1.12"),
         shows="client-ecdsa"),
    Case("certificate-of-a-ca", BOTH, [],
         Refused("certificate_unknown", "CaUsedAsEndEntity", "RFC 8446 6.2, RFC 5246 7.2.2: some other issue"),
         shows="server-is-ca"),
    Case("certificate-empty", TLS12, [rewritten(Certificate, lambda body: chain(TLS12))],
         Ended("NoCertificatesPresented", "RFC 5246 7.4.2: a server shows one", "decode_error", NO_ALERT)),
    Case("certificate-empty", TLS13, [rewritten(Certificate, lambda body: chain(TLS13))],
         Ended("NoCertificatesPresented", "RFC 8446 4.4.2.4", "decode_error", NO_ALERT)),
    Case("certificate-of-no-der", TLS12, [rewritten(Certificate, lambda body: chain(TLS12, (b"no DER", b"")))],
         Refused("bad_certificate", "BadEncoding", "RFC 5246 7.2.2")),
    Case("certificate-of-no-der", TLS13, [rewritten(Certificate, lambda body: chain(TLS13, (b"no DER", b"")))],
         Refused("bad_certificate", "BadEncoding", "RFC 8446 6.2")),
    Case("certificate-with-a-context", TLS13, [rewritten(Certificate, lambda body: b"\x01\x07" + body[1:])],
         Refused("decode_error", "InvalidCertRequest", "RFC 8446 4.4.2: empty for a server", "illegal_parameter",
                 BY_CODEC)),
    Case("certificate-with-an-extension", TLS13,
         [rewritten(Certificate, lambda body: chain(TLS13, (body[7:-2], b"\xfe\xfe\x00\x00")))],
         Refused("decode_error", "UnknownCertificateExtension", "RFC 8446 4.4.2, 4.2", "unsupported_extension",
                 BY_CODEC)),
    Case("certificate-with-a-tail", BOTH, [rewritten(Certificate, lambda body: body + b"\x00")],
         Refused("decode_error", "TrailingData", "RFC 8446 6.2, RFC 5246 7.2.2")),
    Case("certificate-missing", BOTH, [dropped(Certificate)],
         Refused("unexpected_message", "expecting Certificate", "RFC 8446 4.4.2, RFC 5246 7.4.2")),
    Case("certificate-twice", BOTH, [twice(Certificate)],
         Refused("unexpected_message", "got Certificate", "RFC 8446 4.4, RFC 5246 7.4")),
    # Signatures.
    Case("verify-missing", TLS13, [dropped(CertificateVerify)],
         Refused("unexpected_message", "got Finished", "RFC 8446 4.4.3")),
    Case("verify-wrong", TLS13, [rewritten(CertificateVerify, last_bit_turned)],
         Refused("decrypt_error", "BadSignature", "RFC 8446 4.4.3")),
    Case("verify-wrong-rsa", TLS13, [rewritten(CertificateVerify, last_bit_turned)],
         Refused("decrypt_error", "BadSignature", "RFC 8446 4.4.3"), shows="server-rsa"),
    Case("verify-sha1", TLS13, [changed(CertificateVerify, having(signatureAlgorithm=(2, 3)))],
         Refused("illegal_parameter", "SignedHandshakeWithUnadvertisedSigScheme", "RFC 8446 4.4.3: not offered")),
    Case("verify-pkcs1", TLS13, [changed(CertificateVerify, having(signatureAlgorithm=(4, 1)))],
         Refused("illegal_parameter", "SignedHandshakeWithUnadvertisedSigScheme", "RFC 8446 4.4.3: RSA by PSS only"),
         shows="server-rsa"),
    Case("verify-unknown", TLS13, [changed(CertificateVerify, having(signatureAlgorithm=(0xFE, 0xFE)))],
         Refused("illegal_parameter", "SignedHandshakeWithUnadvertisedSigScheme", "RFC 8446 4.4.3: not offered")),
    Case("verify-of-another-key", TLS13, [changed(CertificateVerify, having(signatureAlgorithm=(8, 4)))],
         Refused("decrypt_error", "UnsupportedSignatureAlgorithmForPublicKey",
                 "RFC 8446 4.4.3: it cannot be verified with the certificate")),
    Case("key-exchange-missing", TLS12, [dropped(ServerKeyExchange)],
         Refused("unexpected_message", "got ServerHelloDone", "RFC 5246 7.4.3")),
    Case("key-exchange-wrongly-signed", TLS12, [rewritten(ServerKeyExchange, last_bit_turned)],
         Refused("decrypt_error", "BadSignature", "RFC 5246 7.2.2")),
    Case("key-exchange-signed-by-sha1", TLS12, [changed(ServerKeyExchange, having(hashAlg=2))],
         Refused("illegal_parameter", "SignedHandshakeWithUnadvertisedSigScheme", "RFC 5246 7.4.3: not offered")),
    Case("key-exchange-signed-by-another-key", TLS12, [changed(ServerKeyExchange, having(hashAlg=8, signAlg=4))],
         Refused("illegal_parameter", "SignedKxWithWrongAlgorithm", "RFC 5246 7.4.3: it does not fit the suite")),
    Case("key-exchange-on-an-unknown-curve", TLS12, [signed_again(having(named_curve=GroupName.secp521r1))],
         Refused("illegal_parameter", "SelectedUnofferedKxGroup", "RFC 8422 5.4: it was not offered")),
    Case("key-exchange-on-an-explicit-curve", TLS12, [instead(ServerKeyExchange, key_exchange(curve_type=b"\x01"))],
         Refused("decode_error", "MissingKeyExchange", "RFC 8422 5.4: named curves only", "illegal_parameter",
                 BY_CODEC)),
    Case("key-exchange-of-no-bytes", TLS12, [instead(ServerKeyExchange, key_exchange(point=b""))],
         Refused("decode_error", "MissingKeyExchange", "RFC 8422 5.4: one byte at least")),
    Case("key-exchange-off-the-curve", TLS12, [signed_again(having(ecdh_Ys=bytearray(OFF_THE_CURVE)))],
         Refused("illegal_parameter", "InvalidKeyShare", "RFC 8422 5.11"), settings=P256_ONLY),
    Case("key-exchange-with-a-tail", TLS12, [rewritten(ServerKeyExchange, lambda body: body + b"\x00")],
         Refused("decode_error", "MissingKeyExchange", "RFC 5246 7.2.2")),
    Case("done-with-a-body", TLS12, [instead(ServerHelloDone, handshake(14, b"\x00"))],
         Refused("decode_error", "TrailingData", "RFC 5246 7.4.5, 7.2.2")),
    Case("done-missing", TLS12, [instead(ServerHelloDone, Clear(CCS))],
         Refused("unexpected_message", "got ChangeCipherSpec", "RFC 5246 7.1, 7.4.5")),
    # ChangeCipherSpec and Finished.
    Case("ccs-first", TLS12, [before(ServerHello, Clear(CCS))],
         Refused("unexpected_message", "got ChangeCipherSpec", "RFC 5246 7.1")),
    Case("ccs-early", TLS12, [before(Certificate, Clear(CCS))],
         Refused("unexpected_message", "got ChangeCipherSpec", "RFC 5246 7.1: CVE-2014-0224")),
    Case("ccs-of-another-value", TLS12, [instead(ChangeCipherSpec, Clear(record(20, b"\x02")))],
         Refused("decode_error", "InvalidCcs", "RFC 5246 7.1, 7.2.2")),
    Case("ccs-of-another-value", TLS13, [before(EncryptedExtensions, Clear(record(20, b"\x02")))],
         Refused("unexpected_message", "IllegalMiddleboxChangeCipherSpec", "RFC 8446 5")),
    Case("ccs-sealed", TLS13, [before(EncryptedExtensions, sealed(0, b"\x01\x14"))],
         Refused("unexpected_message", "IllegalMiddleboxChangeCipherSpec", "RFC 8446 5")),
    Case("finished-in-clear", TLS12, [before(ChangeCipherSpec, handshake(20, bytes(12)))],
         Refused("unexpected_message", "got Handshake", "RFC 5246 7.4.9: a ChangeCipherSpec comes before")),
    Case("finished-wrong", BOTH, [changed(Finished, first_bit_turned("verify_data"))],
         Refused("decrypt_error", "cannot decrypt peer's message", "RFC 8446 4.4.4, RFC 5246 7.4.9")),
    Case("finished-short", BOTH, [rewritten(Finished, lambda body: body[:-1])],
         Refused("decrypt_error", "cannot decrypt peer's message", "RFC 8446 4.4.4, RFC 5246 7.4.9, 7.2.2",
                 "decode_error", "a Finished of another length is a wrong one")),
    Case("finished-spoilt", BOTH, [spoilt(Finished)],
         Refused("bad_record_mac", "cannot decrypt peer's message", "RFC 8446 5.2, RFC 5246 7.2.2")),
    Case("finished-before-certificate", TLS13, [before(Certificate, handshake(20, bytes(32)))],
         Refused("unexpected_message", "got Finished", "RFC 8446 4.4.4")),
    Case("data-instead-of-finished", BOTH, [instead(Finished, ApplicationData().create(REPLY))],
         Refused("unexpected_message", "got ApplicationData", "RFC 8446 6.2, RFC 5246 7.4.9")),
    Case("ccs-at-once", TLS13, [with_at_once(Finished, Clear(CCS))],
         Refused("unexpected_message", "got ChangeCipherSpec", "RFC 8446 5: not behind Finished")),
    Case("finished-and-ticket-in-one-record", TLS13, [followed_in_its_record(Finished, bytes(ticket().write()))],
         Ended("KeyEpochWithPendingFragment", "RFC 8446 5.1: a message before new keys ends its record",
               "unexpected_message",
               "it comes behind our Finished, sealed with the key before, which the server does not know any more")),
    Case("record-without-type", TLS13, [before(EncryptedExtensions, sealed(0, b""))],
         Ended("IllegalTlsInnerPlaintext", "RFC 8446 5.4: zeros only", "unexpected_message", NO_ALERT)),
    Case("alert-in-place-of-finished", BOTH, [instead(Finished, Alert().create(40))],
         Ended("the alert HandshakeFailure", "RFC 8446 6.2, RFC 5246 7.2.2: nobody answers it")),
    # After the handshake.
    Case("hello-request", TLS12, [], Works("RFC 5246 7.2.2: no_renegotiation is a warning, the connection goes on"),
         then=asks_to_renegotiate),
    Case("hello-request-twice", TLS12, [],
         Refused("unexpected_message", "too many renegotiation requests",
                 "RFC 5246 7.2.2: one warning is all that is owed"), then=said_until_refused(*[handshake(0)] * 2)),
    Case("hello-request-with-a-body", TLS12, [],
         Refused("decode_error", "malformed HelloRequest", "RFC 5246 7.4.1.1"), then=said(handshake(0, b"\x00"))),
    Case("hello-late", BOTH, [],
         Refused("unexpected_message", "unexpected handshake message 2", "RFC 8446 4.6, RFC 5246 7.4"),
         then=said(handshake(2, b"\x03\x03" + bytes(32) + b"\x00" + SUITE + b"\x00"))),
    Case("finished-late", BOTH, [],
         Refused("unexpected_message", "unexpected handshake message 20", "RFC 8446 4.6, RFC 5246 7.4"),
         then=said(handshake(20, bytes(32)))),
    Case("request-after-the-handshake", TLS13, [],
         Refused("unexpected_message", "unexpected handshake message 13",
                 "RFC 8446 4.6.2: post_handshake_auth was not offered"), then=said(request(SIGNATURES, context=b"x"))),
    Case("ticket", TLS13, [], Works("so that the next ones fail for what they do"), then=said_harmless(ticket())),
    Case("ticket-with-an-unknown-extension", TLS13, [], Works("RFC 8446 4.6.1: unknown extensions are ignored"),
         then=said_harmless(ticket(tail=extensions((0xFEFE, b"x"))))),
    Case("ticket-of-no-bytes", TLS13, [],
         Refused("decode_error", "EmptyTicketValue", "RFC 8446 4.6.1: one byte at least"),
         then=said(ticket(ticket_bytes=b""))),
    Case("ticket-cut", TLS13, [], Refused("decode_error", "MissingData", "RFC 8446 6.2"),
         then=said(handshake(4, bytes(8)))),
    Case("ticket-with-a-tail", TLS13, [], Refused("decode_error", "TrailingData", "RFC 8446 6.2"),
         then=said(ticket(tail=extensions() + b"\x00"))),
    Case("key-update", TLS13, [], Works("RFC 8446 4.6.3"), then=updates_keys),
    Case("key-update-of-no-value", TLS13, [], Refused("illegal_parameter", "a KeyUpdate of value 2", "RFC 8446 4.6.3"),
         then=said(handshake(24, b"\x02"))),
    Case("key-update-of-two-bytes", TLS13, [], Refused("decode_error", "malformed KeyUpdate", "RFC 8446 6.2"),
         then=said(handshake(24, b"\x00\x00"))),
    Case("key-update-and-more-in-one-record", TLS13, [],
         Refused("unexpected_message", "a message behind KeyUpdate in the same record", "RFC 8446 5.1"),
         then=said(sealed(22, handshake_message(24, b"\x00") * 2))),
    Case("data-inside-key-update", TLS13, [],
         Refused("unexpected_message", "a record between the parts of a handshake message", "RFC 8446 5.1"),
         then=said(sealed(22, b"\x18\x00"))),
    Case("heartbeat", BOTH, [], Refused("unexpected_message", "content type 24", "RFC 6520 2: it was not agreed on"),
         then=said(Heartbeat().create(1, bytearray(b"ping"), 16))),
    Case("ccs-late", TLS12, [], Refused("unexpected_message", "content type 20", "RFC 5246 7.1"),
         then=said(sealed(20, b"\x01"))),
    Case("ccs-late", TLS13, [], Refused("unexpected_message", "content type 20", "RFC 8446 5"), then=said(Clear(CCS))),
    Case("alert-late", BOTH, [], Ended("the alert handshake_failure", "RFC 8446 6.2, RFC 5246 7.2.2"),
         then=said(Alert().create(40))),
    Case("record-late-too-long", BOTH, [],
         Refused("record_overflow", "a record is too long", "RFC 8446 5.2, RFC 5246 6.2.3"),
         then=said(Clear(record(23, bytes(0x4801))))),
    Case("record-late-of-another-connection", BOTH, [],
         Refused("bad_record_mac", "a record does not authenticate", "RFC 8446 5.2, RFC 5246 7.2.2"),
         then=said(Clear(record(23, bytes(40))))),
]
