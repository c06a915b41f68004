"""sslyze and testssl.sh on the running server: each finding is one that the firmware or the private CA dictates."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from evidence_common import LONG

sys.path.insert(0, str(Path(__file__).parent.parent / "interop"))
import venvs

pytestmark = pytest.mark.skipif(not LONG, reason="scans for two minutes: make evidence")

# What testssl.sh rates as LOW or worse, and why it is so. Anything else fails.
KNOWN = {
    "cert_chain_of_trust": "signed by a private ROOT CA, which no public store has",
    "cert_revocation": "no CRL or OCSP: boards and hosts ask nobody; wss_trust.txt revokes and pins",
    "cert_trust": "signed by a private ROOT CA",
}


def test_testssl(kept, tmp_path, target, row):
    program = shutil.which("testssl") or shutil.which("testssl.sh")
    if not program:
        pytest.skip("testssl.sh is not installed (Debian: apt-get install testssl.sh)")
    out = tmp_path / "found.json"
    command = [program, "--quiet", "--color", "0", "--nodns", "none", "--warnings", "off", "--jsonfile", out]
    done = subprocess.run(
        [*map(str, command), "127.0.0.1:%d" % kept.port],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=1800,
    )  # fmt: skip
    found = json.loads(out.read_text())
    assert len(found) > 100, done.stdout[-2000:]
    rated = {f["id"].split(" ")[0]: f for f in found if f["severity"] in ("LOW", "MEDIUM", "HIGH", "CRITICAL")}
    unknown = {k: f for k, f in rated.items() if k not in KNOWN}
    assert not unknown, unknown
    untested = [f["id"] for f in found if f["severity"] == "WARN"]
    version = subprocess.run([program, "--version"], capture_output=True, text=True).stdout
    version = next((w for w in version.split() if w[:1].isdigit()), "")
    row("Scanners", f"testssl.sh {version}, {len(found)} checks, {target.bits} bits",
        f"{len(rated)} findings; not looked at by it behind a client certificate: {', '.join(untested)}")  # fmt: skip
    for k, f in sorted(rated.items()):
        row("Scanners", f"testssl.sh: {k} ({f['severity']}): {f['finding']}, {target.bits} bits", KNOWN[k])


EMS = "supports_ems_extension"
SCANS = ("ssl_2_0", "ssl_3_0", "tls_1_0", "tls_1_1", "tls_1_2", "tls_1_3")


def test_sslyze(kept, keys, tmp_path, target, row):
    try:
        python = venvs.make("sslyze", "sslyze==6.3.1\n") / "python"
    except venvs.NoClient as e:
        pytest.skip(f"sslyze can't be had here: {e}")
    out = tmp_path / "found.json"
    options = ["certinfo", "sslv2", "sslv3", "tlsv1", "tlsv1_1", "tlsv1_2", "tlsv1_3", "heartbleed", "reneg", "resum"]
    options += ["compression", "openssl_ccs", "robot", "fallback", "ems", "elliptic_curves", "early_data"]
    command = [python, "-m", "sslyze", *("--" + o for o in options), "--mozilla_config", "disable", "--slow_connection"]
    command += ["--cert", keys.host.cert, "--key", keys.host.key, "--pass", keys.passphrase, "--json_out", out]
    done = subprocess.run([*map(str, command), "127.0.0.1:%d" % kept.port], capture_output=True, text=True, timeout=900)
    (server,) = json.loads(out.read_text())["server_scan_results"]
    result = {k: v for k, v in server["scan_result"].items() if v}
    bad = {k: v.get("error_reason") for k, v in result.items() if v["status"] == "ERROR"}
    suites = {s: [c["cipher_suite"]["name"] for c in result[s + "_cipher_suites"]["result"]["accepted_cipher_suites"]]
              for s in SCANS}  # fmt: skip
    assert [s for s in SCANS if suites[s]] == ["tls_1_2"], suites
    assert all(s.startswith("TLS_ECDHE_ECDSA_WITH_") for s in suites["tls_1_2"]), suites
    assert not [s for s in suites["tls_1_2"] if not any(a in s for a in ("_GCM", "_CCM", "_CHACHA20"))], suites
    right = {
        "heartbleed": ("is_vulnerable_to_heartbleed", False),
        "openssl_ccs_injection": ("is_vulnerable_to_ccs_injection", False),
        "tls_compression": ("supports_compression", False),
        "tls_fallback_scsv": ("supports_fallback_scsv", True),
        "tls_1_3_early_data": ("supports_early_data", False),
        "robot": ("robot_result", "NOT_VULNERABLE_RSA_NOT_SUPPORTED"),
        "session_renegotiation": ("is_vulnerable_to_client_renegotiation_dos", False),
    }
    seen = []
    for scan, (name, value) in right.items():
        if scan not in bad:
            assert result[scan]["result"][name] == value, (scan, result[scan]["result"])
            seen.append(scan)
    assert len(seen) >= 6, (bad, done.stdout[-2000:])
    if "tls_extended_master_secret" not in bad and not result["tls_extended_master_secret"]["result"].get(EMS):
        why = "MicroPython's mbedTLS configuration has none; there is no resumption or renegotiation to attack"
        row("Scanners", f"sslyze: no extended master secret (RFC 7627), {target.bits} bits", why)
    row(
        "Scanners",
        f"sslyze 6.3.1, with a host's certificate, {target.bits} bits",
        f"TLS 1.2 only, {len(suites['tls_1_2'])} suites, all ECDHE-ECDSA with authenticated encryption; "
        f"nothing against it in {', '.join(seen)}; certificate of a private CA"
        + (f"; could not look at {', '.join(f'{k} ({v})' for k, v in bad.items())}" if bad else ""),
    )
