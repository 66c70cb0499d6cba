#!/usr/bin/env bash
# Install a wheel into a clean environment, hide every compiler, and run it on a real model.
# Usage: tools/try_wheel.sh WHEEL MODEL_FOLDER
set -euo pipefail
wheel=$(realpath "$1") model=$(realpath "$2")
kilobytes=$(( $(stat -c %s "$wheel") / 1000 ))
[ "$kilobytes" -lt 1550 ] || { echo "the wheel has $kilobytes kB; README.md says 1.5 MB" >&2; exit 1; }
work=$(mktemp -d)
trap '/bin/rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/env"
# Nothing but the environment's own programs: no compiler, no cmake.
export PATH="$work/env/bin" CC=/nonexistent CXX=/nonexistent
cd "$work"
python -m pip --disable-pip-version-check --quiet install --only-binary :all: "$wheel"
python - "$model" <<'END'
import pathlib
import sys
import quaver

sets = quaver.info()["instruction_sets"]
assert set(sets) == {"amx", "avx512vnni", "avxvnni", "avx512", "avx2", "scalar"}, sets
model = quaver.Embedder.from_pretrained(sys.argv[1])
query = model.encode_query("What is the capital of France?")
scores = model.similarity(query, model.encode(["Paris is the capital of France.", "A quaver is an eighth note."]))
assert scores.ravel()[0] > 0.7 > 0.3 > scores.ravel()[1], scores
page = pathlib.Path(quaver.__file__).parent / "serve" / "assets"
for name in ("htmx.min.js", "htmx.LICENSE", "page.js", "page.css", "icon.svg", "templates/search.html"):
    assert (page / name).is_file(), name
print("wheel works:", quaver.__version__, quaver.info()["isa"], scores.ravel().round(3).tolist())
END
quaver info > /dev/null
