#!/bin/sh
# Installs the package on this machine, runs the unit's command with the rights of the unit's user
# in a network namespace, and purges the package. Takes the path of the .deb; needs root, ip, nft,
# setpriv, socat, and a machine without rulec. Systemd must be installed, to check the unit, but
# need not run.
set -eu

deb=$(realpath "${1:?usage: test.sh PATH-OF-DEB}")
node=rulec-deb-test
work=$(mktemp -d)
manifest=/etc/rulec/manifests/test-deb.yaml

fail() { echo "FAILED: $*" >&2; exit 1; }
say() { printf '== %s\n' "$*"; }

if dpkg -s rulec >/dev/null 2>&1; then
    fail "rulec is already installed on this machine"
fi

cleanup() {
    [ -z "${daemon:-}" ] || kill "$daemon" 2>/dev/null || true
    [ -z "${manager:-}" ] || kill "$manager" 2>/dev/null || true
    rm -f "$manifest"
    dpkg --purge rulec >/dev/null 2>&1 || true
    ip netns del $node 2>/dev/null || true
    rm -rf "$work"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

# Waits until a command succeeds.
wait_for() {
    for _ in $(seq 100); do
        ! "$@" >/dev/null 2>&1 || return 0
        sleep 0.1
    done
    fail "timed out waiting for: $*; the log: $(cat "$work/log" 2>/dev/null)"
}

say "Install"
dpkg -i "$deb"
# The unit is neither enabled nor started.
[ ! -e /etc/systemd/system/multi-user.target.wants/rulec.service ] ||
    fail "the installation has enabled the unit"
! nft list table ip rulec 2>/dev/null || fail "the installation has started the daemon"
for file in /usr/bin/rulec /etc/default/rulec /usr/share/man/man1/rulec-run.1.gz \
    /usr/share/bash-completion/completions/rulec /usr/share/doc/rulec/copyright; do
    [ -s $file ] || fail "$file is missing"
done
[ -d /etc/rulec/manifests ] || fail "the directory of manifests is missing"
dpkg-query -W -f '${Conffiles}\n' rulec | grep -q /etc/default/rulec ||
    fail "/etc/default/rulec is not a conffile"

say "Check the unit"
unit=$(dpkg -L rulec | grep 'rulec\.service$')
systemd-analyze verify "$unit"
grep -q '^Type=notify$' "$unit"

say "Start the daemon in a network namespace"
ip netns add $node
ip -n $node link set lo up
cat >$manifest <<MANIFEST
apiVersion: v1
kind: Service
metadata: { name: web }
spec: { clusterIP: 172.30.0.1, ports: [{ port: 80 }] }
MANIFEST
chmod 755 "$work"
socat -u UNIX-RECV:"$work/notify",mode=777 CREATE:"$work/heard" &
manager=$!
wait_for test -S "$work/notify"
. /etc/default/rulec
start=$(sed -n 's/^ExecStart=//p' "$unit" | sed "s|\$RULEC_OPTIONS|$RULEC_OPTIONS|")
NOTIFY_SOCKET=$work/notify ip netns exec $node setpriv --reuid=65534 --regid=65534 --clear-groups \
    --no-new-privs --bounding-set=-all,+net_admin --inh-caps=-all,+net_admin \
    --ambient-caps=-all,+net_admin $start 2>"$work/log" &
daemon=$!
wait_for grep -q READY=1 "$work/heard"
ip netns exec $node nft list table ip rulec | grep -q 172.30.0.1 ||
    fail "the rules are missing after READY=1"

say "Stop"
kill $daemon
wait $daemon || fail "the daemon exited with status $?"
daemon=
grep -q STOPPING=1 "$work/heard" || fail "the daemon did not send STOPPING=1"
ip netns exec $node nft list table ip rulec >/dev/null ||
    fail "the rules were removed when the daemon stopped"

say "Install the same version again, as an upgrade"
ip netns exec $node dpkg -i "$deb"
ip netns exec $node nft list table ip rulec >/dev/null || fail "the upgrade removed the rules"

say "Purge"
ip netns exec $node dpkg --purge rulec
! ip netns exec $node nft list table ip rulec 2>/dev/null ||
    fail "the purge did not remove the rules"
[ -e $manifest ] || fail "the purge removed a manifest of the administrator"
for file in /usr/bin/rulec /etc/default/rulec "$unit"; do
    [ ! -e "$file" ] || fail "the purge did not remove $file"
done
rm -r /etc/rulec
say "All checks passed"
