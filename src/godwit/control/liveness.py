"""Which hosts answer, as this control has seen it; nothing of it is kept.

A host is silent from the first question it did not answer, and gone when it has been silent for
long *while others answered*: when nobody answers, it is rather control that is cut off.
"""

from collections.abc import Collection


class Liveness:
    """The silence of hosts, on a monotonic clock."""

    def __init__(self) -> None:
        self._since: dict[str, float] = {}

    def observe(self, asked: Collection[str], answered: Collection[str], now_s: float) -> None:
        """Take in one round of questions."""
        for host_id in set(self._since) - set(asked):
            del self._since[host_id]
        for host_id in asked:
            if host_id in answered:
                self._since.pop(host_id, None)
            elif answered:
                self._since.setdefault(host_id, now_s)
            else:
                self._since[host_id] = now_s

    def silent(self, host_id: str) -> bool:
        """Tell whether a host did not answer the last time."""
        return host_id in self._since

    def gone(self, now_s: float, after_s: float) -> list[str]:
        """Return the hosts that have been silent for so long."""
        return sorted(host for host, since in self._since.items() if now_s - since >= after_s)
