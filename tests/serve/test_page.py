"""The chat page in a real browser."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from runpy import run_path
from typing import Any

import pytest

_browser = run_path(str(Path(__file__).with_name("browser.py")))

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(_browser["BROWSER"] is None, reason="needs Chromium: apt-get install chromium"),
]
ANSWER = "document.querySelector('article.assistant p').textContent"
DONE = "!document.querySelector('#send').disabled"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with _browser["browsing"](tmp_path_factory.mktemp("profile")) as found:
        yield found


def opened(page: Any, running: Any) -> Any:
    page.events.clear()
    page.open(running.url + "/")
    page.wait("document.querySelector('#model').textContent === 'tiny' || document.querySelector('#error').textContent")
    page.wait("document.activeElement !== document.body")  # a busy browser puts the cursor there later
    return page


def settings(page: Any, **values: Any) -> None:
    for name, value in values.items():
        page.run(f"document.querySelector('#{name}').value = {value!r}")


def test_a_chat_by_keyboard(page: Any, running: Any) -> None:
    opened(page, running)
    assert page.run("document.activeElement.id") == "text"
    settings(page, temperature=0, tokens=12)
    page.type("The tailorbird")
    page.press("Enter", shift=True)
    page.type("sews")
    assert page.run("document.querySelector('#text').value") == "The tailorbird\nsews"
    page.press("Enter")
    page.wait(f"{DONE} && document.querySelectorAll('article').length === 2")
    first = [{"role": "user", "content": "The tailorbird\nsews"}]
    create = running.client.chat.completions.create
    wanted = create(model="tiny", messages=first, temperature=0, max_tokens=12).choices[0].message.content
    assert page.run(ANSWER) == wanted
    assert page.run("document.querySelector('article.user p').textContent") == "The tailorbird\nsews"
    page.type("More")
    page.press("Enter")
    page.wait(f"{DONE} && document.querySelectorAll('article').length === 4")
    talk: Any = [*first, {"role": "assistant", "content": wanted}, {"role": "user", "content": "More"}]
    again = create(model="tiny", messages=talk, temperature=0, max_tokens=12)
    assert (
        page.run("[...document.querySelectorAll('article p')].at(-1).textContent") == again.choices[0].message.content
    )
    assert page.run("document.querySelector('#note').textContent") == (
        f"{again.usage.prompt_tokens} tokens read, {again.usage.completion_tokens} written"
    )
    page.run("document.querySelector('#new').click()")
    assert page.run("document.querySelectorAll('article').length") == 0
    assert page.complaints() == []
    assert {url for url in page.requested() if not url.startswith((running.url, "data:,"))} == set()


def test_text_runs_nothing(page: Any, running: Any) -> None:
    attack = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"
    opened(page, running)
    settings(page, tokens=2)
    page.type(attack)
    page.press("Enter")
    page.wait(f"{DONE} && document.querySelectorAll('article').length")
    assert page.run("document.querySelector('article.user p').textContent") == attack
    assert page.run("document.title") == "Tailorbird"
    assert page.run("document.querySelectorAll('main img, main script').length") == 0
    # Even if something got in, the policy would not let it run.
    page.run("document.body.insertAdjacentHTML('beforeend', `<img src=x onerror=\"document.title='owned'\">`)")
    page.run("new Promise(done => setTimeout(done, 200))")
    assert page.run("document.title") == "Tailorbird"
    assert any("Content Security Policy" in told for told in page.complaints())


@pytest.mark.parametrize("how", ["key", "button"])
def test_stopping_keeps_what_came(page: Any, serve: Any, slow: Any, template: Any, how: str) -> None:
    with serve(slow, template) as running:
        opened(page, running)
        settings(page, tokens=900)
        page.type("The")
        page.press("Enter")
        page.wait(f"{ANSWER}.length > 3")
        slow.go.clear()
        assert page.run("document.querySelector('#send').disabled && !document.querySelector('#stop').disabled")
        if how == "key":
            page.press("Escape")
        else:
            page.run("document.querySelector('#stop').click()")
        page.wait(DONE)
        running.wait(lambda: running.metric("tailorbird_running") == 0)
        assert len(page.run(ANSWER)) > 3
        assert page.run("document.querySelector('#error').textContent") == ""
        slow.go.set()
        page.type("Again")
        settings(page, tokens=3)
        page.press("Enter")
        page.wait(f"{DONE} && document.querySelectorAll('article').length === 4")


def test_errors_show(page: Any, serve: Any, model: Any, template: Any) -> None:
    error = "document.querySelector('#error').textContent"
    with serve(model, template, api_key="a-good-key", tokens=50) as running:
        opened(page, running)
        assert "API key" in page.run(error)
        assert page.run("document.activeElement.id") == "key"
        page.type("a-good-key")
        page.press("Tab")
        page.wait("document.querySelector('#model').textContent === 'tiny'")
        assert page.run(error) == ""
        settings(page, tokens=51)
        page.run("document.querySelector('#form').noValidate = true; document.querySelector('#text').focus()")
        page.type("kept")
        page.press("Enter")
        assert "more than the 50" in page.wait(error)
        assert page.run("document.querySelector('#text').value") == "kept"
        assert page.run("document.querySelectorAll('article').length") == 0
        settings(page, tokens=5)
        page.press("Enter")
        page.wait(f"{DONE} && document.querySelectorAll('article').length === 2")
    page.run("document.querySelector('#text').focus()")
    page.type("anybody?")
    page.press("Enter")
    assert "can't be reached" in page.wait(error)


def test_a_model_without_a_template_continues_text(page: Any, serve: Any, model: Any) -> None:
    with serve(model) as running:
        opened(page, running)
        page.wait("document.querySelector('#plain').disabled")
        settings(page, tokens=9, temperature=0)
        page.type("The tailorbird")
        page.press("Enter")
        page.wait(f"{DONE} && document.querySelectorAll('article').length === 2")
        assert page.run(ANSWER) == "".join(model.generate("The tailorbird", 9))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_light_and_dark_wide_and_narrow(page: Any, running: Any, scheme: str, tmp_path: Path) -> None:
    page.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    opened(page, running)
    settings(page, tokens=2)
    page.type("x" * 500 + " word" * 30)
    page.press("Enter")
    page.wait(f"{DONE} && document.querySelectorAll('article').length")
    page.run("document.querySelector('details').open = true")
    light = page.run(
        "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).reduce((sum, x) => sum + Number(x), 0)"
    )
    assert (light > 600) == (scheme == "light")
    for width in (320, 800, 1600):
        page.call("Emulation.setDeviceMetricsOverride", width=width, height=700, deviceScaleFactor=1, mobile=False)
        assert page.run("document.documentElement.scrollWidth - document.documentElement.clientWidth") == 0
        assert page.run("document.querySelector('#send').getBoundingClientRect().bottom <= innerHeight")
    page.call("Emulation.clearDeviceMetricsOverride")
