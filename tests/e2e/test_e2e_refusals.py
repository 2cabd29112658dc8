"""What is refused at admission, and what ends in a reason: the table of bad input."""

import pickle
import sys
import types
from typing import Any

import pytest

GOOD = "def init(): pass\ndef run(data): return 'good'\n"
URI = "https://models.example.com/m/"


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({"framework": "sklearn"}, "modelURI"),
        ({"modelURI": URI}, "framework"),
        ({"modelURI": URI, "framwork": "sklearn", "framework": "sklearn"}, "framwork"),
        ({"modelURI": URI, "framework": "tensorflower"}, "spec.framework"),
        ({"modelURI": "models/faq", "framework": "sklearn"}, "modelURI"),
        ({"modelURI": "https://user:pw@host/m", "framework": "sklearn"}, "modelURI"),
        (
            {
                "modelURI": URI,
                "framework": "sklearn",
                "autoscaling": {"minReplicas": 3, "maxReplicas": 2},
            },
            "minReplicas",
        ),
        ({"modelURI": URI, "framework": "sklearn", "ingress": {"host": "no_dns name"}}, "host"),
        ({"modelURI": URI, "framework": "sklearn", "sha256": "abc"}, "sha256"),
        ({"modelURI": URI, "framework": "sklearn", "replicas": -1}, "replicas"),
        ({"modelURI": URI, "framework": "sklearn", "device": "tpu"}, "device"),
    ],
)
def test_a_wrong_spec_is_refused_at_once_and_the_message_names_the_field(
    client: Any, spec: dict[str, Any], field: str
) -> None:
    manifest = {
        "apiVersion": "mlscoring.io/v1",
        "kind": "ScoringModel",
        "metadata": {"name": "bad"},
        "spec": spec,
    }

    done = client.try_apply(manifest)

    assert done.returncode != 0
    assert field in done.stderr


def missing_package_pickle() -> bytes:
    module = types.ModuleType("sklearn_extension_that_nobody_has")

    class Model:
        pass

    Model.__module__, Model.__qualname__ = module.__name__, "Model"
    module.Model = Model  # type: ignore[attr-defined]
    sys.modules[module.__name__] = module
    try:
        return pickle.dumps(Model())
    finally:
        del sys.modules[module.__name__]


@pytest.fixture
def failing(models: Any) -> dict[str, dict[str, Any]]:
    (models.folder / "nomodel.joblib").write_bytes(b"this is no model")
    (models.folder / "missing.pkl").write_bytes(missing_package_pickle())
    script = {"framework": "python"}
    sklearn = {"framework": "sklearn"}
    sample = {"test": {"request": {"a": 1}, "expect": "better"}}
    return {
        "not-found": {"modelURI": f"{models.url}/nothing.joblib", **sklearn},
        "forbidden": {"modelURI": f"{models.url}/forbidden.joblib", **sklearn},
        "no-model": {"modelURI": (models.folder / "nomodel.joblib").as_uri(), **sklearn},
        "digest": {"modelURI": models.iris.as_uri(), "sha256": "0" * 64, **sklearn},
        "package": {
            "modelURI": (models.folder / "missing.pkl").as_uri(),
            "trustPickle": True,
            **sklearn,
        },
        "unsafe": {"modelURI": (models.folder / "missing.pkl").as_uri(), **sklearn},
        "init": {
            "modelURI": models.script(
                "init", "def init(): raise ValueError('no weights')\ndef run(d): pass"
            ),
            **script,
        },
        "no-run": {"modelURI": models.script("norun", "def init(): pass"), **script},
        "sample": {"modelURI": models.script("sample", GOOD), **script, **sample},
        "image": {"modelURI": models.script("good", GOOD), "image": "nowhere/scorer:9", **script},
    }


@pytest.mark.parametrize(
    ("case", "reason", "words"),
    [
        ("not-found", "ModelNotFound", "nothing.joblib"),
        ("forbidden", "ModelForbidden", "403"),
        ("no-model", "LoadFailed", "nomodel.joblib"),
        ("digest", "DigestMismatch", "0000"),
        ("package", "MissingDependency", "sklearn_extension_that_nobody_has"),
        ("unsafe", "UnsafePickle", "sklearn_extension_that_nobody_has"),
        ("init", "ScriptFailed", "no weights"),
        ("no-run", "ScriptFailed", "run"),
        ("sample", "SampleFailed", "good"),
        ("image", "ImagePull", "nowhere/scorer:9"),
    ],
)
def test_a_failing_revision_says_why_while_the_previous_one_serves(
    client: Any, models: Any, failing: Any, case: str, reason: str, words: str
) -> None:
    client.apply_model("m", modelURI=models.script("good", GOOD), framework="python")
    client.wait_ready("m")

    client.apply_model("m", **failing[case])
    condition = client.wait_for_reason("m", reason)

    assert condition["status"] == "False"
    assert words in condition["message"]
    assert client.kubectl("get", "scoringmodel", "m").splitlines()[1].split()[3:5] == [
        "False",
        reason,
    ]
    status, _, body = client.request("m", body=b"{}")
    assert (status, body) == (200, b'"good"')
