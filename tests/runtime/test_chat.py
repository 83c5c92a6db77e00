from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from tailorbird.errors import ModelError, UsageError
from tailorbird.runtime import chat
from tailorbird.runtime.chat import ChatTemplate

TALK = [
    {"role": "system", "content": "Be a <bird> & sew."},
    {"role": "user", "content": "  {{ 7 * 7 }} – é\n"},
    {"role": "assistant", "content": "Done."},
    {"role": "user", "content": "More?"},
]
# Each in the manner of a family of models.
TEMPLATES = [
    "{% for message in messages %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
    """{{ bos_token }}
{%- if messages[0]['role'] == 'system' -%}
    {%- set first = messages[0]['content'] + '\n\n' -%}
    {%- set rest = messages[1:] -%}
{%- else -%}
    {%- set first = '' -%}{%- set rest = messages -%}
{%- endif -%}
{%- for message in rest -%}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}
        {{ raise_exception("roles must alternate") }}
    {%- endif -%}
    {{ '<turn>' + ('model' if message['role'] == 'assistant' else message['role']) + '\n' }}
    {{ first if loop.first else '' }}
    {{ message['content'] | trim }}
    {{ '<end>\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<turn>model\n' }}{%- endif -%}""",
    """{%- set ns = namespace(count=0) %}
{% for message in messages %}
    {% if message.role == 'system' %}{% continue %}{% endif %}
    {% set ns.count = ns.count + 1 %}
    {% generation %}{{ message | tojson }}{% endgeneration %}

{% endfor %}
{{- ns.count }} {{ eos_token }} {{ strftime_now('%Y')[:2] }}""",
]


def source(folder: Path, template: Any = None, file: str | None = None) -> SimpleNamespace:
    tokens = {"bos_token": {"content": "<s>"}, "eos_token": "</s>", "unk_token": None}
    (folder / "tokenizer_config.json").write_text(json.dumps(tokens | {"chat_template": template}))
    if file is not None:
        (folder / "chat_template.jinja").write_text(file)
    return SimpleNamespace(folder=folder, config={})


@pytest.mark.parametrize("text", TEMPLATES, ids=["chatml", "gemma", "marks"])
def test_rendered_as_transformers_does(tmp_path: Path, text: str) -> None:
    from tokenizers import Tokenizer, models

    theirs = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE()), bos_token="<s>", eos_token="</s>")
    wanted = theirs.apply_chat_template(TALK, chat_template=text, tokenize=False, add_generation_prompt=True)
    mine = ChatTemplate.of(source(tmp_path, text))
    assert mine is not None
    assert mine.render(TALK) == wanted


def test_where_a_template_stands(tmp_path: Path) -> None:
    def rendered(**found: Any) -> str | None:
        template = ChatTemplate.of(source(tmp_path, **found))
        return None if template is None else template.render(TALK)

    assert rendered() is None
    assert rendered(template=7) is None
    assert rendered(template="setting") == "setting"
    several = [{"name": "tool", "template": "a"}, {"name": "default", "template": "b"}, {"name": []}, 3]
    assert rendered(template=several) == "b"
    assert rendered(template=several[:1]) is None
    assert rendered(template="setting", file="file") == "file"


def test_plain(tmp_path: Path) -> None:
    plain = ChatTemplate.of(source(tmp_path, "own"), plain=True)
    assert plain is not None
    text = "system: Sew.\nuser: Now?\nassistant:"
    talk = [{"role": "system", "content": "Sew."}, {"role": "user", "content": "Now?"}]
    assert plain.render(talk) == text and "\nuser:" in plain.stop
    tokenizer: Any = SimpleNamespace(prompt=lambda text: [0, 1], encode=lambda text: [1])
    assert plain.encode(tokenizer, TALK) == [0, 1]
    own = ChatTemplate.of(source(tmp_path, "own"))
    assert own is not None and own.stop == () and own.encode(tokenizer, TALK) == [1]


def test_refusals_of_a_template(tmp_path: Path) -> None:
    template = ChatTemplate.of(source(tmp_path, TEMPLATES[1]))
    assert template is not None
    with pytest.raises(UsageError, match="roles must alternate"):
        template.render(TALK[2:])


@pytest.mark.parametrize(
    "text", ["{% for %}", "{{ 1 +", "{% include", "{{ x | nofilter }}", "{% unknown %}", "{{" * 5000]
)
def test_templates_that_are_none(tmp_path: Path, text: str) -> None:
    with pytest.raises(ModelError, match="can't be read") as caught:
        ChatTemplate.of(source(tmp_path, text))
    assert "--plain-chat" in caught.value.hint


@pytest.mark.parametrize(
    "text",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.__init__.__globals__ }}",
        "{{ raise_exception.__globals__['json'] }}",
        "{{ strftime_now.__code__.co_consts }}",
        "{{ ('{0.__class__.__init__.__globals__}').format(messages) }}",
        "{{ self._TemplateReference__context.environment.globals.clear() }}",
        "{{ messages.append(1) }}",
        "{{ messages[0].update(role='x') }}",
        "{% include '/etc/passwd' %}",
        "{% import 'os' as os %}",
        "{{ 9 ** 9 ** 9 ** 9 }}",
        "{{ 'a' * 10 ** 10 }}",
        "{{ [0] * 999999999999 }}",
        "{{ range(10 ** 9) | list }}",
        "{% for a in range(99999) %}{% for b in range(99999) %}aaaaaaaa{% endfor %}{% endfor %}",
    ],
)
def test_hostile_templates(tmp_path: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat, "MAX_OUTPUT", 10_000)
    template = ChatTemplate.of(source(tmp_path, text))
    assert template is not None
    with pytest.raises(UsageError, match="template"):
        template.render(TALK)


@pytest.mark.parametrize(
    "text",
    [
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
        "{% for a in range(99999) %}{% set b = range(99999) | map('string') | list is iterable %}{% endfor %}",
    ],
)
def test_templates_without_end(tmp_path: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat, "MAX_SECONDS", 0.2)
    template = ChatTemplate.of(source(tmp_path, text))
    assert template is not None
    before = sys.gettrace()
    with pytest.raises(UsageError, match=r"takes more than 0\.2 seconds") as caught:
        template.render(TALK)
    assert "--plain-chat" in caught.value.hint and sys.gettrace() is before


def test_a_template_can_not_change_the_messages(tmp_path: Path) -> None:
    template = ChatTemplate.of(source(tmp_path, "{% set messages = [] %}{{ messages | length }}"))
    assert template is not None
    talk = [dict(message) for message in TALK]
    assert template.render(talk) == "0" and talk == TALK


def test_too_large_a_template(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat, "MAX_TEMPLATE_BYTES", 100)
    for where in ({"template": "a" * 101}, {"file": "a" * 101}):
        with pytest.raises(ModelError, match="large"):
            ChatTemplate.of(source(tmp_path, **where))  # type: ignore[arg-type]
