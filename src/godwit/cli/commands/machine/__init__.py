"""`godwit machine`: the table of its commands; what they do is in the files beside.

look.py    list, status
run.py     run
change.py  start, stop, restart, destroy, cordon, uncordon
use.py     exec, wait
"""

from godwit.cli import tree
from godwit.cli.commands.machine import change, look, run, use

app = tree.group("Run and manage single machines.")

app.command(
    "list", epilog=tree.examples("godwit machine list", "godwit machine list --app hello --json")
)(look.list_)
app.command(
    "status",
    epilog=tree.examples("godwit machine status 148e21a5b3c9d0", "godwit m status web -d"),
)(look.status)
app.command(
    "run",
    epilog=tree.examples(
        "godwit machine run nginx --app web --port 80/tcp:http",
        "godwit machine run python:3.11-slim --rm -a tools -- python -c 'print(1)'",
    ),
)(run.run)
app.command("start", epilog=tree.examples("godwit machine start 148e21a5b3c9d0"))(change.start)
app.command(
    "stop",
    epilog=tree.examples(
        "godwit machine stop 148e21a5b3c9d0", "godwit machine stop web --signal SIGTERM --wait"
    ),
)(change.stop)
app.command("restart", epilog=tree.examples("godwit machine restart 148e21a5b3c9d0"))(
    change.restart
)
app.command(
    "destroy",
    epilog=tree.examples(
        "godwit machine destroy 148e21a5b3c9d0 --yes", "godwit machine destroy web --force --yes"
    ),
)(change.destroy)
app.command("cordon", epilog=tree.examples("godwit machine cordon 148e21a5b3c9d0"))(change.cordon)
app.command("uncordon", epilog=tree.examples("godwit machine uncordon 148e21a5b3c9d0"))(
    change.uncordon
)
app.command(
    "exec",
    epilog=tree.examples(
        "godwit machine exec 148e21a5b3c9d0 -- uname -a",
        "godwit machine exec web --timeout 30 -- sh -c 'ls | wc -l'",
    ),
)(use.exec_)
app.command(
    "wait",
    epilog=tree.examples(
        "godwit machine wait 148e21a5b3c9d0 --state started",
        "godwit machine wait web --state stopped --wait-timeout 1m",
    ),
)(use.wait)
