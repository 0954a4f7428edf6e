#!/bin/bash
# Measures the block store against the raw file below it, in the same run: 4 KiB random I/O through NBD (three servers, two
# copies, every acknowledged write flushed on both) and 4 KiB random I/O with direct I/O (writes with O_DSYNC) on a prefilled file
# of the same disk. Only the ratios mean something.
#
#   Benchmarks/block.sh [PATH OF holdfast]
#
# DIRECTORY chooses the disk (default: a new directory in /var/tmp), SECONDS_PER_RUN the length of each run (default 10).
set -euo pipefail
holdfast=${1:-.build/release/holdfast}
seconds=${SECONDS_PER_RUN:-10}
size=256m
password=bench
[ -x "$holdfast" ] || { echo "no executable $holdfast: swift build -c release --product holdfast" >&2; exit 1; }
command -v fio >/dev/null || { echo "fio is needed (apt-get install fio)" >&2; exit 1; }
directory=${DIRECTORY:-$(mktemp -d /var/tmp/holdfast-bench-XXXXXX)}

processes=()
finish() {
    for process in "${processes[@]}"; do kill "$process" 2>/dev/null || true; done
    wait 2>/dev/null || true
    rm -rf "$directory"
}
trap finish EXIT
start() { "$holdfast" "$@" >>"$directory/log" 2>&1 & processes+=($!); }

start mdm --store "embedded:$directory/mdm.db" --listen 127.0.0.1:26611 --gateway-http 127.0.0.1:28081 \
    --gateway-https none --gateway-password $password --work-dir "$directory/gateway"
for number in 1 2 3; do
    start sds --mdm 127.0.0.1:26611 --listen 127.0.0.1:2707$number --name "node$number" --storage-pool bench \
        --device "$directory/device$number" --device-size 10g
done
start sdc --mdm 127.0.0.1:26611 --work-dir "$directory/sdc" --control "$directory/sdc.sock" --nbd-dir "$directory/nbd" \
    --attach nbd --name bench

api=http://127.0.0.1:28081/api
first_id() { sed -n 's/.*"id" *: *"\([0-9a-f]\{16\}\)".*/\1/p' | head -1; }
call() { curl -sf --user ":$token" -H 'Content-Type: application/json' "$@"; }
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
client=$(await Sdc)
until [ "$(call "$api/types/Sds/instances" | grep -o '"sdsState"' | wc -l)" -ge 3 ]; do sleep 0.1; done
volume=$(call -d "{\"volumeSizeInKb\":\"8388608\",\"storagePoolId\":\"$pool\",\"name\":\"bench\",\"volumeType\":\"ThinProvisioned\"}" \
    "$api/types/Volume/instances" | tr ',{' '\n\n' | first_id)
call -d "{\"sdcId\":\"$client\"}" "$api/instances/Volume::$volume/action/addMappedSdc" >/dev/null
socket="$directory/nbd/$volume.sock"
until [ -S "$socket" ]; do sleep 0.1; done
uri="nbd+unix:///$volume?socket=$socket"

run() { fio --name=run --size=$size --bs=4k --minimal "$@" | tail -1; }
timed() { run --time_based --runtime="$seconds" --ramp_time=1 "$@"; }
echo "prefilling $size on both"
run --ioengine=nbd --uri="$uri" --rw=write --bs=1m --iodepth=8 >/dev/null
run --ioengine=libaio --filename="$directory/raw" --rw=write --bs=1m --direct=1 --end_fsync=1 >/dev/null

printf '%-22s %12s %12s %8s\n' '4 KiB random' 'NBD IOPS' 'raw IOPS' 'ratio'
for kind in write read; do
    for depth in 1 32; do
        field=$([ $kind = write ] && echo 49 || echo 8)
        sync=$([ $kind = write ] && echo --sync=dsync || true)
        ours=$(timed --ioengine=nbd --uri="$uri" --rw=rand$kind --iodepth=$depth | cut -d';' -f$field)
        raw=$(timed --ioengine=libaio --filename="$directory/raw" --rw=rand$kind --direct=1 $sync --iodepth=$depth \
            | cut -d';' -f$field)
        printf '%-22s %12s %12s %8s\n' "$kind, depth $depth" "$ours" "$raw" \
            "$(awk "BEGIN { printf \"%.2f\", $ours / ($raw > 0 ? $raw : 1) }")"
    done
done
