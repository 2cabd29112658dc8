"""The node agent's pure rules: text, quantities, images, backoff, status."""

from __future__ import annotations

import pytest

from local_cluster.node.backoff import RestartBackoff
from local_cluster.node.environment import ConfigError, build_container_env, build_service_env
from local_cluster.node.expansion import PathRewriter, expand
from local_cluster.node.fields import FieldError, cpu_limit_cores, read_field, read_resource
from local_cluster.node.image_map import (
    Image,
    ImageMap,
    ImageMapError,
    InvalidImageNameError,
    combine_command,
    load_image_map,
    normalize_reference,
)
from local_cluster.node.pod_status import (
    ContainerRecord,
    Running,
    Waiting,
    derive_phase,
    derive_qos_class,
)
from local_cluster.node.probes import Threshold
from local_cluster.node.runtime import Exit
from local_cluster.node.shim import LogFile, split_lines
from local_cluster.node.volume_files import VolumeFile, write_payload
from local_cluster.node.volumes import inject_service_account, references
from local_cluster.quantities import parse_quantity


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("$(A)-$(B)", "1-$(B)"),
        ("$$(A)", "$(A)"),
        ("$$$$", "$$"),
        ("$A $ $(", "$A $ $("),
    ],
)
def test_references_expand_as_kubernetes_does(text, expected):
    assert expand(text, {"A": "1"}) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/mnt/model", "/local/m"),
        ("--dir=/mnt/model/a.bin", "--dir=/local/m/a.bin"),
        ("file:///mnt/model/a", "file:///local/m/a"),
        ("cat /mnt/model/x > /dev/termination-log", "cat /local/m/x > /local/t"),
        ("/mnt/models", "/mnt/models"),
        ("/data/mnt/model", "/data/mnt/model"),
        ("http://host/mnt/model", "http://host/mnt/model"),
        ("/mnt/model/inner/x", "/local/inner/x"),
        ("/tmp", "/local/tmp"),
        ("file:/tmp/elsewhere", "file:/tmp/elsewhere"),
    ],
)
def test_mount_paths_are_rewritten_as_whole_paths_only(text, expected):
    rewrite = PathRewriter(
        {
            "/mnt/model": "/local/m",
            "/mnt/model/inner": "/local/inner",
            "/tmp": "/local/tmp",
            "/dev/termination-log": "/local/t",
        }
    )
    assert rewrite(text) == expected


@pytest.mark.parametrize(
    ("text", "number"), [("500m", 0.5), ("2Gi", 2**31), ("1.5k", 1500), ("2e3", 2000), ("7", 7)]
)
def test_quantities_are_read(text, number):
    assert float(parse_quantity(text)) == number


@pytest.mark.parametrize("text", ["", "1GB", "x", "1 Gi"])
def test_malformed_quantities_are_refused(text):
    with pytest.raises(ValueError, match="quantities must match"):
        parse_quantity(text)


@pytest.mark.parametrize(
    ("image", "reference"),
    [
        ("nginx", "docker.io/library/nginx:latest"),
        ("mlscoring/scorer:0.1.0", "docker.io/mlscoring/scorer:0.1.0"),
        ("ghcr.io/a/b", "ghcr.io/a/b:latest"),
        ("localhost:5000/a:1", "localhost:5000/a:1"),
    ],
)
def test_references_are_completed_as_container_runtimes_do(image, reference):
    assert normalize_reference(image) == reference


def test_malformed_image_name_is_refused():
    with pytest.raises(InvalidImageNameError, match="couldn't parse image name"):
        normalize_reference("Bad Image")


def test_image_is_found_by_any_tag_and_digest_but_exact_tag_first():
    images = ImageMap({"a/b": Image("a/b", ("x",)), "a/b:2": Image("a/b:2", ("y",))})
    assert images.find("a/b:1").entrypoint == ("x",)
    assert images.find("docker.io/a/b:1") is None or images.find("docker.io/a/b:1").entrypoint
    assert images.find("a/b:2").entrypoint == ("y",)
    assert images.find(f"a/b@sha256:{'0' * 64}").entrypoint == ("x",)
    assert images.find("a/c") is None


def test_builtin_map_knows_the_images_of_the_project():
    images = load_image_map()
    for name in ("mlscoring/scorer:0.1.0", "mlscoring/operator", "local/echo:2", "local/pause"):
        assert images.find(name) is not None
    assert images.find("mlscoring/scorer").env["SCORER_ADDRESS"] == "$(POD_IP)"


def test_malformed_image_map_names_file_and_entry(tmp_path):
    path = tmp_path / "map.yaml"
    path.write_text("images: {a: {entrypoint: sh}}")
    with pytest.raises(ImageMapError, match=r"map\.yaml: image a: entrypoint must be a list"):
        load_image_map(path)


@pytest.mark.parametrize(
    ("command", "args", "expected"),
    [
        (None, None, ["e", "c"]),
        (None, ["a"], ["e", "a"]),
        (["x"], None, ["x"]),
        (["x"], ["a"], ["x", "a"]),
    ],
)
def test_command_and_args_replace_entrypoint_and_cmd(command, args, expected):
    assert combine_command(Image("i", ("e",), ("c",)), command, args) == expected


def test_restart_backoff_doubles_from_the_second_restart_on():
    backoff = RestartBackoff(10)
    now, delays = 0.0, []
    for _ in range(8):
        delays.append(backoff.next_delay(now))
        now += delays[-1] + 1
    assert delays == [0, 10, 20, 40, 80, 160, 300, 300]


def test_restart_backoff_starts_over_after_ten_good_minutes():
    backoff = RestartBackoff(10)
    for moment in (0, 1, 20):
        backoff.next_delay(moment)
    assert backoff.next_delay(20 + 20 + 601) == 0


def test_probe_verdict_changes_at_its_thresholds():
    threshold = Threshold(successes=2, failures=3, verdict=False)
    looks = [True, True, False, False, True, False, False, False]
    assert [threshold.add(ok) for ok in looks] == [False, True, True, True, True, True, True, False]


POD = {
    "metadata": {"name": "p", "namespace": "ns", "uid": "u", "labels": {"b": "2", "a": '1"'}},
    "spec": {
        "nodeName": "n",
        "containers": [{"name": "c", "resources": {"limits": {"cpu": "1500m", "memory": "1Gi"}}}],
    },
}


def test_fields_of_the_downward_api():
    addresses = {"podIP": "127.1.1.2", "hostIP": "127.0.0.1"}
    read = lambda path: read_field(POD, path, addresses=addresses)  # noqa: E731 - one line reads best
    assert read("metadata.name") == "p"
    assert read("metadata.labels['b']") == "2"
    assert read("metadata.labels") == 'a="1\\""\nb="2"'
    assert read("status.podIP") == "127.1.1.2"
    assert read("spec.serviceAccountName") == "default"
    with pytest.raises(FieldError, match=r"unsupported fieldPath: spec\.x"):
        read("spec.x")


def test_resource_fields_are_divided_up_and_default_to_the_node():
    allocatable = {"cpu": "4", "memory": "8Gi"}
    read = lambda **s: read_resource(POD, "c", s, allocatable)  # noqa: E731 - as above
    assert read(resource="limits.cpu") == "2"
    assert read(resource="limits.cpu", divisor="1m") == "1500"
    assert read(resource="limits.memory", divisor="1Mi") == "1024"
    assert read(resource="requests.memory") == "0"
    assert (
        read_resource(
            {**POD, "spec": {"containers": [{"name": "c"}]}},
            "c",
            {"resource": "limits.cpu"},
            allocatable,
        )
        == "4"
    )
    assert cpu_limit_cores(POD["spec"]["containers"][0], allocatable) == 2
    assert cpu_limit_cores({}, allocatable) == 4


async def read_nothing(kind, namespace, name):
    return None


async def read_config(kind, namespace, name):
    return {"data": {"k": "dg==" if kind == "secret" else "v", "not a name!": "eA=="}}


async def build_env(container, read_object):
    return await build_container_env(
        POD,
        {"name": "c", **container},
        read_object=read_object,
        addresses={"podIP": "", "hostIP": ""},
        allocatable={},
        service_env={"S": "1"},
    )


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"secretKeyRef": {"name": "s", "key": "x"}}, "couldn't find key x in Secret ns/s"),
        ({"configMapKeyRef": {"name": "s", "key": "x"}}, "couldn't find key x in ConfigMap ns/s"),
    ],
)
async def test_missing_keys_have_the_kubelets_message(source, message):
    with pytest.raises(ConfigError, match=message):
        await build_env({"env": [{"name": "A", "valueFrom": source}]}, read_config)


async def test_missing_objects_have_the_kubelets_message_unless_optional():
    container = {"envFrom": [{"configMapRef": {"name": "c"}}]}
    with pytest.raises(ConfigError, match='configmap "c" not found'):
        await build_env(container, read_nothing)
    container = {"envFrom": [{"configMapRef": {"name": "c", "optional": True}}]}
    assert await build_env(container, read_nothing) == {"S": "1"}


async def test_env_from_takes_valid_names_with_prefix_and_env_wins():
    container = {
        "envFrom": [{"prefix": "P_", "secretRef": {"name": "s"}}],
        "env": [{"name": "S", "value": "$(P_k)2"}],
    }
    assert await build_env(container, read_config) == {"S": "v2", "P_k": "v"}


def test_services_appear_as_variables():
    service = {
        "metadata": {"name": "my-svc"},
        "spec": {"clusterIP": "10.0.0.1", "ports": [{"name": "http", "port": 80}]},
    }
    env = build_service_env([service])
    assert env["MY_SVC_SERVICE_HOST"] == "10.0.0.1"
    assert env["MY_SVC_SERVICE_PORT_HTTP"] == "80"
    assert env["MY_SVC_PORT_80_TCP_ADDR"] == "10.0.0.1"


def record(name="c", state=None, *, init=False, last=None, **spec):
    return ContainerRecord(
        {"name": name, **spec}, is_init=init, state=state or Waiting("x"), last_exit=last
    )


OK = Exit(0, 0, "Completed", "", 1, 2)
BAD = Exit(1, 0, "Error", "", 1, 2)
RUNS = Running(1)
CRASHED = Waiting("CrashLoopBackOff")


@pytest.mark.parametrize(
    ("policy", "records", "phase"),
    [
        ("Always", [record()], "Pending"),
        ("Always", [record(state=RUNS)], "Running"),
        ("Always", [record(state=RUNS), record(state=CRASHED, last=BAD)], "Running"),
        ("Always", [record(state=CRASHED, last=BAD)], "Running"),
        ("Always", [record(state=OK)], "Running"),
        ("Never", [record(state=OK)], "Succeeded"),
        ("Never", [record(state=OK), record(state=BAD)], "Failed"),
        ("OnFailure", [record(state=BAD)], "Running"),
        ("Always", [record(init=True, state=RUNS), record()], "Pending"),
        ("Always", [record(init=True, state=CRASHED, last=BAD), record()], "Pending"),
        ("Never", [record(init=True, state=BAD), record()], "Failed"),
        ("Always", [record(init=True, state=OK), record(state=RUNS)], "Running"),
    ],
)
def test_phase_follows_from_container_states(policy, records, phase):
    assert derive_phase({"spec": {"restartPolicy": policy}}, records) == phase


@pytest.mark.parametrize(
    ("resources", "expected"),
    [
        ({}, "BestEffort"),
        ({"requests": {"cpu": "1"}}, "Burstable"),
        ({"limits": {"cpu": "1", "memory": "1Gi"}}, "Guaranteed"),
        ({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "500m"}}, "Burstable"),
    ],
)
def test_quality_of_service_class(resources, expected):
    pod = {"spec": {"containers": [{"name": "c", "resources": resources}]}}
    assert derive_qos_class(pod) == expected


def test_log_lines_are_cut_stamped_and_continued():
    lines, rest = split_lines("stdout", b"he", b"llo\nwor", "T")
    assert (lines, rest) == (b"T stdout F hello\n", b"wor")
    lines, rest = split_lines("stderr", b"", b"x" * 16385 + b"\n", "T")
    assert lines == b"T stderr P " + b"x" * 16384 + b"\nT stderr F x\n"
    assert rest == b""


def test_full_log_is_rotated_and_only_the_newest_are_kept(tmp_path):
    log = LogFile(str(tmp_path / "0.log"), max_bytes=10)
    for number in range(20):
        log.write(f"line {number:02}\n".encode())
    names = sorted(path.name for path in tmp_path.iterdir())
    assert len(names) == 5
    assert (tmp_path / "0.log").read_text() == "line 19\n"


def test_volume_files_change_in_one_step_and_vanish_when_removed(tmp_path):
    assert write_payload(tmp_path, {"a": VolumeFile(b"1"), "d/b": VolumeFile(b"2", 0o400)})
    assert not write_payload(tmp_path, {"a": VolumeFile(b"1"), "d/b": VolumeFile(b"2", 0o400)})
    assert (tmp_path / "a").read_bytes() == b"1"
    assert (tmp_path / "d" / "b").stat().st_mode & 0o777 == 0o400
    assert write_payload(tmp_path, {"a": VolumeFile(b"3")})
    assert (tmp_path / "a").read_bytes() == b"3"
    assert not (tmp_path / "d").exists()
    assert len([p for p in tmp_path.iterdir() if p.name.startswith("..2")]) == 1


def test_service_account_volume_is_added_once_and_only_when_wanted():
    pod = inject_service_account(POD, automount=True)
    assert pod["spec"]["containers"][0]["volumeMounts"][0]["name"] == "kube-api-access"
    assert "volumeMounts" not in POD["spec"]["containers"][0]
    assert inject_service_account(pod, automount=True) is pod
    assert inject_service_account(POD, automount=False) is POD
    assert ("configmap", "kube-root-ca.crt") in references(pod)
