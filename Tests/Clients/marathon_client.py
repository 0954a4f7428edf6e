"""Drives a Marathon through the PyPI client `marathon`: python marathon_client.py URL."""
import collections
import collections.abc
import sys
import time

# marathon 0.13.0 looks these up where Python kept them before 3.10.
for name in ("Iterable", "Mapping", "MutableMapping", "Sequence"):
    setattr(collections, name, getattr(collections.abc, name))

from marathon import MarathonClient  # noqa: E402
from marathon.exceptions import MarathonHttpError, NotFoundError  # noqa: E402
from marathon.models import MarathonApp  # noqa: E402


def wait(what, condition):
    end = time.monotonic() + 60
    while time.monotonic() < end:
        if condition():
            return
        time.sleep(0.2)
    sys.exit("%s did not happen in time" % what)


client = MarathonClient(sys.argv[1])
assert b"pong" in client.ping()
app = client.create_app("/client/web", MarathonApp(cmd="sleep 1000", cpus=0.1, mem=32, instances=1))
assert app.id == "/client/web" and app.deployments, app
wait("the first task", lambda: len([t for t in client.list_tasks("/client/web") if t.state == "TASK_RUNNING"]) == 1)
wait("the end of the deployment", lambda: not client.list_deployments())
assert client.get_info().name == "marathon"

client.scale_app("/client/web", instances=2)
wait("the second task", lambda: client.get_app("/client/web").tasks_running == 2)
wait("the end of scaling", lambda: not client.list_deployments())

victim = client.list_tasks("/client/web")[0]
client.kill_task("/client/web", victim.id)
wait("the replacement", lambda: victim.id not in [t.id for t in client.list_tasks("/client/web")]
     and client.get_app("/client/web").tasks_running == 2)

try:
    client.create_app("/client/web", MarathonApp(cmd="true"))
    sys.exit("a second app of the same id was accepted")
except MarathonHttpError as error:
    assert error.status_code == 409, error

assert len(client.list_versions("/client/web")) >= 1
assert [a.id for a in client.list_apps()] == ["/client/web"]
assert client.list_queue() is not None

client.delete_app("/client/web")
wait("the end of all tasks", lambda: not client.list_tasks())
try:
    client.get_app("/client/web")
    sys.exit("the app is still there")
except NotFoundError:
    pass
print("ok")
