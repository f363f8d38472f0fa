"""The report's pictures: the examples worth looking at, small, with a heat map beside them."""

import base64
from typing import NamedTuple

import numpy as np

from jaxclf._words import number, percent
from jaxclf.data.decode import jpeg_thumbnail
from jaxclf.metrics import Examples, most_uncertain, top_losses
from jaxclf.report.content import NUM_PICTURES, ReportContent

#: Side of a picture in pixels, and its JPEG quality.
SIDE, QUALITY = 160, 80
#: Share of the heat in the overlay where it is hottest.
HEAT = 0.65
#: From cold to hot, dark to light, so that it can be read without its colours as well.
RAMP = np.array([(13, 8, 60), (120, 28, 109), (207, 68, 70), (251, 155, 6), (252, 255, 164)], np.float64)


class Card(NamedTuple):
    """An example with what is said of it.

    Attributes:
      picture, heat: JPEG data addresses; None where there is no picture, or no heat map.
      actual, predicted: the labels in words; "" where the actual one is not known.
      right: whether they agree.
      detail: the probability and the loss, in words.
      file: the picture's name.
    """

    picture: str | None
    heat: str | None
    actual: str
    predicted: str
    right: bool
    detail: str
    file: str

    @property
    def alt(self) -> str:
        """What the picture is."""
        return f"{self.file}: {self.actual or 'label not known'}, taken for {self.predicted}"


def picked(content: ReportContent) -> dict[str, Examples]:
    """The examples that the report shows: those with the largest losses and, with one label each, the least certain."""
    predictions = content.judged
    if predictions is None:
        return {}
    losses = {"losses": top_losses(predictions, NUM_PICTURES)}
    return losses if content.multi_label else losses | {"uncertain": most_uncertain(predictions, NUM_PICTURES)}


def shown_indices(content: ReportContent) -> dict[int, int]:
    """Example index -> class whose heat map to show (the predicted one; of several labels the most probable)."""
    chosen: dict[int, int] = {}
    for examples in picked(content).values():
        for row, index in zip(examples.row, examples.index, strict=True):
            assert content.predictions is not None  # or nothing would have been picked
            chosen[int(index)] = int(content.predictions.logits[row].argmax())
    return chosen


def cards(content: ReportContent, examples: Examples) -> list[Card]:
    """A card for each example."""
    found = []
    for place in range(len(examples.row)):
        index, row = int(examples.index[place]), int(examples.row[place])
        actual, predicted, detail = _words(content, examples, place)
        right = bool(np.all(examples.label[place] == examples.predicted[place]))
        name = content.files[row] if row < len(content.files) else f"picture {index}"
        pixels, heat = content.pictures.get(index), content.heat_maps.get(index)
        picture = None if pixels is None else data_address(pixels)
        glow = None if pixels is None or heat is None else data_address(overlay(pixels, heat))
        found.append(Card(picture, glow, actual, predicted, right, detail, name))
    return found


def _words(content: ReportContent, examples: Examples, place: int) -> tuple[str, str, str]:
    """The actual label, the predicted one, and the figures."""
    classes, loss = content.classes, float(examples.loss[place])
    if content.multi_label:
        actual, predicted = (
            ", ".join(classes[i] for i in np.flatnonzero(labels)) or "none"
            for labels in (examples.label[place], examples.predicted[place])
        )
        return actual, predicted, f"loss {number(loss, 3)}"
    label, predicted_label = int(examples.label[place]), int(examples.predicted[place])
    said = f"{percent(float(examples.probability[place]))} sure"
    if label < 0:
        return "", classes[predicted_label], said
    if label == predicted_label:
        return classes[label], classes[predicted_label], f"{said} · loss\N{NO-BREAK SPACE}{number(loss, 3)}"
    detail = f"{said}, {percent(float(np.exp(-loss)))} for the actual class · loss\N{NO-BREAK SPACE}{number(loss, 3)}"
    return classes[label], classes[predicted_label], detail


def overlay(pixels: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """A picture under its heat map: the grey picture where nothing is seen, glowing where the class is.

    Args:
      pixels: uint8 [h, w, 3].
      heat: float [h, w] in [0, 1].

    Returns:
      uint8 [h, w, 3].
    """
    heat = np.clip(np.nan_to_num(np.asarray(heat, np.float64)), 0.0, 1.0)
    grey = np.asarray(pixels, np.float64).mean(-1, keepdims=True)
    places = np.linspace(0.0, 1.0, len(RAMP))
    glow = np.stack([np.interp(heat, places, RAMP[:, channel]) for channel in range(3)], -1)
    share = HEAT * np.sqrt(heat)[..., None]
    return np.rint(grey * (1.0 - share) + glow * share).astype(np.uint8)


def data_address(pixels: np.ndarray) -> str:
    """uint8 [h, w, 3] as a small JPEG inside an address."""
    encoded = base64.b64encode(jpeg_thumbnail(pixels, side=SIDE, quality=QUALITY)).decode()
    return f"data:image/jpeg;base64,{encoded}"
