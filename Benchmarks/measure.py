#!/usr/bin/env python3
"""Measures a block store and the disk below it with the same loads, one after the other.

  measure.py load  --name NAME --to RESULTS --servers PIDS --client PIDS [--cases CASES] -- FIO ARGUMENTS
  measure.py idle  --name NAME --to RESULTS --servers PIDS
  measure.py pause --name NAME --to RESULTS --case CASE --signal NAME:PID (--nbd SOCKET | --rbd POOL/IMAGE)
  measure.py rebuild --name NAME --to RESULTS --case CASE --kill PID --sds NAME --api URL --token TOKEN --policy POLICY
                     [--seconds N] [-- FIO ARGUMENTS]
  measure.py copying --name NAME --to RESULTS --source FILE --target FILE [--seconds N] -- FIO ARGUMENTS
  measure.py snapshots --nbd SOCKET --volume ID --blocks N --raw FILE --api URL --token TOKEN -- FIO ARGUMENTS
  measure.py table RESULTS STORE RAW

`load` runs fio once per case. CPU is what /proc/PID/stat shows of the servers, of the client's process and of fio itself between
the end of the ramp and the end of the run, divided by the I/Os of that time. `pause` writes 4 KiB at random places one after
the other, sends the signal, and takes the longest time that one write needed. `rebuild` kills a server for good and divides what it
held by the seconds from the first comb that is copied to the last; with fio's arguments it writes 4 KiB at depth 1 before and during
that, and compares the 99th percentiles. `copying` does the same to the disk: how slow do its writes become by themselves when one
file is copied to another in such pieces and as fast as that rebuild was? `snapshots` takes some under load, one by one, and as many
as a volume may have; it prints by itself. `table` prints STORE's results as ratios of RAW's, and fails if small I/Os at depth 32 allocate memory.
"""
import argparse
import atexit
import base64
import glob
import json
import mmap
import os
import random
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request

CASES = {
    "randwrite-qd1": ("randwrite", "4k", 1, "4 KiB random write, depth 1"),
    "randwrite-qd32": ("randwrite", "4k", 32, "4 KiB random write, depth 32"),
    "randread-qd1": ("randread", "4k", 1, "4 KiB random read, depth 1"),
    "randread-qd32": ("randread", "4k", 32, "4 KiB random read, depth 32"),
    "write-qd8": ("write", "1m", 8, "1 MiB sequential write, depth 8"),
    "read-qd8": ("read", "1m", 8, "1 MiB sequential read, depth 8"),
}
TICKS = os.sysconf("SC_CLK_TCK")


def descendants(roots):
    """The processes and all that they have started."""
    children = {}
    for path in glob.glob("/proc/[0-9]*/stat"):
        try:
            with open(path) as stat:
                parent = int(stat.read().rsplit(")", 1)[1].split()[1])
            children.setdefault(parent, []).append(int(path.split("/")[2]))
        except OSError:
            continue
    found, left = set(), list(roots)
    while left:
        process = left.pop()
        if process not in found:
            found.add(process)
            left += children.get(process, [])
    return found


def cpu_seconds(processes):
    total = 0
    for process in processes:
        try:
            with open(f"/proc/{process}/stat") as stat:
                fields = stat.read().rsplit(")", 1)[1].split()
            total += int(fields[11]) + int(fields[12])
        except OSError:
            continue
    return total / TICKS


def resident_mib(processes):
    """The sum over the processes, and the largest of them."""
    sizes = []
    for process in processes:
        try:
            with open(f"/proc/{process}/status") as status:
                sizes += [int(line.split()[1]) / 1024 for line in status if line.startswith("VmRSS:")]
        except OSError:
            continue
    return sum(sizes), max(sizes, default=0)


def allocations(prefix, processes):
    """What allocations.c has counted in the processes so far."""
    total = 0
    for process in processes:
        try:
            with open(f"{prefix}.{process}", "rb") as counter:
                total += int.from_bytes(counter.read(8), sys.byteorder)
        except OSError:
            continue
    return total


def numbers(text):
    return [int(part) for part in text.replace(",", " ").split()]


def record(path, entry):
    with open(path, "a") as results:
        results.write(json.dumps(entry) + "\n")


def load(options):
    servers, client = descendants(numbers(options.servers)), numbers(options.client)
    for case in options.cases.split(","):
        kind, size, depth, _ = CASES[case]
        command = [
            "fio", "--name=load", "--thread", "--direct=1", f"--rw={kind}", f"--bs={size}", f"--iodepth={depth}",
            f"--size={options.size}", "--time_based", f"--runtime={options.seconds}", "--ramp_time=1",
            "--norandommap", "--randrepeat=0", "--output-format=json"] + options.fio
        if options.sync and "write" in kind:
            command.append("--sync=dsync")
        fio = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        time.sleep(2)
        allocated = allocations(options.allocations, list(servers) + client)
        began, cpu = time.monotonic(), [cpu_seconds(part) for part in (servers, client, [fio.pid])]
        time.sleep(max(1, options.seconds - 2))
        ended, after = time.monotonic(), [cpu_seconds(part) for part in (servers, client, [fio.pid])]
        allocated = allocations(options.allocations, list(servers) + client) - allocated
        memory = resident_mib(servers)
        output, errors = fio.communicate()
        if fio.returncode != 0:
            sys.exit(f"fio failed: {errors.strip()[-500:]}")
        job = json.loads(output[output.index("{"):])["jobs"][0]
        if job["error"] != 0:
            sys.exit(f"{case}: fio ended with error {job['error']}")
        direction = job["read" if "read" in kind else "write"]
        per_io = [(late - early) / (ended - began) / direction["iops"] * 1e6 for early, late in zip(cpu, after)]
        record(options.to, {
            "name": options.name, "case": case, "iops": direction["iops"], "mb_s": direction["bw_bytes"] / 1e6,
            "mean_us": direction["lat_ns"]["mean"] / 1e3,
            "p99_us": direction["clat_ns"].get("percentile", {}).get("99.000000", 0) / 1e3,
            "cpu_us": {"servers": per_io[0], "client": per_io[1], "fio": per_io[2]},
            "allocations": allocated / (ended - began) / direction["iops"] if options.allocations else None,
            "resident_mib": memory[1]})


def idle(options):
    total, largest = resident_mib(descendants(numbers(options.servers)))
    record(options.to, {"name": options.name, "case": options.case, "total_mib": total, "largest_mib": largest})


class NBD:
    """Just enough of a client to write one request after the other."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(90)
        self.socket.connect(path)
        self.take(16)
        flags, = struct.unpack(">H", self.take(2))
        self.socket.sendall(struct.pack(">I", flags & 3))
        # EXPORT_NAME with the default export.
        self.socket.sendall(struct.pack(">QII", 0x49484156454F5054, 1, 0))
        self.size, _ = struct.unpack(">QH", self.take(10))
        if not flags & 2:
            self.take(124)

    def take(self, count):
        data = b""
        while len(data) < count:
            piece = self.socket.recv(count - len(data))
            if not piece:
                sys.exit("the NBD server hung up")
            data += piece
        return data

    def ask(self, command, offset, length, data=b""):
        self.socket.sendall(struct.pack(">IHHQQI", 0x25609513, 0, command, offset, offset, length) + data)
        _, error, _ = struct.unpack(">IIQ", self.take(16))
        if error:
            sys.exit(f"an I/O failed with error {error}")

    def write(self, offset, data):
        self.ask(1, offset, len(data), data)

    def read(self, offset, length):
        self.ask(0, offset, length)
        return self.take(length)


class RBD:
    def __init__(self, name):
        import rados
        import rbd
        pool, image = name.split("/")
        self.cluster = rados.Rados(conffile=os.environ["CEPH_CONF"])
        self.cluster.connect()
        self.image = rbd.Image(self.cluster.open_ioctx(pool), image)
        self.size = self.image.size()

    def write(self, offset, data):
        self.image.write(data, offset)


def pause(options):
    target = NBD(options.nbd) if options.nbd else RBD(options.rbd)
    name, process = options.signal.split(":")
    blocks, data = min(target.size, 1 << 30) // 4096, os.urandom(4096)
    began = last = time.monotonic()
    struck, longest, usual = None, 0, 0
    while struck is None or last - struck < options.seconds:
        if struck is None and last - began > 2:
            os.kill(int(process), getattr(signal, "SIG" + name))
            struck = time.monotonic()
        target.write(random.randrange(blocks) * 4096, data)
        now = time.monotonic()
        if struck is None:
            usual = max(usual, now - last)
        else:
            longest = max(longest, now - last)
        last = now
    record(options.to, {"name": options.name, "case": options.case, "pause_s": longest, "usual_s": usual})


class Gateway:
    def __init__(self, url, token):
        self.url = url.removesuffix("/api")
        self.headers = {
            "Content-Type": "application/json",
            "Authorization": "Basic " + base64.b64encode(f":{token}".encode()).decode()}

    def call(self, path, body=None):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, self.headers)
        try:
            with urllib.request.urlopen(request, timeout=10) as reply:
                return json.loads(reply.read() or b"null")
        except urllib.error.HTTPError as error:
            sys.exit(f"{path}: {error}: {error.read().decode()}")

    def unmirrored(self):
        """Combs that are being copied, and all that lack a copy."""
        combs = [pool["combs"] for pool in self.call("/holdfast/v1/pools")]
        copying = sum(comb["rebuilding"] for comb in combs)
        return copying, copying + sum(comb["degraded"] + comb["unavailable"] for comb in combs)

    def wait(self, what, condition, seconds):
        end = time.monotonic() + seconds
        while not condition(*self.unmirrored()):
            if time.monotonic() > end:
                sys.exit(f"{what}: not within {seconds} s")
            time.sleep(0.05)
        return time.monotonic()


class Writes:
    """fio writing 4 KiB one after the other until it is ended, and how long each write took."""

    def __init__(self, options):
        self.log = options.to + ".writes"
        self.fio = subprocess.Popen(
            ["fio", "--name=load", "--thread", "--direct=1", "--rw=randwrite", "--bs=4k", "--iodepth=1", f"--size={options.size}",
             "--time_based", "--runtime=1000", "--norandommap", "--randrepeat=0", "--log_unix_epoch=1",
             f"--write_lat_log={self.log}"] + options.fio, stdout=subprocess.DEVNULL)
        atexit.register(self.fio.kill)

    def end(self):
        if self.fio.poll() is not None:
            sys.exit(f"fio ended by itself, with {self.fio.returncode}")
        self.fio.send_signal(signal.SIGINT)
        self.fio.wait()
        path = f"{self.log}_clat.1.log"
        with open(path) as lines:
            fields = [line.split(",") for line in lines]
        for log in glob.glob(f"{self.log}_*.log"):
            os.unlink(log)
        # Milliseconds since 1970, nanoseconds.
        self.taken = [(int(moment) / 1e3, int(latency) / 1e3) for moment, latency, *_ in fields]

    def p99_us(self, began, ended):
        found = sorted(latency for moment, latency in self.taken if began <= moment < ended)
        if len(found) < 200:
            sys.exit(f"only {len(found)} writes in {ended - began:.1f} s")
        return found[len(found) * 99 // 100]


def rebuild(options):
    gateway = Gateway(options.api, options.token)
    gateway.wait("two copies of everything", lambda _, lacking: lacking == 0, 300)
    pool = gateway.call("/api/types/StoragePool/instances")[0]["id"]
    gateway.call(f"/api/instances/StoragePool::{pool}/action/setRebuildIoPriorityPolicy", {"policy": options.policy})
    server = next(sds["id"] for sds in gateway.call("/api/types/Sds/instances") if sds["name"] == options.sds)
    held = gateway.call(f"/api/instances/Sds::{server}/relationships/Statistics")["capacityInUseInKb"]
    writes = Writes(options) if options.fio else None
    if writes:
        time.sleep(options.seconds)
    struck = time.time()
    os.kill(options.kill, signal.SIGKILL)
    began = gateway.wait("the rebuild", lambda copying, _: copying > 0, 120)
    first = time.time()
    ended = gateway.wait("the rebuild's end", lambda _, lacking: lacking == 0, 900)
    entry = {"name": options.name, "case": options.case, "rebuilt_mb": held * 1024 / 1e6, "rebuild_s": ended - began}
    if writes:
        last = time.time()
        writes.end()
        entry["p99_before_us"] = writes.p99_us(struck - options.seconds * 0.9, struck)
        entry["p99_during_us"] = writes.p99_us(first, last)
    record(options.to, entry)


def copying(options):
    with open(options.to) as lines:
        rebuilds = [entry for entry in map(json.loads, lines) if "rebuild_s" in entry and "p99_before_us" in entry]
    if not rebuilds:
        sys.exit("no rebuild was measured whose speed could be taken")
    rate = rebuilds[-1]["rebuilt_mb"] / rebuilds[-1]["rebuild_s"]
    writes = Writes(options)
    time.sleep(options.seconds)
    began = time.time()
    # Limited copies go in pieces of this size, and are flushed.
    copy = ["fio", "--name=copy", "--thread", "--direct=1", "--ioengine=libaio", "--bs=128k", f"--rate={int(rate * 1e6)}",
            f"--size={options.size}", "--time_based", f"--runtime={options.seconds}", "--output-format=json"]
    parts = [
        subprocess.Popen(copy + arguments, stdout=subprocess.PIPE, text=True)
        for arguments in (["--rw=read", f"--filename={options.source}"],
                          ["--rw=write", "--sync=dsync", f"--filename={options.target}"])]
    for part in parts:
        atexit.register(part.kill)
    # What fio needs to begin and to end is not copying.
    time.sleep(1)
    first, last = time.time(), began + options.seconds
    copied = []
    for direction, part in zip(("read", "write"), parts):
        output, _ = part.communicate(timeout=options.seconds + 60)
        if part.returncode != 0:
            sys.exit("the copy failed")
        copied.append(json.loads(output[output.index("{"):])["jobs"][0][direction]["bw_bytes"] / 1e6)
    writes.end()
    if min(copied) < rate * 0.9:
        sys.exit(f"the raw file was copied at {min(copied):.0f} MB/s, and the rebuild went at {rate:.0f}")
    record(options.to, {
        "name": options.name, "case": "copying", "copied_mb_s": min(copied),
        "p99_before_us": writes.p99_us(began - options.seconds * 0.9, began), "p99_during_us": writes.p99_us(first, last)})


class Snapshots:
    """What snapshots cost whoever uses their volume."""

    BLOCK = os.urandom(4096)

    def __init__(self, options):
        self.options = options
        self.gateway = Gateway(options.api, options.token)
        self.target = NBD(options.nbd)
        self.blocks = options.blocks
        self.taken = []

    def take(self):
        """Answers when it was asked for and when it was there."""
        began = time.monotonic()
        body = {"snapshotDefs": [{"volumeId": self.options.volume, "snapshotName": f"s{len(self.taken)}"}]}
        self.taken += self.gateway.call("/api/instances/System/action/snapshotVolumes", body)["volumeIdList"]
        return began, time.monotonic()

    def remove(self, snapshot):
        self.gateway.call(f"/api/instances/Volume::{snapshot}/action/removeVolume", {"removeMode": "ONLY_ME"})

    def mean_us(self, action, numbers):
        began = time.monotonic()
        for number in numbers:
            action(number * 4096)
        return (time.monotonic() - began) / len(numbers) * 1e6

    def writes_us(self, numbers):
        return self.mean_us(lambda offset: self.target.write(offset, self.BLOCK), numbers)

    def reads_us(self, numbers):
        return self.mean_us(lambda offset: self.target.read(offset, 4096), numbers)

    def first_writes(self, rounds=5, count=1000):
        """Means of writes to blocks that were written since the last snapshot, and of the first ones after it."""
        again, first = [], []
        for _ in range(rounds):
            numbers = random.sample(range(self.blocks), count)
            self.writes_us(numbers)
            again.append(self.writes_us(numbers))
            self.take()
            first.append(self.writes_us(numbers))
        return sum(again) / rounds, sum(first) / rounds

    def under_load(self, count=10):
        """The longest write from asking to answer for each snapshot, and the longest while none is taken."""
        sys.setswitchinterval(0.0005)
        writes, ended = [], threading.Event()

        def work():
            while not ended.is_set():
                began = time.monotonic()
                self.target.write(random.randrange(self.blocks) * 4096, self.BLOCK)
                writes.append((began, time.monotonic()))

        fio = subprocess.Popen(
            ["fio", "--name=load", "--thread", "--direct=1", "--rw=randwrite", "--bs=4k", "--iodepth=8",
             f"--size={self.blocks * 4096}", "--time_based", "--runtime=60", "--norandommap", "--output-format=json"]
            + self.options.fio, stdout=subprocess.DEVNULL)
        worker = threading.Thread(target=work)
        worker.start()
        moments = []
        for _ in range(count):
            time.sleep(1)
            moments.append(self.take())
        time.sleep(1)
        ended.set()
        worker.join()
        fio.terminate()
        fio.wait()
        during = [max((e - b for b, e in writes if b < to and e > began), default=0) for began, to in moments]
        rest = max(e - b for b, e in writes if all(e < began or b > to for began, to in moments))
        return [to - began for began, to in moments], during, rest


def holes_us(path, blocks, rounds=5, count=1000):
    """Means of flushed 4 KiB writes to a file where it has blocks, and where the file system has to give it some first: devices
    that are files pay for that as well."""
    block = mmap.mmap(-1, 4096)
    block.write(b"x" * 4096)
    again, first = [], []
    for _ in range(rounds):
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_DIRECT, 0o600)
        try:
            os.ftruncate(file, blocks * 4096)
            numbers = random.sample(range(blocks), count)
            for means in (first, again):
                began = time.monotonic()
                for number in numbers:
                    os.pwrite(file, block, number * 4096)
                    os.fdatasync(file)
                means.append((time.monotonic() - began) / count * 1e6)
        finally:
            os.close(file)
            os.unlink(path)
    return sum(again) / rounds, sum(first) / rounds


def snapshots(options):
    work = Snapshots(options)
    numbers = random.sample(range(work.blocks), 1000)
    read_before = work.reads_us(numbers)
    again, first = work.first_writes()
    print(f"4 KiB write, one after the other: {again:.0f} us, first ones after a snapshot {first:.0f} us: {first / again:.2f} times")
    again, first = holes_us(options.raw, work.blocks)
    print(f"the same in a file on that disk: {again:.0f} us, first ones in its holes {first:.0f} us: {first / again:.2f} times")
    took, during, rest = work.under_load()
    print(f"{len(took)} snapshots under load: taken in {max(took) * 1e3:.0f} ms at most; longest write meanwhile "
          f"{max(during) * 1e3:.0f} ms at most, {sorted(during)[len(during) // 2] * 1e3:.0f} ms in the middle; "
          f"longest write else {rest * 1e3:.0f} ms")
    took = []
    while len(work.taken) < 126:
        began, ended = work.take()
        took.append(ended - began)
        work.target.write(random.randrange(work.blocks) * 4096, work.BLOCK)
    print(f"{len(work.taken)} snapshots of one volume: the last ten taken in {max(took[-10:]) * 1e3:.0f} ms at most")
    read_after = work.reads_us(numbers)
    print(f"4 KiB read: {read_before:.0f} us, with {len(work.taken)} snapshots {read_after:.0f} us: {read_after / read_before:.2f} times")
    began = time.monotonic()
    for snapshot in random.sample(work.taken, len(work.taken)):
        work.remove(snapshot)
    print(f"all removed, in any order, in {time.monotonic() - began:.1f} s")


def table(options):
    with open(options.results) as lines:
        results = [json.loads(line) for line in lines]

    def mean(name, case, *keys):
        found = []
        for entry in results:
            if entry["name"] == name and entry["case"] == case:
                for key in keys:
                    entry = entry[key]
                if entry is not None:
                    found.append(entry)
        return sum(found) / len(found) if found else None

    store, raw = options.store, options.raw
    print(f"{'':34}{store + ' IOPS':>16}{raw + ' IOPS':>12}{'ratio':>7}{'mean us':>9}{'p99 us':>9}"
          f"{'raw mean':>10}{'raw p99':>9}{'servers':>9}{'client':>8}{'fio':>7}  CPU us per I/O{'allocated':>11} times per I/O")
    for case, (_, size, _, title) in CASES.items():
        ours, theirs = mean(store, case, "iops"), mean(raw, case, "iops")
        if ours is None or theirs is None:
            continue
        allocated = mean(store, case, "allocations")
        counted = "" if allocated is None else f"{allocated:27.2f}"
        cpu = [mean(store, case, "cpu_us", part) for part in ("servers", "client", "fio")]
        print(f"{title:34}{ours:16,.0f}{theirs:12,.0f}{ours / theirs:7.2f}{mean(store, case, 'mean_us'):9,.0f}"
              f"{mean(store, case, 'p99_us'):9,.0f}{mean(raw, case, 'mean_us'):10,.0f}{mean(raw, case, 'p99_us'):9,.0f}"
              f"{cpu[0]:9,.0f}{cpu[1]:8,.0f}{cpu[2]:7,.0f}{counted}")
    for entry in results:
        if "copied_mb_s" in entry:
            print(f"the raw file's writes at depth 1 while {entry['copied_mb_s']:.0f} MB/s are copied beside it: "
                  f"p99 {entry['p99_during_us']:.0f} us, before {entry['p99_before_us']:.0f} us")
        if entry["name"] != store:
            continue
        if "largest_mib" in entry:
            print(f"memory of the largest server process, {entry['case']}: {entry['largest_mib']:.0f} MiB resident")
        if "pause_s" in entry:
            print(f"longest write, {entry['case']}: {entry['pause_s']:.2f} s (before: {entry['usual_s']:.2f} s)")
        if "rebuild_s" in entry:
            speed = entry["rebuilt_mb"] / entry["rebuild_s"]
            line = f"rebuild, {entry['case']}: {entry['rebuilt_mb']:.0f} MB in {entry['rebuild_s']:.1f} s = {speed:.0f} MB/s"
            reads, writes = mean(raw, "read-qd8", "mb_s"), mean(raw, "write-qd8", "mb_s")
            if reads and writes:
                # One disk below all servers gives every byte and takes it.
                line += f", {speed * (1 / reads + 1 / writes):.2f} of what the raw file could copy"
            if "p99_before_us" in entry:
                line += f"; writes at depth 1 meanwhile: p99 {entry['p99_during_us']:.0f} us, before {entry['p99_before_us']:.0f} us"
            print(line)
    # What timers allocate is there at any rate, and shows where I/Os are few.
    costly = [f"{title}: {mean(store, case, 'allocations'):.2f}" for case, (_, size, depth, title) in CASES.items()
              if size == "4k" and depth == 32 and (mean(store, case, "allocations") or 0) >= 1]
    if costly:
        sys.exit(f"an I/O is to allocate no memory: {', '.join(costly)}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)

    def command(function, **arguments):
        made = commands.add_parser(function.__name__)
        made.set_defaults(function=function)
        for flag, settings in arguments.items():
            made.add_argument("--" + flag, **settings)
        return made

    shared = {"name": {"required": True}, "to": {"required": True}}
    made = command(
        load, **shared, servers={"default": ""}, client={"default": ""}, cases={"default": ",".join(CASES)},
        seconds={"type": int, "default": 10}, size={"default": "1g"}, sync={"action": "store_true"},
        allocations={"default": ""})
    made.add_argument("fio", nargs="*")
    command(idle, **shared, servers={"required": True}, case={"default": "idle"})
    command(
        pause, **shared, case={"required": True}, signal={"required": True}, nbd={}, rbd={},
        seconds={"type": float, "default": 8})
    made = command(
        rebuild, **shared, case={"required": True}, kill={"type": int, "required": True}, sds={"required": True},
        api={"required": True}, token={"required": True}, policy={"required": True}, seconds={"type": int, "default": 20},
        size={"default": "1g"})
    made.add_argument("fio", nargs="*")
    made = command(
        copying, **shared, source={"required": True}, target={"required": True}, seconds={"type": int, "default": 20},
        size={"default": "1g"})
    made.add_argument("fio", nargs="*")
    made = command(
        snapshots, nbd={"required": True}, volume={"required": True}, raw={"required": True}, api={"required": True},
        token={"required": True}, blocks={"type": int, "required": True})
    made.add_argument("fio", nargs="*")
    made = command(table)
    for name in ("results", "store", "raw"):
        made.add_argument(name)
    options = parser.parse_args()
    options.function(options)


main()
