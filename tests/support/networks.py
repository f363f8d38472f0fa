"""Tiny networks that have, between them, everything that the large ones have, and one that goes by a name."""

from jaxclf.models import ResNetConfig

BASIC = ResNetConfig("tiny-basic", "basic", (2, 1, 1, 1), stage_widths=(8, 8, 16, 16), stem_width=8)
RICH = ResNetConfig(
    "tiny-rich",
    "bottleneck",
    (1, 1, 1, 1),
    stem="tiered",
    stem_width=16,
    stage_widths=(8, 8, 8, 16),
    groups=2,
    base_width=32,
    downsample="avg",
    squeeze_excitation=True,
)
#: What whole runs train where any architecture will do: a thin resnet10t. The fixture `small10t` makes the name known.
SMALL = ResNetConfig(
    "small10t", "basic", (1, 1, 1, 1), stem="tiered", downsample="avg", stem_width=16, stage_widths=(8, 16, 16, 32)
)
