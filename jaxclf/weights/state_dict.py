"""State dicts of torchvision and timm to variables and back, bit for bit; strict about every entry.

One table per configuration, `_entries`, says for each entry its torch name, torch shape, our path and the axes that
lead from one layout to the other. Both directions and every check read it.

The linear head is torchvision's and timm's `fc`. The concat head has no counterpart there; its entries are named
`head.bn1.*`, `head.fc1.*`, `head.bn2.*` and `head.fc2.*`, with Linear weights [out, in] as torch has them, and these
names stay.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxclf.config import MODULES
from jaxclf.models import ConcatHead, ResNetConfig, Variables, get_config, list_archs
from jaxclf.models.resnet import block_plan, squeeze_width
from jaxclf.models.trees import leaf_paths

_Shape = tuple[int, ...]

_TORCH_LAYERS = {"fc": "linear", "head.fc_pools": "pools", "head.fc2": "concat"}
_TORCH_HEADS = {f"{layer}.{leaf}": kind for layer, kind in _TORCH_LAYERS.items() for leaf in ("weight", "bias")}
_OUR_HEADS = {
    "params/head/fc/kernel": "linear",
    "params/head/fc_pools/kernel": "pools",
    "params/head/fc2/kernel": "concat",
}


class _Entry(NamedTuple):
    name: str  # in the state dict
    shape: _Shape  # torch's
    path: str  # ours, params/body/..; empty: torch's update counter, which jaxclf does not keep
    axes: tuple[int, ...] | None = None  # np.transpose(torch, axes) gives ours; None: the same layout

    def to_ours(self, array: np.ndarray) -> np.ndarray:
        return np.array(array if self.axes is None else np.transpose(array, self.axes), order="C")

    def to_torch(self, array: np.ndarray) -> np.ndarray:
        return np.array(array if self.axes is None else np.transpose(array, np.argsort(self.axes)), order="C")

    @property
    def our_shape(self) -> _Shape:
        return self.shape if self.axes is None else tuple(self.shape[i] for i in self.axes)


def convert_state_dict(
    state_dict: Mapping[str, Any], arch: str | ResNetConfig, *, allow_headless: bool = False
) -> Variables:
    """Variables from a state dict with torchvision's or timm's names and layouts.

    The number of classes is read from the last layer's weight; `num_batches_tracked` may be there and is not kept.
    Every value keeps its dtype and its bits.

    Args:
      state_dict: entry name -> array in torch's layout (convolutions [out, in, h, w], Linear [out, in]).
      arch: a name from `list_archs()`, or a `ResNetConfig`.
      allow_headless: accept a state dict without `fc`; the variables then have no head.

    Returns:
      `{"params": .., "batch_stats": ..}` of NumPy arrays that share no memory with the state dict.

    Raises:
      ValueError: for missing or unexpected entries or other shapes, listing both sides and the architectures that
        would fit.
    """
    config = get_config(arch)
    arrays = {name: np.asarray(array) for name, array in state_dict.items()}
    found = {name: array.shape for name, array in arrays.items()}
    kind, num_classes = _head_of(found, _TORCH_HEADS)
    wanted = kind if allow_headless else kind or "linear"
    entries = [entry for entry in _entries(config, wanted, num_classes) if entry.path or entry.name in found]
    problem = _difference({entry.name: entry.shape for entry in entries}, found)
    if problem:
        raise ValueError(f"state_dict does not fit arch={config.arch!r}: {problem}. {_advice(config, found)}")
    return _unflatten((entry.path, entry.to_ours(arrays[entry.name])) for entry in entries if entry.path)


def to_state_dict(variables: Variables, arch: str | ResNetConfig) -> dict[str, np.ndarray]:
    """A state dict with torchvision's or timm's names, layouts and order; the inverse of `convert_state_dict`.

    Every value keeps its dtype and its bits; `num_batches_tracked`, which jaxclf does not keep, is int64 0. The
    linear head becomes `fc`, the concat head `head.*` (see the module's docstring); without a head there is neither.

    Args:
      variables: `{"params": .., "batch_stats": ..}`.
      arch: a name from `list_archs()`, or a `ResNetConfig`.

    Raises:
      ValueError: if the variables are not those of the architecture, listing both sides.
    """
    config = get_config(arch)
    arrays = {path: np.asarray(leaf) for path, leaf in _leaves(variables).items()}
    found = {path: array.shape for path, array in arrays.items()}
    entries = list(_entries(config, *_head_of(found, _OUR_HEADS)))
    problem = _difference({entry.path: entry.our_shape for entry in entries if entry.path}, found)
    if problem:
        raise ValueError(f"variables do not fit arch={config.arch!r}: {problem}")
    return {
        entry.name: entry.to_torch(arrays[entry.path]) if entry.path else np.zeros((), np.int64) for entry in entries
    }


def merge_variables(initial: Variables, pretrained: Variables, *, keep: Collection[str] = ("head",)) -> Variables:
    """Pretrained variables, except for the modules in `keep`, which stay as they were initialised.

    Args:
      initial: variables of the model that will be used; they set the tree, the shapes and the dtypes (float16
        weights become float32 where the model has float32).
      pretrained: variables of the same body; what they hold in `keep` is ignored and may be absent.
      keep: names out of `MODULES`. For a one-channel body keep `stem` as well.

    Returns:
      New variables with the tree of `initial`, as JAX arrays.

    Raises:
      ValueError: for an unknown name in keep; for missing or unexpected entries, other shapes or another kind of
        dtype outside keep, listing both sides.
    """
    keep = (keep,) if isinstance(keep, str) else tuple(keep)
    unknown = [name for name in keep if name not in MODULES]
    if unknown:
        raise ValueError(f"keep: unknown module {unknown[0]!r}; expected names out of {MODULES}")
    ours = _leaves(initial)
    taken = {path: leaf for path, leaf in _leaves(pretrained).items() if _module(path) not in keep}
    problem = _difference(
        {path: _kind_and_shape(leaf) for path, leaf in ours.items() if _module(path) not in keep},
        {path: _kind_and_shape(leaf) for path, leaf in taken.items()},
    )
    if problem:
        raise ValueError(f"pretrained variables do not fit the initial ones: {problem} (kept as initialised: {keep})")
    return _unflatten(
        (path, jnp.array(taken[path], dtype=leaf.dtype) if path in taken else leaf) for path, leaf in ours.items()
    )


def adapt_input_channels(variables: Variables, in_channels: int) -> Variables:
    """Variables whose first convolution takes `in_channels` channels instead of its own c.

    One channel: the kernel is summed over its input channels, so a grey picture gives what the same picture in c equal
    channels gave. More: the kernel is repeated in order (r, g, b, r, g, ...) and scaled by c / in_channels, so the
    response to equal channels keeps its size. The normalisation has to be given for the new channels as well.

    Args:
      variables: of a network with c input channels.
      in_channels: >= 1.

    Returns:
      New variables; all but the first kernel is shared.

    Raises:
      ValueError: if `in_channels` is less than 1.
    """
    if in_channels < 1:
        raise ValueError(f"in_channels={in_channels} must be at least 1")
    stem = variables["params"]["body"]["stem"]
    kernel = np.asarray(stem["conv1"]["kernel"])  # [h, w, c, out]
    channels = kernel.shape[2]
    if in_channels == channels:
        return variables
    if in_channels == 1:
        adapted = kernel.sum(2, keepdims=True)
    else:
        adapted = kernel[:, :, np.arange(in_channels) % channels] * (channels / in_channels)
    first: dict[str, Any] = {**stem["conv1"], "kernel": adapted.astype(kernel.dtype)}
    body = {**variables["params"]["body"], "stem": {**stem, "conv1": first}}
    return {**variables, "params": {**variables["params"], "body": body}}


def fitting_archs(state_dict: Mapping[str, Any]) -> tuple[str, ...]:
    """The architectures whose entries and shapes a state dict has, with a head or without."""
    return _fitting({name: np.shape(array) for name, array in state_dict.items()})


def _fitting(found: Mapping[str, _Shape]) -> tuple[str, ...]:
    return tuple(arch for arch in list_archs() if _fits(get_config(arch), found))


def _fits(config: ResNetConfig, found: Mapping[str, _Shape]) -> bool:
    """Whether the entries found are those of the configuration, with whatever head they have."""
    entries = _entries(config, *_head_of(found, _TORCH_HEADS))
    return _difference({e.name: e.shape for e in entries if e.path or e.name in found}, found) is None


def _advice(config: ResNetConfig, found: Mapping[str, _Shape]) -> str:
    """What to do about a state dict that does not fit `config`: which architecture it is, if any."""
    if _fits(config, found):  # all but the head
        return "Only the head is missing: pass allow_headless=True to take the body alone."
    fitting = _fitting(found)
    return f"It would fit {' and '.join(fitting)}." if fitting else "It fits no architecture that jaxclf knows."


# The table: torch's names and layouts beside ours.


def _entries(config: ResNetConfig, head: str | None, num_classes: int) -> Iterator[_Entry]:
    """Every entry of the state dict of a configuration, in the checkpoint's own order."""
    plain = config.stem == "plain"
    names = ("conv1", "bn1") if plain else ("conv1.0", "conv1.1", "conv1.3", "conv1.4", "conv1.6", "bn1")
    channels = config.in_channels
    for i, width in enumerate(config.stem_widths, start=1):
        yield _conv(names[2 * i - 2], f"body/stem/conv{i}", (width, channels, 7 if plain else 3))
        yield from _batch_norm(names[2 * i - 1], f"body/stem/bn{i}", width)
        channels = width
    for stage, num_blocks in enumerate(config.stage_sizes):
        for block in range(num_blocks):
            yield from _block(config, stage, block, channels)
            channels = config.out_width(stage)
    if head == "linear":
        yield from _dense("fc", "head/fc", channels, num_classes)
    if head == "pools":
        yield from _dense("head.fc_pools", "head/fc_pools", 2 * channels, num_classes)
    if head == "concat":
        yield from _batch_norm("head.bn1", "head/bn1", 2 * channels)
        yield from _dense("head.fc1", "head/fc1", 2 * channels, ConcatHead.hidden)
        yield from _batch_norm("head.bn2", "head/bn2", ConcatHead.hidden)
        yield from _dense("head.fc2", "head/fc2", ConcatHead.hidden, num_classes)


def _block(config: ResNetConfig, stage: int, block: int, channels: int) -> Iterator[_Entry]:
    name, path = f"layer{stage + 1}.{block}", f"body/stage{stage + 1}/block{block}"
    inner, out, stride = config.inner_width(stage), config.out_width(stage), config.stride(stage, block)
    before = channels
    for i, (width, kernel, _, groups) in enumerate(block_plan(config.block, inner, out, stride, config.groups), 1):
        yield _conv(f"{name}.conv{i}", f"{path}/conv{i}", (width, before // groups, kernel))
        yield from _batch_norm(f"{name}.bn{i}", f"{path}/bn{i}", width)
        before = width
    if config.squeeze_excitation:
        narrow = squeeze_width(out)
        for layer, shape in (("fc1", (narrow, out, 1)), ("fc2", (out, narrow, 1))):
            yield _conv(f"{name}.se.{layer}", f"{path}/se/{layer}", shape)
            yield _Entry(f"{name}.se.{layer}.bias", shape[:1], f"params/{path}/se/{layer}/bias")
    if config.has_shortcut(stage, block):
        first = 1 if config.downsample == "avg" else 0  # timm's downsample.0 is the pool, or nothing in its place
        yield _conv(f"{name}.downsample.{first}", f"{path}/shortcut/conv", (out, channels, 1))
        yield from _batch_norm(f"{name}.downsample.{first + 1}", f"{path}/shortcut/bn", out)


def _conv(name: str, path: str, shape: tuple[int, int, int]) -> _Entry:
    out, inputs, kernel = shape
    return _Entry(f"{name}.weight", (out, inputs, kernel, kernel), f"params/{path}/kernel", (2, 3, 1, 0))


def _dense(name: str, path: str, inputs: int, out: int) -> Iterator[_Entry]:
    yield _Entry(f"{name}.weight", (out, inputs), f"params/{path}/kernel", (1, 0))
    yield _Entry(f"{name}.bias", (out,), f"params/{path}/bias")


def _batch_norm(name: str, path: str, width: int) -> Iterator[_Entry]:
    yield _Entry(f"{name}.weight", (width,), f"params/{path}/scale")
    yield _Entry(f"{name}.bias", (width,), f"params/{path}/bias")
    yield _Entry(f"{name}.running_mean", (width,), f"batch_stats/{path}/mean")
    yield _Entry(f"{name}.running_var", (width,), f"batch_stats/{path}/var")
    yield _Entry(f"{name}.num_batches_tracked", (), "")


# Heads, differences, trees by path.


def _head_of(shapes: Mapping[str, _Shape], marks: Mapping[str, str]) -> tuple[str | None, int]:
    """Kind of the head, and its number of classes read from the first marked entry that is there."""
    for name, kind in marks.items():
        if name in shapes:
            return kind, (shapes[name] or (0,))[-1 if "/" in name else 0]
    return None, 0


def _difference(expected: Mapping[str, object], found: Mapping[str, object]) -> str | None:
    """What is missing, unexpected or of another shape, with counts and the first few; None if nothing is."""
    missing = [name for name in expected if name not in found]
    unexpected = [name for name in found if name not in expected]
    other = [
        f"{name}: {found[name]} instead of {value}"
        for name, value in expected.items()
        if name in found and found[name] != value
    ]
    sides = (("missing", missing), ("unexpected", unexpected), ("of another shape", other))
    parts = [
        f"{len(names)} {what} ({', '.join(names[:4])}{', ..' * (len(names) > 4)})" for what, names in sides if names
    ]
    return "; ".join(parts) or None


def _leaves(variables: Variables) -> dict[str, Any]:
    """Path -> leaf, parameters before statistics."""
    return dict(leaf for kind in sorted(variables, reverse=True) for leaf in leaf_paths(variables[kind], f"{kind}/"))


def _unflatten(items: Iterable[tuple[str, Any]]) -> Variables:
    tree: Variables = {"params": {}, "batch_stats": {}}
    for path, leaf in items:
        *names, last = path.split("/")
        node = tree
        for name in names:
            node = node.setdefault(name, {})
        node[last] = leaf
    return tree


def _module(path: str) -> str:
    """Which of `MODULES` a path, such as params/body/stem/bn1/scale, belongs to."""
    return path.partition("/")[2].removeprefix("body/").partition("/")[0]


def _kind_and_shape(leaf: Any) -> str:
    kinds = {"float": jnp.floating, "int": jnp.integer}
    kind = next((name for name, kind in kinds.items() if jnp.issubdtype(leaf.dtype, kind)), str(leaf.dtype))
    return f"{kind}{list(leaf.shape)}"
