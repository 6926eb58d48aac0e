"""What a TLS client does to `sealane server` behind its ClientHello, and what it must get for it."""

from tlslite.constants import ContentType, HandshakeType
from tlslite.messages import (
    Alert,
    ApplicationData,
    Certificate,
    CertificateVerify,
    ChangeCipherSpec,
    ClientHello,
    ClientKeyExchange,
    Finished,
    Heartbeat,
)

from cases import (
    BOTH,
    BY_CODEC,
    NO_ALERT,
    TLS12,
    TLS13,
    Case,
    Ended,
    Refused,
    Works,
    after,
    before,
    call,
    chain,
    changed,
    dropped,
    first_bit_turned,
    followed_in_its_record,
    having,
    held_from,
    instead,
    last_bit_turned,
    prefixed,
    rewritten,
    sealed,
    spoilt,
    twice,
    with_at_once,
)
from peers import Clear, Spoilt, handshake, handshake_message, record
from server_hello_cases import HELLO_RECORD, HELLOS, MINIMAL_HELLO
from tunnels import CALL, REPLY


def said(*things):
    """After a first call these, and another call behind them."""

    def then(connection):
        call(connection)
        connection.say(*things)
        return call(connection)

    return then


def said_at_once(*things):
    """These in one piece with Finished: see `held_from`."""

    def then(connection):
        connection.say(*things)
        connection.tap.release()
        return connection.answer(len(REPLY))

    return then


def said_until_refused(*things):
    def then(connection):
        call(connection)
        connection.say(*things)
        connection.until_fatal()

    return then


def renegotiates(connection):
    """A second ClientHello on the connection, which is answered by a warning, after which a call is."""
    connection.say(handshake(HandshakeType.client_hello, MINIMAL_HELLO))
    content_type, content = connection.next_record()
    if (content_type, content) != (ContentType.alert, b"\x01\x64"):
        raise ValueError(f"{content_type} {content.hex()} instead of the warning no_renegotiation")
    return call(connection)


def updates_keys(connection):
    """A KeyUpdate that asks for one; tlslite-ng opens the reply with the next key."""
    for _ in connection.send_keyupdate_request(1):
        pass
    return call(connection)


# fmt: off
ORDER = [
    # The order of messages.
    Case("hello-twice", TLS12, [after(ClientHello, Clear(HELLO_RECORD))],
         Refused("unexpected_message", "got ClientHello", "RFC 5246 7.4")),
    Case("hello-twice", TLS13, [before(Finished, handshake(HandshakeType.client_hello, MINIMAL_HELLO))],
         Refused("unexpected_message", "got ClientHello", "RFC 8446 4.1.2")),
    Case("hello-twice-in-clear", TLS13, [before(Finished, Clear(HELLO_RECORD))],
         Refused("bad_record_mac", "cannot decrypt peer's message", "RFC 8446 5.2: it cannot be opened")),
    Case("hello-twice-at-once", TLS13, [with_at_once(ClientHello, Clear(HELLO_RECORD))],
         Refused("bad_record_mac", "cannot decrypt peer's message", "RFC 8446 5.2: it cannot be opened")),
    Case("data-in-clear", TLS12, [after(ClientHello, Clear(record(ContentType.application_data, CALL)))],
         Refused("unexpected_message", "got ApplicationData", "RFC 5246 7.2.2")),
    Case("data-in-clear", TLS13, [before(Finished, Clear(record(ContentType.application_data, CALL)))],
         Refused("bad_record_mac", "cannot decrypt peer's message", "RFC 8446 5.2: it cannot be opened")),
    Case("key-exchange-missing", TLS12, [dropped(ClientKeyExchange)],
         Refused("unexpected_message", "got ChangeCipherSpec", "RFC 5246 7.4: CVE-2014-0224")),
    Case("finished-in-clear", TLS12, [before(ChangeCipherSpec, handshake(HandshakeType.finished, bytes(12)))],
         Refused("unexpected_message", "got Handshake", "RFC 5246 7.4.9: a ChangeCipherSpec comes before")),
    Case("finished-in-clear", TLS13, [before(Finished, Clear(record(22, handshake_message(20, bytes(32)))))],
         Refused("bad_record_mac", "cannot decrypt peer's message", "RFC 8446 5.2: it cannot be opened")),
    Case("certificate-unasked", TLS12,
         [before(ClientKeyExchange, handshake(HandshakeType.certificate, prefixed(b"", 3)))],
         Refused("unexpected_message", "got Certificate", "RFC 5246 7.4.6")),
    Case("certificate-unasked", TLS13,
         [before(Finished, handshake(HandshakeType.certificate, b"\x00" + prefixed(b"", 3)))],
         Refused("unexpected_message", "got Certificate", "RFC 8446 4.4.2")),
    Case("verify-unasked", TLS12,
         [after(ClientKeyExchange, handshake(HandshakeType.certificate_verify, b"\x04\x03" + prefixed(bytes(64))))],
         Refused("unexpected_message", "got Handshake", "RFC 5246 7.4.8")),
    Case("hello-request-of-a-client", TLS12, [before(ClientKeyExchange, handshake(HandshakeType.hello_request))],
         Refused("unexpected_message", "got HelloRequest", "RFC 5246 7.4.1.1: servers send it")),
    Case("next-protocol-unasked", TLS12, [before(Finished, handshake(67, b"\x00\x00"))],
         Refused("unexpected_message", "got HandshakeType(0x43)", "RFC 5246 7.4")),
    Case("end-of-early-data-unasked", TLS13, [before(Finished, handshake(HandshakeType.end_of_early_data))],
         Refused("unexpected_message", "got EndOfEarlyData", "RFC 8446 4.5")),
    Case("data-before-finished", BOTH, [before(Finished, ApplicationData().create(CALL))],
         Refused("unexpected_message", "got ApplicationData", "RFC 8446 6.2, RFC 5246 F.1")),
    Case("data-inside-finished", TLS13,
         [before(Finished, sealed(ContentType.handshake, b"\x14\x00"), ApplicationData().create(CALL))],
         Ended("MessageInterleavedWithHandshakeMessage", "RFC 8446 5.1: nothing between the records of a message",
               "unexpected_message", NO_ALERT)),
    Case("finished-and-key-update-in-one-record", TLS13,
         [followed_in_its_record(Finished, handshake_message(24, b"\x00"))],
         Refused("unexpected_message", "KeyEpochWithPendingFragment",
                 "RFC 8446 5.1: a message before new keys ends its record")),
    # ChangeCipherSpec.
    Case("ccs-twice", TLS12, [after(ChangeCipherSpec, Clear(record(20, b"\x01")))],
         Refused("unexpected_message", "got ChangeCipherSpec", "RFC 5246 7.1")),
    Case("ccs-early", TLS12, [before(ClientKeyExchange, Clear(record(20, b"\x01")))],
         Refused("unexpected_message", "got ChangeCipherSpec", "RFC 5246 7.1: CVE-2014-0224")),
    Case("ccs-of-another-value", TLS12, [instead(ChangeCipherSpec, Clear(record(20, b"\x02")))],
         Refused("decode_error", "InvalidCcs", "RFC 5246 7.1, 7.2.2")),
    Case("ccs-of-another-value", TLS13, [before(Finished, Clear(record(20, b"\x02")))],
         Refused("unexpected_message", "IllegalMiddleboxChangeCipherSpec", "RFC 8446 5")),
    Case("ccs-of-two-bytes", TLS12, [instead(ChangeCipherSpec, Clear(record(20, b"\x01\x01")))],
         Refused("decode_error", "TrailingData", "RFC 5246 7.1, 7.2.2")),
    Case("ccs-of-two-bytes", TLS13, [before(Finished, Clear(record(20, b"\x01\x01")))],
         Refused("unexpected_message", "IllegalMiddleboxChangeCipherSpec", "RFC 8446 5")),
    Case("ccs-sealed", TLS13, [before(Finished, sealed(0, b"\x01\x14"))],
         Refused("unexpected_message", "IllegalMiddleboxChangeCipherSpec", "RFC 8446 5")),
    Case("ccs-at-once", TLS13, [held_from(Finished)],
         Refused("unexpected_message", "got ChangeCipherSpec", "RFC 8446 5"),
         then=said_at_once(Clear(record(20, b"\x01")))),
    # Finished.
    Case("finished-wrong", BOTH, [changed(Finished, first_bit_turned("verify_data"))],
         Refused("decrypt_error", "cannot decrypt peer's message", "RFC 8446 4.4.4, RFC 5246 7.4.9")),
    Case("finished-short", BOTH, [rewritten(Finished, lambda body: body[:-1])],
         Refused("decrypt_error", "cannot decrypt peer's message", "RFC 8446 4.4.4, RFC 5246 7.4.9, 7.2.2",
                 "decode_error", "a Finished of another length is a wrong one")),
    Case("finished-of-no-bytes", BOTH, [rewritten(Finished, lambda body: b"")],
         Refused("decrypt_error", "cannot decrypt peer's message", "RFC 8446 4.4.4, RFC 5246 7.4.9, 7.2.2",
                 "decode_error", "a Finished of another length is a wrong one")),
    Case("finished-spoilt", BOTH, [spoilt(Finished)],
         Refused("bad_record_mac", "cannot decrypt peer's message", "RFC 8446 5.2, RFC 5246 7.2.2")),
    Case("record-without-type", TLS13, [before(Finished, sealed(0, b""))],
         Ended("IllegalTlsInnerPlaintext", "RFC 8446 5.4: zeros only", "unexpected_message", NO_ALERT)),
    Case("record-of-no-handshake", TLS13, [before(Finished, sealed(ContentType.handshake, b""))],
         Works("RFC 8446 5.4", "unexpected_message",
               "it says nothing, and all of them together have the time of a handshake")),
    # After the handshake.
    Case("second-hello", TLS12, [], Works("RFC 5246 7.2.2: no_renegotiation is a warning"), then=renegotiates),
    Case("third-hello", TLS12, [],
         Refused("unexpected_message", "too many renegotiation requests",
                 "RFC 5246 7.2.2: one warning is all that is owed"),
         then=said_until_refused(*[handshake(HandshakeType.client_hello, MINIMAL_HELLO)] * 2)),
    Case("second-hello", TLS13, [], Refused("unexpected_message", "unexpected handshake message 1", "RFC 8446 4.1.2"),
         then=said(handshake(1, MINIMAL_HELLO))),
    Case("second-finished", BOTH, [],
         Refused("unexpected_message", "unexpected handshake message 20", "RFC 8446 4.6, RFC 5246 7.4"),
         then=said(handshake(20, bytes(32)))),
    Case("certificate-late", TLS13, [],
         Refused("unexpected_message", "unexpected handshake message 11", "RFC 8446 4.6.2"),
         then=said(handshake(11, b"\x00\x00\x00\x00"))),
    Case("ticket-of-a-client", TLS13, [],
         Refused("unexpected_message", "unexpected handshake message 4", "RFC 8446 4.6.1: servers send it"),
         then=said(handshake(4, bytes(8) + b"\x00" + prefixed(b"x") + bytes(2)))),
    Case("key-update", TLS13, [], Works("RFC 8446 4.6.3"), then=updates_keys),
    Case("key-update-of-no-value", TLS13, [], Refused("illegal_parameter", "a KeyUpdate of value 2", "RFC 8446 4.6.3"),
         then=said(handshake(24, b"\x02"))),
    Case("key-update-of-two-bytes", TLS13, [], Refused("decode_error", "malformed KeyUpdate", "RFC 8446 6.2"),
         then=said(handshake(24, b"\x00\x00"))),
    Case("key-update-and-more-in-one-record", TLS13, [],
         Refused("unexpected_message", "a message behind KeyUpdate in the same record", "RFC 8446 5.1"),
         then=said(sealed(ContentType.handshake, handshake_message(24, b"\x00") * 2))),
    Case("data-inside-key-update", TLS13, [],
         Refused("unexpected_message", "a record between the parts of a handshake message", "RFC 8446 5.1"),
         then=said(sealed(ContentType.handshake, b"\x18\x00"))),
    Case("key-update-in-tls-12", TLS12, [],
         Refused("unexpected_message", "unexpected handshake message 24", "RFC 5246 7.4"),
         then=said(handshake(24, b"\x00"))),
    Case("heartbeat", BOTH, [], Refused("unexpected_message", "content type 24", "RFC 6520 2: it was not agreed on"),
         then=said(Heartbeat().create(1, bytearray(b"ping"), 16))),
    Case("ccs-late", TLS12, [], Refused("unexpected_message", "content type 20", "RFC 5246 7.1"),
         then=said(sealed(20, b"\x01"))),
    Case("ccs-late", TLS13, [], Refused("unexpected_message", "content type 20", "RFC 8446 5"),
         then=said(Clear(record(20, b"\x01")))),
    Case("alert-late-in-clear", TLS12, [],
         Refused("bad_record_mac", "a record does not authenticate", "RFC 5246 6.2.3.3: it cannot be opened"),
         then=said(Clear(record(21, b"\x01\x00")))),
    Case("alert-late-in-clear", TLS13, [],
         Refused("unexpected_message", "content type 21",
                 "RFC 8446 5.2: what is sealed is application data from outside"),
         then=said(Clear(record(21, b"\x01\x00")))),
    Case("alert-late", BOTH, [], Ended("the alert handshake_failure", "RFC 8446 6.2, RFC 5246 7.2.2"),
         then=said(Alert().create(40))),
    Case("alert-of-one-byte", BOTH, [], Refused("decode_error", "malformed alert", "RFC 8446 6.2"),
         then=said(sealed(21, b"\x02"))),
    Case("data-spoilt", BOTH, [],
         Refused("bad_record_mac", "a record does not authenticate", "RFC 8446 5.2, RFC 5246 7.2.2"),
         then=said(Spoilt(ApplicationData().create(CALL)))),
    Case("record-late-too-long", BOTH, [],
         Refused("record_overflow", "a record is too long", "RFC 8446 5.2, RFC 5246 6.2.3"),
         then=said(Clear(record(23, bytes(0x4801))))),
    Case("data-spoilt-at-once", TLS13, [held_from(Finished)],
         Refused("bad_record_mac", "cannot decrypt peer's message", "RFC 8446 5.2, RFC 5246 7.2.2"),
         then=said_at_once(Spoilt(ApplicationData().create(CALL)))),
    Case("key-update-of-no-value-at-once", TLS13, [held_from(Finished)],
         Refused("illegal_parameter", "InvalidKeyUpdate", "RFC 8446 4.6.3"),
         then=said_at_once(handshake(24, b"\x02"))),
    Case("second-finished-at-once", TLS13, [held_from(Finished)],
         Refused("unexpected_message", "got Finished", "RFC 8446 4.6, RFC 5246 7.4"),
         then=said_at_once(handshake(20, bytes(32)))),
    Case("call-at-once", TLS13, [held_from(Finished)], Works("RFC 8446 2: data may follow Finished"),
         then=said_at_once(ApplicationData().create(CALL))),
    Case("message-late-too-long", TLS13, [],
         Refused("unexpected_message", "unexpected handshake message 99", "RFC 8446 4"),
         then=said(sealed(22, b"\x63\xff\xff\xff"))),
]


def shown_with(rewrite):
    return [rewritten(Certificate, rewrite)]


def demanding(name, versions, does, sees, shows="client-ecdsa", **more):
    return Case(name, versions, does, sees, shows=shows, demands=True, **more)


# The tunnel demands a certificate here.
CERTIFIED = [
    demanding("certificate", BOTH, [], Works("so that the other cases fail for what they do")),
    demanding("certificate-rsa", BOTH, [], Works("so that the other cases fail for what they do"), "client-rsa"),
    demanding("certificate-none", TLS12, [],
              Refused("certificate_required", "NoCertificatesPresented", "RFC 5246 7.4.6", "handshake_failure",
                      "it is fatal, and says more"), None),
    demanding("certificate-none", TLS13, [],
              Refused("certificate_required", "NoCertificatesPresented", "RFC 8446 4.4.2.4"), None),
    demanding("certificate-of-stranger", BOTH, [],
              Refused("unknown_ca", "UnknownIssuer", "RFC 8446 6.2, RFC 5246 7.2.2"), "client-of-stranger"),
    demanding("certificate-expired", BOTH, [],
              Refused("certificate_expired", "has expired", "RFC 8446 6.2, RFC 5246 7.2.2"), "client-expired"),
    demanding("certificate-of-a-server", BOTH, [],
              Refused("unsupported_certificate", "lacks clientAuth", "RFC 8446 6.2, RFC 5280 4.2.1.12"),
              "server-ecdsa"),
    demanding("certificate-of-no-der", TLS12, shown_with(lambda body: chain(TLS12, (b"no DER", b""))),
              Refused("bad_certificate", "BadEncoding", "RFC 5246 7.2.2")),
    demanding("certificate-of-no-der", TLS13, shown_with(lambda body: chain(TLS13, (b"no DER", b""))),
              Refused("bad_certificate", "BadEncoding", "RFC 8446 6.2")),
    demanding("certificate-of-no-bytes", TLS13, shown_with(lambda body: chain(TLS13, (b"", b""))),
              Refused("bad_certificate", "BadEncoding", "RFC 8446 4.4.2: one byte at least", "decode_error",
                      "it is no certificate either")),
    demanding("certificate-with-a-tail", BOTH, shown_with(lambda body: body + b"\x00"),
              Refused("decode_error", "TrailingData", "RFC 8446 6.2, RFC 5246 7.2.2")),
    demanding("certificate-with-a-context", TLS13, shown_with(lambda body: b"\x01\x07" + body[1:]),
              Refused("decode_error", "InvalidCertRequest", "RFC 8446 4.4.2: that of the request, which is empty",
                      "illegal_parameter", BY_CODEC)),
    demanding("certificate-with-an-extension", TLS13,
              shown_with(lambda body: chain(TLS13, (body[7:-2], b"\xfe\xfe\x00\x00"))),
              Refused("decode_error", "UnknownCertificateExtension", "RFC 8446 4.4.2: only those that were asked for",
                      "unsupported_extension", BY_CODEC)),
    demanding("certificate-missing", BOTH, [dropped(Certificate)],
              Refused("unexpected_message", "expecting Certificate", "RFC 8446 4.4, RFC 5246 7.4.6")),
    demanding("certificate-twice", BOTH, [twice(Certificate)],
              Refused("unexpected_message", "got Certificate", "RFC 8446 4.4, RFC 5246 7.4")),
    demanding("verify-missing", BOTH, [dropped(CertificateVerify)],
              Refused("unexpected_message", "received unexpected", "RFC 8446 4.4.3, RFC 5246 7.4.8")),
    demanding("verify-wrong", BOTH, [rewritten(CertificateVerify, last_bit_turned)],
              Refused("decrypt_error", "BadSignature", "RFC 8446 4.4.3, RFC 5246 7.2.2")),
    demanding("verify-wrong-rsa", BOTH, [rewritten(CertificateVerify, last_bit_turned)],
              Refused("decrypt_error", "BadSignature", "RFC 8446 4.4.3, RFC 5246 7.2.2"), "client-rsa"),
    demanding("verify-sha1", BOTH, [changed(CertificateVerify, having(signatureAlgorithm=(2, 3)))],
              Refused("illegal_parameter", "SignedHandshakeWithUnadvertisedSigScheme",
                      "RFC 8446 4.4.3, RFC 5246 7.4.8: not among those asked for")),
    demanding("verify-pkcs1", TLS13, [changed(CertificateVerify, having(signatureAlgorithm=(4, 1)))],
              Refused("illegal_parameter", "SignedHandshakeWithUnadvertisedSigScheme",
                      "RFC 8446 4.4.3: RSA by PSS only"), "client-rsa"),
    demanding("verify-of-another-key", BOTH, [changed(CertificateVerify, having(signatureAlgorithm=(8, 4)))],
              Refused("decrypt_error", "UnsupportedSignatureAlgorithmForPublicKey",
                      "RFC 8446 4.4.3, RFC 5246 7.2.2: it cannot be verified with the certificate")),
    demanding("verify-with-a-tail", BOTH, [rewritten(CertificateVerify, lambda body: body + b"\x00")],
              Refused("decode_error", "TrailingData", "RFC 8446 6.2, RFC 5246 7.2.2")),
]

CASES = HELLOS + ORDER + CERTIFIED
