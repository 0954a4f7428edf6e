#!/bin/bash
# Puts 4 KiB into each of many units, so that each binds one at two servers, and shows how long the slowest of these writes took
# while logs filled and tables were written; then the same of writes to units that are there already. And what a bound unit costs
# a server in memory, which is proportional to them.
#
#   Benchmarks/units.sh [PATH OF holdfast]
#
# GIB is the size of the volume (default 32: 32,768 units), DIRECTORY where the sparse devices lie (default: a new directory in
# /var/tmp).
set -euo pipefail
holdfast=${1:-.build/release/holdfast}
here=$(dirname "$(realpath "$0")")
gib=${GIB:-32}
[ -x "$holdfast" ] || { echo "no executable $holdfast: swift build -c release --product holdfast" >&2; exit 1; }
command -v fio >/dev/null || { echo "fio is needed (apt-get install fio)" >&2; exit 1; }
directory=${DIRECTORY:-$(mktemp -d /var/tmp/holdfast-bench-XXXXXX)}
mkdir -p "$directory"
preloaded=()
device_size=$((gib * 2))g
source "$here/cluster.sh"
volume=$(create bench "$gib")
map "$volume"
socket="$directory/nbd/$volume.sock"
until [ -S "$socket" ]; do sleep 0.1; done

resident() { awk '/VmRSS/ { print $2 }' "/proc/${servers[1]}/status"; }
used() {
    call "$api/types/Sds/instances" | tr '{' '\n' | sed -n 's/.*"id":"\([0-9a-f]\{16\}\)".*/\1/p' | while read -r sds; do
        call "$api/instances/Sds::$sds/relationships/Statistics" | tr ',' '\n' | sed -n 's/.*"capacityInUseInKb":\([0-9]*\).*/\1/p'
    done | awk '{ sum += $1 } END { printf "%d", sum / 1024 / NR }'
}
run() {
    fio --name=load --thread --direct=1 --bs=4k --iodepth=16 --output-format=json --ioengine=nbd \
        "--uri=nbd+unix:///$volume?socket=$socket" "${@:2}" >"$directory/fio"
    python3 - "$1" "$directory/fio" <<'PYTHON'
import json, sys
text = open(sys.argv[2]).read()
write = json.loads(text[text.index("{"):])["jobs"][0]["write"]
clat = write["clat_ns"]
print(f"{sys.argv[1]:36}{write['iops']:9,.0f} writes/s   mean {clat['mean'] / 1e6:6.2f}   99.9 % {clat['percentile']['99.900000'] / 1e6:7.1f}"
      f"   longest {clat['max'] / 1e6:7.1f} ms")
PYTHON
}
before=$(resident)
run "a first write to each unit" --rw=write:1020k --size="$gib"g --io_size=$((gib * 4))m
after=$(resident)
units=$(used)
echo "a server has $units units and $((after / 1024)) MiB resident, $((before / 1024)) before: $(((after - before) * 1024 / units)) bytes per unit of 1 MiB"
run "again, units at random" --rw=randwrite --size="$gib"g --blockalign=1m --time_based --runtime=8 --norandommap
