"""What a simulated host knows of apps' network policies."""

from typing import Any

from godwit.wire.network_policies import AppPolicies


class SimulatedPolicies:
    """The newest that it was told, by app."""

    def __init__(self) -> None:
        self.by_app: dict[str, AppPolicies] = {}

    def keep(self, told: AppPolicies | None) -> None:
        """Keep them if they are newer."""
        known = None if told is None else self.by_app.get(told.app_id)
        if told is not None and (known is None or known.version < told.version):
            self.by_app[told.app_id] = told

    async def set(self, body: dict[str, Any]) -> dict[str, Any]:
        """Take them by request."""
        self.keep(AppPolicies.model_validate(body))
        return {}
