"""Prefect blocks for the systems that Penstock talks to."""

from penstock_blocks.notification import NotificationTargets

BLOCKS = (NotificationTargets,)
"""Every block type that Penstock ships."""

__all__ = ["BLOCKS", "NotificationTargets"]
