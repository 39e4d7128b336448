"""What the containers of this host's machines do, as their inits last told; in memory.

Noted by who watches a machine (`watching`), shown with it (`rpc.desk`). A shim says all of it
again to whoever begins to watch, so nothing is kept.
"""

from collections.abc import Callable

from godwit.wire.guest_containers import Standing


class Standings:
    """The containers of running machines."""

    def __init__(self) -> None:
        self._told: dict[str, tuple[Standing, ...]] = {}
        self._listeners: list[Callable[[str], None]] = []

    def on_change(self, listener: Callable[[str], None]) -> None:
        """Tell somebody each machine whose containers do something else, or are otherwise."""
        self._listeners.append(listener)

    def note(self, machine_id: str, told: tuple[Standing, ...]) -> None:
        """Note what a machine's containers do now; nothing for one that does not run."""
        if told == self.of(machine_id):
            return
        if told:
            self._told[machine_id] = told
        else:
            self._told.pop(machine_id, None)
        for listener in self._listeners:
            listener(machine_id)

    def of(self, machine_id: str) -> tuple[Standing, ...]:
        """Return what they do; nothing for a machine without, or that does not run."""
        return self._told.get(machine_id, ())
