"""What was changed, by whom: every mutation adds its row in its own transaction.

`organizations.audit_page` reads them.
"""

from typing import Any

from godwit.base import ids
from godwit.base.clock import Clock
from godwit.base.principal import Principal
from godwit.control.records import AuditRow
from godwit.control.rows import Rows


async def record(
    rows: Rows,
    clock: Clock,
    who: Principal,
    action: str,
    target: str,
    *,
    org_id: str | None,
    **detail: Any,
) -> None:
    """Add a row: `apps.create`, the thing's id or name, and what else matters later."""
    at_ms = clock.now_ms()
    await rows.audit.add(
        AuditRow(
            id=f"aud_{ids.ulid(at_ms).lower()}",
            at_ms=at_ms,
            principal=who.subject,
            org_id=org_id,
            action=action,
            target=target,
            detail=detail,
        )
    )


async def take(rows: Rows, row: AuditRow) -> None:
    """Add a row that was written down elsewhere first; told again, it is there already."""
    if not await rows.audit.has(row.id):
        await rows.audit.add(row)
