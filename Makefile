# Two commands do everything on a fresh Debian machine with a Rust toolchain (https://rustup.rs):
#
#   make demo   install what is needed, build, and run the demonstration
#   make test   install what is needed, and run all tests
#
# Both need root: they make network namespaces and talk to the kernel.

PACKAGES = build-essential pkg-config libmnl-dev libnftnl-dev iproute2 procps nftables conntrack socat

.PHONY: demo test build setup bench

demo: build
	deploy/demo/demo.sh target/release/rulec

test: setup
	cargo test --workspace --locked

build: setup
	cargo build --release --locked

bench: setup
	cargo bench --locked --bench figures

# Asks the package manager only if something is missing.
setup:
	@command -v cargo >/dev/null || { echo "cargo is missing: install Rust (https://rustup.rs)" >&2; exit 1; }
	@dpkg -s $(PACKAGES) >/dev/null 2>&1 || { \
		apt-get update -q && \
		DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends $(PACKAGES); }
