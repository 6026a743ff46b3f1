"""Archives that would run code are refused before torch sees them; every archive that the trainer writes passes."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from aifactory_contract.errors import FactoryError, Reason
from aifactory_contract.formats.pt2 import check_pt2
from aifactory_server.batching import Room, run_batched, run_each
from aifactory_server.torch_export import program as program_module
from aifactory_server.torch_export.program import Program

from .conftest import DEVICES, TwoHeads

CPU = torch.device("cpu")
Change = Callable[[dict[str, bytes]], None]


class Evil:
    """Runs code when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return (open, (str(self.marker), "w"))


def rewrite(source: Path, target: Path, change: Change) -> Path:
    """Copy an archive with its entries changed; names are given without the root directory."""
    with zipfile.ZipFile(source) as archive:
        entries = {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}
    change(entries)
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        for name, content in entries.items():
            archive.writestr(f"model/{name}", content)
    return target


def in_json(entry: str, change: Callable[[Any], None]) -> Change:
    def apply(entries: dict[str, bytes]) -> None:
        document = json.loads(entries[entry])
        change(document)
        entries[entry] = json.dumps(document).encode()

    return apply


def program_json(change: Callable[[Any], None]) -> Change:
    return in_json("models/model.json", change)


def weights_json(change: Callable[[Any], None]) -> Change:
    return in_json(
        "data/weights/model_weights_config.json", lambda document: change(next(iter(document["config"].values())))
    )


def evil_inputs(marker: Path) -> Change:
    def apply(entries: dict[str, bytes]) -> None:
        buffer = io.BytesIO()
        torch.save(((Evil(marker),), {}), buffer)
        entries["data/sample_inputs/model.pt"] = buffer.getvalue()

    return apply


def first_node(document: Any) -> Any:
    return document["graph_module"]["graph"]["nodes"][0]


def some_size(document: Any, text: str) -> None:
    values = document["graph_module"]["graph"]["tensor_values"]
    for value in values.values():
        for size in value["sizes"]:
            if "as_expr" in size:
                size["as_expr"]["expr_str"] = text


def good(folder: Path) -> Path:
    return folder / "model.pt2"


def refused(path: Path, words: str) -> None:
    with path.open("rb") as stream, pytest.raises(FactoryError, match=words) as caught:
        check_pt2(stream)
    assert caught.value.reason is Reason.INVALID_ARTIFACT


@pytest.mark.parametrize("device", DEVICES)
def test_what_the_trainer_exports_passes_and_runs(
    program_folder: Path, program: TwoHeads, device: torch.device
) -> None:
    loaded = Program(good(program_folder), device)
    x, index = torch.randn(5, 4), torch.arange(5).unsqueeze(1)
    outputs = loaded.run([x, index], 2)
    with torch.no_grad():
        expected = program(x, index)
    torch.testing.assert_close(outputs[0], expected[0])
    torch.testing.assert_close(outputs[1], expected[1])
    with pytest.raises(ValueError, match="gives 2 outputs, its configuration names 3"):
        loaded.run([x, index], 3)


def test_a_program_that_has_no_room_is_refused(program_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    size = good(program_folder).stat().st_size
    monkeypatch.setattr(program_module, "free_memory", lambda _: size - 1)
    with pytest.raises(ValueError, match=r"MiB are left; raise resources\.limits\.memory of container triton"):
        Program(good(program_folder), CPU)
    monkeypatch.setattr(program_module, "free_memory", lambda _: size)
    Program(good(program_folder), CPU)


class Shapes(torch.nn.Module):
    """Arithmetic on sizes, which puts expressions and guards into the archive."""

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        both = torch.cat([x, y])
        half = both.shape[0] // 2
        return both.reshape(half, 2, 4).sum(0) + torch.zeros(max(half * 3, x.shape[0])).sum()


def test_dynamic_shapes_pass(tmp_path: Path) -> None:
    dim = torch.export.Dim.AUTO
    examples = (torch.randn(4, 4), torch.randn(6, 4))
    exported = torch.export.export(Shapes(), examples, dynamic_shapes=({0: dim}, {0: dim}))
    torch.export.save(exported, tmp_path / "model.pt2")
    with (tmp_path / "model.pt2").open("rb") as stream:
        check_pt2(stream)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (weights_json(lambda meta: meta.update(use_pickle=True)), "stored as a pickle"),
        (weights_json(lambda meta: meta.update(path_name="../../x")), "custom object"),
        (weights_json(lambda meta: meta.update(path_name="custom_obj_0")), "custom object"),
        (program_json(lambda doc: first_node(doc).update(target="torch.serialization.os.system")), "os.system"),
        (program_json(lambda doc: first_node(doc).update(target="torch.ops.mine.anything")), "none of PyTorch's own"),
        (program_json(lambda doc: first_node(doc).update(target="#ext:whatever")), "none of PyTorch's own"),
        (program_json(lambda doc: some_size(doc, "__import__('os').system('true')")), "more than arithmetic"),
        (program_json(lambda doc: some_size(doc, "Symbol('s0').__class__")), "more than arithmetic"),
        (program_json(lambda doc: some_size(doc, "Symbol(\"__import__('os')\")")), "more than arithmetic"),
        (program_json(lambda doc: some_size(doc, "[x for x in ()]")), "more than arithmetic"),
        (program_json(lambda doc: some_size(doc, "(")), "is not one"),
        (program_json(lambda doc: doc.update(guards_code=["print(L)"])), "more than arithmetic"),
        (program_json(lambda doc: first_node(doc).update(name="x\nimport os")), "strange name"),
        (lambda entries: entries.update({"data/aotinductor/model/x.so": b"\x7fELF"}), "compiled code is not accepted"),
        (lambda entries: entries.update({"serialized_state_dict.pt": b"x"}), "has an entry"),
        (lambda entries: entries.update({"data/weights/weight_0.PKL": b"x"}), "has an entry"),
        (lambda entries: entries.pop("models/model.json"), "has no models/model.json"),
        (lambda entries: entries.update({"models/model.json": b"{"}), "not JSON"),
        (lambda entries: entries.update({"MODELS/model.json": b"{}"}), "has an entry"),
    ],
)
def test_whatever_could_run_code_is_refused(program_folder: Path, tmp_path: Path, change: Change, words: str) -> None:
    refused(rewrite(good(program_folder), tmp_path / "model.pt2", change), words)


def test_sample_inputs_that_are_a_real_attack_are_refused(program_folder: Path, tmp_path: Path) -> None:
    """The attack works on torch itself, which is why the check exists."""
    marker = tmp_path / "executed"
    evil = rewrite(good(program_folder), tmp_path / "model.pt2", evil_inputs(marker))
    refused(evil, "would import")
    with pytest.raises(FactoryError):
        Program(evil, CPU)
    assert not marker.exists()
    torch.export.load(evil)
    assert marker.exists(), "torch.export.load has become safe: simplify the check"


def test_an_old_style_pickle_in_the_inputs_is_refused(program_folder: Path, tmp_path: Path) -> None:
    def change(entries: dict[str, bytes]) -> None:
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as inner:
            inner.writestr("archive/data.pkl", pickle.dumps(Evil(tmp_path / "x"), protocol=4))
        entries["data/sample_inputs/model.pt"] = buffer.getvalue()

    refused(rewrite(good(program_folder), tmp_path / "model.pt2", change), "would import")


def test_sample_inputs_that_would_fill_the_memory_are_refused(program_folder: Path, tmp_path: Path) -> None:
    def change(entries: dict[str, bytes]) -> None:
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as inner:
            inner.writestr("archive/data.pkl", bytes(64 * 1024 * 1024))
        entries["data/sample_inputs/model.pt"] = buffer.getvalue()

    refused(rewrite(good(program_folder), tmp_path / "model.pt2", change), "are compressed")


def test_json_that_is_too_deep_is_refused(program_folder: Path, tmp_path: Path) -> None:
    def change(entries: dict[str, bytes]) -> None:
        entries["models/model.json"] = b"[" * 100_000

    refused(rewrite(good(program_folder), tmp_path / "model.pt2", change), "not JSON")


def test_an_encrypted_archive_is_refused(program_folder: Path, tmp_path: Path) -> None:
    whole = bytearray(good(program_folder).read_bytes())
    for signature, flags in ((b"PK\x01\x02", 8), (b"PK\x03\x04", 6)):
        at = -1
        while (at := whole.find(signature, at + 1)) >= 0:
            whole[at + flags] |= 1
    (tmp_path / "model.pt2").write_bytes(whole)
    refused(tmp_path / "model.pt2", "not a whole zip archive")


@pytest.mark.parametrize("keep", [0, 10, 1000, -1])
def test_a_cut_archive_is_refused(program_folder: Path, tmp_path: Path, keep: int) -> None:
    (tmp_path / "model.pt2").write_bytes(good(program_folder).read_bytes()[:keep])
    refused(tmp_path / "model.pt2", "not a whole zip archive")


def test_an_entry_that_is_there_twice_is_refused(program_folder: Path, tmp_path: Path) -> None:
    path = rewrite(good(program_folder), tmp_path / "model.pt2", lambda entries: None)
    with zipfile.ZipFile(path, "a", zipfile.ZIP_STORED) as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr("model/models/model.json", "{}")
    refused(path, "there twice")


def test_a_batch_is_put_together_and_taken_apart() -> None:
    requests = [[torch.full((size, 2), float(size))] for size in (1, 3, 2)]
    seen: list[int] = []

    def call(inputs: Any) -> list[torch.Tensor]:
        seen.append(inputs[0].shape[0])
        return [inputs[0] * 2]

    answers = run_batched(call, torch.cat, requests)
    assert seen == [6]
    for (given,), (answer,) in zip(requests, answers, strict=True):
        torch.testing.assert_close(answer, given * 2)
    with pytest.raises(ValueError, match="export with a batch dim"):
        run_batched(lambda inputs: [inputs[0].sum()], torch.cat, requests)


def test_a_bad_input_fails_alone_and_not_its_batch() -> None:
    requests = [[torch.full((1, 2), float(number))] for number in (1, 2, 3)]

    def call(inputs: Any) -> list[torch.Tensor]:
        if (inputs[0] == 2).any():
            raise IndexError("index out of range")
        return [inputs[0] * 10]

    first, bad, last = run_each(call, torch.cat, requests, batched=True)
    assert isinstance(bad, IndexError)
    torch.testing.assert_close(first, [requests[0][0] * 10])
    torch.testing.assert_close(last, [requests[2][0] * 10])
    assert [isinstance(one, IndexError) for one in run_each(call, torch.cat, requests, batched=False)] == [
        False,
        True,
        False,
    ]


def test_an_answer_that_can_not_fit_into_shared_memory_is_refused_alone() -> None:
    room = Room()
    room.take(1000)
    with pytest.raises(MemoryError, match=r"/dev/shm has \d+; ask for less"):
        room.take(2**60)
    room.take(1000)
