"""The examples under docs/deploy are what Docker Compose and Kubernetes accept, and agree with the image."""

import subprocess
from typing import Any

import kubernetes_validate
import pytest

from image.repository import EXAMPLES, PROGRAMS, documents, image_name
from tpu_tgi.options.table import OPTIONS

COMPOSE = ["compose.yaml", "compose.tpu.yaml"]
# PodMonitoring is an extension of Google's, of which no schema is here.
OF_KUBERNETES = [document for document in documents("gke.yaml") if document["kind"] != "PodMonitoring"]
OF_REPLICAS = documents("gke-replicas.yaml")
(GRACEFUL_TERMINATION_SECONDS,) = (
    option.default for option in OPTIONS if option.name == "graceful_termination_timeout"
)


@pytest.fixture(scope="module")
def service() -> dict[str, Any]:
    found: dict[str, Any] = documents("compose.yaml")[0]["services"]["tpu-tgi"]
    return found


@pytest.fixture(scope="module")
def pod() -> dict[str, Any]:
    (deployment,) = (document for document in documents("gke.yaml") if document["kind"] == "Deployment")
    found: dict[str, Any] = deployment["spec"]["template"]["spec"]
    return found


@pytest.fixture(scope="module")
def container(pod: dict[str, Any]) -> dict[str, Any]:
    (found,) = pod["containers"]
    return dict(found)


def test_compose_files_follow_the_compose_specification() -> None:
    command = [str(PROGRAMS / "check-jsonschema"), "--builtin-schema", "vendor.compose-spec", *COMPOSE]
    outcome = subprocess.run(command, cwd=EXAMPLES, capture_output=True, text=True, check=False)
    assert outcome.returncode == 0, outcome.stdout


@pytest.mark.parametrize("version", ["1.28", kubernetes_validate.latest_version()])
@pytest.mark.parametrize(
    "document",
    OF_KUBERNETES + OF_REPLICAS,
    ids=lambda document: f"{document['kind']}-{document['metadata']['name']}",
)
def test_kubernetes_objects_follow_the_api(document: dict[str, Any], version: str) -> None:
    """1.28 is the oldest in which a container gets TPUs without being privileged. Unknown fields are errors."""
    kubernetes_validate.validate(document, version, strict=True)


def test_examples_run_the_image_that_make_builds(service: dict[str, Any], container: dict[str, Any]) -> None:
    on_tpu = documents("compose.tpu.yaml")[0]["services"]["tpu-tgi"]
    assert service["image"] == f"{image_name()}:latest-cpu"
    assert container["image"] == on_tpu["image"] == f"{image_name()}:latest"


def test_running_answers_have_the_time_that_the_launcher_gives_them(
    service: dict[str, Any], pod: dict[str, Any]
) -> None:
    assert int(service["stop_grace_period"].removesuffix("s")) > GRACEFUL_TERMINATION_SECONDS
    assert pod["terminationGracePeriodSeconds"] > GRACEFUL_TERMINATION_SECONDS


def test_replicas_are_the_one_of_the_other_example_on_more_chips(pod: dict[str, Any]) -> None:
    (replicas,) = (document for document in OF_REPLICAS if document["kind"] == "StatefulSet")
    theirs = replicas["spec"]["template"]["spec"]
    (container,), (one,) = theirs["containers"], pod["containers"]
    for name in ("image", "securityContext", "lifecycle", "startupProbe", "readinessProbe", "livenessProbe"):
        assert container[name] == one[name]
    assert theirs["terminationGracePeriodSeconds"] == pod["terminationGracePeriodSeconds"]
    rows, columns = theirs["nodeSelector"]["cloud.google.com/gke-tpu-topology"].split("x")
    chips = int(rows) * int(columns)
    assert [each["google.com/tpu"] for each in container["resources"].values()] == [chips, chips]
    assert [volume["mountPath"] for volume in container["volumeMounts"]] == ["/data", "/dev/shm"]


def test_tokens_stand_in_no_file(service: dict[str, Any], container: dict[str, Any]) -> None:
    assert service["environment"]["HF_TOKEN"] is None
    for name in ("HF_TOKEN", "API_KEY"):
        (secret,) = (variable for variable in container["env"] if variable["name"] == name)
        assert "value" not in secret
        assert secret["valueFrom"]["secretKeyRef"]


def test_weights_outlive_the_container(service: dict[str, Any], container: dict[str, Any]) -> None:
    assert [volume.split(":")[1] for volume in service["volumes"]] == ["/data"]
    assert "/data" in [mount["mountPath"] for mount in container["volumeMounts"]]


def test_other_probes_wait_for_the_warm_up(container: dict[str, Any]) -> None:
    probe = container["startupProbe"]
    assert probe["periodSeconds"] * probe["failureThreshold"] >= 1800
    (port,) = (port for port in container["ports"] if port["name"] == "http")
    for name in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container[name]["httpGet"] == {"path": "/health", "port": port["name"]}
    assert port["containerPort"] == 80


def test_the_container_has_no_right_that_it_does_not_need(
    pod: dict[str, Any], container: dict[str, Any]
) -> None:
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["automountServiceAccountToken"] is False
    assert container["securityContext"]["allowPrivilegeEscalation"] is False
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"], "add": ["NET_BIND_SERVICE"]}


def test_metrics_of_router_and_shard_are_collected(container: dict[str, Any]) -> None:
    (monitoring,) = (document for document in documents("gke.yaml") if document["kind"] == "PodMonitoring")
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert {endpoint["port"] for endpoint in monitoring["spec"]["endpoints"]} == set(ports)
    assert {"name": "TPU_TGI_METRICS_PORT", "value": str(ports["metrics"])} in container["env"]


def test_compose_needs_root_on_a_tpu_only(service: dict[str, Any]) -> None:
    on_tpu = documents("compose.tpu.yaml")[0]["services"]["tpu-tgi"]
    assert service["user"] != "root"
    assert "privileged" not in service
    assert (on_tpu["user"], on_tpu["privileged"]) == ("root", True)
