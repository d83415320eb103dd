"""A secret goes whole, in every spelling, wherever it stands; everything else stays as it was."""

from __future__ import annotations

import base64
import json
import urllib.parse
from types import SimpleNamespace

import pytest

from dm_utils.base import secrets

VALUE = "k/e y+'\"é1"  # what each of the codes changes


@pytest.fixture(autouse=True)
def one_secret(monkeypatch, tmp_path):
    """This machine's own secrets out of the way, and one to look for."""
    for name in (*secrets.NAMES, "HF_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setenv("OPENAI_API_KEY", VALUE)


@pytest.mark.parametrize(
    "spelling",
    [
        VALUE,
        urllib.parse.quote(VALUE, safe=""),
        urllib.parse.quote_plus(VALUE),
        json.dumps(VALUE)[1:-1],
        repr(VALUE)[1:-1],
        json.dumps(repr(VALUE))[2:-2],
        VALUE.encode().hex(),
    ],
)
def test_nothing_of_a_secret_is_left(spelling: str) -> None:
    assert secrets.redact(f"<{spelling}|{spelling}>") == "<[OPENAI_API_KEY]|[OPENAI_API_KEY]>"


@pytest.mark.parametrize("value", ["sixteen-bytes-16", "seventeen-bytes17", "eighteen-bytes--18"])
@pytest.mark.parametrize("lead", [0, 1, 2, 3, 4, 5])
def test_of_a_text_in_base64_only_what_a_secret_shares_with_its_neighbours_is_left(monkeypatch, value, lead) -> None:
    """A character holds 6 bits: those that lie in the secret altogether go."""
    monkeypatch.setenv("OPENAI_API_KEY", value)
    coded = base64.b64encode(b"user:"[:lead] + value.encode() + b":xyz").decode()
    first, last = -(-8 * lead // 6), 8 * (lead + len(value)) // 6
    assert secrets.redact(coded) == coded[:first] + "[OPENAI_API_KEY]" + coded[last:]


@pytest.mark.parametrize(
    ("value", "secret"), [("fiver", False), ("sixsix", True), ("  sixsix\n", True), ("five  \n", False)]
)
def test_what_is_shorter_than_six_characters_is_a_word(monkeypatch, value: str, secret: bool) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", value)
    assert secrets.known() == ({"OPENAI_API_KEY": value.strip()} if secret else {})


def test_the_token_of_a_login_is_looked_for_where_the_environment_says(monkeypatch, tmp_path) -> None:
    (tmp_path / "token").write_text("hf_atHome\n")
    assert secrets.known()["the stored HF token"] == "hf_atHome"
    (tmp_path / "elsewhere").write_text("hf_elsewhere")
    monkeypatch.setenv("HF_TOKEN_PATH", str(tmp_path / "elsewhere"))
    assert secrets.known()["the stored HF token"] == "hf_elsewhere"
    (tmp_path / "elsewhere").write_bytes(b"\xff\xfe")
    assert set(secrets.known()) == {"OPENAI_API_KEY"}, "what is no text is no token"


def test_lists_and_mappings_are_redacted_throughout() -> None:
    found = secrets.redact_all({VALUE: [VALUE, (f"a {VALUE}", 1, None)], "b": {"c": VALUE}})
    name = "[OPENAI_API_KEY]"
    assert found == {name: [name, [f"a {name}", 1, None]], "b": {"c": name}}


def test_a_text_is_asked_which_secret_it_holds() -> None:
    assert secrets.held_in(f"x{VALUE}") == secrets.held_in(VALUE.encode().hex()) == "OPENAI_API_KEY"
    assert secrets.held_in(VALUE[:-1]) is None


@pytest.mark.parametrize(
    ("given", "direct"),
    [
        ({}, "localhost,127.0.0.1,::1"),
        ({"NO_PROXY": " a.org, ,127.0.0.1"}, "a.org,127.0.0.1,localhost,::1"),
        ({"no_proxy": "b.org"}, "b.org,localhost,127.0.0.1,::1"),
        ({"NO_PROXY": "a.org", "no_proxy": "b.org"}, "a.org,localhost,127.0.0.1,::1"),
    ],
)
def test_this_machines_own_addresses_pass_no_proxy(monkeypatch, given: dict[str, str], direct: str) -> None:
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    assert secrets.loopback_is_direct() == direct


def test_a_notebook_shows_an_error_without_its_secrets_and_is_guarded_once() -> None:
    shown = []
    shell = SimpleNamespace(_showtraceback=lambda kind, value, lines: shown.append((kind, str(value), lines)))
    secrets.guard(shell)
    guarded = shell._showtraceback
    secrets.guard(shell)
    secrets.guard(None)
    assert shell._showtraceback is guarded
    shell._showtraceback(KeyError, ValueError(f"no {VALUE}"), ["first", f"last {VALUE}"])
    assert shown == [(KeyError, "no [OPENAI_API_KEY]", ["first", "last [OPENAI_API_KEY]"])]
