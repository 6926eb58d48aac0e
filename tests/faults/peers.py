#!/usr/bin/env python3
"""Clients that misbehave, on 127.0.0.1.

probe PORT SECONDS    sends the beginning of an RPC call and prints how the connection ended and after how many
                      milliseconds: "reset 3012", "closed 12", "silent 15000"
hold PORT COUNT       holds COUNT connections that have sent the beginning of a call; prints now and then how many live
rest PORT COUNT       COUNT connections that have had a NULL call answered, and say nothing more; prints when each ends, in
                      milliseconds since the epoch, and how: "1764216000123 reset"
stall PORT COUNT      COUNT connections that send NULL calls as fast as they can and never read a reply; prints now and
                      then how many live and how many bytes were taken
"""
import selectors
import socket
import sys
import time

# A call of the NULL procedure of NFS version 4, AUTH_NONE (RFC 5531).
WORDS = [0x80000028, 1, 0, 2, 100003, 4, 0, 0, 0, 0, 0]
NULL_CALL = b"".join(word.to_bytes(4, "big") for word in WORDS)


def probe(port, seconds):
    started = time.monotonic()
    how = "silent"
    with socket.socket() as client:
        client.settimeout(seconds)
        try:
            client.connect(("127.0.0.1", port))
            client.sendall(NULL_CALL[:4])
            how = "answered" if client.recv(1) else "closed"
        except ConnectionError:
            how = "reset"
        except TimeoutError:
            pass
    print(how, round((time.monotonic() - started) * 1000))


def many(port, count, floods):
    selector = selectors.DefaultSelector()
    taken = 0
    wanted = selectors.EVENT_WRITE if floods else selectors.EVENT_READ
    for _ in range(count):
        client = socket.socket()
        client.connect(("127.0.0.1", port))
        if not floods:
            client.sendall(NULL_CALL[:4])
        client.setblocking(False)
        selector.register(client, wanted, [0])
    flood = NULL_CALL * 1000
    told = 0.0
    while True:
        if time.monotonic() - told > 0.2:
            told = time.monotonic()
            print("live", len(selector.get_map()), "taken", taken, flush=True)
        for key, _ in selector.select(0.1):
            client = key.fileobj
            try:
                if floods:
                    sent = client.send(flood[key.data[0] :])
                    key.data[0] = (key.data[0] + sent) % len(flood)
                    taken += sent
                elif not client.recv(1):
                    raise ConnectionError
            except BlockingIOError:
                pass
            except ConnectionError:
                selector.unregister(client)
                client.close()


def rest(port, count):
    clients = [socket.create_connection(("127.0.0.1", port), timeout=5) for _ in range(count)]
    for client in clients:
        client.sendall(NULL_CALL)
        client.recv(4096)
        client.settimeout(None)
    print("resting", flush=True)
    selector = selectors.DefaultSelector()
    for client in clients:
        selector.register(client, selectors.EVENT_READ)
    while selector.get_map():
        for key, _ in selector.select():
            try:
                how = "answered" if key.fileobj.recv(1) else "closed"
            except ConnectionError:
                how = "reset"
            print(round(time.time() * 1000), how, flush=True)
            selector.unregister(key.fileobj)


def main():
    verb, port, number = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    if verb == "probe":
        probe(port, number)
    elif verb == "rest":
        rest(port, number)
    else:
        many(port, number, verb == "stall")


main()
