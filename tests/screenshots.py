"""Take the README's pictures from the built site: `make screenshots` after `make book`."""

from __future__ import annotations

from pathlib import Path

from site_browser import DRAWN, PATIENCE, launch, serve

ROOT = Path(__file__).parents[1]
SITE, PICTURES = ROOT / "_build/html", ROOT / "book/_static/screens"
WANTED = {  # picture: page, what to show of it, colour scheme
    "figure-1": ("notebooks/intro.html", ".dm-chart", "light"),
    "token-strip-dark": ("notebooks/04_4_per_token.html", ".dm-strip", "dark"),
}


def main() -> None:
    PICTURES.mkdir(parents=True, exist_ok=True)
    with serve(SITE) as address, launch() as browser:
        for name, (path, selector, scheme) in WANTED.items():
            page = browser.new_page(viewport={"width": 1280, "height": 900}, color_scheme=scheme, device_scale_factor=2)
            page.add_init_script(f"localStorage.setItem('mode', '{scheme}'); localStorage.setItem('theme', '{scheme}')")
            page.goto(address + path)
            page.wait_for_function(DRAWN, timeout=PATIENCE)
            box = page.locator(selector).first
            box.scroll_into_view_if_needed()
            page.wait_for_timeout(1000)
            box.screenshot(path=PICTURES / f"{name}.png")


if __name__ == "__main__":
    main()
