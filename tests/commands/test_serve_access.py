"""The editor for everybody: axe-core finds nothing in any state of the page, and nothing is cut off at any width."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from PIL import Image
from served import Served, large_photo, move

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("served")
    tested = folder / "runs" / "run" / "test_photos" / "one"
    tested.mkdir(parents=True)
    for name in ("photo", "image"):
        large_photo().save(tested / f"{name}.png")
    (folder / "runs" / "table.csv").write_text("model,n,l2\ndigiface,3,0.02\n")
    Image.new("RGB", (300, 900), "grey").save(folder / "runs" / "panel.png")
    large_photo(2, 4).save(folder / "two.png")
    Image.new("RGB", (300, 200), "grey").save(folder / "none.png")
    started = Served(folder, ("digiface", "w_opt:600"), typed=("--runs", str(folder / "runs")))
    yield started
    started.stop()


@pytest.fixture
def findings() -> Callable[[Any, str], list[str]]:
    """What axe-core says about a page, of any impact."""
    axe = pytest.importorskip(
        "axe_playwright_python.sync_playwright", reason='needs axe-core: pip install "hyperinverter[dev]"'
    ).Axe()

    def look(page: Any, stage: str) -> list[str]:
        said = axe.run(page).response
        assert len(said["passes"]) > 5, "axe-core looked at nothing"
        return [
            f"{stage}: {found['id']} ({found['impact']}): {[node['target'] for node in found['nodes']]}"
            for found in said["violations"]
        ]

    return look


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [1440, 1024, 390])
def test_nothing_is_cut_off_and_axe_finds_nothing(
    browser: Any, server: Served, findings: Callable[[Any, str], list[str]], width: int, theme: str
) -> None:
    context = browser.new_context(
        viewport={"width": width, "height": 844}, color_scheme=theme, permissions=["camera"]
    )
    page = context.new_page()
    found: list[str] = []

    def look(stage: str) -> None:
        found.extend(findings(page, stage))
        assert page.evaluate("document.documentElement.scrollWidth") <= width, stage

    page.goto(server.url)
    page.wait_for_selector("#examples button:nth-child(6)")
    look("start")
    page.click("#to-gallery")
    page.wait_for_selector(".photos button")
    page.click("summary")
    look("evaluations")
    page.click("#gallery-back")
    page.click("#camera")
    page.wait_for_selector("#camera-box:not([hidden])")
    assert page.evaluate("document.getElementById('video').srcObject.active")
    look("the camera")
    page.click("#camera-off")
    for name in ("none", "two"):
        page.set_input_files("#file", server.log.parent / f"{name}.png")
        page.wait_for_selector(f"#faces-title:has-text('{'No face' if name == 'none' else 'Which'}')")
        look(f"{name}.png")
    page.set_input_files("#file", {"name": "a.png", "mimeType": "image/png", "buffer": b"words"})
    page.wait_for_selector("#message:not([hidden])")
    look("a sentence")
    page.click("#back")
    page.click("#examples button:nth-child(1)")
    page.wait_for_selector("#progress:not([hidden])")
    look("a search")
    page.click("#stop")
    page.wait_for_selector("#tile-edit-1 figcaption:has-text('stopped')")
    move(page, "powers-yaw", -2.9)
    look("an edit beyond its range")
    page.fill("#search", "nothing has this name")
    page.check("#error-map")
    page.fill("#wipe", "50")
    look("error map, wiping, no slider")
    context.close()
    assert found == []


def test_the_page_can_be_used_with_keys_alone(browser: Any, server: Served) -> None:
    page = browser.new_page()
    page.goto(server.url)
    page.wait_for_selector("#examples button:nth-child(6)")
    for _ in range(30):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.closest('#examples') !== null"):
            break
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"
    page.keyboard.press("Enter")
    page.wait_for_selector("#tile-edit-0 .frame:not(.busy)")
    page.focus("#powers-smile")
    for _ in range(4):
        page.keyboard.press("ArrowRight")
    page.wait_for_selector("#command:has-text('smile=0.2')")
    page.keyboard.press("Home")
    page.wait_for_selector("#command:not(:has-text('smile=0.2'))")
    assert page.input_value("#powers-smile") == "0"
    page.keyboard.press("Control+z")
    page.wait_for_selector("#command:has-text('smile=0.2')")
    assert page.input_value("#powers-smile") == "0.2"
    page.close()
