#!/bin/bash
# Measures Ceph as block.sh measures us, on the same machine and disk: one monitor, one manager, three OSDs on prefilled files, a pool
# of two copies, one RBD image used by fio's rbd engine without client cache; and the raw file. Everything is taken down again at
# the end, also when something fails.
#
#   Benchmarks/peers/ceph.sh
#
# Needs root and the packages ceph-mon, ceph-mgr, ceph-osd, ceph-common, python3-rbd and fio (Debian 12); says so and ends with
# success when they are missing. DIRECTORY, SECONDS_PER_RUN, ROUNDS, SIZE, CASES, FAULTS and RESULTS as in block.sh.
set -euo pipefail
for tool in ceph-mon ceph-mgr ceph-osd ceph rbd monmaptool fio; do
    command -v $tool >/dev/null || { echo "no $tool: apt-get install ceph-mon ceph-mgr ceph-osd ceph-common python3-rbd fio"; exit 0; }
done
measure=$(dirname "$(realpath "$0")")/../measure.py
# Debian's own, which finds Debian's modules whatever comes first in the path.
python=/usr/bin/python3
seconds=${SECONDS_PER_RUN:-10} rounds=${ROUNDS:-1} size=${SIZE:-1g} faults=${FAULTS:-yes}
cases=${CASES:-randwrite-qd1,randwrite-qd32,randread-qd1,randread-qd32,write-qd8,read-qd8}
directory=${DIRECTORY:-$(mktemp -d /var/tmp/holdfast-ceph-XXXXXX)}
device_gb=8
declare -A daemons=()
finish() {
    for daemon in "${daemons[@]}"; do kill -CONT "$daemon" 2>/dev/null || true; kill "$daemon" 2>/dev/null || true; done
    for _ in $(seq 50); do
        alive=
        for daemon in "${daemons[@]}"; do if kill -0 "$daemon" 2>/dev/null; then alive=1; fi; done
        [ -n "$alive" ] || break
        sleep 0.2
    done
    for daemon in "${daemons[@]}"; do kill -9 "$daemon" 2>/dev/null || true; done
    wait 2>/dev/null || true
    rm -rf "$directory"
}
trap finish EXIT

mkdir -p "$directory"/{mon,mgr,run,log,osd0,osd1,osd2}
export CEPH_CONF=$directory/ceph.conf
cluster=$(cat /proc/sys/kernel/random/uuid)
port=13311
cat >"$CEPH_CONF" <<CONF
[global]
fsid = $cluster
mon_initial_members = a
mon_host = [v2:127.0.0.1:$port,v1:127.0.0.1:$((port + 1))]
auth_cluster_required = none
auth_service_required = none
auth_client_required = none
public_addr = 127.0.0.1
cluster_addr = 127.0.0.1
run_dir = $directory/run
admin_socket = $directory/run/\$name.\$pid.asok
log_file = $directory/log/\$name.log
mon_data = $directory/mon
mgr_data = $directory/mgr
osd_data = $directory/osd\$id
osd_objectstore = bluestore
bluestore_block_size = $((device_gb << 30))
osd_pool_default_size = 2
osd_pool_default_min_size = 1
osd_crush_chooseleaf_type = 0
osd_pool_default_pg_autoscale_mode = off
# All OSDs are on one host: without this none of them could be reported as silent by the two others.
mon_osd_reporter_subtree_level = osd
[client]
rbd_cache = false
log_file =
CONF
daemon() { "$@" -f >/dev/null 2>>"$directory/log/errors" & daemons[$name]=$!; }
await() {
    for _ in $(seq 300); do if eval "$1" >/dev/null 2>&1; then return; fi; sleep 0.5; done
    echo "Ceph did not come up: $1" >&2; tail -5 "$directory/log/errors" >&2; return 1
}
monmaptool --create --fsid "$cluster" --addv a "[v2:127.0.0.1:$port,v1:127.0.0.1:$((port + 1))]" "$directory/monmap" >/dev/null
ceph-mon -i a --mkfs --monmap "$directory/monmap" >/dev/null
name=mon daemon ceph-mon -i a
await "ceph --connect-timeout 5 -s"
name=mgr daemon ceph-mgr -i x
for number in 0 1 2; do
    # Written full first, so that the file system's allocation is not measured.
    dd if=/dev/zero of="$directory/osd$number/block" bs=4M count=$((device_gb * 256)) oflag=direct conv=fsync status=none
    identity=$(cat /proc/sys/kernel/random/uuid)
    ceph osd new "$identity" >/dev/null
    ceph-osd -i $number --mkfs --osd-uuid "$identity" >/dev/null 2>>"$directory/log/errors"
    name=osd$number daemon ceph-osd -i $number
done
await "ceph -s -f json | grep -q '\"num_up_osds\":3'"
ceph osd set noscrub >/dev/null 2>&1
ceph osd set nodeep-scrub >/dev/null 2>&1
ceph osd pool create bench 64 64 >/dev/null 2>&1
rbd pool init bench
await "ceph pg stat | grep -qE '^([0-9]+) pgs: \\1 active\\+clean;'"
rbd create bench/image --size 8G

servers="${daemons[*]}"
record() { "$python" "$measure" "$1" --to "$directory/results" "${@:2}"; }
load() { record load --seconds "$seconds" --size "$size" --cases "$cases" "$@"; }
store=(--ioengine=rbd --pool=bench --rbdname=image --clientname=admin)
raw=(--ioengine=libaio "--filename=$directory/raw")
record idle --name Ceph --servers "$servers" --case "idle, no data"
echo "prefilling $size on both"
fill() { fio --name=fill --size="$size" --rw=write --bs=1m --iodepth=8 --direct=1 --end_fsync=1 "$@" >/dev/null; }
fill "${store[@]}"
fill "${raw[@]}"
for _ in $(seq "$rounds"); do
    load --name Ceph --servers "$servers" -- "${store[@]}"
    load --name raw --sync -- "${raw[@]}"
done
record idle --name Ceph --servers "$servers" --case "after the loads"
if [ "$faults" = yes ]; then
    record pause --name Ceph --rbd bench/image --case "a server killed" --signal "KILL:${daemons[osd0]}" --seconds 40
    name=osd0 daemon ceph-osd -i 0
    await "ceph pg stat | grep -qE '^([0-9]+) pgs: \\1 active\\+clean;'"
    record pause --name Ceph --rbd bench/image --case "a server standing still" --signal "STOP:${daemons[osd1]}" --seconds 40
fi
"$python" "$measure" table "$directory/results" Ceph raw
[ -z "${RESULTS:-}" ] || cp "$directory/results" "$RESULTS"
