"""Chat templates: those in the style of real models work, and hostile ones end soon and small."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from datetime import datetime
from typing import Any

import pytest
from jinja2 import TemplateError
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from quaver.errors import ModelFolderError
from quaver.models.chat_template import INSTRUCTION, QWEN3_RERANKER, ChatTemplate
from quaver.models.template_sandbox import run_template

# --- Templates of real models ---------------------------------------------------------------------
# Written for these tests, with the constructs of the families that the names say.
LLAMA = """\
{{- bos_token }}
{%- if custom_tools is defined %}{%- set tools = custom_tools %}{%- endif %}
{%- if not tools_in_user_message is defined %}{%- set tools_in_user_message = true %}{%- endif %}
{%- if not date is defined %}
    {%- if strftime_now is defined %}{%- set date = strftime_now("%d %b %Y") %}
    {%- else %}{%- set date = "26 Jul 2024" %}{%- endif %}
{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system = messages[0]['content'] | trim %}
    {%- set messages = messages[1:] %}
{%- else %}{%- set system = "" %}{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\n" }}
{%- if tools is not none and not tools_in_user_message %}
    {%- for t in tools %}{{- t | tojson(indent=4) }}{{- "\\n\\n" }}{%- endfor %}
{%- endif %}
{{- "Today: " + date + "\\n\\n" + system + "<|eot_id|>" }}
{%- for message in messages %}
    {%- if not (message.role == 'ipython' or message.role == 'tool' or 'tool_calls' in message) %}
        {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' }}
        {{- message['content'] | trim + '<|eot_id|>' }}
    {%- elif 'tool_calls' in message %}
        {%- if not message.tool_calls | length == 1 %}{{- raise_exception("one call at a time") }}{%- endif %}
        {%- set call = message.tool_calls[0].function %}
        {{- '{"name": "' + call.name + '", "parameters": ' }}{{- call.arguments | tojson }}{{- "}" }}
        {%- for name, value in call.arguments | items %}{{- name + '="' ~ value ~ '"' }}
            {%- if not loop.last %}{{- ", " }}{%- endif %}
        {%- endfor %}
    {%- else %}
        {%- if message.content is mapping or message.content is iterable %}{{- message.content | tojson }}
        {%- else %}{{- message.content }}{%- endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{%- endif %}
"""
MISTRAL = """\
{%- if messages[0]["role"] == "system" %}
    {%- set system = messages[0]["content"] %}{%- set loop_messages = messages[1:] %}
{%- else %}{%- set loop_messages = messages %}{%- endif %}
{%- if not tools is defined %}{%- set tools = none %}{%- endif %}
{%- set users = loop_messages | selectattr("role", "equalto", "query") | list %}
{%- set ns = namespace(index=0, seen=[]) %}
{%- for message in loop_messages %}
    {%- if not (message.role == "tool" or (message.tool_calls is defined and message.tool_calls is not none)) %}
        {%- if (message["role"] == "query") != (ns.index % 2 == 0) %}
            {{- raise_exception("roles must alternate") }}
        {%- endif %}
        {%- set ns.index = ns.index + 1 %}{%- set ns.seen = ns.seen + [message.role] %}
    {%- endif %}
{%- endfor %}
{{- bos_token }}
{%- for message in loop_messages %}
    {%- if message["role"] == "query" %}
        {%- if tools is not none and (message == users[-1]) %}
            {{- "[AVAILABLE_TOOLS] [" }}
            {%- for tool in tools %}
                {%- for key, value in tool.items() if key != "return" %}
                    {%- if value is string %}{{- '"' + key + '": "' + value + '"' }}
                    {%- else %}{{- '"' + key + '": ' + value | tojson }}{%- endif %}
                    {%- if not loop.last %}{{- ", " }}{%- endif %}
                {%- endfor %}
                {%- if not loop.last %}{{- ", " }}{%- else %}{{- "]" }}{%- endif %}
            {%- endfor %}
            {{- "[/AVAILABLE_TOOLS]" }}
        {%- endif %}
        {%- if loop.first and system is defined %}{{- "[INST] " + system + "\\n\\n" + message["content"] + "[/INST]" }}
        {%- else %}{{- "[INST] " + message["content"] + "[/INST]" }}{%- endif %}
    {%- else %}{{- " " + message["content"] + eos_token }}{%- endif %}
{%- endfor %}
{{- ns.seen | join("/") ~ ns.index }}
"""
GEMMA = """\
{{ bos_token }}
{%- if messages[0]['role'] == 'system' -%}
    {%- if messages[0]['content'] is string -%}
        {%- set first_user_prefix = messages[0]['content'] + '\\n\\n' -%}
    {%- else -%}{%- set first_user_prefix = messages[0]['content'][0]['text'] + '\\n\\n' -%}{%- endif -%}
    {%- set loop_messages = messages[1:] -%}
{%- else -%}{%- set first_user_prefix = "" -%}{%- set loop_messages = messages -%}{%- endif -%}
{%- for message in loop_messages -%}
    {%- if (message['role'] == 'query') != (loop.index0 % 2 == 0) -%}{{ raise_exception("alternate") }}{%- endif -%}
    {%- set role = "model" if message['role'] == 'document' else message['role'] -%}
    {{ '<start_of_turn>' + role + '\\n' + (first_user_prefix if loop.first else "") }}
    {%- if message['content'] is string -%}{{ message['content'] | trim }}
    {%- elif message['content'] is iterable -%}
        {%- for item in message['content'] -%}
            {%- if item['type'] == 'image' -%}{{ '<start_of_image>' }}
            {%- elif item['type'] == 'text' -%}{{ item['text'] | trim }}{%- endif -%}
        {%- endfor -%}
    {%- else -%}{{ raise_exception("Invalid content type") }}{%- endif -%}
    {{ '<end_of_turn>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<start_of_turn>model\\n' }}{%- endif -%}
"""
QWEN = """\
{%- macro turn(role, content='') %}{{- '<|im_start|>' ~ role ~ '\\n' ~ content ~ '<|im_end|>\\n' }}{% endmacro -%}
{%- set ns = namespace(multi_step_tool=true, last=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- set answer = message.content.startswith('<tool>') and message.content.endswith('</tool>') %}
    {%- if ns.multi_step_tool and message.role == "query" and not answer %}
        {%- set ns.multi_step_tool = false %}{%- set ns.last = index %}{%- break %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if message.content is string %}{%- set content = message.content %}
    {%- else %}{%- set content = '' %}{%- endif %}
    {%- if loop.index0 > ns.last and '</think>' in content %}
        {%- set thought = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
        {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
        {{- turn(message.role, '<think>\\n' + thought.strip('\\n') + '\\n</think>\\n\\n' + content.lstrip('\\n')) }}
    {%- elif not content %}{%- continue %}
    {%- else %}{{- turn(message.role, content=content) }}{%- endif %}
{%- endfor %}
{%- set block %}<|im_start|>assistant
{% endset %}
{{- block }}
{%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}
{{- {'a': [1, 2.5, none, true], 'é': dict(b='c')} | tojson }} {{ range(2, 7, 2) | list }}
{{- messages | map(attribute='role') | map('upper') | join(', ') }}
"""
STYLES = {
    "llama": LLAMA,
    "mistral": MISTRAL,
    "gemma": GEMMA,
    "qwen": QWEN,
    "reranker": QWEN3_RERANKER,
}


def unbounded(source: str, variables: dict[str, Any]) -> str:
    """Render as transformers does."""

    def raise_exception(message: str) -> None:
        raise TemplateError(message)

    def tojson(value: Any, ensure_ascii: bool = False, indent: int | None = None) -> str:
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols]
    )
    environment.filters["tojson"] = tojson
    environment.globals.update(
        raise_exception=raise_exception,
        strftime_now=lambda layout: datetime.now().strftime(layout),
    )
    return environment.from_string(source).render(variables)


def conversation(system: str = "", **more: Any) -> dict[str, Any]:
    texts = {
        "system": system,
        "query": " who <b>?\n",
        "document": "<think>\nwhy\n</think>\n\nthat's é",
    }
    messages = [{"role": role, "content": text} for role, text in texts.items() if text]
    tokens = {"bos_token": "<s>", "eos_token": "</s>"}
    return {"messages": messages, "tools": None, "add_generation_prompt": True, **tokens, **more}


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("system", ["", INSTRUCTION, "x " * 100_000])
def test_templates_of_real_models_give_the_text_of_jinja(style: str, system: str) -> None:
    tools = [{"name": "f", "parameters": {"a": [1, {"b": "c"}]}, "return": "no"}]
    options = {"tools_in_user_message": False, "enable_thinking": False}
    for variables in (conversation(system), conversation(system, tools=tools, **options)):
        assert run_template(STYLES[style], variables) == unbounded(STYLES[style], variables)


def test_lists_of_parts_and_calls_of_tools() -> None:
    variables = conversation()
    for message in variables["messages"]:
        message["content"] = [{"type": "image"}, {"type": "text", "text": message["content"]}]
    assert run_template(GEMMA, variables) == unbounded(GEMMA, variables)
    call = {"function": {"name": "f", "arguments": {"a": 1, "b": ["é", {"c": None}]}}}
    variables["messages"] += [{"role": "assistant", "tool_calls": [call]}]
    variables["messages"] += [{"role": "tool", "content": {"a": [1]}}]
    variables["messages"][:2] = conversation()["messages"]
    assert run_template(LLAMA, variables) == unbounded(LLAMA, variables)


@pytest.mark.parametrize("style", STYLES)
def test_what_a_template_puts_around_the_texts(style: str) -> None:
    tokens = (("bos_token", "<s>"), ("eos_token", "</s>"))
    around = ChatTemplate(STYLES[style], tokens).around(INSTRUCTION)
    assert INSTRUCTION in around.before
    assert around.stripped == (style in ("llama", "gemma"))
    variables = conversation(INSTRUCTION, add_generation_prompt=False)
    texts = [" who?\n", "\tthat's é "]
    for message, text in zip(variables["messages"][1:], texts, strict=True):
        message["content"] = text
    assert around.pair(*texts) == unbounded(STYLES[style], variables)


# --- Hostile templates ----------------------------------------------------------------------------
def doubled(start: str, step: str, rounds: int, use: str = "") -> str:
    return (
        f"{{% set n = namespace(x={start}) %}}{{% for i in range({rounds}) %}}{{% set n.x = {step} %}}"
        f"{{% endfor %}}{use}"
    )


LONG = doubled("'a'", "n.x + n.x", 16)
ITEMS = ", ".join(["n.x"] * 500)
STEPS, REFUSED, UNSAFE, NO_FILTER = "so many steps", "may not use", "unsafe", "No filter named"
HOSTILE = {
    "{{ 'a' * 10000000000 }}": REFUSED,
    "{{ [1] * 10000000000 }}": REFUSED,
    "{{ 10 ** 10000000000 }}": REFUSED,
    "{{ '%10000000000d' % 1 }}": REFUSED,
    "{{ '%10000000000d' | format(1) }}": NO_FILTER,
    "{{ '{:>10000000000}'.format(1) }}": UNSAFE,
    "{{ 'a'['for' ~ 'mat'](1) }}": UNSAFE,
    "{{ (['{:>10000000000}'] | map(attribute='format') | first)(1) }}": UNSAFE,
    "{{ 'a'.center(10000000000) }}": UNSAFE,
    "{{ 'a'.zfill(10000000000) }}": UNSAFE,
    "{{ 'a\\t'.expandtabs(10000000000) }}": UNSAFE,
    "{{ (1).to_bytes(10000000000, 'big') }}": UNSAFE,
    "{{ 'a' | center(10000000000) }}": NO_FILTER,
    "{{ 'a' | indent(10000000000, true) }}": NO_FILTER,
    "{{ ['a'] | map('center', 10000000000) | list }}": NO_FILTER,
    "{{ [1] | batch(10000000000, 1) | list }}": NO_FILTER,
    "{{ [1] | slice(10000000000) | list }}": NO_FILTER,
    "{{ [1] | tojson(indent=10000000000) }}": "may indent and separate",
    "{{ [1] | tojson(separators=['a', '" + "b" * 99 + "']) }}": "may indent and separate",
    "{{ lipsum(n=100000000) }}": "is undefined",
    "{{ range(10000000000) | list }}": "may count to",
    "{{ strftime_now('" + "%Y" * 100 + "') }}": "a date with",
    "{% for a in range(1000) %}" * 3 + "{% endfor %}" * 3: STEPS,
    "{% for a in range(1000) %}{{ 'x' }}" * 3 + "{% endfor %}" * 3: STEPS,
    "{% set r = range(1000) %}{% for a in r %}{{ r | select('none') | list }}{% endfor %}": STEPS,
    "{% for i in range(1000) %}" + "x" * 60_000 + "{% endfor %}": STEPS,
    "{% for i in range(1000) %}" + "{% if true %}{% endif %}" * 2000 + "{% endfor %}": STEPS,
    doubled("'a'", "n.x + n.x", 60): STEPS,
    doubled("'a'", "n.x ~ n.x", 60): STEPS,
    doubled("'a'", "[n.x, n.x] | join", 60): STEPS,
    doubled("'aa'", "n.x | replace('a', 'aa')", 60): STEPS,
    doubled("'aa'", "n.x.replace('a', 'aa')", 60): STEPS,
    doubled("'a'", "[n.x, n.x] | string", 60): STEPS,
    doubled("[1]", "n.x + n.x", 60): STEPS,
    doubled("[1]", "[n.x, n.x]", 60, "{{ n.x }}"): STEPS,
    doubled("3", "n.x * n.x", 60): REFUSED,
    doubled("1", "n.x + n.x", 1000) * 40: STEPS,
    LONG + "{{ n.x | join(n.x) }}": STEPS,
    LONG + "{{ n.x.join(n.x) }}": STEPS,
    LONG + "{{ n.x | replace('a', n.x) }}": STEPS,
    LONG + "{{ n.x | replace('', n.x) }}": STEPS,
    LONG + "{{ n.x.replace('a', n.x) }}": STEPS,
    LONG + "{{ ['a', 'a'] | map('replace', 'a', n.x) | join(n.x) }}" * 40: STEPS,
    LONG + "{{ [" + ITEMS + "] | map('upper') | list }}": STEPS,
    LONG + "{% set v = {'a': n.x}.items() %}{% set n.x = v %}{{ [" + ITEMS + "] }}": STEPS,
    LONG
    + "{% set m = namespace(x=n) %}{% set n = m %}{{ raise_exception(["
    + ITEMS
    + "] | string) }}": "Namespace",
    LONG + "{% for i in range(1000) %}{% if 'b' in n.x %}{% endif %}{% endfor %}": STEPS,
    LONG + "{{ range(1000) | map('string') | select('in', n.x) | list }}": STEPS,
    LONG + "{{ n.x.strip(n.x) }}": "may strip",
    LONG + "{{ n.x | trim(n.x) }}": "may strip",
    LONG + "{{ n.x.rfind('b' + n.x) }}": UNSAFE,
    LONG + "{{ raise_exception(n.x) }}": "aaa",
    "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(60) }}": STEPS,
    "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}": "recursion",
    "{% for x in [[1]] recursive %}{{ loop(x) }}{% endfor %}": "recursive loops",
    "{% for i in range(9) %}{% macro m() %}{% endmacro %}{% endfor %}": "macros outside",
    "{% set x %}{% endset %}": "without text",
    "{% set x | center(10000000000) %}a{% endset %}": "without text",
    "{% filter center(10000000000) %}a{% endfilter %}": REFUSED,
    "{% include 'a' %}": REFUSED,
    "{% extends 'a' %}": REFUSED,
    "{% import 'a' as b %}": REFUSED,
    "{% call range() %}{% endcall %}": REFUSED,
    "{{ dict(**messages[0]) }}": "may not use .* in a call",
    "{{ messages.append(1) }}": UNSAFE,
    "{{ cycler.__init__.__globals__ }}": "undefined|unsafe",
    "{{ raise_exception.__globals__.a }}": UNSAFE,
    "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}": "recursion|nested",
    "{{ " + "[" * 5000 + "]" * 5000 + " }}": "recursion|nested",
    "{{ " + "not " * 5000 + "1 }}": "recursion|nested",
    "{{ 1" + " + 1" * 5000 + " }}": "recursion|nested",
    "{{ a" + ".a" * 5000 + " }}": "recursion|nested",
    "{{ a" + " | d" * 5000 + " }}": "recursion|nested",
    "{% if 1 %}" * 2000 + "{% endif %}" * 2000: "recursion|nested|levels",
    "{% for a in [1] %}" * 190 + "{% endfor %}" * 190: "loops in each other",
    "{{ a }}" * 9000: "8000 nodes",
    "{{ " + "9" * 5000 + " }}": "digits|limit",
    "{{" * 16_000: "fails on",
    "{% raw " * 8_000: "fails on",
    "{#" * 16_000: "fails on",
    "{{ '" + "\\\\" * 30_000: "fails on",
    "{%" + " " * 60_000: "fails on",
}
# Run in a process whose memory has a limit: what a broken bound would take would end this one, or the machine.
PROGRAM = """
import json, resource, sys
from quaver.errors import ModelFolderError
from quaver.models.chat_template import ChatTemplate
from quaver.models import template_sandbox

used = next(int(l.split()[1]) for l in open("/proc/self/status") if l.startswith("VmSize")) << 10
resource.setrlimit(resource.RLIMIT_AS, (used + (128 << 20),) * 2)
resource.setrlimit(resource.RLIMIT_CPU, (100, 100))
found = []
for source in json.load(sys.stdin):
    try:
        ChatTemplate(source).around("")
        found.append("no error")
    except ModelFolderError as error:
        found.append(str(error))
json.dump(found, sys.stdout)
"""


@pytest.fixture(scope="module")
def outcomes() -> dict[str, str]:
    """The message of each hostile template; that of one that needs much memory is "MemoryError"."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        input=json.dumps(list(HOSTILE)),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return dict(zip(HOSTILE, json.loads(done.stdout), strict=True))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the limit is Linux's")
@pytest.mark.parametrize(
    "template", HOSTILE, ids=lambda template: re.sub(r"\W+", " ", template)[:60]
)
def test_a_hostile_template_ends_soon_and_small(template: str, outcomes: dict[str, str]) -> None:
    message = outcomes[template]
    assert "fails on a query and a document" in message
    assert re.search(HOSTILE[template], message), message
    assert len(message) < 500


def test_a_long_instruction_is_no_hostile_template() -> None:
    text = "an instruction of the caller " * 20_000
    assert ChatTemplate(QWEN3_RERANKER).around(text).before.count(text) == 1


def test_long_tokens_of_a_folder_give_a_template_no_endless_time() -> None:
    template = "{% for a in range(1000) %}" * 3 + "{% endfor %}" * 3
    with pytest.raises(ModelFolderError, match=STEPS):
        ChatTemplate(template, (("eos_token", "x" * (8 << 20)),)).around("x" * (8 << 20))


def test_a_template_that_is_refused_names_the_reason() -> None:
    with pytest.raises(
        ModelFolderError, match=r"fails on .*: a chat template may not use Include; is it"
    ):
        ChatTemplate("{% include 'a' %}").around("")
