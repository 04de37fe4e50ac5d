#!/usr/bin/env bash
# All of `spine`, for figures to be published: builds the release binary, fetches Flink once where Maven and a Java
# compiler are there, builds the first peer where Go is there, runs every part, and prints JSON.
#
#   bench/spine.sh > spine.json                         # half an hour or more; 12 GB below --dir (default: the temporary folder)
#   bench/spine.sh --quick                              # whether everything works, in a minute or two
#   bench/spine.sh --only big-table --dir /mnt/disk     # all flags of `spine`
#
# The machine should do nothing else.
set -euo pipefail

cd "$(dirname "$0")/.."
target=${CARGO_TARGET_DIR:-target}
flink=target/peers/flink

cargo build --release >&2
cargo build --release -p millstream-bench --bin spine >&2
arguments=(--millstream "$target/release/millstream")
if [[ -f $flink/classes/SpineJob.class ]]; then
    arguments+=(--flink "$flink")
elif command -v mvn >/dev/null && command -v javac >/dev/null; then
    bench/flink/fetch.sh "$flink" >&2
    arguments+=(--flink "$flink")
fi
exec "$target/release/spine" "${arguments[@]}" "$@"
