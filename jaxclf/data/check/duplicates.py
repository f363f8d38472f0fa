"""Pictures that look the same though their pixels differ: saved anew, or at another size.

A pair counts when at most `MAX_BITS` of the 64 gradient bits differ and the thumbnails differ by less than
`MAX_DIFFERENCE` on average. Why these: of 800 different photos no two differ in fewer than 9 bits, while 99 % of them
differ from themselves, saved anew at quality 30 to 75 or at half the size, in at most 3.
"""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from jaxclf.data.check.inspect import Facts

MAX_BITS = 3
MAX_DIFFERENCE = 8.0
#: Candidates each picture is compared with per band: bounds the work where thousands of pictures are all alike.
MAX_CANDIDATES = 64
# With one band more than bits that may differ, two such hashes agree on at least one band entirely.
BANDS = MAX_BITS + 1
BAND_BITS = 64 // BANDS


def near_groups(facts: Sequence[Facts]) -> list[list[int]]:
    """Groups of positions that look the same, directly or by way of others: each sorted, at least two, in order.

    Args:
      facts: readable pictures, no two with the same pixels.
    """
    buckets: defaultdict[tuple[int, int], list[int]] = defaultdict(list)
    parent = list(range(len(facts)))

    def root(index: int) -> int:
        while parent[index] != index:
            parent[index] = parent[parent[index]]
            index = parent[index]
        return index

    for index, fact in enumerate(facts):
        for band in range(BANDS):
            bucket = buckets[band, (fact.gradients >> (band * BAND_BITS)) & (2**BAND_BITS - 1)]
            for other in bucket[-MAX_CANDIDATES:]:
                if root(other) != root(index) and _look_the_same(fact, facts[other]):
                    parent[root(index)] = root(other)
            bucket.append(index)
    groups: defaultdict[int, list[int]] = defaultdict(list)
    for index in range(len(facts)):
        groups[root(index)].append(index)
    return sorted(group for group in groups.values() if len(group) > 1)


def _look_the_same(one: Facts, other: Facts) -> bool:
    if (one.gradients ^ other.gradients).bit_count() > MAX_BITS:
        return False
    difference = np.abs(one.thumbnail.astype(np.int16) - other.thumbnail.astype(np.int16))
    return float(difference.mean()) < MAX_DIFFERENCE
