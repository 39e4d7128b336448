"""The systemd unit of a host: `godwit host units` prints it. Source: systemd.service(5).

One unit, because `godwit up` is the supervisor of everything else. Systemd signals it alone
(`KillMode=process`): on `stop` it puts the machines aside and takes down what it made; on
`godwit upgrade` it leaves the machines to its successor, which `Restart=always` starts.
"""

from pathlib import Path

NAME = "godwit.service"


def render(program: Path, settings: Path | None) -> str:
    """Return the unit's text.

    Args:
        program: The `godwit` program.
        settings: The settings file that `up` is told; `None` for the usual one.
    """
    told = f" --settings {_quoted(settings)}" if settings is not None else ""
    return f"""\
[Unit]
Description=Godwit, this host's part of the platform
Wants=network-online.target
After=network-online.target time-sync.target
StartLimitIntervalSec=0

[Service]
Type=notify
NotifyAccess=main
ExecStart={_quoted(program)} up{told}
Restart=always
RestartSec=2
RestartPreventExitStatus=5
KillMode=process
TimeoutStartSec=600
TimeoutStopSec=300
LimitNOFILE=1048576
TasksMax=infinity
OOMScoreAdjust=-900

[Install]
WantedBy=multi-user.target
"""


def under_systemd(pid: int, proc: Path = Path("/proc")) -> bool:
    """Tell whether a process is the main one of a unit: then systemd starts its successor."""
    try:
        variables = (proc / str(pid) / "environ").read_bytes().split(b"\0")
        named = (proc / str(pid) / "cgroup").read_text()
    except OSError:
        return False
    return any(one.startswith(b"INVOCATION_ID=") for one in variables) and f"/{NAME}" in named


def _quoted(path: Path) -> str:
    """Return a path as systemd reads it: specifiers and quotes stand for themselves."""
    text = str(path)
    for special, meant in (("\\", "\\\\"), ('"', '\\"'), ("%", "%%"), ("$", "$$")):
        text = text.replace(special, meant)
    return f'"{text}"' if set(text) & set(" \t'\"\\;$") else text
