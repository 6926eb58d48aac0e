"""TLS peers that keep to the protocol, except where a rule of a case has them deviate from it.

A rule looks at each message that tlslite-ng is about to send and says what goes out in its place: nothing, something
else, several things. The peer's transcript takes up what goes out, so a rule changes one thing and not its consequences
too.
"""

import socket
import time

from tlslite.constants import AlertDescription, AlertLevel, ContentType, HandshakeType
from tlslite.errors import TLSRemoteAlert
from tlslite.messages import Alert, ClientHello, Message, ServerHello
from tlslite.tlsconnection import TLSConnection
from tlslite.utils.codec import Parser

# What a case may take, its peer's own arithmetic included.
CASE_SECONDS_MAX = 5.0


class Tap:
    """A socket with a deadline over all its calls, that remembers what it has heard.

    To send to a peer that has gone is no error: what it has said before it went is still to be read.
    """

    def __init__(self, connection):
        self.socket = connection
        self.address = connection.getsockname()
        self.deadline = time.monotonic() + CASE_SECONDS_MAX
        self.heard = bytearray()
        # The last bit of what is sent next is turned.
        self.spoils = False
        # What is sent waits here, if it is to go out at once with what follows.
        self.held = None

    def remaining(self):
        return self.deadline - time.monotonic()

    def _hurry(self):
        self.socket.settimeout(max(self.remaining(), 0.001))

    def send(self, data):
        self.sendall(data)
        return len(data)

    def sendall(self, data):
        data = bytearray(data)
        if self.spoils:
            data[-1] ^= 1
            self.spoils = False
        if self.held is not None:
            self.held += data
            return
        self._hurry()
        try:
            self.socket.sendall(data)
        except (BrokenPipeError, ConnectionResetError):
            pass

    def hold(self):
        self.held = bytearray()

    def release(self):
        held, self.held = self.held, None
        self.sendall(held)

    def recv(self, count):
        self._hurry()
        data = self.socket.recv(count)
        self.heard += data
        return data

    def end_sending(self):
        self.socket.shutdown(socket.SHUT_WR)

    def end(self):
        """Waits for the end of what the other side says, and how it comes: closed, reset or silent."""
        try:
            while self.recv(1 << 16):
                pass
        except ConnectionResetError:
            return "reset"
        except TimeoutError:
            return "silent"
        return "closed"

    def close(self):
        self.socket.close()

    def clear_alert(self):
        """The last alert that was heard in clear, as (level, description)."""
        found, rest = None, bytes(self.heard)
        while len(rest) >= 5:
            content_type, length = rest[0], int.from_bytes(rest[3:5], "big")
            content, rest = rest[5 : 5 + length], rest[5 + length :]
            if content_type == ContentType.alert and len(content) == 2:
                found = tuple(content)
        return found


def record(content_type, content, version=0x0303):
    """A record in clear."""
    return bytes([content_type]) + version.to_bytes(2, "big") + len(content).to_bytes(2, "big") + bytes(content)


def handshake_message(kind, body):
    return bytes([kind]) + len(body).to_bytes(3, "big") + bytes(body)


class Content(Message):
    """The content of a record, sealed or not as the connection is at that time. It may be sent more than once."""

    def write(self):
        # The record layer goes on writing behind what it gets.
        return bytearray(self.data)


def handshake(kind, body=b""):
    """A handshake message of any type."""
    return Content(ContentType.handshake, handshake_message(kind, body))


class Clear:
    """Bytes that go out as they are, at whatever state the connection is."""

    def __init__(self, data):
        self.data = data


class Spoilt:
    """A message the record of which loses a bit on its way."""

    def __init__(self, message):
        self.message = message


class Joined(Content):
    """A message and further bytes in one record; the transcript has the message only."""

    def __init__(self, message, data):
        self.alone = bytearray(message.write())
        super().__init__(ContentType.handshake, self.alone + data)


class AtOnce:
    """Several things that go out in one piece."""

    def __init__(self, *things):
        self.things = things


def transcript_of(thing):
    """What the transcript has of a thing that goes out."""
    if isinstance(thing, AtOnce):
        return b"".join(transcript_of(each) for each in thing.things)
    if isinstance(thing, Spoilt):
        return transcript_of(thing.message)
    if isinstance(thing, Joined):
        return thing.alone
    return thing.write() if getattr(thing, "contentType", None) == ContentType.handshake else b""


class Deviant(TLSConnection):
    """tlslite-ng's connection with `rules`: functions of (message, connection) that return what goes out, or None."""

    def __init__(self, tap, rules):
        super().__init__(tap)
        self.tap = tap
        self.rules = rules
        self.closeSocket = False
        self.ignoreAbruptClose = False
        self.flight = []
        self.key = None
        self.server_hello = None

    def _replaced(self, message):
        if isinstance(message, ServerHello):
            self.server_hello = message
        things = [message]
        for rule in self.rules:
            things = [other for thing in things for other in self._by(rule, thing)]
        return things

    def _by(self, rule, thing):
        others = rule(thing, self)
        return [thing] if others is None else others

    def _emit(self, thing, hashed):
        if isinstance(thing, Clear):
            self.sock.flush()
            self.tap.sendall(thing.data)
        elif isinstance(thing, AtOnce):
            self.sock.flush()
            self.tap.hold()
            for each in thing.things:
                yield from self._emit(each, hashed)
            self.sock.flush()
            self.tap.release()
        elif isinstance(thing, Spoilt):
            self.sock.flush()
            self.tap.spoils = True
            yield from super()._sendMsg(thing.message, update_hashes=hashed)
            self.sock.flush()
        elif isinstance(thing, Joined):
            if hashed:
                self._handshake_hash.update(thing.alone)
            yield from super()._sendMsg(thing, update_hashes=False)
        else:
            yield from super()._sendMsg(thing, update_hashes=hashed)

    def _sendMsg(self, msg, randomizeFirstBlock=True, update_hashes=True):
        for thing in self._replaced(msg):
            yield from self._emit(thing, update_hashes)

    # The messages of a TLS 1.3 server's flight go out one record each, and not before they are all made.
    def _queue_message(self, msg):
        for thing in self._replaced(msg):
            self._handshake_hash.update(transcript_of(thing))
            self.flight.append(thing)

    def _queue_flush(self):
        flight, self.flight = self.flight, []
        for thing in flight:
            yield from self._emit(thing, False)

    def say(self, *things):
        """Sends beyond the handshake, without rules."""
        for thing in things:
            for _ in self._emit(thing, False):
                pass

    def next_record(self):
        """The type and the content of the next record, opened."""
        for result in self._recordLayer.recvRecord():
            if result not in (0, 1):
                header, parser = result
                return header.type, bytes(parser.bytes)
        raise EOFError

    def until_fatal(self):
        """Reads past whatever comes before a fatal alert."""
        while True:
            content_type, content = self.next_record()
            if content_type == ContentType.alert and content[0] == AlertLevel.fatal:
                raise TLSRemoteAlert(Alert().create(content[1], content[0]))

    def client_random(self):
        """That of the first ClientHello that was heard: it follows the headers of its record and of itself."""
        return self.tap.heard[11:43]

    def answer(self, count):
        """`count` bytes of application data; what tlslite-ng does of itself beside that, it does."""
        data = b""
        while len(data) < count:
            more = self.read(min=1, max=count - len(data))
            if not more:
                break
            data += more
        return data


class Wire:
    """A peer that is only bytes in clear."""

    def __init__(self, tap):
        self.tap = tap

    def send(self, data):
        self.tap.sendall(data)

    def say(self, kind, body, version=0x0303):
        self.send(record(ContentType.handshake, handshake_message(kind, body), version))

    def next_record(self):
        header = self._exactly(5)
        return header[0], self._exactly(int.from_bytes(header[3:5], "big"))

    def _exactly(self, count):
        data = b""
        while len(data) < count:
            more = self.tap.recv(count - len(data))
            if not more:
                raise EOFError("the tunnel closed the connection")
            data += more
        return data

    def next_message(self, kind):
        """The body of the next handshake message, which is one record and must be of this type."""
        content_type, content = self.next_record()
        while content_type == ContentType.change_cipher_spec:
            content_type, content = self.next_record()
        if content_type == ContentType.alert:
            raise EOFError("an alert instead of a handshake message")
        if content_type != ContentType.handshake or content[0] != kind:
            raise EOFError(f"a record of type {content_type} instead of a handshake message of type {kind}")
        return content[4:]

    def client_hello(self):
        body = self.next_message(HandshakeType.client_hello)
        return ClientHello().parse(Parser(bytearray(len(body).to_bytes(3, "big") + body)))


def alert_text(level, description):
    """As "fatal decode_error"."""
    return f"{AlertLevel.toStr(level)} {AlertDescription.toStr(description)}"


def alert_of(error, tap):
    """The alert that the tunnel has sent, by what the peer made of it, or by what was heard."""
    if isinstance(error, TLSRemoteAlert):
        return alert_text(error.level, error.description)
    heard = tap.clear_alert()
    return alert_text(*heard) if heard else None
