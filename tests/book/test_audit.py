"""The audit of the locked versions: what is known is named and fails; no answer is said, and is not a pass in silence."""

import json
import os
import subprocess

import pytest
from demo import ROOT

KNOWN = [{"name": "a", "version": "1", "vulns": [{"id": "CVE-1", "fix_versions": ["2"]}]}]
UNKNOWN = [{"name": "b", "skip_reason": "not found"}]
FINE = [{"name": "c", "version": "3", "vulns": []}]


def audit(tmp_path, dependencies, status):
    """Run the script with a program in the place of pip-audit that writes this report, or none."""
    (tmp_path / ".ci").mkdir()
    (tmp_path / ".ci/audit").write_bytes((ROOT / ".ci/audit").read_bytes())
    (tmp_path / "answer.json").write_text(json.dumps({"dependencies": dependencies}))
    write = (
        'while [ "$1" != --output ]; do shift; done; cp answer.json "$2"' if dependencies else "echo ConnectionError"
    )
    (tmp_path / "program").write_text(f"#!/bin/bash\n{write}\nexit {status}\n")
    (tmp_path / "program").chmod(0o755)
    environment = os.environ | {"PIP_AUDIT": str(tmp_path / "program")}
    done = subprocess.run(["bash", tmp_path / ".ci/audit"], env=environment, capture_output=True, text=True)
    return done.returncode, done.stdout


@pytest.mark.parametrize(
    ("dependencies", "status", "code", "said"),
    [
        (
            KNOWN + FINE + UNKNOWN,
            1,
            1,
            "a 1: CVE-1, fixed in 2\ndependency audit: 1 known vulnerabilities in 2 of 3 locked",
        ),
        (FINE, 0, 0, "dependency audit: 0 known vulnerabilities in 1 of 1 locked versions"),
        (UNKNOWN, 0, 0, "dependency audit: SKIPPED, no service for vulnerabilities knows any"),
        ([], 1, 0, "dependency audit: SKIPPED, no service for vulnerabilities answers here (ConnectionError)"),
    ],
)
def test_an_audit_says_what_it_found_or_that_it_was_skipped(tmp_path, dependencies, status, code, said):
    returned, printed = audit(tmp_path, dependencies, status)
    assert returned == code and said in printed
