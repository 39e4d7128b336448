import pytest

from godwit.agent.network import sysctls
from godwit.base import errors


@pytest.fixture
def tree(tmp_path):
    root = tmp_path / "net"
    for name, value in {
        "ipv4/ip_forward": "0",
        "ipv6/conf/all/forwarding": "0",
        "ipv6/conf/eth0/accept_ra": "1",
        "ipv6/conf/eth1/accept_ra": "2",
        "ipv6/conf/lo/accept_ra": "1",
        "ipv6/conf/all/accept_ra": "1",
    }.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(value + "\n")
    return root


PAIRS = [("ipv4/ip_forward", "1"), ("ipv6/conf/all/forwarding", "1")]


def value(root, name):
    return (root / name).read_text().strip()


def test_parameters_are_put_back_by_a_later_process(tree, tmp_path):
    file = tmp_path / "run" / "remembered.json"
    sysctls.HostParameters(file, tree).ensure(PAIRS)
    assert value(tree, "ipv4/ip_forward") == "1"
    sysctls.HostParameters(file, tree).restore()
    assert value(tree, "ipv4/ip_forward") == "0"
    assert not file.exists()


def test_setting_twice_remembers_the_first_value(tree, tmp_path):
    file = tmp_path / "remembered.json"
    for _ in range(2):
        sysctls.HostParameters(file, tree).ensure(PAIRS)
    sysctls.HostParameters(file, tree).restore()
    assert value(tree, "ipv6/conf/all/forwarding") == "0"


def test_a_later_process_knows_what_was_before(tree, tmp_path):
    file = tmp_path / "run" / "remembered.json"
    (tree / "ipv6/conf/all/forwarding").write_text("1\n")
    sysctls.HostParameters(file, tree).ensure(PAIRS)
    later = sysctls.HostParameters(file, tree)
    assert later.was("ipv4/ip_forward") == "0"
    assert later.was("ipv6/conf/all/forwarding") == "1"


def test_what_was_right_already_is_left_alone(tree, tmp_path):
    (tree / "ipv4/ip_forward").write_text("1")
    file = tmp_path / "remembered.json"
    sysctls.HostParameters(file, tree).ensure(PAIRS[:1])
    assert not file.exists()
    sysctls.HostParameters(file, tree).restore()
    assert value(tree, "ipv4/ip_forward") == "1"


def test_what_somebody_changed_since_is_left_alone(tree, tmp_path):
    pairs = [("ipv6/conf/eth0/accept_ra", "2")]
    parameters = sysctls.HostParameters(tmp_path / "remembered.json", tree)
    parameters.ensure(pairs)
    (tree / "ipv6/conf/eth0/accept_ra").write_text("0")
    parameters.restore()
    assert value(tree, "ipv6/conf/eth0/accept_ra") == "0"


def test_a_parameter_whose_interface_is_gone_is_forgotten(tree, tmp_path):
    parameters = sysctls.HostParameters(tmp_path / "remembered.json", tree)
    parameters.ensure([("ipv6/conf/eth0/accept_ra", "2")])
    (tree / "ipv6/conf/eth0/accept_ra").unlink()
    parameters.restore()


def test_a_kernel_without_ipv6_is_told_in_words(tree, tmp_path):
    (tree / "ipv6/conf/all/forwarding").unlink()
    with pytest.raises(errors.Failure, match="no parameter") as caught:
        sysctls.HostParameters(tmp_path / "remembered.json", tree).ensure(PAIRS)
    assert caught.value.code == "failed_precondition"


def test_only_interfaces_that_listen_to_routers_are_changed(tree):
    assert sysctls.keep_router_advertisements(tree) == [("ipv6/conf/eth0/accept_ra", "2")]
