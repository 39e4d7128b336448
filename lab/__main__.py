"""`python -m lab up|status|cut|heal|slow|kill|start|clock|storm|exec|down`: the lab for people."""

import argparse
import os
import secrets
import sys
from collections.abc import Callable
from pathlib import Path

from godwit.base import errors
from lab import cluster, plan, storm
from lab.laboratory import Lab

COMMANDS: dict[str, Callable[[argparse.Namespace], None]] = {}
"""What there is to do, by its word; filled by `parser`."""


def main(argv: list[str] | None = None) -> int:
    """Do one thing; return the exit code."""
    given = parser().parse_args(argv)
    try:
        COMMANDS[given.command](given)
    except errors.Failure as failure:
        hint = f"\n{failure.hint}" if failure.hint else ""
        print(f"lab: {failure.message}{hint}", file=sys.stderr)
        return 1
    return 0


def parser() -> argparse.ArgumentParser:
    """Return what reads the command line."""
    whole = argparse.ArgumentParser(prog="python -m lab", description=__doc__)
    whole.add_argument("--name", default="lab", help="which lab of this machine")
    commands = whole.add_subparsers(dest="command", required=True)

    made = _command(commands, "up", _up, "make a lab and bring its hosts up")
    made.add_argument("--plan", type=Path, help="a TOML file; the following are for a simple one")
    made.add_argument("--regions", default="fra", help="codes, by commas")
    made.add_argument("--hosts", type=int, default=1, help="in each region")
    made.add_argument("--clients", type=int, default=1, help="in each region")
    made.add_argument("--delay", type=float, help="between regions, ms; by distance if not given")
    made.add_argument("--bare", action="store_true", help="leave Godwit down on the hosts")

    _command(commands, "status", _status, "show nodes and links")

    cut = _command(commands, "cut", _cut, "let nothing pass")
    cut.add_argument("a", help="a region, or a host or client")
    cut.add_argument("b", nargs="?", help="another region; all others if not given")
    cut.add_argument("--one-way", action="store_true", help="only what the first sends is lost")

    heal = _command(commands, "heal", _heal, "undo a cut")
    heal.add_argument("a")
    heal.add_argument("b", nargs="?")

    slow = _command(commands, "slow", _slow, "change a link; without options it is as planned")
    slow.add_argument("a")
    slow.add_argument("b")
    slow.add_argument("--delay", type=float, help="one way, ms")
    slow.add_argument("--loss", type=float, help="share of packets lost, 0 to 1")

    kill = _command(commands, "kill", _kill, "signal a host's component, or cut its power")
    kill.add_argument("host")
    kill.add_argument("component", nargs="?", help="the whole host if not given")
    kill.add_argument("--signal", default="KILL", help="KILL, STOP, CONT, …")

    clock = _command(commands, "clock", _clock, "set a host's clock wrong, from its next start on")
    clock.add_argument("host")
    clock.add_argument("ahead", type=int, help="seconds; negative is behind, 0 is right")

    _command(commands, "start", _start, "start a host again").add_argument("host")

    storm = _command(commands, "storm", _storm, "faults by chance; at the end all is as it was")
    storm.add_argument("--seed", type=int, help="the same faults again; by chance if not given")
    storm.add_argument("--for", type=float, default=60.0, dest="for_s", help="seconds")

    inside = _command(commands, "exec", _exec, "run a command in a node")
    inside.add_argument("--cwd", type=Path, help="a directory of this machine")
    inside.add_argument("node")
    inside.add_argument("argv", nargs=argparse.REMAINDER, help="the command; a shell if none")

    _command(commands, "down", _down, "end the lab; nothing of it is left")
    return whole


def _command(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]",
    name: str,
    does: Callable[[argparse.Namespace], None],
    text: str,
) -> argparse.ArgumentParser:
    COMMANDS[name] = does
    return commands.add_parser(name, help=text, description=text)


def _up(given: argparse.Namespace) -> None:
    if given.plan:
        wanted = plan.read(given.plan)
    else:
        wanted = plan.simple(
            given.name,
            tuple(given.regions.split(",")),
            hosts=given.hosts,
            clients=given.clients,
            delay_ms=given.delay,
        )
    lab = Lab(wanted)
    lab.start()
    if lab.hosts and not given.bare:
        cluster.start(lab, lambda said: print(said, flush=True))
    _show(lab)


def _status(given: argparse.Namespace) -> None:
    _show(Lab.find(given.name))


def _show(lab: Lab) -> None:
    if not lab.up:
        raise errors.Failure(
            "unavailable",
            f"lab {lab.plan.name} has ended",
            hint="`python -m lab down` removes what is left of it",
        )
    hosts = lab.hosts
    for node in (*lab.routers.values(), *hosts.values(), *lab.clients.values()):
        state = "up" if node.up else "without power"
        if node.up and node.name in hosts:
            state = ", ".join(hosts[node.name].components()) or "Godwit is down"
        print(f"{node.name:8} {node.addresses.v4!s:15} {node.addresses.v6!s:18} {state}")
    for name, what in lab.cut_cables().items():
        print(f"{name} is cut off: {', '.join(f'{verb} nothing' for verb in what)}")
    for way, report in lab.weather().items():
        one = report.condition
        state = "cut" if one.cut else f"{one.delay_ms:g} ms, loses {one.loss:.0%}"
        dropped = report.lost + report.cut_off + report.overflowed + report.refused
        late = f"{report.late_ms:.1f} ms late"
        print(f"{way:8} {state}; {report.passed} packets passed, {late}, {dropped} dropped")


def _cut(given: argparse.Namespace) -> None:
    Lab.find(given.name).cut(given.a, given.b, one_way=given.one_way)


def _heal(given: argparse.Namespace) -> None:
    Lab.find(given.name).heal(given.a, given.b)


def _slow(given: argparse.Namespace) -> None:
    Lab.find(given.name).slow(given.a, given.b, delay_ms=given.delay, loss=given.loss)


def _kill(given: argparse.Namespace) -> None:
    host = Lab.find(given.name).host(given.host)
    if given.component:
        host.signal(given.component, given.signal)
    else:
        host.lose_power()


def _clock(given: argparse.Namespace) -> None:
    Lab.find(given.name).host(given.host).set_clock(given.ahead)


def _start(given: argparse.Namespace) -> None:
    lab = Lab.find(given.name)
    host = lab.host(given.host)
    if not host.up:
        lab.give_power(host)
    host.start()


def _storm(given: argparse.Namespace) -> None:
    lab = Lab.find(given.name)
    seed = secrets.randbelow(1_000_000) if given.seed is None else given.seed
    print(f"seed {seed}", flush=True)
    storm.run(lab, storm.draw(lab.plan, seed, given.for_s), lambda event: print(event, flush=True))


def _exec(given: argparse.Namespace) -> None:
    node = Lab.find(given.name).node(given.node)
    argv = given.argv[1:] if given.argv[:1] == ["--"] else given.argv
    command = node.tree.enter(argv or ["bash", "--norc"], cwd=given.cwd)
    os.execvpe(command[0], command, node.environment)


def _down(given: argparse.Namespace) -> None:
    try:
        lab = Lab.find(given.name)
    except errors.Failure:
        print(f"there is no lab {given.name}")
        return
    lab.down()


if __name__ == "__main__":
    sys.exit(main())
