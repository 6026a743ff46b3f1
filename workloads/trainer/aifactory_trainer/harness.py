"""Task files of EleutherAI's lm-evaluation-harness (lm-eval), as far as they need neither its code nor a hub.

Role: from a .yaml file, and the .jsonl file of questions that it names, to what the model is asked and what its answers
are worth; by the harness's rules, so that the figures are the ones that it would give.

What always holds:
- What a file says and this module does not know is refused by its name: nothing is skipped, which would change figures.
- Templates are Jinja's in a sandbox; functions of Python (`!function`) are refused.
"""

from __future__ import annotations

import ast
import re
import string
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import yaml
from jinja2.sandbox import ImmutableSandboxedEnvironment

from aifactory_contract.data import lines
from aifactory_contract.data.chat import content
from aifactory_trainer import chat, questions
from aifactory_trainer.chat import ChatError
from aifactory_trainer.likelihood import Row, Scores
from aifactory_trainer.program import BadInputError
from aifactory_trainer.questions import Question, Task
from aifactory_trainer.writing import Prompt

ENDINGS = (".yaml", ".yml")
APPLY_CHAT_TEMPLATE = "have the chat template write the questions of lm-eval's task files, as lm-eval's option does"
MAX_FILTERS = 2
"""Of a task, beside whose figures those of training fit into a report of progress."""
MAX_FIGURE = 64
"""Characters of a figure's name (docs/training-program.md)."""
TOKENS = 256
"""To write, where max_gen_toks does not say."""
UNTIL = ("\n\n",)
"""Where a text ends, if nothing says so: at what stands between the harness's examples."""
_PLAIN = {
    *("task", "task_alias", "tag", "metadata", "dataset_path", "dataset_kwargs", "test_split", "validation_split"),
    *("should_decontaminate", "doc_to_decontamination_query", "target_delimiter"),
}
_TEMPLATES = {"description", "doc_to_text", "doc_to_target", "doc_to_choice"}
_METRICS = {
    "multiple_choice": {"acc", "acc_norm"},
    "loglikelihood": {"acc", "perplexity"},
    "generate_until": {"exact_match"},
}
_IGNORE = {"ignore_case", "ignore_punctuation", "ignore_numbers", "regexes_to_ignore"}
_FIRST = "take_first"


@dataclass(frozen=True, slots=True)
class File:
    """A task's file. Attributes: settings: all of it. data: where its questions are."""

    path: Path
    settings: Mapping[str, Any]
    data: Path


@dataclass(frozen=True, slots=True)
class Written:
    """A task whose answers the model writes.

    Attributes:
        prompts: one for each question.
        right: what each is to be answered by: one of these.
        filters: what becomes of a text before it is compared, for each figure.
        alike: what becomes of both before they are compared.
    """

    prompts: Sequence[Prompt]
    right: Sequence[tuple[str, ...]]
    filters: Mapping[str, Callable[[str], str]]
    alike: Callable[[str], str]
    rows: Sequence[Row] = ()

    def figures(self, scores: Scores, texts: Sequence[str] = ()) -> dict[str, float]:
        """See `measured.Measured.figures`."""
        return questions.shares(
            {
                name: [
                    self.alike(filtered(text)) in map(self.alike, right)
                    for text, right in zip(texts, self.right, strict=True)
                ]
                for name, filtered in self.filters.items()
            }
        )


def read(path: Path) -> File:
    """A task's file.

    Raises:
        BadInputError: it is none, or says what is not known here.
    """
    try:
        settings = yaml.safe_load(path.read_bytes())
    except yaml.YAMLError as error:
        if "!function" in str(error):
            raise _bad(
                path, "it calls functions of Python (!function), which are not run: use lm-eval itself"
            ) from error
        raise _bad(path, f"it is no YAML: {' '.join(str(error).split())[:300]}") from error
    if not isinstance(settings, dict) or "output_type" not in settings:
        raise _bad(path, f"it has no output_type: it is to be a task of lm-eval, of type {', '.join(_METRICS)}")
    kind = settings["output_type"]
    if kind not in _METRICS:
        raise _bad(path, f"output_type {kind!r} is not known; known are {', '.join(_METRICS)}")
    known = _PLAIN | _TEMPLATES | {"output_type", "num_fewshot", "repeats", "metric_list"}
    if kind != "multiple_choice":
        known -= {"doc_to_choice"}
    if kind == "generate_until":
        known |= {"generation_kwargs", "filter_list"}
    if unknown := sorted(map(str, settings.keys() - known)):
        raise _bad(path, f"{unknown[0]} is not known for {kind}; known are {', '.join(sorted(known))}")
    for name, only in (("num_fewshot", 0), ("repeats", 1), ("dataset_path", "json")):
        if settings.get(name, only) != only:
            raise _bad(path, f"{name} is {settings[name]!r}, and here it is {only!r} or left out")
    return File(path, settings, _data(path, settings))


def _data(path: Path, settings: Mapping[str, Any]) -> Path:
    """The file of questions: dataset_kwargs.data_files, beside the task's file."""
    files = (settings.get("dataset_kwargs") or {}).get("data_files")
    split = settings.get("test_split") or settings.get("validation_split")
    if isinstance(files, dict):
        files = files.get(split)
    elif split not in (None, "train"):  # what Hugging Face's datasets call it then
        raise _bad(path, f"test_split is {split!r}, and a data_files of one file has the split 'train' alone")
    if not isinstance(files, str):
        raise _bad(
            path,
            "it names no file of questions: dataset_path: json, dataset_kwargs: {data_files: questions.jsonl}, "
            "test_split: train",
        )
    found = path.parent / files
    if not found.is_file():
        raise _bad(path, f"there is no file {files} beside it, which data_files names")
    if found.suffix != lines.LINES:
        raise _bad(path, f"{files} is not named *{lines.LINES}")
    return found


def load(file: File, tokenizer: Any, longest: int, *, chats: bool) -> Task | Written:
    """The task.

    Args:
        longest: tokens of a question with its answer.
        chats: have the chat template write questions, as the user's.

    Raises:
        BadInputError, FactoryError: the file or a question is no good.
    """
    kind = file.settings["output_type"]
    metrics = _metrics(file, kind)
    ask = _Asking(file, tokenizer, longest, chats)
    if kind == "generate_until":
        prompts, right = zip(*_lines(file, ask.prompt), strict=True)
        return Written(list(prompts), list(right), _filters(file), _alike(file, metrics))
    if kind == "loglikelihood":
        return Task(_lines(file, ask.single), questions.EXPECTED)
    return Task(_lines(file, ask.choices))


def _lines(file: File, parse: Callable[[Any], Any]) -> list[Any]:
    return [found for _, found in lines.read(file.data, parse, f"one question a line, as {file.path.name} has it")]


class _Asking:
    """Makes of a question's document what the model is asked, by a task's templates."""

    def __init__(self, file: File, tokenizer: Any, longest: int, chats: bool) -> None:
        self._settings = file.settings
        self._tokenizer = tokenizer
        self._longest = longest
        self._chats = chats
        environment = ImmutableSandboxedEnvironment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
        environment.filters["regex_replace"] = _replace
        self._templates: dict[str, jinja2.Template] = {}
        for name in _TEMPLATES:
            if isinstance(text := file.settings.get(name), str):
                try:
                    self._templates[name] = environment.from_string(text)
                except jinja2.TemplateError as error:
                    raise _bad(file.path, f"{name} is no template: {error}") from error
        for name in ("doc_to_text", "doc_to_target"):
            if name not in file.settings:
                raise _bad(file.path, f"it has no {name}")
        if file.settings["output_type"] == "generate_until":
            self._until, self._most = _generation(file)

    def prompt(self, document: Any) -> tuple[Prompt, tuple[str, ...]]:
        """What is to be continued, and what is right. Raises ValueError."""
        tokens = self._tokenizer(self._context(document), add_special_tokens=False)["input_ids"]
        if len(tokens) + self._most > self._longest:
            raise ValueError(
                f"it has {len(tokens)} tokens, {self._most} are to be written (max_gen_toks), and the model reads "
                f"{self._longest}: see --max-length"
            )
        target = self._value("doc_to_target", document)
        right = target if isinstance(target, list) else [target]
        if not right:
            raise ValueError("doc_to_target is an empty list: nothing is right")
        return Prompt(tokens, self._until, self._most), tuple(map(str, right))

    def single(self, document: Any) -> Question:
        """An answer that the model is to expect. Raises ValueError."""
        return Question([self._row(self._context(document), str(self._value("doc_to_target", document)))])

    def choices(self, document: Any) -> Question:
        """Answers to choose from. Raises ValueError."""
        context, choices = self._context(document), self._value("doc_to_choice", document)
        if isinstance(choices, dict):
            choices = list(choices.values())
        if not (isinstance(choices, list) and len(choices) > 1):
            raise ValueError("doc_to_choice gives no list of two texts or more")
        said = [content(choice, f"doc_to_choice[{index}]") for index, choice in enumerate(choices)]
        answer = self._value("doc_to_target", document)
        if isinstance(answer, str) and answer in said:
            answer = said.index(answer)
        if type(answer) is not int or not 0 <= answer < len(said):
            raise ValueError(f"doc_to_target gives {answer!r:.40}, which is no choice, 0 to {len(said) - 1}")
        between = "" if self._chats else self._settings.get("target_delimiter", " ")
        return Question([self._row(context, between + choice) for choice in said], tuple(map(len, said)), answer)

    def _row(self, context: str, answer: str) -> Row:
        """Spaces and line ends before the answer are of the answer."""
        before = context.rstrip()
        return questions.row(self._tokenizer, before, context[len(before) :] + answer, self._longest)

    def _context(self, document: Any) -> str:
        """The text before the answer."""
        asked = str(self._value("doc_to_text", document))
        description = str(self._value("description", document) or "")
        if not self._chats:
            return content(description + asked, "doc_to_text")
        said = [{"role": "system", "content": description}] if description else []
        return chat.render(
            self._tokenizer, [*said, {"role": "user", "content": asked}], "doc_to_text", add_generation_prompt=True
        )

    def _value(self, name: str, document: Any) -> Any:
        """What a setting is for a document: a field of it, or a text by a template, which may be a number or a list."""
        if not isinstance(document, dict):
            raise ValueError("it is no object with fields")
        given = self._settings.get(name)
        if not isinstance(given, str):
            return given
        if name != "description":
            if given in document:
                return document[given]
            if "{" not in given:
                raise ValueError(f"it has no field {given!r}, which {name} is")
        try:
            text = self._templates[name].render(**document)
        except Exception as error:  # a template is a program: whatever it raises
            raise ValueError(f"{name} can not be written: {error}") from error
        number = text.isdigit() and "doc_to_choice" in self._settings
        if number or (name != "doc_to_text" and text.startswith("[") and text.endswith("]")):
            try:
                return ast.literal_eval(text)
            except (SyntaxError, ValueError):
                return text
        return text


def _replace(text: str, pattern: str, repl: str = "", count: int = 0) -> str:
    return re.sub(pattern, repl, text, count=count)


def _generation(file: File) -> tuple[tuple[str, ...], int]:
    """generation_kwargs: where a text ends, and how many tokens it has at most."""
    given = dict(file.settings.get("generation_kwargs") or {})
    until, most = given.pop("until", UNTIL), given.pop("max_gen_toks", TOKENS)
    until = [until] if isinstance(until, str) else until
    if given.pop("do_sample", False) or given.pop("temperature", 0):
        raise _bad(file.path, "generation_kwargs asks for chance (do_sample, temperature); here the likeliest is taken")
    if given:
        raise _bad(file.path, f"generation_kwargs has {sorted(given)[0]}; known are until, max_gen_toks, do_sample")
    if type(most) is not int or most < 1:
        raise _bad(file.path, f"max_gen_toks is {most!r}, and has to be at least 1")
    if not all(isinstance(end, str) for end in until):
        raise _bad(file.path, "until is no list of texts")
    return tuple(end for end in until if end), most


def _metrics(file: File, kind: str) -> Sequence[Mapping[str, Any]]:
    """metric_list, checked; a task without one has the usual figures of its kind."""
    metrics: Sequence[Mapping[str, Any]] = file.settings.get("metric_list") or ()
    for metric in metrics:
        name = metric.get("metric")
        if name not in _METRICS[kind]:
            raise _bad(
                file.path, f"metric {name!r} is not known for {kind}; known are {', '.join(sorted(_METRICS[kind]))}"
            )
        if metric.get("aggregation", "mean") not in ("mean", "perplexity"):
            raise _bad(file.path, f"aggregation {metric['aggregation']!r} is not known; known is mean")
        known = {"metric", "aggregation", "higher_is_better"} | (_IGNORE if name == "exact_match" else set())
        if unknown := sorted(metric.keys() - known):
            raise _bad(file.path, f"{unknown[0]} is not known of metric {name}; known are {', '.join(sorted(known))}")
    return metrics


def _alike(file: File, metrics: Sequence[Mapping[str, Any]]) -> Callable[[str], str]:
    """What exact_match does with both texts before it compares them."""
    options = metrics[0] if metrics else {}
    gone = [_pattern(file, each) for each in options.get("regexes_to_ignore") or ()]
    names = (("ignore_punctuation", string.punctuation), ("ignore_numbers", string.digits))
    table = str.maketrans("", "", "".join(characters for name, characters in names if options.get(name)))

    def alike(text: str) -> str:
        for pattern in gone:
            text = pattern.sub("", text)
        return (text.lower() if options.get("ignore_case") else text).translate(table)

    return alike


def _filters(file: File) -> dict[str, Callable[[str], str]]:
    """For each figure what becomes of a text first."""
    given = file.settings.get("filter_list")
    if not given:
        return {"exact_match": lambda text: text}
    if len(given) > MAX_FILTERS:
        raise _bad(
            file.path, f"filter_list has {len(given)} filters, and a task may have {MAX_FILTERS}: make two tasks"
        )
    found = {}
    for each in given:
        name = f"exact_match,{each.get('name')}"
        if len(f"{file.path.stem}/{name}") > MAX_FIGURE:
            raise _bad(file.path, f"the figure {file.path.stem}/{name} has more than {MAX_FIGURE} characters: rename")
        steps = [_filter(file, step) for step in each.get("filter") or () if step.get("function") != _FIRST]
        found[name] = _chain(steps)
    return found


def _chain(steps: Sequence[Callable[[str], str]]) -> Callable[[str], str]:
    def all_of_them(text: str) -> str:
        for step in steps:
            text = step(text)
        return text

    return all_of_them


def _filter(file: File, step: Mapping[str, Any]) -> Callable[[str], str]:
    """One step of a filter."""
    options = {name: value for name, value in step.items() if name != "function"}
    plain: dict[str, Callable[[str], str]] = {
        "lowercase": str.lower,
        "uppercase": str.upper,
        "remove_whitespace": str.strip,
    }
    name = step.get("function")
    if name in plain and not options:
        return plain[name]
    if name == "regex" and not options.keys() - {"regex_pattern", "group_select", "fallback"}:
        pattern = _pattern(file, options.get("regex_pattern", r"#### (\-?[0-9\.\,]+)"))
        return _Extract(pattern, options.get("group_select", 0), options.get("fallback", "[invalid]"))
    raise _bad(
        file.path,
        f"the filter {name!r} with {', '.join(options) or 'nothing'} is not known; known are {_FIRST}, "
        f"{', '.join(plain)} and regex with regex_pattern, group_select, fallback",
    )


@dataclass(frozen=True, slots=True)
class _Extract:
    """The filter `regex`: what the pattern, or the first of its groups that is not empty, found there."""

    pattern: re.Pattern[str]
    select: int
    fallback: str

    def __call__(self, text: str) -> str:
        found = self.pattern.findall(text)
        if not found:
            return self.fallback
        try:
            match = found[self.select]
        except IndexError:
            return self.fallback
        if isinstance(match, tuple):
            match = next((part for part in match if part), self.fallback)
        return str(match).strip()


def _pattern(file: File, text: Any) -> re.Pattern[str]:
    try:
        return re.compile(text)
    except (re.error, TypeError) as error:
        raise _bad(file.path, f"{text!r} is no regular expression: {error}") from error


def _bad(path: Path, why: str) -> BadInputError:
    return ChatError(f"{path.name}: {why}")
