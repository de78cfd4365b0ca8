"""The page in a real browser, opened from a file without a network."""

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

from episodes import small_episode
from ntm_rl.agents.inspection.page.build import Source, build_page
from ntm_rl.agents.inspection.page.colours import LEVELS, table

# CI sets this, so that these tests never skip there.
REQUIRED = bool(os.environ.get("NTM_RL_REQUIRE_BROWSER"))
sync_api = import_module("playwright.sync_api") if REQUIRED else pytest.importorskip("playwright.sync_api")

ROOT = Path(__file__).parents[3]
# An episode of 500 steps, and its limits.
LONG, MAX_BYTES, MAX_MILLISECONDS = 500, 5_000_000, 1000 / 30
HOSTILE = (
    "</script><script>globalThis.hacked = 1</script>",
    "<img src=x onerror='globalThis.hacked = 1'>",
    "{{SCRIPT}} <!-- \u2028 'globalThis.hacked = 1' \U0001f3b2",
)


@pytest.fixture(scope="module")
def browser() -> Iterator:
    path = shutil.which("chromium")
    if path is None:
        (pytest.fail if REQUIRED else pytest.skip)("chromium is not installed")
    with sync_api.sync_playwright() as playwright:
        arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
        made = playwright.chromium.launch(executable_path=path, args=arguments)
        yield made
        made.close()


@contextmanager
def opened(browser, content: str, folder: Path, **options) -> Iterator:
    """The page in a tab; fails on an error in the console, a blocked script, or any request to a network."""
    file = folder / "page.html"
    file.write_text(content)
    options = {"viewport": {"width": 1280, "height": 900}, "color_scheme": "light", "offline": True, **options}
    context = browser.new_context(**options)
    problems = []
    tab = context.new_page()
    tab.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
    tab.on("pageerror", lambda error: problems.append(str(error)))
    tab.on("request", lambda request: problems.append(request.url) if request.url.startswith("http") else None)
    tab.goto(file.as_uri())
    wait_until(tab, "Boolean(globalThis.player)")
    yield tab
    context.close()
    assert problems == []


def wait_until(tab, condition: str) -> None:
    """Waits for a condition; Playwright's own function would need eval, which the page forbids."""
    deadline = time.monotonic() + 20
    while not tab.evaluate(condition):
        assert time.monotonic() < deadline, condition
        tab.wait_for_timeout(10)


def page_of(*episodes, title="ntm_rl/Test-v0", run="run A", details=("ntm",), several=False) -> str:
    named = [(f"episode {number}", each) for number, each in enumerate(episodes, start=1)]
    sources = [Source(run, details, named)]
    return build_page(title, [*sources, Source("run B", details, named[::-1])] if several else sources)


def pixels(tab, canvas: str) -> np.ndarray:
    """The colours of a canvas, `[height, width, 3]`."""
    code = "canvas => { const {width, height} = canvas; return [height, width, "
    code += "[...canvas.getContext('2d').getImageData(0, 0, width, height).data]]; }"
    height, width, data = tab.locator(canvas).first.evaluate(code)
    return np.array(data, dtype=np.uint8).reshape(height, width, 4)[..., :3]


def colours(numbers: np.ndarray, scale: str, theme: str, low: float, high: float, power: float = 1) -> np.ndarray:
    levels = np.rint((LEVELS - 1) * ((numbers - low) / (high - low)) ** (1 / power)).astype(int)
    return table(scale, theme)[levels]


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_heat_maps_show_the_numbers_in_the_colours_of_the_theme(browser, tmp_path, theme):
    episode = small_episode()
    memory = episode.memory.memory
    largest = np.abs(memory).max()
    with opened(browser, page_of(episode), tmp_path, color_scheme=theme) as tab:
        weighting = pixels(tab, "[aria-label='read 1, weighting over steps'] canvas")
        expected = colours(episode.memory.heads["read 1"].weighting.T, "sequential", theme, 0, 1, power=2)
        np.testing.assert_array_equal(weighting, expected)
        for step in (0, 7):
            tab.evaluate(f"player.goTo({step})")
            shown = pixels(tab, "[aria-label='contents of the memory']")
            np.testing.assert_array_equal(shown, colours(memory[step], "diverging", theme, -largest, largest))
        tab.get_by_role("button", name="Switch between light and dark").click()
        other = {"light": "dark", "dark": "light"}[theme]
        shown = pixels(tab, "[aria-label='contents of the memory']")
        np.testing.assert_array_equal(shown, colours(memory[7], "diverging", other, -largest, largest))


def test_keys_step_jump_and_open_episodes(browser, tmp_path):
    with opened(browser, page_of(small_episode(30), small_episode(12)), tmp_path) as tab:
        expected = [("ArrowRight", 1), ("Shift+ArrowRight", 11), ("ArrowLeft", 10), ("End", 29), ("ArrowRight", 29)]
        for key, step in [*expected, ("Home", 0), ("ArrowLeft", 0)]:
            tab.keyboard.press(key)
            assert tab.locator("#step").text_content() == f"step {step} of 30"
        tab.keyboard.press("PageDown")
        assert tab.locator("#step").text_content() == "step 0 of 12"
        assert tab.get_by_label("Episode").input_value() == "1"
        tab.keyboard.press("+")
        assert tab.evaluate("SPEEDS[player.speed]") == 2 and tab.get_by_label("Speed").input_value() == "3"


def test_playing_advances_and_pauses(browser, tmp_path):
    with opened(browser, page_of(small_episode(200)), tmp_path) as tab:
        tab.get_by_label("Speed").select_option(index=6)
        tab.get_by_role("button", name="Play").click()
        wait_until(tab, "player.step > 5")
        tab.locator("#slider").press("Space")
        assert tab.evaluate("player.playing") is False
        tab.get_by_role("button", name="Play").focus()
        tab.keyboard.press("Enter")
        wait_until(tab, "player.step === 199 && !player.playing")


def test_a_click_goes_to_a_step_and_hovering_shows_its_numbers(browser, tmp_path):
    episode = small_episode(20)
    with opened(browser, page_of(episode), tmp_path) as tab:
        plot = tab.locator("[aria-label='read 1, weighting over steps']")
        plot.scroll_into_view_if_needed()
        box = plot.bounding_box()
        tab.mouse.click(box["x"] + box["width"] * 7.5 / 20, box["y"] + box["height"] * 3.5 / 8)
        assert tab.evaluate("player.step") == 7
        weight = tab.evaluate(f"format({float(episode.memory.heads['read 1'].weighting[7, 3])})")
        first, last = tab.locator("#tip").text_content().split("\n")
        assert (first, last.split(": ")[0]) == ("read 1, weighting", "step 7, slot 3")
        assert abs(float(last.split(": ")[1]) - float(weight)) < 0.005
        tab.locator("#slider").fill("4")
        assert tab.locator("#step").text_content() == "step 4 of 20"
        value = tab.locator("dt", has_text="value").locator("xpath=following-sibling::dd")
        assert value.text_content() == tab.evaluate(f"format({episode.values[4]})")


def test_an_arc_leads_from_the_step_that_wrote_to_the_step_that_reads(browser, tmp_path):
    with opened(browser, page_of(small_episode(20)), tmp_path) as tab:
        for step in (3, 19):
            tab.evaluate(f"player.goTo({step})")
            sentence = tab.locator("[aria-label='Read 1'] .heading p").text_content()
            if "written in step" in sentence:
                start = int(sentence.split("step ")[1].split(" ")[0])
                curve = tab.locator("[aria-label='read 1, weighting over steps'] path.arc").get_attribute("d")
                assert start <= step
                assert curve.startswith(f"M{start + 0.5} ") and f" {step + 0.5} " in curve
            else:
                assert "initial contents" in sentence


def test_hostile_names_are_text(browser, tmp_path):
    episode = small_episode(labels=HOSTILE)
    with opened(browser, page_of(episode, title=HOSTILE[0], run=HOSTILE[2], details=HOSTILE), tmp_path) as tab:
        assert tab.locator("h1").text_content() == HOSTILE[0]
        assert tab.title() == HOSTILE[0] and tab.locator("h2").text_content() == HOSTILE[2]
        assert tab.locator(".bars .label").all_text_contents() == [*HOSTILE, *HOSTILE]
        tab.locator("[aria-label='observation, observation over steps']").hover()
        assert any(name in tab.locator("#tip").text_content() for name in HOSTILE)
        assert tab.evaluate("globalThis.hacked") is None
        assert tab.locator("script").count() == 3 and tab.locator("img").count() == 0


def test_frames_follow_the_steps(browser, tmp_path):
    with opened(browser, page_of(small_episode(frames=True)), tmp_path) as tab:
        seen = set()
        for step in range(3):
            tab.evaluate(f"player.goTo({step})")
            tab.locator("img.frame").evaluate("image => image.decode()")
            seen.add(tab.locator("img.frame").get_attribute("src"))
        assert len(seen) == 3 and all(url.startswith("data:image/webp;base64,") for url in seen)


def test_two_agents_share_the_time_and_a_shorter_episode_stays_at_its_end(browser, tmp_path):
    content = page_of(small_episode(30), small_episode(12), several=True)
    with opened(browser, content, tmp_path) as tab:
        tab.keyboard.press("End")
        assert tab.locator("article").count() == 2
        assert tab.locator("#step").text_content() == "step 29 of 30"
        numbers = tab.locator("article").nth(1).locator(".numbers dd").first.text_content()
        assert numbers == tab.evaluate(f"format({small_episode(12).rewards[11]})")


@pytest.mark.parametrize("several", [False, True])
def test_nothing_is_wider_than_the_window(browser, tmp_path, several):
    episode = small_episode(
        labels=("a name without any space that is longer than a phone is wide".replace(" ", "-"), "b")
    )
    with opened(browser, page_of(episode, episode, several=several), tmp_path) as tab:
        for width in (320, 390, 800, 1920):
            tab.set_viewport_size({"width": width, "height": 800})
            assert tab.evaluate("document.documentElement.scrollWidth") <= width
            assert tab.get_by_role("button", name="Play").bounding_box()["width"] > 30


@pytest.mark.parametrize("core", ["ntm_block", "dnc", "sam", "mann", "lstm", "gated_delta", "feedforward"])
def test_every_kind_of_core_is_shown(browser, tmp_path, core):
    with opened(browser, page_of(small_episode(core=core, hidden_size=8)), tmp_path) as tab:
        tab.keyboard.press("End")
        panels = tab.locator(".panel > h3, .heading h3").all_text_contents()
        assert ("Memory" in panels) == (core in ("ntm_block", "dnc", "sam", "mann"))
        assert ("Links" in panels) == (core == "dnc")
        assert ("Activations" in panels) == (core != "feedforward")
        assert tab.locator(".heading p", has_text="reads").count() == ("Memory" in panels) * (
            4 if core == "ntm_block" else 1
        )


@pytest.mark.parametrize("page", sorted((ROOT / "docs" / "pages" / "watch").glob("*.html")), ids=lambda page: page.stem)
def test_pages_of_the_documentation_open(browser, tmp_path, page):
    with opened(browser, page.read_text(), tmp_path) as tab:
        tab.keyboard.press("End")
        assert tab.evaluate("player.step === player.steps - 1")


def test_functions_of_the_page(browser, tmp_path):
    with opened(browser, page_of(small_episode()), tmp_path) as tab:
        numbers = [0, 1, -1.5, 0.123456, 123456, 1e-5, -2e-7]
        assert tab.evaluate("numbers => numbers.map(format)", numbers) == [
            *("0", "1", "−1.5", "0.123", "1.2e+5", "1.0e−5", "−2.0e−7")  # noqa: RUF001
        ]
        assert tab.evaluate("[NaN, Infinity, -Infinity].map(format)") == ["not a number", "∞", "−∞"]  # noqa: RUF001
        sums = tab.evaluate("{ const values = Uint8Array.of(1, 2, 3, 255, 4, 0); sumSteps(values, 2); [...values] }")
        assert sums == [1, 2, 4, 1, 8, 1]
        levels = tab.evaluate("[0, 127, 254].map((level) => numberOf({low: -1, high: 3, power: 2}, level))")
        assert levels == [-1, 0, 3]


def test_a_long_episode_is_small_and_drawn_fast(browser, tmp_path):
    content = page_of(small_episode(LONG, "ntm_block", frames=True, hidden_size=128))
    with opened(browser, content, tmp_path) as tab:
        times = tab.evaluate("player.measure(50)")
    print(f"{len(content) / 1e6:.2f} MB, {np.median(times):.1f} ms a step (slowest: {max(times):.1f} ms)")
    assert len(content) <= MAX_BYTES
    assert np.median(times) < MAX_MILLISECONDS
