#!/bin/sh
# The demonstration in the README: a node with three Pods in separate network namespaces, a
# directory of manifests, and `rulec run` between them. Takes the path of the rulec binary; needs
# root, ip (iproute2) and socat. Changes nothing outside its namespaces and one temporary directory.
set -eu

rulec=$(realpath "${1:?usage: demo.sh PATH-OF-RULEC}")
here=$(dirname "$(realpath "$0")")
node=rulec-demo-node
work=$(mktemp -d)
export RULEC_SOCKET="$work/rulec.sock"
manifests=$work/manifests

cleanup() {
    [ -z "${daemon:-}" ] || kill "$daemon" 2>/dev/null || true
    for namespace in $node rulec-demo-pod1 rulec-demo-pod2 rulec-demo-pod3; do
        ip netns pids $namespace 2>/dev/null | xargs -r kill 2>/dev/null || true
        ip netns del $namespace 2>/dev/null || true
    done
    rm -rf "$work"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

say() { printf '\n== %s\n' "$*"; }
show() { printf '$ %s\n' "$*"; "$@"; }
on_node() { ip netns exec $node "$@"; }

# Connects to an address a number of times, and counts the answers.
ask() {
    for _ in $(seq "$2"); do
        on_node socat -T2 - "TCP:$1:80,connect-timeout=2" </dev/null 2>&1 |
            sed 's/.*Connection refused.*/connection refused/' | sort -u
    done | sort | uniq -c | sed 's/^ */  /'
}

# Waits until the daemon has committed a number of times.
committed() {
    for _ in $(seq 100); do
        [ "$(grep -c committed "$work/log")" -lt "$1" ] || return 0
        sleep 0.05
    done
    echo "rulec did not commit in time; its log:" >&2
    cat "$work/log" >&2
    exit 1
}

say "A node and three Pods, each in a network namespace"
ip netns add $node
on_node ip link set lo up
on_node sysctl -qw net.ipv4.ip_forward=1
for i in 1 2 3; do
    pod=rulec-demo-pod$i
    ip netns add $pod
    ip -n $node link add pod$i type veth peer name eth0 netns $pod
    ip -n $node addr add 169.254.1.1/32 dev pod$i
    ip -n $node link set pod$i up
    ip -n $pod link set lo up
    ip -n $pod link set eth0 up
    ip -n $pod addr add 10.244.0.$i/32 dev eth0
    ip -n $pod route add 169.254.1.1 dev eth0
    ip -n $pod route add default via 169.254.1.1
    ip -n $node route add 10.244.0.$i dev pod$i
    ip netns exec $pod socat TCP-LISTEN:8080,fork,reuseaddr "SYSTEM:echo web-$i" &
done
# Packets to Services need a route before they can be translated.
ip -n $node route add default dev pod1
echo "Pods web-1, web-2, web-3 at 10.244.0.1, .2, .3 answer with their names."

say "The manifests"
cp -r "$here/manifests" "$manifests"
show ls "$manifests"

say "rulec diff: what rulec run would change"
on_node "$rulec" diff --to "$manifests" --node-name demo || true

say "rulec run"
echo "$ rulec run --manifests $manifests --node-name demo --cluster-cidr 10.244.0.0/16 &"
ip netns exec $node "$rulec" run --manifests "$manifests" --node-name demo \
    --cluster-cidr 10.244.0.0/16 2>"$work/log" &
daemon=$!
committed 1
cat "$work/log"

say "30 connections to Service web (10.96.0.10:80)"
ask 10.96.0.10 30
say "10 connections of one client to Service web-sticky (10.96.0.11:80)"
ask 10.96.0.11 10
say "A connection to Service nobody (10.96.0.12:80), which has no endpoints"
ask 10.96.0.12 1

say "The file is edited: Pod web-2 is no longer ready"
cp -r "$manifests" "$work/before"
sed 's/  name: web-2/&/; /10.244.0.2/a\  conditions:\n    - type: Ready\n      status: "False"' \
    "$manifests/pods.yaml" >"$work/pods.yaml"
echo "$ rulec diff --from before --to after"
mkdir "$work/after"
cp "$manifests/web.yaml" "$work/pods.yaml" "$work/after/"
(cd "$work" && "$rulec" diff --from before --to after --node-name demo) || true
mv "$work/pods.yaml" "$manifests/pods.yaml"
committed 2
tail -n 1 "$work/log"

say "30 connections to Service web"
ask 10.96.0.10 30

say "A comment is added to the file: rulec commits nothing"
echo '# just a comment' >>"$manifests/pods.yaml"
sleep 0.5
echo "commits so far: $(grep -c committed "$work/log")"

say "rulec stops, its rules stay: 10 connections to Service web"
kill "$daemon"
wait "$daemon" 2>/dev/null || true
daemon=
tail -n 1 "$work/log"
ask 10.96.0.10 10

say "The rules still match the manifests: a restart would write nothing"
on_node "$rulec" diff --to "$manifests" --node-name demo --cluster-cidr 10.244.0.0/16

say "rulec cleanup"
on_node "$rulec" cleanup
ask 10.96.0.10 1 | grep -q web && { echo "rules are left"; exit 1; } || echo "All rules are gone."
