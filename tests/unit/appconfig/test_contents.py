import pytest

from godwit.appconfig import contents
from godwit.appconfig.model import Config
from godwit.appconfig.normalise import normalise
from godwit.appconfig.problems import dotted


def told(**document):
    config = Config.model_validate(normalise(document))
    return [(dotted(one.path), one.severity, one.message) for one in contents.problems(config)]


@pytest.mark.parametrize(
    "name",
    [
        "SECRET",
        "SECRET_KEY_BASE",
        "DB_PASSWORD",
        "github_token",
        "AWS_SECRET_ACCESS_KEY",
        "DATABASE_URL",
        "STRIPE_API_KEY",
        "TLS_PRIVATE_KEY",
    ],
)
def test_a_variable_that_looks_like_a_secret_is_doubtful(name):
    ((path, severity, message),) = told(env={name: "x"})
    assert (path, severity) == (f"env.{name}", "warning")
    assert "godwit secrets set" in message


@pytest.mark.parametrize(
    "name", ["PORT", "TOKENIZER", "SECRETARY", "KEY_COUNT", "MONKEY", "PASSWORDLESS"]
)
def test_an_ordinary_variable_is_not(name):
    assert told(env={name: "x"}) == []
    assert told(env={"PASSWORD": ""}) == []


def test_variables_need_a_name_a_process_can_have():
    assert told(env={"A=B": "x"}) == [
        ("env.A=B", "error", "expected a name without = in it"),
    ]


@pytest.mark.parametrize("name", ["", "a b", "web/1", "x" * 64, "fly_app_console"])
def test_groups_need_a_name_that_goes_into_dns_and_metadata(name):
    ((path, severity, _),) = told(processes={name: "run"})
    assert (path, severity) == (f"processes.{name}", "error")


def test_groups_have_the_names_people_give_them():
    assert told(processes={"web": "", "worker-2": "", "Cron_job": "", "a.b": ""}) == []


def test_statics_do_not_overlap():
    one = {"guest_path": "/p", "url_prefix": "/assets"}
    assert told(statics=[one, {**one, "url_prefix": "/assets2"}]) == []
    assert told(statics=[one, {**one, "url_prefix": "/assets/img/"}]) == [
        (
            "statics[1].url_prefix",
            "error",
            '"/assets/img/" overlaps with statics[0] ("/assets")',
        )
    ]
    assert [severity for _, severity, _ in told(statics=[one, one])] == ["error"]
    assert told(statics=[{**one, "url_prefix": "assets"}]) == [
        ("statics[0].url_prefix", "error", 'expected a path from /, got "assets"')
    ]


def test_a_raw_value_that_is_not_base64_is_told_to_be_the_text_itself():
    file = {"guest_path": "/f"}
    assert told(files=[{**file, "raw_value": "aGVsbG8="}]) == []
    assert told(files=[{**file, "raw_value": "hello!"}]) == [
        ("files[0].raw_value", "warning", "is not base64, so it is taken as the text itself")
    ]
    assert told(files=[{**file, "raw_value": "hello!", "local_path": "f"}]) == []


def test_every_machine_check_has_a_command():
    found = told(
        machine_checks={"image": "x"},
        http_service={"machine_checks": [{}]},
        services=[{"machine_checks": [{"command": ["true"]}, {}]}],
    )
    assert [path for path, _, _ in found] == [
        "machine_checks[0].command",
        "http_service.machine_checks[0].command",
        "services[0].machine_checks[1].command",
    ]


def test_a_machine_config_is_json_or_names_a_file_of_it():
    assert told(machine_config='{"env": {}}') == []
    assert told(experimental={"machine_config": "raw.json"}) == []
    assert told(machine_config="{", experimental={"machine_config": "raw.toml"}) == [
        (
            "machine_config",
            "error",
            "is not JSON: Expecting property name enclosed in double quotes (column 2)",
        ),
        (
            "experimental.machine_config",
            "error",
            'expected JSON or the name of a .json file, got "raw.toml"',
        ),
    ]
