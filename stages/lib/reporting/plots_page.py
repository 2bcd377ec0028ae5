"""The page that `dvc plots` fills, with Vega inside: DVC's own fetches it from a network.

    python -m stages.lib.reporting.plots_page

`make setup` writes it where .dvc/config names it; git does not keep it, as it comes out of a package that requirements.lock pins.
"""

from pathlib import Path

from stages.lib.core import files

TEMPLATE = Path(".dvc/plots/page.html")
VEGA_LITE = "5.20"  # DVC's specifications are of version 5
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data: file:; script-src 'unsafe-inline'"
"""DVC writes a script for each plot into the page, so inline ones run; nothing is fetched, and nothing is evaluated."""
EMBED = "window.vegaEmbed = (where, spec) => vegaEmbed(where, spec, {ast: true, actions: false, mode: 'vega-lite'});"
STYLE = """
:root{color-scheme:light}body{font:15px/1.5 system-ui,sans-serif;margin:1.5rem;background:#fff;color:#1c2127;
display:flex;flex-wrap:wrap;gap:1.5rem 2.5rem;align-items:flex-start}h1{flex-basis:100%;font-size:1.4rem;margin:0}
body>div{max-width:100%;overflow-x:auto}"""


def template() -> str:
    """DVC puts what it has drawn in place of plot_divs; `{scripts}`, its addresses on a network, is left out."""
    import vl_convert

    library = vl_convert.javascript_bundle(EMBED, vl_version=VEGA_LITE)
    assert "</script" not in library.lower() and "<!--" not in library, "the library would end its own element"
    assert not any(word in library for word in ("{plot_divs}", "{scripts}", "{refresh_tag}"))
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">{refresh_tag}'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}"><title>Plots</title><style>{STYLE}</style>'
        f'<script>(() => {{ "use strict"; {library} }})();</script></head><body><h1>Plots</h1>{{plot_divs}}</body></html>\n'
    )


if __name__ == "__main__":
    with files.replace(TEMPLATE) as temporary:
        temporary.write_text(template(), encoding="utf-8")
