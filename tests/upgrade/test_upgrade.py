"""A host with running machines goes from the former release to this one."""

import os
from pathlib import Path

from godwit.base import settings
from godwit.testing import former
from godwit.testing.platform import ORGANIZATIONS, Platform, eventually, sh

APP = "hello-upgraded"


def upgrade(up: Platform) -> None:
    """Run this release's `godwit upgrade`, as an operator would after installing it."""
    old = former.built()
    old.renew_cache(settings.from_process().paths.cache)
    for name in old.environ:
        up.environ.pop(name)
        if name in os.environ:
            up.environ[name] = os.environ[name]
    up.godwit("upgrade", timeout=400)


def vmm_of(machine: str) -> set[str]:
    return set(sh("pgrep", "-f", f"godwit-{machine}").stdout.split())


def shim_of(machine: str) -> str:
    return sh("pgrep", "-f", f"godwit-shim --config .*{machine}").stdout.split()[0]


def test_machines_of_the_former_release_run_on_under_this_one(
    former_platform: Platform, source: Path
) -> None:
    up = former_platform
    up.godwit(
        "launch",
        "--name",
        APP,
        "--org",
        ORGANIZATIONS[0],
        "--yes",
        "--offline",
        "--force-host-build",
        cwd=source,
    )
    (machine,) = up.machines(APP)
    name = machine["id"]
    boot = up.exec(APP, name, "cat", "/proc/sys/kernel/random/boot_id")["stdout"]
    shim, vmms = shim_of(name), vmm_of(name)
    upgrade(up)
    # It is the same VM under the same shim, and everything that is asked of it works.
    assert (shim_of(name), vmm_of(name)) == (shim, vmms)
    (adopted,) = up.machines(APP)
    assert (adopted["state"], adopted["instance_id"]) == ("started", machine["instance_id"])
    assert up.exec(APP, name, "cat", "/proc/sys/kernel/random/boot_id")["stdout"] == boot
    assert eventually(lambda: up.get(APP).status_code == 200)
    assert up.godwit("logs", "-a", APP, "--no-tail").strip()
    assert up.json("releases", "-a", APP)
    up.godwit("machine", "stop", name, "-a", APP)
    eventually(lambda: up.machines(APP)[0]["state"] == "stopped")
    exits = [e for e in up.machines(APP)[0]["events"] if e["type"] == "exit"]
    assert exits[0]["request"]["exit_event"]["requested_stop"] is True
    # What the former release made, this one starts by its own means.
    up.godwit("machine", "start", name, "-a", APP)
    eventually(lambda: up.machines(APP)[0]["state"] == "started")
    assert eventually(lambda: up.get(APP).status_code == 200)
