#!/usr/bin/env bash
# Create or refresh a virtual environment: tools/setup_env.sh VENV [EXTRA [CONSTRAINTS]]
# Installs this package with one of its extras (pyproject.toml; dev, if none is named) and the CPU or GPU build of Paddle
# by what the machine has. CONSTRAINTS is a file for pip's -c that holds back versions, with Paddle's CPU build.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=$1
extra=${2:-dev}
constraints=${3:-}
requirements=requirements-cpu.txt
newest=13
if [ -n "$constraints" ]; then
  newest=12
elif command -v nvidia-smi >/dev/null 2>&1 && nvidia-smi -L 2>/dev/null | grep -q GPU; then
  requirements=requirements-gpu.txt
  newest=12
fi  # 12: Paddle 2.6 has no wheels for Python 3.13

# .stamp holds a line for each extra that was installed from these very files.
stamp=$(cat requirements.txt "$requirements" ${constraints:+"$constraints"} pyproject.toml tools/setup_env.sh | cksum)
if grep -qsxF "$stamp $extra" "$venv/.stamp" && "$venv/bin/python" -c '' 2>/dev/null; then
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
pip() {  # without setuptools' warning that an installation is editable
  PYTHONWARNINGS=ignore "$venv/bin/python" -m pip install --quiet --disable-pip-version-check "$@" 2>&1 \
    | { grep -v "is ignored: it is neither a file nor a directory" || true; }
}
[ -x "$venv/bin/python" ] && usable "$venv/bin/python" || { rm -rf "$venv"; "$python" -m venv "$venv"; }
echo "setup: $("$venv/bin/python" --version 2>&1), $requirements${constraints:+ with $constraints}, .[$extra] -> $venv"
installed=$(grep -sF "$stamp " "$venv/.stamp" || true)
rm -f "$venv/.stamp"
pip --upgrade pip  # that of an old Python may search very long for versions that agree
pip -r "$requirements" -e ".[$extra]" ${constraints:+-c "$constraints"}
printf '%s\n' ${installed:+"$installed"} "$stamp $extra" > "$venv/.stamp"
