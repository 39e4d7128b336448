"""`godwit machine`: the table of its commands; what they do is in the files beside.

look.py      list, status
history.py   events, versions
run.py       run, create
copies.py    clone, update
place.py     place
move.py      move
change.py    start, stop, suspend, restart, signal, kill, destroy, cordon, uncordon
use.py       exec, wait
inside.py    ps, cpu, memory
leases.py    leases view, leases clear
metadata.py  metadata show, metadata set, metadata unset
"""

from godwit.cli import tree
from godwit.cli.commands.machine import (
    change,
    copies,
    history,
    inside,
    leases,
    look,
    metadata,
    move,
    place,
    run,
    use,
)

app = tree.group("Run and manage single machines.")

app.command(
    "list", epilog=tree.examples("godwit machine list", "godwit machine list --app hello --json")
)(look.list_)
app.command(
    "status",
    epilog=tree.examples("godwit machine status 148e21a5b3c9d0", "godwit m status web -d"),
)(look.status)
app.command(
    "events",
    epilog=tree.examples(
        "godwit machine events 148e21a5b3c9d0", "godwit machine events web --limit 50 --json"
    ),
)(history.events)
app.command(
    "versions",
    epilog=tree.examples(
        "godwit machine versions 148e21a5b3c9d0", "godwit machine versions web --json"
    ),
)(history.versions)
app.command(
    "run",
    epilog=tree.examples(
        "godwit machine run nginx --app web --port 80/tcp:http",
        "godwit machine run python:3.11-slim --rm -a tools -- python -c 'print(1)'",
        "godwit machine run worker --standby-for 148e21a5b3c9d0",
        "godwit machine run cleaner --schedule hourly",
        "godwit machine run . --app tools --command 'python report.py'",
    ),
)(run.run)
app.command(
    "create",
    epilog=tree.examples("godwit machine create nginx --app web --name spare --region fra"),
)(run.create)
app.command(
    "clone",
    epilog=tree.examples(
        "godwit machine clone 148e21a5b3c9d0",
        "godwit machine clone web --region fra --name web-2",
        "godwit machine clone worker --standby-for source",
    ),
)(copies.clone)
app.command(
    "update",
    epilog=tree.examples(
        "godwit machine update web --image nginx:1.27",
        "godwit machine update web --vm-memory 512 --env LOG=debug --yes",
        "godwit machine update cleaner --schedule daily --skip-start",
    ),
)(copies.update)
app.command(
    "place",
    epilog=tree.examples(
        "godwit machine place --vm-size performance-1x",
        "godwit machine place --count 3 --region fra,ams --weights spread=10",
    ),
)(place.place)
app.command(
    "move",
    epilog=tree.examples(
        "godwit machine move 148e21a5b3c9d0 --region fra",
        "godwit machine move web --detach",
        "godwit machine move web --cancel",
    ),
)(move.move)
app.command("start", epilog=tree.examples("godwit machine start 148e21a5b3c9d0"))(change.start)
app.command(
    "stop",
    epilog=tree.examples(
        "godwit machine stop 148e21a5b3c9d0", "godwit machine stop web --signal SIGTERM --wait"
    ),
)(change.stop)
app.command(
    "suspend",
    epilog=tree.examples(
        "godwit machine suspend 148e21a5b3c9d0", "godwit machine suspend web --wait"
    ),
)(change.suspend)
app.command(
    "signal",
    epilog=tree.examples("godwit machine signal web --signal SIGHUP"),
)(change.signal)
app.command("kill", epilog=tree.examples("godwit machine kill 148e21a5b3c9d0"))(change.kill)
app.command("restart", epilog=tree.examples("godwit machine restart 148e21a5b3c9d0"))(
    change.restart
)
app.command(
    "destroy",
    epilog=tree.examples(
        "godwit machine destroy 148e21a5b3c9d0 --yes",
        "godwit machine destroy web --force --yes",
        "godwit machine destroy --image nginx:1.25 --yes",
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
app.command(
    "ps",
    epilog=tree.examples(
        "godwit machine ps 148e21a5b3c9d0", "godwit machine ps web --sort-by rss --desc"
    ),
)(inside.ps)
app.command(
    "cpu",
    epilog=tree.examples("godwit machine cpu 148e21a5b3c9d0", "godwit machine cpu web --json"),
)(inside.cpu)
app.command(
    "memory",
    epilog=tree.examples(
        "godwit machine memory 148e21a5b3c9d0",
        "godwit machine memory web --limit 512",
        "godwit machine memory web --reclaim 64",
    ),
)(inside.memory)

_leases = tree.group("See who alone may change machines, and end what was left behind.")
_leases.command(
    "view",
    epilog=tree.examples("godwit machine leases view", "godwit machine leases view web --json"),
)(leases.view)
_leases.command(
    "clear",
    epilog=tree.examples(
        "godwit machine leases clear 148e21a5b3c9d0", "godwit machine leases clear --app web"
    ),
)(leases.clear)
app.add_typer(_leases, name="leases")

_metadata = tree.group("Show and change the metadata of machines.")
_metadata.command(
    "show",
    epilog=tree.examples(
        "godwit machine metadata show 148e21a5b3c9d0", "godwit machine metadata show web --json"
    ),
)(metadata.show)
_metadata.command(
    "set", epilog=tree.examples("godwit machine metadata set web role=leader color=blue")
)(metadata.set_)
_metadata.command("unset", epilog=tree.examples("godwit machine metadata unset web color"))(
    metadata.unset
)
app.add_typer(_metadata, name="metadata")
