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
echo "Installing chromium (once, about a minute)" >&2
why=$("${0%/*}/debian.sh" chromium 2>&1) || fail "$why"
find_browser || fail "apt-get installed chromium, but none is found"
