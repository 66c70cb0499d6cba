#!/usr/bin/env bash
# Install the server as deploy/Dockerfile does, check its size, and let it answer every kind of request.
# Usage: tools/try_server.sh WHEEL MODEL_FOLDER
set -euo pipefail
wheel=$(realpath "$1") model=$(realpath "$2") here=$(dirname "$(realpath "$0")")
work=$(mktemp -d)
trap 'kill "${server:-}" 2> /dev/null || true; /bin/rm -rf "$work"' EXIT
said=$(sh "$here/../deploy/install.sh" "$wheel" "$work/env")
echo "$said"
megabytes=$(sed -E 's/.* takes ([0-9]+) MB.*/\1/' <<< "$said")
[ "$megabytes" -lt 150 ] || { echo "docs/guide/serve.md promises less than 150 MB" >&2; exit 1; }
cd "$work"
mkdir documents
echo "# Rhythm

A quaver is an eighth note." > documents/notes.md
env/bin/quaver index documents --model "$model" --store kb > /dev/null
env/bin/quaver serve --store kb --rerank "$model" --unix-socket "$work/socket" --allow-update 2> log &
server=$!
ask() { curl --silent --show-error --fail --unix-socket socket "$@"; }
for _ in $(seq 300); do ask http://localhost/readyz > /dev/null 2>&1 && break; sleep 0.1; done
ask http://localhost/v1/embeddings --json '{"input": "a text"}' > /dev/null
ask http://localhost/rerank --json '{"query": "a note", "texts": ["a quaver", "a cat"]}' > /dev/null
ask http://localhost/v1/stores/kb/search --json '{"query": "what is a quaver", "rerank": true}' | grep --quiet notes.md
ask http://localhost/ | grep --quiet "<html"
ask http://localhost/metrics | grep --quiet quaver_requests_total
kill "$server"
wait "$server"
grep --quiet '"event":"stopped","lost":0' log
echo "the server answers"
