"""The device that a command names, looked for before anything is read; torch is imported when one is."""

from __future__ import annotations


def usable_device(name: str, key: str) -> str:
    """The device of that name.

    Args:
        name: as torch calls it.
        key: that named it, for the error.

    Raises:
        ValueError: torch knows no such device, or finds none here.
    """
    import torch

    try:
        torch.zeros(1, device=name).item()
    except (RuntimeError, AssertionError, NotImplementedError, ImportError) as error:  # as each backend has it
        kind = "CUDA" if name.startswith("cuda") and not torch.cuda.is_available() else "such"
        raise ValueError(f"{key}={name}: torch finds no {kind} device here. Use {key}=cpu.") from error
    return name
