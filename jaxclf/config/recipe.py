"""What a run is, as frozen dataclasses: command line, the run's record and checkpoint sidecar are the same."""

import dataclasses
import math
import typing
from dataclasses import dataclass
from typing import Any, Literal

from jaxclf.config.names import CUTS, MODULES, CutName, check_frozen, cycle_boundaries

Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos"]
ResizeName = Literal["crop", "squish", "pad"]
AugmentName = Literal["none", "side_on", "top_down", "random_resized_crop"]


#: Bounds of a batch size that follows the number of photos.
MIN_BATCH, MAX_BATCH = 16, 64
#: Below so many, BatchNorm's statistics over batches cost more than they give: measured at 500 and 1,500 photos.
FEW_PHOTOS = 5000


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


@dataclass(frozen=True)
class Preprocess:
    """How a picture becomes the network's input. Travels with the weights into the run and its checkpoints.

    Attributes:
      image_size: side of the square input in pixels.
      mean, std: per channel, for pixel values in [0, 1]: input = (pixel - mean) / std.
      interpolation: Pillow's filter for the one resize, antialiased.
      crop_fraction: evaluation resizes the shorter side to round(image_size / crop_fraction), then crops the centre.
      resize: how a picture becomes a square: "crop" cuts the centre out, "squish" changes the proportions, "pad" keeps
        them and mirrors the borders. The last two show all of the picture.
    """

    image_size: int = 224
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    interpolation: Interpolation = "bilinear"
    crop_fraction: float = 0.875
    resize: ResizeName = "crop"

    def __post_init__(self) -> None:
        for name in ("mean", "std"):  # a list or an array serves too; compiled steps are found by the hash of all this
            object.__setattr__(self, name, tuple(getattr(self, name)))
        _require(self.image_size >= 8, f"image_size={self.image_size} must be at least 8 pixels")
        _require(0.0 < self.crop_fraction <= 1.0, f"crop_fraction={self.crop_fraction} must lie in (0, 1]")
        _require(all(s > 0 for s in self.std), f"std={self.std} must be positive in every channel")

    @property
    def shown(self) -> float:
        """Share of the picture's centre square, by its side, that evaluation shows: all, where it is not cropped."""
        return self.crop_fraction if self.resize == "crop" else 1.0


@dataclass(frozen=True)
class PretrainedConfig:
    """What travels with a set of weights. `preprocess` is how its pictures were prepared."""

    arch: str
    preprocess: Preprocess = Preprocess()
    classes: tuple[str, ...] = ()
    licence: str = "unknown"
    origin: str = "unknown"
    sha256: str = ""


@dataclass(frozen=True)
class Phase:
    """One `fit`: what is frozen, how fast each layer group learns, and for how long.

    Attributes:
      name: what the run calls it.
      lrs: one learning rate per layer group, earliest layers first (1, 2, 3 or 6 of them); frozen groups keep theirs
        unused.
      lr_from: "given": `lrs` are the rates. Otherwise they are relative ones, the last of them 1, to be multiplied by
        the rate that `find_lr` suggests before the phase ("find"), or by the phase's before ("previous").
      solve: the head is solved on the activations of `cut`, which must be "pooled", and not trained: `solve_head`. It
        has no epochs, and its rates go unused.
      frozen: module names, a prefix of (stem, stage1, stage2, stage3, stage4, head).
      num_cycles: cosine cycles with warm restarts.
      cycle_epochs: epochs of the first cycle (fast.ai's cycle_len).
      cycle_mult: each cycle is this many times as long as the one before.
      augment: "side_on" for photos taken from the side, "top_down" for those without an up (satellites, microscopes),
        "random_resized_crop", or "none".
      cut: train from activations at this cut, computed once; `frozen` must reach at least as far. None trains from
        pictures.
      num_views: of the cached activations: more than one makes an augmented bank, which `augment` then draws.
      image_size: in pixels, for progressive resizing; none takes the settings'.
      schedule: "sgdr", the cosine cycles above, or "one_cycle": one cycle of `cycle_epochs`, rates up and down again
        and momentum down and up (the settings' momentum goes unused).
      pct_start, div: of one_cycle: share of the steps spent rising, and what the first rate is divided by.
      warmup_steps: the first so many steps of the first cycle run at a hundredth of the rate.
      keep_best: end with the parameters of the epoch with the lowest validation loss, not with the last ones.
      patience: stop after so many cycles in a row without a new lowest validation loss, asked at cycle ends only, as
        inside a cycle the rate is still high; none runs to the end.
    """

    name: str
    lrs: tuple[float, ...]
    frozen: tuple[str, ...] = ()
    num_cycles: int = 1
    cycle_epochs: int = 1
    cycle_mult: int = 1
    augment: AugmentName = "side_on"
    lr_from: Literal["given", "find", "previous"] = "given"
    cut: CutName | None = None
    num_views: int = 1
    image_size: int | None = None
    schedule: Literal["sgdr", "one_cycle"] = "sgdr"
    pct_start: float = 0.25
    div: float = 25.0
    warmup_steps: int = 0
    keep_best: bool = False
    patience: int | None = None
    solve: bool = False

    def __post_init__(self) -> None:
        check_frozen(self.frozen)
        _require("head" not in self.frozen, f"phase {self.name!r} freezes the head too: nothing is left to train")
        _require(len(self.lrs) in (1, 2, 3, 6), f"lrs={self.lrs} must hold 1, 2, 3 or 6 rates, one per layer group")
        _require(
            all(math.isfinite(lr) and lr >= 0 for lr in self.lrs), f"lrs={self.lrs} must be finite and not negative"
        )
        names = typing.get_args(AugmentName)
        _require(self.augment in names, f"augment={self.augment!r} must be one of {', '.join(names)}")
        sources = ("given", "find", "previous")
        _require(self.lr_from in sources, f"lr_from={self.lr_from!r} must be one of {', '.join(sources)}")
        relative = self.lr_from == "given" or self.lrs[-1] == 1.0
        _require(relative, f"lrs={self.lrs}: with lr_from={self.lr_from!r} they are relative, and the last must be 1")
        _require(self.cut is None or self.cut in CUTS, f"cut={self.cut!r} must be one of {', '.join(CUTS)}, or none")
        _require(self.num_views >= 1, f"num_views={self.num_views} must be at least 1")
        bank = self.cut is None or (self.num_views > 1) == (self.augment != "none")
        _require(
            bank,
            f"phase {self.name!r}: cut={self.cut!r} with augment={self.augment!r} and num_views={self.num_views}: "
            "cached activations are augmented as a bank of 2 views or more, or not at all",
        )
        enough = self.image_size is None or self.image_size >= 8
        _require(enough, f"image_size={self.image_size} must be at least 8 pixels, or none")
        _require(self.schedule in ("sgdr", "one_cycle"), f"schedule={self.schedule!r} must be sgdr or one_cycle")
        one = self.num_cycles == 1 or self.schedule != "one_cycle"
        _require(one, f"num_cycles={self.num_cycles} must be 1 with schedule='one_cycle'")
        _require(0 < self.pct_start < 1, f"pct_start={self.pct_start} must lie between 0 and 1, both excluded")
        _require(self.div >= 1, f"div={self.div} must be at least 1")
        _require(self.warmup_steps >= 0, f"warmup_steps={self.warmup_steps} must not be negative")
        _require(self.patience is None or self.patience >= 1, f"patience={self.patience} must be at least 1, or none")
        cycle_boundaries(self.cycle_epochs, self.num_cycles, self.cycle_mult)
        solvable = not self.solve or (self.cut == "pooled" and self.lr_from == "given")
        _require(
            solvable, f"phase {self.name!r} is solved, so it needs cut='pooled' and finds no rate: lr_from='given'"
        )

    @property
    def num_epochs(self) -> int:
        """Epochs of all cycles together: cycle_epochs * (1 + m + m^2 + ...). None of a head that is solved."""
        return 0 if self.solve else cycle_boundaries(self.cycle_epochs, self.num_cycles, self.cycle_mult)[-1]

    @property
    def caches_validation(self) -> bool:
        """Whether the body sees the validation pictures once: pictures train the head alone, for two epochs or more."""
        return self.frozen == MODULES[:-1] and self.cut is None and self.num_epochs > 1


@dataclass(frozen=True)
class Settings:
    """Every choice of a run but its phases. Each field is a flag of `jaxclf fit`.

    Attributes:
      arch: architecture, for example resnet18.
      weights: "auto" (the best known ImageNet weights, from the hub), "tiny-imagenet" (bundled, for resnet10t), a file
        (.safetensors or .pth), a hub id such as timm/resnet34.a1_in1k, or "none" to start from scratch.
      image_size: side of the square input, in pixels.
      batch_size: pictures per step, over all devices; "auto" follows the number of photos, from 16 to 64, so that an
        epoch has some 30 steps or more.
      seed: fixes initial weights, split, order and augmentation; the same seed gives the same figures.
      valid_fraction: share held back for validation where the data has no split of its own.
      head: "pools" (one dense layer on maximum and average pool), "linear" (on the average pool alone) or "concat"
        (fastai's two-layer head).
      dropout: rate before the linear head's dense layer.
      precision: compute type: "auto" is bfloat16 on GPU and TPU, float32 on CPU. Parameters are always float32.
      optimizer: "sgd" (Nesterov momentum) or "adamw".
      momentum: of SGD, or AdamW's first-moment decay.
      weight_decay: decoupled from the gradient for adamw, added to it for sgd; never on BatchNorm and biases.
      clip_norm: global-norm clipping over the trainable parameters; none turns it off.
      label_smoothing: share of the target spread evenly over all classes, in training only.
      loss: "softmax" or "focal" where a photo has one label; "sigmoid" or "sigmoid_focal" where it can have several.
      focal_gamma: of the focal losses: the larger, the less what is right already counts.
      class_weights: "balanced" weighs the loss so that rare classes count as much as common ones.
      sampling: "balanced" draws all classes equally often, with repetition; "shuffle" shows each photo once per epoch.
      mixup: strength (alpha) of mixing pairs of photos and their labels, in phases that see photos and not cached
        activations; 0 turns it off, 0.4 is usual.
      cutmix: strength (alpha) of pasting a piece of another photo, likewise; 0 turns it off. One of mixup and cutmix
        at a time.
      accumulate: run each batch in so many parts, one after the other, to need less memory.
      ema_decay: keep a running average of the weights, and use it; 0.999 is usual. None keeps none.
      bn_frozen: BatchNorm keeps its running statistics in all layers of the body, not just in the frozen ones. Left
        open (none), it does in a run from a pretrained body with fewer than 5,000 photos, see `for_photos`, and nowhere
        else. That of a concat head starts new, so it always follows the photos.
      bn_recalibrate: take BatchNorm's running statistics anew over the training photos before anything else (AdaBN):
        for photos unlike those that the weights come from, where there are many.
      threshold: probability from which a label counts as given, where a photo can have several.
      lr_rule: how a rate is read off the learning-rate test, where the recipe runs one: see `jaxclf find-lr`. "auto" is
        "edge" where the head has been trained or solved before, else "valley".
      tta_views: augmented views per validation photo for the test-time augmentation at the end; 0 leaves it out.
      resize: how photos become squares: "crop" the centre, "squish" the proportions, or "pad" with mirrored borders.
      on_bad_image: "skip" trains and tests without the photos that cannot be read and lists them; "error" stops.
      on_bad_valid_image: the same for validation photos, whose loss would make figures incomparable.
      deterministic: the same bits in every run on a GPU too, at a price in speed; elsewhere they are the same anyway.
      cache: where decoded photos are kept: "auto" is memory while they fit into a quarter of it, else disk.
    """

    arch: str = "resnet34"
    weights: str = "auto"
    image_size: int = 224
    batch_size: Literal["auto"] | int = "auto"
    seed: int = 0
    valid_fraction: float = 0.2
    head: Literal["pools", "linear", "concat"] = "pools"
    dropout: float = 0.0
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    optimizer: Literal["sgd", "adamw"] = "sgd"
    momentum: float = 0.9
    weight_decay: float = 0.0
    clip_norm: float | None = None
    label_smoothing: float = 0.0
    loss: Literal["softmax", "focal", "sigmoid", "sigmoid_focal"] = "softmax"
    focal_gamma: float = 2.0
    class_weights: Literal["none", "balanced"] = "none"
    sampling: Literal["shuffle", "balanced"] = "shuffle"
    mixup: float = 0.0
    cutmix: float = 0.0
    accumulate: int = 1
    ema_decay: float | None = None
    bn_frozen: bool | None = None
    bn_recalibrate: bool = False
    threshold: float = 0.5
    lr_rule: Literal["auto", "valley", "minimum", "steep", "slide", "edge"] = "auto"
    tta_views: int = 4
    resize: ResizeName = "crop"
    on_bad_image: Literal["error", "skip"] = "error"
    on_bad_valid_image: Literal["error", "skip"] = "error"
    deterministic: bool = False
    cache: Literal["auto", "memory", "disk", "none"] = "auto"

    def __post_init__(self) -> None:
        _require(self.image_size >= 8, f"image_size={self.image_size} must be at least 8 pixels")
        sized = self.batch_size == "auto" or (isinstance(self.batch_size, int) and self.batch_size >= 1)
        _require(sized, f"batch_size={self.batch_size!r} must be at least 1, or 'auto'")
        _require(0 <= self.seed < 2**31, f"seed={self.seed} must be a whole number from 0 to 2^31 - 1")
        _require(0 < self.valid_fraction < 1, f"valid_fraction={self.valid_fraction} must lie between 0 and 1")
        _require(0 <= self.dropout < 1, f"dropout={self.dropout} must lie in [0, 1)")
        _require(0 <= self.momentum < 1, f"momentum={self.momentum} must lie in [0, 1)")
        _require(self.weight_decay >= 0, f"weight_decay={self.weight_decay} must not be negative")
        _require(self.clip_norm is None or self.clip_norm > 0, f"clip_norm={self.clip_norm} must be positive, or none")
        _require(0 <= self.label_smoothing < 1, f"label_smoothing={self.label_smoothing} must lie in [0, 1)")
        _require(self.focal_gamma >= 0, f"focal_gamma={self.focal_gamma} must not be negative")
        _require(self.mixup >= 0, f"mixup={self.mixup} must not be negative")
        _require(self.cutmix >= 0, f"cutmix={self.cutmix} must not be negative")
        _require(self.mixup == 0 or self.cutmix == 0, "mixup and cutmix exclude each other: set one of them to 0")
        most = MIN_BATCH if self.batch_size == "auto" else self.batch_size
        _require(1 <= self.accumulate <= most, f"accumulate={self.accumulate} must lie in 1 .. batch_size, {most}")
        ema = self.ema_decay is None or 0 < self.ema_decay < 1
        _require(ema, f"ema_decay={self.ema_decay} must lie between 0 and 1, or be none")
        _require(self.tta_views >= 0, f"tta_views={self.tta_views} must not be negative")
        _require(0 < self.threshold < 1, f"threshold={self.threshold} must lie between 0 and 1")

    def for_photos(self, number: int) -> "Settings":
        """These settings with all that follows the number of training photos decided: `batch_size`, `bn_frozen`.

        The batch is the largest power of two within a thirtieth of the photos, from 16 to 64.

        >>> [Settings().for_photos(number).batch_size for number in (50, 500, 1500, 10_000)]
        [16, 16, 32, 64]
        """
        bn_frozen = self.bn_frozen
        if bn_frozen is None:
            bn_frozen = self.weights != "none" and number < FEW_PHOTOS
        return dataclasses.replace(self, batch_size=self.batch(number), bn_frozen=bn_frozen)

    def batch(self, number: int) -> int:
        """The batch size for so many photos, see `for_photos`."""
        if isinstance(self.batch_size, int):
            return self.batch_size
        return min(max(2 ** int(math.log2(max(number, 30) / 30)), MIN_BATCH), MAX_BATCH)

    @property
    def multi_label(self) -> bool:
        """Whether a photo can have several labels: decided by `loss`, never guessed from the data."""
        return self.loss in ("sigmoid", "sigmoid_focal")

    def check_labels(self, multi_label: bool) -> None:
        """Raises ValueError unless the loss fits data with one label per photo, or, with `multi_label`, several."""
        _require(
            self.multi_label or not multi_label,
            f"photos of this data have several labels, which loss={self.loss!r} cannot use; set --loss sigmoid",
        )
        _require(
            multi_label or not self.multi_label,
            f"loss={self.loss!r} is for several labels per photo, and this data has one; set --loss softmax",
        )


@dataclass(frozen=True)
class Recipe:
    """A whole run: the settings and the phases in their order. `to_json` and `from_json` carry it to disk and back.

    >>> from jaxclf.config import from_json, to_json
    >>> recipe = Recipe(Settings(arch="resnet18"), (Phase("head", lrs=(0.01,)),))
    >>> from_json(Recipe, to_json(recipe)) == recipe
    True
    """

    settings: Settings = Settings()
    phases: tuple[Phase, ...] = ()

    def __post_init__(self) -> None:
        seen = not self.phases or any(phase.cut is None for phase in self.phases)
        for name in ("mixup", "cutmix"):
            _require(
                seen or not getattr(self.settings, name),
                f"{name}={getattr(self.settings, name)} must be left out where every phase trains from cached "
                "activations, which are not mixed; or take a recipe that sees pictures too, as --recipe eight-steps",
            )

    def mixing(self, phase: Phase) -> str:
        """What a phase of these settings mixes, in words; "" where they do not mix."""
        strengths = {"mixup": self.settings.mixup, "cutmix": self.settings.cutmix}
        mixed = ", ".join(f"{name} {strength:g}" for name, strength in strengths.items() if strength > 0)
        return "no mixing: cached activations" if mixed and phase.cut is not None else mixed

    @staticmethod
    def from_version_1(data: dict[str, Any]) -> dict[str, Any]:
        """The JSON of a run of jaxclf 0.1.0, which has the settings beside the phases, in today's form."""
        settings = {name: value for name, value in data.items() if name != "phases"}
        return {"settings": settings, "phases": data.get("phases", [])}
