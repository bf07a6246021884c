#!/bin/sh
# The session of README.md: runs commands that need no root on manifests of this repository, and
# prints them with their output.
#
#     docs/session.sh PATH-OF-RULEC            prints the session
#     docs/session.sh --check PATH-OF-RULEC    fails if README.md shows another one
#     docs/session.sh --write PATH-OF-RULEC    puts it into README.md
set -eu

mode=print
case "${1:-}" in
--check | --write)
    mode=${1#--}
    shift
    ;;
esac
rulec=$(realpath "${1:?usage: session.sh [--check | --write] PATH-OF-RULEC}")
cd "$(dirname "$(realpath "$0")")/.."
readme=README.md
manifests=tests/golden/endpoint-replaced
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# Root gives up its privileges, if others can read the binary and the manifests.
as=
if [ "$(id -u)" = 0 ]; then
    nobody='setpriv --reuid=65534 --regid=65534 --clear-groups --inh-caps=-all'
    if $nobody test -x "$rulec" -a -r "$readme" 2>/dev/null; then as=$nobody; fi
fi

# Runs a command in the directory of the manifests, as a reader would type it. `rulec diff` exits
# with 1 if there is a difference.
show() {
    printf '$ %s\n' "$*"
    shift
    # shellcheck disable=SC2086
    (cd "$manifests" && env -u RULEC_LOG $as "$rulec" "$@" 2>&1) || [ $? = 1 ]
}

session() {
    printf '$ cd %s\n' "$manifests"
    show rulec diff --from before.yaml --to after.yaml
    echo
    show rulec explain 10.96.0.10:80 --from 10.244.0.9 --state after.yaml
}

session >"$work/session"
if [ "$mode" = print ]; then
    cat "$work/session"
    exit 0
fi

# The session is between two marks, as a block of code.
{ printf '\n```console\n' && cat "$work/session" && printf '```\n\n'; } >"$work/block"
awk -v block="$work/block" '
    /^<!-- session: end -->$/ { inside = 0 }
    !inside { print }
    /^<!-- session: begin/ { inside = 1; while ((getline line < block) > 0) print line }
' "$readme" >"$work/readme"
grep -q '^<!-- session: end -->$' "$readme" || { echo "$readme has no place for the session" >&2; exit 2; }
if [ "$mode" = write ]; then
    cat "$work/readme" >"$readme"
elif ! diff -u "$readme" "$work/readme"; then
    echo "$readme shows another session: run docs/session.sh --write $rulec" >&2
    exit 1
fi
