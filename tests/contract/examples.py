"""One full example of every record that Python and Rust both read.

`python tests/contract/examples.py` writes them to contracts/golden; test_golden.py holds the
files to these, and each Rust crate's tests hold its twins to the files.
"""

import json
from pathlib import Path

from pydantic import BaseModel

from godwit.control import regions
from godwit.wire import (
    channel,
    components,
    facts,
    guest,
    guest_api,
    guest_containers,
    host_rpc,
    shim,
)

GOLDEN = Path(__file__).resolve().parents[2] / "contracts" / "golden"

RUN_SPEC = guest.RunSpec(
    machine_id="148ed193b95948",
    hostname="148ed193b95948",
    clock_unix_ns=1_790_000_000_000_000_000,
    entropy_base64="AAECAwQFBgc=",
    root=guest.Root(lasting=True),
    swap=guest.Swap(),
    mounts=(guest.Mount(device="volume", path="/data"), guest.CACHE),
    network=guest.Network(
        mac="02:67:00:00:00:05",
        addresses=(
            guest.Address(address="fdaa:0:1:a7b:1:0:5:2", prefix=128),
            guest.Address(address="172.16.0.5", prefix=32),
        ),
        gateway_v4="172.16.0.1",
        gateway_v6="fe80::1",
    ),
    resolver=guest.Resolver(
        searches=("internal",),
        options=("ndots:1",),
        forwards=(guest.Forward(basename="corp.example.com", address="[fdaa:0:1::9]:5353"),),
    ),
    hosts=(
        guest.HostsEntry(address="127.0.0.1", names=("localhost",)),
        guest.HostsEntry(
            address="fdaa:0:1:a7b:1:0:5:2", names=("148ed193b95948", "fly-local-6pn")
        ),
    ),
    files=(guest.File(path="/etc/motd", content_base64="aGVsbG8K", mode=0o600),),
    statics=guest.Statics(
        listen="172.16.0.5:62080",
        revision="0123456789ab",
        directories=(
            guest.Directory(guest_path="/app/public", url_prefix="/static"),
            guest.Directory(
                guest_path="/app/docs", url_prefix="/docs", index_document="index.html"
            ),
        ),
    ),
    process=guest.Process(
        argv=("python3", "-u", "app.py"),
        env={"FLY_APP_NAME": "hello", "GREETING": 'grüß\n"dich"'},
        working_directory="/srv",
        user="app:www-data",
    ),
    beside=(guest.Process(argv=("worker",), user="app"),),
)
CONTAINED = guest.RunSpec(
    machine_id="148ed193b95948",
    hostname="148ed193b95948",
    containers=(
        guest.Container(
            name="app",
            image="root",
            process=guest.Process(argv=("serve",)),
            restart="on-failure",
            max_retries=10,
            stop_signal="SIGTERM",
            stop_timeout_ms=5_000,
            depends_on=(
                guest_containers.Dependency(container="db", condition="healthy"),
                guest_containers.Dependency(container="migrate", condition="exited_successfully"),
            ),
            binds=(guest_containers.Bind(volume="sockets", path="/run/sockets"),),
            healthchecks=(
                guest_containers.HealthCheck(
                    name="up",
                    question=guest_containers.HttpQuestion(
                        port=8080,
                        method="GET",
                        path="/up",
                        headers=(guest_containers.Header(name="Host", value="a.example"),),
                    ),
                    interval_s=10,
                    timeout_s=5,
                    grace_s=30,
                    success_threshold=1,
                    failure_threshold=3,
                    stops=True,
                ),
            ),
        ),
        guest.Container(
            name="db",
            image="image1",
            process=guest.Process(argv=("postgres",), user="postgres"),
            files=(guest.File(path="/etc/pg.conf", content_base64=""),),
            restart="always",
            max_retries=10,
            stop_timeout_ms=30_000,
            healthchecks=(
                guest_containers.HealthCheck(
                    name="ready",
                    question=guest_containers.ExecQuestion(argv=("pg_isready",)),
                    interval_s=1,
                    timeout_s=1,
                    grace_s=0,
                    success_threshold=2,
                    failure_threshold=2,
                ),
                guest_containers.HealthCheck(
                    name="port",
                    question=guest_containers.TcpQuestion(port=5432),
                    interval_s=1,
                    timeout_s=1,
                    grace_s=0,
                    success_threshold=1,
                    failure_threshold=1,
                ),
                guest_containers.HealthCheck(
                    name="tls",
                    question=guest_containers.HostQuestion(),
                    interval_s=1,
                    timeout_s=1,
                    grace_s=0,
                    success_threshold=1,
                    failure_threshold=1,
                ),
            ),
        ),
        guest.Container(
            name="migrate",
            image="root",
            process=guest.Process(argv=("migrate",)),
            restart="no",
            max_retries=10,
            stop_timeout_ms=5_000,
            depends_on=(guest_containers.Dependency(container="db", condition="started"),),
        ),
    ),
    volumes=(
        guest.SharedVolume(name="sockets", memory_mb=16),
        guest.SharedVolume(name="spool"),
        guest.SharedVolume(name="bounded", disk="own1"),
    ),
)

EXIT = shim.ExitRecord(
    machine_id="148ed193b95948",
    instance_id="01K8RS0000000000000000000A",
    exited_at_ms=1_790_000_000_000,
    cause="guest",
    guest=shim.GuestExit(exit_code=137, signal=9, oom_killed=True),
    vmm=shim.VmmExit(exit_code=0),
)

EXAMPLES: dict[str, BaseModel] = {
    "guest_request": guest_api.request(
        "148ed193b95948",
        "PATCH",
        "/v1/apps/hello/machines/148ed193b95948/metadata",
        (("host", "flaps"), ("content-type", "application/json")),
        b'{"metadata":{"role":"leader"}}',
    ),
    "guest_answer": guest_api.answer(204, (("fly-request-id", "01K8-lcl"),), b""),
    "run_spec": RUN_SPEC,
    "run_spec_containers": CONTAINED,
    "shim_config": shim.ShimConfig(
        machine_id="148ed193b95948",
        instance_id="01K8RS0000000000000000000A",
        org_id="org_01k8",
        directory="/var/lib/godwit/store/machines/148ed193b95948",
        socket="/run/godwit/m/148ed193b95948.sock",
        channel_socket="/run/godwit/m/148ed193b95948.channel",
        run_spec="/proc/self/fd/63",
        vmm=shim.Vmm(
            argv=("/usr/bin/qemu-system-x86_64", "-M", "microvm"),
            uid=2_000_005,
            gid=2_000_005,
            cgroup_procs=("/sys/fs/cgroup/memory/godwit/cgroup.procs",),
            inherit=(7,),
        ),
    ),
    "processes": host_rpc.GuestProcesses(
        processes=(
            host_rpc.GuestProcess(
                pid=312,
                command="python3 -u app.py",
                directory="/srv",
                cpu=12,
                rss=20_971_520,
                rtime=3_600,
                stime=1_790_000_000,
                listen_sockets=(
                    host_rpc.ListenSocket(proto="tcp", address="[::]:8080"),
                    host_rpc.ListenSocket(proto="udp", address="172.16.0.5:53"),
                ),
            ),
        ),
        cut=True,
    ),
    "shim_status": shim.Status(
        machine_id="148ed193b95948",
        instance_id="01K8RS0000000000000000000A",
        shim_version="0.1.0",
        shim_pid=99,
        vmm_pid=100,
        phase="exited",
        hello=shim.Hello(v=1, init_version="0.1.0", kernel="6.1.0", boot_id="4f1c"),
        process_pid=321,
        started_at_ms=1_790_000_000_000,
        containers=(
            guest_containers.Standing(
                name="db",
                state="started",
                run=2,
                checks=(guest_containers.CheckStanding(status="critical", output="HTTP 5xx"),),
            ),
        ),
        dropped_log_bytes=5,
        exit=EXIT,
    ),
    "shim_exit": EXIT,
    "shim_log_line": shim.LogLine(t=1_790_000_000_000_000_001, s="stdout", m="listening"),
    "fact_app": facts.AppFact(
        epoch=1,
        revision=7,
        org_id="org_01k8",
        org_slug="acme",
        network_id="net_01k8",
        network_number=1,
        app_id="app_01k8",
        app="hello",
        hostnames=("hello.godwit.localhost",),
        addresses=("198.51.100.80", "2001:db8::80"),
        shared_udp=("203.0.113.80:5300",),
        replays_across_networks=True,
    ),
    "fact_machine": facts.MachineFact(
        owner="a1b2c3d4",
        epoch=1,
        revision=12,
        org_id="org_01k8",
        network_id="net_01k8",
        network_number=1,
        app_id="app_01k8",
        app="hello",
        machine_id="148ed193b95948",
        instance_id="01K8RS0000000000000000000A",
        name="quiet-tern-42",
        host_id="a1b2c3d4",
        region="lcl",
        state="started",
        private_ip="fdaa:0:1:a7b:1:0:5:2",
        local_ipv4="172.16.0.5",
        metadata={"fly_process_group": "app"},
        autostop="suspend",
        min_running=1,
        statics=facts.Statics(port=62_080, prefixes=("/static", "/docs")),
        services=(
            facts.Service(
                internal_port=8080,
                ports=(
                    facts.ServicePort(
                        start_port=80, end_port=80, handlers=("http",), force_https=False
                    ),
                    facts.ServicePort(
                        start_port=443,
                        end_port=444,
                        handlers=("tls", "http", "proxy_proto"),
                        tls_options=facts.TlsOptions(
                            alpn=("h2",), versions=("TLSv1.2", "TLSv1.3"), default_self_signed=True
                        ),
                        http_options=facts.HttpOptions(
                            compress=False,
                            h2_backend=True,
                            idle_timeout=600,
                            headers_read_timeout=15,
                            pristine=True,
                            remove=("server",),
                            add=(("x-frame-options", "DENY"),),
                            replay_cache=(
                                facts.ReplayCache(
                                    path_prefix="/",
                                    ttl_seconds=60,
                                    type="cookie",
                                    name="session",
                                    allow_bypass=True,
                                ),
                            ),
                        ),
                        proxy_version="v2",
                    ),
                ),
                concurrency="requests",
                hard_limit=25,
            ),
        ),
    ),
    "fact_host": facts.HostFact(
        owner="a1b2c3d4",
        epoch=1,
        revision=1,
        host_id="a1b2c3d4",
        region="lcl",
        zone="00a1",
        backhaul="[fdaa::1:1:0:0:1]:4282",
    ),
    "fact_member": facts.MemberFact(
        epoch=1,
        revision=9,
        host_id="a1b2c3d4",
        host_number=65_537,
        region="fra",
        zone="00a1",
        roles=("bus", "agent", "edge", "dns"),
        keys={
            "host": "UDXU4RCSJNZOIQHZNWXHXORDPRTGNJAHAHFRGZNEEJCPQTT2M7NLCNF4",
            "edge": "UAYWKZTB5QNH6JF3H5F7OPVYUQZPBWRLGR2V3O4JK2Z3XIYQCS2W3ZXA",
            "dns": "UBKFFAGVAQFY4SUYYNLF5RZDWVZNPNVXJQ5LP5C4C3XVZJJRBQBFSGQI",
            "catalog": "UDT4AGX4WLQ24UB67WQP3PQAP3YQCFZ6NY7PJYFEYBQHIDKXDR3EOVZX",
        },
        mesh_key="hWWVXGP6zzVXtcHjJrNJRAMhBqTmMMbXSmLJsfXJlEo=",
        mesh_next_key="cV1o0VfCVHr6cCjdVPwRLWsr1S8l5yJwW2yT0n9Jm3Q=",
        endpoints=("198.51.100.7:51820",),
        services={"bus": "[fdaa:0:0:1:1::1]:4222"},
        state="cordoned",
    ),
    "edge_config": components.EdgeConfig(
        host_id="a1b2c3d4",
        region="lcl",
        apps_domain="godwit.localhost",
        listeners=(
            components.Listener(address="0.0.0.0:8080", port=80),
            components.Listener(address="0.0.0.0:8443", port=443),
        ),
        status_address="127.0.0.1:8090",
        agent_socket="/run/godwit/catalog.sock",
        bus=components.BusClient(
            servers=("nats://127.0.0.1:4222",), seed_file="/var/lib/godwit/keys/edge.seed"
        ),
        view_file="/var/lib/godwit/edge/view.json",
        addresses=("198.51.100.80", "::"),
        reserved_ports=(22, 4222, 4280, 4282, 4283, 5050, 6222, 8090, 51_820),
        proxies=("192.0.2.0/24", "2001:db8::1"),
        forwarders=("203.0.113.0/24",),
        tls=components.TlsAuthority(
            certificate_file="/var/lib/godwit/keys/edge.crt",
            key_file="/var/lib/godwit/keys/edge.key",
        ),
        handover_socket="/run/godwit/edge.handover",
        backhaul="[fdaa::1:1:0:0:1]:4282",
        region_aliases=regions.aliases(),
        api=components.Api(name="api.godwit.localhost", servers=("127.0.0.1:4280",)),
        flycast="[fdaa::3]:4283",
        fly_src_key_file="/var/lib/godwit/keys/fly-src.key",
    ),
    "dns_config": components.DnsConfig(
        host_id="a1b2c3d4",
        region="lcl",
        addresses=("[fdaa::3]:53",),
        upstreams=("192.0.2.53:53",),
        agent_socket="/run/godwit/catalog.sock",
        bus=components.BusClient(
            servers=("nats://127.0.0.1:4222",), seed_file="/var/lib/godwit/keys/dns.seed"
        ),
        view_file="/var/lib/godwit/dns/view.json",
    ),
}

LOCAL_FRAMES = (
    facts.LocalFrame(type="fact", fact=EXAMPLES["fact_machine"]),  # type: ignore[arg-type]
    facts.LocalFrame(type="synced"),
    facts.LocalFrame(type="woken", id=3),
    facts.LocalFrame(type="count", id=5, machine_id="148ed193b95948"),
    facts.LocalFrame(type="error", id=4, message="no room"),
    facts.LocalFrame(type="distances", hosts={"a1b2c3d4": 45_000}, regions={"iad": 90_000}),
)

LOCAL_REQUESTS = (
    facts.Hello(v=facts.LOCAL_VERSION, component="edge"),
    facts.Wake(id=7, machine_id="148ed193b95948"),
    facts.Counted(id=5, requests=3, tunnels=1),
    facts.Stop(machine_id="148ed193b95948", suspend=True),
)

MESSAGES: tuple[dict[str, object], ...] = (
    {"type": "run", "spec": RUN_SPEC.model_dump(mode="json")},
    {"type": "stop", "signal": "SIGINT", "timeout_ms": 5000},
    {"type": "signal", "signal": "SIGHUP"},
    {"type": "ping", "id": 1},
    {"type": "stats", "id": 2},
    {
        "type": "exec",
        "stream": 5,
        "argv": ["sh", "-c", "id"],
        "env": {"A": "b"},
        "env_base64": {"HIGH": "gP8="},
        "user": "",
        "working_directory": "/",
        "tty": {"rows": 40, "cols": 80},
        "container": "db",
    },
    {"type": "sleep"},
    {"type": "wake", "clock_unix_ns": 1790000000000000000, "entropy_base64": "AAEC"},
    {"type": "exec_signal", "stream": 5, "signal": "SIGTERM"},
    {"type": "resize", "stream": 5, "rows": 50, "cols": 132},
    {"type": "accept", "stream": 6, "credit": 16384},
    {
        "type": "answer",
        "container": "db",
        "run": 2,
        "check": 0,
        "well": True,
        "output": "HTTP 200",
    },
    {"type": "hello", "v": 1, "init_version": "0.1.0", "kernel": "6.1.0", "boot_id": "4f1c"},
    {"type": "started", "pid": 321, "at_ms": 1790000000000},
    {"type": "started", "pid": 321, "at_ms": 1790000000000, "boot_id": "4f1c"},
    {
        "type": "containers",
        "containers": [
            {
                "name": "db",
                "state": "started",
                "run": 1,
                "checks": [{"status": "passing", "output": "exit code 0"}],
            },
            {"name": "app", "state": "created", "run": 0},
        ],
    },
    {"type": "asleep"},
    {"type": "exited", "exit_code": 0, "signal": None, "oom_killed": False},
    {"type": "failed", "stage": "spawn", "message": "no such program: foo"},
    {"type": "exec_started", "stream": 5, "pid": 400},
    {"type": "exec_exited", "stream": 5, "exit_code": 137, "signal": 9},
    {"type": "exec_failed", "stream": 5, "message": "no such program: foo"},
    {"type": "pong", "id": 1},
)

FRAMES = (
    channel.Frame(channel.Kind.MESSAGE, 0, b'{"type":"ping","id":1}'),
    channel.Frame(channel.Kind.STDOUT, 0, b"hello\n"),
    channel.Frame(channel.Kind.STDERR, 5, b"\x00\xff"),
    channel.Frame(channel.Kind.CREDIT, 5, b"\x00\x01\x00\x00"),
    channel.Frame(channel.Kind.EOF, 5, b""),
)


def documents() -> dict[str, object]:
    """Return every golden file's content by its name."""
    found: dict[str, object] = {
        f"{name}.json": record.model_dump(mode="json") for name, record in EXAMPLES.items()
    }
    found["messages.json"] = list(MESSAGES)
    found["local_frames.json"] = [frame.model_dump(mode="json") for frame in LOCAL_FRAMES]
    found["local_requests.json"] = [each.model_dump(mode="json") for each in LOCAL_REQUESTS]
    found["channel.json"] = [
        {
            "kind": frame.kind.name,
            "stream": frame.stream,
            "payload_hex": frame.payload.hex(),
            "frame_hex": channel.encode(frame).hex(),
        }
        for frame in FRAMES
    ]
    return found


def render(document: object) -> str:
    """Return a golden file's text."""
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    for name, document in documents().items():
        (GOLDEN / name).write_text(render(document))
