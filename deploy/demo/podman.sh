# podman for node.sh, with a configuration, images and containers of its own.

bridge=podman0 gateway=10.88.0.1 found="--podman"

begin() {
    . "$here/podman-config.sh"
    socket=$work/podman.sock
    podman="podman --remote --url unix://$socket"
    podman system service --time 0 "unix://$socket" 2>"$work/podman.log" &
    service=$!
    wait_for $podman info
    mkdir -p "$work/image/bin"
    cp /bin/busybox "$work/image/bin/"
    tar -C "$work/image" -cf "$work/image.tar" .
    $podman import "$work/image.tar" localhost/busybox:latest >/dev/null 2>&1
}

end() {
    $podman rm --all --force --time 0 >/dev/null 2>&1 || true
    [ -z "${service:-}" ] || kill "$service" 2>/dev/null || true
}

# What rulec needs to know of a podman that is not the system's.
options() { echo "--podman --podman-socket $socket"; }

add() {
    echo "$ podman run --detach --name $1 --label app=web localhost/busybox:latest ..."
    $podman run --detach --name "$1" --label app=web localhost/busybox:latest \
        /bin/busybox nc -ll -p 8080 -e /bin/busybox echo "$1" >/dev/null
}

add_client() {
    $podman run --detach --name client --dns $gateway localhost/busybox:latest \
        /bin/busybox sleep 1000 >/dev/null
}

in_client() { $podman exec client "$@"; }

take() {
    echo "$ podman kill $1"
    $podman kill "$1" >/dev/null
}

put_back() {
    echo "$ podman start $1"
    $podman start "$1" >/dev/null
}
