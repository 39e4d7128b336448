#!/usr/bin/env bash
# `make demo`: start Godwit here, deploy examples/hello from its Dockerfile, show that it answers.
set -euo pipefail
cd "$(dirname "$0")/.."
PATH="$PWD/.venv/bin:$PATH"

godwit up -d
godwit images bootstrap

app=hello
work=build/demo/$app
mkdir -p "$work"
cp -r examples/hello/. "$work"
if [ -e "$work/fly.toml" ] && godwit status --app "$app" >/dev/null 2>&1; then
  (cd "$work" && godwit deploy)
else
  rm -f "$work/fly.toml"
  (cd "$work" && godwit launch --name "$app" --org personal --yes)
fi

url=$(godwit status --app "$app" --json | python3 -c 'import json, sys; print(json.load(sys.stdin)["url"])')
echo
echo "Asking $url"
curl --silent --show-error --fail --max-time 30 --retry 5 --retry-connrefused "$url"
cat <<TEXT

It answered from inside its own microVM. What to try next:

    . .venv/bin/activate
    curl $url
    godwit status --app $app
    godwit logs --app $app
    godwit machine list --app $app
    godwit machine exec --app $app ID -- cat /etc/hosts

    make down    # stop everything; nothing is left running
TEXT
