"""Chat templates: what models' own make of a conversation, and what none of them can do."""

from __future__ import annotations

import pytest

from graphir.errors import DataError
from graphir.hub import chat
from graphir.hub.chat import ChatTemplate

pytest.importorskip("jinja2", reason="the extra `hub` is not installed")

CONVERSATION = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": 'Say "ü" {{ 1 + 1 }}'}]

#: What is used by templates of today: blanks around blocks, special tokens, namespaces, loop controls, JSON.
TEMPLATE = """
{{- bos_token }}
{%- set ns = namespace(count=0) %}
{%- for message in messages %}
    {%- if message['role'] == 'system' %}{% continue %}{% endif %}
    {%- set ns.count = ns.count + 1 %}
    {{- '<' + message.role + '>' + (message.content | trim | tojson) }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<assistant>' ~ ns.count }}{% endif %}"""


def refusal(source: str) -> str:
    with pytest.raises(DataError) as error:
        ChatTemplate(source).render(CONVERSATION)
    return str(error.value)


def test_a_conversation_becomes_a_text() -> None:
    text = ChatTemplate(TEMPLATE, {"bos_token": "<s>"}).render(CONVERSATION)
    assert text == '<s><user>"Say \\"ü\\" {{ 1 + 1 }}"<assistant>1'


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("{% if %}", "Expected an expression"),
        ("{{ raise_exception('no system role') }}", "cannot be rendered: no system role"),
        ("{{ ().__class__.__base__.__subclasses__() }}", "unsafe"),
        ("{{ messages.append(1) }}", "unsafe"),
        ("{{ raise_exception.__globals__['json'] }}", "unsafe"),
        ("{% include '/etc/passwd' %}", "cannot be rendered"),
        ("{% for i in range(100000) %}{{ 'a' * 30 }}{% endfor %}", "more than 1,048,"),
        ("{{ 'a' * 10000000000 }}", "more memory than it may"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "calls itself too deeply"),
        ("{% for i in range(99999) %}{% for j in range(999999) %}{% endfor %}{% endfor %}", "Range too big"),
        ("a" * (chat.LONGEST_TEMPLATE + 1), "has 262,145 characters"),
    ],
)
def test_what_a_template_cannot_do(source: str, message: str) -> None:
    assert message in refusal(source)


@pytest.mark.parametrize(
    "source",
    [
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
        "{% set ns = namespace(x=1) %}{% for i in range(60) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x }}",
    ],
)
def test_a_template_without_an_end_is_ended(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat, "SECONDS", 1)
    assert "takes more than 1 s" in refusal(source)
