#!/bin/sh
# All the set-up: a .venv with every package of requirements.lock (hashes checked) and this workbook, editable.
# Does nothing, in a moment, when the lock file and pyproject.toml are the ones that were installed.
set -u
cd "$(dirname "$0")/.." || exit 1
same() { cmp -s "$1" ".venv/installed/$1"; }
if same requirements.lock && same pyproject.toml && .venv/bin/python -c '' 2>/dev/null; then exit 0; fi

fits='import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))'
chosen=
for candidate in ${PYTHON:-python3 python3.13 python3.12 python3.11}; do
    if "$candidate" -c "$fits" 2>/dev/null; then chosen=$candidate; break; fi
done
if [ -z "$chosen" ]; then
    found=$("${PYTHON:-python3}" --version 2>/dev/null || echo "none")
    echo "set-up: Python 3.11, 3.12 or 3.13 with its venv module is needed, found: $found; install one, or name it: make PYTHON=/path/to/python3.12" >&2
    exit 1
fi

log=$(mktemp) || exit 1
trap 'rm -f "$log"' EXIT
fail() {
    if grep -qiE 'no space left|disk quota' "$log"; then why="the disk is full; about 4 GB are needed here"
    elif grep -qiE 'NewConnectionError|connection (refused|broken|error)|name resolution|timed out|network is unreachable|from versions: none' "$log"; then
        why="the package index cannot be reached; check the network and run the command again"
    elif grep -qi 'hashes' "$log"; then why="a downloaded package does not have the hash in requirements.lock"
    else why=$(grep -iE 'error' "$log" | tail -n 1); fi
    mkdir -p .venv 2>/dev/null && cp "$log" .venv/install.log 2>/dev/null
    echo "set-up: $1 failed: ${why:-see .venv/install.log}" >&2
    exit 1
}
echo "set-up: installing the locked packages into .venv (some minutes, once)"
rm -rf .venv/installed
if ! .venv/bin/python -c "$fits" 2>/dev/null; then rm -rf .venv; "$chosen" -m venv .venv >"$log" 2>&1 || fail "making .venv"; fi
pip=".venv/bin/python -m pip --disable-pip-version-check --no-input"
$pip install --quiet --require-hashes -r requirements.lock >"$log" 2>&1 || fail "installing requirements.lock"
$pip install --quiet --no-deps --no-build-isolation --editable . >"$log" 2>&1 || fail "installing the workbook"
mkdir -p .venv/installed && cp requirements.lock pyproject.toml .venv/installed/ || fail "marking .venv as ready"
