#!/usr/bin/env bash
# `make demo`: three regions in the lab, examples/hello in each, and a client of each region answered
# by its own.
set -euo pipefail
cd "$(dirname "$0")/.."
PATH="$PWD/.venv/bin:$PATH"
regions=(fra iad nrt)
app=hello
work=$PWD/build/demo/$app

lab() { python -m lab --name demo "$@"; }
godwit() { lab exec --cwd "$work" "${regions[0]}-1" -- godwit "$@"; }

# An agent on every host: all of them came up.
whole() { [ "$(lab status 2>/dev/null | grep -c '  *agent,')" = "${#regions[@]}" ]; }

if ! whole; then
  # Of a demo that was broken off, or that a restart of this machine ended.
  lab down >/dev/null
  lab up --regions "$(IFS=,; echo "${regions[*]}")"
fi
mkdir -p "$work"
cp -r examples/hello/. "$work"
godwit images bootstrap

known=
if godwit status --app "$app" >/dev/null 2>&1; then known=1; fi
if [ -n "$known" ] && [ ! -e "$work/fly.toml" ]; then
  # A demo that ended half-way, or whose copy of the source was removed: from the beginning.
  godwit apps destroy "$app" --yes
  known=
fi
# A build is root on its host, also when several organizations share it; this one is our own.
if [ -n "$known" ]; then
  godwit deploy --offline --force-host-build
else
  rm -f "$work/fly.toml"
  godwit launch --name "$app" --org personal --region "${regions[0]}" --yes --offline \
    --force-host-build --no-ha
fi
godwit scale count "${#regions[@]}" --max-per-region 1 --yes \
  --region "$(IFS=,; echo "${regions[*]}")"

for region in "${regions[@]}"; do
  echo
  echo "A client in $region asks http://$app.godwit.test/"
  # Its machine may still be on its way, since booting takes a while where it is emulated; until
  # then the nearest other region answers.
  said=
  for _ in {1..60}; do
    said=$(lab exec "$region-c1" -- curl --silent --fail --max-time 20 "http://$app.godwit.test/") \
      && [[ $said == *"region $region,"* ]] && break
    sleep 1
  done
  echo "${said:-nobody answered}"
  [[ $said == *"region $region,"* ]] \
    || { echo "not its own region; see \`python -m lab --name demo status\`" >&2; exit 1; }
done
cat <<TEXT

Each was answered from a microVM in its own region. What to try next:

    . .venv/bin/activate
    python -m lab --name demo status
    python -m lab --name demo exec fra-1 -- godwit machine list --app $app
    python -m lab --name demo cut nrt          # and ask again: docs/contributing/lab.md

    make down    # stop everything; nothing is left running
TEXT
