"""The chart renders what Kubernetes takes and the mirror can read, and says of bad values what is wrong with them."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import pytest
import yaml

from mirror import __version__, config
from mirror.config import sections
from tests.deploy.kubernetes import CHART, OPERATOR, VERSIONS, helm, mounted, one, pod, refused, rendered, validate

if TYPE_CHECKING:
    from pathlib import Path

    from tests.deploy.kubernetes import Document

SETS = {"default": (), **{path.stem: ("--values", str(path)) for path in sorted((CHART / "ci").glob("*.yaml"))}}
EVERYTHING = SETS["everything-values"]


@pytest.fixture(params=SETS)
def documents(request: pytest.FixtureRequest) -> tuple[Document, ...]:
    """The chart, rendered with one set of values after the other."""
    return rendered(*SETS[request.param])


@pytest.mark.parametrize("values", SETS)
def test_the_chart_is_without_fault(values: str) -> None:
    done = helm("lint", "--strict", "--quiet", str(CHART), *SETS[values])

    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("version", VERSIONS)
def test_old_and_new_kubernetes_take_every_document(documents: tuple[Document, ...], version: str) -> None:
    for document in documents:
        if document["apiVersion"] != OPERATOR:
            validate(document, version)


def test_the_schemas_refuse_a_key_that_kubernetes_does_not_know() -> None:
    broken = json.loads(json.dumps(one(rendered(), "StatefulSet")))
    broken["spec"]["template"]["spec"]["containers"][0]["readinesProbe"] = {}

    with pytest.raises(Exception, match="readinesProbe"):
        validate(broken, VERSIONS[0])


def test_the_mirror_reads_the_configuration_that_the_chart_writes(
    documents: tuple[Document, ...], tmp_path: Path
) -> None:
    text = one(documents, "ConfigMap", "registry-mirror")["data"]["mirror.yaml"]

    settings = config.parse(mounted(text, tmp_path), "mirror.yaml", {})

    assert settings.server.listen[0].port == 5000
    assert not settings.server.listen[0].local
    size = settings.storage.max_size.bytes
    assert size is not None
    assert size <= 0.9 * _bytes(documents) < size + 1024


def test_a_false_value_of_the_configuration_is_kept() -> None:
    documents = rendered("--set", "config.server.fallback=false,config.server.offline=false")

    written = yaml.safe_load(one(documents, "ConfigMap")["data"]["mirror.yaml"])

    assert written["server"] == {"listen": ["0.0.0.0:5000"], "fallback": False, "offline": False}


def test_nothing_is_allowed_that_the_mirror_does_not_need(documents: tuple[Document, ...]) -> None:
    specification = pod(documents)
    [container] = specification["containers"]

    assert specification["securityContext"]["runAsNonRoot"] is True
    assert specification["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert specification["automountServiceAccountToken"] is False
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def test_openshift_chooses_the_ids() -> None:
    context = pod(rendered(*SETS["openshift-values"]))["securityContext"]

    assert context == {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}


def test_there_is_one_pod_and_no_way_to_ask_for_two(documents: tuple[Document, ...]) -> None:
    assert one(documents, "StatefulSet")["spec"]["replicas"] == 1
    assert "replicaCount" in refused("--set", "replicaCount=2")


def test_every_mount_has_its_volume_and_every_probe_its_port(documents: tuple[Document, ...]) -> None:
    for workload in (each for each in documents if each["kind"] in ("StatefulSet", "DaemonSet")):
        specification = workload["spec"]["template"]["spec"]
        [container] = specification["containers"]
        volumes = {volume["name"] for volume in specification["volumes"]}
        assert {mount["name"] for mount in container["volumeMounts"]} == volumes
        ports = {port["name"] for port in container.get("ports", ())}
        probes = [
            container[probe] for probe in ("startupProbe", "livenessProbe", "readinessProbe") if probe in container
        ]
        assert {probe["httpGet"]["port"] for probe in probes if "httpGet" in probe} <= ports


def test_selectors_find_their_pods_and_nothing_else(documents: tuple[Document, ...]) -> None:
    pods = {
        each["kind"]: each["spec"]["template"]["metadata"]["labels"]
        for each in documents
        if each["kind"] in ("StatefulSet", "DaemonSet")
    }

    def found(selector: dict[str, str]) -> list[str]:
        return [kind for kind, labels in pods.items() if selector.items() <= labels.items()]

    assert found(one(documents, "Service")["spec"]["selector"]) == ["StatefulSet"]
    for kind in pods:
        assert found(one(documents, kind)["spec"]["selector"]["matchLabels"]) == [kind]
    for each in documents:
        if each["kind"] == "NetworkPolicy":
            wanted = "DaemonSet" if each["metadata"]["name"].endswith("-nodes") else "StatefulSet"
            assert found(each["spec"]["podSelector"]["matchLabels"]) == [wanted]


def test_transfers_end_before_the_pod_is_killed() -> None:
    assert pod(rendered())["terminationGracePeriodSeconds"] == 45
    assert pod(rendered(*EVERYTHING))["terminationGracePeriodSeconds"] == 135
    assert "does not outlast server.shutdown_timeout (30 s)" in refused("--set", "terminationGracePeriodSeconds=30")


def test_a_changed_configuration_starts_the_pod_anew() -> None:
    def checksum(*arguments: str) -> str:
        template = one(rendered(*arguments), "StatefulSet")["spec"]["template"]
        value: str = template["metadata"]["annotations"]["checksum/config"]
        return value

    assert checksum() != checksum("--set", "config.log.level=debug")
    assert checksum() == checksum("--set", "podDisruptionBudget.enabled=true")


def test_https_is_probed_and_scraped_as_https() -> None:
    documents = rendered(*SETS["tls-values"])
    [container] = pod(documents)["containers"]

    assert container["readinessProbe"]["httpGet"]["scheme"] == "HTTPS"
    [port] = one(documents, "Service")["spec"]["ports"]
    [endpoint] = one(documents, "ServiceMonitor")["spec"]["endpoints"]
    assert endpoint["scheme"] == "https"
    assert endpoint["port"] == port["name"]


def test_prometheus_keeps_the_label_that_says_which_upstream() -> None:
    documents = rendered(*EVERYTHING)
    [endpoint] = one(documents, "ServiceMonitor")["spec"]["endpoints"]
    [port] = one(documents, "Service")["spec"]["ports"]

    assert endpoint["honorLabels"] is True
    assert endpoint["port"] == port["name"]


def test_the_network_policy_lets_out_to_the_upstreams_alone() -> None:
    policy = one(rendered(*EVERYTHING), "NetworkPolicy", "mirror")["spec"]

    ports = [(port["port"], port["protocol"]) for rule in policy["egress"] for port in rule["ports"]]
    assert ports == [
        *((port, protocol) for port in (53, 5353) for protocol in ("UDP", "TCP")),
        *((port, "TCP") for port in (443, 3128, 8443, 80, 8080, 5443)),
    ]
    blocks = [peer["ipBlock"]["cidr"] for rule in policy["ingress"] for peer in rule["from"] if "ipBlock" in peer]
    assert blocks == ["10.0.0.0/16", "fd00::/64"]


def test_the_chart_knows_every_key_of_the_configuration_but_its_own() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())["properties"]["config"]["properties"]

    assert set(schema) == sections._PLACES[""]
    upstream = schema["upstreams"]["additionalProperties"]["properties"]
    assert set(upstream) == sections._PLACES["upstreams.NAME"]
    assert (
        set(upstream["endpoints"]["items"]["anyOf"][1]["properties"]) == sections._PLACES["upstreams.NAME.endpoints[]"]
    )
    assert set(upstream["credentials"]["items"]["properties"]) == sections._PLACES["upstreams.NAME.credentials[]"]
    for rules in ("freshness", "pulls", "budget"):
        assert set(schema[rules]["items"]["properties"]) == sections._PLACES[f"{rules}[]"]
    for section, own in {"server": {"listen", "tls"}, "storage": {"path"}, "log": set()}.items():
        assert set(schema[section]["properties"]) == sections._PLACES[section] - own


def test_the_chart_is_of_this_version() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())

    assert chart["appVersion"] == chart["version"] == __version__
    assert VERSIONS[0] in chart["kubeVersion"]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ("config.sever.offline=true", "sever"),
        ("config.server.listen=0.0.0.0:80", "listen"),
        ("config.storage.path=/data", "path"),
        ("config.storage.max_size=1000000000", "max_size"),
        ("config.log.level=loud", "level"),
        (r"config.upstreams.docker\.io.user=me", "user"),
        (
            r"config.upstreams.docker\.io.endpoints[0].url=https://a,config.upstreams.docker\.io.endpoints[0].n=a",
            "endpoints",
        ),
        (r"config.upstreams.docker\.io.credentials[0].nam=a", "nam"),
        (r"config.upstreams.docker\.io.max_connections=1000", "max_connections"),
        ("config.freshness[0].match=a/**,config.freshness[0].tll=1m", "tll"),
        ("config.pulls[0].deny=a/**,config.pulls[0].raeson=b", "raeson"),
        ("config.budget[0].below=20", "below"),
        ("persistence.size=lots", "size"),
        ("persistence.type=nfs", "type"),
        ("persistence.type=hostPath", "persistence.hostPath: write the directory"),
        ("persistence.accessMode=ReadWriteMany", "accessMode"),
        ("service.nodePort=70000", "nodePort"),
        ("nodeSetup.enabled=yes-please", "enabled"),
        ("nodeSetup.url=mirror.example:5000", "url"),
        ("nodeSetup.enabled=true,service.type=ClusterIP", "nodeSetup.url: a ClusterIP changes"),
        ("nodeSetup.enabled=true,service.type=LoadBalancer", "nodeSetup.url: write where nodes find"),
        ("nodeSetup.enabled=true,service.nodePort=null", "nodeSetup.url: write where nodes find"),
        ("nodeSetup.enabled=true,service.externalTrafficPolicy=Local", "only the pod's own node answers"),
        ("nodeSetup.enabled=true,tls.existingSecret=cert", "nodeSetup.url: with tls"),
        ("networkPolicy.enabled=true", "networkPolicy.nodes: without the nodes' networks"),
        ("ingress.enabled=true", "ingress.host: write the name"),
        ("serviceAccount.create=false,serviceAccount.annotations.a=b", "serviceAccount.annotations"),
        (r"config.upstreams.docker\.io.password=hunter2", "config.upstreams.docker.io.password: would lie"),
        (
            r"config.upstreams.docker\.io.endpoints[0].password=hunter2,config.upstreams.docker\.io.endpoints[0].url=http://a",
            "config.upstreams.docker.io.endpoints[0].password: would lie",
        ),
        (
            r"config.upstreams.docker\.io.credentials[0].password=hunter2",
            "docker.io.credentials[0].password: would lie",
        ),
        (r"config.upstreams.docker\.io.proxy=http://me:hunter2@proxy:3128", "config.upstreams.docker.io.proxy"),
    ],
)
def test_values_that_cannot_work_are_refused_with_what_is_wrong(arguments: str, named: str) -> None:
    said = refused("--set", arguments)

    assert named in said
    assert "hunter2" not in said


def test_secrets_of_the_environment_may_be_named() -> None:
    documents = rendered(
        "--set-json",
        'config={"upstreams":{"docker.io":{"username":"me","password":"${HUB}","proxy":"http://u:${PASS}@proxy:1"}}}',
    )

    assert "${HUB}" in one(documents, "ConfigMap")["data"]["mirror.yaml"]


def _bytes(documents: tuple[Document, ...]) -> float:
    """Return how large the chart was told that the volume is."""
    [volume] = [each for each in pod(documents)["volumes"] if each["name"] == "cache"]
    if "emptyDir" in volume:
        size = volume["emptyDir"]["sizeLimit"]
    elif any(each["kind"] == "PersistentVolumeClaim" for each in documents):
        size = one(documents, "PersistentVolumeClaim")["spec"]["resources"]["requests"]["storage"]
    else:
        size = "200Gi" if "persistentVolumeClaim" in volume else "300G"
    number, unit = re.fullmatch(r"([0-9.]+)(\D*)", size).groups()  # type: ignore[union-attr]
    return float(number) * {"Mi": 1024**2, "Gi": 1024**3, "Ti": 1024**4, "G": 1e9}[unit]
