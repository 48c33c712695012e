# shellcheck shell=bash
# Sourced after library.sh and permissions.sh. Builds dist/vhostctl: our launcher, and behind it the Deno runtime, compressed,
# the bundled program and the libraries. What takes long, compressing, is done again only for another runtime.

# The program as one JavaScript file. `deno bundle` would fetch esbuild by itself, unverified: a proxy that is not there stops it,
# and the package that deno.lock pins is found in its place.
bundle() {
  local output="$1" module import
  if ! HTTPS_PROXY=http://127.0.0.1:1 NO_PROXY='' no_proxy='' "$DENO" bundle --quiet --config "$ROOT/deno.json" --frozen-lockfile \
    --output "$output" "$ROOT/cli/main.ts" >&2; then
    say "build: the program cannot be bundled: see the messages above; where they name @esbuild: pin the version they ask for in deno.json"
    return 1
  fi
  # Commander can run other programs as its commands, and we have none of these: what it would take is loaded at each start.
  for module in child_process:childProcess fs:fs; do
    import="import ${module#*:} from \"node:${module%:*}\";"
    grep -qxF "$import" "$output" || { say "build: the bundle has not: $import: see scripts/one_file.sh"; return 1; }
    sed -i "s|^$import\$|const ${module#*:} = {};|" "$output"
  done
}

# is_stale FILE KEY: whether FILE was not made with KEY. What makes it writes the key last.
is_stale() {
  local file="$1" key="$2" made_with=""
  [[ -e "$file" && -r "$file.key" ]] && read -r made_with <"$file.key"
  [[ "$made_with" != "$key" ]]
}

# compile NAME FLAG...: build/NAME from zig/NAME.zig, unless it is there and none of the launcher's sources has changed.
compile() {
  local name="$1" file="$ROOT/build/$1" key
  shift
  read -r key _ < <(cd "$ROOT" && sha256sum zig/launcher*.zig tools.lock scripts/one_file.sh | sha256sum)
  is_stale "$file" "$key" || return 0
  say "build: $name"
  rm -f "$file.key"
  if ! "$ZIG" build-exe -fstrip "$@" -femit-bin="$file" "$ROOT/zig/$name.zig" >&2; then
    say "build: zig/$name.zig does not compile: see the messages above"
    return 1
  fi
  printf '%s\n' "$key" >"$file.key"
}

# Compresses the runtime unless it is the one compressed last, by the same code.
compress() {
  local file="$ROOT/build/deno.lz4" key
  read -r key _ < <(cat "$DENO" "$ROOT/zig/launcher_lz4.zig" | sha256sum)
  is_stale "$file" "$key" || return 0
  say "build: compressing the Deno runtime (once, some 15 s)"
  rm -f "$file.key"
  "$ROOT/build/launcher_pack" compress "$DENO" "$file" || return
  printf '%s\n' "$key" >"$file.key"
}

# assemble DIRECTORY LEVEL...: the file and the program inside it, in that directory; in build/, what is kept for the next time.
assemble() {
  local directory="$1" level
  local -a libraries
  shift
  for level in "$@"; do libraries+=("$ROOT/build/libvring-$level.so"); done
  bundle "$directory/vhostctl.js" || return
  # Safe, but with traps for messages: the code for these is larger than the launcher. It needs little stack, and a larger one
  # asked for here would be handed on to Deno as a limit.
  compile launcher -O ReleaseSafe -target "$(uname -m)-linux-none" -mcpu baseline -fsingle-threaded --stack 1048576 || return
  compile launcher_pack -O ReleaseFast || return
  compress || return
  "$ROOT/build/launcher_pack" assemble "$directory/vhostctl" "$ROOT/build/launcher" "$ROOT/build/deno.lz4" "$directory/vhostctl.js" \
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
    mv "$temporary/vhostctl" "$ROOT/dist/vhostctl"
  fi
  rm -rf "$temporary"
  exec 8>&-
  return "$status"
}
