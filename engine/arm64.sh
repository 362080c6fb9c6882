#!/usr/bin/env bash
# Tests the kernels and the core for arm64 on x86-64 Linux, under qemu's user mode. `make test-arm64` calls it.
#
# The compiler is rustup's if it has, or can fetch, the target; else Debian's `rustc-web`, unpacked once into the user's
# cache, which outlives a clone; nothing of the system is changed. It refuses to know what is tested: arguments go to
# `cargo test`.
set -euo pipefail
cd "$(dirname "$0")/.."

TARGET=aarch64-unknown-linux-gnu
PLACE=${XDG_CACHE_HOME:-$HOME/.cache}/agentlm/arm64
RUST=$PLACE/rust

missing=()
command -v aarch64-linux-gnu-gcc >/dev/null || missing+=(gcc-aarch64-linux-gnu libc6-dev-arm64-cross)
qemu=$(command -v qemu-aarch64-static || command -v qemu-aarch64) || missing+=(qemu-user-static)
if [ ${#missing[@]} -gt 0 ]; then
  echo "install ${missing[*]}, then try again" >&2
  exit 1
fi

has_target() {
  local libraries
  libraries=$(rustc --print target-libdir --target "$TARGET" 2>/dev/null) && compgen -G "$libraries/libstd-*" >/dev/null
}

# Debian's compiler, with the standard libraries of both architectures.
unpack_debian() {
  [ -f "$RUST/.done" ] && return
  mkdir -p "$PLACE"/{lists/partial,cache/archives/partial,debs} "$RUST"
  : >"$PLACE/status"
  # Lists of its own: the system's know arm64 only where it was added there.
  cat >"$PLACE/apt.conf" <<CONF
Dir::State::Lists "$PLACE/lists";
Dir::State::status "$PLACE/status";
Dir::Cache "$PLACE/cache";
APT::Architectures { "amd64"; "arm64"; };
APT::Sandbox::User "root";
CONF
  apt-get -c "$PLACE/apt.conf" update -qq
  local version packages
  version=$(apt-cache -c "$PLACE/apt.conf" policy rustc-web | sed -n 's/.*Candidate: \([0-9]*\.[0-9]*\)\..*/\1/p')
  packages=(rustc-web "libstd-rust-web-$version" libstd-rust-web-dev libstd-rust-web-dev:arm64 libedit2 libz3-4)
  local llvm
  llvm=$(apt-cache -c "$PLACE/apt.conf" depends "libstd-rust-web-$version" | grep -o 'libllvm[0-9]*$' | head -n 1)
  (cd "$PLACE/debs" && apt-get -c "$PLACE/apt.conf" download -qq "${packages[@]}" "$llvm")
  for package in "$PLACE"/debs/*.deb; do dpkg-deb -x "$package" "$RUST"; done
  rm -r "$PLACE"/{debs,lists,cache}
  touch "$RUST/.done"
}

if ! has_target && ! rustup target add "$TARGET" >/dev/null 2>&1; then
  command -v apt-get >/dev/null || { echo "no Rust for $TARGET: rustup cannot fetch it, and there is no apt-get" >&2; exit 1; }
  unpack_debian
  export RUSTC=$RUST/usr/bin/rustc
  # Its LLVM lies beside it.
  LD_LIBRARY_PATH=$RUST/usr/lib/x86_64-linux-gnu:$(dirname "$(find "$RUST/usr/lib" -name 'libLLVM*.so*' | head -n 1)")
  export LD_LIBRARY_PATH
fi

# A directory of its own: another compiler's builds would be thrown away at each change.
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$PWD/target}/arm64
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER="$qemu -L /usr/aarch64-linux-gnu"
exec cargo test --locked --target "$TARGET" -p agentlm-core -p agentlm-cpu "$@"
