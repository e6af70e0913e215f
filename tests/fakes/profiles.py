"""The registries that people pull from: their hosts, token services, storage, and what each of them is odd in."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tests.fakes.manner import TOO_LITTLE, Manner, Refusal

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True)
class Profile:
    """One registry. Hosts are names; `auth` is what `Auth` is made of, without users.

    `login` is a user and a password, where it has them; `private`: there is nothing to be had without. `behind` is a
    registry on hosts of its own, to which the first leads.
    """

    namespace: str
    repo: str
    api: str = ""  # the host of the API; the namespace, unless it is another
    prefix: str = ""  # of the API's paths
    tokens: str | None = None  # the host of the token service, where that is another
    storage: str | None = None  # the host that blobs are redirected to
    redirect_status: int = 307
    auth: Mapping[str, Any] = field(default_factory=dict)
    manner: Manner = field(default_factory=lambda: Manner(strict=True))
    login: tuple[str, str] | None = None
    private: bool = False
    foreign_realm: bool = False  # the token service is of another domain: credentials are not for it
    behind: Profile | None = None
    behind_repo: str = ""  # what the repository is called there, if it is there at all

    @property
    def host(self) -> str:
        return self.api or self.namespace


def bearer(realm: str, service: str | None, **more: Any) -> dict[str, Any]:
    return {"mode": "bearer", "realm": realm, "service": service, **more}


_DENIED = Refusal(403, "DENIED", "requested access to the resource is denied")
_KEY = json.dumps({"type": "service_account", "private_key": "-----BEGIN KEY-----\ncanary:key\n-----END"}, indent=2)

HUB = Profile(
    "docker.io",
    "library/nginx",
    api="registry-1.docker.io",
    tokens="auth.docker.io",
    storage="production.cloudflare.docker.com",
    auth=bearer("https://auth.docker.io/token", "registry.docker.io"),
    manner=Manner(
        strict=True,
        unknown_name=TOO_LITTLE,  # it does not tell what is private from what is not there
        manifest_headers={
            "ratelimit-limit": "100;w=21600",
            "ratelimit-remaining": "76;w=21600",
            "docker-ratelimit-source": "192.0.2.1",
        },
    ),
    login=("someone", "canary-hub"),
)
QUAY = Profile(
    "quay.io",
    "org/app",
    storage="cdn01.quay.io",
    redirect_status=302,
    auth=bearer("https://quay.io/v2/auth", "quay.io"),
    manner=Manner(strict=True, explicit_accept=True),
    login=("org+robot", "canary-quay"),
)
GHCR = Profile(
    "ghcr.io",
    "owner/app",
    storage="pkg-containers.githubusercontent.com",
    auth=bearer("https://ghcr.io/token", "ghcr.io", scope="repository:user/image:pull", scope_bound=False),
    manner=Manner(strict=True, closed_tokens=_DENIED),
    login=("owner", "canary-ghcr"),
)
LSCR = Profile(
    "lscr.io",
    "linuxserver/app",
    tokens="ghcr.io",
    storage="pkg-containers.githubusercontent.com",
    auth=bearer("https://ghcr.io/token", "ghcr.io", scope="repository:user/image:pull", scope_bound=False),
    manner=Manner(strict=True, closed_tokens=_DENIED),
    login=("owner", "canary-lscr"),
    foreign_realm=True,
)
GCR = Profile(
    "gcr.io",
    "project/app",
    storage="storage.googleapis.com",
    redirect_status=302,
    auth=bearer("https://gcr.io/v2/token", "gcr.io"),
    manner=Manner(strict=True, stranger=Refusal(bare=True), ping=Refusal(), token_post=404),
    login=("_json_key", _KEY),
)
ARTIFACT_REGISTRY = Profile(
    "europe-west1-docker.pkg.dev",
    "project/images/app",
    storage="storage.googleapis.com",
    redirect_status=302,
    auth=bearer("https://europe-west1-docker.pkg.dev/v2/token", "europe-west1-docker.pkg.dev"),
    manner=Manner(strict=True, token_post=404),
    login=("oauth2accesstoken", "ya29.canary"),
)
KUBERNETES = Profile(
    "registry.k8s.io",
    "pause",
    storage="prod-registry-k8s-io-us-west-2.s3.dualstack.us-west-2.amazonaws.com",
    manner=Manner(strict=True, forward="https://us-west2-docker.pkg.dev/v2/k8s-artifacts-prod/images"),
    behind=Profile(
        "us-west2-docker.pkg.dev",
        "k8s-artifacts-prod/images/pause",
        auth=bearer("https://us-west2-docker.pkg.dev/v2/token", "us-west2-docker.pkg.dev"),
    ),
    behind_repo="k8s-artifacts-prod/images/pause",
)
MICROSOFT = Profile("mcr.microsoft.com", "dotnet/runtime", storage="westeurope.data.mcr.microsoft.com")
ECR_PUBLIC = Profile(
    "public.ecr.aws",
    "docker/library/app",
    storage="d5l0dvt14r5h8.cloudfront.net",
    auth=bearer("https://public.ecr.aws/token/", "public.ecr.aws", scope="aws"),
    manner=Manner(
        strict=True,
        scopes=("aws",),
        stray_basic=Refusal(400, "UNSUPPORTED", "invalid authorization"),
        old_token=Refusal(400, "DENIED", "Your Authorization Token is invalid."),
        head_blob=Refusal(),
    ),
    login=("AWS", "canary-ecr-public"),
)
ECR = Profile(
    "123456789012.dkr.ecr.eu-central-1.amazonaws.com",
    "team/app",
    storage="prod-eu-central-1-starport-layer-bucket.s3.eu-central-1.amazonaws.com",
    auth={"mode": "basic"},
    manner=Manner(
        strict=True,
        old_password=Refusal(403, "DENIED", "Your authorization token has expired. Reauthenticate and try again."),
    ),
    login=("AWS", "canary-ecr"),
    private=True,
)
ACR = Profile(
    "contoso.azurecr.io",
    "team/app",
    storage="contoso.westeurope.data.azurecr.io",
    auth=bearer("https://contoso.azurecr.io/oauth2/token", "contoso.azurecr.io", token_field="access_token"),
    manner=Manner(strict=True),  # a POST is for identity tokens (refresh tokens); another one is 400
    login=("00000000-0000-0000-0000-000000000000", "canary-acr"),
)
NVIDIA = Profile(
    "nvcr.io",
    "nvidia/cuda",
    storage="layers.nvcr.io",
    auth=bearer("https://nvcr.io/proxy_auth", None),
    manner=Manner(
        strict=True,
        pages=True,
        # What follows an old token is a challenge that leads nowhere (nvidia-container-toolkit#1945).
        old_token=Refusal(challenge='Bearer realm="https://authn.nvidia.com/token",service="registry"'),
    ),
    login=("$oauthtoken", "canary-nvcr"),
    behind=Profile(
        "authn.nvidia.com",
        "",
        auth=bearer("https://authn.nvidia.com/token", "registry", anonymous=False),
    ),
)
GITLAB = Profile(
    "registry.gitlab.com",
    "group/project/app",
    tokens="gitlab.com",
    storage="cdn.registry.gitlab-static.net",
    auth=bearer("https://gitlab.com/jwt/auth", "container_registry"),
    manner=Manner(strict=True, closed_tokens=_DENIED),
    login=("deployer", "canary-gitlab"),
)
ARTIFACTORY = Profile(
    "artifactory.example",
    "library/app",
    prefix="/artifactory/api/docker/hub-remote",
    auth={
        "mode": "both",
        "realm": "https://artifactory.example/artifactory/api/docker/hub-remote/v2/token",
        "service": "artifactory.example",
    },
    # Whoever asks for a manifest without having been at `/v2/` is forbidden it.
    manner=Manner(strict=True, stranger=Refusal(403, "DENIED"), ping=Refusal(), token_post=401),
    login=("reader", "canary-artifactory"),
)
NEXUS = Profile(
    "nexus.example",
    "team/app",
    prefix="/repository/docker-group",
    auth=bearer(
        "https://nexus.example/repository/docker-group/v2/token",
        "https://nexus.example/repository/docker-group/v2/token",
        expires_in=None,
    ),
    login=("reader", "canary-nexus"),
)
HARBOR = Profile(
    "harbor.example",
    "project/app",
    auth=bearer("https://harbor.example/service/token", "harbor-registry"),
    manner=Manner(strict=True, unknown_name=Refusal()),
    login=("robot$project+ci", "canary-harbor"),
)

PROFILES = {
    "docker hub": HUB,
    "quay.io": QUAY,
    "ghcr.io": GHCR,
    "lscr.io": LSCR,
    "gcr.io": GCR,
    "artifact registry": ARTIFACT_REGISTRY,
    "registry.k8s.io": KUBERNETES,
    "mcr.microsoft.com": MICROSOFT,
    "public.ecr.aws": ECR_PUBLIC,
    "private ecr": ECR,
    "azure": ACR,
    "nvcr.io": NVIDIA,
    "registry.gitlab.com": GITLAB,
    "artifactory": ARTIFACTORY,
    "nexus": NEXUS,
    "harbor": HARBOR,
}
