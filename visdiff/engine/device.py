"""Which device of torch a setting names."""

from visdiff.errors import InputError


def resolve_device(name: str = "auto") -> str:
    """Returns the torch device of a device setting.

    Args:
        name: "auto" (CUDA if available, else Apple's MPS, else the CPU), "cpu", "mps", "cuda"
            or "cuda:<index>".

    Returns:
        The name of an available device.

    Raises:
        InputError: The name is unknown, or the device is not available.
    """
    import torch

    cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    if name == "auto":
        return "cuda" if cuda else "mps" if mps else "cpu"
    kind, _, index = name.partition(":")
    if kind not in ("cpu", "cuda", "mps") or (index and not index.isdigit()):
        raise InputError(
            f"Expected device auto, cpu, cuda, cuda:<index> or mps, got {name!r}; use one of these."
        )
    if kind == "cuda" and (not cuda or (index and int(index) >= torch.cuda.device_count())):
        count = torch.cuda.device_count() if cuda else 0
        raise InputError(
            f"Expected an available device, got {name!r}, but torch finds {count} CUDA devices; "
            "use device auto or cpu."
        )
    if kind == "mps" and not mps:
        raise InputError(
            "Expected an available device, got 'mps', which torch does not find; use device auto "
            "or cpu."
        )
    return name
