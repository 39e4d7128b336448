import pytest

from godwit.appconfig import later
from godwit.appconfig.model import Config
from godwit.appconfig.normalise import normalise
from godwit.appconfig.problems import dotted

OPTIONS = {
    "idle_timeout": 9,
    "replay_cache": [{"path_prefix": "/", "ttl_seconds": 60, "type": "cookie", "name": "sid"}],
}


def told(document):
    config = Config.model_validate(normalise(document))
    return {dotted(one.path): one.message for one in later.without_effect(config)}


@pytest.mark.parametrize(
    ("document", "place"),
    [
        ({"mounts": {"source": "d", "destination": "/d"}}, "mounts"),
        (
            {"statics": [{"guest_path": "/p", "url_prefix": "/", "tigris_bucket": "b"}]},
            "statics[0].tigris_bucket",
        ),
        ({"statics": [{"guest_path": "p", "url_prefix": "/"}]}, "statics[0].guest_path"),
        ({"metrics": {"port": 9}}, "metrics"),
        ({"host_dedication_id": "x"}, "host_dedication_id"),
        ({"vm": {"host_dedication_id": "x"}}, "vm[0].host_dedication_id"),
        ({"experimental": {"enable_consul": True}}, "experimental.enable_consul"),
        ({"experimental": {"enable_etcd": True}}, "experimental.enable_etcd"),
        ({"experimental": {"lazy_load_images": True}}, "experimental.lazy_load_images"),
        (
            {"experimental": {"attached": {"secrets": {"export": {"A": "x"}}}}},
            "experimental.attached",
        ),
        ({"build": {"builder": "x"}}, "build.builder"),
        ({"build": {"buildpacks": ["x"]}}, "build.buildpacks"),
        ({"build": {"builtin": "go"}}, "build.builtin"),
        ({"build": {"compression": "zstd"}}, "build.compression"),
        ({"build": {"compression_level": 3}}, "build.compression_level"),
        ({"services": [{"protocol": "udp", "ports": [{"port": 53}]}]}, "services[0].protocol"),
        ({"services": [{"ports": [{"port": 5432}]}]}, "services[0].ports[0].handlers"),
    ],
)
def test_what_has_no_effect_yet_is_told(document, place):
    assert list(told(document)) == [place]


@pytest.mark.parametrize(
    "document",
    [
        {"build": {"image": "x", "builder": "y"}},
        {"http_service": {"force_https": True, "tls_options": {"alpn": ["h2"]}}},
        {"http_service": {"http_options": {"headers_read_timeout": 5, "h2_backend": True}}},
        {"http_service": {"http_options": {"response": {"pristine": True}}}},
        {"http_service": {"http_options": {"compress": True, "idle_timeout": 9}}},
        {"services": [{"ports": [{"handlers": ["http"], "http_options": OPTIONS}]}]},
        {"http_service": {"auto_stop_machines": "suspend", "min_machines_running": 1}},
        {"services": [{"ports": [{"port": 5432, "handlers": ["pg_tls"]}]}]},
        {
            "services": [
                {
                    "ports": [
                        {
                            "port": 9,
                            "handlers": ["tls", "proxy_proto"],
                            "proxy_proto_options": {"version": "v2"},
                        }
                    ]
                }
            ]
        },
        {"machine_config": '{"env": {}}'},
        {"vm": {"persist_rootfs": "never"}},
        {"statics": [{"guest_path": "/p", "url_prefix": "/", "index_document": "a.html"}]},
        {"http_service": {"auto_stop_machines": "off", "http_options": {}}},
        {"experimental": {"auto_rollback": False}},
        {"deploy": {"release_command": "migrate", "auto_rollback": False}},
        {"machine_checks": [{"command": ["true"]}]},
        {"experimental": {"cmd": ["x"], "enable_consul": False}},
    ],
)
def test_what_works_is_not_told(document):
    assert told(document) == {}


def test_datagrams_have_a_port_of_the_shared_address_too():
    udp = {"protocol": "udp", "ports": [{"port": 53}]}
    raw = {"ports": [{"port": 5432}]}
    found = told({"services": [udp, raw]})
    assert "or at the shared one" in found["services[0].protocol"]
    assert "shared" not in found["services[1].ports[0].handlers"]
