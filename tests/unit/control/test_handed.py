"""What init will be handed: never more than was foreseen, and refused before any host is asked."""

import base64
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from godwit.agent.machines import records, run_containers, run_spec
from godwit.base import encoded, errors
from godwit.control import handed, machine_config, machines, secrets
from godwit.images import config as of_image
from godwit.testing import agents
from godwit.wire import guest, host_rpc
from tests.unit.control.conftest import Town

IMAGE = of_image.ImageConfig(
    entrypoint=("/entry",), env=("PATH=/bin", f"LONG={'x' * 32_000}"), working_directory="/srv"
)
LARGEST = "A" * handed.MOST_IMAGE_FILE_BYTES
NETWORK = guest.Network(addresses=(guest.Address(address="fdaa:0:1:1:0:0:2:2", prefix=128),))
VALUES = st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), max_size=40)
NAMES = st.sampled_from(["A", "TOKEN", "Key.with-more_letters"])
SECRETS = st.dictionaries(NAMES, st.binary(max_size=60).map(lambda raw: raw.replace(b"\0", b"")))


@st.composite
def processes(draw: st.DrawFn) -> dict[str, Any]:
    own = [{"env_var": name, "name": "A"} for name in draw(st.lists(NAMES, max_size=2))]
    fields = [{"env_var": "ME", "field_ref": "image"}] * draw(st.integers(0, 2))
    made: dict[str, Any] = {"cmd": [draw(VALUES) or "run"]}
    made |= {"env": draw(st.dictionaries(NAMES, VALUES)), "secrets": own, "env_from": fields}
    return {**made, "ignore_app_secrets": draw(st.booleans())}


def built(config: dict[str, Any], values: dict[str, bytes]) -> guest.RunSpec:
    offer = agents.offer("148ed193b95948", config=config, instance_id="01M1J8SE0G0000000000000000")
    image = host_rpc.ImageRef(
        reference="nginx", registry="r", repository="nginx", digest=f"sha256:{'a' * 64}"
    )
    contained = config.get("containers", ())
    further = {"container_images": (image,) * len(contained), "image_files": {"nginx": LARGEST}}
    offer = offer.model_copy(update=further)
    machine = records.from_offer(offer, 1_048_574, 0)
    spec = run_spec.build(
        machine,
        IMAGE,
        NETWORK,
        private_ip="fdaa:0:1:1:0:0:2:2",
        local_ipv4="172.16.0.2",
        entropy=b"x" * 64,
        public_ip="2001:db8::1",
        secrets=values,
    )
    addresses = run_containers.Addresses("fdaa:0:1:1:0:0:2:2", "2001:db8::1")
    return run_containers.added(spec, machine, [IMAGE] * len(contained), addresses, values)


@settings(deadline=None, max_examples=60)
@given(st.lists(processes(), max_size=8), st.dictionaries(NAMES, VALUES), SECRETS)
def test_no_more_is_handed_than_was_foreseen(
    several: list[dict[str, Any]], env: dict[str, str], values: dict[str, bytes]
) -> None:
    values = {"A": b"a", **values}
    file = {"guest_path": "/f", "secret_name": "KEY"}
    of_an_image = {"guest_path": "/image.json", "image_config": "nginx"}
    content = {"KEY": base64.b64encode(b"k" * 99)}
    config = {"image": "nginx", "env": env, "processes": several, "files": [file] * 3}
    config["files"] = [*config["files"], of_an_image]
    parsed = machine_config.parse(config)
    known = handed.Known({name: len(value) for name, value in {**values, **content}.items()})
    spec = built(config, {**values, **content})
    assert encoded.size(spec) <= handed.most_bytes(parsed, known)


@settings(deadline=None, max_examples=60)
@given(st.lists(processes(), min_size=1, max_size=8), st.dictionaries(NAMES, VALUES), SECRETS)
def test_no_more_is_handed_to_containers_than_was_foreseen(
    several: list[dict[str, Any]], env: dict[str, str], values: dict[str, bytes]
) -> None:
    values = {"A": b"a", "KEY": base64.b64encode(b"k" * 99), **values}
    file = {"guest_path": "/f", "secret_name": "KEY"}
    check = {"exec": {"command": ["x" * 200]}}
    contained = [
        {
            **{key: value for key, value in one.items() if key != "ignore_app_secrets"},
            "name": f"c{at}",
            "image": "nginx",
            "files": [file],
            "healthchecks": [check],
        }
        for at, one in enumerate(several)
    ]
    config = {"env": env, "containers": contained, "files": [file]}
    parsed = machine_config.parse(config)
    known = handed.Known({name: len(value) for name, value in values.items()})
    assert encoded.size(built(config, values)) <= handed.most_bytes(parsed, known)


@pytest.mark.parametrize(
    "config",
    [
        {"processes": [{"cmd": ["a"]}] * 8},
        {"files": [{"guest_path": f"/f{at}", "secret_name": "BIG"} for at in range(20)]},
        {
            "processes": [
                {
                    "cmd": ["a"],
                    "ignore_app_secrets": True,
                    "secrets": [{"env_var": f"V{at}", "name": "BIG"} for at in range(20)],
                }
            ]
        },
    ],
)
async def test_more_than_a_start_can_hand_over_is_refused_when_it_is_asked_for(
    town: Town, config: dict[str, Any]
) -> None:
    big = {"BIG": b"QUJD" * 16_000, "MORE": b"m" * 60_000}
    await secrets.change(town.world.ctx, town.acme, "shop", secrets.Values(big))
    wanted = machines.NewMachine(config={"image": "nginx", **config})
    with pytest.raises(errors.Failure, match="hand its processes and files up to") as refused:
        await machines.create(town.world.ctx, town.acme, "shop", wanted)
    assert refused.value.code == "invalid_argument"
    assert town.world.host.asked == []
    with pytest.raises(errors.Failure, match="can be handed to a machine"):
        built(config, big)


async def test_several_processes_with_few_secrets_are_taken(town: Town) -> None:
    values = {"A": b"a" * 1_000, "B": b"b" * 1_000}
    await secrets.change(town.world.ctx, town.acme, "shop", secrets.Values(values))
    one = {"cmd": ["a"], "secrets": [{"env_var": "X", "name": "A"}, {"env_var": "B"}]}
    wanted = machines.NewMachine(config={"image": "nginx", "processes": [one] * 8})
    assert await machines.create(town.world.ctx, town.acme, "shop", wanted)


async def test_a_process_with_a_secret_that_is_not_there_is_refused_at_once(town: Town) -> None:
    one = {"cmd": ["a"], "secrets": [{"env_var": "X", "name": "NOPE"}]}
    wanted = machines.NewMachine(config={"image": "nginx", "processes": [one]})
    with pytest.raises(errors.Failure, match="has no secret NOPE"):
        await machines.create(town.world.ctx, town.acme, "shop", wanted)
