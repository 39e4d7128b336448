import pytest
from hypothesis import given
from hypothesis import strategies as st

from godwit.appconfig.normalise import MOST_VALUES, normalise


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
                            "soft_limit": 5,
                            "hard_limit": 10,
                        }
                    }
                ]
            },
        ),
        (
            {"http_service": {"checks": [{"headers": [{"name": "X", "value": 1}]}]}},
            {"http_service": {"checks": [{"headers": {"X": "1"}}]}},
        ),
        ({"http_service": {"internal_port": "80"}}, {"http_service": {"internal_port": 80}}),
        (
            {"services": [{"internal_port": "x", "ports": [{"port": "443"}]}]},
            {"services": [{"internal_port": "x", "ports": [{"port": 443}]}]},
        ),
        ({"app": None, "deploy": {"strategy": None}}, {"deploy": {}}),
        ({True: float("inf"), "b": b"hi"}, {"true": "inf", "b": "aGk="}),
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


def test_aliases_that_grow_beyond_all_measure_are_refused():
    grown = ["x"] * 10
    for _ in range(9):
        grown = [grown] * 10
    with pytest.raises(ValueError, match=f"more than {MOST_VALUES} values"):
        normalise({"a": grown})


LEGACY = st.dictionaries(
    st.sampled_from(
        [
            "env",
            "processes",
            "mount",
            "metric",
            "compute",
            "vm",
            "services",
            "checks",
            "build",
            "experimental",
            "kill_timeout",
            "concurrency",
            "headers",
            "name",
            "value",
            "command",
            "port",
            "build_target",
            "metrics_port",
        ]
    ),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=4) | st.just("1,2"),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["name", "value", "command", "concurrency", "headers", "port"]),
                inner,
                max_size=3,
            )
        ),
        max_leaves=12,
    ),
    max_size=6,
)


@given(LEGACY)
def test_what_is_canonical_stays_so(document):
    once = normalise(document)
    assert normalise(once) == once
