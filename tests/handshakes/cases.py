"""What a case is made of: who deviates where, and what has to be seen.

    Case("finished-wrong", BOTH, [changed(Finished, wrong_verify_data)],
         Refused("decrypt_error", "DecryptError", "RFC 8446 4.4.4, RFC 5246 7.4.9"))

The alert is written by hand from the RFC. Where the tunnel sends another one, `instead_of` has the RFC's, and `because`
says why that is tolerable.
"""

from dataclasses import dataclass, field
from typing import Callable, Optional

from tlslite.constants import ContentType
from tlslite.extensions import TLSExtension
from tlslite.handshakesettings import HandshakeSettings

from peers import AtOnce, Clear, Content, Joined, Spoilt, handshake, record
from tunnels import CALL, REPLY

TLS12, TLS13 = ("1.2",), ("1.3",)
BOTH = TLS12 + TLS13

# Why another alert than the RFC's is tolerable: the connection ends at once, and the log has the cause.
NO_TLS = "whoever sends this does not understand alerts"
BY_CODEC = "what the parser refuses is one alert"
NO_ALERT = "the connection ends all the same"
BEFORE_VERSIONS = "signature_algorithms is missed first; the log speaks of versions"
MISSING = "no client without it could go on"

# A point of P-256 with its last bit turned: it is not on the curve any more.
OFF_THE_CURVE = bytes.fromhex(
    "046b17d1f2e12c4247f8bce6e563a440f277037d812deb33a0f4a13945d898c296"
    "4fe342e2fe1a7f9b8ee7eb4a7c0f9e162bce33576b315ececbb6406837bf51f4"
)


@dataclass(frozen=True)
class Refused:
    """The tunnel sends this alert, fatal, ends the connection, and gives a reason that contains `log`."""

    alert: str
    log: str
    why: str
    instead_of: Optional[str] = None
    because: str = ""


@dataclass(frozen=True)
class Ended:
    """The tunnel ends the connection without an alert and gives a reason that contains `log`."""

    log: str
    why: str
    instead_of: Optional[str] = None
    because: str = ""


@dataclass(frozen=True)
class Works:
    """The call is answered all the same."""

    why: str
    instead_of: Optional[str] = None
    because: str = ""


@dataclass(frozen=True)
class Case:
    """One deviation of a peer."""

    name: str
    versions: tuple
    # Rules (see below) for the messages of tlslite-ng; or, if the peer is only bytes, a function of peers.Wire.
    does: object
    sees: object
    # After the handshake, instead of a call and its reply: a function of peers.Deviant, which returns what it was told.
    then: Optional[Callable] = None
    # Of tlslite-ng's HandshakeSettings.
    settings: dict = field(default_factory=dict)
    # Which certificate the peer shows; clients show none unless told so.
    shows: Optional[str] = None
    # The tunnel demands a certificate (server mode); the peer demands one (client mode).
    demands: bool = False
    # The client has been here before, and resumes that session.
    resumes: bool = False


def settings_for(version, changes):
    """One version, and little to choose from, so that a hello is as short as it can be."""
    settings = HandshakeSettings()
    settings.minVersion = settings.maxVersion = {"1.2": (3, 3), "1.3": (3, 4)}[version]
    settings.cipherNames = ["aes128gcm"]
    settings.keyExchangeNames = ["ecdhe_ecdsa", "ecdhe_rsa"]
    settings.eccCurves = ["x25519", "secp256r1"]
    settings.keyShares = ["x25519"]
    settings.usePaddingExtension = False
    settings.use_heartbeat_extension = False
    settings.certificate_compression_send = []
    for name, value in changes.items():
        setattr(settings, name, value)
    return settings


# Rules: they say what goes out in place of each message of a kind.


def instead(kind, *things):
    def rule(message, _connection):
        return list(things) if isinstance(message, kind) else None

    return rule


def dropped(kind):
    return instead(kind)


def around(kind, before=(), after=()):
    def rule(message, _connection):
        return [*before, message, *after] if isinstance(message, kind) else None

    return rule


def before(kind, *things):
    return around(kind, before=things)


def after(kind, *things):
    return around(kind, after=things)


def with_at_once(kind, *things):
    """The message and `things` behind it in one piece, so that they are read together."""

    def rule(message, _connection):
        return [AtOnce(message, *things)] if isinstance(message, kind) else None

    return rule


def changed(kind, *changes):
    """The message, changed in place by each of `changes`."""

    def rule(message, _connection):
        if not isinstance(message, kind):
            return None
        for change in changes:
            change(message)
        return [message]

    return rule


def rewritten(kind, rewrite):
    """The message with another body: `rewrite` takes and returns bytes; the length in the header is made to fit."""

    def rule(message, _connection):
        if not isinstance(message, kind):
            return None
        whole = bytes(message.write())
        return [handshake(whole[0], rewrite(whole[4:]))]

    return rule


def twice(kind):
    def rule(message, _connection):
        return [message, message] if isinstance(message, kind) else None

    return rule


def held_from(kind):
    """The message and all that follows go out when what comes after the handshake has been said: in one piece."""

    def rule(message, connection):
        if isinstance(message, kind):
            connection.sock.flush()
            connection.tap.hold()

    return rule


def in_records(kind, size, version=0x0303):
    """The message in records of `size` bytes, in clear."""

    def rule(message, connection):
        if not isinstance(message, kind):
            return None
        data = bytes(message.write())
        connection._handshake_hash.update(data)
        return [
            Clear(
                b"".join(
                    record(ContentType.handshake, data[at : at + size], version) for at in range(0, len(data), size)
                )
            )
        ]

    return rule


def spoilt(kind):
    def rule(message, _connection):
        return [Spoilt(message)] if isinstance(message, kind) else None

    return rule


def followed_in_its_record(kind, data):
    """The message and `data` behind it in one record."""

    def rule(message, _connection):
        if not isinstance(message, kind):
            return None
        return [Joined(message, data)]

    return rule


# After the handshake.


def call(connection):
    """What an NFS client does; returns the reply."""
    connection.sendall(CALL)
    return connection.answer(len(REPLY))


def answer(connection, *things):
    """What an NFS server does, with `things` before the reply; returns the call."""
    asked = connection.answer(len(CALL))
    connection.say(*things)
    connection.sendall(REPLY)
    return asked


# Changes of hellos and other messages with extensions.


def extension(number, data=b""):
    return TLSExtension(extType=number).create(bytearray(data))


def without(number):
    def change(message):
        message.extensions = [each for each in message.extensions if each.extType != number]

    return change


def with_extension(number, data=b""):
    """Another extension, before those that are there."""

    def change(message):
        message.extensions = [extension(number, data), *(message.extensions or [])]

    return change


def with_other(number, data):
    """An extension with other content, at its place."""

    def change(message):
        message.extensions = [
            extension(number, data) if each.extType == number else each for each in message.extensions
        ]

    return change


def with_twice(number):
    def change(message):
        message.extensions = [each for each in message.extensions for _ in range(2 if each.extType == number else 1)]

    return change


def having(**fields):
    """Fields of tlslite-ng's message with other values."""

    def change(message):
        for name, value in fields.items():
            assert hasattr(message, name), name
            setattr(message, name, value)

    return change


def listed(*numbers, size=2, length=2):
    """A list as TLS writes it: its length in bytes, then numbers of `size` bytes."""
    content = b"".join(number.to_bytes(size, "big") for number in numbers)
    return len(content).to_bytes(length, "big") + content


def prefixed(data, length=2):
    """Bytes behind their length."""
    return len(data).to_bytes(length, "big") + bytes(data)


def last_bit_turned(body):
    return body[:-1] + bytes([body[-1] ^ 1])


def first_bit_turned(name):
    """A field of bytes with its first bit turned."""

    def change(message):
        value = bytearray(getattr(message, name))
        value[0] ^= 0x80
        setattr(message, name, value)

    return change


def says(*data):
    """Bytes in clear, and nothing else."""

    def speak(wire):
        for piece in data:
            wire.send(piece)

    return speak


def sealed(content_type, content):
    """The content of a record of any type."""
    return Content(content_type, content)


def chain(version, *entries, context=b"", tail=b""):
    """The body of a Certificate: each entry is DER, and for TLS 1.3 its extensions."""
    if version == TLS12:
        return prefixed(b"".join(prefixed(der, 3) for der, _ in entries), 3) + tail
    return (
        prefixed(context, 1) + prefixed(b"".join(prefixed(der, 3) + prefixed(more) for der, more in entries), 3) + tail
    )
