"""Every command that the pages for users show works on the real platform, in their order."""

import shutil
from pathlib import Path

import pytest

from godwit.testing import pages
from godwit.testing.platform import ORGANIZATIONS, Platform

ORG = ORGANIZATIONS[0]
CHECKED = """
app = "hello"
[http_service]
internal_port = 8080
[[http_service.checks]]
path = "/"
"""
BUILD = ("--offline", "--force-host-build")
ADDED = {"launch": (*BUILD, "--yes", "--no-ha"), "deploy": (*BUILD, "--no-ha")}
IMAGES = ("registry.example.org/team/app:v2", "nginx")
"""What the pages name, and the example's own image stands for."""
MAY_FIND_NOTHING = (("deploy", "--follow"), ("deploy", "--cancel"))


def run(platform: Platform, step: pages.Step, words: list[str], folder: Path) -> None:
    may_find_nothing = step.words in MAY_FIND_NOTHING
    try:
        stdin = pages.STANDARD_INPUT.get(step.words, "")
        platform.godwit(*words, cwd=folder, timeout=600, stdin=stdin)
    except AssertionError as failure:
        if not (may_find_nothing and "exit 4" in str(failure)):
            raise


@pytest.mark.full
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("page", pages.PAGES, ids=lambda page: page.stem)
def test_every_command_shown_works(
    platform: Platform, launched: dict[str, str], source: Path, tmp_path: Path, page: Path
) -> None:
    image = platform.deployed(launched[ORG])["config"]["image"]
    app = f"page-{page.stem}"
    home = tmp_path / "home"
    shutil.copytree(source, home)
    (home / "fly.toml").write_text(CHECKED.replace('"hello"', f'"{app}"'))
    platform.godwit("apps", "create", app, "--org", ORG)
    if page.stem in pages.OF_AN_APP_THAT_RUNS:
        platform.godwit("deploy", "--image", image, "--no-ha", cwd=home)
    made = [app]
    for step in pages.steps(page):
        if step.file:
            if step.whole:
                text = step.file.replace('"hello"', f'"{app}"', 1).replace(IMAGES[0], image)
                (home / "fly.toml").write_text(text)
            continue
        words = [image if one in IMAGES else one for one in step.words]
        words = [ORG if one == "personal" else one for one in words]
        words += [one for one in ADDED.get(words[0], ()) if one not in words]
        folder = home
        if words[0] == "launch":
            name = f"{app}-{step.line}"
            folder = tmp_path / name
            shutil.copytree(source, folder)
            if "--name" in words:
                words[words.index("--name") + 1] = name
            else:
                words += ["--name", name]
            words += [] if "--org" in words else ["--org", ORG]
            made.append(name)
        run(platform, step, words, folder)
    platform.godwit("apps", "destroy", *made, "--yes")
