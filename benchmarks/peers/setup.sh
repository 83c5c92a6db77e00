#!/usr/bin/env bash
# Makes .bench/peers-venv with every peer in it. Idempotent: a second run installs nothing.
# llama-cpp-python and hqq come as source: llama.cpp takes about a quarter of an hour to compile on two cores.
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
root="$(cd "$here/../.." && pwd)"
venv="${PEERS_VENV:-$root/.bench/peers-venv}"
python="${PYTHON:-python3}"

if cmp -s "$here/requirements.txt" "$venv/installed.txt"; then
    echo "peers: $venv is up to date"
    exit 0
fi
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    { echo "peers: Python 3.11 or newer is needed (set PYTHON=...)" >&2; exit 2; }
command -v c++ >/dev/null || { echo "peers: a C++ compiler is needed (apt-get install g++)" >&2; exit 2; }

[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
pip() { nice -n 10 "$venv/bin/python" -m pip --disable-pip-version-check --quiet "$@"; }

# This CPU's instructions, no vision library, no programs, no network code: the library alone.
export CMAKE_ARGS="${CMAKE_ARGS:--DGGML_NATIVE=ON -DLLAVA_BUILD=OFF -DLLAMA_BUILD_TOOLS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_SERVER=OFF -DLLAMA_OPENSSL=OFF}"
export DISABLE_CUDA=1 # hqq would otherwise try to compile its CUDA kernels
export CMAKE_BUILD_PARALLEL_LEVEL="${CMAKE_BUILD_PARALLEL_LEVEL:-$(nproc)}"

# torch first and pinned, so that nothing else chooses another build of it. llama-cpp-python is
# never taken from pip's cache: a wheel compiled for another CPU may stop at its first instruction.
pip install "$(grep '^torch==' "$here/requirements.txt")"
pip install --no-cache-dir --no-binary llama-cpp-python "$(grep '^llama-cpp-python==' "$here/requirements.txt")"
pip install -r "$here/requirements.txt"
cp "$here/requirements.txt" "$venv/installed.txt"
echo "peers: $venv is ready"
