"""Every endpoint, through the official client."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

import openai
import pytest

import tailorbird
from tailorbird.runtime.chat import ChatTemplate
from tailorbird.runtime.language_model import LanguageModel

TALK: Any = [{"role": "system", "content": "Sew."}, {"role": "user", "content": "The tailorbird"}]


def whole(running: Any, **options: Any) -> Any:
    return running.client.completions.create(model="tiny", **({"prompt": "The tailorbird", "temperature": 0} | options))


def test_models(running: Any, model: LanguageModel) -> None:
    (found,) = running.client.models.list().data
    assert (found.id, found.object, found.owned_by) == ("tiny", "model", "tailorbird")
    assert running.client.models.retrieve("tiny") == found
    with pytest.raises(openai.NotFoundError, match="only 'tiny'"):
        running.client.models.retrieve("some/other")


def test_a_completion_is_what_the_model_gives(running: Any, model: LanguageModel) -> None:
    found = whole(running, max_tokens=30)
    assert found.object == "text_completion" and found.id.startswith("cmpl-")
    (choice,) = found.choices
    assert choice.text == "".join(model.generate("The tailorbird", 30))
    assert choice.finish_reason == "length"
    read = len(model.tokenizer.prompt("The tailorbird"))
    assert found.usage.to_dict() == {"prompt_tokens": read, "completion_tokens": 30, "total_tokens": read + 30}


def test_a_prompt_can_be_token_ids(running: Any, model: LanguageModel) -> None:
    ids = model.tokenizer.prompt("The tailorbird")
    assert whole(running, prompt=ids).choices[0].text == whole(running).choices[0].text
    assert whole(running, prompt=["The tailorbird"]).choices[0].text == whole(running).choices[0].text
    assert whole(running).usage.completion_tokens == 16


def test_a_chat_goes_through_the_template(running: Any, model: LanguageModel, template: ChatTemplate) -> None:
    found = running.client.chat.completions.create(model="tiny", messages=TALK, temperature=0, max_completion_tokens=20)
    text = "<s>[system] Sew.\n[user] The tailorbird\n[assistant] "
    assert template.render(TALK) == text
    assert found.choices[0].message.role == "assistant"
    assert found.choices[0].message.content == "".join(model.generate(text, 20))
    assert found.usage.prompt_tokens == len(model.tokenizer.prompt(text))
    parts = [{"role": "developer", "content": [{"type": "text", "text": "Sew."}]}, TALK[1]]
    again = running.client.chat.completions.create(model="tiny", messages=parts, temperature=0, max_tokens=20)
    assert again.choices[0].message.content == found.choices[0].message.content


def test_an_artifact_keeps_its_template(serve: Any, original: Path, template: ChatTemplate, tmp_path: Path) -> None:
    tailorbird.compress(original, tmp_path / "small", method="rtn", budget="8bits")
    small = tailorbird.load(tmp_path / "small")
    kept = ChatTemplate.of(small.source)
    assert kept is not None and kept.render(TALK) == template.render(TALK)
    with serve(small, kept) as running:
        create = running.client.chat.completions.create
        found = create(model="tiny", messages=TALK, temperature=0, max_tokens=8)
        assert found.choices[0].message.content == "".join(small.generate(kept.render(TALK), 8))


def test_a_stream_equals_the_whole(running: Any) -> None:
    found = whole(running, max_tokens=40)
    chunks = list(whole(running, max_tokens=40, stream=True))
    assert "".join(chunk.choices[0].text for chunk in chunks) == found.choices[0].text
    assert [chunk.choices[0].finish_reason for chunk in chunks] == [None] * (len(chunks) - 1) + ["length"]
    assert all(chunk.usage is None for chunk in chunks)
    assert len({chunk.id for chunk in chunks}) == 1


def test_a_chat_stream_equals_the_whole(running: Any) -> None:
    create = running.client.chat.completions.create
    found = create(model="tiny", messages=TALK, temperature=0, max_tokens=40)
    options: Any = {"stream": True, "stream_options": {"include_usage": True}}
    chunks = list(create(model="tiny", messages=TALK, temperature=0, max_tokens=40, **options))
    assert chunks[0].choices[0].delta.role == "assistant"
    *said, last = chunks
    assert "".join(chunk.choices[0].delta.content or "" for chunk in said) == found.choices[0].message.content
    assert said[-1].choices[0].finish_reason == "length"
    assert last.choices == [] and last.usage == found.usage
    assert all(chunk.usage is None for chunk in said)


def test_streams_are_server_sent_events(running: Any) -> None:
    body = {"prompt": "A", "max_tokens": 3, "stream": True}
    status, headers, content = running.request("POST", "/v1/completions", body)
    assert status == 200 and headers["content-type"].startswith("text/event-stream")
    events = content.decode().split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    assert all(json.loads(event.removeprefix("data: "))["object"] == "text_completion" for event in events[:-2])


def test_characters_stay_whole_across_pieces(running: Any) -> None:
    """The random model writes bytes that are seldom a character; those that are come in one piece."""
    text = "é日本🪡 " * 6
    found = whole(running, prompt=text, max_tokens=120, temperature=1, seed=4)
    pieces = [
        chunk.choices[0].text
        for chunk in whole(running, prompt=text, max_tokens=120, temperature=1, seed=4, stream=True)
    ]
    assert "".join(pieces) == found.choices[0].text
    assert any(ord(letter) > 127 for letter in found.choices[0].text)


def test_stop_texts_end_an_answer(running: Any) -> None:
    text = whole(running, max_tokens=40).choices[0].text
    stop = text[9:12]
    for how in (stop, ["never to be seen", stop]):
        found = whole(running, max_tokens=40, stop=how)
        assert found.choices[0].text == text[: text.index(stop)]
        assert found.choices[0].finish_reason == "stop"
        pieces = list(whole(running, max_tokens=40, stop=how, stream=True))
        assert "".join(piece.choices[0].text for piece in pieces) == found.choices[0].text
        assert pieces[-1].choices[0].finish_reason == "stop"


def test_an_end_token_ends_an_answer(running: Any, model: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = model.steps(model.tokenizer.prompt("The tailorbird"), 3)
    for _ in range(3):
        token = int(next(steps).argmax())
        steps.feed(token)
    monkeypatch.setattr(model.tokenizer, "eos", (token,))
    found = whole(running, max_tokens=20)
    assert found.choices[0].finish_reason == "stop"
    assert found.usage.completion_tokens <= 3
    assert list(whole(running, max_tokens=20, stream=True))[-1].choices[0].finish_reason == "stop"


def test_sampling(running: Any) -> None:
    drawn = [whole(running, max_tokens=20, temperature=1, seed=seed).choices[0].text for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]
    greedy = whole(running, max_tokens=20).choices[0].text
    extras: list[dict[str, Any]] = [{"top_p": 1e-9}, {"extra_body": {"top_k": 1}}, {"extra_body": {"min_p": 1.0}}]
    for only_the_best in [*extras, {"temperature": 1e-300}]:
        assert whole(running, **({"max_tokens": 20, "temperature": 1.5} | only_the_best)).choices[0].text == greedy
    assert whole(running, temperature=None, n=1, extra_body={"top_k": -1}).choices[0].text


def test_an_answer_ends_where_the_model_does(running: Any, model: LanguageModel) -> None:
    ids = [5] * 1020
    found = whole(running, prompt=ids, max_tokens=400)
    assert found.usage.completion_tokens <= 4
    with pytest.raises(openai.BadRequestError, match="more than the 1024"):
        whole(running, prompt=[5] * 1024)


def test_the_example_talks(
    running: Any, template: ChatTemplate, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = iter(["The tailorbird", "And then?", ""])
    monkeypatch.setattr("builtins.input", lambda prompt: next(lines))
    script = Path(__file__).parents[2] / "examples" / "chat_client.py"
    monkeypatch.setattr("sys.argv", [str(script), running.url])
    before = running.metric('tailorbird_requests_total{path="/v1/chat/completions",status="200"}')
    runpy.run_path(str(script), run_name="__main__")
    assert "talking to tiny" in capsys.readouterr().out
    assert running.metric('tailorbird_requests_total{path="/v1/chat/completions",status="200"}') == before + 2


def test_health_and_metrics(running: Any) -> None:
    assert running.request("GET", "/healthz")[2] == b'{"status": "ok"}'
    before = running.metric('tailorbird_tokens_total{kind="completion"}')
    whole(running, max_tokens=10)
    assert running.metric('tailorbird_tokens_total{kind="completion"}') == before + 10
    assert running.metric('tailorbird_requests_total{path="/v1/completions",status="200"}') > 0
    assert running.metric("tailorbird_queue_depth") == running.metric("tailorbird_running") == 0
    status, headers, text = running.request("GET", "/metrics")
    assert status == 200 and headers["content-type"].startswith("text/plain; version=0.0.4")
    counts = [float(line.rpartition(" ")[2]) for line in text.decode().splitlines() if "token_seconds_bucket" in line]
    assert counts and sorted(counts[:14]) == counts[:14]
    assert text.decode().count("# TYPE") == 7


def test_the_page_has_nothing_from_elsewhere(running: Any) -> None:
    status, headers, content = running.request("GET", "/")
    page = content.decode()
    assert status == 200 and headers["content-type"] == "text/html; charset=utf-8"
    assert "unsafe" not in headers["content-security-policy"]
    assert "default-src 'none'" in headers["content-security-policy"]
    assert "http:" not in page and "https:" not in page and "src=" not in page and "innerHTML" not in page
    assert headers["x-content-type-options"] == "nosniff"
