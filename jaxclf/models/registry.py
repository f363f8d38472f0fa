"""The architectures by name: torchvision's ResNets, ResNeXts and wide ResNets, timm's T, D and SE variants."""

import difflib

from jaxclf.models.resnet import ResNetConfig

_TABLE = (
    # torchvision
    ResNetConfig("resnet18", "basic", (2, 2, 2, 2)),
    ResNetConfig("resnet34", "basic", (3, 4, 6, 3)),
    ResNetConfig("resnet50", "bottleneck", (3, 4, 6, 3)),
    ResNetConfig("resnet101", "bottleneck", (3, 4, 23, 3)),
    ResNetConfig("resnet152", "bottleneck", (3, 8, 36, 3)),
    ResNetConfig("resnext50_32x4d", "bottleneck", (3, 4, 6, 3), groups=32, base_width=4),
    ResNetConfig("resnext101_32x8d", "bottleneck", (3, 4, 23, 3), groups=32, base_width=8),
    ResNetConfig("resnext101_64x4d", "bottleneck", (3, 4, 23, 3), groups=64, base_width=4),
    ResNetConfig("wide_resnet50_2", "bottleneck", (3, 4, 6, 3), base_width=128),
    ResNetConfig("wide_resnet101_2", "bottleneck", (3, 4, 23, 3), base_width=128),
    # timm
    ResNetConfig("resnet10t", "basic", (1, 1, 1, 1), stem="tiered", downsample="avg"),
    ResNetConfig("resnet14t", "bottleneck", (1, 1, 1, 1), stem="tiered", downsample="avg"),
    ResNetConfig("resnet18d", "basic", (2, 2, 2, 2), stem="deep", downsample="avg"),
    ResNetConfig("resnet26d", "bottleneck", (2, 2, 2, 2), stem="deep", downsample="avg"),
    ResNetConfig("resnet26t", "bottleneck", (2, 2, 2, 2), stem="tiered", downsample="avg"),
    ResNetConfig("resnet34d", "basic", (3, 4, 6, 3), stem="deep", downsample="avg"),
    ResNetConfig("resnet50d", "bottleneck", (3, 4, 6, 3), stem="deep", downsample="avg"),
    ResNetConfig("resnet101d", "bottleneck", (3, 4, 23, 3), stem="deep", downsample="avg"),
    ResNetConfig("seresnet50", "bottleneck", (3, 4, 6, 3), squeeze_excitation=True),
)
_CONFIGS = {config.arch: config for config in _TABLE}


def list_archs() -> tuple[str, ...]:
    """Names of all architectures: torchvision's first, then timm's, smallest first in each family.

    Example:
      >>> list_archs()[:3]
      ('resnet18', 'resnet34', 'resnet50')
    """
    return tuple(_CONFIGS)


def get_config(arch: str | ResNetConfig) -> ResNetConfig:
    """The configuration of an architecture.

    Args:
      arch: a name from `list_archs()`, or a configuration of your own, which is returned as it is.

    Raises:
      ValueError: for an unknown name, with the names that look like it and the list of all.

    Example:
      >>> get_config("resnet50").stage_sizes
      (3, 4, 6, 3)
    """
    if isinstance(arch, ResNetConfig):
        return arch
    if arch not in _CONFIGS:
        wanted = str(arch).lower().replace("-", "_")
        close = [name for name in _CONFIGS if wanted in name] or difflib.get_close_matches(wanted, _CONFIGS)
        hint = f" Did you mean {' or '.join(close[:3])}?" if close else ""
        raise ValueError(f"arch: unknown architecture {arch!r}.{hint} Known: {', '.join(_CONFIGS)}")
    return _CONFIGS[arch]
