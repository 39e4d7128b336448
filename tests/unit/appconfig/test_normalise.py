import pytest

from godwit.appconfig.normalise import normalise


@pytest.mark.parametrize(
    ("written", "canonical"),
    [
        ({"env": [{"A": 1}, {"B": True}]}, {"env": {"A": "1", "B": "true"}}),
        ({"env": {"A": 1.5}}, {"env": {"A": "1.5"}}),
        ({"processes": [{"name": "web", "command": "run"}]}, {"processes": {"web": "run"}}),
        ({"processes": []}, {}),
        ({"mount": {"source": "d"}}, {"mounts": [{"source": "d"}]}),
        ({"metric": {"port": 1}}, {"metrics": [{"port": 1}]}),
        ({"compute": {"cpus": 1}}, {"vm": [{"cpus": 1}]}),
        ({"computes": [{"cpus": 1}], "vm": {"cpus": 2}}, {"vm": [{"cpus": 2}, {"cpus": 1}]}),
        ({"vm": {"cpus": 2}}, {"vm": [{"cpus": 2}]}),
        (
            {"services": [{"concurrency": "5,10"}]},
            {
                "services": [
                    {
                        "concurrency": {
                            "type": "requests",
                            "soft_limit": "5",
                            "hard_limit": "10",
                        }
                    }
                ]
            },
        ),
        (
            {"http_service": {"checks": [{"headers": [{"name": "X", "value": 1}]}]}},
            {"http_service": {"checks": [{"headers": {"X": "1"}}]}},
        ),
        ({"checks": [{"name": "a", "type": "tcp"}]}, {"checks": {"a": {"type": "tcp"}}}),
        ({"build": {"build_target": "x"}}, {"build": {"build-target": "x"}}),
        (
            {"experimental": {"kill_timeout": 9, "metrics_port": 1, "metrics_path": "/m"}},
            {"experimental": {}, "kill_timeout": 9, "metrics": [{"port": 1, "path": "/m"}]},
        ),
    ],
)
def test_legacy_spellings_become_canonical(written, canonical):
    assert normalise(written) == canonical


def test_canonical_spelling_stays_and_the_input_is_not_touched():
    document = {"app": "x", "services": [{"ports": [{"port": 80}]}], "mount": {"source": "d"}}
    before = repr(document)
    once = normalise(document)
    assert normalise(once) == once
    assert repr(document) == before
