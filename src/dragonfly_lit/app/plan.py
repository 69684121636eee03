"""`python -m dragonfly_lit plan [key=value ...]`: what fits and what binds, before anyone queues."""

from __future__ import annotations

from dragonfly_lit.app.planning import RESERVED, Machine, Plan, plan
from dragonfly_lit.app.room import ways_out
from dragonfly_lit.io.later import import_quickly
from dragonfly_lit.io.parsers import plan_parser

GPUS = {
    "H100": (80, 450), "H200": (141, 450), "H800": (80, 200), "H20": (96, 450), "A100": (80, 300), "A800": (80, 200),
    "B200": (180, 900), "GB200": (186, 900), "L40S": (48, 32), "L40": (48, 32), "L4": (24, 32), "A10": (24, 32),
    "RTX PRO 6000": (96, 64), "RTX 4090": (24, 32), "RTX 3090": (24, 32), "MI300X": (192, 448),
}  # fmt: skip
"""Gigabytes, and GB/s of a GPU to the others of its node (NVLink one way, else PCIe), from the makers' data sheets."""


def show(found: Plan, machine: Machine, advice: list[str]) -> str:
    """The plan as lines of at most 100 columns."""
    work, steps, held = found.work, found.ranks * found.accumulate, found.memory
    everything, trained = found.parameters
    again = f", and {found.again / 1e12:,.1f} again by checkpointing" if found.again else ""
    shards = f", over {found.shards} shards" if found.shards > 1 else ""
    seconds, binds = max(found.computing, found.sending), found.binds(machine)
    lines = [
        f"model    {everything:,} parameters, {trained:,} of them trained",
        f"input    {found.layout_tokens:,} tokens an image; a micro-batch is {work.tokens:,} tokens, "
        f"{found.samples:.1f} samples",
        f"step     {found.ranks} x {found.accumulate} micro-batches: {steps * work.tokens:,} tokens, "
        f"{steps * found.samples:,.1f} samples",
        f"compute  {found.flops / 1e12:,.1f} TFLOP a GPU{again}",
        f"         {found.computing:.3f} s at {100 * machine.mfu:.0f}% of the {machine.peak / 1e12:,.0f} TFLOP/s of "
        f"{machine.gpu}",
        f"memory   {held.total / 1e9:,.1f} GB of a GPU's {machine.memory / 1e9:,.0f}{shards}; {RESERVED / 1e9:.0f} GB "
        f"are kept free; highest where backward {'begins' if held.language else 'ends'}:",
    ]
    names = {"gathered": "gathered or cast", "language": "activations, language", "tower": "activations, tower"}
    shown = {key: size for key, size in vars(held).items() if size or key != "reference"}  # few runs have one
    lines += [f"         {size / 1e9:>8.1f} GB {names.get(key, key)}" for key, size in shown.items()]
    if found.unknown:
        lines += [
            f"tower    {found.unknown} cannot be run without numbers:",
            "         the built-in one is counted for it",
        ]
    lines += [f"network  {size / 1e9:>8.2f} GB {name}" for name, size in found.sent.items()]
    if found.sent:
        lines.append(f"         {found.sending:.3f} s, which hide behind computing as far as they are shorter")
    lines.append(
        f"speed    {seconds:.3f} s a step: {steps * work.tokens / seconds:,.0f} tokens/s, "
        f"{steps * found.samples / seconds:,.1f} samples/s"
    )
    lines.append(f"binds    {binds}" + (f"; it fits with {' or with '.join(advice)}" if advice else ""))
    if binds == "memory" and not advice:
        lines[-1] += "; use more GPUs with strategy=fsdp, or a smaller data.batch.max_tokens"
    if binds == "network":
        enough = -(-round(work.tokens * found.sending / found.computing) // 1024) * 1024
        lines[-1] += f"; with data.batch.max_tokens={enough} and packed rows computing hides it"
    return "\n".join(lines)


def main(argv: list[str]) -> int:
    """Print the plan of a run; status 1 where it does not fit.

    Raises:
        ValueError: the configuration is not one, or a part is not known.
    """
    given = plan_parser().parse_args(argv)
    if given.gpu not in GPUS:
        raise ValueError(
            f"--gpu={given.gpu} is not known. Use one of {', '.join(GPUS)}, and --memory for another size."
        )
    for name in ("memory", "text", "network"):
        if getattr(given, name) is not None and getattr(given, name) <= 0:
            raise ValueError(f"--{name}={getattr(given, name)} must be above 0.")

    factories = import_quickly("dragonfly_lit.app.factories")  # first: the others load torchao with it
    from dragonfly_lit.app.build import compose
    from dragonfly_lit.app.errors import describe
    from dragonfly_lit.app.launch import resolve_processes
    from dragonfly_lit.app.values import check_values
    from dragonfly_lit.models.flops import peak_flops

    overrides = [*([f"--config-dir={given.config_dir}"] if given.config_dir else []), *given.overrides]
    try:
        config = compose(overrides)
    except Exception as error:  # Hydra's own kinds, which only `app` knows
        raise ValueError(describe(error, "train", overrides)) from error
    check_values(config, "train")
    resolve_processes(config)
    factories.look_up_parts(config, file=None)
    memory, link = GPUS[given.gpu]
    machine = Machine(
        gpu=given.gpu,
        memory=(given.memory or memory) * 1e9,
        peak=peak_flops(given.gpu) or 0.0,
        mfu=given.mfu,
        node=link * 1e9,
        network=given.network / 8 * 1e9,
    )
    found = plan(config, machine, given.text)
    fits = found.binds(machine) != "memory"
    print(show(found, machine, [] if fits else ways_out(config, machine, given.text)))
    return 0 if fits else 1
