"""What every service function receives: control's ports and settings, built once in `cmd`."""

import asyncio
from dataclasses import dataclass, field
from pathlib import Path

from godwit.base.clock import Clock
from godwit.control import ports, registry_tokens


@dataclass(frozen=True)
class Options:
    """Control's settings, each with its reason.

    Attributes:
        region: The region this control runs in: the default for new machines.
        apps_domain: Apps answer at `<app>.<apps_domain>`.
        registry: `host:port` of the platform's registry.
        ask_s: How long a host may take for a read; past it the last view is shown.
        act_s: How long a host may take to record a change.
        bid_s: How long bids are awaited when no host answers; answers end it early.
        silence_s: How long a region where nobody bids is asked again: a host's agent that is
            being restarted answers within seconds.
        offer_tries: How often an unanswered offer is repeated before it is given up.
        upload_bytes: Largest build context.
        uploads: Where contexts lie while they are built.
    """

    region: str
    apps_domain: str
    registry: str
    uploads: Path
    ask_s: float = 5.0
    act_s: float = 15.0
    bid_s: float = 2.0
    silence_s: float = 8.0
    offer_tries: int = 3
    upload_bytes: int = 2 * 1024**3


@dataclass(frozen=True)
class Context:
    """Ports and settings.

    Attributes:
        facts_wanted: Set when the outbox has something to publish.
        upkeep_wanted: Set when a machine is to be destroyed.
        build_slots: Bounds the builds that run at once.
    """

    store: ports.Store
    hosts: ports.Hosts
    images: ports.Images
    builder: ports.Builder
    clock: Clock
    signer: registry_tokens.Signer
    options: Options
    facts_wanted: asyncio.Event = field(default_factory=asyncio.Event)
    upkeep_wanted: asyncio.Event = field(default_factory=asyncio.Event)
    build_slots: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(2))
