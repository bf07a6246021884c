# A real kubelet for node.sh, whose static Pods containerd runs.

bridge=cni0 gateway=10.89.0.1 found="--kubelet"

begin() {
    node=$work/node
    mkdir "$node" "$work/pods"
    "$here/../../tests/kubelet/node" "$TEST_ASSET_KUBELET" "$node" 2>"$work/node.log" &
    service=$!
    wait_for test -S "$node/root/pods-api/pods-api.sock"
}

end() { [ -z "${service:-}" ] || kill -KILL "$service" 2>/dev/null || true; }

# What rulec needs to know of a kubelet that has other directories than usual.
options() {
    echo "--kubelet --kubelet-root-dir $node/root --pod-manifest-path $node/manifests --cni-cache="
}

add() {
    cat >"$work/pods/$1.yaml" <<MANIFEST
apiVersion: v1
kind: Pod
metadata: {name: $1, labels: {app: web}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: web
    image: localhost/busybox:latest
    imagePullPolicy: Never
    command: [/bin/busybox, nc, -ll, -p, '8080', -e, /bin/busybox, echo, $1]
MANIFEST
    put_back "$1"
}

add_client() {
    cat >"$node/manifests/client.yaml" <<MANIFEST
apiVersion: v1
kind: Pod
metadata: {name: client}
spec:
  dnsPolicy: None
  dnsConfig: {nameservers: [$gateway]}
  containers:
  - name: client
    image: localhost/busybox:latest
    imagePullPolicy: Never
    command: [/bin/busybox, sleep, '1001']
MANIFEST
    wait_for client
}

client() { pgrep -f '^/bin/busybox sleep 1001$'; }

in_client() { nsenter --target "$(client)" --net --mount "$@"; }

take() { show rm "$node/manifests/$1.yaml"; }

put_back() { show cp "$work/pods/$1.yaml" "$node/manifests/"; }
