"""How many machines of a group each region shall have (spec/config-cli.md §3.7). Pure."""

from collections.abc import Mapping, Sequence

from godwit.base import errors


def spread(
    now: Mapping[str, int], regions: Sequence[str], total: int, most: int | None = None
) -> dict[str, int]:
    """Return how many each region shall have, `total` over all of them.

    Of more, each listed region that has none gets one first: whoever lists a region wants machines
    there. The rest is given out round and round in the order of the list. Fewer are taken round
    and round from the second of the list on, so that the first gives last in each round.

    Args:
        now: How many each region has; those that are not listed are left alone.
        regions: At least one, each once.
        total: Over the listed regions.
        most: What a region may have at most; what is above goes elsewhere.

    Raises:
        Failure: `total` is more than the regions may have.
    """
    if most is not None and most * len(regions) < total:
        raise errors.invalid(
            f"{total} machines do not fit: {len(regions)} regions with at most {most} each",
            hint="raise --max-per-region, or list more regions with --region",
        )
    limit = total if most is None else most
    wanted = {region: now.get(region, 0) for region in regions}
    if most is not None:
        wanted = {region: min(count, most) for region, count in wanted.items()}
    _give(wanted, total - sum(wanted.values()), limit)
    _take(wanted, sum(wanted.values()) - total)
    return wanted


def _give(wanted: dict[str, int], missing: int, limit: int) -> None:
    for region in [one for one, count in wanted.items() if not count][: max(missing, 0)]:
        wanted[region] = 1
        missing -= 1
    while missing > 0:
        for region in tuple(wanted):
            if missing > 0 and wanted[region] < limit:
                wanted[region] += 1
                missing -= 1


def _take(wanted: dict[str, int], surplus: int) -> None:
    first, *others = wanted
    while surplus > 0:
        for region in (*others, first):
            if surplus > 0 and wanted[region] > 0:
                wanted[region] -= 1
                surplus -= 1
