#!/bin/bash
# Measures the block store against the raw file below it, in the same run: three servers with two copies, every acknowledged write
# flushed on both, through NBD; and a prefilled file of the same disk with direct I/O (writes with O_DSYNC). Then how long
# writes pause when a server or the leading manager dies or stands still. Only the ratios mean something.
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
password=bench
[ -x "$holdfast" ] || { echo "no executable $holdfast: swift build -c release --product holdfast" >&2; exit 1; }
command -v fio >/dev/null || { echo "fio is needed (apt-get install fio)" >&2; exit 1; }
directory=${DIRECTORY:-$(mktemp -d /var/tmp/holdfast-bench-XXXXXX)}

processes=()
finish() {
    for process in "${processes[@]}"; do kill -CONT "$process" 2>/dev/null || true; kill "$process" 2>/dev/null || true; done
    wait 2>/dev/null || true
    rm -rf "$directory"
}
trap finish EXIT
# Every allocation of the servers and the client is counted: in the steady state there are none.
cc -O2 -shared -fPIC "$here/allocations.c" -o "$directory/allocations.so"
start() {
    HOLDFAST_ALLOCATIONS="$directory/allocations" LD_PRELOAD="$directory/allocations.so" \
        "$holdfast" "$@" >>"$directory/log" 2>&1 &
    processes+=($!)
    started=$!
}
manager() {
    start mdm --store "embedded:$directory/mdm.db" --listen 127.0.0.1:2661$1 --name "mdm$1" --gateway-http 127.0.0.1:2808$1 \
        --gateway-https none --gateway-password $password --work-dir "$directory/gateway$1"
}
server() {
    start sds --mdm 127.0.0.1:26611,127.0.0.1:26612 --listen 127.0.0.1:2707$1 --name "node$1" --storage-pool bench \
        --device "$directory/device$1" --device-size 10g ${ENGINE:+--engine "$ENGINE"}
    servers[$1]=$started
}

servers=()
manager 1
leader=$started
for number in 1 2 3; do server $number; done
start sdc --mdm 127.0.0.1:26611,127.0.0.1:26612 --work-dir "$directory/sdc" --control "$directory/sdc.sock" --nbd-dir "$directory/nbd" \
    --guid-file "$directory/guid" --attach nbd --name bench
client=$started

api=http://127.0.0.1:28081/api
first_id() { sed -n 's/.*"id" *: *"\([0-9a-f]\{16\}\)".*/\1/p' | head -1; }
call() { curl -sfL --user ":$token" -H 'Content-Type: application/json' "$@"; }
# What lists something as soon as there is something.
await() {
    for _ in $(seq 600); do
        found=$(call "$api/types/$1/instances" | tr ',{' '\n\n' | first_id || true)
        [ -n "$found" ] && { echo "$found"; return; }
        sleep 0.1
    done
    echo "no $1 appeared" >&2; tail -5 "$directory/log" >&2; return 1
}
for _ in $(seq 600); do
    token=$(curl -sf --user admin:$password $api/login | tr -d '"' || true)
    [ -n "$token" ] && break
    sleep 0.1
done
pool=$(await StoragePool)
sdc=$(await Sdc)
until [ "$(call "$api/types/Sds/instances" | grep -o '"sdsState"' | wc -l)" -ge 3 ]; do sleep 0.1; done
volume=$(call -d "{\"volumeSizeInKb\":\"8388608\",\"storagePoolId\":\"$pool\",\"name\":\"bench\",\"volumeType\":\"ThinProvisioned\"}" \
    "$api/types/Volume/instances" | tr ',{' '\n\n' | first_id)
call -d "{\"sdcId\":\"$sdc\"}" "$api/instances/Volume::$volume/action/addMappedSdc" >/dev/null
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
python3 "$here/measure.py" table "$directory/results" Holdfast raw
[ -z "${RESULTS:-}" ] || cp "$directory/results" "$RESULTS"
