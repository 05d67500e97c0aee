#!/bin/sh
# Is there a browser for the tests of the site? Print its path; where there is none, install Debian's or Ubuntu's chromium.
# CHROMIUM names another Chromium or Chrome.
set -u
fail() {
    echo "No browser for the tests of the site: $*. Install Chromium or Chrome, or name one: CHROMIUM=/path/to/it" >&2
    exit 1
}
find_browser() {
    [ -z "${CHROMIUM-}" ] || { command -v "$CHROMIUM" || fail "CHROMIUM=$CHROMIUM does not run"; return; }
    for b in chromium chromium-browser google-chrome google-chrome-stable \
        "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome" /Applications/Chromium.app/Contents/MacOS/Chromium; do
        command -v "$b" && return
    done
    return 1
}

find_browser && exit
command -v apt-get >/dev/null || fail "there is no apt-get to install it with"
[ "$(id -u)" = 0 ] && sudo= || sudo="sudo -n"
[ -z "$sudo" ] || command -v sudo >/dev/null || fail "to install it takes root or sudo"
echo "Installing chromium (once, about a minute)" >&2
log=$(mktemp)
{ $sudo apt-get update && $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends chromium; } \
    >"$log" 2>&1 </dev/null || { tail -n 5 "$log" >&2; fail "apt-get could not install it (log: $log)"; }
rm -f "$log"
find_browser || fail "apt-get installed chromium, but none is found"
