import pytest

from godwit.cli import registry, spelling, tree


@pytest.fixture(scope="module")
def commands():
    return tree.Root(registry.ENTRIES)


@pytest.mark.parametrize(
    ("written", "ours"),
    [
        (["--ha=false"], ["--no-ha"]),
        (["--ha=true"], ["--ha"]),
        (["--ha=TRUE", "--ha=0"], ["--ha", "--no-ha"]),
        (["--no-ha=false"], ["--ha"]),
        (["--detach=false"], []),
        (["--detach=1", "-d"], ["--detach", "-d"]),
        (["--ha=maybe"], ["--ha=maybe"]),
        (["--env=A=false", "-e", "B=true"], ["--env=A=false", "-e", "B=true"]),
        (["--wait-lock"], ["--wait-lock=30m"]),
        (["--wait-lock", "5m", "x"], ["--wait-lock=5m", "x"]),
        (["--wait-lock", "./dir"], ["--wait-lock=30m", "./dir"]),
        (["--wait-lock", "--plan"], ["--wait-lock=30m", "--plan"]),
        (["--wait-lock=9"], ["--wait-lock=9"]),
        (["--", "--ha=false", "--push"], ["--", "--ha=false", "--push"]),
        ([], []),
    ],
)
def test_options_as_scripts_write_them_become_ours(commands, written, ours):
    assert spelling.ours(commands.get_command(None, "deploy"), written) == (ours, [])


def test_what_means_nothing_is_left_out_with_its_value(commands):
    given = ["--remote-only", "--compression", "zstd", "dir", "--depot-scope=org", "--push=false"]
    kept, left_out = spelling.ours(commands.get_command(None, "deploy"), given)
    assert kept == ["dir"]
    assert left_out == ["--remote-only", "--compression", "--depot-scope", "--push"]


def test_now_means_something_to_launch_alone(commands):
    launch = commands.get_command(None, "launch")
    assert spelling.ours(launch, ["--now", "--no-db"]) == (["--now"], ["--no-db"])
    status = commands.get_command(None, "status")
    assert spelling.ours(status, ["--remote-only"]) == (["--remote-only"], [])


@pytest.mark.parametrize(
    ("words", "given"),
    [
        (("secrets", "set"), ["A=b", "--dns-checks=false"]),
        (("secrets", "deploy"), ["--dns-checks"]),
        (("status",), ["--deployment"]),
        (("machine", "clone"), ["--volume-requires-unique-zone=false"]),
    ],
)
def test_what_other_commands_have_no_use_for_is_left_out(commands, words, given):
    command = commands.get_command(None, words[0])
    for word in words[1:]:
        command = command.commands[word]
    kept, left_out = spelling.ours(command, given)
    assert kept == given[:-1]
    assert left_out == [given[-1].partition("=")[0]]


def test_an_option_at_the_end_without_its_value_is_left_out(commands):
    deploy = commands.get_command(None, "deploy")
    assert spelling.ours(deploy, ["--compression"]) == ([], ["--compression"])
