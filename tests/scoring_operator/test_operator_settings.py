from __future__ import annotations

import pytest

from scoring_operator.settings import DEFAULT_IMAGE, Settings, SettingsError


def test_an_empty_environment_gives_the_defaults():
    assert Settings.from_env({}) == Settings()
    assert Settings.from_env({"BASE_DOMAIN": " ", "URL_PORT": ""}) == Settings()
    assert Settings().image_for(device="gpu", framework="onnx") == DEFAULT_IMAGE


def test_the_most_specific_image_wins():
    settings = Settings.from_env(
        {
            "SCORER_IMAGE": "a",
            "SCORER_IMAGE_GPU": "b",
            "SCORER_IMAGE_PYTORCH": "c",
            "SCORER_IMAGE_PYTORCH_GPU": "d",
        }
    )
    assert settings.image_for(device="cpu", framework="sklearn") == "a"
    assert settings.image_for(device="gpu", framework="onnx") == "b"
    assert settings.image_for(device="cpu", framework="pytorch") == "c"
    assert settings.image_for(device="gpu", framework="pytorch") == "d"


def test_a_frameworks_cpu_image_is_not_taken_for_the_gpu():
    settings = Settings.from_env({"SCORER_IMAGE_GPU": "gpu", "SCORER_IMAGE_PYTORCH": "cpu"})
    assert settings.image_for(device="gpu", framework="pytorch") == "gpu"


def test_all_problems_are_reported_together():
    wrong = {
        "URL_PORT": "99999",
        "BASE_DOMAIN": "Models Example",
        "GPU_TOLERATIONS": "{}",
        "DEFAULT_CPU_REQUEST": "lots",
        "WORKERS": "0",
        "CERTIFICATE_DAYS": "x",
    }
    with pytest.raises(SettingsError) as caught:
        Settings.from_env(wrong)
    for name in wrong:
        assert name in str(caught.value)


def test_zero_switches_a_default_off():
    assert "memory" not in Settings.from_env({"DEFAULT_MEMORY_LIMIT": "0"}).limits


def test_gpu_tolerations_are_read_as_json():
    settings = Settings.from_env({"GPU_TOLERATIONS": '[{"key": "x", "operator": "Exists"}]'})
    assert settings.gpu_tolerations == ({"key": "x", "operator": "Exists"},)


def test_an_issuer_is_complete():
    issuer = Settings.from_env({"ISSUER_NAME": "le"}).issuer
    assert issuer is not None
    assert (issuer.name, issuer.kind, issuer.group) == ("le", "ClusterIssuer", "cert-manager.io")
