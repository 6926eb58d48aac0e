"""The tunnels under test, what is behind them, and a healthy connection through each."""

import os
import re
import socket
import ssl
import subprocess
import threading
import time

LOOPBACK = "127.0.0.1"
# A call of the NULL procedure of NFS version 4 without its record's padding, and its reply (RFC 5531).
CALL = b"".join(word.to_bytes(4, "big") for word in [0x80000028, 1, 0, 2, 100003, 4, 0, 0, 0, 0, 0])
REPLY = b"".join(word.to_bytes(4, "big") for word in [0x80000018, 1, 1, 0, 0, 0, 0])

START_SECONDS_MAX = 10.0
HEALTHY_SECONDS_MAX = 5.0
LOG_SECONDS_MAX = 2.0


class NfsServer:
    """Answers each NULL call, for the tunnels in server mode."""

    def __init__(self):
        self.listener = socket.create_server((LOOPBACK, 0))
        self.address = self.listener.getsockname()
        self.connections = 0
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        while True:
            client, _ = self.listener.accept()
            self.connections += 1
            threading.Thread(target=self._answer, args=(client,), daemon=True).start()

    def _answer(self, client):
        with client:
            client.settimeout(HEALTHY_SECONDS_MAX)
            try:
                while exactly(client, len(CALL)) == CALL:
                    client.sendall(REPLY)
            except OSError:
                pass


def exactly(connection, count):
    """`count` bytes, or what there is before the end."""
    data = b""
    while len(data) < count:
        more = connection.recv(count - len(data))
        if not more:
            break
        data += more
    return data


class Unable(Exception):
    """A tunnel does not start."""


class Tunnel:
    """A process of the program, with its log."""

    def __init__(self, binary, driver, mode, name, work, options):
        self.driver, self.mode, self.work = driver, mode, work
        self.log = os.path.join(work, f"{mode}-{name}-{driver}.log")
        self.marked = 0
        command = [binary, mode, "--listen", f"{LOOPBACK}:0", "--io", driver, "--workers", "1", "--memory-max", "32M"]
        # What clients did that nobody knows is logged with restraint at the level info.
        command += ["--connections-max", "64", "--log-level", "debug", *options]
        environment = {name: value for name, value in os.environ.items() if name != "RUST_LOG"}
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment)
        self.address = self._listening()

    def _lines(self, start=0):
        with open(self.log, "rb") as log:
            log.seek(start)
            return log.read().decode(errors="replace").splitlines()

    def mark(self):
        """A case begins: what is in the log now is of others, who may have had the same ports."""
        self.marked = os.path.getsize(self.log)

    def _listening(self):
        end = time.monotonic() + START_SECONDS_MAX
        while time.monotonic() < end and self.process.poll() is None:
            for line in self._lines():
                if found := re.search(r"listening on 127\.0\.0\.1:(\d+),", line):
                    return LOOPBACK, int(found[1])
            time.sleep(0.02)
        last = (self._lines() or ["nothing in its log"])[-1]
        self.stop()
        raise Unable(f"sealane {self.mode} --io {self.driver}: {last}")

    def farewell(self, address):
        """The line about the end of the connection from `address`; it may be a moment late."""
        peer = re.compile(rf"\bpeer={re.escape(address[0])}:{address[1]}\b")
        end = time.monotonic() + LOG_SECONDS_MAX
        while True:
            for line in self._lines(self.marked):
                if "closed: " in line and peer.search(line):
                    return line
            if time.monotonic() > end:
                return ""
            time.sleep(0.01)

    def stop(self):
        """Ends the process, and says what is wrong with how it ended, if something is."""
        self.process.terminate()
        try:
            status = self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(5)
            return "does not end on SIGTERM"
        panics = [line for line in self._lines() if "panicked" in line]
        if panics:
            return panics[0]
        return f"exit status {status}" if status else None


def connected(address):
    connection = socket.create_connection(address, timeout=HEALTHY_SECONDS_MAX)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


class ServerTunnel(Tunnel):
    """`sealane server`: the peer is a TLS client."""

    def __init__(self, binary, driver, name, work, nfs, options):
        certificate = ["--cert", f"{work}/server-ecdsa.pem", "--key", f"{work}/server-ecdsa.key"]
        super().__init__(
            binary, driver, "server", name, work, ["--connect", "%s:%d" % nfs.address, *certificate, *options]
        )
        self.healthy_context = ssl.create_default_context(cafile=f"{work}/ca.pem")
        self.healthy_context.load_cert_chain(f"{work}/client-ecdsa.pem", f"{work}/client-ecdsa.key")

    def check_healthy(self):
        """A connection as it should be, by the TLS of Python; says what is wrong with it."""
        try:
            with connected(self.address) as connection:
                with self.healthy_context.wrap_socket(connection, server_hostname="nfs.test") as client:
                    client.sendall(CALL)
                    return None if exactly(client, len(REPLY)) == REPLY else "no reply"
        except OSError as error:
            return str(error)


class ClientTunnel(Tunnel):
    """`sealane client`: the peer is the TLS server that it connects to."""

    def __init__(self, binary, driver, name, work):
        self.upstream = socket.create_server((LOOPBACK, 0))
        options = [
            "--connect",
            "%s:%d" % self.upstream.getsockname(),
            "--server-name",
            "nfs.test",
            "--retry-timeout",
            "1",
        ]
        super().__init__(binary, driver, "client", name, work, [*options, "--ca-file", f"{work}/ca.pem"])
        self.healthy_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.healthy_context.load_cert_chain(f"{work}/server-ecdsa.pem", f"{work}/server-ecdsa.key")
        # No case is to find what another one has left: a session to be resumed, a group to begin with.
        self.healthy_context.num_tickets = 0
        self.healthy_context.set_ecdh_curve("X25519")

    def forget_callers(self):
        """Ends connections that nobody has accepted: attempts that came after a case was over."""
        self.upstream.settimeout(0)
        try:
            while True:
                self.upstream.accept()[0].close()
        except BlockingIOError:
            pass

    def check_healthy(self):
        """A connection as it should be, by the TLS of Python; says what is wrong with it."""
        self.forget_callers()
        self.upstream.settimeout(HEALTHY_SECONDS_MAX)
        try:
            with connected(self.address) as plain:
                plain.sendall(CALL)
                accepted, _ = self.upstream.accept()
                accepted.settimeout(HEALTHY_SECONDS_MAX)
                with accepted, self.healthy_context.wrap_socket(accepted, server_side=True) as server:
                    if exactly(server, len(CALL)) != CALL:
                        return "no call"
                    server.sendall(REPLY)
                    return None if exactly(plain, len(REPLY)) == REPLY else "no reply"
        except OSError as error:
            return str(error)
