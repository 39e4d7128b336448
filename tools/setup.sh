#!/usr/bin/env bash
# Installs what this repository needs on Debian 12, idempotently: Debian packages, the Python
# environment of the lock file, the Rust programs, the guest kernel and the base images.
# Called by the Makefile; a second run takes seconds.
set -euo pipefail
cd "$(dirname "$0")/.."

packages=(qemu-system-x86 nftables iproute2 conntrack erofs-utils e2fsprogs xfsprogs
  docker-registry buildah mmdebstrap cpio zstd lz4 busybox-static iputils-ping dnsutils curl)

say() { printf '%s\n' "setup: $*" >&2; }

need() { # program, how to get it
  command -v "$1" >/dev/null || { say "$1 is missing: $2"; exit 1; }
}

install_packages() {
  local missing=() package
  for package in "${packages[@]}"; do
    [ "$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null)" = installed ] \
      || missing+=("$package")
  done
  [ ${#missing[@]} -eq 0 ] && return
  [ "$(id -u)" = 0 ] || { say "run as root to install: ${missing[*]}"; exit 1; }
  say "installing Debian packages: ${missing[*]}"
  apt-get update -qq
  # Services are started by Godwit, never by the package.
  local policy=/usr/sbin/policy-rc.d made=
  if [ ! -e "$policy" ]; then printf '#!/bin/sh\nexit 101\n' >"$policy"; chmod +x "$policy"; made=1; fi
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
    "${missing[@]}" >/dev/null
  [ -z "$made" ] || rm -f "$policy"
}

install_python() {
  local python
  python=$(command -v python3.11 || command -v python3)
  "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
    || { say "Python 3.11 or newer is needed: apt-get install python3 python3-venv"; exit 1; }
  local stamp=.venv/.installed wanted
  wanted=$(cat requirements.lock pyproject.toml tools/setup.sh | sha256sum)
  [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ] && return
  say "installing the Python environment"
  [ -x .venv/bin/python ] || "$python" -m venv .venv \
    || { say "cannot make a virtual environment: apt-get install python3-venv"; exit 1; }
  .venv/bin/pip install -q --require-hashes -r requirements.lock
  .venv/bin/pip install -q --no-deps --no-build-isolation -e .
  printf '%s' "$wanted" >"$stamp"
}

build_programs() {
  local target=rust/target
  mkdir -p build/programs
  say "building the Rust programs (seconds when nothing changed, minutes the first time)"
  (cd rust && cargo build --quiet --locked --release -p godwit-edge -p godwit-dns)
  (cd rust && cargo static --quiet --locked)
  local program
  for program in "$target"/release/godwit-{edge,dns} \
    "$target"/x86_64-unknown-linux-gnu/small/godwit-{shim,init}; do
    # Replaced by rename: a running program keeps its file.
    cmp -s "$program" "build/programs/${program##*/}" && continue
    install -m 0755 "$program" "build/programs/.new"
    mv "build/programs/.new" "build/programs/${program##*/}"
  done
}

main() {
  need python3 "apt-get install python3 python3-venv"
  need cargo "install Rust from https://rustup.rs, or apt-get install cargo"
  need gcc "apt-get install gcc"
  case "${1:-all}" in
    python) install_python ;;
    programs) build_programs ;;
    all)
      install_packages
      install_python
      build_programs
      .venv/bin/python tools/prepare.py
      ;;
    *) say "usage: tools/setup.sh [all|python|programs]"; exit 2 ;;
  esac
}

main "$@"
