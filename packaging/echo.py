"""A TLS server that sends back what it gets, and a plain client that compares what comes back.

serve ADDRESS CERTIFICATE KEY   listens, says on which port, serves one connection after the other
compare PORT                    sends 8 MiB of random bytes to a port of this host; status 1 if others come back
"""

import os
import socket
import ssl
import sys
import threading

BYTES = 8 << 20


def serve(address, certificate, key):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    listener = socket.create_server((address, 0))
    print(listener.getsockname()[1], flush=True)
    while True:
        try:
            with context.wrap_socket(listener.accept()[0], server_side=True) as connection:
                while got := connection.recv(1 << 16):
                    connection.sendall(got)
        except OSError as error:
            print(error, file=sys.stderr)


def compare(port):
    sent = os.urandom(BYTES)
    with socket.create_connection(("127.0.0.1", int(port)), timeout=30) as connection:
        threading.Thread(target=connection.sendall, args=(sent,), daemon=True).start()
        back = bytearray()
        while len(back) < BYTES and (got := connection.recv(1 << 16)):
            back += got
    sys.exit(0 if back == sent else f"{len(back)} of {BYTES} bytes came back, or others")


{"serve": serve, "compare": compare}[sys.argv[1]](*sys.argv[2:])
