"""The ResNet body: stem, four stages, pooled; one config for torchvision's and timm's variants.

Strides, paddings and the order of operations are those of the torch networks the weights come from. Padding is
explicit everywhere: `SAME` with stride 2 pads (0, 1) where torch pads (1, 1), and silently shifts every feature map.
"""

from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxclf.config import CUTS, MODULES
from jaxclf.models.conv import convolution
from jaxclf.models.norm import BatchNorm
from jaxclf.models.pool import average_pool_2x2, concat_pool, max_pool

_he_normal = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


@dataclass(frozen=True)
class ResNetConfig:
    """What distinguishes one ResNet from another; hashable, so it can be a static argument.

    Attributes:
      arch: name, as in `list_archs()`, or any other for a network of your own.
      block: `basic` (two 3x3 convolutions) or `bottleneck` (1x1, 3x3, 1x1 with four times the width).
      stage_sizes: number of blocks of the four stages.
      stem: `plain` (7x7 stride 2), `deep` (three 3x3 of widths w/2, w/2, w) or `tiered` (3w/8, w/2, w).
      stem_width: w, the channels that leave the stem.
      stage_widths: base channels of the four stages; a bottleneck puts out four times as many.
      groups: groups of the 3x3 convolution of a bottleneck (ResNeXt).
      base_width: inner width of a bottleneck: int(stage width * base_width / 64) * groups.
      downsample: shortcut where the shape changes: `conv` (1x1 with the stride) or `avg` (2x2 mean, then 1x1).
      squeeze_excitation: gate every block's channels (SE-ResNet), with a sixteenth of them as bottleneck.
      in_channels: channels of the image.

    Raises:
      ValueError: naming the field, for sizes that describe no network.

    References:
      He et al., 2015, arXiv:1512.03385 (ResNet); Xie et al., 2016, arXiv:1611.05431 (ResNeXt);
      Hu et al., 2017, arXiv:1709.01507 (SE); He et al., 2018, arXiv:1812.01187 (D variants).
    """

    arch: str
    block: Literal["basic", "bottleneck"]
    stage_sizes: tuple[int, ...]
    stem: Literal["plain", "deep", "tiered"] = "plain"
    stem_width: int = 64
    stage_widths: tuple[int, ...] = (64, 128, 256, 512)
    groups: int = 1
    base_width: int = 64
    downsample: Literal["conv", "avg"] = "conv"
    squeeze_excitation: bool = False
    in_channels: int = 3

    def __post_init__(self) -> None:
        for name, allowed in _CHOICES.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name}: expected one of {allowed}, got {getattr(self, name)!r}")
        for name in ("stage_sizes", "stage_widths"):
            value = getattr(self, name)
            if len(value) != 4 or min(value) < 1:
                raise ValueError(f"{name}: expected four positive integers, got {value!r}")
        for name in ("stem_width", "groups", "in_channels"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected a positive integer, got {getattr(self, name)!r}")
        if self.block == "basic" and (self.groups != 1 or self.base_width != 64):
            raise ValueError("groups, base_width: only bottleneck blocks take values other than 1 and 64")
        if min(self.stem_widths) < 1 or min(map(self.inner_width, range(4))) < 1:
            raise ValueError(f"stem_width, base_width: too narrow, a convolution of {self.arch!r} has no channels")

    @property
    def stem_widths(self) -> tuple[int, ...]:
        """Output channels of the stem's convolutions."""
        half = self.stem_width // 2
        first = 3 * (half // 4) if self.stem == "tiered" else half
        return (self.stem_width,) if self.stem == "plain" else (first, half, self.stem_width)

    def inner_width(self, stage: int) -> int:
        """Channels between the convolutions of a block of stage 0..3."""
        return int(self.stage_widths[stage] * (self.base_width / 64)) * self.groups

    def out_width(self, stage: int) -> int:
        """Channels that leave stage 0..3."""
        return self.stage_widths[stage] * (4 if self.block == "bottleneck" else 1)

    def stride(self, stage: int, block: int) -> int:
        """Stride of one block: the first of every stage but stage 0 halves the image."""
        return 2 if block == 0 and stage > 0 else 1

    def has_shortcut(self, stage: int, block: int) -> bool:
        """Whether a block's shortcut is a convolution, because its input has another shape than its output."""
        before = self.out_width(stage - 1) if stage else self.stem_width
        return block == 0 and (self.stride(stage, block) != 1 or before != self.out_width(stage))

    def cut_width(self, cut: str) -> int:
        """Channels of the activation at a cut; `pooled` has 2C, maximum and average of the last stage's C."""
        if cut == "pooled":
            return 2 * self.out_width(3)
        return self.stem_width if cut == "stem" else self.out_width(CUTS.index(cut) - 1)


_CHOICES = {
    "block": ("basic", "bottleneck"),
    "stem": ("plain", "deep", "tiered"),
    "downsample": ("conv", "avg"),
}


def squeeze_width(channels: int) -> int:
    """Channels of the squeeze of `channels`: a sixteenth, at least one."""
    return max(channels // 16, 1)


def _conv(features: int, kernel: int, stride: int, dtype: Any, name: str, *, groups: int = 1) -> nn.Conv:
    padding = kernel // 2
    return nn.Conv(
        features,
        (kernel, kernel),
        strides=stride,
        padding=((padding, padding), (padding, padding)),
        feature_group_count=groups,
        use_bias=False,
        kernel_init=_he_normal,
        dtype=dtype,
        conv_general_dilated=convolution,
        name=name,
    )


class Stem(nn.Module):
    """Image to a quarter of its size: one or three convolutions, then a 3x3 max-pool with stride 2."""

    config: ResNetConfig
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, *, use_running_average: bool, mask: jax.Array | None) -> jax.Array:
        kernel = 7 if self.config.stem == "plain" else 3
        for i, width in enumerate(self.config.stem_widths, start=1):
            x = _conv(width, kernel, 2 if i == 1 else 1, self.dtype, f"conv{i}")(x)
            x = BatchNorm(dtype=self.dtype, name=f"bn{i}")(x, use_running_average=use_running_average, mask=mask)
            x = nn.relu(x)
        return max_pool(x)


class Shortcut(nn.Module):
    """The branch around a block whose input has another shape than its output."""

    config: ResNetConfig
    features: int
    stride: int
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, *, use_running_average: bool, mask: jax.Array | None) -> jax.Array:
        stride = self.stride
        if self.config.downsample == "avg" and stride != 1:
            x, stride = average_pool_2x2(x), 1
        x = _conv(self.features, 1, stride, self.dtype, "conv")(x)
        return BatchNorm(dtype=self.dtype, name="bn")(x, use_running_average=use_running_average, mask=mask)


class SqueezeExcitation(nn.Module):
    """Scale every channel by a gate in (0, 1) computed from the channels' spatial means."""

    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        channels = x.shape[-1]
        gate = x.mean((1, 2), keepdims=True, dtype=jnp.float32).astype(self.dtype)  # [b, 1, 1, c]
        gate = nn.Conv(squeeze_width(channels), (1, 1), kernel_init=_he_normal, dtype=self.dtype, name="fc1")(gate)
        gate = nn.Conv(channels, (1, 1), kernel_init=_he_normal, dtype=self.dtype, name="fc2")(nn.relu(gate))
        return x * nn.sigmoid(gate)


class Block(nn.Module):
    """A residual block: relu(shortcut(x) + convolutions(x)); the 3x3 that may have a stride is torch's choice."""

    config: ResNetConfig
    stage: int
    index: int
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, *, use_running_average: bool, mask: jax.Array | None) -> jax.Array:
        config = self.config
        inner, out = config.inner_width(self.stage), config.out_width(self.stage)
        stride = config.stride(self.stage, self.index)
        y = x
        plan = block_plan(config.block, inner, out, stride, config.groups)
        for i, (width, kernel, conv_stride, groups) in enumerate(plan, start=1):
            y = _conv(width, kernel, conv_stride, self.dtype, f"conv{i}", groups=groups)(y)
            y = BatchNorm(dtype=self.dtype, name=f"bn{i}")(y, use_running_average=use_running_average, mask=mask)
            y = y if i == len(plan) else nn.relu(y)
        if config.squeeze_excitation:
            y = SqueezeExcitation(self.dtype, name="se")(y)
        if config.has_shortcut(self.stage, self.index):
            shortcut = Shortcut(config, out, stride, self.dtype, name="shortcut")
            x = shortcut(x, use_running_average=use_running_average, mask=mask)
        return nn.relu(x + y)


def block_plan(block: str, inner: int, out: int, stride: int, groups: int) -> tuple[tuple[int, int, int, int], ...]:
    """The convolutions of a block as (output channels, kernel size, stride, groups)."""
    if block == "basic":
        return (inner, 3, stride, 1), (out, 3, 1, 1)
    return (inner, 1, 1, 1), (inner, 3, stride, groups), (out, 1, 1, 1)


class Stage(nn.Module):
    """The blocks `block0`, `block1`, ... of one resolution."""

    config: ResNetConfig
    stage: int
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, *, use_running_average: bool, mask: jax.Array | None) -> jax.Array:
        for i in range(self.config.stage_sizes[self.stage]):
            block = Block(self.config, self.stage, i, self.dtype, name=f"block{i}")
            x = block(x, use_running_average=use_running_average, mask=mask)
        return x


class ResNet(nn.Module):
    """The body: image -> stem -> stage1 .. stage4 -> pooled, or any stretch of it between two cuts."""

    config: ResNetConfig
    dtype: Any = jnp.float32

    def setup(self) -> None:
        self.stem = Stem(self.config, self.dtype)
        self.stage1 = Stage(self.config, 0, self.dtype)
        self.stage2 = Stage(self.config, 1, self.dtype)
        self.stage3 = Stage(self.config, 2, self.dtype)
        self.stage4 = Stage(self.config, 3, self.dtype)

    def __call__(
        self,
        x: jax.Array,
        *,
        running: tuple[str, ...] = MODULES,
        start: str | None = None,
        stop: str = "pooled",
        mask: jax.Array | None = None,
    ) -> jax.Array:
        """Run the modules after the cut `start` (None: from the image) up to and including the cut `stop`.

        Args:
          x: [b, h, w, c] normalised image, or the activation at `start`.
          running: modules whose BatchNorm uses running statistics; the others use and update the batch's.
          start, stop: cuts, `start` not after `stop`.
          mask: [b] of 0/1, examples that count for the batch statistics.

        Returns:
          The activation at `stop`: [b, h, w, c] in `dtype`, or float32 [b, 2c] for `pooled`.
        """
        first = 0 if start is None else CUTS.index(start) + 1
        for cut in CUTS[first : CUTS.index(stop) + 1]:
            if cut == "pooled":
                x = concat_pool(x)
            else:
                x = getattr(self, cut)(x.astype(self.dtype), use_running_average=cut in running, mask=mask)
        return x
