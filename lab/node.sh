#!/usr/bin/env bash
# The first process of a node of the lab: `node.sh NAME DIRECTORY`, in namespaces of its own. Gives
# the node its own /run, /etc and /proc.
set -eu
. "${0%/*}/first.sh"
name=$1 dir=$2
remember
mount --make-rprivate /
mkdir -p "$dir/etc" "$dir/etc.work" "$dir/home" "$dir/tmp"
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -m 1777 /run/lock
# What is written to /etc is the node's, and is there again after a loss of power.
mount -t overlay -o "lowerdir=/etc,upperdir=$dir/etc,workdir=$dir/etc.work" overlay /etc
mount -t proc proc /proc
hostname "$name"
ip link set lo up
serve "$dir"
