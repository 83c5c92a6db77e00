#!/usr/bin/env bash
# Makes .bench/recbole-venv with RecBole in it. Idempotent: a second run installs nothing.
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
root="$(cd "$here/../.." && pwd)"
venv="${RECBOLE_VENV:-$root/.bench/recbole-venv}"
python="${PYTHON:-python3}"
wanted="$here/requirements-recbole.txt"

if cmp -s "$wanted" "$venv/installed.txt"; then
    echo "recbole: $venv is up to date"
    exit 0
fi
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    { echo "recbole: Python 3.11 or newer is needed (set PYTHON=...)" >&2; exit 2; }
[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
pip() { nice -n 10 "$venv/bin/python" -m pip --disable-pip-version-check --quiet "$@"; }

alone='^(recbole|thop)=='
pip install $(grep '^torch==' "$wanted") # first and pinned, so that nothing else chooses another build of it
grep -Ev "$alone" "$wanted" | pip install -r /dev/stdin
grep -E "$alone" "$wanted" | pip install --no-deps -r /dev/stdin
cp "$wanted" "$venv/installed.txt"
echo "recbole: $venv is ready"
