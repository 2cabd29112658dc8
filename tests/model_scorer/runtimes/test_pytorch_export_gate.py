"""Archives of torch.export that would run something while they are loaded, or when they are first called."""

import io
import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from model_scorer.errors import LoadFailed, UnsafePickle
from model_scorer.runtimes.pytorch_export_gate import check_export

Edit = Callable[[dict[str, bytes]], None]


class Net(nn.Module):
    """Parameters, a buffer, a constant, arithmetic of sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.factor = torch.ones(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.norm(self.conv(x))).flatten(2)
        return torch.einsum("bcn,c->bc", y, self.factor) / y.shape[2]


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("export") / "model.pt2"
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(
        Net().eval(), (torch.zeros(2, 3, 8, 8),), dynamic_shapes=({0: batch},)
    )
    torch.export.save(program, path)
    return path


class Touch:
    """Unpickling it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def rewrite(source: Path, target: Path, edit: Edit) -> Path:
    with zipfile.ZipFile(source) as old:
        members = {name.partition("/")[2]: old.read(name) for name in old.namelist()}
    edit(members)
    with zipfile.ZipFile(target, "w") as new:
        for name, data in members.items():
            new.writestr(f"model/{name}", data)
    return target


def in_program(change: Callable[[dict[str, Any]], None]) -> Edit:
    def edit(members: dict[str, bytes]) -> None:
        program = json.loads(members["models/model.json"])
        change(program)
        members["models/model.json"] = json.dumps(program).encode()

    return edit


def call(target: str) -> Edit:
    return in_program(lambda p: p["graph_module"]["graph"]["nodes"][0].update(target=target))


def saved(value: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def expression(text: str) -> Edit:
    def edit(members: dict[str, bytes]) -> None:
        old = b"Symbol('s77', positive=True, integer=True)"
        assert old in members["models/model.json"]
        members["models/model.json"] = members["models/model.json"].replace(old, text.encode())

    return edit


def pickled_payload(kind: str, config: str, mark: Path) -> Edit:
    def edit(members: dict[str, bytes]) -> None:
        name = f"data/{kind}/{config}"
        document = json.loads(members[name])
        payload = next(iter(document["config"].values()))
        payload["use_pickle"] = True
        members[name] = json.dumps(document).encode()
        members[f"data/{kind}/{payload['path_name']}"] = saved(Touch(mark))

    return edit


def opaque(mark: Path) -> Edit:
    def edit(members: dict[str, bytes]) -> None:
        name = "data/constants/model_constants_config.json"
        document = json.loads(members[name])
        payload = next(iter(document["config"].values()))
        payload["path_name"] = "opaque_obj_0"
        members[name] = json.dumps(document).encode()
        members["data/constants/opaque_obj_0"] = pickle.dumps(Touch(mark))

    return edit


CASES: dict[str, Callable[[Path], Edit]] = {
    "sample-inputs": lambda mark: lambda m: m.update(
        {"data/sample_inputs/model.pt": saved(Touch(mark))}
    ),
    "pickled-weight": lambda mark: pickled_payload("weights", "model_weights_config.json", mark),
    "pickled-constant": lambda mark: pickled_payload(
        "constants", "model_constants_config.json", mark
    ),
    "opaque-constant": opaque,
    "weights-of-old": lambda mark: lambda m: m.update(
        {"data/weights/model.pt": saved(Touch(mark))}
    ),
    "native-code": lambda mark: lambda m: m.update({"data/aotinductor/model/wrapper.so": b"\x7fELF"}),
    "operator": lambda mark: call("torch.os.system"),
    "python-operator": lambda mark: call("_operator.attrgetter"),
    "file-operator": lambda mark: call("torch.ops.aten.from_file.default"),
    "expression": lambda mark: expression(f"__import__('pathlib').Path('{mark}').touch()"),
    "expression-by-name": lambda mark: expression("exit(s77)"),
    "placeholder": lambda mark: in_program(
        lambda p: p["graph_module"]["graph"]["inputs"][0]["as_tensor"].update(
            name=f"x=open('{mark}','w')"
        )
    ),
    "argument-name": lambda mark: in_program(
        lambda p: p["graph_module"]["module_call_graph"][0]["signature"].update(
            forward_arg_names=[f"x=open('{mark}','w')"]
        )
    ),
    "container": lambda mark: in_program(
        lambda p: p["graph_module"]["module_call_graph"][0]["signature"].update(
            in_spec='[1, {"type": "collections.defaultdict", "context": "{\\"default_factory_module\\": \\"os\\"}", '
            '"children_spec": []}]'
        )
    ),
}  # fmt: skip


def test_what_torch_exports_is_accepted(archive: Path) -> None:
    check_export(archive, trust=False)


@pytest.mark.parametrize("case", CASES)
def test_an_archive_that_could_run_code_is_refused_and_nothing_runs(
    case: str, archive: Path, tmp_path: Path
) -> None:
    mark = tmp_path / "it-ran"
    path = rewrite(archive, tmp_path / "model.pt2", CASES[case](mark))

    with pytest.raises(UnsafePickle, match=r"model\.pt2") as raised:
        check_export(path, trust=False)

    assert "trustPickle" in raised.value.hint
    assert not mark.exists()
    check_export(path, trust=True)


def test_guards_of_an_archive_are_never_compiled(archive: Path, tmp_path: Path) -> None:
    mark = tmp_path / "it-ran"
    path = rewrite(
        archive,
        tmp_path / "model.pt2",
        in_program(lambda p: p.update(guards_code=[f"open('{mark}', 'w') is not None"])),
    )
    check_export(path, trust=False)
    module = torch.export.load(path).module(check_guards=False)
    assert module(torch.zeros(2, 3, 8, 8)).shape == (2, 4)
    assert not mark.exists()


def test_two_entries_of_one_name_are_refused(archive: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.pt2"
    path.write_bytes(archive.read_bytes())
    with zipfile.ZipFile(path, "a") as zipped, pytest.warns(UserWarning, match="Duplicate"):
        zipped.writestr("model/models/model.json", "{}")
    with pytest.raises(UnsafePickle, match="same name"):
        check_export(path, trust=False)


def test_a_truncated_archive_is_no_matter_of_trust(archive: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.pt2"
    path.write_bytes(archive.read_bytes()[:-200])
    with pytest.raises(LoadFailed, match="truncated"):
        check_export(path, trust=False)


def test_entries_that_readers_would_find_in_different_places_are_refused(
    archive: Path, tmp_path: Path
) -> None:
    path = tmp_path / "model.pt2"
    # Python's zipfile takes bytes before the archive in its stride.
    path.write_bytes(archive.read_bytes()[:64] + archive.read_bytes())
    with zipfile.ZipFile(path) as zipped:
        assert zipped.namelist()
    with pytest.raises(LoadFailed, match="list of entries"):
        check_export(path, trust=False)
