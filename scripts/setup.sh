# shellcheck shell=bash
# What the scripts here need before their own work: system packages and a virtualenv.
#
# Sourced by demo, test, lint and bench; run by nobody.  The virtualenv is made at its final place
# .venvs/KEY, because the paths inside a virtualenv cannot be changed later; the link .venv is
# turned to it only when it is complete.  So a try that fails, or is interrupted, leaves what was
# there before.  KEY stands for everything that a virtualenv depends on.
#
# XE_MOCK_PYTHON names the interpreter to use, if the one found first is not the wanted one.

readonly MINIMUM_PYTHON="3.11"
readonly PYTHON_NAMES=(python3 python3.15 python3.14 python3.13 python3.12 python3.11
    /usr/bin/python3)

ROOT=$(dirname -- "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")")
readonly ROOT
readonly VENVS="$ROOT/.venvs"

PYTHON=""            # the interpreter that makes the virtualenv; "" while there is none
PYTHON_FACTS=""      # what describe_python says of it
APT_IS_FRESH=""      # the package lists were updated by this run
MISSING_PACKAGES=()  # what an ordinary user has to ask the administrator for

say() {
    printf 'xe-mock: %s\n' "$*" >&2
}

die() {
    say "$@"
    exit 1
}

# Runs a command and shows its output only if it fails.
quietly() {
    local output status=0
    output=$("$@" 2>&1 </dev/null) || status=$?
    if ((status)); then
        printf '%s\n' "$output" >&2
        say "failed with status $status: $*"
    fi
    return "$status"
}

is_root() {
    [[ $(id -u) -eq 0 ]]
}

have() {
    command -v -- "$1" >/dev/null
}

# ---- system packages -------------------------------------------------------------------------

apt_get() {
    DEBIAN_FRONTEND=noninteractive NEEDRESTART_MODE=a \
        quietly apt-get -q -y -o DPkg::Lock::Timeout=300 "$@"
}

apt_update() {
    [[ -z $APT_IS_FRESH ]] || return 0
    APT_IS_FRESH=yes
    say "updating the package lists"
    apt_get update || say "going on with the package lists as they are"
}

# --no-remove: no package of the user's may go because one of ours comes.
apt_install() {
    apt_update
    say "installing $*"
    apt_get --no-remove --no-install-recommends install "$@"
}

# Installs packages, or notes what somebody else has to install.
provide() {
    if is_root && have apt-get; then
        apt_install "$@"
        return
    fi
    MISSING_PACKAGES+=("$@")
    return 1
}

# Prints the one line that installs what is missing.
say_what_is_missing() {
    ((${#MISSING_PACKAGES[@]})) || return 0
    if have apt-get; then
        say "please run: sudo apt-get update && sudo apt-get install" \
            "--no-install-recommends -y ${MISSING_PACKAGES[*]}"
    else
        say "please install (Debian's names): ${MISSING_PACKAGES[*]}"
    fi
}

# ---- Python ----------------------------------------------------------------------------------

# Prints "VERSION STATE PREFIX" of an interpreter; STATE is venv, bare (venvs cannot be made) or
# old.  Fails for what is no interpreter.  Any Python runs this text, so that it can be told apart.
describe_python() {
    "$1" -I - "$MINIMUM_PYTHON" 2>/dev/null <<'PYTHON'
import sys
state = "venv"
if sys.version_info[:2] < tuple(int(part) for part in sys.argv[1].split(".")):
    state = "old"
else:
    try:
        import ensurepip, venv
    except ImportError:
        state = "bare"
print("%d.%d.%d %s %s" % (sys.version_info[:3] + (state, sys.base_prefix)))
PYTHON
}

# Sets PYTHON to the first interpreter that can make a virtualenv.  Else fails with BARE_PYTHON
# (the system's, new enough, but without ensurepip) and OLD_PYTHON as far as such were met.
find_python() {
    local name facts version state prefix
    BARE_PYTHON="" OLD_PYTHON=""
    local names=("${PYTHON_NAMES[@]}")
    [[ -z ${XE_MOCK_PYTHON:-} ]] || names=("$XE_MOCK_PYTHON")
    for name in "${names[@]}"; do
        facts=$(describe_python "$name") || continue
        read -r version state prefix <<<"$facts"
        case $state:$prefix in
            venv:*) PYTHON=$name PYTHON_FACTS=$facts && return 0 ;;
            bare:/usr) BARE_PYTHON=${BARE_PYTHON:-${version%.*}} ;;
            old:*) OLD_PYTHON=${OLD_PYTHON:-$version} ;;
        esac
    done
    return 1
}

# Prints the packages that make find_python succeed.
python_packages() {
    local system=""
    read -r system _ < <(describe_python /usr/bin/python3) || true
    if [[ -z $BARE_PYTHON || $BARE_PYTHON == "${system%.*}" ]]; then
        echo python3-venv
    else
        echo "python$BARE_PYTHON-venv"
    fi
}

need_python() {
    find_python && return 0
    if [[ -n $OLD_PYTHON && -z $BARE_PYTHON ]]; then
        echo "xe-mock needs Python $MINIMUM_PYTHON or later; this is $OLD_PYTHON" >&2
        exit 1
    fi
    [[ -z ${XE_MOCK_PYTHON:-} || -n $BARE_PYTHON ]] || die "$XE_MOCK_PYTHON is of no use here"
    provide "$(python_packages)" && find_python && return 0
    return 1
}

# ---- FUSE ------------------------------------------------------------------------------------

have_library() {
    [[ -n $PYTHON ]] && "$PYTHON" -I -c 'import ctypes, sys; ctypes.CDLL(sys.argv[1])' "$1" \
        2>/dev/null
}

have_libfuse2() {
    have_library libfuse.so.2
}

have_libfuse3() {
    have_library libfuse3.so.4 || have_library libfuse3.so.3
}

# Is there such a package, as far as the package lists say?
is_package() {
    [[ -n $(apt-cache show "$1" 2>/dev/null) ]]
}

# Prints the package that holds libfuse2 here; nothing where it is gone for good.
libfuse2_package() {
    local name
    for name in libfuse2t64 libfuse2; do
        is_package "$name" && echo "$name" && return
    done
    is_package fuse3 || echo libfuse2t64 # no lists: the likeliest name
}

# libfuse and the program that mounts for ordinary users.  Never the package fuse: it would take
# the place of fuse3.  A failure is not fatal: there is the in-process device.  And nobody is asked
# for libfuse2 who has libfuse3.
want_fuse() {
    local packages=() libfuse2=""
    if ! have_libfuse2 && { is_root || ! have_libfuse3; }; then
        if is_root && have apt-get && ! is_package fuse3; then
            apt_update # there are no lists yet
        fi
        libfuse2=$(libfuse2_package)
        [[ -z $libfuse2 ]] || packages+=("$libfuse2")
    fi
    have fusermount3 || have fusermount || packages+=(fuse3)
    ((${#packages[@]})) || return 0
    provide "${packages[@]}" || true
}

# The extra that a machine without libfuse2 needs, if any.
fuse_extra() {
    have_libfuse2 || echo fuse3
}

# ---- the virtualenv --------------------------------------------------------------------------

venv_key() {
    {
        printf '%s\n' "$PYTHON_FACTS" "$ROOT"
        cat -- "$ROOT/pyproject.toml"
    } | sha256sum | cut -c1-16
}

has_extra() {
    [[ -e $VENV/complete/$1 ]]
}

is_ready() {
    local extra
    for extra in base "$@"; do
        has_extra "$extra" || return 1
    done
    [[ $(readlink -- "$ROOT/.venv") == ".venvs/${VENV##*/}" ]] || return 1
    "$VENV/bin/python" -c '' 2>/dev/null
}

# In place (-e), so that a change of the source needs no new installation.
pip_install() {
    local extras
    extras=$(IFS=, && echo "$*")
    (
        cd -- "$ROOT" || exit
        unset PYTHONHOME PYTHONPATH
        PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1 PIP_USER=0 \
            quietly "$VENV/bin/python" -m pip install --editable ".${extras:+[$extras]}"
    )
}

# Turns .venv to the finished virtualenv in one step, then removes all others.
switch_venv() {
    local link="$VENVS/link" other
    ln -sfn -- ".venvs/${VENV##*/}" "$link"
    mv -fT -- "$link" "$ROOT/.venv"
    for other in "$VENVS"/*; do
        [[ $other == "$VENV" ]] || rm -rf -- "$other"
    done
}

build_venv() {
    local extra missing=()
    if ! has_extra base || ! "$VENV/bin/python" -c '' 2>/dev/null; then
        say "making a virtualenv (Python ${PYTHON_FACTS%% *})"
        rm -rf -- "$VENV"
        quietly "$PYTHON" -m venv "$VENV" || die "cannot make a virtualenv"
        mkdir -- "$VENV/complete"
    fi
    for extra in "$@"; do
        has_extra "$extra" || missing+=("$extra")
    done
    if ! has_extra base || ((${#missing[@]})); then
        say "installing xe-mock and what it needs${missing[*]:+ (also for: ${missing[*]})}"
        pip_install "${missing[@]}" || die "cannot install into the virtualenv"
        (cd -- "$VENV/complete" && touch -- base "${missing[@]}")
    fi
    switch_venv
}

# need_venv EXTRA...: afterwards .venv holds xe-mock with these extras.
need_venv() {
    VENV="$VENVS/$(venv_key)"
    is_ready "$@" && return 0
    [[ -L $ROOT/.venv || ! -e $ROOT/.venv ]] ||
        die "$ROOT/.venv is not of these scripts' making; please move it away"
    mkdir -p -- "$VENVS"
    # One at a time; the second finds the first one's work done.  pip keeps the lock for as long
    # as it runs, even if this script is killed.
    (
        flock --nonblock 9 || { say "waiting for another set-up to end" && flock 9; }
        is_ready "$@" || build_venv "$@"
    ) 9<"$VENVS"
}

# set_up [--fuse] EXTRA...: everything for a script that needs these extras, and perhaps mounts.
set_up() {
    local fuse="" extras=()
    if [[ ${1:-} == --fuse ]]; then
        fuse=yes
        shift
    fi
    extras=("$@")
    need_python || true
    [[ -z $fuse ]] || want_fuse
    say_what_is_missing
    [[ -n $PYTHON ]] || die "there is no Python that can make a virtualenv"
    if [[ -n $fuse ]]; then
        mapfile -t -O "${#extras[@]}" extras < <(fuse_extra)
    fi
    need_venv "${extras[@]}"
}
