"""Files of a microVM that clients get without its app, by the real edge."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from godwit.testing.platform import Platform, eventually

APP = "hello-reed"
SERVE = """
import http.server, os, pathlib
public = pathlib.Path("/srv/public")
public.mkdir(parents=True, exist_ok=True)
(public / "style.css").write_text("style")
pathlib.Path("/srv/secret").write_text("secret")
for name, to in (("up", "../secret"), ("etc", "/etc")):
    if not (public / name).is_symlink():
        (public / name).symlink_to(to)
class App(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        said = f"the app: {self.path}".encode()
        self.send_response(200)
        self.send_header("content-length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)
http.server.ThreadingHTTPServer(("", 8080), App).serve_forever()
"""


@pytest.fixture(scope="module")
def machine(platform: Platform, launched: dict[str, str]) -> Iterator[str]:
    """Return a machine that serves files beside its app."""
    config: dict[str, Any] = {
        "image": platform.deployed(APP)["config"]["image"],
        "init": {"exec": ["python3", "-c", SERVE]},
        "rootfs": {"persist": "restart"},
        "services": [
            {
                "protocol": "tcp",
                "internal_port": 8080,
                "ports": [{"port": 80, "handlers": ["http"]}],
            }
        ],
        "statics": [{"guest_path": "/srv/public", "url_prefix": "/static"}],
    }
    with platform.api as api:
        made = api.post(f"/v1/apps/{APP}/machines", json={"config": config})
        assert made.status_code == 200, made.text
        found = made.json()["id"]
        try:
            platform.wait(APP, found, "started")
            yield found
        finally:
            api.delete(f"/v1/apps/{APP}/machines/{found}", params={"force": "true"})


def get(platform: Platform, machine: str, path: str, **headers: str) -> httpx.Response:
    return platform.get(APP, path, headers={"fly-force-instance-id": machine} | headers)


def test_a_file_comes_without_the_app_and_what_is_none_from_it(
    platform: Platform, machine: str
) -> None:
    # Its program writes the file before it listens.
    eventually(lambda: get(platform, machine, "/").text == "the app: /")
    got = get(platform, machine, "/static/style.css")
    assert (got.status_code, got.text) == (200, "style")
    assert got.headers["content-type"] == "text/css; charset=utf-8"
    known = get(platform, machine, "/static/style.css", **{"if-none-match": got.headers["etag"]})
    assert known.status_code == 304
    part = get(platform, machine, "/static/style.css", range="bytes=1-2")
    assert (part.status_code, part.text) == (206, "ty")
    for path in (
        "/static/missing",
        "/static/up",
        "/static/etc/passwd",
        "/static/%2e%2e/secret",
        "/static/..%2fsecret",
    ):
        assert get(platform, machine, path).text == f"the app: {path}"


def test_a_file_starts_its_machine(platform: Platform, machine: str) -> None:
    eventually(lambda: get(platform, machine, "/static/style.css").text == "style")
    platform.godwit("machine", "stop", machine, "--wait", "--app", APP)
    assert get(platform, machine, "/static/style.css").text == "style"
    with platform.api as api:
        assert api.get(f"/v1/apps/{APP}/machines/{machine}").json()["state"] == "started"
