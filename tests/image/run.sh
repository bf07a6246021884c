#!/bin/bash
# Runs an image with podman, with the options in a file, one a line, and prints as JSON what can be seen
# of its daemon. To be called in network, mount and process namespaces of its own: all that it starts ends
# with it.
set -euo pipefail

image=$1 options=$2
work=$(mktemp -d)
trap 'umount -R "$work" 2>/dev/null || true; rm -rf "$work"' EXIT
fail() { echo "FAILED: $*" >&2; exit 1; }

. "$(dirname "$0")/../../deploy/demo/podman-config.sh"
mount -t cgroup2 none /sys/fs/cgroup

mkdir "$work/manifests" "$work/state"
cat >"$work/manifests/web.yaml" <<'MANIFEST'
apiVersion: v1
kind: Service
metadata: { name: web }
spec: { clusterIP: 10.96.0.10, ports: [{ port: 80 }] }
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: { name: web, labels: { kubernetes.io/service-name: web } }
addressType: IPv4
ports: [{ name: "", port: 8080 }]
endpoints: [{ addresses: [10.50.1.7] }]
MANIFEST

mapfile -t rights <"$options"
podman load --quiet --input "$image" >"$work/loaded" 2>"$work/error" || fail "$(cat "$work/error")"
id=$(podman images --quiet)
[ -n "$id" ] || fail "podman has loaded no image: $(cat "$work/loaded")"
podman run --detach --name rulec --network=none "${rights[@]}" \
    --volume "$work/manifests:/manifests:ro" --volume "$work/state:/var/lib/rulec" \
    --tmpfs /run/rulec "$id" \
    run --manifests=/manifests --node-name=node-a --state-dir=/var/lib/rulec \
    >/dev/null 2>"$work/error" || fail "$(cat "$work/error")"
for _ in $(seq 300); do
    podman exec rulec rulec status >"$work/said" 2>"$work/error" && break
    sleep 0.2
done
pid=$(podman inspect --format '{{.State.Pid}}' rulec)
[ -e "/proc/$pid/status" ] || fail "the daemon does not run: $(podman logs rulec 2>&1)"
nsenter --net="/proc/$pid/ns/net" nft list table ip rulec >"$work/table" ||
    fail "there is no table: $(podman logs rulec 2>&1)"
python3 - "$pid" "$work" <<'SCRIPT'
import json, pathlib, sys

process, work = pathlib.Path("/proc", sys.argv[1]), pathlib.Path(sys.argv[2])
status = dict(line.split(":", 1) for line in (process / "status").read_text().splitlines())
mounts = [line.split() for line in (process / "mounts").read_text().splitlines()]
facts = {
    "status": {name: value.strip() for name, value in status.items()},
    "root": next(mount[3] for mount in mounts if mount[1] == "/"),
    "table": (work / "table").read_text(),
    "said": (work / "said").read_text(),
}
print(json.dumps(facts))
SCRIPT
podman rm --force --time 10 rulec >/dev/null
