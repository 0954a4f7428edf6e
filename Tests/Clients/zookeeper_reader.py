"""Reads with the genuine kazoo client what masters leave in ZooKeeper, as their other clients do.

Usage: zookeeper_reader.py HOST:PORT,HOST:PORT/PATH. Prints the leading master's HOST:PORT.
"""
import json
import sys

from kazoo.client import KazooClient


def main(place):
    servers, path = place.split("/", 1)
    client = KazooClient(servers)
    client.start(timeout=20)
    try:
        children = sorted(client.get_children("/" + path))
        strangers = [child for child in children if not child.startswith("json.info_")]
        if strangers or not children:
            print("below the path are", children)
            return 1
        content, stat = client.get("/%s/%s" % (path, children[0]))
        if stat.ephemeralOwner == 0:
            print(children[0], "stays when its master goes")
            return 1
        master = json.loads(content.decode("utf-8"))
        for field in ("id", "pid", "hostname", "version", "address", "port"):
            if field not in master:
                print("MasterInfo lacks", field)
                return 1
        print("%s:%d" % (master["address"]["ip"], master["address"]["port"]))
        return 0
    finally:
        client.stop()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
