"""The same front end with a kernel behind it: messages in, answers out, in Python and in Chromium."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from explorer_page import MODULES, SAES, TEXTS, same
from playwright.sync_api import Browser
from site_browser import serve, visit

from dm_utils.base.errors import ParameterError
from dm_utils.charts.explore import explore
from dm_utils.charts.explorer_widget import FRONT, Explorer, bundle
from dm_utils.engine import explorer_contract as contract
from dm_utils.engine.explorer import Kernel

PAGE = """<!doctype html><html lang="en"><head><meta charset="utf-8">
<link rel="icon" href="data:,"><title>Widget</title></head><body>
<div id="here"></div><script type="module">import widget from "./widget.js";
const heard = [], model = { get: () => ({ text: "from the kernel", position: 2 }), on: (_, hear) => heard.push(hear),
  send: async (content) => {
    const reply = JSON.parse(await window.kernel(JSON.stringify(content))); heard.forEach((hear) => hear(reply)); } };
widget.render({ model, el: document.getElementById("here") });</script></body></html>"""


def said(widget: Explorer, monkeypatch: pytest.MonkeyPatch, request: dict[str, Any]) -> dict[str, Any]:
    """What a widget sends in reply to one message."""
    sent: list[dict[str, Any]] = []
    monkeypatch.setattr(widget, "send", sent.append)
    widget._handle_custom_msg({"id": "7", "request": request}, [])
    assert sent[0].pop("id") == "7"
    return sent[0]


def test_a_message_is_answered_by_the_kernel(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    request = {"kind": "decompose", "text": TEXTS["markup"], "sae": SAES[0]}
    assert said(Explorer(kernel.answer), monkeypatch, request) == {"answer": kernel.answer(request)}


@pytest.mark.parametrize(
    "request_", [{"kind": "decompose", "text": "a", "sae": "none"}, {"kind": "run"}, {"kind": "look"}]
)
def test_a_wrong_message_is_answered_with_the_reason(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch, request_: dict[str, Any]
) -> None:
    assert said(Explorer(kernel.answer), monkeypatch, request_).keys() == {"error"}


def test_every_sae_of_the_profile_can_be_explored_with_a_kernel(kernel: Kernel) -> None:
    text = TEXTS["Code"]
    for sae in ("mlp_3_topk_2048_l0_4", "att_3_topk_2048_l0_4", "resid_5_topk_2048_l0_4"):
        where = {"text": text, "sae": sae}
        for request in ({"kind": "decompose"}, {"kind": "look", "position": 3}, {"kind": "intervene", "position": 3}):
            contract.ANSWERS[request["kind"]].model_validate(kernel.answer(request | where))


def test_the_widget_is_one_module_of_every_part_of_the_front() -> None:
    source = bundle()
    assert re.findall(r"^(?:import|export)\b.*", source, re.M) == ["export default { render };"]
    for name in FRONT:
        assert (MODULES / f"{name}.js").read_text(encoding="utf-8").splitlines()[0] in source


def test_an_unknown_sae_is_refused_before_anything_runs(kernel: Kernel) -> None:
    with pytest.raises(
        ParameterError, match=r"unknown SAE 'resid_4_topk_2048_l0_17'.*Did you mean 'resid_4_topk_2048_l0_16'"
    ):
        explore(kernel.study, sae="resid_4_topk_2048_l0_17")


def test_with_a_kernel_the_picture_that_leads_elsewhere_shows_what_is_behind_a_token(kernel: Kernel) -> None:
    assert explore(kernel.study, parts=("tokens",), leads="explorer.html").parts == ["tokens", "look"]


def test_the_built_book_gets_a_place_and_its_data(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DM_BOOK", "1")
    monkeypatch.setenv("DM_TABLES", str(tmp_path))
    monkeypatch.setattr(type(kernel.study), "saes", lambda self, **_: [kernel.refs[SAES[0]]])
    markup = explore(kernel.study, text='"><script>alert(1)</script>').data
    assert "<script>" not in markup and 'data-files="../tables/explorer/"' in markup and "data-leads" not in markup
    assert 'data-leads="explorer.html"' in explore(kernel.study, parts=("tokens",), leads="explorer.html").data
    (tmp_path / "explorer/old.safetensors").write_bytes(b"")
    explore(kernel.study, text="again")
    manifest = json.loads((tmp_path / "explorer/manifest.json").read_text(encoding="utf-8"))
    names = {path.name for path in (tmp_path / "explorer").iterdir()}
    assert "old.safetensors" not in names and manifest["model"]["file"] in names


def test_the_widget_draws_what_the_kernel_answers(browser: Browser, kernel: Kernel, tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text(PAGE, encoding="utf-8")
    (tmp_path / "widget.js").write_text(bundle(), encoding="utf-8")

    def reply(message: str) -> str:
        content = json.loads(message)
        return json.dumps({"id": content["id"], "answer": kernel.answer(content["request"])})

    with serve(tmp_path) as address, visit(browser, address, "404.html") as seen:
        seen.errors.clear()
        seen.page.expose_function("kernel", reply)
        seen.page.goto(address + "index.html")
        seen.page.wait_for_selector(".dmx-next td")
        seen.page.wait_for_selector(".dmx-picture")
        theirs = seen.page.evaluate("document.querySelector('.dmx textarea').value")
        assert theirs == "from the kernel"
        assert seen.page.locator(".dmx-panel h4").first.inner_text().startswith("Token 2 ")
        expected = kernel.answer({"kind": "decompose", "text": "from the kernel", "sae": kernel.study.sae().id})
        same(len(expected["tokens"]), seen.page.locator(".dmx-token").count(), "tokens")
        seen.assert_clean()
