"""What the containers of this host's machines do, as their inits last told; in memory.

Noted by who watches a machine (`watching`), shown with it (`rpc.desk`). A shim says all of it
again to whoever begins to watch, so nothing is kept.
"""

from godwit.wire.guest_containers import Standing


class Standings:
    """The containers of running machines."""

    def __init__(self) -> None:
        self._told: dict[str, tuple[Standing, ...]] = {}

    def note(self, machine_id: str, told: tuple[Standing, ...]) -> None:
        """Note what a machine's containers do now; nothing for one that does not run."""
        if told:
            self._told[machine_id] = told
        else:
            self._told.pop(machine_id, None)

    def of(self, machine_id: str) -> tuple[Standing, ...]:
        """Return what they do; nothing for a machine without, or that does not run."""
        return self._told.get(machine_id, ())
