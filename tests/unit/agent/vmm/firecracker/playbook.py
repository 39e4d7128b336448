"""What Firecracker answers to what, in order: run against the fake and against the real program.

Each scene is a fresh process in a directory of its own, in which `kernel`, `root` and `scratch`
are files. A line is a request, the status it gets, and words that are in the answer.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

NOT_BEFORE = "The requested operation is not supported before starting the microVM."
NOT_AFTER = "The requested operation is not supported after starting the microVM."
MISFIT = "An error occurred when deserializing the json body of a request: "


class Line(NamedTuple):
    """One request and what must come of it."""

    request: str
    body: Any = None
    status: int = 204
    words: str = ""

    @property
    def content(self) -> bytes:
        """Return the body as it is sent."""
        if self.body is None:
            return b""
        return self.body if isinstance(self.body, bytes) else json.dumps(self.body).encode()


MACHINE = {"vcpu_count": 1, "mem_size_mib": 128}
ROOT = {
    "drive_id": "root",
    "path_on_host": "root",
    "is_root_device": True,
    "is_read_only": True,
}
SCRATCH = {
    "drive_id": "scratch",
    "path_on_host": "scratch",
    "is_root_device": False,
    "is_read_only": False,
}
VSOCK = {"guest_cid": 3, "uds_path": "v.sock"}
BALLOON = {"amount_mib": 0, "deflate_on_oom": True}
KERNEL = {"kernel_image_path": "kernel", "boot_args": "console=ttyS0"}
LOAD = {
    "snapshot_path": "state",
    "mem_backend": {"backend_path": "memory", "backend_type": "File"},
}
SAVE = {"snapshot_path": "state", "mem_file_path": "memory", "snapshot_type": "Full"}
ONLY_AFTER = (
    ("PATCH /vm", {"state": "Paused"}),
    ("PATCH /vm", {"state": "Resumed"}),
    ("PATCH /drives/root", {"drive_id": "root"}),
    ("PATCH /network-interfaces/net", {"iface_id": "net"}),
    ("PATCH /balloon", {"amount_mib": 0}),
    ("GET /balloon/statistics", None),
    ("PUT /snapshot/create", SAVE),
    ("PUT /actions", {"action_type": "SendCtrlAltDel"}),
)
ONLY_BEFORE = (
    ("PUT /machine-config", MACHINE),
    ("PATCH /machine-config", {"mem_size_mib": 128}),
    ("PUT /boot-source", KERNEL),
    ("PUT /vsock", VSOCK),
    ("PUT /balloon", BALLOON),
    ("PUT /entropy", {}),
    ("PUT /snapshot/load", LOAD),
    ("PUT /actions", {"action_type": "InstanceStart"}),
)


def fresh() -> Iterator[Line]:
    """A process nobody told anything."""
    yield Line("GET /", status=200, words='"state":"Not started"')
    yield Line("GET /version", status=200, words='"firecracker_version"')
    yield Line("GET /machine-config", status=200, words='"mem_size_mib":128')
    yield Line("GET /balloon", status=400, words="No balloon device found.")
    for request, body in ONLY_AFTER:
        yield Line(request, body, 400, NOT_BEFORE)
    start = {"action_type": "InstanceStart"}
    yield Line("PUT /actions", start, 400, "Cannot start microvm without kernel configuration.")


def wrong_requests() -> Iterator[Line]:
    """What no process understands."""
    yield Line("GET /nope", None, 400, "Invalid request method and/or path: GET nope.")
    yield Line("PUT /vm", {"state": "Paused"}, 400, "Invalid request method and/or path: PUT vm.")
    yield Line("PUT /snapshot/what", {}, 400, "PUT /snapshot/what.")
    yield Line("GET /", {}, 400, "GET request cannot have a body.")
    yield Line("PUT /actions", None, 400, "Empty PUT request.")
    yield Line("PATCH /machine-config", {}, 400, "Empty PATCH request.")
    yield Line("PUT /drives", {}, 400, "The ID cannot be empty.")
    yield Line("PUT /drives/a-b", {}, 400, "alphanumeric characters and underscores.")


def wrong_bodies() -> Iterator[Line]:
    """What misses its type."""
    path = "PUT /machine-config"
    yield Line(path, b"not json", 400, MISFIT + "expected ident")
    yield Line(path, {**MACHINE, "x": 1}, 400, MISFIT + "unknown field `x`, expected one of")
    yield Line(path, {"vcpu_count": 1}, 400, MISFIT + "missing field `mem_size_mib`")
    yield Line(path, {**MACHINE, "vcpu_count": "1"}, 400, 'invalid type: string "1", expected u8')
    yield Line(path, {**MACHINE, "vcpu_count": 300}, 400, "integer `300`, expected u8")
    yield Line(path, {**MACHINE, "vcpu_count": 33}, 400, "The number of vCPUs must be greater")
    yield Line(path, {**MACHINE, "vcpu_count": 0}, 400, "The number of vCPUs must be greater")
    yield Line(path, {**MACHINE, "mem_size_mib": 0}, 400, "memory size (MiB) is either 0")
    yield Line("PATCH /vm", {"state": "Gone"}, 400, "unknown variant `Gone`, expected `Paused` or")
    yield Line("PUT /vsock", {"guest_cid": 3}, 400, "missing field `uds_path`")
    yield Line("PUT /snapshot/load", {"snapshot_path": "state"}, 400, "missing field: either")
    both = {**LOAD, "mem_file_path": "memory"}
    yield Line("PUT /snapshot/load", both, 400, "too many fields: either")


def configuring() -> Iterator[Line]:
    """Sections one by one, again and again, and what each does not take."""
    yield Line("PUT /machine-config", MACHINE)
    yield Line("PUT /machine-config", MACHINE)
    yield Line("PATCH /machine-config", {"mem_size_mib": 192})
    yield Line("GET /machine-config", status=200, words='"mem_size_mib":192')
    yield Line("PUT /boot-source", {"kernel_image_path": "nope"}, 400, "The kernel file cannot be")
    no_initrd = {"kernel_image_path": "kernel", "initrd_path": "nope"}
    yield Line("PUT /boot-source", no_initrd, 400, "The initrd file cannot be opened")
    yield Line("PUT /boot-source", KERNEL)
    missing = {**ROOT, "path_on_host": "nope"}
    yield Line("PUT /drives/root", missing, 400, "No such file or directory (os error 2) nope")
    yield Line("PUT /drives/other", ROOT, 400, "does not match the id from the body!")
    pathless = {"drive_id": "root", "is_root_device": True, "is_read_only": True}
    yield Line("PUT /drives/root", pathless, 400, "Invalid block config.")
    yield Line("PUT /drives/root", ROOT)
    yield Line("PUT /drives/root", ROOT)
    second = {**SCRATCH, "is_root_device": True}
    yield Line("PUT /drives/scratch", second, 400, "A root block device already exists!")
    yield Line("PUT /drives/scratch", SCRATCH)
    other = {"iface_id": "other", "host_dev_name": "fct0"}
    yield Line("PUT /network-interfaces/net", other, 400, "[net] does not match the id from")
    yield Line("PUT /vsock", VSOCK)
    yield Line("PUT /balloon", {**BALLOON, "amount_mib": 500}, 400, "requested is too large.")
    yield Line("PUT /balloon", BALLOON)
    yield Line("GET /balloon", status=200, words='"free_page_reporting":false')
    small = {**MACHINE, "mem_size_mib": 8}
    yield Line("PUT /balloon", {**BALLOON, "amount_mib": 16})
    yield Line("PUT /machine-config", small, 400, "smaller than the previously set balloon")
    yield Line("PUT /entropy", {})
    yield Line("PUT /snapshot/load", LOAD, 400, "not allowed after configuring boot-specific")
    yield Line("GET /", status=200, words='"state":"Not started"')


def loading_nothing() -> Iterator[Line]:
    """A snapshot that is not there ends the process, after it said so."""
    yield Line("PUT /snapshot/load", LOAD, 400, "Failed to open snapshot file: No such file")


def started() -> Iterator[Line]:
    """A machine that was configured and started: needs KVM, but no guest that gets anywhere."""
    yield Line("PUT /machine-config", MACHINE)
    yield Line("PUT /boot-source", KERNEL)
    yield Line("PUT /drives/root", ROOT)
    yield Line("PUT /drives/scratch", SCRATCH)
    yield Line("PUT /vsock", VSOCK)
    yield Line("PUT /balloon", {**BALLOON, "stats_polling_interval_s": 1})
    yield Line("PUT /actions", {"action_type": "InstanceStart"})
    yield Line("GET /", status=200, words='"state":"Running"')
    for request, body in ONLY_BEFORE:
        yield Line(request, body, 400, NOT_AFTER)
    yield Line("GET /balloon/statistics", status=200, words='"actual_mib":0')
    yield Line("PATCH /balloon", {"amount_mib": 16}, 400, "Balloon: Device not activated yet.")
    yield Line("PATCH /drives/nope", {"drive_id": "nope"}, 400, "Device not found")
    moved = {"drive_id": "scratch", "path_on_host": "nope"}
    yield Line("PATCH /drives/scratch", moved, 400, "No such file or directory (os error 2) nope")
    rates = {"ops": {"size": 10, "refill_time": 1000}}
    yield Line("PATCH /drives/scratch", {"drive_id": "scratch", "rate_limiter": rates})
    unlimited = {"ops": {"size": 0, "refill_time": 0}, "bandwidth": {"size": 0, "refill_time": 0}}
    yield Line("PATCH /drives/scratch", {"drive_id": "scratch", "rate_limiter": unlimited})
    yield Line("PATCH /network-interfaces/no", {"iface_id": "no"}, 400, "Device not found")
    yield Line("PATCH /vm", {"state": "Resumed"})
    yield Line("PUT /snapshot/create", SAVE, 400, "save/restore unavailable while running")


def paused() -> Iterator[Line]:
    """The same machine, standing still and saved."""
    yield Line("PATCH /vm", {"state": "Paused"})
    yield Line("PATCH /vm", {"state": "Paused"})
    yield Line("GET /", status=200, words='"state":"Paused"')
    for request, body in ONLY_BEFORE:
        yield Line(request, body, 400, NOT_AFTER)
    nowhere = {**SAVE, "snapshot_path": "no/state"}
    yield Line("PUT /snapshot/create", nowhere, 400, "Cannot perform open on the snapshot backing")
    yield Line("PUT /snapshot/create", SAVE)
    yield Line("GET /", status=200, words='"state":"Paused"')


def cloned() -> Iterator[Line]:
    """A fresh process that becomes the saved machine, with another socket."""
    yield Line("PUT /snapshot/load", {**LOAD, "vsock_override": {"uds_path": "w.sock"}})
    yield Line("GET /", status=200, words='"state":"Paused"')
    yield Line("GET /machine-config", status=200, words='"mem_size_mib":128')
    yield Line("PATCH /drives/scratch", {"drive_id": "scratch", "path_on_host": "scratch"})
    yield Line("PATCH /vm", {"state": "Resumed"})
    yield Line("GET /", status=200, words='"state":"Running"')
    yield Line("PATCH /vm", {"state": "Paused"})
    again = {"snapshot_path": "again", "mem_file_path": "again.memory"}
    yield Line("PUT /snapshot/create", again)


def cloned_wrongly() -> Iterator[Line]:
    """A saved machine has no such interface; that ends the process."""
    override = {"iface_id": "nope", "host_dev_name": "fct0"}
    yield Line("PUT /snapshot/load", {**LOAD, "network_overrides": [override]}, 400, "Unknown Net")


BEFORE = (fresh, wrong_requests, wrong_bodies, configuring, loading_nothing)
"""Scenes that need no KVM."""
ENDING = {"loading_nothing", "cloned_wrongly"}
"""Scenes after which the process has ended."""


def furnish(folder: Path, kernel: bytes = b"no kernel") -> None:
    """Make the files a scene works on."""
    (folder / "kernel").write_bytes(kernel)
    for name, size in (("root", 1 << 20), ("scratch", 1 << 20)):
        with (folder / name).open("wb") as file:
            file.truncate(size)
