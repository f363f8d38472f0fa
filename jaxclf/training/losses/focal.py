"""Focal losses per example: what is right already counts less."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxclf.training.losses.arguments import check_alpha, check_class_weights, check_gamma, class_mean, paired


def focal_loss(
    logits: jax.typing.ArrayLike,
    targets: jax.typing.ArrayLike,
    *,
    gamma: float = 2.0,
    alpha: np.typing.ArrayLike | None = None,
) -> jax.Array:
    """-sum_k alpha_k t_k (1 - p_k)^gamma log p_k with p = softmax(logits): examples that are right already count less.

    gamma = 0 is `soft_cross_entropy`. Linear in the targets, so mixed targets give the mixed losses.

    Args:
      logits: float [b, c], c >= 2.
      targets: float [b, c], rows sum to 1.
      gamma: >= 0.
      alpha: float [c], weights of the classes; `None` for ones.

    Returns:
      float32 [b]. Its gradient is finite for every gamma and all finite logits.

    Raises:
      ValueError: for a negative gamma, and for targets or weights that do not fit the logits.

    References: Lin et al., arXiv:1708.02002, 2017.
    """
    check_gamma(gamma)
    logits, targets = paired(logits, targets)
    log_probs = jax.nn.log_softmax(logits, axis=-1)
    missing = -jnp.expm1(log_probs)  # 1 - p, with the digits it has near p = 1
    # Where nothing is missing the loss is 0, and so is its slope; 0 ** gamma has none for gamma < 1.
    factors = jnp.where(missing > 0.0, jnp.where(missing > 0.0, missing, 1.0) ** gamma, 0.0)
    terms = -targets * factors * log_probs
    if alpha is not None:
        terms *= check_class_weights(alpha, logits.shape[-1], name="alpha")
    return terms.sum(-1)


def sigmoid_focal_loss(
    logits: jax.typing.ArrayLike,
    targets: jax.typing.ArrayLike,
    *,
    gamma: float = 2.0,
    alpha: float | None = None,
    class_weights: np.typing.ArrayLike | None = None,
) -> jax.Array:
    """The focal loss of every class by itself, averaged over the classes.

    Per class -a t (1 - p)^gamma log p - b (1 - t) p^gamma log(1 - p) with p = sigmoid(logit).

    Args:
      logits: float [b, c].
      targets: float [b, c] in [0, 1], multi-hot or soft.
      gamma: >= 0; 0 without alpha is `sigmoid_cross_entropy`.
      alpha: in [0, 1]: a = alpha, b = 1 - alpha (the paper's 0.25 counts present labels less); `None`: both 1.
      class_weights: as in `sigmoid_cross_entropy`.

    Returns:
      float32 [b].

    Raises:
      ValueError: for gamma or alpha out of range, and for targets or weights that do not fit the logits.

    References: Lin et al., arXiv:1708.02002, 2017 (which sums over boxes instead of averaging over classes).
    """
    check_gamma(gamma)
    check_alpha(alpha)
    logits, targets = paired(logits, targets)
    of_present, of_absent = (1.0, 1.0) if alpha is None else (alpha, 1.0 - alpha)
    below, above = jax.nn.softplus(-logits), jax.nn.softplus(logits)  # -log p, -log(1 - p)
    present = of_present * targets * jnp.exp(-gamma * above) * below
    absent = of_absent * (1.0 - targets) * jnp.exp(-gamma * below) * above
    return class_mean(present + absent, class_weights)
