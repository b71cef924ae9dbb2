#!/usr/bin/env bash
# Create or refresh a virtual environment: tools/setup_env.sh VENV [REQUIREMENTS [EXTRA]]
# Picks a Python that Paddle has wheels for and, without REQUIREMENTS, the CPU or GPU build by what the machine has.
# EXTRA is another requirements file, installed on top (what only the tests need).
set -euo pipefail
cd "$(dirname "$0")/.."
venv=$1
requirements=${2:-}
extra=${3:-}
newest=13
if [ -z "$requirements" ]; then
  if command -v nvidia-smi >/dev/null 2>&1 && nvidia-smi -L 2>/dev/null | grep -q GPU; then
    requirements=requirements-gpu.txt
  else
    requirements=requirements-cpu.txt
  fi
fi
case "$requirements" in *gpu*|*paddle26*|*min*) newest=12 ;; esac  # Paddle 2.6 has no wheels for Python 3.13

stamp=$(cat "$requirements" requirements.txt requirements-dev.txt pyproject.toml tools/setup_env.sh | cksum)
install() { "$venv/bin/python" -m pip install --quiet --disable-pip-version-check "$@" 2>&1 \
  | { grep -v "is ignored: it is neither a file nor a directory" || true; }; }
install_extra() {
  [ -n "$extra" ] || return 0
  local wanted; wanted="$stamp $(cat "$extra" requirements-deploy.txt | cksum)"
  local mark="$venv/.stamp-$extra"
  [ "$(cat "$mark" 2>/dev/null)" = "$wanted" ] && return 0
  echo "setup: $extra -> $venv"
  install -r "$extra"
  echo "$wanted" > "$mark"
}
if [ -f "$venv/.stamp" ] && [ "$(cat "$venv/.stamp")" = "$stamp" ] && "$venv/bin/python" -c '' 2>/dev/null; then
  install_extra
  exit 0
fi

usable() {  # a Python of the right version that can make environments
  "$1" -c "import sys, venv, ensurepip; sys.exit(not (3, 9) <= sys.version_info[:2] <= (3, $newest))" >/dev/null 2>&1
}
python=""
for candidate in ${PYTHON:-} python3.11 python3.10 python3.12 python3.9 python3.13 python3 python \
    "$HOME"/.pyenv/versions/3.*/bin/python /opt/conda/bin/python; do
  if usable "$candidate"; then python=$candidate; break; fi
done
if [ -z "$python" ]; then
  echo "setup: no Python 3.9 to 3.$newest with venv found, and Paddle has wheels for no other;" \
    "install one (for example: apt-get install python3.11-venv) or name it: make setup PYTHON=/path/to/python" >&2
  exit 1
fi
echo "setup: $("$python" --version 2>&1) ($python), $requirements -> $venv"
[ -x "$venv/bin/python" ] && usable "$venv/bin/python" || { rm -rf "$venv"; "$python" -m venv "$venv"; }
rm -f "$venv/.stamp"
install -r "$requirements" -r requirements-dev.txt
install --no-deps -e .
echo "$stamp" > "$venv/.stamp"
install_extra
