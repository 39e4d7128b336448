#!/usr/bin/env bash
# Runs a command as the first process of fresh namespaces (see the Makefile): brings up the
# loopback interface and reaps whatever is orphaned.
set -u
mount --make-rprivate /
for own in /run/netns /run/wireguard; do
	mkdir -p "$own" && mount -t tmpfs tmpfs "$own"
done
ip link set lo up
"$@"
