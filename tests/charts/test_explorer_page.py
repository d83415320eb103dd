"""The explorer in Chromium, with nothing but its own files to reach: live, safe with hostile text, by mouse and by keyboard."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from explorer_page import MODULES, SAES, TEXTS, make_page, same
from playwright.sync_api import Browser, Page
from site_browser import Visit, channels, painted, serve, visit

from dm_utils.charts.theme import COLORS
from dm_utils.engine import explorer
from dm_utils.engine import explorer_contract as contract
from dm_utils.engine.explorer import Kernel

PAGE = "notebooks/index.html"
FIRST_USE = 6_000_000  # bytes fetched until the first text is computed


@pytest.fixture(scope="session")
def site(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("page")
    make_page(folder, data)
    with serve(folder) as address:
        yield address


def settle(page: Page) -> None:
    """Wait until everything that was asked is drawn."""
    page.wait_for_selector(".dmx-next td")
    page.wait_for_function(
        "!document.querySelector('.dmx[aria-busy]') && !document.querySelector('.dmx').explorer.running"
    )


@pytest.fixture
def seen(browser: Browser, site: str) -> Iterator[Visit]:
    """A fresh visit; none may leave an error behind."""
    with visit(browser, site, PAGE) as fresh:
        settle(fresh.page)
        yield fresh
        fresh.assert_clean()


@pytest.fixture(scope="module")
def typed(browser: Browser, site: str) -> Iterator[Visit]:
    """One visit for tests that put a text of their own in the box and change nothing else."""
    with visit(browser, site, PAGE) as seen:
        settle(seen.page)
        yield seen
        seen.assert_clean()


def type_text(page: Page, text: str) -> None:
    """Put a text in the box and wait until its tokens are there."""
    page.evaluate("document.querySelector('.dmx').explorer.answers = []")
    page.locator(".dmx textarea").fill(text)
    page.wait_for_function("document.querySelector('.dmx').explorer.answers.length > 0")
    settle(page)


def fetched(page: Page) -> list[str]:
    return page.evaluate("performance.getEntriesByType('resource').map(entry => entry.name)")


def test_a_fresh_page_says_its_message_before_it_fetches_a_weight(seen: Visit) -> None:
    assert "stays nonlinear: dark matter" in seen.page.inner_text(".dmx-message")
    assert seen.page.locator(".dmx-token").count() > 50
    assert seen.page.locator(".dmx-latent").count() == 4  # the SAE's L0
    assert not [name for name in fetched(seen.page) if name.endswith(".safetensors") or "worker" in name]


def test_the_first_use_fetches_less_than_six_megabytes(browser: Browser, site: str) -> None:
    sizes: dict[str, int] = {}
    with visit(browser, site, PAGE) as seen:
        settle(seen.page)
        seen.page.on("response", lambda reply: sizes.update({reply.url: len(reply.body())}) if reply.ok else None)
        seen.page.evaluate(
            "async () => { const one = document.querySelector('.dmx').explorer;"
            "await one.change({text: 'Another text.', position: 1}); }"
        )
        assert "".join(seen.page.locator(".dmx-token").all_inner_texts()[1:]).replace("\n", "").startswith("Another")
        assert 4_000_000 < sum(sizes.values()) <= FIRST_USE


@pytest.mark.parametrize("name", ["Code", "markup", "right to left", "emoji", "byte fallback", "empty", "very long"])
def test_the_page_shows_what_pytorch_computes(typed: Visit, kernel: Kernel, name: str) -> None:
    type_text(typed.page, TEXTS[name])
    (theirs,) = typed.page.evaluate("document.querySelector('.dmx').explorer.answers")
    sae = kernel.answer({"kind": "describe"})["default"]
    contract.Tokens.model_validate(theirs)
    same(kernel.answer({"kind": "decompose", "text": TEXTS[name], "sae": sae}), theirs, name)
    assert typed.page.locator(".dmx-token").count() == len(theirs["tokens"])


def test_hostile_text_stays_text(typed: Visit) -> None:
    type_text(typed.page, TEXTS["markup"] * 2 + TEXTS["controls"])
    assert typed.page.locator(".dmx script, .dmx img, .dmx iframe").count() == 0
    assert "<" in typed.page.locator(".dmx-tokens").inner_text()
    assert "\u202e" not in typed.page.locator(".dmx-tokens").text_content()


def test_no_module_writes_markup() -> None:
    modules = list(MODULES.glob("*.js"))
    assert modules
    for path in modules:
        source = path.read_text(encoding="utf-8")
        assert "innerHTML" not in source and "insertAdjacentHTML" not in source and "document.write" not in source, path
        assert source.count("\n") <= 300, f"{path.name} fits in the head"


def test_the_arrow_keys_walk_from_token_to_token(seen: Visit) -> None:
    seen.page.locator(".dmx-tokens").focus()
    seen.page.keyboard.press("Home")
    seen.page.keyboard.press("ArrowRight")
    seen.page.keyboard.press("ArrowRight")
    settle(seen.page)
    assert seen.page.locator(".dmx-token[aria-selected=true]").count() == 1
    seen.page.wait_for_function("document.querySelector('.dmx-panel h4').textContent.startsWith('Token 2 ')")


def test_every_control_has_a_name(seen: Visit) -> None:
    seen.page.check("[data-field=pin]")
    seen.page.wait_for_selector(".dmx-pair")
    settle(seen.page)
    unnamed = seen.page.evaluate(
        "[...document.querySelectorAll('.dmx :is(button, input, select, textarea, [tabindex], svg[role])')]"
        ".filter(node => !(node.getAttribute('aria-label') || node.closest('label')?.textContent.trim() || node.textContent.trim()))"
        ".map(node => node.outerHTML)"
    )
    assert unnamed == []


def state(page: Page, name: str) -> object:
    return page.evaluate(f"document.querySelector('.dmx').explorer.state.{name}")


def test_a_bar_shows_how_far_the_download_has_come(seen: Visit) -> None:
    shown = seen.page.evaluate(
        """async () => { const bar = document.querySelector('.dmx progress'), shown = [];
        new MutationObserver(() => shown.push(bar.hidden ? null : bar.value)).observe(bar, {attributes: true});
        await document.querySelector('.dmx').explorer.change({text: 'Another text.', position: 1}); return shown; }"""
    )
    drawn = [value for value in shown if value is not None]
    assert len(drawn) > 2 and drawn == sorted(drawn) and drawn[-1] <= 1
    assert shown[-1] is None, "it goes when everything is there"


def test_the_sae_of_another_layer_is_the_nearest_that_there_is(seen: Visit) -> None:
    seen.page.locator("[data-field=layer]").first.select_option("resid 1")
    seen.page.wait_for_function("document.querySelector('.dmx-message').textContent.includes('layer 1')")
    assert state(seen.page, "sae") == SAES[2]
    assert seen.page.locator("[data-field=d_sae]").first.locator("option").all_inner_texts() == ["2,048"]


def test_examples_and_contexts_of_the_book_fill_the_text(seen: Visit, kernel: Kernel) -> None:
    seen.page.get_by_label("Example").select_option("Code")
    assert state(seen.page, "text") == contract.EXAMPLES["Code"]
    seen.page.get_by_label("Number of the context").fill("8")
    seen.page.get_by_role("button", name="Read it").click()
    text = kernel.answer({"kind": "context", "index": 7})["text"]
    seen.page.wait_for_function("text => document.querySelector('.dmx textarea').value === text", arg=text)


def test_each_shading_colours_the_tokens_and_is_explained(seen: Visit) -> None:
    depth = "parseFloat(one.lastChild.style.getPropertyValue('--dmx-depth'))"
    shaded = f"[...document.querySelectorAll('.dmx-token')].filter(one => {depth}).length"
    for name, words in {
        "none": "",
        "error": "error norm",
        "linear": "linear share",
        "lookup": "probe",
        "loss": "loss",
    }.items():
        seen.page.get_by_label("Shade by").select_option(name)
        assert (seen.page.evaluate(shaded) > 5) == (name != "none"), name
        assert words in seen.page.inner_text(".dmx-key") and f"shade={name}" in seen.page.evaluate("location.hash")


def test_what_is_behind_a_token_is_shown(seen: Visit, kernel: Kernel) -> None:
    where = {name: state(seen.page, name) for name in ("text", "sae", "position")}
    view, panel = kernel.answer({"kind": "look", **where}), seen.page.locator(".dmx-panel").first
    assert [one.get_attribute("data-latent") for one in panel.locator(".dmx-latent").all()] == [
        str(one["latent"]) for one in view["latents"]
    ]
    assert panel.locator(".dmx-chip").count() == sum(len(one["writes"]) for one in view["latents"])
    assert "The probe on x (Eq. 10) said" in panel.inner_text()
    assert panel.locator(".dmx-excerpts mark").count() == len(view["there"]) + sum(
        len(one["contexts"]) for one in view["latents"]
    )
    panel.locator(".dmx-link").first.click()
    assert state(seen.page, "position") == view["here"][0]["position"]


def test_the_tab_key_reaches_every_control(seen: Visit) -> None:
    controls = (
        "[...document.querySelectorAll('.dmx :is(button, input, select, textarea, summary, .dmx-tokens)')]"
        ".filter(one => one.checkVisibility())"
    )
    count, reached = seen.page.evaluate(f"{controls}.length"), [0]
    seen.page.locator(".dmx textarea").focus()
    for _ in range(count - 1):
        seen.page.keyboard.press("Tab")
        reached.append(seen.page.evaluate(f"{controls}.indexOf(document.activeElement)"))
        assert seen.page.evaluate("document.activeElement.matches(':focus-visible')")
    assert count > 20 and reached == list(range(count))


def test_a_second_sae_stands_beside_the_first(seen: Visit) -> None:
    seen.page.check("[data-field=pin]")
    seen.page.wait_for_selector(".dmx-pair")
    settle(seen.page)
    assert seen.page.locator(".dmx-token").nth(3).locator(".dmx-bar").count() == 2
    assert "Beside it" in seen.page.inner_text(".dmx-message")
    assert seen.page.locator(".dmx-picture").count() == 2


def test_a_slider_moves_the_distribution_back(seen: Visit) -> None:
    said = seen.page.locator(".dmx-said")
    before = said.inner_text()
    slider = seen.page.locator(".dmx-panel input[type=range][aria-label*='nonlinear error']")
    slider.focus()
    seen.page.keyboard.press("End")
    seen.page.wait_for_function("before => document.querySelector('.dmx-said').innerText !== before", arg=before)
    seen.page.get_by_role("button", name="x itself").click()
    seen.page.wait_for_function("document.querySelector('.dmx-said').innerText.includes('moves by 0 nats') || "
                                "/moves by −?[0-9.]+e−/.test(document.querySelector('.dmx-said').innerText)")  # fmt: skip


def test_a_latent_can_be_switched_off(seen: Visit, kernel: Kernel) -> None:
    first = seen.page.locator(".dmx-latent").first
    first.locator("summary").click()
    first.get_by_role("button", name="Switch off").click()
    seen.page.wait_for_selector(".dmx-changed")
    settle(seen.page)
    request = seen.page.evaluate("document.querySelector('.dmx').explorer.wanted")
    assert list(request["latents"].values()) == [0]
    shown = seen.page.evaluate(
        "document.querySelector('.dmx').explorer.backend.ask(document.querySelector('.dmx').explorer.wanted)"
    )
    same(kernel.answer(request), shown, "switched off")
    assert f"moves by {shown['kl']:.3g} nats" in seen.page.inner_text(".dmx-said")


def test_a_link_reproduces_the_state(seen: Visit, browser: Browser, site: str) -> None:
    type_text(seen.page, "A link & <its> text\n100 %")
    seen.page.locator("[data-field=architecture]").first.select_option("jumprelu")
    settle(seen.page)
    seen.page.locator(".dmx-token").nth(4).click()
    seen.page.get_by_role("button", name="+ linear").click()
    settle(seen.page)
    mark = "(({text, sae, position, linear}) => ({text, sae, position, linear}))(document.querySelector('.dmx').explorer.state)"
    state, fragment = seen.page.evaluate(mark), seen.page.evaluate("location.hash")
    with visit(browser, site, PAGE + fragment) as again:
        settle(again.page)
        assert (
            again.page.evaluate(mark)
            == state
            == {"text": "A link & <its> text\n100 %", "sae": SAES[1], "position": 4, "linear": 1}
        )
        assert again.page.inner_text(".dmx-message") == seen.page.inner_text(".dmx-message")
        again.assert_clean()


def test_the_python_that_is_copied_computes_the_same(
    typed: Visit, kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    type_text(typed.page, 'He said "it\'s"\\n\n— twice')
    typed.page.get_by_role("button", name="Copy as Python").click()
    source = typed.page.locator(".dmx-code").text_content()
    monkeypatch.setattr(explorer, "Kernel", lambda study: kernel)
    found: dict = {}
    exec(source, found)
    same(found["tokens"], typed.page.evaluate("document.querySelector('.dmx').explorer.answers[0]"), "tokens")
    assert found["outcome"].keys() == contract.Outcome.model_fields.keys()


def test_the_papermill_command_is_one_shell_command_with_the_text(typed: Visit) -> None:
    import shlex

    text = 'it\'s; rm -rf / $(x) `y`\n"z"'
    type_text(typed.page, text)
    typed.page.get_by_role("button", name="papermill").click()
    words = shlex.split(typed.page.locator(".dmx-code").text_content())
    assert words[:3] == ["papermill", "notebooks/explorer.ipynb", "explorer-out.ipynb"]
    assert words[words.index("text") + 1] == text


def test_the_tokens_download_as_csv(typed: Visit) -> None:
    type_text(typed.page, 'a "quoted", text\n')
    with typed.page.expect_download() as waiting:
        typed.page.get_by_role("button", name="CSV").click()
    rows = list(csv.DictReader(io.StringIO(Path(waiting.value.path()).read_bytes().decode())))
    answer = typed.page.evaluate("document.querySelector('.dmx').explorer.answers[0]")
    assert [row["tokens"] for row in rows] == answer["tokens"]
    assert [float(row["error_norm2"]) for row in rows] == answer["error_norm2"]


def test_a_worker_that_dies_is_started_again_and_the_page_says_so(seen: Visit) -> None:
    type_text(seen.page, "before")
    seen.page.evaluate(
        "(() => { const {backend} = document.querySelector('.dmx').explorer; backend.worker.terminate(); backend.patience = 1500; })()"
    )
    type_text(seen.page, "after the engine died")
    assert "started again" in seen.page.inner_text(".dmx-status")
    assert seen.page.locator(".dmx-token").nth(1).inner_text().strip() == "after"


@pytest.mark.parametrize("width", [320, 768, 1440])
def test_nothing_scrolls_sideways_in_either_theme(browser: Browser, site: str, width: int) -> None:
    with visit(browser, site, PAGE, width=width, scheme="dark") as seen:
        settle(seen.page)
        seen.page.check("[data-field=pin]")
        seen.page.wait_for_selector(".dmx-pair")
        settle(seen.page)
        seen.assert_clean()
        seen.page.emulate_media(color_scheme="light")
        seen.assert_clean()


def test_parts_and_shades_have_the_colours_of_the_theme(browser: Browser, site: str) -> None:
    with visit(browser, site, PAGE) as seen:
        settle(seen.page)
        seen.page.evaluate("document.querySelector('.dmx').explorer.change({shade: 'error'})")
        settle(seen.page)
        for scheme in ("light", "dark"):
            seen.page.emulate_media(color_scheme=scheme)
            for part, name in {"explained": "sae", "linear": "linear", "nonlinear": "nonlinear"}.items():
                assert set(painted(seen.page, f".dmx-bar i.dmx-{part}")) == {(*channels(COLORS[name]), 1.0)}
            words = [color for color in painted(seen.page, ".dmx-token .dmx-word") if color[3]]
            assert {color[:3] for color in words} == {channels(COLORS["nonlinear"])}
            depths = {color[3] for color in words}
            assert len(depths) > 5 and min(depths) >= 0.06 and max(depths) == 0.56
        seen.assert_clean()


def test_an_hour_of_typing_does_not_fill_the_memory(seen: Visit) -> None:
    """Two hundred texts under changing SAEs: long after every cache has begun to let go."""
    kept = seen.page.evaluate(
        """async (saes) => { const {backend} = document.querySelector('.dmx').explorer;
        for (let i = 0; i < 200; i++) await backend.ask({kind: 'decompose', text: `text number ${i}`, sae: saes[i % 3]});
        return backend.pending.size; }""",
        list(SAES),
    )
    assert kept == 0
    renderers = [one for one in psutil.Process().children(recursive=True) if "--type=renderer" in one.cmdline()]
    used = [one.memory_full_info().uss for one in renderers]  # the worker's memory too: it lives in the tab's process
    assert used and max(used) < 300e6, used


def test_a_chapter_may_show_one_part_of_it(browser: Browser, site: str) -> None:
    with visit(browser, site, "notebooks/part.html") as seen:
        seen.page.wait_for_selector(".dmx-next td")
        assert seen.page.locator(".dmx-token").count() > 50
        assert seen.page.locator(".dmx textarea, .dmx-take, .dmx-picture").count() == 0
        seen.page.get_by_role("button", name="x itself").click()
        seen.page.wait_for_function("document.querySelector('.dmx-said').innerText.includes('100 % nonlinear')")
        assert seen.page.evaluate("location.hash") == ""
        seen.assert_clean()


@pytest.fixture
def landing(browser: Browser, site: str) -> Iterator[Visit]:
    """The picture of the landing page: the tokens alone, which lead to the explorer."""
    with visit(browser, site, "notebooks/landing.html") as fresh:
        fresh.page.wait_for_selector(".dmx-token")
        yield fresh
        fresh.assert_clean()


def test_the_landing_picture_says_its_sentence_and_fetches_no_weight(landing: Visit) -> None:
    said = landing.page.inner_text(".dmx-message")
    assert said.endswith("stays nonlinear: dark matter.") and ". " not in said, "one sentence"
    assert landing.page.locator(".dmx-token .dmx-bar i.dmx-nonlinear").count() > 50
    assert landing.page.locator(".dmx :is(textarea, select, button, .dmx-panel)").count() == 0
    assert not [name for name in fetched(landing.page) if name.endswith(".safetensors") or "worker" in name]


def test_pointing_and_walking_read_a_token_of_the_landing_picture_out(landing: Visit) -> None:
    said = landing.page.locator(".dmx-tokens + .dmx-said")
    landing.page.locator(".dmx-token").nth(7).hover()
    landing.page.wait_for_function(
        "document.querySelector('.dmx-tokens + .dmx-said').textContent.startsWith('token 7:')"
    )
    assert "% nonlinear" in said.inner_text()
    landing.page.locator(".dmx-tokens").focus()
    landing.page.keyboard.press("ArrowRight")
    assert said.inner_text().startswith("token 8:")


@pytest.mark.parametrize("by", ["mouse", "keyboard"])
def test_a_token_of_the_landing_picture_leads_to_the_explorer(landing: Visit, by: str) -> None:
    text = landing.page.evaluate("document.querySelector('.dmx').explorer.state.text")
    if by == "mouse":
        landing.page.locator(".dmx-token").nth(5).click()
    else:
        landing.page.locator(".dmx-tokens").focus()
        for key in ("Home", *["ArrowRight"] * 5, "Enter"):
            landing.page.keyboard.press(key)
    landing.page.wait_for_url("**/index.html#explore&*position=5*")
    settle(landing.page)
    assert landing.page.locator(".dmx textarea").input_value() == text
    assert landing.page.locator(".dmx-panel h4").first.inner_text().startswith("Token 5 ")
