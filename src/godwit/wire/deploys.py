"""What a deploy is asked to do: said by clients, heeded by control.

Between them it is a part of a JSON body (`docs/reference/api.md`), where what is left out means
the default.
"""

from godwit.wire.record import Record


class Options(Record):
    """What the caller said; `None` and empty leave it to the config, then to the defaults.

    Attributes:
        max_unavailable: From 1 on so many machines, below it a share of a group's running ones.
        max_concurrent: How many machines `immediate` and `bluegreen` take at once.
        release_command_timeout_s: 0 sets no limit.
        update_only: Whether groups without machines get none.
        signal: What a replaced machine is stopped with (`bluegreen`).
        drain_timeout_s: How long requests in flight may take before a machine is stopped.
    """

    strategy: str | None = None
    max_unavailable: float | None = None
    max_concurrent: int | None = None
    wait_timeout_s: float | None = None
    release_command_timeout_s: float | None = None
    skip_release_command: bool = False
    smoke_checks: bool = True
    ha: bool = True
    update_only: bool = False
    regions: tuple[str, ...] = ()
    exclude_regions: tuple[str, ...] = ()
    only_machines: tuple[str, ...] = ()
    exclude_machines: tuple[str, ...] = ()
    process_groups: tuple[str, ...] = ()
    auto_rollback: bool | None = None
    signal: str | None = None
    drain_timeout_s: float | None = None
    description: str = ""
