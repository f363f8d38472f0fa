"""How a run is judged that chooses on validation pictures, beside one that does not.

The pictures are halved. What a run chooses (which state of the whole run, test-time augmentation or not) is chosen
on one half, the figures are the other's, then the halves swap: every picture is judged once, by a choice that never saw
it. Whoever chooses nothing is judged on both halves as on the whole.

The states are those a run may end with: its phases' ends. That is right as long as the validation pictures decide
nothing else, and nearly right otherwise: a phase that itself goes back to its best epoch has looked at both halves, and
so has a later phase in what it starts from.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jaxclf.metrics import Estimate, mean_and_standard_error


class Scores(NamedTuple):
    """Of pictures one by one: loss in nats, and whether the most likely class is the right one; [.., n]."""

    losses: np.ndarray
    right: np.ndarray

    def rows(self, chosen: np.ndarray) -> "Scores":
        """Those of some pictures."""
        return Scores(self.losses[..., chosen], self.right[..., chosen])

    def of(self, state: int) -> "Scores":
        """Those of one state out of several."""
        return Scores(self.losses[state], self.right[state])


class Choice(NamedTuple):
    """A state, by number, and whether its figures are those with test-time augmentation."""

    state: int
    augmented: bool


def score(log_probabilities: np.ndarray, labels: np.ndarray) -> Scores:
    """float [.., n, c] and int [n] -> what each picture scores."""
    losses = -log_probabilities[..., np.arange(len(labels)), labels].astype(np.float64)
    return Scores(losses, log_probabilities.argmax(-1) == labels)


def halves(labels: np.ndarray, seed: int = 0) -> np.ndarray:
    """Which pictures are in the first half: bool [n]. Each class is halved, odd ones in turn up and down."""
    generator, first, more = np.random.default_rng(seed), np.zeros(len(labels), bool), 0
    for klass in np.unique(labels):
        members = generator.permutation(np.flatnonzero(labels == klass))
        first[members[: (len(members) + more) // 2]] = True
        more ^= len(members) % 2
    return first


def choose(plain: Scores, augmented: Scores) -> Choice:
    """The recipe's rule: the lowest loss of all states, each without and with test-time augmentation.

    Args:
      plain, augmented: of all states [k, n], without and with it. Of equals the earliest state, and without.
    """
    losses = np.stack([plain.losses.mean(-1), augmented.losses.mean(-1)], axis=1)
    state, views = divmod(int(losses.argmin()), 2)
    return Choice(state, bool(views))


def judge(plain: Scores, augmented: Scores, first_half: np.ndarray) -> tuple[Scores, tuple[Choice, Choice]]:
    """What each picture scores in the state that the other half chooses, and the choices of first and second half.

    Args:
      plain, augmented: of all states, [k, n]; the same twice leaves test-time augmentation out.
      first_half: from `halves`.
    """
    judged = Scores(np.empty(len(first_half)), np.empty(len(first_half), bool))
    choices = []
    for own in (first_half, ~first_half):
        choice = choose(plain.rows(own), augmented.rows(own))
        chosen = (augmented if choice.augmented else plain).of(choice.state).rows(~own)
        judged.losses[~own], judged.right[~own] = chosen
        choices.append(choice)
    return judged, (choices[0], choices[1])


def difference(before: np.ndarray, after: np.ndarray) -> Estimate:
    """after - before of the same pictures over the same seeds, [s, n] each: mean, and its standard error.

    A picture's differences over the seeds are averaged first, since they are no independent observations; the
    standard error is over pictures.
    """
    return mean_and_standard_error((after.astype(np.float64) - before).mean(0))


class Fall(NamedTuple):
    """By how much a run ended worse than its own best step."""

    step: str
    loss: Estimate

    @property
    def clear(self) -> bool:
        """Whether it is more than a standard error."""
        return self.loss.mean > self.loss.standard_error


def fall(final: Scores, steps: Sequence[tuple[str, Scores]]) -> Fall:
    """What a run, [n], or runs of several seeds, [s, n], ended with, against the step with the lowest loss."""
    name, best = min(steps, key=lambda step: float(step[1].losses.mean()))
    return Fall(name, difference(np.atleast_2d(best.losses), np.atleast_2d(final.losses)))
