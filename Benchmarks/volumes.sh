#!/bin/bash
# Creates many thin volumes, maps each to one client, and shows whether that takes longer the more there are: the milliseconds
# until a volume exists, and from the call that maps it until its NBD socket takes connections. Then the memory of each role, which
# must not grow with volumes that hold nothing.
#
#   Benchmarks/volumes.sh [PATH OF holdfast]
#
# COUNT is how many (default 1000), DIRECTORY where the sparse devices lie (default: a new directory in /var/tmp).
set -euo pipefail
holdfast=${1:-.build/release/holdfast}
here=$(dirname "$(realpath "$0")")
count=${COUNT:-1000}
[ -x "$holdfast" ] || { echo "no executable $holdfast: swift build -c release --product holdfast" >&2; exit 1; }
directory=${DIRECTORY:-$(mktemp -d /var/tmp/holdfast-bench-XXXXXX)}
mkdir -p "$directory"
preloaded=()
# Thin volumes may promise five times what there is.
device_size=1500g
source "$here/cluster.sh"
resident() { awk '/VmRSS/ { printf "%.0f", $2 / 1024 }' "/proc/$1/status"; }
memory() {
    printf '%-34s manager %4s   server %4s   client %4s MiB resident\n' "$1" "$(resident "$leader")" \
        "$(resident "${servers[1]}")" "$(resident "$client")"
}
milliseconds() { echo $(($(date +%s%N) / 1000000)); }

memory "without volumes"
for number in $(seq "$count"); do
    began=$(milliseconds)
    volume=$(create "v$number")
    created=$(milliseconds)
    map "$volume"
    until [ -S "$directory/nbd/$volume.sock" ]; do sleep 0.001; done
    echo "$number $((created - began)) $(($(milliseconds) - created))"
done >"$directory/times"
memory "with $count volumes, all mapped"
# The middle and the largest of a column of some lines.
spread() { sed -n "$1p" "$directory/times" | cut -d' ' -f"$2" | sort -n | awk '{ v[NR] = $1 } END { print v[int((NR + 1) / 2)], v[NR] }'; }
row() { printf '%-34s %8s %8s %8s %8s\n' "$1" $(spread "$2" 2) $(spread "$2" 3); }
tenth=$((count / 10))
printf '%-34s %8s %8s %8s %8s\n' milliseconds create most attach most
row "the first $tenth" "1,$tenth"
row "the last $tenth" "$((count - tenth + 1)),$count"
