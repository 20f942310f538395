"""Numbers as text, in one form on all pages, in Markdown and in the terminal."""

import math


def finite(value: float | None) -> float | None:
    """Returns the number, or None when it is missing, NaN or infinite."""
    return float(value) if value is not None and math.isfinite(value) else None


def auroc_text(value: float | None) -> str:
    """Formats an AUROC with two decimals, "–" when missing."""
    number = finite(value)
    return "–" if number is None else f"{number:.2f}"


def p_text(value: float | None) -> str:
    """Formats a p- or q-value as "2e-14", "0.004" or "0.21", "–" when missing."""
    number = finite(value)
    if number is None:
        return "–"
    if number == 0:
        return "< 1e-300"  # smaller than a float can hold
    if number < 0.001:
        mantissa, _, exponent = f"{number:.0e}".partition("e")
        return f"{mantissa}e{int(exponent)}"
    return f"{number:.3f}" if number < 0.1 else f"{number:.2f}"


def mean_text(value: float | None) -> str:
    """Formats a score with three significant digits, "–" when missing."""
    number = finite(value)
    return "–" if number is None else f"{number:#.3g}".rstrip(".").replace("-", "−")


def count_text(n: int, one: str, many: str | None = None) -> str:
    """Returns a number with its noun, such as "1 image" or "1,200 images"."""
    return f"{n:,} {one if n == 1 else many or one + 's'}"
