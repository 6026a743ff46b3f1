"""Task files of lm-evaluation-harness: the figures that it gives, or a refusal in words."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("transformers", reason="a Python without the test packages, as gpu-check may use")

from transformers import AutoModelForCausalLM

import chatmodel
from aifactory_contract.errors import FactoryError
from aifactory_trainer import measured, writing
from aifactory_trainer.distributed import Group, World
from aifactory_trainer.program import BadInputError
from aifactory_trainer.writing import Prompt

CPU = World(0, 1, torch.device("cpu"))
HEAD = "dataset_path: json\ndataset_kwargs: {data_files: rows.jsonl}\ntest_split: train\n"
WRITE = HEAD + "output_type: generate_until\ndoc_to_text: q\ndoc_to_target: a\ngeneration_kwargs: {max_gen_toks: 9}\n"
CHOOSE = HEAD + "output_type: multiple_choice\ndoc_to_text: q\ndoc_to_target: n\ndoc_to_choice: [a, b]\n"
ROW = {"q": "Two and two are", "a": "four", "n": 0}
PEER = {
    "written": HEAD
    + """output_type: generate_until
doc_to_text: "Fruit {{n}}: the"
doc_to_target: "{{ '[' if n % 3 else '9' }}"
generation_kwargs: {until: ["W", "\\n"], max_gen_toks: 12, do_sample: false}
filter_list:
- {name: first, filter: [{function: regex, regex_pattern: "[!-~]"}, {function: take_first}]}
- name: last
  filter:
  - {function: regex, regex_pattern: "([A-Z])|([!-~])", group_select: -1, fallback: "[."}
  - {function: take_first}
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true, regexes_to_ignore: ["[.]"]}]
""",
    "chosen": HEAD
    + """output_type: multiple_choice
description: "Which one? "
doc_to_text: "Fruit {{n}}:\\n"
doc_to_choice: "{{words}}"
doc_to_target: "{{n % 2}}"
""",
    "expected": HEAD
    + """output_type: loglikelihood
doc_to_text: "{{'ab' * (1 + n % 5)}}"
doc_to_target: "{{letter}}"
""",
}
WORDS = ("apple", "plum", "pear", "fig")
ROWS = [{"n": n, "words": WORDS[: 2 + n % 3], "letter": chr(97 + n % 26)} for n in range(40)]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return chatmodel.tokenizer()


def write(folder: Path, text: str, *rows: Any) -> Path:
    """A task's file, and that of its questions."""
    chatmodel.write_lines(folder / "rows.jsonl", list(rows or [ROW]))
    path = folder / "task.yaml"
    path.write_text(text)
    return path


def load(folder: Path, tokenizer: Any, text: str, *rows: Any, chats: bool = False) -> Any:
    (task,) = measured.tasks(write(folder, text, *rows), tokenizer, 256, chats=chats).values()
    return task


def shown(tokenizer: Any, row: dict[str, list[int]]) -> tuple[str, str]:
    """What is read, and what is asked about."""
    asked = sum(label >= 0 for label in row["labels"])
    tokens = row["input_ids"]
    return tokenizer.decode(tokens[:-asked]), tokenizer.decode(tokens[-asked:])


@pytest.mark.parametrize(
    ("chats", "expected"),
    [
        (False, {"first": 0.4, "last": 0.225, "acc": 0.35, "acc_norm": 0.5, "perplexity": 504.89465759455317}),
        (True, {"first": 0.325, "last": 0.175, "acc": 0.35, "acc_norm": 0.55, "perplexity": 832477.7388259481}),
    ],
)
def test_the_figures_are_those_of_lm_evaluation_harness(
    tmp_path: Path, tokenizer: Any, chats: bool, expected: dict[str, float]
) -> None:
    """lm-eval 0.4.13 says so of these very files: `simple_evaluate(HFLM(pretrained=model, tokenizer=tokenizer,
    batch_size=4), tasks=[{"task": name, **yaml}], apply_chat_template=chats)`, transformers 5.23.0, a CPU."""
    folder = chatmodel.write(tmp_path / "base", torch.float32, attention_dropout=0.0)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    found = {
        name: measured.ask(load(tmp_path, tokenizer, text, *ROWS, chats=chats), model, tokenizer, 4, CPU)
        for name, text in PEER.items()
    }
    assert {name: found["written"][f"exact_match,{name}"] for name in ("first", "last")} == {
        name: expected[name] for name in ("first", "last")
    }
    stderr = {False: 0.07844645405527362, True: 0.075}[chats]
    assert found["written"]["exact_match_stderr,first"] == pytest.approx(stderr)
    assert (found["chosen"]["acc"], found["chosen"]["acc_norm"]) == (expected["acc"], expected["acc_norm"])
    assert found["expected"]["acc"] == 0.0
    assert found["expected"]["perplexity"] == pytest.approx(expected["perplexity"], rel=1e-5)


def test_a_question_is_written_by_the_templates_of_its_task(tmp_path: Path, tokenizer: Any) -> None:
    text = CHOOSE.replace("doc_to_text: q", 'doc_to_text: "Q: {{q|upper}}\\nA:"') + 'description: "Count. "\n'
    task = load(tmp_path, tokenizer, text)
    assert [shown(tokenizer, row) for row in task.rows] == [
        ("Count. Q: TWO AND TWO ARE\nA:", " a"),
        ("Count. Q: TWO AND TWO ARE\nA:", " b"),
    ]
    # What the context ends with is of the answer; an expected answer follows without a delimiter.
    text = HEAD + 'output_type: loglikelihood\ndoc_to_text: "{{q}}:\\n"\ndoc_to_target: "{{a}}"\n'
    assert shown(tokenizer, load(tmp_path, tokenizer, text).rows[0]) == ("Two and two are:", "\nfour")
    chat = load(tmp_path, tokenizer, CHOOSE + "description: Count.\n", chats=True)
    begin = "<|im_start|>system\nCount.<|im_end|>\n<|im_start|>user\nTwo and two are<|im_end|>\n<|im_start|>assistant"
    assert [shown(tokenizer, row) for row in chat.rows] == [(begin, "\na"), (begin, "\nb")]


@pytest.mark.parametrize(
    ("target", "row", "answer"),
    [
        ("n", {**ROW, "n": 1}, 1),
        ("a", {**ROW, "a": "b"}, 1),
        ('"{{n - 1}}"', {**ROW, "n": 2}, 1),
        ('"{{["a", "b"].index(a)}}"', {**ROW, "a": "b"}, 1),
    ],
)
def test_the_right_choice_is_a_number_or_a_text(
    tmp_path: Path, tokenizer: Any, target: str, row: dict[str, Any], answer: int
) -> None:
    target = target if '"a"' not in target else "'" + target.strip('"') + "'"
    task = load(tmp_path, tokenizer, CHOOSE.replace("doc_to_target: n", f"doc_to_target: {target}"), row)
    assert task.questions[0].answer == answer


@pytest.mark.parametrize(
    ("filters", "text", "found"),
    [
        ("[{function: take_first}]", " Four", " Four"),
        ("[{function: lowercase}, {function: take_first}]", " Four ", " four "),
        ("[{function: remove_whitespace}, {function: uppercase}]", " \nFour ", "FOUR"),
        ('[{function: regex, regex_pattern: "[0-9]+"}]', "1 and 22", "1"),
        ('[{function: regex, regex_pattern: "[0-9]+", group_select: -1}]', "1 and 22", "22"),
        ('[{function: regex, regex_pattern: "[0-9]+"}]', "none", "[invalid]"),
        ('[{function: regex, regex_pattern: "[0-9]+", fallback: "0", group_select: 1}]', "1", "0"),
        ('[{function: regex, regex_pattern: "(x)|is (.)"}]', "it is y", "y"),
        ("[{function: regex}]", "so #### 1,000.", "1,000."),
    ],
)
def test_filters(tmp_path: Path, tokenizer: Any, filters: str, text: str, found: str) -> None:
    task = load(tmp_path, tokenizer, WRITE + f"filter_list: [{{name: f, filter: {filters}}}]\n")
    assert task.filters["exact_match,f"](text) == found


@pytest.mark.parametrize(
    ("options", "text", "share"),
    [
        ("", "four", 1.0),
        ("", "Four", 0.0),
        ("ignore_case: true", "FOUR", 1.0),
        ("ignore_punctuation: true", "fo.ur!", 1.0),
        ("ignore_numbers: true", "four4", 1.0),
        ('regexes_to_ignore: ["^ +", "x"]', "  foxur", 1.0),
        ('regexes_to_ignore: ["^ +"]', "four ", 0.0),
    ],
)
def test_exact_match_may_ignore_something(
    tmp_path: Path, tokenizer: Any, options: str, text: str, share: float
) -> None:
    text_of = WRITE + f"metric_list:\n- {{metric: exact_match, aggregation: mean, {options}}}\n"
    assert load(tmp_path, tokenizer, text_of).figures(None, [text])["exact_match"] == share


def test_one_of_several_answers_is_enough(tmp_path: Path, tokenizer: Any) -> None:
    rows = ({**ROW, "a": ["four", "4"]}, {**ROW, "a": ["five"]}, {**ROW, "a": 4})
    task = load(tmp_path, tokenizer, WRITE, *rows)
    figures = task.figures(None, ["4", "four", "4"])
    assert figures["exact_match"] == pytest.approx(2 / 3)
    assert figures["exact_match_stderr"] == pytest.approx(1 / 3)
    assert figures["questions"] == 3


def test_a_text_ends_where_it_is_told_to(tmp_path: Path, tokenizer: Any) -> None:
    """In batches of any size, beside rows of other lengths."""
    folder = chatmodel.write(tmp_path / "base", torch.float32, attention_dropout=0.0)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    asked = [tokenizer("Fruit " * (1 + n % 3) + str(n))["input_ids"] for n in range(5)]

    def said(until: tuple[str, ...], batch: int) -> list[str]:
        return writing.write(model, tokenizer, [Prompt(row, until, 12) for row in asked], batch, Group(), CPU.device)

    whole = said((), 1)
    end = next(letter for letter in whole[0][1:] if letter.isascii())  # half a letter is none
    assert said((end,), 1) == said((end,), 2) == said((end,), 5) == [text.split(end)[0] for text in whole]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[", "task.yaml: it is no YAML: while parsing"),
        ("- a", "task.yaml: it has no output_type: it is to be a task of lm-eval, of type multiple_choice, loglikel"),
        ("output_type: x", "output_type 'x' is not known; known are multiple_choice, loglikelihood, generate_until"),
        (WRITE + "doc_to_text: !function utils.text\n", "it calls functions of Python (!function), which are not run"),
        (WRITE + "process_docs: x\n", "process_docs is not known for generate_until; known are dataset_kwargs, "),
        (WRITE + "doc_to_choice: [a, b]\n", "doc_to_choice is not known for generate_until"),
        (CHOOSE + "filter_list: []\n", "filter_list is not known for multiple_choice"),
        (WRITE + "num_fewshot: 5\n", "num_fewshot is 5, and here it is 0 or left out"),
        (WRITE.replace("path: json", "path: gsm8k"), "dataset_path is 'gsm8k', and here it is 'json' or left out"),
        (WRITE.replace("rows", "other"), "there is no file other.jsonl beside it, which data_files names"),
        (WRITE.replace("rows.jsonl", "task.yaml"), "task.yaml is not named *.jsonl"),
        (WRITE.replace("{data_files: rows.jsonl}", "{}"), "it names no file of questions: dataset_path: json, "),
        (
            WRITE.replace("split: train", "split: test"),
            "test_split is 'test', and a data_files of one file has the spl",
        ),
        (WRITE.replace("doc_to_text: q\n", ""), "it has no doc_to_text"),
        (WRITE.replace("text: q", 'text: "{{q"'), "doc_to_text is no template: "),
        (WRITE + "generation_kwargs: {do_sample: true}\n", "asks for chance (do_sample, temperature)"),
        (WRITE + "generation_kwargs: {top_p: 1}\n", "generation_kwargs has top_p; known are until, max_gen_toks"),
        (WRITE + "generation_kwargs: {max_gen_toks: 0}\n", "max_gen_toks is 0, and has to be at least 1"),
        (WRITE + "generation_kwargs: {until: [1]}\n", "until is no list of texts"),
        (WRITE + "metric_list: [{metric: bleu}]\n", "metric 'bleu' is not known for generate_until; known are exact_m"),
        (WRITE + "metric_list: [{metric: exact_match, aggregation: f1}]\n", "aggregation 'f1' is not known"),
        (WRITE + "metric_list: [{metric: exact_match, x: 1}]\n", "x is not known of metric exact_match; known are agg"),
        (WRITE + "metric_list: [{metric: exact_match, regexes_to_ignore: ['(']}]\n", "'(' is no regular expression"),
        (WRITE + "filter_list: [{name: f, filter: [{function: map}]}]\n", "the filter 'map' with nothing is not known"),
        (WRITE + f"filter_list: [{{name: {'f' * 60}, filter: []}}]\n", "has more than 64 characters: rename"),
        (WRITE + "filter_list: [{name: a}, {name: b}, {name: c}]\n", "has 3 filters, and a task may have 2: make two"),
    ],
)
def test_what_a_file_says_and_is_not_known_is_refused(tmp_path: Path, tokenizer: Any, text: str, words: str) -> None:
    with pytest.raises(BadInputError) as refused:
        load(tmp_path, tokenizer, text)
    assert words in str(refused.value)
    assert str(refused.value).startswith("task.yaml: ")


@pytest.mark.parametrize(
    ("text", "row", "words"),
    [
        (WRITE, {"q": "x"}, "it has no field 'a', which doc_to_target is"),
        (
            WRITE.replace("target: a", 'target: "{{a}}"'),
            {"q": "x"},
            "doc_to_target can not be written: 'a' is undefined",
        ),
        (WRITE.replace("text: q", 'text: "{{q.x.y}}"'), ROW, "doc_to_text can not be written: "),
        (WRITE, {**ROW, "q": " "}, "doc_to_text has no content; it is a text that is not empty"),
        (WRITE, {**ROW, "a": []}, "doc_to_target is an empty list: nothing is right"),
        (WRITE, [], "it is no object with fields"),
        (
            WRITE,
            {**ROW, "q": "x" * 250},
            "it has 250 tokens, 9 are to be written (max_gen_toks), and the model reads 256",
        ),
        (CHOOSE, {**ROW, "n": 2}, "doc_to_target gives 2, which is no choice, 0 to 1"),
        (CHOOSE.replace("[a, b]", "c"), {**ROW, "c": ["a"]}, "doc_to_choice gives no list of two texts or more"),
    ],
)
def test_a_question_that_does_not_fit_is_named(tmp_path: Path, tokenizer: Any, text: str, row: Any, words: str) -> None:
    with pytest.raises(FactoryError) as refused:
        load(tmp_path, tokenizer, text, {**ROW, "c": ["a", "b"]}, row)
    assert re.search(rf"rows\.jsonl:2: {re.escape(words)}", str(refused.value))


def test_the_questions_of_a_task_are_no_task_of_their_own(tmp_path: Path, tokenizer: Any) -> None:
    write(tmp_path, WRITE)
    chatmodel.write_lines(tmp_path / "other.jsonl", [{"prompt": "p", "answer": "a"}])
    assert list(measured.tasks(tmp_path, tokenizer, 256)) == ["other", "task"]
    with pytest.raises(FactoryError, match=r"rows\.jsonl:1: it has no \"prompt\" and \"answer\""):
        measured.tasks(tmp_path / "rows.jsonl", tokenizer, 256)
