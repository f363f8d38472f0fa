"""Features as the solver likes them: standardised, and turned to their principal axes."""

from typing import NamedTuple

import numpy as np

#: A feature whose spread is not above this share of its largest value is constant: float32 knows no less.
CONSTANT = 1e-6
#: Rows that are standardised at a time.
BLOCK = 8192


class Columns(NamedTuple):
    """What the solver sees of features x [n, d]: z = ((x - mean) / spread) rotation, and a last column of ones.

    Attributes:
      z: float32 [n, r + 1], r = min(n, d); the columns before the last are orthogonal and centred.
      mean: float64 [d].
      unfold: float64 [d, r], rotation / spread, with zeros for constant features: `theta` on z is the kernel
        `unfold @ theta` on x - mean.
    """

    z: np.ndarray
    mean: np.ndarray
    unfold: np.ndarray

    def fold_back(self, theta: np.ndarray, *, multi_label: bool) -> dict[str, np.ndarray]:
        """`kernel` [d, c] and `bias` [c], float32, on the features as they came, of theta [c, r + 1].

        A softmax does not feel what is added to all classes: of all biases alike, that with mean 0 is taken.
        """
        kernel = self.unfold @ theta[:, :-1].T.astype(np.float64)
        bias = theta[:, -1] - self.mean @ kernel
        bias = bias if multi_label else bias - bias.mean()
        return {"kernel": kernel.astype(np.float32), "bias": bias.astype(np.float32)}


def make_columns(x: np.ndarray, least: float = 0.0) -> Columns:
    """Standardises features [n, d] and turns them to their principal axes.

    Each spread counts as at least the share `least` of the features' root mean square spread.

    A ridge does not feel a rotation, so the optimum is the same; but the Hessian becomes nearly diagonal, which the
    solver makes use of. With fewer rows than features the rows span n dimensions at most, and only those are kept.
    """
    number, width = x.shape
    blocks = [slice(start, start + BLOCK) for start in range(0, number, BLOCK)]
    mean = sum(x[rows].sum(0, dtype=np.float64) for rows in blocks) / number
    variance = sum(((x[rows] - mean) ** 2).sum(0) for rows in blocks) / number
    spread, largest = np.sqrt(variance), np.abs(x).max(0)
    floored = np.maximum(spread, least * np.sqrt(variance.mean()))
    inverse = np.where(spread > CONSTANT * largest, 1 / np.where(floored > 0, floored, 1), 0.0)
    if number < width:
        basis, triangle = np.linalg.qr(((x - mean) * inverse).T)  # [d, n], [n, n]
        rotation = basis @ np.linalg.eigh(triangle @ triangle.T)[1]
    else:
        scatter = np.zeros((width, width))
        for rows in blocks:
            block = ((x[rows] - mean) * inverse).astype(np.float32)
            scatter += block.T @ block
        rotation = np.linalg.eigh(scatter)[1]
    z = np.ones((number, rotation.shape[1] + 1), np.float32)
    for rows in blocks:
        z[rows, :-1] = ((x[rows] - mean) * inverse).astype(np.float32) @ rotation.astype(np.float32)
    return Columns(z, mean, rotation * inverse[:, None])
