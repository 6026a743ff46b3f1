"""Chat templates render and tokenizers load, or the version is refused with the library's words; it always ends."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from samples import tokenizer

from aifactory_agent.artifacts import aside, chat, trial
from aifactory_contract.errors import FactoryError, Reason
from aifactory_contract.formats.rules import Files

CHATML = """{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] | trim }}
{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant' }}{% endif %}"""
LOOP = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
MEMORY = (
    "{% set ns = namespace(text='x' * 1000) %}{% for a in range(60) %}{% set ns.text = ns.text ~ ns.text %}{% endfor %}"
)


def files(**contents: Any) -> Files:
    raw = {
        name.replace("__", "."): (value if isinstance(value, str) else json.dumps(value)).encode()
        for name, value in contents.items()
    }
    return Files({name: len(data) for name, data in raw.items()}, lambda path: io.BytesIO(raw[path]))


def check(template: Any, **config: Any) -> None:
    chat.check_language(files(tokenizer_config__json={"chat_template": template, **config}))


def test_a_model_without_a_template_is_none_of_its_business() -> None:
    chat.check_language(files())
    check(None)


def test_what_templates_of_today_use_renders() -> None:
    check(CHATML)
    check(
        "{{ bos_token }}{% for m in messages %}{% if loop.first %}{% continue %}{% endif %}{% endfor %}"
        "{{ strftime_now('%Y') }}{{ messages | tojson(indent=2) }}{% if tools %}x{% endif %}"
        "{% generation %}{{ eos_token }}{% endgeneration %}",
        bos_token={"content": "<s>"},
        eos_token="</s>",
    )
    assert trial.render(
        "{{ bos_token }}{% generation %}{{ messages[0].content }}{% endgeneration %}", {"bos_token": "<s>"}
    ) == ("<s>Hello")


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{% for message in messages %}", "TemplateSyntaxError: Unexpected end of template"),
        ("{{ raise_exception('only for cats') }}", "TemplateError: only for cats"),
        ("{{ messages[0].content.missing() }}", "UndefinedError"),
        ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "SecurityError"),
        ("{{ messages.append(1) }}", "SecurityError"),
        (LOOP, "took more than 1 s"),
        (MEMORY, "took more than .* MiB"),
    ],
)
def test_what_does_not_render_is_refused_and_runs_nothing(
    monkeypatch: pytest.MonkeyPatch, template: str, words: str
) -> None:
    monkeypatch.setattr(aside, "CPU_SECONDS", 1)
    monkeypatch.setattr(aside, "MEMORY_BYTES", 256 << 20)
    with pytest.raises(
        FactoryError, match=f"chat template in tokenizer_config.json does not render: .*{words}"
    ) as caught:
        check(template)
    assert caught.value.reason is Reason.INVALID_ARTIFACT


def test_every_place_of_a_template_is_looked_at() -> None:
    bad = "{% if %}"
    with pytest.raises(FactoryError, match=r"chat_template\.jinja does not render"):
        chat.check_language(files(chat_template__jinja=bad))
    with pytest.raises(FactoryError, match=r"tokenizer_config\.json does not render"):
        check([{"name": "default", "template": CHATML}, {"name": "tool_use", "template": bad}])


def check_tokenizer(document: Any) -> None:
    chat.check_language(files(tokenizer__json=document))


def test_a_tokenizer_that_the_library_reads_is_good() -> None:
    check_tokenizer(tokenizer())
    assert trial.tokenize(json.dumps(tokenizer()).encode()) == "Hello"
    chat.check_language(files(tokenizer__model="no sentencepiece"))


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ("{", "EOF while parsing"),
        ({**tokenizer(), "model": {"type": "Quantum", "vocab": {"a": 0}}}, "Exception: .*ModelUntagged|did not match"),
        ({**tokenizer(), "model": {"type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": ["a c"]}}, "Token `c` out of"),
        (
            {
                **tokenizer(),
                "pre_tokenizer": {"type": "Split", "pattern": {"Regex": "("}, "behavior": "Removed", "invert": False},
            },
            "paren",
        ),
    ],
)
def test_a_tokenizer_that_does_not_load_is_refused(document: Any, words: str) -> None:
    with pytest.raises(FactoryError, match=rf"tokenizer\.json does not load: .*({words}).*save_pretrained") as caught:
        check_tokenizer(document)
    assert caught.value.reason is Reason.INVALID_ARTIFACT


def test_a_tokenizer_that_takes_too_much_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    many = {f"word{number}": number for number in range(300_000)}
    monkeypatch.setattr(aside, "MEMORY_BYTES", 96 << 20)
    with pytest.raises(FactoryError, match=r"tokenizer\.json does not load: it took more than 96 MiB"):
        check_tokenizer({"model": {"type": "WordLevel", "vocab": many, "unk_token": "word0"}})
