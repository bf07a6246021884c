# Two commands do everything on a fresh Debian machine with a Rust toolchain (https://rustup.rs):
#
#   make demo   install what is needed, build, and run the demonstration
#   make test   install what is needed, and run all tests
#
# Both need root: they create network namespaces and program the kernel. A third one is for
# packagers:
#
#   make deb    install what is needed, and build the Debian package in target/debian

PACKAGES = build-essential pkg-config libmnl-dev libnftnl-dev iproute2 procps nftables iptables conntrack socat

CARGO_DEB = 3.8.0

.PHONY: demo test build setup bench deb

demo: build
	deploy/demo/demo.sh target/release/rulec

test: setup
	cargo test --workspace --locked

build: setup
	cargo build --release --locked

bench: setup
	cargo bench --locked --bench figures --bench api --bench packets
	tests/vm/run --bench

# cargo-deb is built on first use. Its own build would not create the man pages and completions.
deb: build
	@target/tools/bin/cargo-deb --version 2>/dev/null | grep -qF $(CARGO_DEB) || \
		cargo install cargo-deb --version $(CARGO_DEB) --locked --root target/tools
	rm -rf target/deb && mkdir -p target/deb/completions
	cargo run --locked --example man -- target/deb/man
	target/release/rulec completions bash >target/deb/completions/rulec.bash
	target/release/rulec completions zsh >target/deb/completions/_rulec
	target/release/rulec completions fish >target/deb/completions/rulec.fish
	target/tools/bin/cargo-deb --locked --no-build

# Runs the package manager only if something is missing.
setup:
	@command -v cargo >/dev/null || { echo "cargo is missing: install Rust (https://rustup.rs)" >&2; exit 1; }
	@dpkg -s $(PACKAGES) >/dev/null 2>&1 || { \
		apt-get update -q && \
		DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends $(PACKAGES); }
