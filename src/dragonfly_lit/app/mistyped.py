"""What Hydra says of an argument that it does not take, told in one line with the key, the value and the way out."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping, Sequence

from omegaconf import DictConfig, ListConfig, OmegaConf

from dragonfly_lit.app import known_keys
from dragonfly_lit.app.moved import OF_EARLIER
from dragonfly_lit.app.overrides import composed, groups
from dragonfly_lit.app.spelling import usual
from dragonfly_lit.app.values import rule_of

BELONGS_TO_A_MODEL = ("model", "vision", "language", "zoom", "projector", "stage")
"""Groups of train.py that a checkpoint has chosen."""
OPEN = {
    "callbacks": "A callback of your own is added by +callbacks.NAME._target_=CLASS.",
    "logger": "A logger of your own is added by +logger.NAME._target_=CLASS.",
    "trainer": "A flag of Lightning's Trainer that is not listed is added by +trainer.FLAG=VALUE.",
    "stage.schedule": "A schedule of your own is given as a whole: 'stage.schedule={_target_: my_parts.schedule.f}'.",
}
"""Where parts of the user's own come in, and how."""
THERE_ALREADY = (
    r"An item is already at '([^']+)'",
    r"force-add of config groups is not supported: '\+\+([^=']+)=",
    r"Multiple values for ([\w/]+)\. ",
)
"""How Hydra says that what a plus would add is there."""
MANY = 3
"""Choices that an answer names at most, of those that have a key."""
LONGEST = 60
"""Characters of a value that an answer repeats."""


def explain(said: Sequence[str], config: str, arguments: Sequence[str]) -> str | None:
    """One line for what Hydra says of a key; None where it speaks of something else.

    Args:
        said: what the errors say, one text each, the outermost first: it has the whole key.
        config: `train` or `evaluate`.
        arguments: of the command line.
    """
    text = "\n".join(said)
    for pattern in THERE_ALREADY:
        if (match := re.search(pattern, text)) and (item := _of(match[1], arguments, "+")) is not None:
            plus = "+" * (len(item) - len(item.lstrip("+")))
            given, use = f"{plus}{_typed(match[1], arguments)}", _use(match[1], arguments)
            return f"{given}: there is {match[1]} already. Leave the + out: {use}."
    if match := re.search(r"Could not delete(?: from config\.)? '([^'=]+)(?:=[^']*)?'(?: does not|\. No match)", text):
        return _not_there(match[1], config, arguments)
    if match := re.search(r"The value of '([^']+)' is (.*) and not (.*)\.", text):
        key, value, given = match.groups()
        return f"~{key}={given}: {key} is {value}. Leave the value out: ~{key}."
    if match := re.search(r"Interpolation key '([^']+)' not found", text):
        if _of(match[1], arguments, "~") is not None:
            return f"~{match[1]}: a run needs {match[1]}. Leave this out, or give it another value: {match[1]}=VALUE."
        place = re.search(r"full_key: (\S+)", text)
        where = f"{place[1]} refers" if place else "a value refers"
        return f"{where} to ${{{match[1]}}}, and there is no key {match[1]}. Name one that there is."
    if line := _of_a_list(text, config, arguments):
        return line
    if match := re.search(r"Could not override '([^']+)'", text) or re.search(r"full_key: (\S+)", text):
        return _no_such_key(match[1], config, arguments)
    return None


def _of(key: str, arguments: Iterable[str], mark: str = "") -> str | None:
    """The argument that sets a key, with this mark in front of it if one is wanted."""
    found = (item for item in arguments if item.startswith(mark) and item.lstrip("+~").partition("=")[0] == key)
    return next(found, None)


def _value(key: str, arguments: Iterable[str]) -> str | None:
    """What an argument gives a key, as a user would type it; None where none does, or where it is long."""
    _, equals, value = (_of(key, arguments) or "").partition("=")
    value = value[1:-1] if re.fullmatch(r"'[^']*'", value) else value  # a choice that is a number, quoted by us
    return value if equals and len(value) <= LONGEST else None


def _typed(key: str, arguments: Sequence[str]) -> str:
    value = _value(key, arguments)
    return key if value is None else f"{key}={value}"


def _use(key: str, arguments: Sequence[str], place: str | None = None) -> str:
    """The argument as it should be, at another place if one is given; quoted for the shell where that is needed."""
    value = _value(key, arguments)
    return place or key if value is None else shlex.quote(f"{place or key}={value}")


def _not_there(key: str, config: str, arguments: Sequence[str]) -> str:
    """An answer to `~KEY` of what is not there."""
    cfg = composed(config, arguments)
    if OmegaConf.select(cfg, key, default="") is None:
        return f"~{key}: {key} is null already. Leave it out."
    if key in groups(arguments):
        return f"~{_typed(key, arguments)}: {key} has another choice. Use ~{key}, or {key}=CHOICE for another."
    near = known_keys.nearest(key, known_keys.of_config(cfg, nodes=True))
    said = " or ".join(f"~{name}" for name in near)
    return f"~{key}: there is no {key} to take away. " + (f"Did you mean {said}?" if near else "Leave it out.")


def _of_a_list(text: str, config: str, arguments: Sequence[str]) -> str | None:
    """An answer to a part of a list that is asked for by a name, or by a number that it does not have."""
    if not re.search(r"list index out of range|invalid literal for int\(\)|list indices must be", text):
        return None
    cfg = composed(config, arguments)
    for item in arguments:
        key = item.lstrip("+~").partition("=")[0]
        names = key.split(".")
        for place in range(1, len(names)):
            above = ".".join(names[:place])
            node = OmegaConf.select(cfg, above, default=None)
            if isinstance(node, ListConfig) and names[place] not in map(str, range(len(node))):
                if not node:
                    return f"{item}: {above} is an empty list. Give the whole list: {above}=[...]."
                use = _use(key, arguments, ".".join([above, "0", *names[place + names[place].isdecimal() :]]))
                count = f"{len(node)} part{'s' * (len(node) != 1)}"
                return f"{item}: {above} is a list of {count}, counted from 0. Use {use}, or {above}=[...] for all."
    return None


def _no_such_key(key: str, config: str, arguments: Sequence[str]) -> str:
    if "@" in key:
        group = key.partition("@")[0]
        value = _value(key, arguments)
        return f"{key}={value}: a choice lies where its group has its place. Use {group}={value}."
    if _of(key, arguments, "~") is not None:
        return f"~{key}: a run needs {key}. Leave this out, or give it another value: {key}=VALUE."
    return f"{key} is not a key of {_elsewhere_or_near(key, config, arguments)}"


def _elsewhere_or_near(key: str, config: str, arguments: Sequence[str]) -> str:
    """What an answer says behind `KEY is not a key of`."""
    ours, value = "this configuration", _value(key, arguments)
    if config == "evaluate" and key.split(".")[0] in BELONGS_TO_A_MODEL:
        given = _typed(key, arguments) if value is not None else f"{key}=..."
        return (
            "evaluate.py: the checkpoint brings its own, as it was trained. Another is chosen by checkpoint=PATH, or "
            f"trained by python train.py {given}"
        )
    if config == "train" and key in OF_EARLIER:
        return f"{ours}: {OF_EARLIER[key]}."
    cfg, (first, *_), (above, *_) = composed(config, arguments), key.split("."), key.rpartition(".")
    slips = [  # `traner.devices`: nothing but the group is mistyped
        name
        for name in known_keys.of_config(cfg, nodes=False)
        if name.split(".")[1:] == key.split(".")[1:] and above and known_keys.is_slip(first, name.split(".")[0])
    ]
    if slips:
        return f"{ours}. Did you mean {_use(key, arguments, slips[0])}?"
    if (hint := usual(key, value, config)) is not None:
        return f"{ours}: {hint}"
    if first == "hydra":
        return f"Hydra. Its keys are listed by python {config}.py --cfg hydra."
    others = known_keys.of_choices(arguments)
    if key in others and (config == "train" or first in cfg):
        return f"{ours}: {_of_a_choice(key, others[key], arguments)}"
    other = "evaluate" if config == "train" else "train"
    if first in composed(other, ()) and first not in cfg:
        return f"{config}.py: it belongs to python {other}.py. Leave it out."
    node = OmegaConf.select(cfg, above, default=None) if above else None
    if isinstance(node, str | int | float):
        return f"{ours}: {above} is a value, {node}, and has no keys below it. Use {_use(key, arguments, above)}."
    if not isinstance(node, DictConfig):
        node = None
    if node is not None and rule_of(config, key) is not None:
        return f"{ours} yet: {above} takes it, and its file does not list it. Add it: +{_use(key, arguments)}."
    return f"{ours}. {_near(key, config, arguments, node, others)}"


def _near(
    key: str, config: str, arguments: Sequence[str], node: DictConfig | None, others: Mapping[str, dict[str, list[str]]]
) -> str:
    """What was meant by a key that nothing has.

    Args:
        key: with dots.
        config: `train` or `evaluate`.
        arguments: of the command line.
        node: what holds the keys beside it, if there is one.
        others: the keys of all choices, and which have them.
    """
    cfg, value, (above, _, last) = composed(config, arguments), _value(key, arguments), key.rpartition(".")
    is_mapping = value is None or value.startswith(("{", "[")) or value == "null"
    known = dict.fromkeys(known_keys.of_config(cfg, nodes=is_mapping) + sorted(groups(arguments)), "")
    beside = [] if node is None else known_keys.with_a_rule(above, config)
    known |= {name: "+" for name in beside if name not in known and name not in others}
    near = [group for group in known if group.endswith(f"/{key}")] or known_keys.nearest(key, known)  # experiment/cell
    if node is not None:  # what lies elsewhere must be nearly the same
        near = [name for name in near if name.rpartition(".")[0] == above or known_keys.is_slip(key, name)]
    near = [name for name in near if name.rpartition(".")[0] == above] or near
    every = known_keys.of_config(cfg, nodes=True)
    elsewhere = [name for name in others if name.rpartition(".")[0] == above and name not in every]
    of_another = known_keys.nearest(key, elsewhere)
    if near:
        said = [f"Did you mean {' or '.join(known[name] + _use(key, arguments, name) for name in near)}?"]
    elif of_another:
        group, choices = next(iter(others[of_another[0]].items()))
        said = [f"Did you mean {group}={choices[0]} {_use(key, arguments, of_another[0])}?"]
    elif names := [str(name) for name in node or () if name != "_target_"]:
        said = [f"The keys of {above} are {', '.join(names)}."]
    else:
        said = [] if node is not None else [f"The keys are listed in conf/{config}.yaml."]
    if node is not None and "_target_" in node and not near:
        said += [f"If {str(node['_target_']).rpartition('.')[2]} takes {last}, add it: +{_use(key, arguments)}."]
    return " ".join(said + [hint for prefix, hint in OPEN.items() if key.startswith(f"{prefix}.")])


def _of_a_choice(key: str, found: dict[str, list[str]], arguments: Sequence[str]) -> str:
    """Which choice of a group has a key that the chosen one lacks."""
    group, names = next(iter(found.items()))
    belongs = ", ".join(f"{group}={name}" for name in names[:MANY]) + (" and others" if len(names) > MANY else "")
    way_out = f"Use {group}={names[0]} {_use(key, arguments)}" if len(names) == 1 else "Choose one of them"
    return f"it belongs to {belongs}. {way_out}, or leave it out."


def check_marked(arguments: Sequence[str], config: str) -> None:
    """Refuse what Hydra takes in silence or trips over: `+KEY` where KEY is one that there is, mistyped, `~LIST.0`.

    Args:
        arguments: normalised, options of the command line among them.
        config: `train` or `evaluate`.

    Raises:
        ValueError: names the key, the value and what is meant.
    """
    marked = [(item, item.lstrip("+~").partition("=")[0]) for item in arguments if item.startswith(("+", "~"))]
    known = groups(arguments)
    marked = [(item, key) for item, key in marked if key not in known and (item[0] == "+") == ("." not in key)]
    if not marked:
        return
    cfg = composed(config, arguments)
    texts = OmegaConf.to_yaml(cfg) + "\n".join(arguments)
    for item, key in marked:
        above = key.rpartition(".")[0]
        if above and isinstance(OmegaConf.select(cfg, above, default=None), ListConfig):
            raise ValueError(f"{item}: a part of a list is not taken away alone. Give the whole list: {above}=[...].")
        if above or key in cfg or f"${{{key}" in texts:
            continue
        near = [name for name in known_keys.nearest(key, [*map(str, cfg), *known]) if known_keys.is_slip(key, name)]
        if near:
            meant = " or ".join(_use(key, arguments, name) for name in near)
            raise ValueError(f"{item}: nothing reads {key}. Did you mean {meant}, without the +?")
