"""The client: `Spine`, what a service embeds to publish, read, ask and look after agents."""

from spine.client.spine import DEFAULT_CLIENT_NAME, DEFAULT_NAMESPACE, Spine

__all__ = ["DEFAULT_CLIENT_NAME", "DEFAULT_NAMESPACE", "Spine"]
