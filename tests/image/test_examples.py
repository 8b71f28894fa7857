"""The examples under docs/deploy are what Docker Compose and Kubernetes accept, and agree with the image."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from benchmarks import two_hosts
from image.repository import EXAMPLES, PROGRAMS, documents, image_name
from tpu_tgi.options.table import OPTIONS

COMPOSE = ["compose.yaml", "compose.tpu.yaml"]
OF_REPLICAS = documents("gke-replicas.yaml")
OF_TWO_HOSTS = documents("gke-two-hosts.yaml")
# Kinds that Google adds, and defines nowhere in public.
OF_GOOGLE = {"GCPBackendPolicy", "HealthCheckPolicy", "PodMonitoring"}
OF_EXTENSIONS = {"Gateway", "HTTPRoute", "InferencePool", "JobSet"}
ALL = [
    *documents("gke.yaml"),
    *OF_REPLICAS,
    *documents("gke-gateway.yaml"),
    *OF_TWO_HOSTS,
]
DEFINITIONS = os.environ.get("KUBERNETES_DEFINITIONS")


def jobs_of(job_set: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Jobs as a JobSet makes them."""
    for each in job_set["spec"]["replicatedJobs"]:
        metadata = {"name": f"{job_set['metadata']['name']}-{each['name']}-0"}
        yield {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": metadata,
            "spec": each["template"]["spec"],
        }


OF_KUBERNETES = [document for document in ALL if document["kind"] not in OF_GOOGLE | OF_EXTENSIONS]
OF_KUBERNETES += [job for document in ALL if document["kind"] == "JobSet" for job in jobs_of(document)]
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
    OF_KUBERNETES,
    ids=lambda document: f"{document['kind']}-{document['metadata']['name']}",
)
def test_kubernetes_objects_follow_the_api(document: dict[str, Any], version: str) -> None:
    """1.28 is the oldest in which a container gets TPUs without being privileged. Unknown fields are errors."""
    kubernetes_validate.validate(document, version, strict=True)


@pytest.mark.skipif(
    DEFINITIONS is None,
    reason="set KUBERNETES_DEFINITIONS to a directory with the CustomResourceDefinitions of the Gateway API, "
    "of its Inference Extension, and of JobSet, as YAML",
)
@pytest.mark.parametrize(
    "document",
    [document for document in ALL if document["kind"] in OF_EXTENSIONS],
    ids=lambda document: f"{document['kind']}-{document['metadata']['name']}",
)
def test_objects_of_extensions_follow_their_definitions(document: dict[str, Any]) -> None:
    group, version = document["apiVersion"].split("/")
    (schema,) = (
        each["schema"]["openAPIV3Schema"]
        for file in Path(DEFINITIONS or "").glob("*.yaml")
        for definition in yaml.safe_load_all(file.read_text())
        if (definition["spec"]["group"], definition["spec"]["names"]["kind"]) == (group, document["kind"])
        for each in definition["spec"]["versions"]
        if each["name"] == version
    )
    jsonschema.validate(document, closed(schema))


def closed(schema: Any) -> Any:
    """A schema in which fields that it does not name are errors, as they are for `kubectl apply`."""
    if isinstance(schema, list):
        return [closed(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    inside = {name: closed(each) for name, each in schema.items()}
    if isinstance(schema.get("properties"), dict) and "additionalProperties" not in schema:
        inside["additionalProperties"] = False
    return inside


def test_the_gateway_leads_to_the_replicas_and_remembers_as_much_as_they_hold() -> None:
    by_kind = {
        (each["kind"], each["metadata"]["name"]): each for each in documents("gke-gateway.yaml") + OF_REPLICAS
    }
    replicas = by_kind["StatefulSet", "tpu-tgi"]["spec"]["template"]
    pool, picker = by_kind["InferencePool", "tpu-tgi"], by_kind["Deployment", "tpu-tgi-endpoint-picker"]
    assert pool["spec"]["selector"]["matchLabels"].items() <= replicas["metadata"]["labels"].items()
    (container,) = replicas["spec"]["containers"]
    assert pool["spec"]["targetPorts"] == [
        {"number": port["containerPort"]} for port in container["ports"] if port["name"] == "http"
    ]
    assert ("Service", pool["spec"]["endpointPickerRef"]["name"]) in by_kind
    assert (
        picker["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
        > replicas["spec"]["terminationGracePeriodSeconds"]
    )

    settings = {each["name"]: each.get("value") for each in container["env"]}
    configuration = yaml.safe_load(by_kind["ConfigMap", "tpu-tgi-endpoint-picker"]["data"]["plugins.yaml"])
    parameters = {each["type"]: each.get("parameters", {}) for each in configuration["plugins"]}
    remembered = parameters["prefix-cache-scorer"]
    assert remembered["lruCapacityPerServer"] * remembered["blockSizeTokens"] == int(
        settings["HF_BATCH_SIZE"]
    ) * int(settings["HF_SEQUENCE_LENGTH"])
    (engine,) = parameters["core-metrics-extractor"]["engineConfigs"]
    monitored = (EXAMPLES.parent / "monitoring.md").read_text()
    assert f"`{engine['queuedRequestsSpec']}`" in monitored
    assert f"`{engine['runningRequestsSpec']}`" in monitored


def test_two_hosts_meet_under_the_name_that_their_job_set_gives_the_first() -> None:
    _, job_set = OF_TWO_HOSTS
    (jobs,) = job_set["spec"]["replicatedJobs"]
    name = job_set["metadata"]["name"]
    (container,) = jobs["template"]["spec"]["template"]["spec"]["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert f"{name}-{jobs['name']}-0-0.{name}:{ports['coordinator']} " in container["command"][-1]
    assert ports["calls"] == ports["coordinator"] + 1
    assert jobs["template"]["spec"]["completions"] == two_hosts.PROCESSES
    assert two_hosts.KEY in [each["name"] for each in container["env"]]


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
