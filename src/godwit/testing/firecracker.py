"""A Firecracker without a guest: its API over a Unix socket, its states, its rules, its refusals.

What may be asked before and after the start, what makes a snapshot unloadable, which fields each
body has and what happens to the process after a failed load are the real program's (release
1.16); `tests/unit/agent/vmm/firecracker/playbook.py` holds both to the same answers. Paths are
taken below a directory that stands for the jail. Tests may have a request fail or hang. Of the
API it has what Godwit uses: no logger, metrics, MMDS, serial, hot-plug or CPU templates.
"""

import asyncio
import contextlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Self

from godwit.testing import firecracker_bodies as fields
from godwit.testing.firecracker_bodies import Refusal

_PRE_ONLY: Final = "The requested operation is not supported after starting the microVM."
_POST_ONLY: Final = "The requested operation is not supported before starting the microVM."
_CONFIGURED: Final = (
    "Load snapshot error: Loading a microVM snapshot not allowed after configuring "
    "boot-specific resources."
)
_NO_FILE: Final = "No such file or directory (os error 2)"
_MAGIC: Final = "fake firecracker snapshot"
_MOST_VCPUS: Final = 32
_MAX_BODY: Final = 51_200
_MIB: Final = 1 << 20
_LONG_PATH: Final = 100
"""What may not fit into the address of a Unix socket."""

Answer = dict[str, Any] | None
Handler = Callable[[dict[str, Any]], Answer]


class FakeFirecracker:
    """One process.

    Attributes:
        state: `Not started`, `Running` or `Paused`.
        told: What it was configured with, by section.
        requests: Every request so far, `PUT /vsock` and the like, with its body.
        refusals: Requests to refuse, with the message; a test's to fill.
        hanging: Requests to leave without an answer.
        balloon_drives: Whether the guest's balloon driver is there.
        given_back_mib: What the guest gave up to the balloon.
        ended: Set when the process has ended.
    """

    def __init__(self, root: Path, *, name: str = "test", version: str = "1.16.1") -> None:
        """Take the directory that stands for its jail."""
        self.root = root
        self.name = name
        self.version = version
        self.state = "Not started"
        self.told: dict[str, Any] = _nothing()
        self.requests: list[tuple[str, dict[str, Any]]] = []
        self.refusals: dict[str, str] = {}
        self.hanging: set[str] = set()
        self.balloon_drives = True
        self.given_back_mib = 0
        self.ended = asyncio.Event()
        self.on_change: Callable[[], None] = lambda: None
        self.loaded_memory: Path | None = None
        self._configured = False
        self._server: asyncio.Server | None = None
        self._callers: set[asyncio.StreamWriter] = set()
        self._routes = self._make_routes()

    async def __aenter__(self) -> Self:
        await self.listen()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.end()

    @property
    def socket(self) -> Path:
        """Return where its API is."""
        return self.root / "api.sock"

    async def listen(self) -> None:
        """Begin to take requests."""
        path = str(self.socket)
        if len(path) < _LONG_PATH:
            self._server = await asyncio.start_unix_server(self._serve, path)
            return
        folder = os.open(self.socket.parent, os.O_PATH | os.O_DIRECTORY)
        try:
            short = f"/proc/self/fd/{folder}/{self.socket.name}"
            self._server = await asyncio.start_unix_server(self._serve, short)
        finally:
            os.close(folder)

    def end(self) -> None:
        """End the process; like the real one it leaves its sockets behind."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for caller in self._callers:
            caller.close()
        self.ended.set()

    def boot(self, config: dict[str, Any]) -> None:
        """Do what `--config-file` does: take every section, then start.

        Raises:
            Refusal: A section is wrong.
        """
        fields.CONFIG.check(config)
        for section in ("machine-config", "boot-source", "vsock", "balloon", "entropy"):
            if config.get(section) is not None:
                self.ask("PUT", f"/{section}", json.dumps(config[section]).encode())
        for section, key in (("drives", "drive_id"), ("network-interfaces", "iface_id")):
            for one in config.get(section) or ():
                self.ask("PUT", f"/{section}/{one[key]}", json.dumps(one).encode())
        self.ask("PUT", "/actions", b'{"action_type": "InstanceStart"}')

    def ask(self, method: str, path: str, body: bytes) -> Answer:
        """Do what a request asks.

        Raises:
            Refusal: It is not to be done, and why.
        """
        if body and method in ("GET", "DELETE"):
            raise Refusal(f"{method} request cannot have a body.")
        route, item = self._route(method, path)
        if not body and method in ("PUT", "PATCH"):
            raise Refusal(f"Empty {method} request.")
        wanted, when, handler = self._routes[route]
        given = fields.read(body, wanted) if wanted is not None else {}
        if item is not None:
            _check_item(given, item, route)
        self.requests.append((f"{method} {path}", given))
        if f"{method} {path}" in self.refusals:
            raise Refusal(self.refusals[f"{method} {path}"])
        if when == "before" and self.state != "Not started":
            raise Refusal(_PRE_ONLY)
        if when == "after" and self.state == "Not started":
            raise Refusal(_POST_ONLY)
        return handler(given)

    def _route(self, method: str, path: str) -> tuple[str, str | None]:
        if f"{method} {path}" in self._routes:
            return f"{method} {path}", None
        above, _, item = path.rpartition("/")
        if f"{method} {above}/*" in self._routes:
            if not item.replace("_", "").isalnum():
                raise Refusal(
                    "API Resource IDs can only contain alphanumeric characters and underscores."
                )
            return f"{method} {above}/*", item
        if f"{method} {path}/*" in self._routes:
            raise Refusal("The ID cannot be empty.")
        shown = path if path.startswith("/snapshot/") else path.strip("/").partition("/")[0]
        raise Refusal(f"Invalid request method and/or path: {method} {shown}.")

    def _make_routes(self) -> dict[str, tuple[fields.Fields | None, str, Handler]]:
        before, after, always = "before", "after", "always"
        return {
            "GET /": (None, always, self._info),
            "GET /version": (None, always, lambda _: {"firecracker_version": self.version}),
            "GET /machine-config": (None, always, lambda _: dict(self.told["machine-config"])),
            "GET /balloon": (None, always, self._balloon),
            "GET /balloon/statistics": (None, after, self._balloon_stats),
            "PUT /machine-config": (fields.MACHINE, before, self._set_machine),
            "PATCH /machine-config": (fields.MACHINE_UPDATE, before, self._change_machine),
            "PUT /boot-source": (fields.BOOT_SOURCE, before, self._set_boot_source),
            "PUT /drives/*": (fields.DRIVE, before, self._set_drive),
            "PATCH /drives/*": (fields.DRIVE_UPDATE, after, self._change_drive),
            "PUT /network-interfaces/*": (fields.NETWORK, before, self._set_network),
            "PATCH /network-interfaces/*": (fields.NETWORK_UPDATE, after, self._change_network),
            "PUT /vsock": (fields.VSOCK, before, self._set_vsock),
            "PUT /balloon": (fields.BALLOON, before, self._set_balloon),
            "PATCH /balloon": (fields.BALLOON_UPDATE, after, self._change_balloon),
            "PUT /entropy": (fields.ENTROPY, before, self._set_entropy),
            "PUT /actions": (fields.ACTION, always, self._act),
            "PATCH /vm": (fields.VM, after, self._set_state),
            "PUT /snapshot/create": (fields.SNAPSHOT_CREATE, after, self._save),
            "PUT /snapshot/load": (fields.SNAPSHOT_LOAD, always, self._load),
        }

    def _info(self, _: dict[str, Any]) -> Answer:
        return {
            "id": self.name,
            "state": self.state,
            "vmm_version": self.version,
            "app_name": "Firecracker",
        }

    def _set_machine(self, given: dict[str, Any]) -> Answer:
        self._configured = True
        self._check_machine(given)
        self.told["machine-config"] = {**_nothing()["machine-config"], **given}
        return None

    def _change_machine(self, given: dict[str, Any]) -> Answer:
        if not given:
            raise Refusal("Empty PATCH request.")
        return self._set_machine({**self.told["machine-config"], **given})

    def _check_machine(self, given: dict[str, Any]) -> None:
        if not 1 <= given["vcpu_count"] <= _MOST_VCPUS:
            raise Refusal(
                "Machine config error: The number of vCPUs must be greater than 0, less than 32 "
                "and must be 1 or an even number if SMT is enabled."
            )
        if given["mem_size_mib"] == 0:
            raise Refusal(
                "Machine config error: The memory size (MiB) is either 0, or not a multiple of "
                "the configured page size."
            )
        balloon = self.told["balloon"]
        if balloon is not None and balloon["amount_mib"] > given["mem_size_mib"]:
            raise Refusal(
                "Machine config error: The memory size (MiB) is smaller than the previously set "
                "balloon device target size."
            )

    def _set_boot_source(self, given: dict[str, Any]) -> Answer:
        self._configured = True
        if not self._path(given["kernel_image_path"]).exists():
            raise Refusal(f"Boot source error: The kernel file cannot be opened: {_NO_FILE}")
        initrd = given.get("initrd_path")
        if initrd is not None and not self._path(initrd).exists():
            raise Refusal(
                "Boot source error: The initrd file cannot be opened due to invalid path or "
                f"invalid permissions. {_NO_FILE}"
            )
        self.told["boot-source"] = given
        return None

    def _set_drive(self, given: dict[str, Any]) -> Answer:
        self._configured = True
        name, path = given["drive_id"], given.get("path_on_host")
        cannot = "Drive config error: Unable to create the virtio block device: "
        if path is None or given.get("is_read_only") is None:
            raise Refusal(f"{cannot}Invalid block config.")
        drives = self.told["drives"]
        if given["is_root_device"] and any(
            one["is_root_device"] for other, one in drives.items() if other != name
        ):
            raise Refusal("Drive config error: A root block device already exists!")
        if not self._path(path).exists():
            raise Refusal(
                f"{cannot}Virtio backend error: Error manipulating the backing file: "
                f"{_NO_FILE} {path}"
            )
        drives[name] = given
        return None

    def _change_drive(self, given: dict[str, Any]) -> Answer:
        cannot = "Drive config error: Unable to patch the block device: "
        drive = self.told["drives"].get(given["drive_id"])
        please = "Please verify the request arguments."
        if drive is None:
            raise Refusal(f"{cannot}Failed perform action on device: Device not found {please}")
        path = given.get("path_on_host")
        if path is not None and not self._path(path).exists():
            raise Refusal(
                f"{cannot}Block: Virtio backend error: Error manipulating the backing file: "
                f"{_NO_FILE} {path} {please}"
            )
        drive.update(given)
        return None

    def _set_network(self, given: dict[str, Any]) -> Answer:
        self._configured = True
        mac = given.get("guest_mac")
        for name, other in self.told["network-interfaces"].items():
            if name != given["iface_id"] and mac is not None and other.get("guest_mac") == mac:
                raise Refusal(f"Network config error: The MAC address is already in use: {mac}")
        self.told["network-interfaces"][given["iface_id"]] = given
        return None

    def _change_network(self, given: dict[str, Any]) -> Answer:
        interface = self.told["network-interfaces"].get(given["iface_id"])
        if interface is None:
            raise Refusal(
                "Network config error: Unable to update the net device: Failed perform action "
                "on device: Device not found"
            )
        interface.update(given)
        return None

    def _set_vsock(self, given: dict[str, Any]) -> Answer:
        self._configured = True
        self.told["vsock"] = given
        return None

    def _set_balloon(self, given: dict[str, Any]) -> Answer:
        self._configured = True
        if given["amount_mib"] > self.told["machine-config"]["mem_size_mib"]:
            raise Refusal("Balloon config error: Amount of pages requested is too large.")
        defaults = {
            "stats_polling_interval_s": 0,
            "free_page_hinting": False,
            "free_page_reporting": False,
        }
        self.told["balloon"] = {**defaults, **given}
        return None

    def _balloon(self, _: dict[str, Any]) -> Answer:
        if self.told["balloon"] is None:
            raise Refusal("Balloon config error: No balloon device found.")
        return dict(self.told["balloon"])

    def _change_balloon(self, given: dict[str, Any]) -> Answer:
        balloon = self.told["balloon"]
        if balloon is None:
            raise Refusal(
                "Balloon update error: Failed perform action on device: Device not found"
            )
        if not self.balloon_drives:
            raise Refusal("Balloon update error: Balloon: Device not activated yet.")
        balloon["amount_mib"] = given["amount_mib"]
        self.given_back_mib = given["amount_mib"]
        return None

    def _balloon_stats(self, _: dict[str, Any]) -> Answer:
        balloon = self.told["balloon"]
        if balloon is None:
            raise Refusal("Internal VMM error: Failed perform action on device: Device not found")
        if balloon["stats_polling_interval_s"] == 0:
            raise Refusal(
                "Internal VMM error: Balloon: Received stats query when stats are disabled."
            )
        target, actual = balloon["amount_mib"], self.given_back_mib
        return {
            "target_pages": target * 256,
            "actual_pages": actual * 256,
            "target_mib": target,
            "actual_mib": actual,
        }

    def _set_entropy(self, given: dict[str, Any]) -> Answer:
        self._configured = True
        self.told["entropy"] = given
        return None

    def _act(self, given: dict[str, Any]) -> Answer:
        if given["action_type"] != "InstanceStart":
            if self.state == "Not started":
                raise Refusal(_POST_ONLY)
            return None
        if self.state != "Not started":
            raise Refusal(_PRE_ONLY)
        if self.told["boot-source"] is None:
            raise Refusal(
                "Start microvm error: Cannot start microvm without kernel configuration."
            )
        self._become("Running")
        return None

    def _set_state(self, given: dict[str, Any]) -> Answer:
        self._become("Paused" if given["state"] == "Paused" else "Running")
        return None

    def _save(self, given: dict[str, Any]) -> Answer:
        if self.state != "Paused":
            raise Refusal(
                "Create snapshot error: Cannot save the microVM state: Operation not allowed: "
                "save/restore unavailable while running"
            )
        state = {"magic": _MAGIC, "version": self.version, "told": self.told, **self.guest_state()}
        cannot = "Create snapshot error: Cannot perform open on the"
        try:
            self._path(given["snapshot_path"]).write_text(json.dumps(state))
        except OSError as error:
            raise Refusal(f"{cannot} snapshot backing file: {_NO_FILE}") from error
        memory = self._path(given["mem_file_path"])
        try:
            with memory.open("ab") as file:
                file.truncate(self.told["machine-config"]["mem_size_mib"] * _MIB)
        except OSError as error:
            raise Refusal(f"{cannot} memory backing file: {_NO_FILE}") from error
        return None

    def guest_state(self) -> dict[str, Any]:
        """Return what of a guest is saved; a fake with a guest has more."""
        return {}

    def restore_guest(self, state: dict[str, Any]) -> None:
        """Take a saved guest over."""

    def _load(self, given: dict[str, Any]) -> Answer:
        backend = given.get("mem_backend")
        missing = "either `mem_backend` or `mem_file_path`"
        wrong = "An error occurred when deserializing the json body of a request: "
        if backend is None and given.get("mem_file_path") is None:
            raise Refusal(f"{wrong}missing field: {missing} is required.")
        if backend is not None and given.get("mem_file_path") is not None:
            raise Refusal(f"{wrong}too many fields: {missing} exclusively is required.")
        if self.state != "Not started":
            raise Refusal(_PRE_ONLY)
        if self._configured:
            raise Refusal(_CONFIGURED)
        memory = backend["backend_path"] if backend is not None else given["mem_file_path"]
        try:
            self._restore(given, memory)
        except Refusal:
            asyncio.get_running_loop().call_later(0.01, self.end)
            raise
        self._become("Running" if given.get("resume_vm") else "Paused")
        return None

    def _restore(self, given: dict[str, Any], memory: str) -> None:
        cannot = "Load snapshot error: Failed to restore from snapshot: "
        from_file = f"{cannot}Failed to get snapshot state from file: "
        path = self._path(given["snapshot_path"])
        if not path.exists():
            raise Refusal(f"{from_file}Failed to open snapshot file: {_NO_FILE}")
        try:
            saved = json.loads(path.read_bytes())
        except ValueError as error:
            raise Refusal(f"{from_file}Failed to load snapshot state from file") from error
        if saved.get("magic") != _MAGIC or saved.get("version") != self.version:
            raise Refusal(f"{from_file}Failed to load snapshot state from file: wrong version")
        told = saved["told"]
        _override(told, given, from_file)
        self.loaded_memory = self._path(memory)
        if not self.loaded_memory.exists():
            raise Refusal(
                f"{cannot}Failed to load guest memory: Error creating guest memory from file: "
                f"Failed to load guest memory: {_NO_FILE}"
            )
        for drive in told["drives"].values():
            if not self._path(drive["path_on_host"]).exists():
                raise Refusal(f"{cannot}Failed to build microVM from snapshot: {_NO_FILE}")
        self.told = told
        self.restore_guest(saved)

    def _become(self, state: str) -> None:
        self.state = state
        self.on_change()

    def _path(self, path: str) -> Path:
        return self.root / path.lstrip("/")

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._callers.add(writer)
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while not self.ended.is_set():
                method, path, body = await _read_request(reader)
                if f"{method} {path}" in self.hanging:
                    await self.ended.wait()
                    break
                writer.write(self._answer(method, path, body))
                await writer.drain()
        self._callers.discard(writer)
        writer.close()

    def _answer(self, method: str, path: str, body: bytes) -> bytes:
        try:
            answer = self.ask(method, path, body)
        except Refusal as refusal:
            return _response(400, {"fault_message": str(refusal)})
        return _response(204 if answer is None else 200, answer)


def _override(told: dict[str, Any], given: dict[str, Any], cannot: str) -> None:
    """Put other host's ends behind a saved guest's interface and vsock."""
    for override in given.get("network_overrides") or ():
        if override["iface_id"] not in told["network-interfaces"]:
            raise Refusal(f"{cannot}Unknown Network Device.")
        told["network-interfaces"][override["iface_id"]].update(override)
    if given.get("vsock_override") is not None:
        if told["vsock"] is None:
            raise Refusal(f"{cannot}Unknown Vsock Device.")
        told["vsock"].update(given["vsock_override"])


def _nothing() -> dict[str, Any]:
    return {
        "machine-config": {
            "vcpu_count": 1,
            "mem_size_mib": 128,
            "smt": False,
            "track_dirty_pages": False,
            "huge_pages": "None",
        },
        "boot-source": None,
        "drives": {},
        "network-interfaces": {},
        "vsock": None,
        "balloon": None,
        "entropy": None,
    }


def _check_item(given: dict[str, Any], item: str, route: str) -> None:
    """Refuse a body about another thing than its path."""
    if "network" in route and given["iface_id"] != item:
        raise Refusal(
            f"The id from the path [{item}] does not match the id from the body "
            f"[{given['iface_id']}]!"
        )
    if "drives" in route and given["drive_id"] != item:
        raise Refusal("The id from the path does not match the id from the body!")


async def _read_request(reader: asyncio.StreamReader) -> tuple[str, str, bytes]:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    method, path, _ = head[0].split(" ", 2)
    headers = {
        key.strip().lower(): value.strip()
        for key, _, value in (line.partition(":") for line in head[1:])
    }
    length = int(headers.get("content-length", "0"))
    if length > _MAX_BODY:
        raise ConnectionError("the body is too long")
    return method, path, await reader.readexactly(length)


def _response(status: int, body: Answer) -> bytes:
    head = f"HTTP/1.1 {status} \r\nServer: Firecracker API\r\nConnection: keep-alive\r\n"
    if body is None:
        return f"{head}\r\n".encode()
    text = json.dumps(body)
    kind = f"Content-Type: application/json\r\nContent-Length: {len(text.encode())}\r\n\r\n"
    return f"{head}{kind}{text}".encode()
