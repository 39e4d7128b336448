import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from godwit.appconfig import check, files, groups, later, machine
from godwit.base.errors import Failure

VALID = """
app = "hello"
primary_region = "lcl"

[http_service]
internal_port = 8080
"""


def write(tmp_path, text, name="fly.toml"):
    path = tmp_path / name
    path.write_text(text)
    return path


def mistakes(tmp_path, text, name="fly.toml"):
    loaded = files.load(write(tmp_path, text, name))
    return [one.told(loaded.name) for one in loaded.found]


def test_finds_toml_before_json_before_yaml(tmp_path):
    assert files.find(tmp_path) is None
    for name in ("fly.yaml", "fly.json", "fly.toml"):
        write(tmp_path, "", name)
        assert files.find(tmp_path).name == name


def test_a_named_config_is_a_file_or_a_directory_with_one(tmp_path):
    (tmp_path / "sub").mkdir()
    inner = write(tmp_path / "sub", VALID)
    assert files.find(tmp_path, "sub/fly.toml") == inner
    assert files.find(tmp_path, "sub") == inner
    with pytest.raises(Failure, match=r"there is no config file at other\.toml"):
        files.find(tmp_path, "other.toml")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("fly.toml", VALID),
        ("fly.json", json.dumps({"app": "hello", "http_service": {"internal_port": 8080}})),
        ("fly.yaml", "app: hello\nhttp_service:\n  internal_port: 8080\n"),
    ],
)
def test_the_same_schema_in_three_formats(tmp_path, name, text):
    config = files.load(write(tmp_path, text, name)).checked()
    assert config.app == "hello"
    assert config.http_service.internal_port == 8080


MISTAKES = {
    "not TOML": (
        'app = "x',
        "fly.toml:1: not TOML: Unterminated string",
    ),
    "not TOML at its end": (
        "[build",
        "fly.toml:1: not TOML: Expected ']' at the end of a table declaration",
    ),
    "app name": (
        'app = "Hello World"',
        (
            "fly.toml:1: app: expected lower-case letters, digits and -, beginning and ending with "
            'a letter or digit, at most 63 of them, got "Hello World"'
        ),
    ),
    "app type": ("app = 3", "fly.toml:1: app: expected a string, got 3"),
    "region": (
        'primary_region = "Frankfurt"',
        'fly.toml:1: primary_region: expected three letters such as fra, got "Frankfurt"',
    ),
    "signal": (
        'kill_signal = "SIGNOPE"',
        (
            "fly.toml:1: kill_signal: expected one of SIGHUP, SIGINT, SIGQUIT, SIGKILL, SIGUSR1, "
            'SIGUSR2, SIGTERM, got "SIGNOPE"'
        ),
    ),
    "kill timeout": (
        "kill_timeout = 301",
        "fly.toml:1: kill_timeout: expected at most 300 seconds",
    ),
    "duration": (
        'kill_timeout = "soon"',
        (
            "fly.toml:1: kill_timeout: expected a duration such as 300ms, 10s, 1m30s or 2h, "
            'got "soon"'
        ),
    ),
    "duration type": (
        "kill_timeout = [1]",
        "fly.toml:1: kill_timeout: expected a duration such as 10s or 1m30s, got a list",
    ),
    "negative duration": (
        'kill_timeout = "-1s"',
        'fly.toml:1: kill_timeout: expected a duration that is not negative, got "-1s"',
    ),
    "command": (
        'console_command = "sh -c \'oops"',
        "fly.toml:1: console_command: cannot be split into words: no closing quotation",
    ),
    "release command": (
        "[deploy]\nrelease_command = '''a \"b'''",
        "fly.toml:2: deploy.release_command: cannot be split into words: no closing quotation",
    ),
    "process command": (
        '[processes]\nweb = "run \'x"',
        "fly.toml:2: processes.web: cannot be split into words: no closing quotation",
    ),
    "strategy": (
        '[deploy]\nstrategy = "yolo"',
        (
            'fly.toml:2: deploy.strategy: expected one of "rolling", "immediate", "canary", '
            '"bluegreen", got "yolo"'
        ),
    ),
    "canary with mounts": (
        '[deploy]\nstrategy = "canary"\n[[mounts]]\nsource="d"\ndestination="/d"',
        "fly.toml:2: deploy.strategy: canary does not work with mounts: use rolling instead",
    ),
    "max unavailable": (
        "[deploy]\nmax_unavailable = 0",
        "fly.toml:2: deploy.max_unavailable: expected more than 0, got 0",
    ),
    "env value": ("[env]\nA = [1]", "fly.toml:2: env.A: expected a string, got a list"),
    "section type": ("http_service = 5", "fly.toml:1: http_service: expected a table, got 5"),
    "list type": ('services = "x"', 'fly.toml:1: services: expected a list, got "x"'),
    "port": (
        "[http_service]\ninternal_port = 99999",
        "fly.toml:2: http_service.internal_port: expected a port from 1 to 65535, got 99999",
    ),
    "port type": (
        '[http_service]\ninternal_port = "web"',
        'fly.toml:2: http_service.internal_port: expected a port from 1 to 65535, got "web"',
    ),
    "boolean": (
        "[http_service]\nforce_https = 1",
        "fly.toml:2: http_service.force_https: expected true or false, got 1",
    ),
    "autostop": (
        '[http_service]\nauto_stop_machines = "maybe"',
        (
            'fly.toml:2: http_service.auto_stop_machines: expected "off", "stop" or "suspend", '
            'got "maybe"'
        ),
    ),
    "limits": (
        "[http_service.concurrency]\nsoft_limit = 9\nhard_limit = 3",
        "fly.toml:2: http_service.concurrency.soft_limit: expected at most hard_limit (3), got 9",
    ),
    "concurrency type": (
        '[http_service.concurrency]\ntype = "cats"',
        (
            'fly.toml:2: http_service.concurrency.type: expected "connections" or "requests", '
            'got "cats"'
        ),
    ),
    "protocol": (
        '[[services]]\nprotocol = "sctp"',
        'fly.toml:2: services[0].protocol: expected "tcp" or "udp", got "sctp"',
    ),
    "handler": (
        '[[services]]\n[[services.ports]]\nport = 1\nhandlers = ["web"]',
        (
            'fly.toml:4: services[0].ports[0].handlers[0]: expected "http", "tls", "pg_tls" or '
            '"proxy_proto", got "web"'
        ),
    ),
    "no port": (
        '[[services]]\n[[services.ports]]\nhandlers = ["http"]',
        "fly.toml:2: services[0].ports[0]: expected port, or start_port and end_port",
    ),
    "port and range": (
        "[[services]]\n[[services.ports]]\nport = 1\nstart_port = 2",
        "fly.toml:2: services[0].ports[0]: expected port or a range of ports, not both",
    ),
    "range backwards": (
        "[[services]]\n[[services.ports]]\nstart_port = 9\nend_port = 2",
        "fly.toml:2: services[0].ports[0]: start_port is greater than end_port",
    ),
    "force_https without http": (
        "[[services]]\n[[services.ports]]\nport = 80\nforce_https = true",
        (
            "fly.toml:4: services[0].ports[0].force_https: works only together with "
            'handlers = ["http"]'
        ),
    ),
    "udp with handlers": (
        '[[services]]\nprotocol = "udp"\n[[services.ports]]\nport = 53\nhandlers = ["http"]',
        "fly.toml:5: services[0].ports[0].handlers: UDP has no handlers",
    ),
    "service without processes": (
        '[processes]\nweb = ""\n[http_service]\ninternal_port = 80',
        (
            'fly.toml:3: http_service: needs processes = ["…"], because the file has [processes] '
            "(web)"
        ),
    ),
    "unknown group": (
        '[http_service]\nprocesses = ["web"]',
        'fly.toml:2: http_service.processes: there is no process group "web"; groups are app',
    ),
    "unknown group of restart": (
        '[[restart]]\npolicy = "always"\nprocesses = ["web"]',
        'fly.toml:3: restart[0].processes: there is no process group "web"; groups are app',
    ),
    "check type": (
        "[checks.up]\nport = 80",
        'fly.toml:1: checks.up.type: expected "tcp", "http" or "exec", got nothing',
    ),
    "check type value": (
        '[checks.up]\ntype = "udp"\nport = 80',
        'fly.toml:2: checks.up.type: expected "tcp", "http" or "exec", got "udp"',
    ),
    "check command": (
        '[checks.up]\ntype = "exec"',
        'fly.toml:1: checks.up.command: is required with type = "exec"',
    ),
    "check command of another type": (
        '[checks.up]\ntype = "tcp"\nport = 80\ncommand = ["true"]',
        'fly.toml:4: checks.up.command: works only together with type = "exec"',
    ),
    "check interval": (
        '[checks.up]\ntype = "tcp"\nport = 80\ninterval = "1s"',
        "fly.toml:4: checks.up.interval: expected at least 2s",
    ),
    "check timeout": (
        '[checks.up]\ntype = "tcp"\nport = 80\ntimeout = "61s"',
        "fly.toml:4: checks.up.timeout: expected at most 1m",
    ),
    "check port": (
        '[checks.up]\ntype = "tcp"',
        "fly.toml:1: checks.up.port: is required, because there is no [http_service]",
    ),
    "mount source": (
        '[[mounts]]\ndestination = "/d"',
        "fly.toml:1: mounts[0].source: is required",
    ),
    "mount destination": (
        '[mounts]\nsource = "d"\ndestination = "/"',
        'fly.toml:3: mounts[0].destination: expected an absolute path other than /, got "/"',
    ),
    "mount retention": (
        '[mount]\nsource = "d"\ndestination = "/d"\nsnapshot_retention = 61',
        "fly.toml:4: mounts[0].snapshot_retention: expected 1 to 60 days, got 61",
    ),
    "mount size": (
        '[mounts]\nsource = "d"\ndestination = "/d"\ninitial_size = "tiny"',
        (
            "fly.toml:4: mounts[0].initial_size: expected a volume size such as 10 (GB) or 10gb, "
            'got "tiny"'
        ),
    ),
    "mount extension": (
        '[mounts]\nsource = "d"\ndestination = "/d"\nauto_extend_size_threshold = 80',
        (
            "fly.toml:1: mounts[0]: auto_extend_size_threshold, auto_extend_size_increment and "
            "auto_extend_size_limit go together"
        ),
    ),
    "two mounts": (
        '[[mounts]]\nsource="a"\ndestination="/a"\n[[mounts]]\nsource="b"\ndestination="/b"',
        'fly.toml:4: mounts[1]: group "app" has 2 mounts, and may have one',
    ),
    "vm size": (
        '[[vm]]\nsize = "l40s"',
        'fly.toml:1: vm[0]: "l40s" is a GPU size, and no host here has GPUs',
    ),
    "vm memory": (
        '[vm]\nmemory = "lots"',
        (
            "fly.toml:2: vm[0].memory: expected a memory size such as 512 (MB), 512mb or 1gb, "
            'got "lots"'
        ),
    ),
    "vm memory range": (
        '[[vm]]\nmemory = "4gb"',
        "fly.toml:1: vm[0]: 1 shared CPU goes with 256 to 2048 MB of memory; got 4096; the nearest is 2048",
    ),
    "gpus": ("[[vm]]\ngpus = 1", "fly.toml:2: vm[0].gpus: no host here has GPUs"),
    "restart policy": (
        '[[restart]]\npolicy = "sometimes"',
        (
            'fly.toml:2: restart[0].policy: expected "always", "never" or "on-failure", '
            'got "sometimes"'
        ),
    ),
    "compression": (
        '[build]\ncompression = "xz"',
        'fly.toml:2: build.compression: expected "gzip" or "zstd", got "xz"',
    ),
    "compression level": (
        "[build]\ncompression_level = 11",
        "fly.toml:2: build.compression_level: expected a whole number from 0 to 9, got 11",
    ),
    "volume size": (
        '[mounts]\nsource = "d"\ndestination = "/d"\ninitial_size = 501',
        "fly.toml:4: mounts[0].initial_size: expected 1 to 500 GB, got 501",
    ),
    "freezing signal": (
        'kill_signal = "SIGSTOP"',
        (
            "fly.toml:1: kill_signal: expected one of SIGHUP, SIGINT, SIGQUIT, SIGKILL, SIGUSR1, "
            'SIGUSR2, SIGTERM, got "SIGSTOP"'
        ),
    ),
    "endless": (
        "[deploy]\nmax_unavailable = inf",
        'fly.toml:2: deploy.max_unavailable: expected a number, got "inf"',
    ),
    "option": (
        "[http_service.http_options]\nidle_timeout = '1m'",
        (
            "fly.toml:2: http_service.http_options.idle_timeout: expected a whole number, 0 or "
            'more, got "1m"'
        ),
    ),
    "response header": (
        "[http_service.http_options.response.headers]\nServer = 1",
        (
            "fly.toml:2: http_service.http_options.response.headers.Server: expected false, a "
            "string or a list of strings, got 1"
        ),
    ),
    "replay cache": (
        (
            '[[http_service.http_options.replay_cache]]\npath_prefix="/"\nttl_seconds=9\ntype="cookie"'
            '\nname="s"'
        ),
        (
            "fly.toml:3: http_service.http_options.replay_cache[0].ttl_seconds: expected a whole "
            "number of seconds, 10 or more, got 9"
        ),
    ),
    "TLS version": (
        '[http_service.tls_options]\nversions = ["SSLv3"]',
        (
            'fly.toml:2: http_service.tls_options.versions[0]: expected "TLSv1.2" or "TLSv1.3", '
            'got "SSLv3"'
        ),
    ),
    "machine check": (
        "[[machine_checks]]\nimage = 'curl'",
        "fly.toml:1: machine_checks[0].command: is required",
    ),
    "long value": (
        f"kill_signal = '{'x' * 200}'",
        (
            "fly.toml:1: kill_signal: expected one of SIGHUP, SIGINT, SIGQUIT, SIGKILL, SIGUSR1, "
            f'SIGUSR2, SIGTERM, got "{"x" * 80}…"'
        ),
    ),
    "file path": (
        '[[files]]\nguest_path = "etc/x"',
        'fly.toml:2: files[0].guest_path: expected an absolute path, got "etc/x"',
    ),
    "metrics port": ("[metrics]\npath = '/m'", "fly.toml:1: metrics[0].port: is required"),
    "static": ("[[statics]]\nguest_path = '/p'", "fly.toml:1: statics[0].url_prefix: is required"),
    "statics": (
        "".join(f'[[statics]]\nguest_path="/{n}"\nurl_prefix="/{n}"\n' for n in range(11)),
        "fly.toml:31: statics[10]: expected at most 10",
    ),
}


@pytest.mark.parametrize(("text", "message"), MISTAKES.values(), ids=MISTAKES.keys())
def test_each_kind_of_mistake_is_told_with_its_place(tmp_path, text, message):
    found = mistakes(tmp_path, text)
    assert message in found
    assert [one for one in found if one != message and "has no ports" not in one] == []


WARNINGS = {
    "two ways to build": (
        '[build]\nimage = "a"\nbuilder = "b"',
        "fly.toml:1: build: image and builder are different ways to build; image is used",
    ),
    "no ports": (
        "[[services]]\ninternal_port = 1",
        "fly.toml:1: services[0]: has no ports: nothing outside will reach it",
    ),
    "clamped": (
        '[[http_service.checks]]\ninterval = "2m"',
        "fly.toml:2: http_service.checks[0].interval: 2m0s is outside 1s to 1m; 1m0s is used",
    ),
    "bare milliseconds": (
        "[[http_service.checks]]\ngrace_period = 500",
        "fly.toml:2: http_service.checks[0].grace_period: 500ms is outside 1s to 1m; 1s is used",
    ),
    "unavailable for nothing": (
        '[deploy]\nstrategy = "immediate"\nmax_unavailable = 1',
        "fly.toml:3: deploy.max_unavailable: means nothing for immediate",
    ),
    "text in a file": (
        '[[files]]\nguest_path = "/f"\nraw_value = "hello!"',
        "fly.toml:3: files[0].raw_value: is not base64, so it is taken as the text itself",
    ),
    "secret": (
        "[env]\nDB_PASSWORD = 'x'",
        (
            "fly.toml:2: env.DB_PASSWORD: looks like a secret, and everybody who reads the file or "
            "a release sees it: use `godwit secrets set`"
        ),
    ),
    "reserved": (
        "[env]\nFLY_REGION = 'x'",
        "fly.toml:2: env.FLY_REGION: names that begin with FLY_ are the platform's",
    ),
}


@pytest.mark.parametrize(("text", "message"), WARNINGS.values(), ids=WARNINGS.keys())
def test_what_is_doubtful_is_a_warning(tmp_path, text, message):
    loaded = files.load(write(tmp_path, text))
    assert [one.told("fly.toml") for one in loaded.warnings()] == [message]
    loaded.checked()


def test_all_mistakes_are_told_together_in_the_order_of_the_file(tmp_path):
    path = write(
        tmp_path,
        'app = "No Good"\nkill_timeout = 999\n[http_service]\ninternal_port = "x"\n'
        "[[vm]]\nmemory = 5\n",
    )
    with pytest.raises(Failure) as caught:
        files.load(path).checked()
    assert caught.value.code == "invalid_argument"
    assert caught.value.message == (
        "fly.toml has 4 mistakes:\n"
        "  fly.toml:1: app: expected lower-case letters, digits and -, beginning and ending with "
        'a letter or digit, at most 63 of them, got "No Good"\n'
        "  fly.toml:2: kill_timeout: expected at most 300 seconds\n"
        '  fly.toml:4: http_service.internal_port: expected a port from 1 to 65535, got "x"\n'
        "  fly.toml:5: vm[0]: 1 shared CPU goes with 256 to 2048 MB of memory; got 5; the nearest is 256"
    )


def test_mistakes_in_json_and_yaml_have_lines_too(tmp_path):
    text = '{\n  "app": "x",\n  "http_service": {\n    "internal_port": 0\n  }\n}'
    expected = ":4: http_service.internal_port: expected a port from 1 to 65535, got 0"
    assert mistakes(tmp_path, text, "fly.json") == [f"fly.json{expected}"]
    text = "app: x\n\nhttp_service:\n  internal_port: 0\n"
    assert mistakes(tmp_path, text, "fly.yaml") == [f"fly.yaml{expected}"]
    assert mistakes(tmp_path, '{"app": ]', "fly.json") == [
        "fly.json:1: not JSON: Expecting value (column 9)"
    ]
    assert mistakes(tmp_path, "app: [", "fly.yaml")[0].startswith("fly.yaml:1: not YAML: ")
    assert mistakes(tmp_path, "# nothing\n", "fly.yaml") == []
    assert mistakes(tmp_path, "- a\n", "fly.yaml") == ["fly.yaml: expected a table at the top"]


@pytest.mark.parametrize(
    "text",
    [VALID, 'app = "hello"\nkill_timeout = []', 'app = "hello"\n[[[', "app = 'hello' x"],
)
def test_the_app_is_known_even_when_the_rest_is_wrong(tmp_path, text):
    assert files.app_name(write(tmp_path, text)) == "hello"


def test_a_file_without_an_app_has_none(tmp_path):
    assert files.app_name(write(tmp_path, "[env]\n")) is None


def test_unknown_keys_are_ignored_but_can_be_listed(tmp_path):
    text = 'app = "x"\ncolour = "red"\n[http_service]\nport = 1\n[[vm]]\nram = 5\n'
    config = files.load(write(tmp_path, text)).checked()
    assert [one.path for one in check.unknown_keys(config)] == [
        ("colour",),
        ("http_service", "port"),
        ("vm", 0, "ram"),
    ]


def test_what_has_no_effect_yet_is_said_plainly(tmp_path):
    text = (
        "[http_service]\n"
        'force_https = true\nauto_stop_machines = "stop"\n[[mounts]]\nsource = "d"\n'
        'destination = "/d"\n[metrics]\nport = 9\n[build]\nbuilder = "x"\n'
    )
    config = files.load(write(tmp_path, text)).checked()
    told = {one.path[-1]: one.message for one in later.without_effect(config)}
    assert told.keys() == {
        "mounts",
        "metrics",
        "builder",
    }


def test_a_file_that_cannot_be_read_is_a_failure(tmp_path):
    with pytest.raises(Failure, match="No such file"):
        files.load(tmp_path / "fly.toml")
    (tmp_path / "fly.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(Failure, match=r"fly\.toml is not UTF-8 text"):
        files.load(tmp_path / "fly.toml")
    (tmp_path / "fly.toml").write_bytes(b"#" * 1_000_001)
    with pytest.raises(Failure, match="larger than 1 MB"):
        files.load(tmp_path / "fly.toml")


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=12,
)
KEYS = st.sampled_from(
    [
        "app", "env", "build", "deploy", "services", "http_service", "checks", "mounts", "mount",
        "vm", "compute", "processes", "metrics", "experimental", "kill_timeout", "restart",
        "files", "statics", "machine_checks", "concurrency", "ports", "headers", "handlers",
        "internal_port", "memory", "size", "source", "guest_path", "type", "interval", "name",
    ]
)  # fmt: skip
DOCUMENTS = st.dictionaries(
    KEYS,
    st.recursive(
        SCALARS,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
        max_leaves=20,
    ),
    max_size=8,
)


@given(DOCUMENTS | st.dictionaries(st.text(max_size=8), VALUES, max_size=4))
@settings(max_examples=300)
def test_no_document_whatever_crashes_the_reader(tmp_path_factory, document):
    path = tmp_path_factory.getbasetemp() / "fly.json"
    loaded = files.understand(path, document)
    assert loaded.config is not None or loaded.found
    if loaded.config is not None:
        later.without_effect(loaded.config)
        check.unknown_keys(loaded.config)
        json.dumps(loaded.document, allow_nan=False).encode()
    if not any(one.severity == "error" for one in loaded.found):
        for group in groups.names(loaded.checked()):
            machine.to_machine_config(
                loaded.checked(), group, image="x", read_file=lambda name: name.encode()
            )


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
@settings(
    max_examples=300,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_no_file_whatever_crashes_the_reader(tmp_path, content):
    for name in files.NAMES:
        path = tmp_path / name
        path.write_bytes(content)
        try:
            files.load(path)
            files.app_name(path)
        except Failure as failure:
            assert failure.code == "invalid_argument"  # noqa: PT017 - either way is fine
