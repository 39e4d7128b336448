"""What statics of a config come to in the guest and at the edges."""

from typing import Any

import pytest

from godwit.agent.machines import statics
from godwit.wire import facts, guest

ONE = {"guest_path": "/app/public", "url_prefix": "/static"}
DIGEST = "sha256:0123456789abcdef"


def served(config: dict[str, Any]) -> guest.Statics | None:
    return statics.served(config, local_ipv4="172.16.0.5", digest=DIGEST)


def test_edges_and_guest_are_told_the_same() -> None:
    docs = {"guest_path": "/docs", "url_prefix": "/docs", "index_document": "index.html"}
    config = {"statics": [ONE, docs]}
    assert statics.told(config) == facts.Statics(port=62_080, prefixes=("/static", "/docs"))
    assert served(config) == guest.Statics(
        listen="172.16.0.5:62080",
        revision="0123456789ab",
        directories=(guest.Directory(**ONE), guest.Directory(**docs)),
    )


def test_the_port_is_one_that_no_service_has() -> None:
    services = [{"internal_port": 62_081}, {"internal_port": 62_080}, {"internal_port": None}]
    config = {"statics": [ONE], "services": services}
    told, made = statics.told(config), served(config)
    assert told is not None
    assert made is not None
    assert (told.port, made.listen) == (62_082, "172.16.0.5:62082")


@pytest.mark.parametrize(
    "given",
    [
        None,
        [],
        "x",
        [{"guest_path": "public", "url_prefix": "/static"}],
        [{"guest_path": "/public", "url_prefix": "static"}],
        [{"guest_path": "/public"}],
        [{**ONE, "tigris_bucket": "b"}],
    ],
)
def test_what_makes_no_sense_is_left_out(given: Any) -> None:
    assert statics.told({"statics": given}) is None
    assert served({"statics": given}) is None
