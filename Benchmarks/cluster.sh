# Starts what is measured: a manager with its gateway, three storage servers with two copies, and a client. Sourced by scripts that
# have set `holdfast`, `directory` and `device_size`; `preloaded` are environment variables of every process, ENGINE is the
# servers' --engine. Everything is ended, and the directory removed, when the script ends.
#
# Afterwards: `leader`, `servers` (by number) and `client` are process ids; `api`, `token`, `pool` and `sdc` are for REST calls.
password=bench
processes=() servers=()
finish() {
    for process in "${processes[@]}"; do kill -CONT "$process" 2>/dev/null || true; kill "$process" 2>/dev/null || true; done
    wait 2>/dev/null || true
    rm -rf "$directory"
}
trap finish EXIT
start() {
    env "${preloaded[@]}" "$holdfast" "$@" >>"$directory/log" 2>&1 &
    processes+=($!)
    started=$!
}
managers=127.0.0.1:26611,127.0.0.1:26612
manager() {
    start mdm --store "embedded:$directory/mdm.db" --listen "127.0.0.1:2661$1" --name "mdm$1" \
        --gateway-http "127.0.0.1:2808$1" --gateway-https none --gateway-password $password --work-dir "$directory/gateway$1"
}
server() {
    start sds --mdm $managers --listen "127.0.0.1:2707$1" --name "node$1" --storage-pool bench \
        --device "$directory/device$1" --device-size "$device_size" ${ENGINE:+--engine "$ENGINE"}
    servers[$1]=$started
}
manager 1
leader=$started
for number in 1 2 3; do server $number; done
start sdc --mdm $managers --work-dir "$directory/sdc" --control "$directory/sdc.sock" --nbd-dir "$directory/nbd" \
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
# Creates a thin volume with the name, of 8 or that many GiB, and answers its id.
create() {
    call -d "{\"volumeSizeInKb\":\"$((${2:-8} << 20))\",\"storagePoolId\":\"$pool\",\"name\":\"$1\",\"volumeType\":\"ThinProvisioned\"}" \
        "$api/types/Volume/instances" | tr ',{' '\n\n' | first_id
}
map() { call -d "{\"sdcId\":\"$sdc\"}" "$api/instances/Volume::$1/action/addMappedSdc" >/dev/null; }
for _ in $(seq 600); do
    token=$(curl -sf --user admin:$password $api/login | tr -d '"' || true)
    [ -n "$token" ] && break
    sleep 0.1
done
pool=$(await StoragePool)
sdc=$(await Sdc)
until [ "$(call "$api/types/Sds/instances" | grep -o '"sdsState"' | wc -l)" -ge 3 ]; do sleep 0.1; done
