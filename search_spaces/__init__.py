"""What may be built: choices, graphs, modules and weight-sharing networks."""

from search_spaces.loading import load_space, space_from_mapping
from search_spaces.space import Arch, Space

__all__ = ["Arch", "Space", "load_space", "space_from_mapping"]
