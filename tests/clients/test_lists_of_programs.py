"""Lists as the programs write them that people have at hand: Helm and kubectl. No cluster is asked."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mirror.airgap.lists.read import read
from tests.conftest import in_ci

if TYPE_CHECKING:
    from mirror.airgap.wanted import ImageList

DEPLOYMENT = """\
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
        - name: web
          image: "{{ .Values.image.repository }}:{{ .Values.image.tag }}"
"""
HOOK = """\
{{- if .Values.tested }}
apiVersion: v1
kind: Pod
metadata: {name: test, annotations: {"helm.sh/hook": test}}
spec: {containers: [{name: test, image: busybox:1.36}]}
{{- end }}
"""


def listed(program: str, *arguments: str) -> ImageList:
    found = shutil.which(program, path=str(Path(sys.executable).parent)) or shutil.which(program)
    if found is None:
        say = pytest.fail if in_ci() else pytest.skip
        say(f"needs {program}")
    done = subprocess.run([found, *arguments], check=True, capture_output=True, timeout=60)
    return read(done.stdout, "-")


def images(found: ImageList) -> list[str]:
    assert found.unread == ()
    return [str(wanted) for wanted in found.wanted]


def test_what_helm_renders_is_read(tmp_path: Path) -> None:
    (tmp_path / "templates").mkdir()
    (tmp_path / "Chart.yaml").write_text("apiVersion: v2\nname: shop\nversion: 1.0.0\n")
    (tmp_path / "values.yaml").write_text('image: {repository: quay.io/shop/web, tag: "1.20"}\ntested: true\n')
    (tmp_path / "templates" / "deployment.yaml").write_text(DEPLOYMENT)
    (tmp_path / "templates" / "test.yaml").write_text(HOOK)
    (tmp_path / "templates" / "NOTES.txt").write_text("Visit: {{ .Release.Name }}\nimage: not/this:1\n")
    found = listed("helm", "template", "shop", str(tmp_path))
    assert images(found) == ["quay.io/shop/web:1.20", "docker.io/library/busybox:1.36"]
    assert images(listed("helm", "template", "shop", str(tmp_path), "--set", "tested=false")) == [
        "quay.io/shop/web:1.20"
    ]


@pytest.mark.needs("kubectl")
@pytest.mark.parametrize("form", ["yaml", "json"])
def test_what_kubectl_writes_is_read(form: str) -> None:
    arguments = ["--image=quay.io/shop/web:1.20", "--image=redis", "--dry-run=client", "-o", form]
    found = listed("kubectl", "create", "deployment", "web", *arguments)
    assert images(found) == ["quay.io/shop/web:1.20", "docker.io/library/redis:latest"]
    arguments = ["--image=busybox:1.36", "--schedule=@daily", "--dry-run=client", "-o", form]
    assert images(listed("kubectl", "create", "cronjob", "nightly", *arguments)) == ["docker.io/library/busybox:1.36"]


@pytest.mark.needs("kubectl")
def test_what_kustomize_builds_is_read(tmp_path: Path) -> None:
    (tmp_path / "pod.yaml").write_text(
        "apiVersion: v1\nkind: Pod\nmetadata: {name: web}\nspec: {containers: [{name: web, image: nginx:1.7.9}]}\n"
    )
    kustomization = "resources: [pod.yaml]\nimages: [{name: nginx, newName: quay.io/shop/web, newTag: '1.20'}]\n"
    (tmp_path / "kustomization.yaml").write_text(kustomization)
    assert images(listed("kubectl", "kustomize", str(tmp_path))) == ["quay.io/shop/web:1.20"]
    assert images(read(kustomization.encode(), "kustomization.yaml")) == ["quay.io/shop/web:1.20"]
