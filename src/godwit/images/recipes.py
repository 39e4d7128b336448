"""What the local base images consist of: names, Debian packages, files, config. Pure data.

Each stands in for the image of the same name on Docker Hub when that cannot be reached, so
that what Dockerfiles usually do with it works: `apt-get install` in `debian:bookworm-slim`,
`pip install` and `python -m venv` in `python:3.11-slim`, `COPY … /usr/share/nginx/html` and
`/etc/nginx/conf.d` in `nginx`. Built by `bases.py`. A change here makes a new base, because
bases are kept under a digest of their recipe.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final

SUITE: Final = "bookworm"
_FORMAT: Final = 2
"""Raised when bases are built or stored differently, so that old ones are not used."""
_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True)
class Recipe:
    """One base image.

    Attributes:
        slug: Its directory's name.
        names: Familiar references it answers to; the first is its own.
        parent: Slug of the base whose tree and layers it extends.
        packages: Debian packages, with what they depend on but not what they recommend.
        files: Path in the image to content, mode 0644, or 0755 when it begins with `#!`.
        links: Path in the image to the target of a symbolic link.
        remove: Paths removed after the packages are installed.
        commands: Run in the image, without a network, after all that.
        config: The `config` of the image: Env, Cmd, ExposedPorts and so on.
    """

    slug: str
    names: tuple[str, ...]
    parent: str = ""
    packages: tuple[str, ...] = ()
    files: Mapping[str, str] = field(default_factory=dict)
    links: Mapping[str, str] = field(default_factory=dict)
    remove: tuple[str, ...] = ()
    commands: tuple[tuple[str, ...], ...] = ()
    config: Mapping[str, Any] = field(default_factory=dict)


_SOURCES: Final = f"""\
deb http://deb.debian.org/debian {SUITE} main
deb http://deb.debian.org/debian {SUITE}-updates main
deb http://deb.debian.org/debian-security {SUITE}-security main
"""

_NGINX_CONF: Final = """\
user  nginx;
worker_processes  auto;

error_log  /var/log/nginx/error.log notice;
pid        /run/nginx.pid;

events {
    worker_connections  1024;
}

http {
    include       /etc/nginx/mime.types;
    default_type  application/octet-stream;

    log_format  main  '$remote_addr - $remote_user [$time_local] "$request" '
                      '$status $body_bytes_sent "$http_referer" '
                      '"$http_user_agent" "$http_x_forwarded_for"';

    access_log  /var/log/nginx/access.log  main;

    sendfile           on;
    keepalive_timeout  65;

    include /etc/nginx/conf.d/*.conf;
}
"""

_NGINX_SITE: Final = """\
server {
    listen       80;
    listen  [::]:80;
    server_name  localhost;

    location / {
        root   /usr/share/nginx/html;
        index  index.html index.htm;
    }
}
"""

DEBIAN: Final = Recipe(
    slug="debian",
    names=(
        "debian:bookworm-slim",
        "debian:bookworm",
        "debian:12-slim",
        "debian:12",
        "debian:stable-slim",
    ),
    files={
        "/etc/apt/sources.list": _SOURCES,
        "/etc/apt/apt.conf.d/90slim": 'Acquire::Languages "none";\n',
        "/etc/dpkg/dpkg.cfg.d/90slim": (
            "force-unsafe-io\n"
            "path-exclude=/usr/share/man/*\n"
            "path-exclude=/usr/share/locale/*\n"
            "path-exclude=/usr/share/doc/*\n"
            "path-include=/usr/share/doc/*/copyright\n"
        ),
        # No service is started while packages are installed.
        "/usr/sbin/policy-rc.d": "#!/bin/sh\nexit 101\n",
    },
    config={"Env": [f"PATH={_PATH}"], "Cmd": ["bash"]},
)

PYTHON: Final = Recipe(
    slug="python",
    names=("python:3.11-slim", "python:3.11-slim-bookworm"),
    parent="debian",
    packages=("python3", "python3-pip", "python3-venv", "ca-certificates"),
    links={
        "/usr/local/bin/python": "/usr/bin/python3",
        "/usr/local/bin/python3": "/usr/bin/python3",
        "/usr/local/bin/pip": "/usr/bin/pip3",
        "/usr/local/bin/pip3": "/usr/bin/pip3",
    },
    # Debian forbids pip to touch its own Python; in this image that Python is the user's.
    remove=("/usr/lib/python3.11/EXTERNALLY-MANAGED",),
    config={"Env": [f"PATH={_PATH}", "LANG=C.UTF-8"], "Cmd": ["python3"]},
)

NGINX: Final = Recipe(
    slug="nginx",
    names=("nginx:latest", "nginx:stable", "nginx:bookworm", "nginx:stable-bookworm"),
    parent="debian",
    packages=("nginx", "ca-certificates"),
    files={
        "/etc/nginx/nginx.conf": _NGINX_CONF,
        "/etc/nginx/conf.d/default.conf": _NGINX_SITE,
    },
    links={
        "/var/log/nginx/access.log": "/dev/stdout",
        "/var/log/nginx/error.log": "/dev/stderr",
    },
    remove=("/etc/nginx/sites-enabled/default",),
    commands=(
        ("adduser", "--system", "--group", "--no-create-home", "--home", "/nonexistent", "nginx"),
    ),
    config={
        "Env": [f"PATH={_PATH}"],
        "Cmd": ["nginx", "-g", "daemon off;"],
        "ExposedPorts": {"80/tcp": {}},
        "StopSignal": "SIGQUIT",
    },
)

ALL: Final = (DEBIAN, PYTHON, NGINX)


def by_name(familiar: str) -> Recipe | None:
    """Return the recipe for a familiar reference such as `python:3.11-slim`."""
    return next((recipe for recipe in ALL if familiar in recipe.names), None)


def parent_of(recipe: Recipe) -> Recipe | None:
    """Return the recipe that a recipe extends."""
    return next((one for one in ALL if one.slug == recipe.parent), None)


def key(recipe: Recipe) -> str:
    """Return what a base built from this recipe is kept under: it changes with the recipe."""
    slug = recipe.slug
    chain = [asdict(recipe)]
    while (parent := parent_of(recipe)) is not None:
        chain.append(asdict(parent))
        recipe = parent
    text = json.dumps([_FORMAT, SUITE, chain], sort_keys=True)
    return f"{slug}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
