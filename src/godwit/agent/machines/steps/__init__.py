"""How one step is done: one function each, idempotent, through the ports of `work.Host`."""

from collections.abc import Mapping
from typing import Any

from godwit.agent.machines.steps import down, history, image, secrets, up
from godwit.agent.machines.work import Work
from godwit.durable.runner import Step

Output = Mapping[str, Any]

CATALOGUE: dict[str, Step[Work]] = {
    step.name: step
    for step in (*image.STEPS, *history.STEPS, *secrets.STEPS, *up.STEPS, *down.STEPS)
}
"""Every step by its name. A name that a released version journaled is never taken away."""
