"""Where notifications go: a block that keeps the addresses, which hold credentials, secret."""

from __future__ import annotations

from prefect.blocks.core import Block
from pydantic import Field, SecretStr


class NotificationTargets(Block):
    """Addresses of one audience, each an Apprise URL: Slack, e-mail, a webhook and many more.

    ```python
    NotificationTargets(urls=["slack://token-a/token-b/token-c/ops"]).save("on-call")
    ```
    """

    _block_type_name = "Penstock Notification Targets"
    _block_type_slug = "penstock-notification-targets"
    _description = "Addresses that the notifier agent sends to."

    urls: list[SecretStr] = Field(
        min_length=1, max_length=50, description="Apprise URLs; they hold credentials and stay secret."
    )

    def addresses(self) -> list[str]:
        """Reveal the addresses; whoever calls this must not log or return them."""
        return [url.get_secret_value() for url in self.urls]
