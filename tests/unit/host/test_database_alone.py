"""A database is moved only where one control works on it."""

from pathlib import Path
from typing import Any

import pytest

from godwit.base import errors
from godwit.base.settings import Settings
from godwit.control import residence
from godwit.host import database_move, identity, membership, running
from tests.unit.host.test_membership import member


def test_with_control_on_another_host_nothing_is_moved(tmp_path: Path) -> None:
    run, data = tmp_path / "run", tmp_path / "data"
    (run / "pids").mkdir(parents=True)
    settings = Settings.model_validate({"paths": {"data": data, "run": run}})
    (run / "settings.json").write_text(settings.model_dump_json())
    who, _ = identity.ensure(data, "fra", "0000")
    for name in ("host.json", "pids/control.json"):
        running.write(run / name, running.this())
    both: dict[str, Any] = {"roles": ("control", "agent")}
    membership.keep(data, [member(who.host_id, **both), member("b2c3d4e5", **both)])
    with pytest.raises(errors.Failure, match="control runs on other hosts too") as caught:
        database_move.move(settings, "sqlite", timeout_s=5, told=lambda _: None)
    assert "b2c3d4e5" in caught.value.message
    assert not residence.Files(data / "control").request.exists()
