# shellcheck shell=bash
# Sourced after env.sh. Builds libvring for one instruction set level into build/ when it is stale, and names the level of this CPU.
# Stale means: the key beside the library is not the hash of every Zig source but the launcher's, of the compiler's pin and of this file.

# The level of this CPU, by the flags that the x86-64 psABI lists for each.
cpu_level() {
  local flags level="x86_64_v2" flag
  [[ "$(uname -m)" == aarch64 ]] && { printf 'aarch64\n'; return; }
  flags=" $(grep -m 1 '^flags' /proc/cpuinfo | cut -d: -f2) "
  for flag in avx avx2 bmi1 bmi2 f16c fma abm movbe xsave; do [[ "$flags" == *" $flag "* ]] || { printf '%s\n' "$level"; return; }; done
  level="x86_64_v3"
  for flag in avx512f avx512bw avx512cd avx512dq avx512vl; do [[ "$flags" == *" $flag "* ]] || { printf '%s\n' "$level"; return; }; done
  printf 'x86_64_v4\n'
}

source_key() {
  local key
  read -r key _ < <(cd "$ROOT" && GLOBIGNORE='zig/launcher*' && sha256sum zig/*.zig tools.lock scripts/library.sh | sha256sum)
  printf '%s\n' "$key"
}

# library LEVEL KEY: builds build/libvring-LEVEL.so unless its key is KEY already. Two at once are safe: one builds, the other waits.
library() {
  local level="$1" key="$2" file="$ROOT/build/libvring-$1.so" built temporary target="x86_64-linux-gnu.2.27" processor="$1"
  [[ -r "$file.key" && -e "$file" ]] && read -r built <"$file.key" && [[ "$built" == "$key" ]] && return
  [[ "$level" == aarch64 ]] && target="aarch64-linux-gnu.2.27" processor="generic"
  mkdir -p "$ROOT/build"
  exec 8>"$ROOT/build/$level.lock"
  flock -n 8 || { say "build: waiting for another build of libvring for $level"; flock 8; }
  if ! { [[ -r "$file.key" && -e "$file" ]] && read -r built <"$file.key" && [[ "$built" == "$key" ]]; }; then
    say "build: libvring for $level"
    temporary="$(mktemp -d "$ROOT/build/building.XXXXXX")"
    if ! "$ZIG" build-lib -dynamic -O ReleaseSafe -fstrip -lc -target "$target" -mcpu "$processor" -z nodelete --name vring \
      -femit-bin="$temporary/libvring.so" "$ROOT/zig/lib.zig" >&2; then
      rm -rf "$temporary"
      exec 8>&-
      say "build: libvring does not compile: see the messages above"
      return 1
    fi
    rm -f "$file.key"
    mv "$temporary/libvring.so" "$file"
    printf '%s\n' "$key" >"$file.key"
    rm -rf "$temporary"
  fi
  exec 8>&-
}
