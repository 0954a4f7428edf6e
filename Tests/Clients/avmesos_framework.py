"""A framework made with the genuine avmesos client: runs one command task to its end and one that it kills.

Usage: avmesos_framework.py HOST:PORT | zk://HOST:PORT,HOST:PORT/PATH. Exits 0 when all states came as the
protocol promises.
"""
import sys
import threading
import uuid

from avmesos.client import MesosClient

ENDS = ("TASK_FINISHED", "TASK_KILLED", "TASK_FAILED", "TASK_LOST")


class Two:
    def __init__(self, client):
        self.client = client
        self.driver = None
        self.states = {}
        self.launched = False
        self.reconciled = threading.Event()
        self.done = threading.Event()
        self.suffix = uuid.uuid4().hex[:8]

    def task(self, name, command, offer):
        return {
            "task_id": {"value": "%s-%s" % (name, self.suffix)},
            "agent_id": offer["agent_id"],
            "name": name,
            "command": {"value": command},
            "resources": [
                {"name": "cpus", "type": "SCALAR", "scalar": {"value": 0.1}},
                {"name": "mem", "type": "SCALAR", "scalar": {"value": 32}},
            ],
        }

    def subscribed(self, driver):
        self.driver = driver

    def offers(self, offers):
        for offer in offers:
            filters = {"filters": {"refuse_seconds": 60}}
            if self.launched:
                offer.decline(filters)
                continue
            self.launched = True
            content = offer.get_offer()
            tasks = [self.task("short", "echo held", content), self.task("long", "sleep 600", content)]
            offer.accept(tasks, filters)

    def update(self, update):
        status = update["status"]
        name = status["task_id"]["value"].split("-")[0]
        if status.get("reason") == "REASON_RECONCILIATION":
            self.reconciled.set()
            self.driver.kill(status["agent_id"]["value"], status["task_id"]["value"])
            return
        self.states.setdefault(name, []).append(status["state"])
        if name == "long" and status["state"] == "TASK_RUNNING":
            self.driver.reconcile([{"task_id": status["task_id"], "agent_id": status["agent_id"]}])
        ended = [states[-1] for states in self.states.values()]
        if len(ended) == 2 and all(state in ENDS for state in ended):
            self.done.set()

    def error(self, message):
        print("error:", message)
        self.done.set()


def main(master):
    url = master if master.startswith("zk://") else "http://" + master
    client = MesosClient(mesos_urls=[url], frameworkName="avmesos-check", frameworkUser="root")
    framework = Two(client)
    client.on(MesosClient.SUBSCRIBED, framework.subscribed)
    client.on(MesosClient.OFFERS, framework.offers)
    client.on(MesosClient.UPDATE, framework.update)
    client.on(MesosClient.ERROR, framework.error)
    threading.Thread(target=client.register, daemon=True).start()
    finished = framework.done.wait(90)
    if framework.driver:
        framework.driver.tearDown()
    print(framework.states)
    good = (
        finished
        and framework.states.get("short", [None])[-1] == "TASK_FINISHED"
        and "TASK_RUNNING" in framework.states.get("short", [])
        and framework.states.get("long", [None])[-1] == "TASK_KILLED"
        and framework.reconciled.is_set()
    )
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
