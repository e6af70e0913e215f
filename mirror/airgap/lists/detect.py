"""Of which form a document is: the first one in `FORMS` that it fits, by what it holds and not by its file's name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from mirror.airgap.lists.compose import ComposeFile
from mirror.airgap.lists.dockerfile import Dockerfile
from mirror.airgap.lists.hauler import HaulerManifest
from mirror.airgap.lists.helm import HelmChart
from mirror.airgap.lists.image_syncer import ImageSyncer
from mirror.airgap.lists.imageset import ImageSet
from mirror.airgap.lists.kubernetes import KubernetesObjects
from mirror.airgap.lists.kustomize import Kustomization
from mirror.airgap.lists.listings import Listing
from mirror.airgap.lists.lockfiles import ImagesLock
from mirror.airgap.lists.regsync import Regsync
from mirror.airgap.lists.skopeo import SkopeoSync
from mirror.airgap.lists.text import TextList, TreeList
from mirror.airgap.lists.zarf import ZarfPackage

if TYPE_CHECKING:
    from mirror.airgap.lists.documents import Document
    from mirror.airgap.lists.sink import Sink


class Form(Protocol):
    """One kind of list of images. It holds no state; `name` is for people, in the singular: `skopeo sync file`."""

    name: str

    def fits(self, document: Document) -> bool:
        """Say whether `document` is of this form. It does not raise, whatever the document holds."""
        ...

    def read(self, document: Document, sink: Sink) -> None:
        """Put what a fitting document asks for into `sink`. It does not raise, whatever the document holds."""
        ...


# In order: forms that can be told by a key of their own, then those that go by less, then plain text.
FORMS: tuple[Form, ...] = (
    HaulerManifest(),
    ZarfPackage(),
    ImageSet(),
    ImagesLock(),
    SkopeoSync(),
    Regsync(),
    Listing(),
    ImageSyncer(),
    Dockerfile(),
    HelmChart(),
    Kustomization(),
    ComposeFile(),
    KubernetesObjects(),  # behind those that have an `apiVersion` and a `kind` of their own
    TreeList(),
    TextList(),
)


def form_of(document: Document) -> Form | None:
    """Return the form of a document, None where it has none that is known."""
    return next((form for form in FORMS if form.fits(document)), None)
