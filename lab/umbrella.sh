#!/usr/bin/env bash
# The first process of a lab: `umbrella.sh DIRECTORY`, in namespaces of its own. Every process of the
# lab is below it and ends with it.
set -eu
. "${0%/*}/first.sh"
remember
mount --make-rprivate /
ip link set lo up
serve "$1"
