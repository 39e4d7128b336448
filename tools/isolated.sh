#!/usr/bin/env bash
# Runs a command as the first process of fresh namespaces (see the Makefile): brings up the
# loopback interface and reaps whatever is orphaned.
set -u
mount --make-rprivate /
mkdir -p /run/netns && mount -t tmpfs tmpfs /run/netns
ip link set lo up
"$@"
