"""Where a new machine goes: by bids of the hosts, then an offer the best of them takes.

    offered ──reserved──► accepted
       └──refused by all, or nobody answers──► abandoned (upkeep makes sure none has it)

Control keeps no books of what is free where: each host answers from its own and has the last
word. Only what no host can know is added to their bids: which zones have the app already. An
offer is idempotent by machine id, so one that is not answered is made again.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from godwit.base import errors
from godwit.base.principal import Principal
from godwit.control import secrets
from godwit.control.context import Context
from godwit.wire import host_rpc

_CANDIDATES = 3
_SAME_ZONE = 1.0
"""What a zone's bids lose for each machine of the app there: more than a host's own lose
(`agent.books`), so that machines are spread over zones first, then over hosts."""
_UNANSWERED = ("unavailable", "deadline_exceeded")
_REFUSED = ("insufficient_capacity", "failed_precondition")


@dataclass(frozen=True)
class Taken:
    """A host took the machine; this is what it says of it."""

    host_id: str
    view: host_rpc.MachineView


async def place(
    ctx: Context,
    who: Principal,
    offer: host_rpc.Offer,
    regions: list[str],
    avoiding: frozenset[str] = frozenset(),
) -> Taken:
    """Have a host of the regions, in order of preference, take a machine.

    Args:
        ctx: What control knows.
        who: In whose name.
        offer: The machine.
        regions: Where, the best first.
        avoiding: Hosts that are not asked.

    Raises:
        Failure: `insufficient_capacity` with every host's reasons, `unavailable` when nobody
            answered; what a host said of an offer that can never succeed.
    """
    reasons: list[str] = []
    answered = False
    for region in regions:
        try:
            bids = await _bids(ctx, region, _request(offer), avoiding)
        except errors.Failure as failure:
            # Its bus is away: the next region may have room all the same.
            reasons.append(f"{region}: {failure.message}")
            continue
        answered = answered or bool(bids)
        fitting = _best_first(
            [bid for bid in bids if bid.fits], await _zones(ctx, offer.app_id, region)
        )
        reasons += [f"{region}: {why}" for bid in bids if not bid.fits for why in bid.reasons]
        for bid in fitting[:_CANDIDATES]:
            try:
                return await offer_to(ctx, who, _for_region(offer, region), bid.host_id)
            except errors.Failure as failure:
                if failure.code not in _REFUSED:
                    raise
                reasons.append(f"{region}: {failure.message}")
    if not answered:
        raise await _unanswered(ctx, regions, avoiding, reasons)
    raise _no_room(offer, regions, reasons)


async def _unanswered(
    ctx: Context, regions: list[str], avoiding: frozenset[str], reasons: list[str]
) -> errors.Failure:
    """Return why no host of these regions was there to be asked."""
    if avoiding and not any([await taking_machines(ctx, each) - avoiding for each in regions]):
        return errors.Failure(
            "insufficient_capacity",
            f"no other host of region {', '.join(regions)} takes machines",
            hint="choose another region",
        )
    if await _all_cordoned(ctx, regions):
        return errors.Failure(
            "insufficient_capacity",
            f"every host of region {', '.join(regions)} is cordoned or being drained",
            hint="the operator lets them take machines with `godwit host uncordon`",
        )
    why = f": {'; '.join(reasons)}" if reasons else ""
    return errors.Failure(
        "unavailable",
        f"no host of region {', '.join(regions)} answers{why}",
        hint="see `godwit doctor` on the host",
    )


async def _bids(
    ctx: Context, region: str, request: host_rpc.BidRequest, avoiding: frozenset[str]
) -> list[host_rpc.Bid]:
    """Return a region's bids; ask again while all is silent, for as long as a restart takes.

    Raises:
        Failure: `unavailable` when the bus is away all that time.
    """
    deadline = ctx.clock.monotonic() + ctx.options.silence_s
    while True:
        # A host says nothing once it knows that it is cordoned; until then its bid counts for
        # nothing here.
        active = await taking_machines(ctx, region)
        taking = active - avoiding
        if not taking:
            return []
        try:
            bids = await ctx.hosts.bids(region, request, ctx.options.bid_s, hosts=len(active))
            bids = [bid for bid in bids if bid.host_id in taking]
        except errors.Failure:
            if ctx.clock.monotonic() >= deadline:
                raise
        else:
            if bids or ctx.clock.monotonic() >= deadline:
                return bids
        await ctx.clock.sleep(0.25)


async def taking_machines(ctx: Context, region: str) -> frozenset[str]:
    """Return the hosts of a region that may be given machines."""
    async with ctx.store.read() as rows:
        return frozenset(await rows.hosts.active(region))


async def _all_cordoned(ctx: Context, regions: list[str]) -> bool:
    return not any([await taking_machines(ctx, region) for region in regions])


def _for_region(offer: host_rpc.Offer, region: str) -> host_rpc.Offer:
    """Return the offer for a region."""
    return offer.model_copy(update={"region": region})


async def offer_to(ctx: Context, who: Principal, offer: host_rpc.Offer, host_id: str) -> Taken:
    """Offer a machine to one host, again while it does not answer; idempotent by machine id.

    Raises:
        Failure: What the host says; `unavailable` when it is away.
    """
    now_ms = ctx.clock.now_ms()
    async with ctx.store.write() as rows:
        if not await rows.placements.assign(offer.machine_id, host_id, offer.region, now_ms):
            raise errors.Failure(
                "conflict", f"machine {offer.machine_id} is made by another replica of control"
            )
    # The app's key is sealed for the one host that may get the machine.
    sealed = await secrets.for_host(ctx, offer.app_id, host_id)
    if sealed is not None:
        offer = offer.model_copy(update={"secrets": sealed, "secrets_version": sealed.version})
    for tries_left in reversed(range(ctx.options.offer_tries)):
        try:
            body = await ctx.hosts.call(host_id, "machine.reserve", offer, who, ctx.options.act_s)
            return Taken(host_id, host_rpc.MachineView.model_validate(body))
        except errors.Failure as failure:
            if failure.code not in _UNANSWERED or not tries_left:
                raise
            await ctx.clock.sleep(0.2)
    raise AssertionError("the last try raises")


def _request(offer: host_rpc.Offer) -> host_rpc.BidRequest:
    return host_rpc.BidRequest(
        org_id=offer.org_id,
        app_id=offer.app_id,
        resources=offer.resources,
        image_digest=offer.image.digest,
    )


async def _zones(ctx: Context, app_id: str, region: str) -> Mapping[str, int]:
    async with ctx.store.read() as rows:
        return await rows.placements.zones_of(app_id, region)


def _best_first(bids: list[host_rpc.Bid], there: Mapping[str, int]) -> list[host_rpc.Bid]:
    """Return the bids in the order in which they are taken up.

    Args:
        bids: All from one region.
        there: How many machines of the app each zone has.
    """

    def worst_last(bid: host_rpc.Bid) -> tuple[float, str]:
        return (_SAME_ZONE * there.get(bid.zone, 0) - bid.score, bid.host_id)

    return sorted(bids, key=worst_last)


def _no_room(offer: host_rpc.Offer, regions: list[str], reasons: list[str]) -> errors.Failure:
    size = offer.resources
    why = f": {'; '.join(dict.fromkeys(reasons))}" if reasons else ""
    return errors.Failure(
        "insufficient_capacity",
        f"no host in {', '.join(regions)} has room for {size.cpus} {size.cpu_kind} CPUs and"
        f" {size.memory_mb} MB{why}",
        hint="ask for less memory, destroy machines, or choose another region",
    )
