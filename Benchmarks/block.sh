#!/bin/bash
# Measures the block store against the raw file below it, in the same run: three servers with two copies, every acknowledged write
# flushed on both, through NBD; and a prefilled file of the same disk with direct I/O (writes with O_DSYNC). Then how long
# writes pause when a server or the leading manager dies or stands still, and how fast a dead server's data is copied. Only the
# ratios mean something.
#
#   Benchmarks/block.sh [PATH OF holdfast]
#
# DIRECTORY chooses the disk (default: a new directory in /var/tmp), SECONDS_PER_RUN the length of each run (default 10), ROUNDS
# how often store and disk take turns (default 1), SIZE what is read and written (default 1g), CASES the loads (those of
# measure.py), FAULTS=no leaves the faults out, ENGINE is the servers' --engine.
set -euo pipefail
holdfast=${1:-.build/release/holdfast}
here=$(dirname "$(realpath "$0")")
seconds=${SECONDS_PER_RUN:-10} rounds=${ROUNDS:-1} size=${SIZE:-1g} faults=${FAULTS:-yes}
cases=${CASES:-randwrite-qd1,randwrite-qd32,randread-qd1,randread-qd32,write-qd8,read-qd8}
[ -x "$holdfast" ] || { echo "no executable $holdfast: swift build -c release --product holdfast" >&2; exit 1; }
command -v fio >/dev/null || { echo "fio is needed (apt-get install fio)" >&2; exit 1; }
directory=${DIRECTORY:-$(mktemp -d /var/tmp/holdfast-bench-XXXXXX)}

# Every allocation of the servers and the client is counted: in the steady state there are none.
mkdir -p "$directory"
cc -O2 -shared -fPIC "$here/allocations.c" -o "$directory/allocations.so"
preloaded=(HOLDFAST_ALLOCATIONS="$directory/allocations" LD_PRELOAD="$directory/allocations.so")
device_size=10g
source "$here/cluster.sh"
volume=$(create bench)
map "$volume"
socket="$directory/nbd/$volume.sock"
until [ -S "$socket" ]; do sleep 0.1; done
uri="nbd+unix:///$volume?socket=$socket"

measure() { python3 "$here/measure.py" "$1" --to "$directory/results" --servers "${servers[*]}" "${@:2}"; }
load() { measure load --allocations "$directory/allocations" --seconds "$seconds" --size "$size" --cases "$cases" "$@"; }
store=(--ioengine=nbd "--uri=$uri")
raw=(--ioengine=libaio "--filename=$directory/raw")
measure idle --name Holdfast --case "idle, no data"
echo "prefilling $size on both"
fill() { fio --name=fill --size="$size" --rw=write --bs=1m --iodepth=8 --direct=1 --end_fsync=1 "$@" >/dev/null; }
fill "${store[@]}"
fill "${raw[@]}"
for _ in $(seq "$rounds"); do
    load --name Holdfast --client "$client" -- "${store[@]}"
    load --name raw --sync -- "${raw[@]}"
done
measure idle --name Holdfast --case "after the loads"
sleep 20
measure idle --name Holdfast --case "20 s later"
pause() { python3 "$here/measure.py" pause --to "$directory/results" --name Holdfast --nbd "$socket" "$@"; }
if [ "$faults" = yes ]; then
    # Before the pauses, whose scattered writes bind many units that hold little.
    rebuild() {
        python3 "$here/measure.py" rebuild --to "$directory/results" --name Holdfast --api $api --token "$token" \
            --case "$1" --policy "$2" --kill "${servers[$3]}" --sds "node$3" --size "$size" "${@:4}"
        server "$3"
    }
    rebuild "the default policy" limitNumOfConcurrentIos 3 --seconds "$seconds" -- "${store[@]}"
    # How much of that is the disk's own slowness beside a copy?
    fill --ioengine=libaio "--filename=$directory/copy"
    python3 "$here/measure.py" copying --to "$directory/results" --name raw --source "$directory/raw" --target "$directory/copy" \
        --seconds "$seconds" --size "$size" -- "${raw[@]}" --sync=dsync
    rebuild "without a limit" unlimited 1
    sleep 20
    pause --case "a server killed" --signal "KILL:${servers[1]}"
    server 1
    sleep 20
    pause --case "a server standing still" --signal "STOP:${servers[2]}" --seconds 12
    kill -CONT "${servers[2]}"
    sleep 20
    manager 2
    sleep 3
    pause --case "the leading manager killed" --signal "KILL:$leader" --seconds 12
fi
[ -z "${RESULTS:-}" ] || cp "$directory/results" "$RESULTS"
python3 "$here/measure.py" table "$directory/results" Holdfast raw
