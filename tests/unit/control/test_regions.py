"""Region expressions."""

import pytest

from godwit.base import errors
from godwit.control import names, regions


@pytest.mark.parametrize(
    ("expression", "found"),
    [
        ("", ["lcl"]),
        ("fra", ["fra"]),
        ("FRA, lcl", ["fra", "lcl"]),
        ("eu", ["ams", "fra"]),
        ("any", ["lcl", "ams", "fra"]),
        ("[nearest],any", ["lcl", "ams", "fra"]),
        ("xyz,ams", ["ams"]),
    ],
)
def test_what_an_expression_stands_for(expression: str, found: list[str]) -> None:
    assert regions.choose(expression, ["ams", "fra", "lcl"], "lcl") == found


@pytest.mark.parametrize("expression", ["xyz", "us", ",", "a" * 300])
def test_a_region_without_hosts_is_told(expression: str) -> None:
    with pytest.raises(errors.Failure, match="region") as caught:
        regions.choose(expression, ["fra", "lcl"], "lcl")
    assert caught.value.code == "invalid_argument"


def test_the_default_is_a_region_with_hosts() -> None:
    assert regions.choose("", ["fra"], "lcl") == ["fra"]
    with pytest.raises(errors.Failure, match="no host has joined"):
        regions.choose("", [], "lcl")


def test_every_region_has_a_description() -> None:
    assert regions.describe("fra").latitude == pytest.approx(50.1167)
    assert regions.describe("qqq").name == "QQQ"


def test_names_are_dns_labels() -> None:
    made = {names.make() for _ in range(200)}
    assert len(made) > 190
    assert all(len(name) < 40 and name.replace("-", "").isalnum() for name in made)


def test_how_far_the_others_are_follows_from_where_they_are() -> None:
    from_frankfurt = regions.round_trips("fra")
    assert not {"fra", "lcl"} & set(from_frankfurt)
    assert from_frankfurt["ams"] < from_frankfurt["iad"] < from_frankfurt["syd"]
    assert 80 <= from_frankfurt["iad"] <= 110
    assert regions.round_trips("lcl") == {}
