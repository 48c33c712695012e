#!/usr/bin/env bash
# Installs from Debian what the tests against real peers need and this machine lacks: DPDK, QEMU, a guest kernel and small tools.
set -euo pipefail
# shellcheck source=scripts/env.sh
source "$(dirname "$0")/env.sh"

mapfile -t packages < <("$DENO" run --quiet --allow-all "$ROOT/tests/real/peers.ts")
[[ -x /usr/bin/qemu-aarch64-static ]] || packages+=(qemu-user-static)
[[ ${#packages[@]} -eq 0 ]] && exit 0
if ! command -v apt-get >/dev/null; then
  say "peers: this host lacks, and has no apt-get to bring: ${packages[*]}"
elif [[ "$(id -u)" -ne 0 ]]; then
  say "peers: tests that need one of these are left out. To bring them: sudo apt-get install --no-install-recommends ${packages[*]}"
else
  say "peers: installing from Debian, as root, for the tests: ${packages[*]}"
  export DEBIAN_FRONTEND=noninteractive
  apt-get update -q >&2 || say "peers: apt-get update failed: going on with the package lists that are here"
  apt-get install -q -y --no-install-recommends "${packages[@]}" >&2 || say "peers: apt-get could not install them: see its message above"
fi
