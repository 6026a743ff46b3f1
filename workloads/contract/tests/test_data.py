"""What jobs learn from: each line that is no good is named by its file and number, whoever reads it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from aifactory_contract import data
from aifactory_contract.data import chat, lines
from aifactory_contract.errors import FactoryError, Reason


def row(*messages: tuple[str, str]) -> str:
    return json.dumps({"messages": [{"role": role, "content": content} for role, content in messages]})


ASK = {"role": "user", "content": "Why?"}
YES = {"role": "assistant", "content": "Because."}
NO = {"role": "assistant", "content": "No."}
GOOD = {
    "chat": row(("system", "s"), ("user", "Hi"), ("assistant", "Hello.")),
    "preference": json.dumps({"prompt": [ASK], "chosen": [YES], "rejected": [NO]}),
    "text": '{"text": "once"}',
}


def refusal(folder: Path, form: str) -> str:
    with pytest.raises(FactoryError) as told:
        data.check(folder, form, "s3://bucket/x")
    assert told.value.reason is Reason.INVALID_ARTIFACT
    return told.value.message


@pytest.mark.parametrize("form", GOOD)
def test_good_lines_are_taken(tmp_path: Path, form: str) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.jsonl").write_text(f"{GOOD[form]}\r\n\n{GOOD[form]}")
    (tmp_path / "README.md").write_text("no line of it")
    data.check(tmp_path, form, "x")


def test_lines_are_read_folder_by_folder_in_the_order_of_names(tmp_path: Path) -> None:
    (tmp_path / "b.jsonl").write_text("1\n\n2")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.jsonl").write_text("3\n")
    found = list(lines.read(tmp_path, lambda document: document, "a number"))
    assert found == [("b.jsonl:1", 1), ("b.jsonl:3", 2), ("a/x.jsonl:1", 3)]


CONVERSATIONS = [
    (b"{", "it is no JSON: "),
    (b"[" * 5000, "it is no JSON: it is nested too deep"),
    (b'{"messages": "\xff"}', "it is no JSON: "),
    (b"[]", 'it has no list "messages": {"messages": [{"role"'),
    (b'{"text": "x"}', 'it has no list "messages"'),
    (b'{"messages": []}', 'it has no list "messages"'),
    (b'{"messages": ["x"]}', "messages[0] has the role None; the roles are system, user, assistant"),
    (row(("user", "u"), ("bot", "b")), "messages[1] has the role 'bot'"),
    (row(("b" * 99, "u")), f"messages[0] has the role '{'b' * 39}; the roles are"),
    (row(("user", "hi \ud83d")), r"messages[0] (user) has half a character, \ud83d: write it whole"),
    (row(("user", "u"), ("assistant", "  ")), "messages[1] (assistant) has no content"),
    (b'{"messages": [{"role": "user", "content": [{"type": "text"}]}]}', "messages[0] (user) has no content"),
    (row(("assistant", "a"), ("user", "u")), "messages[0] is of the assistant where the user is next"),
    (row(("user", "u"), ("user", "u")), "messages[1] is of the user where the assistant is next"),
    (row(("user", "u"), ("system", "s")), "messages[1] is of the system where the assistant is next"),
    (row(("user", "u"), ("assistant", "a"), ("user", "u")), "the last message is not the assistant's"),
    (row(("system", "s")), "the last message is not the assistant's"),
]
PREFERENCES = [
    ({"prompt": [ASK], "chosen": [YES]}, 'it has no "chosen" and "rejected": {"prompt"'),
    ({"messages": [ASK, YES]}, 'it has no "chosen" and "rejected"'),
    ([], 'it has no "chosen" and "rejected"'),
    ({"prompt": "Why?", "chosen": [ASK, YES], "rejected": [ASK, NO]}, '"prompt" is no list of messages; leave'),
    ({"prompt": [], "chosen": "a", "rejected": "b"}, '"prompt" is no list of messages'),
    ({"chosen": "a", "rejected": "b"}, '"chosen" is no list of messages, nor a text with a "prompt"'),
    ({"prompt": [ASK], "chosen": 1, "rejected": "b"}, '"chosen" is no list of messages'),
    ({"prompt": [ASK], "chosen": "a", "rejected": " "}, "rejected has no content"),
    ({"prompt": [ASK], "chosen": [ASK], "rejected": [NO]}, "prompt and chosen[1] is of the user where the assis"),
    ({"prompt": [YES], "chosen": [YES], "rejected": [NO]}, "prompt and chosen[0] is of the assistant where"),
    ({"prompt": [ASK], "chosen": [{"role": "bot"}], "rejected": [NO]}, "chosen[0] has the role 'bot'"),
    ({"prompt": [ASK], "chosen": [YES, ASK], "rejected": [NO]}, "the last message is not the assistant's"),
    (
        {"chosen": [ASK, YES], "rejected": [{**ASK, "content": "What?"}, NO]},
        "chosen and rejected differ before their last",
    ),
    ({"prompt": [ASK], "chosen": [YES], "rejected": "Because."}, "chosen and rejected are the same"),
]
DOCUMENTS = [
    ({"texts": "x"}, 'it has no text: a line is one document, {"text": "..."}'),
    ("x", "it has no text"),
    ({"text": 1}, "it has no text"),
    ({"text": "hi \ud83d"}, r"text has half a character, \ud83d: write it whole"),
]


@pytest.mark.parametrize(
    ("form", "line", "words"),
    [
        *(("chat", line, words) for line, words in CONVERSATIONS),
        *(("preference", json.dumps(line), words) for line, words in PREFERENCES),
        *(("text", json.dumps(line), words) for line, words in DOCUMENTS),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, form: str, line: bytes | str, words: str) -> None:
    text = line if isinstance(line, bytes) else line.encode()
    good = GOOD[form].encode()
    (tmp_path / "x.jsonl").write_bytes(good + b"\n" + text + b"\n" + good)
    message = refusal(tmp_path, form)
    assert message.startswith("x.jsonl:2: ")
    assert words in message


@pytest.mark.parametrize("form", ["chat", "preference"])
def test_an_answer_may_be_a_text_or_a_whole_conversation(tmp_path: Path, form: str) -> None:
    rows = [{"prompt": [ASK], "chosen": "Because.", "rejected": "No."}, {"chosen": [ASK, YES], "rejected": [ASK, NO]}]
    rows = rows if form == "preference" else [{"messages": [ASK, YES], "id": 7}]
    (tmp_path / "x.jsonl").write_text("\n".join(map(json.dumps, rows)))
    data.check(tmp_path, form, "x")


def test_of_many_bad_lines_three_are_told(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text(f"{GOOD['chat']}\n" + "{\n" * 5)
    first, second, third, more = refusal(tmp_path, "chat").split("; ")
    assert [part.partition(": ")[0] for part in (first, second, third)] == ["x.jsonl:2", "x.jsonl:3", "x.jsonl:4"]
    assert more == "and 2 more lines"


def test_a_line_without_an_end_is_told_and_not_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "MAX_LINE", 1 << 20)
    whole = {"messages": [{**ASK, "content": "x" * (1 << 20)}, YES]}
    longest = json.dumps({"messages": [{**ASK, "content": ""}, YES]})
    longest = longest.replace('""', f'"{"x" * ((1 << 20) - len(longest))}"')
    assert len(longest) == 1 << 20
    (tmp_path / "x.jsonl").write_text(f"{longest}\n{json.dumps(whole) * 3}\n{GOOD['chat']}\n[")
    message = refusal(tmp_path, "chat")
    assert message.startswith("x.jsonl:2: it is longer than 1 MiB: a line ends where its document does; x.jsonl:4: it ")


@pytest.mark.parametrize(
    ("form", "name", "text", "words"),
    [
        ("chat", "chat.json", GOOD["chat"], "s3://bucket/x has no .jsonl file: one conversation a line, {"),
        ("chat", "chat.jsonl", "\n \n", "s3://bucket/x is empty: one conversation a line, {"),
        ("preference", "x.parquet", "PAR1", "s3://bucket/x has no .jsonl file: one preference a line, {"),
        ("text", "x.jsonl", '{"text": ""}\n', "s3://bucket/x has no text: give files of text, or .jsonl files: a line"),
        ("text", "x.txt", "", "s3://bucket/x has no text"),
        ("huggingface", "README.md", "", "config.json"),
    ],
)
def test_a_place_that_has_nothing_of_it_is_refused(tmp_path: Path, form: str, name: str, text: str, words: str) -> None:
    (tmp_path / name).write_text(text)
    assert words in refusal(tmp_path, form)


def test_text_is_any_file(tmp_path: Path) -> None:
    (tmp_path / "book").write_bytes(b"\xff")
    data.check(tmp_path, "text", "x")


def test_a_folder_that_can_not_be_read_is_not_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x.jsonl").write_text(GOOD["chat"])
    (tmp_path / "sub").mkdir()
    scan = lines.os.scandir

    def refuse(path: Any) -> Any:
        if str(path).endswith("sub"):
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr("os.scandir", refuse)
    with pytest.raises(PermissionError, match="sub"):
        data.check(tmp_path, "chat", "x")


def test_formats_are_known_by_name() -> None:
    for name in (*data.INPUT_FORMATS, "triton"):
        data.check_name(name)
    with pytest.raises(FactoryError, match="format 'chats' is not known here; write one of: chat, huggingface, pref"):
        data.check_name("chats")


def test_a_message_is_what_templates_take() -> None:
    assert chat.parse({"messages": [{**ASK, "name": "x"}, YES]}) == (ASK, YES)
