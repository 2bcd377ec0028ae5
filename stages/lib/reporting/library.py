"""The JavaScript of the page: Vega-Lite out of a Python package, so that a page fetches nothing, and our few lines on top."""

import functools
import json

from stages.lib.reporting.behaviour import BEHAVIOUR
from stages.lib.reporting.charts import CONFIG


@functools.cache
def bundle() -> str:
    """Vega, Vega-Lite, vega-embed (BSD 3-clause) and BEHAVIOUR as one module of about 0.9 MB; the same on every call.

    Bundling takes some seconds: it is done once a process.
    """
    import vl_convert

    code = vl_convert.javascript_bundle(f"const CONFIG = {json.dumps(CONFIG)};\n{BEHAVIOUR}")
    assert "</script" not in code.lower() and "<!--" not in code, "the bundle would end its own element"
    return str(code)
