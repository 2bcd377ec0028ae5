"""`versions`: packages whose code can change a result, as installed by requirements.lock."""

from pydantic import RootModel


class Versions(RootModel[dict[str, str]]):
    """Distribution name -> version. A stage declares those it imports, so an upgrade re-runs exactly its users."""
