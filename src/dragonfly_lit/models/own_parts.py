"""What a part of the user's own must have and must give, said in one line where it has or gives something else."""

from __future__ import annotations

import inspect

from torch import Tensor, nn


def check_method(part: nn.Module, base: type[nn.Module], method: str, *, where: str) -> None:
    """Refuse a part without the method that its base asks for, or with one that takes other arguments.

    Args:
        part: that was built.
        base: of which its class is a subclass, and whose method is there to be overridden.
        method: its name.
        where: key in the configuration, for the error.

    Raises:
        ValueError: names the key, the class and the method's arguments.
    """
    own, asked = getattr(type(part), method), getattr(base, method)
    named = f"{where}: {type(part).__module__}.{type(part).__qualname__}"
    arguments = list(inspect.signature(asked).parameters)[1:]
    if own is asked:
        raise ValueError(f"{named} has no {method}({', '.join(arguments)}). Give it one; its base class says what of.")
    try:
        inspect.signature(own).bind(part, *arguments)
    except TypeError as error:
        raise ValueError(f"{named}.{method} is called as {method}({', '.join(arguments)}): {error}.") from error


def check_gives(found: object, expected: tuple[int, ...], part: nn.Module, *, where: str, of: str) -> None:
    """Refuse what a part gives if it is not a tensor, or is one of another shape.

    Args:
        found: what it gave.
        expected: the shape that the model counts on.
        part: that gave it.
        where: key in the configuration, for the error.
        of: what stands along the axes, such as `images x high crops`.

    Raises:
        ValueError: names the key, the class and both shapes.
    """
    shape = tuple(found.shape) if isinstance(found, Tensor) else None
    if shape != expected:
        given = f"a {type(found).__name__}" if shape is None else f"a tensor of {shape}"
        raise ValueError(f"{where}: {type(part).__name__} gives {given}, but must give one of {expected}: {of}.")
