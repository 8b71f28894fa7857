"""Chat templates: where they are found, how they are rendered, and what goes wrong in them."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from jinja2.sandbox import ImmutableSandboxedEnvironment

from tpu_tgi.router.chat.messages import TemplateMessage
from tpu_tgi.router.chat.template import ChatTemplate
from tpu_tgi.router.chat.template_source import TemplateSource, find_template
from tpu_tgi.router.errors import RouterStartError, TemplateError
from tpu_tgi.router.metrics import Metrics

METRICS = Metrics(max_input_tokens=63, max_total_tokens=64)

USER: list[TemplateMessage] = [{"role": "user", "content": "hi <b> é"}]


def render(
    text: str | None,
    messages: list[TemplateMessage] = USER,
    tools: list[dict[str, Any]] | None = None,
    bos_token: str | None = None,
) -> str:
    template = ChatTemplate(TemplateSource(text, bos_token), METRICS)
    try:
        return asyncio.run(template.render(messages, tools))
    finally:
        template.close()


def write(directory: Path, name: str, content: object) -> None:
    text = content if isinstance(content, str) else json.dumps(content)
    (directory / name).write_text(text, encoding="utf-8")


PLACES: dict[str, tuple[object, str]] = {
    "chat_template.json": ({"chat_template": "standalone"}, "standalone"),
    "tokenizer_config.json": (
        {
            "chat_template": [
                {"name": "tool_use", "template": "x"},
                {"name": "default", "template": "config"},
            ]
        },
        "config",
    ),
    "processor_config.json": ({"chat_template": "processor", "image_seq_len": 1}, "processor"),
    "chat_template.jinja": ("jinja é", "jinja é"),
}


@pytest.mark.parametrize("first", range(len(PLACES)))
def test_the_first_place_that_has_a_template_wins(tmp_path: Path, first: int) -> None:
    for name, (content, _) in list(PLACES.items())[first:]:
        write(tmp_path, name, content)
    assert find_template(tmp_path, None).text == list(PLACES.values())[first][1]


def test_tokens_may_be_texts_or_objects(tmp_path: Path) -> None:
    write(tmp_path, "tokenizer_config.json", {"bos_token": "<s>", "eos_token": {"content": "</s>"}})
    assert find_template(tmp_path, None) == TemplateSource(None, "<s>", "</s>")


def test_a_config_may_be_given_in_place_of_the_models(tmp_path: Path) -> None:
    write(tmp_path, "tokenizer_config.json", {"chat_template": "the model's"})
    write(tmp_path, "other.json", {"chat_template": "mine"})
    assert find_template(tmp_path, str(tmp_path / "other.json")).text == "mine"
    with pytest.raises(RouterStartError, match=r"`--tokenizer-config-path .*nothing.json` is not a file"):
        find_template(tmp_path, str(tmp_path / "nothing.json"))


def test_damaged_and_foreign_files_are_no_template(tmp_path: Path) -> None:
    write(tmp_path, "tokenizer_config.json", "{")
    write(tmp_path, "chat_template.json", [1])
    write(tmp_path, "processor_config.json", {"chat_template": "without image_seq_len"})
    assert find_template(tmp_path, None) == TemplateSource(None)


def test_a_model_without_a_template_says_so() -> None:
    with pytest.raises(TemplateError) as refusal:
        render(None)
    assert refusal.value.text == "Template error: template not found"


@pytest.mark.parametrize(
    "template",
    [
        "{{ bos_token }}{% for m in messages %}{{ m['role'] }}: {{ m.content.strip() }}\n{% endfor %}",
        "{% if not tools %}none{% endif %}{{ eos_token is none }}{{ nothing }}{{ add_generation_prompt }}",
        "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}",
        "{% for m in messages %}{{ loop.first }}{{ loop.index0 }}{% break %}{% endfor %}",
        "{{ messages[0]['content'].split(' ')[-1] }}{{ messages|length }}{{ messages[0].content.upper() }}",
        "{% macro show(x) %}[{{ x|trim }}]{% endmacro %}{{ show(messages[0].content) }}",
        "  {%- if true %}\n  a\n  {%- endif %}\n",
    ],
)
def test_templates_give_what_jinja_gives(template: str) -> None:
    """Jinja without its whitespace options, which the stock router's engine does not set either."""
    environment = ImmutableSandboxedEnvironment(extensions=["jinja2.ext.loopcontrols"])
    variables = {"messages": USER, "tools": None, "bos_token": "<s>", "eos_token": None}
    expected = environment.from_string(template).render(**variables, add_generation_prompt=True)
    # The engines differ in how they write booleans.
    assert render(template, bos_token="<s>").lower() == expected.lower()


def test_the_stock_routers_replacements_are_made() -> None:
    assert render("{{ messages[0]['content'][0]['text'] }}") == "hi <b> é"
    assert render("{% for m in messages[::-1] %}{{ m.role }}{% endfor %}") == "user"
    assert render("{% generation %}a{% endgeneration %}") == "a"


def test_json_is_compact_sorted_and_safe_in_html() -> None:
    tools = [{"b": [1, None, True, 0.5], "a": "<é'&>"}]
    assert render("{{ tools|tojson }}", tools=tools) == (
        '[{"a":"\\u003cé\\u0027\\u0026\\u003e","b":[1,null,true,0.5]}]'
    )
    assert render("{{ tools[0].b|tojson(indent=2) }}", tools=tools) == "[\n  1,\n  null,\n  true,\n  0.5\n]"


def test_keys_come_in_alphabetical_order() -> None:
    tools = [{"type": "function", "function": {"name": "f", "arguments": "{}"}}]
    template = "{% for k, v in tools[0].items() %}{{ k }} {% for n in v %}{{ n }} {% endfor %}{% endfor %}"
    assert render(template, tools=tools) == "function arguments name type f u n c t i o n "


def test_a_template_that_uses_tools_is_known() -> None:
    for text, shows in (("{{ tools }}", True), ("{% if x %}{{ tools[0] }}{% endif %}", True), ("a", False)):
        template = ChatTemplate(TemplateSource(text), METRICS)
        assert template.shows_tools == shows
        template.close()


@pytest.mark.parametrize(
    ("template", "error"),
    [
        (
            "{{ raise_exception('roles must alternate') }}",
            "syntax error: roles must alternate (in <string>:1)",
        ),
        ("a\n{% if %}", "syntax error: unexpected end of block (in <string>:2)"),
        ("a\n{{ unknown() }}", "unknown function: unknown is unknown (in <string>:2)"),
        ("{{ messages[0].nothing.at_all }}", "undefined value (in <string>:1)"),
    ],
)
def test_errors_of_templates_name_kind_and_place(template: str, error: str) -> None:
    with pytest.raises(TemplateError) as refusal:
        render(template)
    assert refusal.value.text == f"Template error: {error}"


def test_a_template_that_does_not_end_is_stopped() -> None:
    endless = "{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}"
    with pytest.raises(TemplateError, match="engine ran out of fuel"):
        render(endless)


def test_a_long_conversation_is_rendered() -> None:
    messages: list[TemplateMessage] = [{"role": "user", "content": "a"}] * 20_000
    template = (
        "{% for m in messages %}{% if m['role'] == 'user' %}{{ m['content'] + '\n' }}{% endif %}{% endfor %}"
    )
    assert render(template, messages) == "a\n" * 20_000


def test_the_words_of_the_assistant_are_continued() -> None:
    template = "{% for m in messages %}{{ m.content }}</s>{% endfor %}assistant:"
    spoken: list[TemplateMessage] = [*USER, {"role": "assistant", "content": "a a \n"}]
    assert render(template, spoken) == "hi <b> é</s>a a"
    silent: list[TemplateMessage] = [*USER, {"role": "assistant", "content": ""}]
    assert render(template, silent) == "hi <b> é</s></s>assistant:"
    assert render("unrelated ", spoken) == "unrelated "


def test_many_chats_are_rendered_at_once() -> None:
    template = ChatTemplate(TemplateSource("{{ messages[0].content|tojson }}"), METRICS)

    async def render_all() -> list[str]:
        jobs = [template.render([{"role": "user", "content": str(i)}], None) for i in range(200)]
        return await asyncio.gather(*jobs)

    assert asyncio.run(render_all()) == [f'"{i}"' for i in range(200)]
    template.close()


def test_a_tool_call_id_reaches_templates_that_ask_for_it() -> None:
    message: TemplateMessage = {"role": "tool", "content": "x", "tool_call_id": "7"}
    template = "{% for m in messages %}{{ m.tool_call_id is defined }}{% endfor %}"
    assert render(template, [*USER, message]).lower() == "falsetrue"
