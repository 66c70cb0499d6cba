"""The instruction sets of this build, and the choice of one."""

from __future__ import annotations

import os
import warnings

from quaver import _native
from quaver.errors import InstructionSetError

ISA_VARIABLE = "QUAVER_ISA"
"""Environment variable that forces an instruction set where no `isa` argument does."""


_refused: dict[str, str] = {}
"""Instruction sets that the system did not let this process use when it was asked, and why."""


def instruction_sets() -> dict[str, bool]:
    """Return the instruction sets of this build, the best first, and whether each can run here.

    The system is not asked for what needs its permission: see `permitted_isa`.
    """
    return {name: usable and name not in _refused for name, usable in _native.instruction_sets()}


def refusals() -> dict[str, str]:
    """Return the instruction sets that this CPU has and the system refuses, and why it does."""
    return {**dict(_native.refusals()), **_refused}


def bfloat16_sets() -> list[str]:
    """Return the instruction sets that multiply bfloat16 here, the best first."""
    return _native.bfloat16_sets()


def require_bfloat16(isa: str) -> None:
    """Check that an instruction set multiplies bfloat16 here.

    Args:
        isa: one that is available.

    Raises:
        InstructionSetError: it does not; the message says why, and what to take instead.
    """
    able = bfloat16_sets()
    if isa in able:
        return
    if able:
        why = f"{isa} has none; leave out isa and {ISA_VARIABLE}, or choose {' or '.join(able)}"
    else:
        why = f"this CPU or its operating system lacks them: {_native.cpu_name()}"
    raise InstructionSetError(
        f"precision='bfloat16' needs instructions that multiply bfloat16, such as AVX512-BF16 or Arm's BF16: {why}. "
        "Otherwise use precision='float32', 'int8', which is smaller and faster, or "
        "'bfloat16-weights', which stores weights in bfloat16 and multiplies in float32"
    )


def explain_choice() -> str:
    """Return why `choose_isa` chooses what it chooses without an argument, as a phrase."""
    if os.environ.get(ISA_VARIABLE):
        return f"{ISA_VARIABLE} asks for it"
    reasons = [f"{name} is refused ({why})" for name, why in refusals().items()]
    return "; ".join(["the best that this CPU and system allow", *reasons])


def choose_isa(isa: str | None = None) -> str:
    """Return the instruction set to run: the argument, else QUAVER_ISA, else the best one available.

    Nothing is asked of the system: `permitted_isa` is for what runs it.

    Args:
        isa: a name of `instruction_sets`, or None.

    Raises:
        InstructionSetError: the name is unknown, or this machine lacks it; the message lists what there is.
    """
    sets = instruction_sets()
    available = [name for name, usable in sets.items() if usable]
    wanted, origin = isa, "isa"
    if wanted is None:
        wanted, origin = os.environ.get(ISA_VARIABLE) or None, ISA_VARIABLE
    if wanted is None:
        return available[0]
    if not isinstance(wanted, str) or wanted not in sets:
        raise InstructionSetError(
            f"{origin} must be one of {', '.join(sets)}: got {wanted!r}; "
            f"available here: {', '.join(available)}"
        )
    if not sets[wanted]:
        why = refusals().get(wanted, "the CPU or the operating system lacks it")
        raise InstructionSetError(
            f"{origin}={wanted!r} cannot run here: {why}; available: {', '.join(available)}"
        )
    return wanted


def permitted_isa(isa: str | None = None) -> str:
    """Return what `choose_isa` returns, after asking the system for what needs its permission.

    The first choice of AMX asks Linux for the tile registers, once for the process. Where it refuses
    them and nobody named the instruction set, the next one runs, with a RuntimeWarning.

    Args:
        isa: a name of `instruction_sets`, or None.

    Raises:
        InstructionSetError: as `choose_isa`, or the system refuses the set that was named.
    """
    chosen = choose_isa(isa)
    while why := _native.request_permission(chosen):
        _refused[chosen] = why
        following = choose_isa(isa)  # raises where the refused one was named
        warnings.warn(
            f"{chosen} cannot run here: {why}; {following} runs instead, and is what isa= or "
            f"{ISA_VARIABLE} would name to ask for it without this warning",
            RuntimeWarning,
            stacklevel=2,
        )
        chosen = following
    return chosen
