#!/usr/bin/env bash
# The seconds of the failover, as the demonstration's acts measure them on a lab of four machines: from the fault to the app's keys
# answered by another machine (for `docker stop`: answered again).
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
    acts=(kill isolate zombie)
    [ "$round" = 1 ] && acts=(stop "${acts[@]}")
    "$holdfast" lab demo --dir "$lab/lab" --acts "${acts[@]}" >>"$lab/demo.log" || { tail -20 "$lab/demo.log"; exit 1; }
done
printf '%-58s %6s %6s %6s %6s\n' 'failover, seconds' 'runs' 'least' 'mean' 'most'
# A line of the demonstration has its seconds first, or last behind a colon.
row() {
    grep -E "$2" "$lab/demo.log" | grep -oE '[0-9]+\.[0-9] s' | awk -v name="$1" '
        { sum += $1; count++; if (count == 1 || $1 < least) least = $1; if ($1 > most) most = $1 }
        END { printf "%-58s %6d %6.1f %6.1f %6.1f\n", name, count, least, sum / count, most }'
}
row 'docker stop -> keys answered again' 'running again, keys there'
row 'machine killed -> keys answered elsewhere' 'node killed -> keys'
row 'cut off from all or from the masters -> answered elsewhere' 'cut off -> keys'
