"""Runs the cases: main.py BINARY DIRECTORY. The certificates in the directory are made by `run`, which counts, too.

Prints a line for each case: verdict, name and remark, with tabs between them.
"""

import fnmatch
import os
import select
import socket
import sys
from dataclasses import dataclass
from typing import Optional

from tlslite.utils.keyfactory import parsePEMKey
from tlslite.x509certchain import X509CertChain

import client_cases
import server_cases
from cases import Ended, Refused, Works, answer, call, settings_for
from peers import Deviant, Tap, Wire, alert_of
from tunnels import CALL, REPLY, ClientTunnel, NfsServer, ServerTunnel, Unable, connected, exactly

DRIVERS = ("uring", "epoll")


@dataclass
class Outcome:
    """What a case has seen of the tunnel."""

    alert: Optional[str] = None
    answered: bool = False
    # How the connection with the peer ended, and that of the NFS client, in client mode.
    end: str = ""
    plain_end: str = ""
    # What the peer said last of itself.
    complaint: str = ""
    log: str = ""

    def settle(self, tap, error):
        """Waits for the end of the connection with the peer."""
        self.end = tap.end()
        self.alert = alert_of(error, tap)
        self.complaint = f"{type(error).__name__}: {error}" if error else ""
        tap.close()


class Certificates:
    """What peers show, parsed once."""

    def __init__(self, directory):
        self.directory = directory
        self.parsed = {}

    def get(self, name):
        """The chain and the key."""
        if name not in self.parsed:
            with open(f"{self.directory}/{name}.pem", encoding="ascii") as pem, open(
                f"{self.directory}/{name}.key", encoding="ascii"
            ) as key:
                chain = X509CertChain()
                chain.parsePemList(pem.read())
                self.parsed[name] = chain, parsePEMKey(key.read(), private=True)
        return self.parsed[name]


def as_client(case, version, tunnel, certificates):
    """The peer is a client of `sealane server`."""
    session = resumable(case, version, tunnel, certificates) if case.resumes else None
    tap = Tap(connected(tunnel.address))
    outcome, error = Outcome(), None
    try:
        if callable(case.does):
            case.does(Wire(tap))
        else:
            connection = client(case, version, tap, case.does, certificates, session)
            outcome.answered = (case.then or call)(connection) == REPLY
            if outcome.answered:
                connection.close()
    except (
        Exception
    ) as caught:  # pylint: disable=broad-except # whatever a peer makes of what it gets is an observation
        error = caught
    outcome.settle(tap, error)
    if not outcome.answered:
        outcome.log = tunnel.farewell(tap.address)
    return outcome


def client(case, version, tap, rules, certificates, session=None):
    connection = Deviant(tap, rules)
    chain, key = certificates.get(case.shows) if case.shows else (None, None)
    settings = settings_for(version, case.settings)
    connection.handshakeClientCert(chain, key, settings=settings, session=session, serverName="nfs.test")
    return connection


def resumable(case, version, tunnel, certificates):
    """A session of a connection without a fault."""
    tap = Tap(connected(tunnel.address))
    connection = client(case, version, tap, [], certificates)
    if call(connection) != REPLY:
        raise EOFError("the first connection is not answered")
    connection.close()
    tap.close()
    return connection.session


def as_server(case, version, tunnel, certificates):
    """The peer is the server that `sealane client` connects to, once or as often as it likes."""
    tunnel.forget_callers()
    outcome = Outcome()
    with connected(tunnel.address) as plain:
        plain.sendall(CALL)
        waiting = Tap(plain)
        while True:
            ready, _, _ = select.select([tunnel.upstream, plain], [], [], max(waiting.remaining(), 0))
            if tunnel.upstream not in ready:
                break
            serve(case, version, tunnel, certificates, plain, outcome)
            if outcome.answered:
                break
        outcome.plain_end = waiting.end()
        if not outcome.answered:
            outcome.log = tunnel.farewell(waiting.address)
    return outcome


def serve(case, version, tunnel, certificates, plain, outcome):
    """One connection of the tunnel; the verdict on it goes to `outcome`."""
    accepted, _ = tunnel.upstream.accept()
    accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    tap, error = Tap(accepted), None
    try:
        if callable(case.does):
            case.does(Wire(tap))
        else:
            chain, key = certificates.get(case.shows or "server-ecdsa")
            connection = Deviant(tap, case.does)
            connection.key = key
            connection.handshakeServer(
                certChain=chain, privateKey=key, settings=settings_for(version, case.settings), reqCert=case.demands
            )
            if (case.then or answer)(connection) == CALL:
                outcome.answered = exactly(plain, len(REPLY)) == REPLY
                plain.shutdown(socket.SHUT_WR)
                connection.close()
    except (
        Exception
    ) as caught:  # pylint: disable=broad-except # whatever a peer makes of what it gets is an observation
        error = caught
    outcome.settle(tap, error)


def objections(case, tunnel, outcome):
    """What is not as it has to be."""
    sees = case.sees
    if outcome.end == "silent":
        yield "the connection does not end"
    if isinstance(sees, Works):
        if not outcome.answered:
            yield f"no answer ({outcome.complaint}; {outcome.alert}; {outcome.log})"
        return
    if outcome.answered:
        yield "the call is answered"
    wanted = f"fatal {sees.alert}" if isinstance(sees, Refused) else None
    if outcome.alert != wanted:
        yield f"{outcome.alert or 'no alert'} instead of {wanted or 'none'} ({outcome.complaint})"
    if sees.log not in outcome.log:
        yield f"'{sees.log}' is not in '{outcome.log}'"
    if tunnel.mode == "client" and outcome.plain_end != "reset":
        yield f"the NFS client's connection is not reset but {outcome.plain_end}"


def stays_outside(case):
    """Whether the peer's handshake is never done, so that the NFS server sees nothing of it."""
    return not isinstance(case.sees, Works) and not case.then and not case.resumes


def remark(case):
    """What a reader of the verdicts should know of an alert that is not the RFC's."""
    sees = case.sees
    if not sees.instead_of:
        return ""
    seen = sees.alert if isinstance(sees, Refused) else "no alert" if isinstance(sees, Ended) else "it works"
    return f"{seen} instead of {sees.instead_of}: {sees.because}"


def planned():
    """Every case as (mode, case, version, driver), the drivers in turn or both."""
    turn = 0
    for mode, cases in (("server", server_cases.CASES), ("client", client_cases.CASES)):
        for case in cases:
            for version in case.versions:
                both = os.environ.get("DRIVERS") == "both"
                for driver in DRIVERS if both else [DRIVERS[turn % 2]]:
                    yield mode, case, version, driver
                turn += 1


class Tunnels:
    """Started when a case wants one, ended together."""

    def __init__(self, binary, work):
        self.binary, self.work = binary, work
        self.nfs = NfsServer()
        self.started = {}

    def get(self, mode, driver, demands):
        """A tunnel, or why there is none."""
        kind = mode, driver, demands and mode == "server"
        if kind not in self.started:
            try:
                self.started[kind] = self._start(*kind)
            except Unable as error:
                self.started[kind] = error
        return self.started[kind]

    def _start(self, mode, driver, demands):
        if mode == "client":
            return ClientTunnel(self.binary, driver, "plain", self.work)
        options = ["--client-ca", f"{self.work}/ca.pem"] if demands else []
        return ServerTunnel(self.binary, driver, "strict" if demands else "open", self.work, self.nfs, options)

    def stop(self):
        for (mode, driver, _), tunnel in self.started.items():
            if isinstance(tunnel, Unable):
                continue
            yield mode, driver, tunnel.stop()


def tell(verdict, name, text=""):
    print(verdict, name, " ".join(text.split()), sep="\t", flush=True)


def run(mode, case, version, driver, tunnels, certificates):
    name = f"{mode}/{case.name}-{version}-{driver}"
    if not fnmatch.fnmatch(name, os.environ.get("ONLY", "*")):
        return
    tunnel = tunnels.get(mode, driver, case.demands)
    if isinstance(tunnel, Unable):
        tell("not run", name, str(tunnel))
        return
    play = as_client if mode == "server" else as_server
    tunnel.mark()
    nfs_connections = tunnels.nfs.connections
    wrong = list(objections(case, tunnel, play(case, version, tunnel, certificates)))
    if stays_outside(case) and tunnels.nfs.connections != nfs_connections:
        wrong.append("the NFS server was connected to")
    if trouble := tunnel.check_healthy():
        wrong.append(f"a healthy connection after it does not work: {trouble}")
    if wrong:
        tell("FAILED", name, "; ".join(wrong))
    else:
        tell("ok", name, remark(case))


def main():
    binary, work = sys.argv[1:]
    tunnels, certificates = Tunnels(binary, work), Certificates(work)
    try:
        for plan in planned():
            run(*plan, tunnels, certificates)
    finally:
        for mode, driver, trouble in tunnels.stop():
            if trouble:
                tell("FAILED", f"{mode}/end-{driver}", trouble)


if __name__ == "__main__":
    main()
