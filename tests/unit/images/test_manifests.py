"""Manifests, indexes, configs: what is taken and what is refused, in words."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from godwit.base.errors import Failure
from godwit.images import manifests

DIGEST = "sha256:" + "0" * 64
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"


def descriptor(media_type=LAYER, digest=DIGEST, size=3, **more):
    return {"mediaType": media_type, "digest": digest, "size": size, **more}


def manifest(**more):
    return {
        "schemaVersion": 2,
        "config": descriptor(manifests.OCI_CONFIG),
        "layers": [descriptor()],
        **more,
    }


def parse(document, content_type=""):
    return manifests.parse(json.dumps(document).encode(), content_type, "x:1")


def platform(os, architecture, **more):
    return {"platform": {"os": os, "architecture": architecture, **more}}


def test_the_content_type_says_what_a_manifest_without_media_type_is():
    found = parse(manifest(), f"{manifests.OCI_MANIFEST}; charset=utf-8")
    assert isinstance(found, manifests.Manifest)
    assert isinstance(parse({"manifests": []}, manifests.DOCKER_LIST), manifests.Index)


def test_without_either_the_shape_says_it():
    assert isinstance(parse(manifest()), manifests.Manifest)
    assert isinstance(parse({"manifests": []}, "text/plain"), manifests.Index)


def test_docker_manifests_are_taken():
    layer = descriptor("application/vnd.docker.image.rootfs.diff.tar.gzip")
    found = parse(manifest(mediaType=manifests.DOCKER_MANIFEST, layers=[layer]))
    assert isinstance(found, manifests.Manifest)
    assert found.layers[0].size == 3


def test_the_image_for_this_platform_is_chosen():
    wanted = "sha256:" + "1" * 64
    index = parse(
        {
            "mediaType": manifests.OCI_INDEX,
            "manifests": [
                descriptor(manifests.OCI_MANIFEST, **platform("linux", "arm64", variant="v8")),
                descriptor(manifests.OCI_MANIFEST, **platform("unknown", "unknown")),
                descriptor(manifests.OCI_MANIFEST, wanted, **platform("linux", "amd64")),
            ],
        }
    )
    assert isinstance(index, manifests.Index)
    assert manifests.choose(index, "x").digest == wanted


def test_another_platform_is_refused_in_words():
    index = parse(
        {"manifests": [descriptor(manifests.OCI_MANIFEST, **platform("linux", "arm64"))]},
        manifests.OCI_INDEX,
    )
    assert isinstance(index, manifests.Index)
    with pytest.raises(Failure) as caught:
        manifests.choose(index, "x:1")
    assert caught.value.message == "the image x:1 is for arm64 only; this host runs amd64"
    assert "linux/amd64" in caught.value.hint


def test_a_config_for_another_platform_is_refused():
    body = json.dumps({"os": "linux", "architecture": "arm64", "rootfs": {"diff_ids": []}})
    with pytest.raises(Failure, match="arm64 only"):
        manifests.config(body.encode(), "x:1")


def test_the_runtime_config_is_read():
    document = {
        "os": "linux",
        "architecture": "amd64",
        "rootfs": {"type": "layers", "diff_ids": [DIGEST]},
        "config": {
            "Entrypoint": ["/e"],
            "Cmd": None,
            "Env": ["A=1"],
            "WorkingDir": "/w",
            "User": "u",
            "StopSignal": "SIGQUIT",
            "ExposedPorts": {"80/tcp": {}, "443/tcp": {}},
            "Volumes": {"/data": {}},
            "Labels": {"a": "b"},
        },
    }
    found = manifests.config(json.dumps(document).encode(), "x")
    assert found.diff_ids == (DIGEST,)
    assert found.runtime.entrypoint == ("/e",)
    assert found.runtime.cmd == ()
    assert found.runtime.exposed_ports == ("443/tcp", "80/tcp")
    assert found.runtime.volumes == ("/data",)
    assert found.runtime.labels == {"a": "b"}


@pytest.mark.parametrize(
    ("document", "why"),
    [
        ({"schemaVersion": 1, "fsLayers": []}, "schema 1"),
        ({"schemaVersion": 2}, "not a container image"),
        (
            manifest(layers=[descriptor("application/vnd.cncf.helm.chart.content.v1.tar+gzip")]),
            "layer of type",
        ),
        (
            manifest(
                layers=[descriptor("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip")]
            ),
            "layer of type",
        ),
        (manifest(layers=[descriptor(digest="sha512:" + "0" * 128)]), "not supported"),
        (manifest(layers=[descriptor(digest="sha256:../../etc")]), "not supported"),
        (manifest(layers=[descriptor(size=-1)]), "damaged"),
        (manifest(layers=[{"digest": DIGEST}]), "damaged"),
        (manifest(mediaType=manifests.OCI_MANIFEST, layers="x"), "damaged"),
        (manifest(layers=[descriptor()] * 501), "501 layers"),
        ([], "not a JSON object"),
    ],
)
def test_what_is_no_image_is_refused(document, why):
    with pytest.raises(Failure, match=why) as caught:
        parse(document, manifests.OCI_MANIFEST if "schemaVersion" not in document else "")
    assert caught.value.code == "invalid_argument"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=10,
)
fields = st.dictionaries(
    st.sampled_from(
        ["schemaVersion", "mediaType", "config", "layers", "manifests", "rootfs", "os"]
    ),
    json_values,
)


@given(fields, st.sampled_from(["", *manifests.ACCEPT]))
def test_any_document_is_an_image_or_a_failure(document, content_type):
    for read in (
        lambda: parse(document, content_type),
        lambda: manifests.config(json.dumps(document).encode(), "x"),
    ):
        try:
            read()
        except Failure as failure:
            if failure.code != "invalid_argument":
                raise
