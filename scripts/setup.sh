#!/usr/bin/env bash
# Makes the environment that scripts/test and scripts/demo need: Debian packages (as root, where they are missing), uv,
# and the locked environment in .venv with everything compiled. Quick when all is there.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
unset PYTHONDONTWRITEBYTECODE VIRTUAL_ENV PYTHONPATH PYTHONHOME
export PATH=$PATH:/usr/sbin:/sbin # a plain `su` leaves them out: ethtool is there, and what apt-get runs

say() { printf 'setup: %s\n' "$*" >&2; }
fail() { say "$*"; exit 1; }

# One at a time: scripts/test and scripts/demo may be started together.
exec 9<uv.lock
flock 9

# command, and the Debian package it comes in
needed=(ip:iproute2 ping:iputils-ping iperf3:iperf3 ethtool:ethtool tmux:tmux cc:gcc nft:nftables)
needed+=(chromium:chromium chromedriver:chromium-driver fc-match:fontconfig) # the dashboard's tests
needed+=(zsh:zsh fish:fish)                                                   # the completion's

have_header() {
    local directory
    for directory in /usr/include /usr/include/*-linux-gnu /usr/local/include; do
        [ -e "$directory/$1" ] && return
    done
    return 1
}

missing_packages() {
    local pair
    for pair in "${needed[@]}"; do
        command -v "${pair%%:*}" >/dev/null 2>&1 || printf '%s\n' "${pair#*:}"
    done
    # fastecdsa, which libp2p brings, has no wheel for Linux and is compiled here: with GMP's headers, Python's
    # (Debian's own python comes without) and the C library's.
    # Not through `grep -q`, which ends at the first match: then ldconfig's own end looks like a failure (pipefail).
    [[ $(ldconfig -p 2>/dev/null) == *libseccomp.so.2* ]] || printf 'libseccomp2\n'
    have_header gmp.h || printf 'libgmp-dev\n'
    # A browser without a font draws boxes.
    [ -d /usr/share/fonts/truetype/dejavu ] || printf 'fonts-dejavu-core\n'
    have_header stdio.h || printf 'libc6-dev\n'
    "$python" - <<'EOF' || printf 'python3-dev\n'
import os, sys, sysconfig
sys.exit(not os.path.exists(os.path.join(sysconfig.get_paths()["include"], "Python.h")))
EOF
    if [ -z "$(find_uv)" ]; then
        "$python" -c 'import ensurepip' 2>/dev/null || printf 'python3-venv\n'
    fi
}

find_python() {
    local candidate
    for candidate in python3 python3.13 python3.12 python3.11 /usr/bin/python3; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            command -v "$candidate"
            return
        fi
    done
}

find_uv() {
    if [ -x .venv-tools/bin/uv ]; then
        echo "$root/.venv-tools/bin/uv"
    else
        command -v uv || true
    fi
}

python=$(find_python)
if [ -z "$python" ]; then
    [ "$(id -u)" = 0 ] || fail "Python 3.11 or newer is missing: install it (Debian: apt-get install python3)"
    say "installing python3"
    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq python3 >/dev/null
    python=$(find_python)
    [ -n "$python" ] || fail "this Debian's Python is older than 3.11: use Debian 12 or newer"
fi

mapfile -t packages < <(missing_packages | sort -u)
if [ "${#packages[@]}" -gt 0 ]; then
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
        say "installing ${packages[*]}"
        log=$(mktemp)
        { apt-get update -qq && DEBIAN_FRONTEND=noninteractive \
            apt-get install -y -qq --no-install-recommends "${packages[@]}"; } >"$log" 2>&1 \
            || { tail -n 20 "$log" >&2; fail "apt-get could not install ${packages[*]}"; }
        rm -f "$log"
    else
        say "not root: these packages are missing and some tests will be skipped: ${packages[*]}"
    fi
fi

uv=$(find_uv)
if [ -z "$uv" ]; then
    say "installing uv into .venv-tools"
    "$python" -m venv .venv-tools || fail "can't make a virtual environment: install python3-venv"
    printf '*\n' >.venv-tools/.gitignore # neither git nor ruff looks into it
    .venv-tools/bin/python -m pip install --quiet --disable-pip-version-check uv || fail "pip could not install uv"
    uv=$root/.venv-tools/bin/uv
fi

# As pip, git and apt do, believe whom this machine believes: uv alone brings a list of its own.
if [ -e /etc/ssl/certs/ca-certificates.crt ]; then
    export UV_SYSTEM_CERTS=true UV_NATIVE_TLS=true # its newer and its older name
fi

# Once synced, the lock's fingerprint is kept: nothing to do until it changes.
stamp=.venv/edgevpn-setup
fingerprint=$(cat uv.lock pyproject.toml scripts/setup.sh | sha256sum | cut -d' ' -f1)
if [ ! -x .venv/bin/edgevpn ] || [ "$(cat "$stamp" 2>/dev/null)" != "$fingerprint" ]; then
    say "making the locked environment in .venv"
    UV_PYTHON_DOWNLOADS=never UV_PROJECT_ENVIRONMENT=.venv "$uv" sync --quiet --locked --compile-bytecode \
        --python "$python" || fail "uv could not make the environment (see above)"
    printf '%s\n' "$fingerprint" >"$stamp"
fi
# Without compiled modules a node starts three times slower.
.venv/bin/python -m compileall -q edgevpn
