"""Serve Prefect's API, but neither its UI nor its scheduler, to one command; run as a script.

It inherits a listening socket, whose descriptor is its argument, and ends when its standard input does: with the
process that started it, in whatever way that ends.
"""

import os
import signal
import socket
import sys
from threading import Thread


def main() -> None:
    """Serve until told to stop."""
    Thread(target=_end_with_input, daemon=True).start()
    import uvicorn
    from prefect.server.api.server import create_app

    server = uvicorn.Server(uvicorn.Config(create_app(ephemeral=True, final=True), log_level="error", lifespan="on"))
    server.run(sockets=[socket.socket(fileno=int(sys.argv[1]))])


def _end_with_input() -> None:
    while os.read(sys.stdin.fileno(), 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    main()
