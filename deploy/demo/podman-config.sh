# For scripts that have a podman of their own: writes its configuration into $work, and names it to
# podman. The runtime is called without cgroups and with modest limits, because a sandbox may allow
# neither.

cat >"$work/runtime" <<'SCRIPT'
#!/bin/bash
args=()
for arg in "$@"; do
    case $arg in --cgroup-manager=* | --systemd-cgroup) ;; *) args+=("$arg") ;; esac
done
exec crun --cgroup-manager=disabled "${args[@]}"
SCRIPT
chmod 755 "$work/runtime"
cat >"$work/containers.conf" <<CONF
[containers]
default_ulimits = ['nofile=1024:1024', 'nproc=1000:1000']
[network]
network_backend = 'netavark'
network_config_dir = '$work/networks'
[engine]
events_logger = 'file'
cgroup_manager = 'cgroupfs'
runtime = 'modest'
tmp_dir = '$work/tmp'
[engine.runtimes]
modest = ['$work/runtime']
CONF
cat >"$work/storage.conf" <<CONF
[storage]
driver = 'vfs'
graphroot = '$work/images'
runroot = '$work/run'
CONF
export CONTAINERS_CONF="$work/containers.conf" CONTAINERS_STORAGE_CONF="$work/storage.conf"
