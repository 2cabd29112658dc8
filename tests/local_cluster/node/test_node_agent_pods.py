"""The node agent over a real socket: pods in, processes and status out."""

from __future__ import annotations

import json
import os
import time
from typing import Any

import psutil

Manifest = dict[str, Any]


def state_of(api: Any, name: str, index: int = 0, kind: str = "containerStatuses") -> Manifest:
    pod = api.get("pods", name) or {}
    statuses = pod.get("status", {}).get(kind) or [{}]
    return statuses[index]


def terminated(api: Any, name: str) -> Manifest | None:
    return state_of(api, name).get("state", {}).get("terminated")


def is_ready(api: Any, name: str) -> bool:
    conditions = (api.get("pods", name) or {}).get("status", {}).get("conditions") or []
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)


async def test_node_registers_with_capacity_labels_and_lease(api, start_agent):
    await start_agent(capacity={"nvidia.com/gpu": "2"})
    node = api.get("nodes", "n1", "")
    assert node["metadata"]["labels"]["kubernetes.io/hostname"] == "n1"
    assert node["status"]["capacity"]["nvidia.com/gpu"] == "2"
    assert node["status"]["capacity"]["cpu"] == str(os.cpu_count())
    assert node["status"]["daemonEndpoints"]["kubeletEndpoint"]["Port"] > 0
    ready = [c for c in node["status"]["conditions"] if c["type"] == "Ready"]
    assert ready[0]["status"] == "True"


async def test_pod_runs_with_address_environment_and_status(api, start_agent, pod):
    await start_agent()
    script = 'echo "$FROM_IMAGE $HOSTNAME $GREETING ${AGENT_SECRET:-clean}" >&2; exec sleep 60'
    os.environ["AGENT_SECRET"] = "leaked"
    env = [
        {"name": "WHO", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
        {"name": "GREETING", "value": "hello-$(WHO)-$(NOBODY)-$$(WHO)"},
    ]
    try:
        created = time.monotonic()
        await api.add("pods", pod("a", script, container={"env": env}))
        await api.until(lambda: is_ready(api, "a"))
        assert time.monotonic() - created < 2
    finally:
        del os.environ["AGENT_SECRET"]
    status = api.get("pods", "a")["status"]
    assert status["phase"] == "Running"
    assert status["qosClass"] == "BestEffort"
    assert status["podIP"].startswith("127.")
    assert status["podIP"] != "127.0.0.1"
    assert status["containerStatuses"][0]["started"] is True
    assert status["containerStatuses"][0]["image"] == "docker.io/library/shell:latest"
    events = [reason for reason, _ in api.events("a")]
    await api.until(lambda: "Started" in [reason for reason, _ in api.events("a")])
    assert set(events) <= {"Pulled", "Created", "Started"}
    log = next((start_agent.state / "pods").glob("*/main/0.log"))
    ip = status["podIP"]
    expected = f"a@{ip} a hello-a-$(NOBODY)-$(WHO) clean"
    await api.until(lambda: expected in log.read_text())


async def test_deleted_pod_gets_sigterm_and_leaves_nothing(api, start_agent, pod, tmp_path):
    await start_agent()
    out = tmp_path / "out"
    script = (
        f"trap 'echo bye > {out}; exit 0' TERM; echo $$$$ > {out}; while :; do sleep 0.05; done"
    )
    await api.add("pods", pod("a", script))
    await api.until(lambda: is_ready(api, "a"))
    await api.delete_pod("a")
    await api.until(lambda: api.get("pods", "a") is None)
    assert out.read_text() == "bye\n"
    assert "Stopping container main" in [text for _, text in api.events("a")]


async def test_container_that_ignores_sigterm_is_killed_after_the_grace_period(
    api, start_agent, pod, tmp_path
):
    await start_agent()
    pids = tmp_path / "pids"
    script = f"trap '' TERM; sleep 300 & echo $$$$ $! > {pids}; while :; do sleep 0.1; done"
    await api.add("pods", pod("a", script))
    await api.until(lambda: is_ready(api, "a") and pids.exists() and pids.read_text())
    await api.delete_pod("a", grace=1)
    began = time.monotonic()
    await api.until(lambda: api.get("pods", "a") is None)
    assert 0.9 < time.monotonic() - began < 4
    for pid in pids.read_text().split():
        assert not psutil.pid_exists(int(pid))


async def test_finished_pod_succeeds_with_its_last_words(api, start_agent, pod):
    await start_agent()
    script = 'echo \'{"reason": "Fetched"}\' > /dev/termination-log'
    await api.add("pods", pod("a", script, restartPolicy="Never"))
    end = await api.until(lambda: terminated(api, "a"))
    assert end["exitCode"] == 0
    assert end["reason"] == "Completed"
    assert json.loads(end["message"]) == {"reason": "Fetched"}
    assert api.get("pods", "a")["status"]["phase"] == "Succeeded"


async def test_failed_pod_falls_back_to_its_log(api, start_agent, pod):
    await start_agent()
    container = {"terminationMessagePolicy": "FallbackToLogsOnError"}
    await api.add(
        "pods", pod("a", "echo first; echo why; exit 3", container=container, restartPolicy="Never")
    )
    end = await api.until(lambda: terminated(api, "a"))
    assert (end["exitCode"], end["reason"]) == (3, "Error")
    assert end["message"] == "first\nwhy\n"
    assert api.get("pods", "a")["status"]["phase"] == "Failed"


async def test_crashing_container_backs_off(api, start_agent, pod):
    await start_agent()
    await api.add("pods", pod("a", "exit 7"))

    def waiting() -> Manifest | None:
        status = state_of(api, "a")
        wait = status.get("state", {}).get("waiting") or {}
        return status if wait.get("reason") == "CrashLoopBackOff" else None

    status = await api.until(waiting)
    assert status["restartCount"] == 1
    assert status["lastState"]["terminated"]["exitCode"] == 7
    uid = api.get("pods", "a")["metadata"]["uid"]
    message = f"back-off 0.2s restarting failed container=main pod=a_default({uid})"
    assert status["state"]["waiting"]["message"] == message
    await api.until(lambda: state_of(api, "a").get("restartCount", 0) >= 2)


async def test_unknown_image_ends_in_image_pull_back_off(api, start_agent, pod):
    await start_agent()
    await api.add("pods", pod("a", container={"image": "nowhere/x:1"}))

    def waiting(reason: str) -> str | None:
        wait = state_of(api, "a").get("state", {}).get("waiting") or {}
        return wait.get("message") if wait.get("reason") == reason else None

    message = await api.until(lambda: waiting("ErrImagePull"))
    assert "docker.io/nowhere/x:1: not found" in message
    message = await api.until(lambda: waiting("ImagePullBackOff"))
    assert message.startswith('Back-off pulling image "nowhere/x:1"')
    await api.delete_pod("a")
    await api.until(lambda: api.get("pods", "a") is None)


async def test_an_image_volume_is_pulled_when_its_container_starts_and_fails_as_any_image(
    api, start_agent, pod
):
    await start_agent()
    mount = {"volumeMounts": [{"name": "model", "mountPath": "/mnt/source"}]}
    asked = pod("a", container=mount)
    reference = "registry.example.com/models/faq:3"
    asked["spec"]["volumes"] = [{"name": "model", "image": {"reference": reference}}]
    await api.add("pods", asked)

    def waiting(reason: str) -> str | None:
        wait = state_of(api, "a").get("state", {}).get("waiting") or {}
        return wait.get("message") if wait.get("reason") == reason else None

    message = await api.until(lambda: waiting("ErrImagePull"))
    assert f"{reference}: not found" in message
    message = await api.until(lambda: waiting("ImagePullBackOff"))
    assert message.startswith(f'Back-off pulling image "{reference}"')
    await api.delete_pod("a")
    await api.until(lambda: api.get("pods", "a") is None)


async def test_missing_program_is_a_start_error(api, start_agent, pod):
    await start_agent()
    container = {"command": ["no-such-program"]}
    await api.add("pods", pod("a", container=container, restartPolicy="Never"))
    end = await api.until(lambda: terminated(api, "a"))
    assert (end["exitCode"], end["reason"]) == (128, "StartError")
    assert 'exec: "no-such-program": executable file not found in $PATH' in end["message"]


async def test_missing_secret_waits_and_goes_on_when_it_appears(api, start_agent, pod):
    await start_agent()
    env = [{"name": "K", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}]
    await api.add("pods", pod("a", "exec sleep 60", container={"env": env}))

    def waiting() -> Manifest | None:
        return state_of(api, "a").get("state", {}).get("waiting")

    await api.until(lambda: (waiting() or {}).get("reason") == "CreateContainerConfigError")
    assert waiting()["message"] == 'secret "s" not found'
    await api.add("secrets", {"metadata": {"name": "s"}, "data": {"k": "dg=="}})
    await api.until(lambda: is_ready(api, "a"))


async def test_init_containers_run_in_order_before_the_others(api, start_agent, pod):
    await start_agent()
    mount = [{"name": "data", "mountPath": "/data"}]
    inits = [
        {
            "name": f"i{n}",
            "image": "shell",
            "args": ["-c", f"echo {n} >> /data/f"],
            "volumeMounts": mount,
        }
        for n in (1, 2)
    ]
    container = {"volumeMounts": mount}
    await api.add(
        "pods",
        pod(
            "a",
            "cat /data/f > /dev/termination-log",
            container=container,
            initContainers=inits,
            volumes=[{"name": "data", "emptyDir": {}}],
            restartPolicy="Never",
        ),
    )
    end = await api.until(lambda: terminated(api, "a"))
    assert end["message"] == "1\n2\n"


async def test_failed_init_container_keeps_the_pod_pending(api, start_agent, pod):
    await start_agent()
    inits = [{"name": "fetch", "image": "shell", "args": ["-c", "exit 4"]}]
    await api.add("pods", pod("a", "exec sleep 60", initContainers=inits))
    last = await api.until(
        lambda: (
            state_of(api, "a", kind="initContainerStatuses").get("lastState", {}).get("terminated")
        )
    )
    assert last["exitCode"] == 4
    status = api.get("pods", "a")["status"]
    assert status["phase"] == "Pending"
    initialized = next(c for c in status["conditions"] if c["type"] == "Initialized")
    assert initialized["message"] == "containers with incomplete status: [fetch]"
    assert status["containerStatuses"][0]["state"]["waiting"]["reason"] == "PodInitializing"


async def test_secret_volume_follows_the_secret(api, start_agent, pod, tmp_path):
    await start_agent()
    await api.add("secrets", {"metadata": {"name": "s"}, "data": {"k": "b2xk"}})
    volumes = [{"name": "keys", "secret": {"secretName": "s"}}]
    container = {"volumeMounts": [{"name": "keys", "mountPath": "/etc/keys"}]}
    script = 'while [ "$(cat /etc/keys/k)" = old ]; do sleep 0.05; done; cat /etc/keys/k > /dev/termination-log'
    await api.add(
        "pods", pod("a", script, container=container, volumes=volumes, restartPolicy="Never")
    )
    await api.until(lambda: is_ready(api, "a"))
    await api.edit("secrets", "s", {"data": {"k": "bmV3"}})
    end = await api.until(lambda: terminated(api, "a"))
    assert end["message"] == "new"


async def test_missing_secret_volume_is_reported_as_failed_mount(api, start_agent, pod):
    await start_agent()
    volumes = [{"name": "keys", "secret": {"secretName": "s"}}]
    await api.add("pods", pod("a", "exec sleep 60", volumes=volumes))
    message = 'MountVolume.SetUp failed for volume "keys" : secret "s" not found'
    await api.until(lambda: ("FailedMount", message) in api.events("a"))
    assert state_of(api, "a")["state"]["waiting"]["reason"] == "ContainerCreating"
    await api.add("secrets", {"metadata": {"name": "s"}})
    await api.until(lambda: is_ready(api, "a"))


async def test_service_account_token_comes_as_file_and_kubeconfig(api, start_agent, pod):
    await start_agent()
    script = (
        "cat /var/run/secrets/kubernetes.io/serviceaccount/token > /dev/termination-log; "
        'grep -q "token: token-" $KUBECONFIG'
    )
    await api.add("pods", pod("a", script, restartPolicy="Never"))
    end = await api.until(lambda: terminated(api, "a"))
    assert end["exitCode"] == 0
    assert end["message"].startswith("token-")
    assert api.tokens[0]["spec"]["boundObjectRef"]["name"] == "a"


async def test_memory_hog_is_oom_killed(api, start_agent, pod):
    await start_agent()
    hog = "data = bytearray(200 * 1024 * 1024)\nimport time\ntime.sleep(60)"
    container = {
        "command": ["python", "-I", "-S", "-c", hog],
        "resources": {"limits": {"memory": "100Mi"}},
    }
    await api.add("pods", pod("a", container=container, restartPolicy="Never"))
    end = await api.until(lambda: terminated(api, "a"))
    assert (end["exitCode"], end["reason"]) == (137, "OOMKilled")


async def test_pod_past_its_deadline_fails(api, start_agent, pod):
    await start_agent()
    await api.add("pods", pod("a", "exec sleep 60", activeDeadlineSeconds=0.5))
    status = await api.until(
        lambda: (s := api.get("pods", "a").get("status", {})).get("phase") == "Failed" and s
    )
    assert status["reason"] == "DeadlineExceeded"


async def test_claim_is_bound_and_keeps_its_files_between_pods(api, start_agent, pod):
    await start_agent()
    claim = {
        "metadata": {"name": "c"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
    }
    await api.add("persistentvolumeclaims", claim)
    volumes = [{"name": "v", "persistentVolumeClaim": {"claimName": "c"}}]
    container = {"volumeMounts": [{"name": "v", "mountPath": "/v"}]}
    settings = {"container": container, "volumes": volumes, "restartPolicy": "Never"}
    await api.add("pods", pod("a", "echo kept > /v/f", **settings))
    await api.until(lambda: terminated(api, "a"))
    await api.add("pods", pod("b", "cat /v/f > /dev/termination-log", **settings))
    end = await api.until(lambda: terminated(api, "b"))
    assert end["message"] == "kept\n"
    assert api.get("persistentvolumeclaims", "c")["status"]["phase"] == "Bound"
