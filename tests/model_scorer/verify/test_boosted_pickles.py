"""Models of LightGBM, XGBoost and CatBoost, as their users save them; what the files are says boosted/README.md."""

import shutil
import struct
from pathlib import Path

import pytest

from model_scorer.errors import UnsafePickle
from model_scorer.verify import check_pickle

FILES = Path(__file__).parent / "boosted"
MODELS = sorted(
    path.name for path in FILES.iterdir() if not path.name.startswith(("README", "cloudpickled"))
)


@pytest.mark.parametrize("name", MODELS)
def test_a_boosted_model_needs_no_trust(name: str) -> None:
    check_pickle(FILES / name, trust=False)


@pytest.mark.parametrize("name", MODELS)
def test_code_behind_a_boosted_model_is_refused(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    shutil.copy(FILES / name, path)
    with path.open("ab") as file:
        file.write(b"cos\nsystem\n(X\x04\x00\x00\x00truetR.")
    with pytest.raises(UnsafePickle, match=r"posix\.system|os\.system"):
        check_pickle(path, trust=False)


@pytest.mark.parametrize("name", MODELS)
def test_a_boosted_model_with_another_function_in_it_is_refused(name: str, tmp_path: Path) -> None:
    """The import that made the model is replaced by one of the same length."""
    content = (FILES / name).read_bytes()
    names = [
        b"LGBMClassifier",
        b"XGBRegressor",
        b"XGBClassifier",
        b"CatBoostClassifier",
        b"Booster",
    ]
    present = next(name for name in names if name in content)
    path = tmp_path / name
    path.write_bytes(content.replace(present, b"x" * len(present)))
    with pytest.raises(UnsafePickle, match="x" * len(present)):
        check_pickle(path, trust=False)


def test_a_function_that_cloudpickle_wrote_is_refused_by_name() -> None:
    with pytest.raises(UnsafePickle, match=r"cloudpickle\.cloudpickle\._make_function"):
        check_pickle(FILES / "cloudpickled-transformer.pkl", trust=False)


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("lightgbm.basic", "Booster"),  # Booster(model_file=…) reads a file
        ("lightgbm.sklearn", "LGBMClassifier"),
        ("xgboost.core", "Booster"),  # Booster(model_file=…) as well
        ("xgboost.sklearn", "XGBClassifier"),
        ("xgboost.callback", "EarlyStopping"),
        ("catboost.core", "CatBoostClassifier"),
    ],
)
def test_constructors_of_these_libraries_are_not_called(
    module: str, name: str, tmp_path: Path
) -> None:
    path = tmp_path / "model.pkl"
    argument = b"/etc/passwd"
    path.write_bytes(
        f"c{module}\n{name}\n(X".encode() + struct.pack("<I", len(argument)) + argument + b"tR."
    )
    with pytest.raises(UnsafePickle, match=f"calls {module}.{name}"):
        check_pickle(path, trust=False)


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("lightgbm.basic", "_load_lib"),
        ("lightgbm.callback", "_RecordEvaluationCallback"),
        ("lightgbm.dask", "DaskLGBMClassifier"),
        ("xgboost.callback", "TrainingCheckPoint"),
        ("xgboost.libpath", "find_lib_path"),
        ("xgboost.sklearn", "os"),
        ("catboost.core", "_get_train_dir"),
        ("catboost.utils", "create_cd"),
    ],
)
def test_nothing_else_of_these_libraries_is_imported(
    module: str, name: str, tmp_path: Path
) -> None:
    path = tmp_path / "model.pkl"
    path.write_bytes(f"c{module}\n{name}\n.".encode())
    with pytest.raises(UnsafePickle, match=f"imports {module}.{name}"):
        check_pickle(path, trust=False)
