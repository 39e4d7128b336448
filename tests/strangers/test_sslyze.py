"""sslyze against the edge's TLS: nothing weak is spoken, nothing that was ever broken is there."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from tests.host.front_lab import NAME, OWN, FrontLab, make_front  # noqa: F401
from tests.strangers.conftest import stranger

pytestmark = [pytest.mark.host, pytest.mark.full]

_PORT = 7484
_OLD = ("ssl_2_0", "ssl_3_0", "tls_1_0", "tls_1_1")


async def test_sslyze_finds_nothing_weak(front: FrontLab, tmp_path: Path) -> None:
    front.machine("m1", services=[front.service(_PORT, "tls", "http")])
    await front.start()
    await front.listens(OWN, _PORT)
    found = await _scan(front, tmp_path / "found.json")

    for version in _OLD:
        assert _result(found, f"{version}_cipher_suites")["accepted_cipher_suites"] == [], version
    for version in ("tls_1_2", "tls_1_3"):
        suites = _result(found, f"{version}_cipher_suites")["accepted_cipher_suites"]
        assert suites, version
        for suite in suites:
            told = suite["cipher_suite"]
            assert told["key_size"] >= 128
            assert not told["is_anonymous"]
            # Forward secrecy, and encryption that is authenticated.
            assert version == "tls_1_3" or told["name"].startswith("TLS_ECDHE_"), told
            assert "GCM" in told["name"] or "POLY1305" in told["name"], told
    assert not _result(found, "heartbleed")["is_vulnerable_to_heartbleed"]
    assert not _result(found, "openssl_ccs_injection")["is_vulnerable_to_ccs_injection"]
    assert _result(found, "robot")["robot_result"].startswith("NOT_VULNERABLE")
    assert not _result(found, "tls_compression")["supports_compression"]
    assert not _result(found, "tls_1_3_early_data")["supports_early_data"]
    again = _result(found, "session_renegotiation")
    assert not again["is_vulnerable_to_client_renegotiation_dos"]
    assert _result(found, "tls_extended_master_secret")["supports_ems_extension"]
    for deployed in _result(found, "certificate_info")["certificate_deployments"]:
        trusted = [
            one for one in deployed["path_validation_results"] if one["verified_certificate_chain"]
        ]
        assert trusted, "the cluster's own root vouches for it"
        assert not deployed["verified_chain_has_sha1_signature"]


def _result(found: dict[str, Any], command: str) -> dict[str, Any]:
    scanned = found["scan_result"][command]
    assert scanned["status"] == "COMPLETED", scanned
    return dict(scanned["result"])


async def _scan(front: FrontLab, report: Path) -> dict[str, Any]:
    """Return what all scans that sslyze knows say of the port."""
    process = await asyncio.create_subprocess_exec(
        stranger("sslyze"),
        *("--mozilla_config", "disable", "--certinfo_ca_file", str(front.root)),
        *("--certinfo", "--tlsv1", "--tlsv1_1", "--tlsv1_2", "--tlsv1_3", "--sslv2", "--sslv3"),
        *("--heartbleed", "--openssl_ccs", "--robot", "--compression", "--early_data"),
        *("--reneg", "--ems", "--sni", NAME, "--json_out", str(report), f"{OWN}:{_PORT}"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await process.communicate()
    assert report.exists(), said.decode()  # noqa: ASYNC240 - a test's own file
    (scanned,) = json.loads(report.read_text())["server_scan_results"]  # noqa: ASYNC240
    assert scanned["connectivity_status"] == "COMPLETED", scanned
    return dict(scanned)
