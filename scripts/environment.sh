# Read by scripts/run, scripts/test and scripts/check: the virtual environment
# and the distribution's packages. Silent when nothing is to be done.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=$root/.venv/bin/python

fail() {
    printf '%s: error: %s\n' "$(basename "$0")" "$1" >&2
    [ $# -lt 2 ] || printf 'hint: %s\n' "$2" >&2
    exit 1
}

say() {
    printf '%s: %s\n' "$(basename "$0")" "$*" >&2
}

as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo "$@"
    else
        fail "root is needed to install packages, and there is no sudo" \
            "as root: $*"
    fi
}

# quiet COMMAND...: its output is shown only when it fails.
quiet() {
    local log
    log=$(mktemp)
    if ! "$@" >"$log" 2>&1; then
        cat "$log" >&2
        rm -f "$log"
        return 1
    fi
    rm -f "$log"
}

apt_install() {
    local options=(-y -q --no-install-recommends)
    say "installing $* with apt-get"
    if ! as_root env DEBIAN_FRONTEND=noninteractive \
        apt-get install "${options[@]}" "$@" >/dev/null 2>&1; then
        # The lists may be missing or old: only then are they fetched.
        quiet as_root apt-get update -q || fail "apt-get update failed"
        quiet as_root env DEBIAN_FRONTEND=noninteractive \
            apt-get install "${options[@]}" "$@" ||
            fail "apt-get could not install: $*"
    fi
}

# The package starts a server on the standard ports. Nobody asked for that one.
install_server() {
    local systemd=
    [ ! -d /run/systemd/system ] || systemd=yes
    [ -z "$systemd" ] || quiet as_root systemctl mask "$1.service"
    apt_install "$1"
    if [ -n "$systemd" ]; then
        quiet as_root systemctl unmask "$1.service"
        quiet as_root systemctl disable "$1.service" || true
    elif [ -x "/etc/init.d/$1" ]; then
        quiet as_root "/etc/init.d/$1" stop || true
    fi
}

# The package makes a cluster and starts it on the standard port. The tests make their
# own. What says so here must be there before the package, and nobody is to find it later.
install_postgresql() (
    conf=/etc/postgresql-common/createcluster.d/tillie.conf
    trap 'as_root rm -f "$conf"' EXIT
    as_root mkdir -p "${conf%/*}"
    echo 'create_main_cluster = false' | as_root tee "$conf" >/dev/null
    apt_install postgresql
)

# packages COMMAND...: installs what lacks; packages are named as their commands.
packages() {
    local name missing=()
    for name in "$@"; do
        case $name in
            # Debian keeps its programs off the path
            postgresql) compgen -G '/usr/lib/postgresql/*/bin/postgres' >/dev/null ;;
            ejabberd) [ -x /usr/sbin/ejabberdctl ] ;;
            prosody-modules) [ -d /usr/lib/prosody/modules/mod_delegation ] ;;
            *) command -v "$name" >/dev/null || [ -x "/usr/bin/$name" ] ;;
        esac || missing+=("$name")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    command -v apt-get >/dev/null ||
        fail "missing: ${missing[*]}" "install them; there is no apt-get here"
    local others=()
    for name in "${missing[@]}"; do
        case $name in
            prosody | ejabberd) install_server "$name" ;;
            postgresql) install_postgresql ;;
            *) others+=("$name") ;;
        esac
    done
    [ ${#others[@]} -eq 0 ] || apt_install "${others[@]}"
}

new_enough() {
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
}

find_python() {
    local name
    for name in python3.11 python3 python3.12 python3.13 python3.14; do
        if command -v "$name" >/dev/null && new_enough "$name"; then
            command -v "$name"
            return
        fi
    done
    fail "Python 3.11 or newer was not found" "as root: apt-get install python3"
}

make_environment() {
    local base
    base=$(find_python)
    if ! "$base" -c 'import ensurepip, venv' 2>/dev/null; then
        # Debian ships these two in a package of their own.
        apt_install "$(basename "$("$base" -c \
            'import sys; print("python%d.%d" % sys.version_info[:2])')")-venv"
    fi
    say "making the virtual environment .venv"
    quiet "$base" -m venv "$root/.venv" || fail "the virtual environment failed"
}

# environment [EXTRA]: .venv with Tillie in it, renewed when setup.cfg changed.
environment() {
    local extra=${1:-} stamp=$root/.venv/installed-${1:-run} now
    if [ -n "$extra" ]; then now=.[$extra]; else now=.; fi
    local wanted=$now
    now="$now $(cat "$root/setup.cfg" "$root/pyproject.toml" | cksum)"
    # Two at once (a client's script and a person) must not install at once.
    exec 9<"$root"
    ! command -v flock >/dev/null || flock 9
    if ! { [ -x "$python" ] && new_enough "$python"; }; then make_environment; fi
    if [ "$(cat "$stamp" 2>/dev/null)" != "$now" ]; then
        say "installing what Tillie needs${extra:+, with what $extra needs}"
        (cd "$root" && quiet "$python" -m pip install -q \
            --disable-pip-version-check -e "$wanted") || fail "pip failed"
        printf '%s\n' "$now" >"$stamp"
    fi
    exec 9<&-
}
