"""Artifacts are whole, reproducible, and hold nothing that would have to be run."""

from __future__ import annotations

import copy
import json
import os
import shutil
import signal
import sys
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from child import in_child
from torch import Tensor, nn

from aifactory_contract import files
from aifactory_contract.manifest import of_directory
from aifactory_trainer import export_huggingface, export_torch, pretrained
from aifactory_trainer.model import GPT, GPTConfig
from aifactory_trainer.replacement import recover
from conftest import DEVICES, Pod

SMALL = GPTConfig(context=16, layers=1, heads=2, embedding=16)


def digest(directory: Path) -> str:
    return of_directory(directory).digest


def small_gpt(seed: int = 3) -> GPT:
    torch.manual_seed(seed)
    return GPT(SMALL)


def broken_gpt() -> GPT:
    model = small_gpt()
    torch.nn.init.constant_(model.embedding.weight[7], float("nan"))
    return model


@pytest.mark.parametrize("device", DEVICES)
def test_a_language_model_comes_back_the_same(tmp_path: Path, device: torch.device) -> None:
    model = small_gpt()
    directory = export_huggingface(
        copy.deepcopy(model).to(device),
        metrics={"loss": 2.5, "bad": float("nan")},
        output=tmp_path / "m",
    )
    config = json.loads((directory / "config.json").read_text())
    assert config["metrics"] == {"loss": 2.5}
    assert {path.name for path in directory.iterdir()} == {
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert all(path.stat().st_mode & 0o777 == 0o644 for path in directory.iterdir())
    tokens = torch.arange(10)[None]
    assert torch.equal(pretrained.read(directory)(tokens), model(tokens))


SCRIPT = """
from pathlib import Path
from test_export import SMALL, export_huggingface, export_classifier, small_gpt
export_huggingface(small_gpt(), output=Path("huggingface"))
export_classifier(Path("torch-export"))
"""


def test_the_digest_is_reproducible_in_any_process(pod: Pod) -> None:
    """Another hash seed is another order of sets: what depends on it would differ from process to process."""
    digests = []
    for seed in ("1", "2"):
        pod.run(pod.script(SCRIPT), PYTHONHASHSEED=seed, PYTHONPATH=os.pathsep.join(sys.path))
        digests.append([digest(pod.root / name) for name in ("huggingface", "torch-export")])
    assert digests[0] == digests[1]


def test_the_output_directory_of_the_job_is_the_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIFACTORY_OUTPUT", str(tmp_path / "workspace" / "output"))
    assert export_huggingface(small_gpt()) == tmp_path / "workspace" / "output"


def test_an_older_output_is_replaced_and_nothing_is_left(tmp_path: Path) -> None:
    (tmp_path / "output").mkdir()
    (tmp_path / "output" / "stale").write_text("")
    (tmp_path / ".aside-output-killed").mkdir()
    export_huggingface(small_gpt(), output=tmp_path / "output")
    assert [path.name for path in tmp_path.iterdir()] == ["output"]
    assert not (tmp_path / "output" / "stale").exists()


def test_a_failed_export_leaves_the_older_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = digest(export_huggingface(small_gpt(), output=tmp_path / "output"))

    def full(_path: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        export_huggingface(small_gpt(9), output=tmp_path / "output")
    assert digest(tmp_path / "output") == before
    assert [path.name for path in tmp_path.iterdir()] == ["output"]


def test_an_older_output_that_can_not_be_put_back_is_kept_aside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The storage goes away between the two renames, for good."""
    before = digest(export_huggingface(small_gpt(), output=tmp_path / "output"))
    rename = Path.rename

    def lost(self: Path, target: Path) -> Path:
        if target.name == "output":
            raise OSError(5, "Input/output error")
        return rename(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", lost)
        with pytest.raises(OSError, match="Input/output error"):
            export_huggingface(small_gpt(9), output=tmp_path / "output")
    assert not (tmp_path / "output").exists()

    with pytest.raises(ValueError, match="NaN"):  # the next attempt does not get to its end either
        export_huggingface(broken_gpt(), output=tmp_path / "output")
    monkeypatch.setattr(files, "fsync", no_space)
    with pytest.raises(OSError, match="No space left"):
        export_huggingface(small_gpt(9), output=tmp_path / "output")
    assert digest(tmp_path / "output") == before


@pytest.mark.parametrize("call", ["rename", "rmtree"])
def test_killed_while_replacing_the_older_output_something_whole_stays(tmp_path: Path, call: str) -> None:
    output = tmp_path / "output"
    first = digest(export_huggingface(small_gpt(), output=output))
    second = None
    for count in range(20):
        work = partial(export_huggingface, small_gpt(9), output=output)
        if killed_at(call, count, work) == 0:
            break
        recover(tmp_path, ".aside-output-")
        second = digest(output)
        assert [path.name for path in tmp_path.iterdir()] == ["output"]
    assert count > 0, f"{call} is never called"
    assert digest(output) != first
    assert second in (first, digest(output))


def killed_at(call: str, count: int, work: Callable[[], object]) -> int:
    """Work in a process that is killed before the call after `count` ones; returns the signal, or 0."""

    def doomed() -> None:
        owner, calls = (shutil, iter(range(count))) if call == "rmtree" else (os, iter(range(count)))
        real = getattr(owner, call)

        def die(*arguments: object, **options: object) -> object:
            if next(calls, None) is None:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*arguments, **options)

        setattr(owner, call, die)
        work()

    return in_child(doomed)


class Broken(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([1.0, float("nan")]))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight


def test_a_model_that_is_not_finite_is_not_exported(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"holds NaN or infinity: model\.embedding\.weight"):
        export_huggingface(broken_gpt(), output=tmp_path / "output")
    with pytest.raises(ValueError, match=r"holds NaN or infinity: model\.weight"):
        export_torch(Broken(), {"x": torch.ones(2, 2)}, output=tmp_path / "output")
    assert list(tmp_path.iterdir()) == []


def no_space(_path: Path) -> None:
    raise OSError(28, "No space left on device")


def test_killed_while_exporting_leaves_nothing_to_publish(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "fsync", lambda _path: os.kill(os.getpid(), signal.SIGKILL))
    export = partial(export_huggingface, small_gpt(), output=tmp_path / "output")
    assert in_child(export) == signal.SIGKILL
    assert not (tmp_path / "output").exists()


def test_a_model_without_its_tokenizer_or_of_another_kind_is_refused(tmp_path: Path) -> None:
    class Saves(nn.Linear):
        def save_pretrained(self, directory: str) -> None:
            raise AssertionError("nothing is to be written")

    with pytest.raises(ValueError, match=r"served with its tokenizer: export_huggingface\(model, tokenizer\)"):
        export_huggingface(Saves(1, 1), output=tmp_path / "output")
    with pytest.raises(ValueError, match="Linear is no model of transformers: publish it with export_torch"):
        export_huggingface(nn.Linear(1, 1), output=tmp_path / "output")
    assert list(tmp_path.iterdir()) == []


class Classifier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)
        self.dropout = nn.Dropout(0.5)

    def forward(self, features: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        scores = self.dropout(self.layer(features)) + bias
        return scores, scores.argmax(dim=1)


def export_classifier(directory: Path, device: torch.device | None = None) -> Path:
    examples = {"features": torch.randn(2, 4, device=device), "bias": torch.randn(2, 3, device=device)}
    torch.manual_seed(5)
    return export_torch(
        Classifier().to(device), examples, outputs=("scores", "label"), max_batch_size=16, output=directory
    )


@pytest.mark.parametrize("device", DEVICES)
def test_a_program_serves_every_batch_size(tmp_path: Path, device: torch.device) -> None:
    directory = export_classifier(tmp_path / "output", device)
    config = json.loads((directory / "config.json").read_text())
    assert config == {
        "format": "torch-export",
        "inputs": [
            {"name": "features", "dataType": "FP32", "dims": [4]},
            {"name": "bias", "dataType": "FP32", "dims": [3]},
        ],
        "outputs": [
            {"name": "scores", "dataType": "FP32", "dims": [3]},
            {"name": "label", "dataType": "INT64", "dims": []},
        ],
        "maxBatchSize": 16,
        "metrics": {},
    }
    torch.manual_seed(5)
    model = Classifier().eval()
    program = torch.export.load(directory / "model.pt2").module()
    for batch in (1, 2, 16):
        features, bias = torch.randn(batch, 4), torch.randn(batch, 3)
        scores, label = program(features, bias)
        assert torch.allclose(scores, model(features, bias)[0], atol=1e-6), "dropout is off"
        assert torch.equal(label, scores.argmax(dim=1))


def test_a_program_is_reproducible_and_names_no_file(tmp_path: Path) -> None:
    first, second = export_classifier(tmp_path / "a"), export_classifier(tmp_path / "b")
    assert digest(first) == digest(second)
    with zipfile.ZipFile(first / "model.pt2") as archive:
        for name in archive.namelist():
            assert str(Path(__file__).parent).encode() not in archive.read(name), name


def test_a_program_holds_no_pickle_and_no_example(tmp_path: Path) -> None:
    with zipfile.ZipFile(export_classifier(tmp_path / "a") / "model.pt2") as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    pickles = [name for name, data in entries.items() if data[:1] == b"\x80" or data[:2] == b"PK"]
    assert not [name for name in pickles if "/data/weights/weight_" not in name], "raw weights may begin with any byte"
    assert not b"".join(data for name, data in entries.items() if "sample_inputs" in name)
    weights = json.loads(next(data for name, data in entries.items() if name.endswith("model_weights_config.json")))
    assert not [name for name, entry in weights["config"].items() if entry["use_pickle"]]


@pytest.mark.parametrize(
    ("examples", "outputs", "words"),
    [
        ({}, ("y",), "none"),
        ({"x": torch.ones(1, 4)}, ("y",), "at least 2; they are {'x': 1}"),
        ({"x": torch.ones(4, 4), "z": torch.ones(3, 4)}, ("y",), "the same size"),
        ({"x": torch.ones(2, 4)}, ("y", "z"), "returns 1 tensors"),
    ],
)
def test_what_does_not_fit_is_refused(
    tmp_path: Path, examples: dict[str, Tensor], outputs: tuple[str, ...], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        export_torch(nn.Linear(4, 3), examples, outputs=outputs, output=tmp_path / "output")
    assert list(tmp_path.iterdir()) == []
