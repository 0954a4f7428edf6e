"""A framework made with the genuine pymesos client that finds its master through ZooKeeper and outlives it.

Usage: pymesos_failover.py zk://HOST:PORT,HOST:PORT/PATH. Starts a task, prints "running", and waits for a line on standard
input, before which somebody ends the leading master. Exits 0 when the next master took the framework back under its id, knows
the task by reconciliation, and kills it when asked.
"""
import sys
import threading
import uuid

from addict import Dict
from pymesos import MesosSchedulerDriver, Scheduler


class One(Scheduler):
    def __init__(self):
        self.task_id = "one-" + uuid.uuid4().hex[:8]
        self.launched = False
        self.framework_ids = []
        self.states = []
        self.masters = []
        self.running = threading.Event()
        self.again = threading.Event()
        self.reconciled = threading.Event()
        self.ended = threading.Event()

    def registered(self, driver, framework_id, master):
        self.framework_ids.append(framework_id.value)
        self.masters.append(master.port)

    def reregistered(self, driver, master):
        self.framework_ids.append(driver.framework_id)
        self.masters.append(master.port)
        self.again.set()

    def resourceOffers(self, driver, offers):
        for offer in offers:
            if self.launched:
                driver.declineOffer(offer.id, Dict(refuse_seconds=60))
                continue
            self.launched = True
            task = Dict(name="one", command=dict(value="sleep 600"))
            task.task_id.value = self.task_id
            task.agent_id.value = offer.agent_id.value
            task.resources = [
                dict(name="cpus", type="SCALAR", scalar={"value": 0.1}),
                dict(name="mem", type="SCALAR", scalar={"value": 32}),
            ]
            driver.launchTasks(offer.id, [task], Dict(refuse_seconds=60))

    def statusUpdate(self, driver, update):
        self.states.append(update.state)
        if update.get("reason") == "REASON_RECONCILIATION":
            if update.state == "TASK_RUNNING":
                self.reconciled.set()
        elif update.state == "TASK_RUNNING":
            self.running.set()
        elif update.state != "TASK_STARTING":
            self.ended.set()

    def error(self, driver, message):
        print("error:", message, flush=True)
        self.ended.set()


def main(place):
    framework = Dict(user="root", name="pymesos-failover", hostname="localhost", failover_timeout=600)
    scheduler = One()
    driver = MesosSchedulerDriver(scheduler, framework, place, use_addict=True)
    driver.start()
    try:
        if not scheduler.running.wait(60):
            return "the task did not start: %s" % scheduler.states
        print("running", flush=True)
        sys.stdin.readline()
        if not scheduler.again.wait(60):
            return "no other master took the framework back"
        if len(set(scheduler.framework_ids)) != 1 or len(set(scheduler.masters)) < 2:
            return "ids %s, masters %s" % (scheduler.framework_ids, scheduler.masters)
        # The agent may come back to the new master after the framework.
        for _ in range(30):
            driver.reconcileTasks([])
            if scheduler.reconciled.wait(2):
                break
        else:
            return "the new master does not know the task: %s" % scheduler.states
        if scheduler.ended.is_set():
            return "the task ended with the master: %s" % scheduler.states
        driver.killTask(Dict(value=scheduler.task_id))
        if not scheduler.ended.wait(60) or scheduler.states[-1] != "TASK_KILLED":
            return "the task was not killed: %s" % scheduler.states
        return None
    finally:
        driver.stop()
        driver.join()


if __name__ == "__main__":
    reason = main(sys.argv[1])
    if reason:
        print(reason)
    sys.exit(1 if reason else 0)
