"""The bus's configuration: who may say what.

Each host speaks only for itself and each reader only reads; a stolen key of one component opens
nothing of the others. Subjects are those of `wire.facts` and `wire.host_rpc`.
"""

from pathlib import Path

from godwit.host.identity import HostIdentity, Keys


def render(identity: HostIdentity, keys: Keys, listen: str, store: Path) -> str:
    """Return nats-server's configuration file for a single-host region."""
    region, host = identity.region, identity.host_id
    stream = f"FACTS_{region}"
    make_stream = [f"$JS.API.STREAM.CREATE.{stream}", f"$JS.API.STREAM.INFO.{stream}"]
    read_stream = [
        f"$JS.API.STREAM.INFO.{stream}",
        f"$JS.API.CONSUMER.CREATE.{stream}.>",
        f"$JS.API.CONSUMER.CREATE.{stream}",
        f"$JS.API.CONSUMER.INFO.{stream}.>",
        f"$JS.API.CONSUMER.DELETE.{stream}.>",
        f"$JS.API.CONSUMER.MSG.NEXT.{stream}.>",
        f"$JS.FC.{stream}.>",
        "$JS.API.INFO",
    ]
    users = [
        _user(
            keys.public["control"],
            publish=[
                "godwit.host.*.rpc.>",
                "godwit.bids.>",
                "facts.*.app.control.>",
                *make_stream,
                *read_stream,
            ],
            subscribe=["_INBOX_control.>"],
        ),
        _user(
            keys.public["host"],
            publish=[
                f"facts.{region}.machine.{host}.>",
                f"facts.{region}.host.{host}.>",
                *make_stream,
            ],
            subscribe=[f"godwit.host.{host}.rpc.>", f"godwit.bids.{region}", f"_INBOX_{host}.>"],
            responses=True,
        ),
        _user(keys.public["edge"], publish=read_stream, subscribe=["_INBOX.>"]),
        _user(keys.public["dns"], publish=read_stream, subscribe=["_INBOX.>"]),
    ]
    address, _, port = listen.rpartition(":")
    return (
        # Quoted, because an id of digits only would be read as a number.
        f'server_name: "{host}"\n'
        f'host: "{address.strip("[]")}"\nport: {port}\n'
        f"max_payload: 1MB\n"
        f'jetstream {{ store_dir: "{store}", domain: "{region}", max_memory_store: 64MB }}\n'
        f"authorization {{\n  users: [\n{''.join(users)}  ]\n}}\n"
    )


def _user(
    public_key: str, *, publish: list[str], subscribe: list[str], responses: bool = False
) -> str:
    answers = ", allow_responses: true" if responses else ""
    return (
        f"    {{ nkey: {public_key}, permissions: {{\n"
        f"        publish: {{ allow: [{_quoted(publish)}] }},\n"
        f"        subscribe: {{ allow: [{_quoted(subscribe)}] }}{answers} }} }}\n"
    )


def _quoted(subjects: list[str]) -> str:
    return ", ".join(f'"{subject}"' for subject in subjects)
