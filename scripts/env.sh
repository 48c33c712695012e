# shellcheck shell=bash
# Sourced by the other scripts. Provides the pinned Deno and Zig and the npm packages, all verified by hash and kept in .tools/.
# Sets ROOT, DENO, ZIG, DENO_DIR, ZIG_GLOBAL_CACHE_DIR and ZIG_LOCAL_CACHE_DIR. A Deno or Zig named by $DENO or $ZIG
# is used instead where it is of the pinned version. Where packages come from is the business of pip's and npm's own configuration.

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)"
export ROOT

say() { printf '%s\n' "$*" >&2; }

# A host that lacks something ends the program with 3, as every command of vhostctl does.
lacking() {
  say "$@"
  exit 3
}

pinned_version() { sed -n "s/^$1==\([^ ]*\).*/\1/p" "$ROOT/tools.lock"; }

# Succeeds when program $1, asked for its version with the other arguments, is of the pinned version of package $2.
is_pinned() {
  local program="$1" package="$2"
  shift 2
  [[ -x "$program" ]] && "$program" "$@" 2>/dev/null | head -n 1 | grep -qFw "$(pinned_version "$package")"
}

install_compilers() {
  local target="$1" temporary
  command -v python3 >/dev/null || lacking "set-up: no python3: install it (on Debian: apt-get install python3-pip)"
  python3 -m pip --version >/dev/null 2>&1 || lacking "set-up: python3 has no pip: install it (on Debian: apt-get install python3-pip)"
  say "set-up: installing Deno $(pinned_version deno) and Zig $(pinned_version ziglang) into ${target#"$ROOT"/} (once; about 0.5 GB)"
  temporary="$(mktemp -d "$ROOT/.tools/installing.XXXXXX")"
  if ! PIP_ROOT_USER_ACTION=ignore python3 -m pip install --quiet --disable-pip-version-check --no-cache-dir --require-hashes \
    --only-binary :all: --no-deps --target "$temporary" -r "$ROOT/tools.lock" >&2; then
    rm -rf "$temporary"
    lacking "set-up: pip could not install what tools.lock names: see its message above"
  fi
  chmod 755 "$temporary"
  mv -T "$temporary" "$target"
}

install_packages() {
  local stamp="$1"
  say "set-up: fetching the npm packages of deno.lock"
  (cd "$ROOT" && "$DENO" install --quiet --frozen >&2) || lacking "set-up: Deno could not fetch what deno.lock names: see its message above"
  touch "$stamp"
}

set_up() {
  local key rest tools stamp
  read -r key rest < <(sha256sum <"$ROOT/tools.lock")
  tools="$ROOT/.tools/${key:0:16}"
  read -r key rest < <(cat "$ROOT/deno.lock" "$ROOT/tools.lock" | sha256sum)
  stamp="$ROOT/.tools/deno/packages-${key:0:16}"
  export DENO_DIR="$ROOT/.tools/deno" DENO_NO_UPDATE_CHECK=1
  export ZIG_GLOBAL_CACHE_DIR="$ROOT/.tools/zig" ZIG_LOCAL_CACHE_DIR="$ROOT/.tools/zig"
  if [[ "${VHOSTCTL_TOOLS:-}" != "$tools" ]]; then
    is_pinned "${DENO:-}" deno --version || DENO="$tools/bin/deno"
    is_pinned "${ZIG:-}" ziglang version || ZIG="$tools/ziglang/zig"
  fi
  export DENO ZIG VHOSTCTL_TOOLS="$tools"
  [[ -x "$DENO" && -x "$ZIG" && -e "$stamp" ]] && return
  mkdir -p "$DENO_DIR" "$ZIG_GLOBAL_CACHE_DIR"
  # Whoever comes second waits here, and then finds the work done.
  exec 9>"$ROOT/.tools/lock"
  flock -n 9 || { say "set-up: waiting for another set-up of this directory"; flock 9; }
  rm -rf "$ROOT"/.tools/installing.*
  [[ -x "$DENO" && -x "$ZIG" ]] || [[ -d "$tools" ]] || install_compilers "$tools"
  [[ -e "$stamp" ]] || install_packages "$stamp"
  exec 9>&-
}

set_up
