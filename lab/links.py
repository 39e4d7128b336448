"""The links between regions, as whoever runs the lab sees them: talks to `lab.relay`."""

import json
import socket
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from godwit.base import errors
from lab import namespaces, wiring
from lab.lane import Condition, Report

_ANSWER_S = 20.0
_BORN_S = 60.0
_ANSWER_BYTES = 65_536
_SOURCE = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Link:
    """The link between two regions.

    Attributes:
        directory: Where relays have their sockets and logs.
    """

    a: str
    b: str
    directory: Path

    @property
    def _socket(self) -> Path:
        return self.directory / f"{self.a}-{self.b}.sock"

    def start(
        self, umbrella: namespaces.Tree, routers: dict[str, namespaces.Tree], delay_ms: float
    ) -> None:
        """Start the relay; the routers have their devices already.

        Raises:
            Failure: It does not answer.
        """
        self.directory.mkdir(exist_ok=True)
        log = self.directory / f"{self.a}-{self.b}.log"
        ends = [
            word
            for here, there in ((self.a, self.b), (self.b, self.a))
            for word in ("--end", here, wiring.tun(there), str(routers[here].first))
        ]
        relay = [sys.executable, "-m", "lab.relay", "--socket", str(self._socket)]
        namespaces.spawn(
            ["env", f"PYTHONPATH={_SOURCE}", *relay, "--delay-ms", str(delay_ms), *ends],
            log,
            below=umbrella,
        )
        namespaces.wait_for(
            self._socket.exists, _BORN_S, lambda: f"no relay: {log.read_text()[-1_000:]}"
        )

    def ask(self, wanted: dict[str, Condition] | None = None) -> dict[str, Report]:
        """Change directions, named `fra>iad`, if any are wanted; return what became of each.

        Raises:
            Failure: The relay does not answer, or does not know such a direction.
        """
        request = {way: asdict(one) for way, one in (wanted or {}).items()}
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as asking:
                asking.settimeout(_ANSWER_S)
                asking.connect(str(self._socket))
                asking.send(json.dumps(request).encode())
                answer = json.loads(asking.recv(_ANSWER_BYTES))
        except (OSError, ValueError) as error:
            raise errors.Failure(
                "unavailable", f"the relay of {self.a} and {self.b} does not answer: {error}"
            ) from error
        if "error" in answer:
            raise errors.invalid(answer["error"])
        return {
            way: Report(**{**one, "condition": Condition(**one["condition"])})
            for way, one in answer.items()
        }

    def ways(self, sender: str | None = None) -> tuple[str, ...]:
        """Return the link's directions, or the one of a sender."""
        both = (f"{self.a}>{self.b}", f"{self.b}>{self.a}")
        return tuple(way for way in both if sender is None or way.startswith(f"{sender}>"))
