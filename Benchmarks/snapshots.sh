#!/bin/bash
# What snapshots cost: how long writes pause while one is taken under load, what the first write to a block after one takes compared
# with the next, and what a read takes that looks through as many as a volume may have. The volume has 16 GiB.
#
#   Benchmarks/snapshots.sh [PATH OF holdfast]
#
# DIRECTORY chooses the disk (default: a new directory in /var/tmp), SIZE is what of the volume is filled and used (default 1g).
# With PREFILL, whole GiB like 8g, so much of each device's file gets blocks of its file system first, as a disk has them.
set -euo pipefail
holdfast=${1:-.build/release/holdfast}
here=$(dirname "$(realpath "$0")")
size=${SIZE:-1g}
[ -x "$holdfast" ] || { echo "no executable $holdfast: swift build -c release --product holdfast" >&2; exit 1; }
command -v fio >/dev/null || { echo "fio is needed (apt-get install fio)" >&2; exit 1; }
directory=${DIRECTORY:-$(mktemp -d /var/tmp/holdfast-bench-XXXXXX)}
mkdir -p "$directory"
preloaded=()
# 127 thin volumes of 16 GiB may promise five times what there is.
device_size=500g
source "$here/cluster.sh"
if [ -n "${PREFILL:-}" ]; then
    # Servers punch what is free, and take the last of it first. It is zeros and stays so.
    for number in 1 2 3; do
        fio --name=prefill --filename="$directory/device$number" --offset=$((${device_size%g} - ${PREFILL%g}))g --size="$PREFILL" \
            --rw=write --bs=1m --iodepth=8 --ioengine=libaio --direct=1 --zero_buffers --end_fsync=1 >/dev/null
    done
fi
volume=$(create bench 16)
map "$volume"
socket="$directory/nbd/$volume.sock"
until [ -S "$socket" ]; do sleep 0.1; done
store=(--ioengine=nbd "--uri=nbd+unix:///$volume?socket=$socket")
fio --name=fill --size="$size" --rw=write --bs=1m --iodepth=8 --direct=1 --end_fsync=1 "${store[@]}" >/dev/null
blocks=$(($(numfmt --from=iec "${size^^}") / 4096))
python3 "$here/measure.py" snapshots --nbd "$socket" --volume "$volume" --blocks "$blocks" --raw "$directory/raw" \
    --api $api --token "$token" -- "${store[@]}"
