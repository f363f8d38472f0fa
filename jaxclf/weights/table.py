"""The best known ImageNet-1k weights of each architecture, for `--weights auto`.

Names, top-1 accuracies and test sizes are timm's own, from `results/results-imagenet.csv` in its repository (commit
0173a139); resnet50d's, which are younger, from the release notes in timm's README. Origins and licences are from the
weights' entries in `timm/models/resnet.py` (commit 00c5be76, where only other people's weights name a licence) and
from model cards on the hub. Looked up in November 2026 in stored copies of these pages; nothing was measured anew.

"Best" is the highest top-1 among weights whose licence allows any use. Facebook's semi-weakly supervised ones
(fb_swsl) score 0.1 to 1.5 points more for resnet18, resnext50_32x4d and resnext101_32x8d but are CC-BY-NC-4.0; they can
still be named, for example `--weights timm/resnet18.fb_swsl_ig1b_ft_in1k`.
"""

from dataclasses import dataclass

from jaxclf.models import get_config

_APACHE, _BSD = "Apache-2.0", "BSD-3-Clause"


@dataclass(frozen=True)
class KnownWeights:
    """One set of ImageNet-1k weights on the hub.

    Attributes:
      arch: the architecture.
      hub_id: repository on the hub, for `load_weights`.
      licence: SPDX identifier.
      top1: published ImageNet-1k validation top-1, in percent.
      test_size: side in pixels of the images that `top1` was measured with.
      origin: who trained them, and how.
    """

    arch: str
    hub_id: str
    licence: str
    top1: float
    test_size: int
    origin: str


def _row(name: str, top1: float, test_size: int, origin: str, licence: str = _APACHE) -> KnownWeights:
    return KnownWeights(name.partition(".")[0], f"timm/{name}", licence, top1, test_size, origin)


_RSB_A1 = "timm, 'ResNet strikes back' recipe A1 (arXiv:2110.00476)"
_RSB_A1H = "timm, 'ResNet strikes back' recipe A1 with stronger regularisation (arXiv:2110.00476)"
_RSB_C = "timm, after 'ResNet strikes back' recipe C (arXiv:2110.00476)"
_RA2 = "timm, RandAugment recipe RA2"
_TV2 = "torchvision, IMAGENET1K_V2 weights"

_ROWS = (
    _row("resnet18.a1_in1k", 73.158, 288, _RSB_A1),
    _row("resnet34.a1_in1k", 77.918, 288, _RSB_A1),
    _row("resnet50.a1_in1k", 81.214, 288, _RSB_A1),
    _row("resnet101.a1h_in1k", 82.778, 288, _RSB_A1H),
    _row("resnet152.a1h_in1k", 83.450, 288, _RSB_A1H),
    _row("resnext50_32x4d.a1h_in1k", 82.014, 288, _RSB_A1H),
    _row("resnext101_32x8d.tv2_in1k", 82.832, 224, _TV2, _BSD),
    _row("resnext101_64x4d.c1_in1k", 83.156, 288, _RSB_C),
    _row("wide_resnet50_2.racm_in1k", 82.280, 288, "timm, RandAugment recipe RACM"),
    _row("wide_resnet101_2.tv2_in1k", 82.498, 224, _TV2, _BSD),
    _row("resnet10t.c3_in1k", 68.358, 224, _RSB_C),
    _row("resnet14t.c3_in1k", 72.254, 224, _RSB_C),
    _row("resnet18d.ra2_in1k", 73.794, 288, _RA2),
    _row("resnet26d.bt_in1k", 77.408, 288, "timm, 'bag of tricks' recipe"),
    _row("resnet26t.ra2_in1k", 78.332, 320, _RA2),
    _row("resnet34d.ra2_in1k", 78.436, 288, _RA2),
    _row("resnet50d.ra4_e3600_r224_in1k", 81.838, 288, "timm, MobileNetV4's recipe"),
    _row("resnet101d.ra2_in1k", 83.016, 320, _RA2),
    _row("seresnet50.ra2_in1k", 81.284, 288, _RA2),
)


def known_weights(arch: str | None = None) -> tuple[KnownWeights, ...]:
    """The table, or its rows for one architecture.

    Raises:
      ValueError: for an unknown architecture.

    >>> known_weights("resnet34")[0].hub_id
    'timm/resnet34.a1_in1k'
    """
    if arch is not None:
        arch = get_config(arch).arch
    return tuple(row for row in _ROWS if arch in (None, row.arch))


def best_weights(arch: str) -> KnownWeights:
    """The weights that `--weights auto` takes: the highest published top-1.

    Raises:
      ValueError: for an unknown architecture, or one without known weights, naming what to do instead.
    """
    rows = known_weights(arch)
    if not rows:
        raise ValueError(
            f"no ImageNet weights are known for arch={arch!r}: name a file or a hub id, train from scratch "
            f"(--weights none), or choose one of {', '.join(row.arch for row in _ROWS)}"
        )
    return max(rows, key=lambda row: row.top1)
