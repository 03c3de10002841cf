"""trimlab: cut a large language model down to one domain (TrimLLM, arXiv 2412.11242).

Names are imported on first use, so that `import trimlab` is quick.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trimlab.export.hf import save_packed
    from trimlab.model.loading import load_model
    from trimlab.model.sublayers import Sublayer, SublayerStack
    from trimlab.runs.trim import trim
    from trimlab.scanning.scan import scan

_HOME = {
    "load_model": "trimlab.model.loading",
    "Sublayer": "trimlab.model.sublayers",
    "SublayerStack": "trimlab.model.sublayers",
    "scan": "trimlab.scanning.scan",
    "trim": "trimlab.runs.trim",
    "save_packed": "trimlab.export.hf",
}

__all__ = ["Sublayer", "SublayerStack", "load_model", "save_packed", "scan", "trim"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'trimlab' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)
