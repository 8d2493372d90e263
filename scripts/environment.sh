# shellcheck shell=bash
# Set-up that ./check and ./demo share: the Python environment in .venv, and Debian packages. Sourced, not run.

say() { printf '\033[1m==>\033[0m %s\n' "$*"; }
fail() { printf '%s: %s\n' "${0##*/}" "$*" >&2; exit 1; }

# Make sure that the Debian packages named are installed: installs them when root, else says how.
debian_packages() {
    local missing=() package
    command -v dpkg-query >/dev/null || fail "not a Debian machine: install the equivalents of: $*"
    for package in "$@"; do
        [[ $(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null) == installed ]] || missing+=("$package")
    done
    ((${#missing[@]})) || return 0
    if ((EUID != 0)); then
        fail "missing Debian packages; install them with:
    sudo apt-get install --no-install-recommends ${missing[*]}"
    fi
    say "apt-get install ${missing[*]}"
    apt-get update -qq || say "apt-get update failed; trying with the lists that are there"
    # SYSTEMD_OFFLINE: services that come with a package (haproxy, prometheus) are not started.
    SYSTEMD_OFFLINE=1 DEBIAN_FRONTEND=noninteractive \
        apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null </dev/null
}

# Set python to the first interpreter that is new enough.
find_python() {
    for python in python3 python3.13 python3.12 python3.11; do
        if "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            return
        fi
    done
    debian_packages python3 python3-venv
    python=/usr/bin/python3
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
        fail "proxyd needs Python 3.11 or newer; $("$python" --version) is too old"
}

# Bring .venv to what the lock files given say, with proxyd itself installed from this tree. Does nothing if an
# earlier call did it: the stamp is named after the contents of everything that decides the result.
python_environment() {
    local stamp
    find_python
    stamp=.venv/.proxyd-$({ cat "$@" pyproject.toml; "$python" --version; pwd; } | sha256sum | cut -c1-16)
    if [[ -e $stamp ]] && .venv/bin/python -c '' 2>/dev/null; then
        return
    fi
    "$python" -c 'import ensurepip, venv' 2>/dev/null || debian_packages python3-venv
    if ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
        say "making .venv with $("$python" --version)"
        "$python" -m venv --clear .venv
    fi
    say "installing the wheels locked in $* into .venv"
    local arguments=() lock
    for lock in "$@"; do arguments+=(-r "$lock"); done
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --only-binary :all: --require-hashes \
        "${arguments[@]}"
    say "installing proxyd from this tree into .venv"
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
    touch "$stamp"
}
