# Two commands do everything on a fresh Debian machine with a Rust toolchain (https://rustup.rs):
#
#   make demo   install what is needed, build, and run the demonstration
#   make test   install what is needed, and run all tests
#
# Both need root: they create network namespaces and program the kernel. More are for nodes
# without an API server, and for packagers:
#
#   make demo-node
#               install what is needed, build, and run the demonstration with podman, or with the
#               kubelet that TEST_ASSET_KUBELET names
#   make deb    install what is needed, and build the Debian package in target/debian
#   make image  install what is needed, and make the image, target/rulec.oci.tar
#   make release
#               install what is needed, and make the files of a release, in target/dist/release

PACKAGES = build-essential pkg-config libmnl-dev libnftnl-dev iproute2 procps nftables iptables conntrack socat dnsmasq-base podman crun netavark catatonit busybox-static ethtool valgrind

ifdef TEST_ASSET_KUBELET
PACKAGES += containerd containernetworking-plugins
endif

CARGO_DEB = 3.8.0

.PHONY: demo demo-node test build setup bench deb deb-tool deb-files image release

demo: build
	deploy/demo/demo.sh target/release/rulec

demo-node: build
	deploy/demo/node.sh target/release/rulec

test: setup
	cargo test --workspace --locked --no-fail-fast

build: setup
	cargo build --release --locked

bench: setup
	cargo bench --locked --bench changes --bench figures --bench api --bench packets --bench pods \
		--bench fleet
	tests/vm/run --bench

# Its own build would not create the man pages and completions.
deb: deb-tool deb-files
	rm -f target/debian/rulec_*.deb
	target/tools/bin/cargo-deb --locked --no-build

# Built on first use.
deb-tool:
	deploy/release/tool cargo-deb $(CARGO_DEB)

deb-files: build
	rm -rf target/deb && mkdir -p target/deb/completions
	cargo run --locked --example man -- target/deb/man
	target/release/rulec completions bash >target/deb/completions/rulec.bash
	target/release/rulec completions zsh >target/deb/completions/_rulec
	target/release/rulec completions fish >target/deb/completions/rulec.fish

# For this architecture; deploy/release/build names others.
release: setup
	deploy/release/build
	deploy/release/assemble

# The libraries of this machine are put into it: deploy/image/README.md.
image: build
	deploy/image/build --output target/rulec.oci.tar $$(dpkg --print-architecture)=target/release/rulec

# Runs the package manager only if something is missing.
setup:
	@command -v cargo >/dev/null || { echo "cargo is missing: install Rust (https://rustup.rs)" >&2; exit 1; }
	@dpkg -s $(PACKAGES) >/dev/null 2>&1 || { \
		apt-get update -q && \
		DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends $(PACKAGES); }
