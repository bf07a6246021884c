#!/bin/sh
# A demonstration of a node without an API server: podman runs containers, or a kubelet static Pods if
# TEST_ASSET_KUBELET names the program, and Services without addresses reach them by name. Takes the
# path of the rulec binary; needs root, dnsmasq, socat, iproute2, busybox (static) and podman, crun and
# netavark, or what tests/kubelet/node needs. Network, mounts, processes, images and containers are
# its own: it changes nothing outside of one temporary directory.
set -eu

rulec=$(realpath "${1:?usage: node.sh PATH-OF-RULEC}")
here=$(dirname "$(realpath "$0")")
if [ -z "${RULEC_DEMO:-}" ]; then
    RULEC_DEMO=$(mktemp -d)
    export RULEC_DEMO
    trap 'rm -rf "$RULEC_DEMO"' EXIT
    trap 'exit 130' INT TERM
    # What runs in these namespaces ends with them.
    unshare --net --mount --pid --fork --kill-child --mount-proc "$0" "$rulec"
    exit
fi
work=$RULEC_DEMO manifests=$RULEC_DEMO/manifests names=$RULEC_DEMO/names

say() { printf '\n== %s\n' "$*"; }
show() { printf '$ %s\n' "$*"; "$@"; }

# Waits until a command succeeds.
wait_for() {
    for _ in $(seq 600); do
        ! "$@" >/dev/null 2>&1 || return 0
        sleep 0.05
    done
    echo "timed out waiting for: $*; the logs:" >&2
    tail -n 20 "$work"/*log >&2
    exit 1
}

cleanup() {
    end
    for process in "${daemon:-}" "${dnsmasq:-}"; do
        [ -z "$process" ] || kill "$process" 2>/dev/null || true
    done
    wait
}

if [ -n "${TEST_ASSET_KUBELET:-}" ]; then
    . "$here/kubelet.sh"
else
    . "$here/podman.sh"
fi
export RULEC_SOCKET="$work/rulec.sock"
trap cleanup EXIT
trap 'exit 130' INT TERM

mkdir "$manifests" "$names"
mount -t cgroup2 none /sys/fs/cgroup
echo 'nameserver 127.0.0.1' >"$work/resolv.conf"
mount --bind "$work/resolv.conf" /etc/resolv.conf
ip link set lo up
begin

say "rulec run: no API server, no addresses"
echo "$ rulec run --manifests manifests $found --service-route --hosts-file names/hosts &"
"$rulec" run --manifests "$manifests" $(options) --service-route --hosts-file "$names/hosts" \
    --node-name na 2>"$work/log" &
daemon=$!
wait_for grep -q 'in sync with all sources' "$work/log"
dnsmasq --keep-in-foreground --conf-file=/dev/null --user=root --no-hosts --no-resolv \
    --interface=lo --interface=$bridge --bind-dynamic --hostsdir="$names" 2>"$work/dnsmasq.log" &
dnsmasq=$!

say "Three servers that answer with their names, and a client"
for i in 1 2 3; do
    add web-$i
done
add_client

say "A Service is added"
cat >"$work/web.yaml" <<'MANIFEST'
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  selector: {app: web}
  ports: [{port: 80, targetPort: 8080}]
MANIFEST
mv "$work/web.yaml" "$manifests/web.yaml"
show cat "$manifests/web.yaml"
wait_for grep -q 'web\.default' "$names/hosts"
show cat "$names/hosts"
served() { "$rulec" show services | grep -q ' 3/3'; }
wait_for served
echo '$ rulec show endpoints web'
"$rulec" show endpoints web

# Connects to a name a number of times, and counts the answers.
ask() {
    for _ in $(seq "$2"); do
        socat -T2 - "TCP4:$1:80,connect-timeout=2" </dev/null 2>&1
    done | sort | uniq -c | sed 's/^ */  /'
}
ask_in_container() {
    for _ in $(seq "$2"); do
        in_client /bin/busybox nc "$1" 80 </dev/null 2>&1
    done | sort | uniq -c | sed 's/^ */  /'
}

say "30 connections from the node, by name"
wait_for socat -T2 - TCP4:web.default.svc.cluster.local:80,connect-timeout=2
ask web.default.svc.cluster.local 30
say "10 connections from a container, by name"
ask_in_container web.default.svc.cluster.local 10

say "One goes"
take web-2
wait_for grep -q 'default/web: −1 backend' "$work/log"
grep 'default/web' "$work/log" | tail -n 1
ask web.default.svc.cluster.local 30

say "It is back, and has another address"
added() { grep -c 'default/web: +1 backend' "$work/log" || true; }
before=$(added)
put_back web-2
one_more() { [ "$(added)" -gt "$before" ]; }
wait_for one_more
grep 'default/web' "$work/log" | tail -n 1
ask web.default.svc.cluster.local 30

# The processor time of rulec so far, in ticks: fields 14 and 15 of proc(5).
ticks() { awk '{ print $14 + $15 }' "/proc/$daemon/stat"; }
sleep 2
before=$(ticks)
sleep 2
say "Processor time of rulec in two seconds without a change: $(($(ticks) - before)) ticks of 10 ms"

say "rulec stops, and its rules and its route are removed"
kill "$daemon"
wait "$daemon" 2>/dev/null || true
daemon=
show "$rulec" cleanup
