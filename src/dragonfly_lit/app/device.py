"""The device that a command names, looked for before anything is read; torch is imported when one is."""

from __future__ import annotations


def usable_device(name: str, key: str) -> str:
    """The device of that name.

    Args:
        name: as torch calls it.
        key: that named it, for the error.

    Raises:
        ValueError: torch knows no such device, finds none here, or cannot use it.
    """
    import torch

    try:
        torch.zeros(1, device=name).item()
    except (RuntimeError, AssertionError, NotImplementedError, ImportError) as error:  # as each backend has it
        if name.startswith("cuda") and not torch.cuda.is_available():
            said = "torch finds no CUDA device here"
        else:  # not there, or there and busy or full: torch says which
            said = f"torch cannot use it here ({' '.join(str(error).split()):.200})"
        raise ValueError(f"{key}={name}: {said}. Use {key}=cpu.") from error
    return name
