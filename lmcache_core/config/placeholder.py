"""What stands in a plugin's section for a folder that is not there yet."""

from __future__ import annotations

from typing import Any

FOLDER = "{folder}"


def in_folder(value: Any, folder: str) -> Any:  # noqa: ANN401 - any part of a section
    """Put a folder's path wherever :data:`FOLDER` stands in a section.

    Args:
        value: The section, or a part of it.
        folder: An absolute path.
    """
    if isinstance(value, str):
        return value.replace(FOLDER, folder)
    if isinstance(value, dict):
        return {key: in_folder(item, folder) for key, item in value.items()}
    if isinstance(value, list):
        return [in_folder(item, folder) for item in value]
    return value
