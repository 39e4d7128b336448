"""Options that several commands take, kept as dataclasses.

A command's parameter whose type is a dataclass becomes one option, or argument, for each of its
fields; the command is called with the dataclass made of them.
"""

import functools
import inspect
from collections.abc import Callable
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, get_type_hints


def taking(
    command: Callable[..., None], *, seen: Callable[[Any], None] | None = None
) -> Callable[..., None]:
    """Return a command that has every field as an option, in place of its dataclasses.

    Args:
        command: Some of its parameters are annotated with dataclasses.
        seen: Called with each dataclass before the command is.
    """
    own = inspect.signature(command, eval_str=True).parameters
    kinds: dict[str, Any] = {
        name: one.annotation for name, one in own.items() if is_dataclass(one.annotation)
    }
    parameters: list[inspect.Parameter] = []
    for name, parameter in own.items():
        if name in kinds:
            parameters += _options(kinds[name], parameter)
        else:
            parameters.append(parameter)

    @functools.wraps(command)
    def taken(**given: Any) -> None:
        made = {}
        for name, kind in kinds.items():
            made[name] = kind(**{one.name: given.pop(one.name) for one in fields(kind)})
            if seen is not None:
                seen(made[name])
        command(**given, **made)

    taken.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    taken.__annotations__ = {one.name: one.annotation for one in parameters}
    return taken


def _options(kind: Any, parameter: inspect.Parameter) -> list[inspect.Parameter]:
    hints = get_type_hints(kind, include_extras=True)
    return [
        inspect.Parameter(
            one.name,
            parameter.kind,
            default=inspect.Parameter.empty if one.default is MISSING else one.default,
            annotation=hints[one.name],
        )
        for one in fields(kind)
    ]
