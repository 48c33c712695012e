# shellcheck shell=bash
# Sourced after library.sh and permissions.sh. Builds dist/vhostctl: our launcher, and behind it the Deno runtime, compressed,
# the bundled program and the libraries. What takes long, compressing, is done again only for another runtime.

# The program as one JavaScript file. `deno bundle` would fetch esbuild by itself, unverified: a proxy that is not there stops it,
# and the package that deno.lock pins is found in its place.
bundle() {
  local output="$1"
  if ! HTTPS_PROXY=http://127.0.0.1:1 NO_PROXY='' no_proxy='' "$DENO" bundle --quiet --config "$ROOT/deno.json" --frozen-lockfile \
    --output "$output" "$ROOT/cli/main.ts" >&2; then
    say "build: the program cannot be bundled: see the messages above; where they name @esbuild: pin the version they ask for in deno.json"
    return 1
  fi
}

# compile OUTPUT NAME FLAG...: one of our programs, stripped.
compile() {
  local output="$1" name="$2"
  shift 2
  "$ZIG" build-exe -fstrip "$@" -femit-bin="$output" "$ROOT/zig/$name.zig" >&2 && return
  say "build: zig/$name.zig does not compile: see the messages above"
  return 1
}

# Compresses the runtime unless it is the one compressed last, by the same code.
compress() {
  local packer="$1" file="$ROOT/build/deno.lz4" key built=""
  read -r key _ < <(cat "$DENO" "$ROOT/zig/launcher_lz4.zig" | sha256sum)
  [[ -r "$file.key" && -e "$file" ]] && read -r built <"$file.key"
  [[ "$built" == "$key" ]] && return
  say "build: compressing the Deno runtime (once, some 15 s)"
  rm -f "$file.key"
  "$packer" compress "$DENO" "$file" || return
  printf '%s\n' "$key" >"$file.key"
}

# assemble DIRECTORY LEVEL...: everything that dist/vhostctl is made of, in that directory but for what is kept, and then the file.
assemble() {
  local directory="$1" level
  local -a libraries
  shift
  for level in "$@"; do libraries+=("$ROOT/build/libvring-$level.so"); done
  bundle "$directory/vhostctl.js" || return
  # Safe, but with traps for messages: the runtime for these is larger than the launcher. It needs little stack, and a larger one
  # asked for here would be handed on to Deno as a limit.
  compile "$directory/launcher" launcher -O ReleaseSafe -target "$(uname -m)-linux-none" -mcpu baseline -fsingle-threaded --stack 1048576 || return
  compile "$directory/launcher_pack" launcher_pack -O ReleaseFast || return
  compress "$directory/launcher_pack" || return
  "$directory/launcher_pack" assemble "$directory/vhostctl" "$directory/launcher" "$ROOT/build/deno.lz4" "$directory/vhostctl.js" \
    "${libraries[@]}" -- run --quiet --cached-only --no-remote --no-config --no-lock --no-npm --ext=js \
    "${permissions[@]}" '--allow-ffi={library}' '{application}'
}

# one_file LEVEL...: dist/vhostctl with the libraries of these levels, lowest first. Two builds at once take turns.
one_file() {
  local temporary status=0
  mkdir -p "$ROOT/build" "$ROOT/dist"
  exec 8>"$ROOT/build/one_file.lock"
  flock -n 8 || { say "build: waiting for another build of dist/vhostctl"; flock 8; }
  temporary="$(mktemp -d "$ROOT/build/building.XXXXXX")"
  assemble "$temporary" "$@" || status=$?
  if [[ "$status" -eq 0 ]]; then
    chmod 755 "$temporary/vhostctl"
    mv "$temporary/launcher" "$temporary/launcher_pack" "$ROOT/build/"
    mv "$temporary/vhostctl" "$ROOT/dist/vhostctl"
  fi
  rm -rf "$temporary"
  exec 8>&-
  return "$status"
}
