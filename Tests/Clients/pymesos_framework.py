"""A framework made with the genuine pymesos client: runs one command task to its end and one that it kills.

Usage: pymesos_framework.py HOST:PORT. Exits 0 when all states came as the protocol promises.
"""
import sys
import threading
import time
import uuid

from addict import Dict
from pymesos import MesosSchedulerDriver, Scheduler


class Two(Scheduler):
    def __init__(self):
        self.states = {}
        self.launched = False
        self.reconciled = threading.Event()
        self.done = threading.Event()
        self.suffix = uuid.uuid4().hex[:8]

    def task(self, name, command, offer):
        task = Dict()
        task.task_id.value = "%s-%s" % (name, self.suffix)
        task.agent_id.value = offer.agent_id.value
        task.name = name
        task.command.value = command
        task.resources = [
            dict(name="cpus", type="SCALAR", scalar={"value": 0.1}),
            dict(name="mem", type="SCALAR", scalar={"value": 32}),
        ]
        return task

    def resourceOffers(self, driver, offers):
        for offer in offers:
            if self.launched:
                driver.declineOffer(offer.id, Dict(refuse_seconds=60))
                continue
            self.launched = True
            tasks = [self.task("short", "echo held", offer), self.task("long", "sleep 600", offer)]
            driver.launchTasks(offer.id, tasks, Dict(refuse_seconds=60))

    def statusUpdate(self, driver, update):
        name = update.task_id.value.split("-")[0]
        if update.get("reason") == "REASON_RECONCILIATION":
            self.reconciled.set()
            return
        self.states.setdefault(name, []).append(update.state)
        if name == "long" and update.state == "TASK_RUNNING":
            driver.reconcileTasks([])
            driver.killTask(Dict(value=update.task_id.value))
        ended = [s[-1] for s in self.states.values()]
        if len(ended) == 2 and all(s in ("TASK_FINISHED", "TASK_KILLED", "TASK_FAILED", "TASK_LOST") for s in ended):
            self.done.set()

    def error(self, driver, message):
        print("error:", message)
        self.done.set()


def main(master):
    framework = Dict()
    framework.user = "root"
    framework.name = "pymesos-check"
    framework.hostname = "localhost"
    scheduler = Two()
    driver = MesosSchedulerDriver(scheduler, framework, master, use_addict=True)
    driver.start()
    finished = scheduler.done.wait(90)
    driver.stop()
    driver.join()
    print(scheduler.states)
    good = (
        finished
        and scheduler.states.get("short", [None])[-1] == "TASK_FINISHED"
        and "TASK_RUNNING" in scheduler.states.get("short", [])
        and scheduler.states.get("long", [None])[-1] == "TASK_KILLED"
        and scheduler.reconciled.is_set()
    )
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
