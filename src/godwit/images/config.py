"""What an image says about how it runs: the parts of the OCI image config that matter here.

Source: OCI image-spec v1.1, config.md.
"""

from godwit.wire.record import Record

MOST_BYTES = 32_768
"""Of entrypoint, command and environment together, as JSON: a machine's init is handed them."""


class ImageConfig(Record):
    """The runtime part of an image's config.

    Attributes:
        env: `NAME=value` entries in order.
        stop_signal: `SIGTERM` and the like, or empty.
        exposed_ports: `8080/tcp` and the like.
        volumes: Paths declared by VOLUME.
    """

    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    working_directory: str = ""
    user: str = ""
    stop_signal: str = ""
    exposed_ports: tuple[str, ...] = ()
    volumes: tuple[str, ...] = ()
    labels: dict[str, str] = {}
