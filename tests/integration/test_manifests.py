"""The manifests of examples/kubernetes: they are valid, agree with each other, with the command and with the server."""

import asyncio
import copy
import json
import re
import shlex

import kubernetes_validate
import pytest
import yaml

from benchmarks import locks
from gpt4x import cli
from gpt4x.serving.app import App, build
from gpt4x.serving.settings import Settings
from tests import shown

FOLDER = shown.ROOT / "examples" / "kubernetes"
PAGE = shown.ROOT / "docs" / "serving-on-kubernetes.md"
PLACES = ("cpu", "gpu", "tpu")
VERSIONS = ("1.30", "1.37")  # The first that the page names, and the last that the validator knows.
POD = {"POD_IP": "10.1.2.3", "NAMESPACE": "models"}  # What the cluster puts into a replica's environment.
KEY = "a-key-of-nobody-0123"
BODY = {"type": "http.request", "body": b"", "more_body": False}
parametrized = pytest.mark.parametrize("place", PLACES)


def documents(name: str) -> list[dict]:
  return list(yaml.safe_load_all((FOLDER / name).read_text()))


def of(place: str) -> dict[str, dict]:
  """A place's objects, each by its kind."""
  return {one["kind"]: one for one in documents(f"{place}.yaml")}


def pod(place: str) -> dict:
  return of(place)["Deployment"]["spec"]["template"]["spec"]


def container(place: str) -> dict:
  one, = pod(place)["containers"]
  return one


def command(place: str):
  """The replica's own command line, as gpt4x reads it."""
  filled = [re.sub(r"\$\((\w+)\)", lambda name: POD[name[1]], argument) for argument in container(place)["args"]]
  return cli._parse(filled)


class Model:
  """As much of a served model as the routes and the metrics ask."""

  def ready(self):
    return True

  def figures(self):
    return {"waiting": 3, "running": 16}


def status(server: App, path: str, host: str, key: str | None = None) -> int:
  """What a replica answers to a GET."""
  headers = [(b"host", host.encode()), *([(b"authorization", f"Bearer {key}".encode())] if key else [])]
  scope = {"type": "http", "method": "GET", "path": path, "raw_path": path.encode(), "query_string": b"",
           "headers": headers, "http_version": "1.1", "scheme": "http", "root_path": ""}
  answer = []

  async def receive():
    return BODY

  async def send(message):
    answer.append(message)

  asyncio.run(server(scope, receive, send))
  return answer[0]["status"]


def replica(place: str) -> App:
  hosts = [name.lower() for name in command(place).allowed_host]
  return build({"mine": Model()}, Settings(keys=(KEY.encode(),), hosts=frozenset({"localhost", *hosts})))


@pytest.mark.parametrize("version", VERSIONS)
@parametrized
def test_the_manifests_are_valid(place, version):
  for one in documents(f"{place}.yaml"):
    kubernetes_validate.validate(one, version, strict=True)
  assert of(place).keys() - {"ServiceAccount"} == {
      "Deployment", "Service", "HorizontalPodAutoscaler", "PodDisruptionBudget"}


def test_what_is_not_valid_is_found():
  broken = copy.deepcopy(of("cpu")["Deployment"])
  broken["spec"]["template"]["spec"]["containers"][0]["readinesProbe"] = {}
  with pytest.raises(kubernetes_validate.ValidationError, match="readinesProbe"):
    kubernetes_validate.validate(broken, VERSIONS[0], strict=True)


@parametrized
def test_a_replica_s_command_is_one(place):
  parsed = command(place)
  assert parsed.command == "serve" and parsed.host == "0.0.0.0"
  port, = container(place)["ports"]
  assert port == {"name": "http", "containerPort": parsed.port}
  assert set(POD) == {one["name"] for one in container(place)["env"]}


@parametrized
def test_probes_ask_what_the_server_answers(place):
  """By the address of the pod, as the kubelet does, and without a key."""
  server, own = replica(place), container(place)
  probes = {name: own[name]["httpGet"] for name in ("startupProbe", "readinessProbe", "livenessProbe")}
  assert {name: probe["path"] for name, probe in probes.items()} == {
      "startupProbe": "/ready", "readinessProbe": "/ready", "livenessProbe": "/health"}
  for probe in probes.values():
    assert probe["port"] == own["ports"][0]["name"]
    assert status(server, probe["path"], f"{POD['POD_IP']}:{command(place).port}") == 200
  server.context.lifecycle.draining = True
  answers = {name: status(server, probe["path"], POD["POD_IP"]) for name, probe in probes.items()}
  assert answers == {"startupProbe": 503, "readinessProbe": 503, "livenessProbe": 200}


@parametrized
def test_a_service_leads_to_the_replicas_by_names_that_they_have(place):
  service, labels = of(place)["Service"], of(place)["Deployment"]["spec"]["template"]["metadata"]["labels"]
  assert service["spec"]["selector"] == labels
  assert service["spec"]["ports"][0]["targetPort"] == container(place)["ports"][0]["name"]
  name = service["metadata"]["name"]
  for host in (name, f"{name}.{POD['NAMESPACE']}.svc", "localhost:8000"):
    assert status(replica(place), "/metrics", host, KEY) == 200
    assert status(replica(place), "/metrics", host) == 401
  assert status(replica(place), "/metrics", "elsewhere.example", KEY) == 421


@parametrized
def test_the_other_objects_are_of_the_deployment(place):
  found = of(place)
  deployment, scaler = found["Deployment"], found["HorizontalPodAutoscaler"]["spec"]
  labels = deployment["spec"]["template"]["metadata"]["labels"]
  assert labels["runs-on"] == place and labels["app"] == "gpt4x"
  assert scaler["scaleTargetRef"] == {"apiVersion": deployment["apiVersion"], "kind": "Deployment",
                                      "name": deployment["metadata"]["name"]}
  assert scaler["minReplicas"] >= 2 and "replicas" not in deployment["spec"]  # Which would fight each other.
  assert deployment["spec"]["selector"]["matchLabels"] == labels
  assert found["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"] == labels
  assert len({one["metadata"]["name"] for kind, one in found.items() if kind != "ServiceAccount"}) == 1
  account = found.get("ServiceAccount")
  assert pod(place).get("serviceAccountName") == (account["metadata"]["name"] if account else None)


@parametrized
def test_replicas_scale_by_what_a_server_says_of_itself(place):
  metric, = of(place)["HorizontalPodAutoscaler"]["spec"]["metrics"]
  name = metric["pods"]["metric"]["name"]
  assert f'{name}{{model="mine"}} 3.0' in replica(place).context.metrics.text().decode()
  rule, = documents("adapter.yaml")[0]["rules"]["custom"]
  assert rule["name"]["as"] == name and rule["seriesQuery"].startswith(f"{name}{{")
  monitor, = documents("monitor.yaml")
  endpoint, = monitor["spec"]["podMetricsEndpoints"]
  labels = of(place)["Deployment"]["spec"]["template"]["metadata"]["labels"]
  assert monitor["spec"]["selector"]["matchLabels"].items() <= labels.items()
  assert endpoint["port"] == container(place)["ports"][0]["name"]
  assert status(replica(place), endpoint["path"], POD["POD_IP"], KEY) == 200
  keys = next(one["secret"] for one in pod(place)["volumes"] if "secret" in one)
  assert endpoint["authorization"]["credentials"]["name"] == keys["secretName"]


@parametrized
def test_there_is_time_to_start_and_to_end(place):
  own, deployment = container(place), of(place)["Deployment"]["spec"]
  pause, closing = own["lifecycle"]["preStop"]["sleep"]["seconds"], 5
  assert pod(place)["terminationGracePeriodSeconds"] > pause + command(place).grace + closing
  probe = own["startupProbe"]
  assert 600 <= probe["periodSeconds"] * probe["failureThreshold"] < deployment["progressDeadlineSeconds"]


@parametrized
def test_a_replica_has_no_rights_and_writes_nowhere_but_in_tmp(place):
  spec, own = pod(place), container(place)
  rights, user = spec["securityContext"], int(re.search("^USER (.+)$", dockerfile(), re.MULTILINE)[1])
  assert rights["runAsNonRoot"] and rights["runAsUser"] == user > 0
  assert rights["seccompProfile"] == {"type": "RuntimeDefault"} and spec["automountServiceAccountToken"] is False
  assert own["securityContext"] == {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True,
                                    "capabilities": {"drop": ["ALL"]}}
  volumes = {one["name"]: one for one in spec["volumes"]}
  mounts = {one["mountPath"]: one for one in own["volumeMounts"]}
  assert {one["name"] for one in mounts.values()} == volumes.keys()
  assert {path for path, one in mounts.items() if not one.get("readOnly")} == {"/tmp"}
  assert "emptyDir" in volumes[mounts["/tmp"]["name"]]
  written = re.search("^ENV (.+)$", dockerfile(), re.MULTILINE)[1]
  assert {path.split("/")[1] for path in re.findall(r"=(/\S+)", written)} == {"tmp"}


@parametrized
def test_keys_and_models_are_mounted_where_they_are_read(place):
  parsed, spec = command(place), pod(place)
  volumes = {one["name"]: one for one in spec["volumes"]}
  mounts = {one["mountPath"]: volumes[one["name"]] for one in container(place)["volumeMounts"]}
  secret = mounts[parsed.api_key_file.rpartition("/")[0]]["secret"]
  assert parsed.api_key_file.rpartition("/")[2] in [item["path"] for item in secret["items"]]
  assert secret["defaultMode"] == 0o440 and spec["securityContext"]["fsGroup"] == spec["securityContext"]["runAsGroup"]
  directory = parsed.model_dir[0].rpartition("=")[2]
  assert directory.startswith("gs://") or mounts[directory]["persistentVolumeClaim"]["readOnly"]


def test_each_place_has_its_device_and_the_image_for_it():
  limits = {place: container(place)["resources"]["limits"] for place in PLACES}
  devices = {place: {name: one for name, one in found.items() if "/" in name} for place, found in limits.items()}
  assert devices == {"cpu": {}, "gpu": {"nvidia.com/gpu": 1}, "tpu": {"google.com/tpu": 1}}
  across, down = map(int, pod("tpu")["nodeSelector"]["cloud.google.com/gke-tpu-topology"].split("x"))
  assert across * down == devices["tpu"]["google.com/tpu"]
  assert pod("tpu")["nodeSelector"]["cloud.google.com/gke-tpu-accelerator"] == "tpu-v5-lite-podslice"
  built = re.findall(r"^docker build .*--tag=(\S+)", PAGE.read_text(), re.MULTILINE)
  assert [container(place)["image"] for place in PLACES] == built


def test_the_three_differ_in_nothing_else():
  """So that what is mended in one is mended in all."""
  def common(place):
    found = {kind: one for kind, one in of(place).items() if kind != "ServiceAccount"}
    own = found["Deployment"]["spec"]["template"]["spec"]["containers"][0]
    for name in ("image", "resources"):
      del own[name]
    own["args"] = [flag for flag in own["args"] if not flag.startswith(("--model_dir", "--slots"))]
    spec = found["Deployment"]["spec"]["template"]["spec"]
    for name in ("nodeSelector", "tolerations", "serviceAccountName"):
      spec.pop(name, None)
    for parts in (own["volumeMounts"], spec["volumes"]):
      parts[:] = [one for one in parts if one["name"] != "model"]
    del found["Deployment"]["spec"]["strategy"]
    return json.loads(json.dumps(found).replace(f"gpt4x-{place}", "gpt4x-PLACE").replace(f'"{place}"', '"PLACE"'))

  assert common("cpu") == common("gpu") == common("tpu")


def test_no_file_has_a_key():
  key = re.compile(r"^kind: Secret$|\b[0-9a-fA-F]{24,}\b|\bsk-\w+|BEGIN [A-Z ]*PRIVATE", re.MULTILINE)
  assert not [path.name for path in [*FOLDER.iterdir(), PAGE] if key.search(path.read_text())]


def dockerfile() -> str:
  return (FOLDER / "Dockerfile").read_text().replace("\\\n", " ")


def test_the_image_serves_and_is_asked_where_it_listens():
  lines = dict(re.findall(r"^(ENTRYPOINT|CMD|EXPOSE|HEALTHCHECK) (.+)$", dockerfile(), re.MULTILINE))
  parsed = cli._parse([*json.loads(lines["ENTRYPOINT"]), *json.loads(lines["CMD"])][1:])
  assert parsed.command == "serve" and str(parsed.port) == lines["EXPOSE"]
  program = json.loads(lines["HEALTHCHECK"].partition(" CMD ")[2])[-1]
  compile(program, "HEALTHCHECK", "exec")
  assert f"http://127.0.0.1:{parsed.port}/health'" in program
  assert status(replica("cpu"), "/health", "localhost") == 200


def test_the_image_is_built_from_what_its_context_holds():
  """By names of extras that there are, and of build arguments that it has."""
  text, extras = dockerfile(), locks.extras()
  arguments = dict(re.findall(r'^ARG (\w+)="(.*)"$', text, re.MULTILINE))
  shown_arguments = re.findall(r"--build-arg[ =](\w+)=([\w.,:/]+)", text + PAGE.read_text())
  assert {name for name, _ in shown_arguments} == arguments.keys() == {"EXTRA", "SOURCE"}
  assert {value for name, value in shown_arguments if name == "EXTRA"} == {"cuda", "tpu"} <= extras.keys()
  installed = re.search(r"gpt4x\[([\w,]+)\$", text)[1].split(",")
  assert set(installed) == {"serve", "gcs"} <= extras.keys()
  kept = (shown.ROOT / ".dockerignore").read_text().splitlines()
  constraints = re.findall(r"--constraint=/tmp/gpt4x/(\S+)", text)
  assert len(constraints) == 2 and {f"!{name}" for name in constraints} <= set(kept)
  assert f"COPY . {arguments['SOURCE'].removeprefix('file://')}" in text


def test_the_page_names_what_there_is():
  text = PAGE.read_text()
  assert len(text.splitlines()) <= 100
  named = set(re.findall(r"=examples/kubernetes/(\S+)", text))
  assert named == {path.name for path in FOLDER.iterdir()}
  objects = {f"{one['kind'].lower()}/{one['metadata']['name']}" for place in PLACES for one in of(place).values()}
  objects |= {one.replace("horizontalpodautoscaler/", "hpa/") for one in objects}
  for one in re.findall(r"\b(?:deployment|service|hpa)/[\w-]+", text.replace("hpa gpt4x", "hpa/gpt4x")):
    assert one in objects, one
  made = next(shlex.split(line) for line in text.splitlines() if line.startswith("kubectl create secret"))
  files = {flag.partition("=")[2].partition("=")[0] for flag in made if flag.startswith("--from-file=")}
  secret = next(one["secret"] for one in pod("cpu")["volumes"] if "secret" in one)
  wanted = documents("monitor.yaml")[0]["spec"]["podMetricsEndpoints"][0]["authorization"]["credentials"]
  assert made[4] == secret["secretName"] and files == {secret["items"][0]["key"], wanted["key"]}
