import tomllib

from godwit.appconfig import writing


def test_a_new_file_has_top_level_keys_first_and_sections_in_order():
    text = writing.new(
        {
            "vm": [{"memory": "1gb"}],
            "http_service": {"internal_port": 8080, "checks": [{"path": "/"}]},
            "app": "hello",
            "build": {"dockerfile": "x"},
            "env": {},
            "primary_region": "lcl",
        },
        comment="what it is",
    )
    assert text == (
        '# what it is\n\napp = "hello"\nprimary_region = "lcl"\n\n[build]\ndockerfile = "x"\n\n'
        '[http_service]\ninternal_port = 8080\n\n[[http_service.checks]]\npath = "/"\n\n'
        '[[vm]]\nmemory = "1gb"\n'
    )


def test_a_change_keeps_comments_order_and_spacing():
    text = "# mine\n\n[env]\nA='1' # keep\n\n[http_service]\n  internal_port=1\n"
    changed = writing.changed(
        text, {"app": "y", "http_service.internal_port": 2, "env.B": "3", "build.image": "z"}
    )
    assert changed == (
        '# mine\napp = "y"\n\n[env]\nA=\'1\' # keep\nB = "3"\n\n[http_service]\n'
        '  internal_port=2\n\n[build]\nimage = "z"\n'
    )
    assert tomllib.loads(changed)["app"] == "y"
