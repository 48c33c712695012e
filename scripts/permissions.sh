# shellcheck shell=bash disable=SC2034
# Sourced. What Deno is told to let vhostctl do, from the source tree as in the one file. Besides, it may open one library.
# The network: sockets of other programs for their control, of which Deno takes those with a path for the network, too.
permissions=(--no-prompt --allow-read --allow-write --allow-env --allow-sys --allow-run --allow-net)
