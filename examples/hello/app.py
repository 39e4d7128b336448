"""A small web app: says hello, and tells what it knows of the machine it runs in.

Standard library only. `/` greets, `/env` shows the environment, `/healthz` is for checks.
"""

import json
import os
import signal
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import FrameType

PORT = int(os.environ.get("PORT", "8080"))
SECRETS = ("KEY", "PASSWORD", "SECRET", "TOKEN")


def greeting() -> str:
    """Return who answers, and from where."""
    names = ("FLY_APP_NAME", "FLY_REGION", "FLY_MACHINE_ID")
    app, region, machine = (os.environ.get(name, "?") for name in names)
    return f"Hello from {app}, region {region}, machine {machine}!\n"


def environment() -> str:
    """Return the environment as JSON, without what looks secret."""
    shown = {
        name: "…" if any(word in name.upper() for word in SECRETS) else value
        for name, value in sorted(os.environ.items())
    }
    return json.dumps(shown, indent=2, ensure_ascii=False) + "\n"


PAGES = {
    "/": ("text/plain", greeting),
    "/env": ("application/json", environment),
    "/healthz": ("text/plain", lambda: "ok\n"),
}


class Handler(BaseHTTPRequestHandler):
    """Answers GET and HEAD."""

    def do_GET(self) -> None:
        """Answer with a page."""
        page = PAGES.get(self.path.partition("?")[0])
        kind, body = (page[0], page[1]()) if page else ("text/plain", "not found\n")
        content = body.encode()
        self.send_response(200 if page else 404)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    do_HEAD = do_GET

    def log_message(self, format: str, *args: object) -> None:
        """Print a line for each request, at once."""
        print(f"{self.address_string()} {format % args}", flush=True)


class Server(ThreadingHTTPServer):
    """Listens on IPv4, where the edge comes from, and on IPv6, the private network."""

    address_family = socket.AF_INET6


def main() -> None:
    """Serve until SIGINT or SIGTERM, then finish what is being answered."""
    server = Server(("::", PORT), Handler)
    server.daemon_threads = False
    server.block_on_close = True

    def stop(number: int, _: FrameType | None) -> None:
        print(f"got {signal.Signals(number).name}, finishing", flush=True)
        threading.Thread(target=server.shutdown).start()

    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)
    print(f"listening on port {PORT}", flush=True)
    server.serve_forever(poll_interval=0.1)
    server.server_close()
    print("bye", flush=True)


if __name__ == "__main__":
    main()
