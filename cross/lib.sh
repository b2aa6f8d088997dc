# shellcheck shell=bash disable=SC2034
# Shared by the scripts of this folder; to be sourced. It knows where things are and what the targets are.

version() { sed -n '/^\[workspace.package\]/,/^\[/s/^version = "\(.*\)"/\1/p' "$ROOT/Cargo.toml"; }

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# Tools live outside the clone, so that every clone finds them again.
CACHE=${MUSTER_CROSS_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/muster-cross}
TARGET_DIR=${CARGO_TARGET_DIR:-$ROOT/target}
DIST=${MUSTER_DIST:-$ROOT/dist}
VENV=$CACHE/venv
# The oldest C library that the armv7 binary asks for: Debian 10 and Raspberry Pi OS of 2019.
GLIBC=2.28

TARGETS=(aarch64-unknown-linux-musl armv7-unknown-linux-gnueabihf x86_64-unknown-linux-musl)

die() { echo "error: $*" >&2; exit 1; }
say() { echo "$*" >&2; }

# The comment block at the head of the calling script, as its help.
help() { sed -n '2,/^[^#]/{/^#/!d;s/^# \{0,1\}//p}' "$0"; }

known() {
  local target
  for target in "${TARGETS[@]}"; do [ "$target" = "$1" ] && return; done
  say "error: $1 is no target of this workspace; the targets are: ${TARGETS[*]}"
  exit 64
}

# A binary of `cross/build`, by program and target.
built() { echo "$DIST/$1-$(version)-$2"; }
