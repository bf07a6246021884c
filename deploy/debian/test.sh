#!/bin/sh
# Installs the package on this machine with the README's commands for a node without an API server,
# on which the kubelet has one static Pod; looks at what is served; and purges the package. Takes the
# path of the .deb; needs root, ip, nft, setpriv, socat, and a machine without rulec and a kubelet.
# Systemd must be installed, to check the unit, but need not run: in its place, the unit's command is
# run with the rights that the unit gives it, in a network namespace.
set -eu

[ $# -eq 1 ] || { echo "usage: test.sh PATH-OF-DEB" >&2; exit 2; }
deb=$(realpath "$1")
node=rulec-deb-test
work=$(mktemp -d)
manifest=/etc/rulec/manifests/web.yaml
readme=$(realpath "$(dirname "$0")/../../README.md")

fail() { echo "FAILED: $*" >&2; exit 1; }
say() { printf '== %s\n' "$*"; }

if dpkg -s rulec >/dev/null 2>&1; then
    fail "rulec is already installed on this machine"
fi

for path in /etc/kubernetes /var/lib/cni; do
    [ ! -e $path ] || fail "$path exists: this machine may have a kubelet"
done

cleanup() {
    [ ! -s "$work/daemon" ] || kill "$(cat "$work/daemon")" 2>/dev/null || true
    [ -z "${manager:-}" ] || kill "$manager" 2>/dev/null || true
    rm -f "$manifest"
    dpkg --purge rulec >/dev/null 2>&1 || true
    ip netns del $node 2>/dev/null || true
    rm -rf "$work" /etc/kubernetes /var/lib/cni /run/rulec
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

# Checks what the installation has done.
installed() {
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

    unit=$(dpkg -L rulec | grep 'rulec\.service$')
    systemd-analyze verify "$unit"
    # Its exposure is 2.2 of 10: root, a capability and the host's network are most of that.
    systemd-analyze security --offline=true --no-pager --threshold=22 "$unit" >"$work/exposure" ||
        fail "the unit is less confined than it was: $(cat "$work/exposure")"
    grep -q '^Type=notify$' "$unit"
}

# Returns the README's commands that install the package and what follows, a line each.
commands() {
    sed -n '/^make deb && sudo apt install/,/^```/p' "$readme" | sed '/^```/d; s/ *#.*//'
}

say "A node with a static Pod"
ip netns add $node
ip -n $node link set lo up
mkdir -p "$work/bin" "$work/user/target/debian" "$work/user/new-manifests"
chmod 755 "$work"
mkdir -p -m 700 /etc/kubernetes/manifests /var/lib/cni/results
cat >/etc/kubernetes/manifests/web.yaml <<MANIFEST
apiVersion: v1
kind: Pod
metadata: { name: web, labels: { app: web } }
spec: { containers: [{ name: web, ports: [{ name: http, containerPort: 8080 }] }] }
MANIFEST
cat >/var/lib/cni/results/net-c1-eth0 <<RECORD
{"kind": "cniCacheV1", "containerId": "c1", "ifName": "eth0", "networkName": "net",
 "cniArgs": [["K8S_POD_NAMESPACE", "default"], ["K8S_POD_NAME", "web-$(hostname)"]],
 "result": {"cniVersion": "1.0.0", "ips": [{"address": "10.50.1.7/24"}]}}
RECORD
cat >"$work/user/web.yaml" <<MANIFEST
apiVersion: v1
kind: Service
metadata: { name: web }
spec: { selector: { app: web }, ports: [{ port: 80, targetPort: http }] }
MANIFEST
sed 's/port: 80,/port: 81,/' "$work/user/web.yaml" >"$work/user/new-manifests/web.yaml"
cp "$deb" "$work/user/target/debian/"

# What the README's commands call, apart from apt and rulec: the package is built, root is there, and
# systemd is replaced.
printf '#!/bin/sh\nexec "$@"\n' >"$work/bin/sudo"
printf '#!/bin/sh\n[ "$*" = deb ]\n' >"$work/bin/make"
cat >"$work/bin/systemctl" <<SCRIPT
#!/bin/sh
set -eu
[ "\$*" = "enable --now rulec" ]
unit=\$(dpkg -L rulec | grep 'rulec\.service$')
. /etc/default/rulec
command_of() { sed -n "s/^\$1=+\\{0,1\\}//p" "\$unit" | sed "s|\\\$RULEC_OPTIONS|\$RULEC_OPTIONS|"; }
ip netns exec $node \$(command_of ExecStartPre) 2>"$work/log"
capabilities=\$(sed -n 's/^CapabilityBoundingSet=CAP_//p' "\$unit" | tr A-Z a-z)
NOTIFY_SOCKET=$work/notify ip netns exec $node setpriv --no-new-privs --inh-caps=-all \
    --bounding-set=-all,+\$capabilities \$(command_of ExecStart) 2>>"$work/log" &
echo \$! >"$work/daemon"
# As for a unit of type notify.
for _ in \$(seq 100); do
    ! grep -q READY=1 "$work/heard" || exit 0
    sleep 0.1
done
cat "$work/log"
exit 1
SCRIPT
chmod 755 "$work/bin/"*
socat -u UNIX-RECV:"$work/notify",mode=777 CREATE:"$work/heard" &
manager=$!
wait_for test -S "$work/notify"

rules() { ip netns exec $node nft list table ip rulec; }
served() { rules | grep -q '10\.50\.1\.7 \. 8080'; }

say "The README's commands"
cd "$work/user"
commands >"$work/commands"
[ "$(wc -l <"$work/commands")" -ge 4 ] || fail "the README has no such commands"
while read -r line; do
    say "$ $line"
    status=0
    PATH=$work/bin:$PATH sh -c "$line" </dev/null >"$work/said" 2>&1 || status=$?
    cat "$work/said"
    case "$line" in
    "rulec diff "*)
        [ $status = 1 ] || fail "the exit status is $status"
        grep -q ":81/TCP" "$work/said" || fail "the change is not shown"
        ;;
    *) [ $status = 0 ] || fail "the exit status is $status" ;;
    esac
    case "$line" in
    *"apt install"*) installed ;;
    *"cp web.yaml"*) wait_for served ;;
    *"show services"*)
        grep -q "^default  *web  *ClusterIP  *10\.96\..* 1/1" "$work/said" ||
            fail "the Service is not shown"
        ;;
    esac
done <"$work/commands"

say "What is served"
wait_for served
rules | grep -q '10\.96\.[0-9.]* . tcp . 80' || fail "the Service has no address"

say "Stop"
daemon=$(cat "$work/daemon")
kill "$daemon"
: >"$work/daemon"
stopped() { ! kill -0 "$daemon"; }
wait_for stopped
grep -q STOPPING=1 "$work/heard" || fail "the daemon did not send STOPPING=1"
rules >/dev/null || fail "the rules were removed when the daemon stopped"
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
