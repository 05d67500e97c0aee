#!/bin/sh
# Install a package of Debian or Ubuntu: tools/debian.sh PACKAGE. Where that can't be, say why.
set -u
fail() { echo "$*" >&2; exit 1; }
command -v apt-get >/dev/null || fail "there is no apt-get to install it with"
[ "$(id -u)" = 0 ] && sudo= || sudo="sudo -n"
[ -z "$sudo" ] || command -v sudo >/dev/null || fail "to install it takes root or sudo"
log=$(mktemp)
{ $sudo apt-get update && $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "$1"; } \
    >"$log" 2>&1 </dev/null || { tail -n 5 "$log" >&2; fail "apt-get could not install it (log: $log)"; }
rm -f "$log"
