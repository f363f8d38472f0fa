"""Large numbers as people read them: three digits and a unit, in steps of 1000."""


def describe_bytes(number: int) -> str:
    """Bytes; 1 GB is 10^9.

    >>> describe_bytes(1_234_567), describe_bytes(12), describe_bytes(999_600)
    ('1.23 MB', '12 B', '1.00 MB')
    """
    return _with_unit(number, ("B", "kB", "MB", "GB", "TB"))


def describe_flops(number: int) -> str:
    """Floating-point operations.

    >>> describe_flops(8_178_000_000), describe_flops(52_300_000), describe_flops(0)
    ('8.18 GFLOP', '52.3 MFLOP', '0 FLOP')
    """
    return _with_unit(number, ("FLOP", "kFLOP", "MFLOP", "GFLOP", "TFLOP", "PFLOP", "EFLOP"))


def describe_count(number: int) -> str:
    """How many, in thousands (k), millions (M) and so on.

    >>> describe_count(11_177_538), describe_count(514)
    ('11.2 M', '514')
    """
    return _with_unit(number, ("", "k", "M", "G")).rstrip()


def _with_unit(number: int, units: tuple[str, ...]) -> str:
    value, place = float(number), 0
    while value >= 999.5 and place < len(units) - 1:
        value, place = value / 1000, place + 1
    digits = 0 if place == 0 or value >= 99.95 else 1 if value >= 9.995 else 2
    return f"{value:.{digits}f} {units[place]}"
