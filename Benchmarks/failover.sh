#!/usr/bin/env bash
# The seconds of the failover, as the demonstration's acts measure them on a lab of four machines (the white paper's Table 2): from
# the fault to the app's keys answered by another machine (for `docker stop`: answered again), and to other leaders.
#
#   Benchmarks/failover.sh HOLDFAST REDIS-IMAGE
#
# ROUNDS is how often every act is played (default 3). Needs root.
set -euo pipefail
holdfast=$(realpath "$1") image=$(realpath "$2")
rounds=${ROUNDS:-3}
lab=$(mktemp -d /var/tmp/holdfast-bench-XXXXXX)
finish() {
    "$holdfast" lab down --dir "$lab/lab" >/dev/null 2>&1 || true
    rm -rf "$lab"
}
trap finish EXIT
# A network beside that of a lab that is up already.
"$holdfast" lab up --dir "$lab/lab" --nodes 4 --index 8 --image "redis=$image" >"$lab/up.log" || { cat "$lab/up.log"; exit 1; }
for round in $(seq "$rounds"); do
    acts=(kill leaders isolate)
    [ "$round" = 1 ] && acts=(stop "${acts[@]}")
    "$holdfast" lab demo --dir "$lab/lab" --acts "${acts[@]}" >>"$lab/demo.log" || { tail -20 "$lab/demo.log"; exit 1; }
done
printf '%-58s %6s %6s %6s %6s\n' 'failover, seconds' 'runs' 'least' 'mean' 'most'
# What the acts of a title said; of all acts without one.
act() { awk -v title="$1" '/^[^ ]/ { inside = title == "" || index($0, title) } inside' "$lab/demo.log"; }
# A line of the demonstration has its seconds first, or last behind a colon.
row() {
    act "${3:-}" | grep -E "$2" | grep -oE '[0-9]+\.[0-9] s' | awk -v name="$1" '
        { sum += $1; count++; if (count == 1 || $1 < least) least = $1; if ($1 > most) most = $1 }
        END { printf "%-58s %6d %6.1f %6.1f %6.1f\n", name, count, least, sum / count, most }'
}
row 'docker stop -> keys answered again' 'running again, keys there'
row 'machine killed -> keys answered elsewhere' 'node killed -> keys' 'The death of the whole machine'
row 'machine of all leaders killed -> keys answered elsewhere' 'node killed -> keys' 'The death of the machine that leads'
row '  another master leads' 'master killed ->'
row '  another Marathon leads' 'Marathon killed ->'
row '  another manager leads' 'manager killed ->'
row 'cut off from all -> keys answered elsewhere' 'cut off -> keys'
