"""The page's style sheet: one column on a phone, both themes, fit to print."""

HUES = {  # name: (on white, on black)
    "ink": ("#1c2127", "#e8eaed"),
    "muted": ("#5a6572", "#9aa5b1"),
    "line": ("#dde2e7", "#343b43"),
    "paper": ("#ffffff", "#14171a"),
    "panel": ("#f5f7f9", "#1c2126"),
    "teacher": ("#b45309", "#f0a45b"),
    "mae": ("#7548c9", "#b79cf2"),
    "student": ("#1f63c4", "#74aaf5"),
    "finetuned": ("#0b7a5c", "#4fc9a2"),
    "transfer": ("#b0316f", "#ee86b6"),
    "good": ("#17753f", "#5fd08f"),
    "bad": ("#b42318", "#ff8d80"),
    "right": ("#1f63c4", "#74aaf5"),
    "wrong": ("#d65414", "#ff9b61"),
    "published": ("#7a8592", "#8d98a5"),
    "robust": ("#8a6d00", "#e0c04a"),
}
RIGHT, WRONG = "31 99 196", "214 84 20"  # hues of the confusion matrix, readable on both papers


def sheet() -> str:
    """All of it."""
    light, dark = (";".join(f"--{name}:{pair[theme]}" for name, pair in HUES.items()) for theme in (0, 1))
    themes = f":root{{color-scheme:light dark;{light}}}@media (prefers-color-scheme:dark){{:root{{{dark}}}}}"
    printed = f"@media print{{:root{{color-scheme:light;{light}}}}}"
    levels = range(1, 11)
    shades = "".join(
        f".right.h{level}{{background:rgb({RIGHT}/{0.05 + 0.065 * level:.3f})}}"
        f".wrong.h{level}{{background:rgb({WRONG}/{0.27 + 0.05 * level:.3f})}}"
        for level in levels
    )
    return themes + printed + shades + RULES


RULES = """
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%}
@media (prefers-reduced-motion:no-preference){html{scroll-behavior:smooth}}
body{margin:0;background:var(--paper);color:var(--ink);font:16px/1.55 system-ui,-apple-system,"Segoe UI",sans-serif}
header,main,footer{max-width:68rem;margin:0 auto;padding:0 1.25rem}
header{padding-top:2.5rem}
footer{padding-bottom:3rem;color:var(--muted);font-size:.875rem}
h1{font-size:clamp(1.6rem,4.5vw,2.4rem);line-height:1.15;letter-spacing:-.015em;margin:0 0 .6rem}
h2{font-size:1.35rem;line-height:1.25;margin:3.2rem 0 .5rem;padding-top:1rem;
border-top:1px solid var(--line);scroll-margin-top:.5rem}
h3{font-size:1rem;margin:1.6rem 0 .4rem}
p{margin:.4rem 0 .8rem;max-width:44rem}
.lead{font-size:1.15rem;line-height:1.5;max-width:50rem}
.skip{position:absolute;left:-99rem}.skip:focus{left:1rem;top:1rem;background:var(--paper)}
a{color:inherit;text-decoration-color:var(--muted);text-underline-offset:.15em}
:is(a,summary,.wide,button,input,select):focus-visible{outline:2px solid var(--student);outline-offset:2px}
.n{text-decoration:underline dotted;text-decoration-thickness:1px;text-decoration-color:var(--muted);
white-space:nowrap;font-variant-numeric:tabular-nums}
.n:hover{text-decoration-style:solid}
code,pre{font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",monospace;font-size:.86em}
code{overflow-wrap:break-word}
pre{background:var(--panel);border:1px solid var(--line);border-radius:6px;padding:.8rem 1rem;overflow-x:auto;line-height:1.45}
.note{font-size:.84rem}
.muted,.note,.source,.absent,.none,caption,figcaption{color:var(--muted)}
.source{font-size:.92em}
.absent{border-left:3px solid var(--line);padding-left:.8rem}
.name{overflow-wrap:break-word}td .name{overflow-wrap:anywhere}
.placed td .name{overflow-wrap:normal}.two .facts td a.n,.two .facts tbody th{white-space:normal;overflow-wrap:anywhere}
.two caption code{overflow-wrap:anywhere}
.within{display:block;color:var(--muted);white-space:nowrap}
.pipeline{position:relative;margin:1.6rem 0}.pipeline svg{display:none}
.strip{list-style:none;display:grid;grid-template-columns:1fr 1fr;gap:.6rem;padding:0;margin:0}
.strip a{display:block;height:100%;padding:.5rem .6rem;border:1px solid var(--line);
border-top:3px solid var(--hue,var(--muted));border-radius:6px;background:var(--panel);
text-decoration:none;font-weight:600;font-size:.88rem;line-height:1.25}
.strip a:hover{border-color:var(--hue,var(--muted))}
.strip small{display:block;font-weight:400;margin-top:.15rem}
.good,.bad{white-space:nowrap}.good{color:var(--good)}.bad{color:var(--bad)}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(9.5rem,1fr));gap:.8rem;margin:1.4rem 0}
.tile{background:var(--panel);border:1px solid var(--line);border-radius:8px;padding:.8rem .9rem}
.tile b{display:block;font-size:.9rem}
.tile strong .n{font-size:1.65rem;font-weight:650;line-height:1.3;color:var(--hue,var(--ink));text-decoration-color:var(--line)}
.tile small{display:block;color:var(--muted);font-size:.78rem;line-height:1.35;overflow-wrap:anywhere}
.meter{position:relative;height:5px;border-radius:3px;background:var(--line);margin:.35rem 0 .5rem}
.meter i{position:absolute;inset:0 auto 0 0;border-radius:3px;background:var(--hue,var(--muted))}
.meter u{position:absolute;top:-3px;bottom:-3px;width:2px;background:var(--ink)}
.panels{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,17.5rem),1fr));gap:.5rem 1.6rem}
.two{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,26rem),1fr));gap:.5rem 2rem;align-items:start}
figure{margin:.8rem 0 1.2rem;min-width:0}
figcaption,caption{font-size:.84rem;line-height:1.4;text-align:left}
figcaption{margin-top:.4rem;max-width:44rem}
figure img{display:block;max-width:100%;height:auto;border:1px solid var(--line);background:#fff}
img.small{image-rendering:pixelated}
.chart{min-width:0;margin:.4rem 0}
.canvas{min-height:5rem;max-width:46rem}.canvas svg{display:block;overflow:visible}
.chart details{border:0;padding:0;margin:.2rem 0;font-size:.84rem;color:var(--muted)}
.chart details[open]>summary{border:0;margin:0}
.chart details .wide{max-height:24rem;overflow:auto}
#vg-tooltip-element{position:fixed;z-index:9;visibility:hidden;pointer-events:none;padding:.45rem .6rem;border-radius:6px;
background:var(--panel);color:var(--ink);border:1px solid var(--line);box-shadow:0 2px 10px rgb(0 0 0/.18);font-size:.8rem}
#vg-tooltip-element.visible{visibility:visible}#vg-tooltip-element td{border:0;padding:.05rem .5rem .05rem 0}
#vg-tooltip-element td.key{color:var(--muted);text-align:right}#vg-tooltip-element h2{border:0;margin:0;padding:0;font-size:.85rem}
[hidden]{display:none!important}
.controls{display:flex;flex-wrap:wrap;gap:.4rem 1.2rem;align-items:center;margin:.5rem 0;font-size:.88rem}
.controls label{display:inline-flex;flex-wrap:wrap;gap:.1rem .5rem;align-items:center;max-width:100%}
select,input[type=search]{font:inherit;color:inherit;background:var(--paper);border:1px solid var(--muted);border-radius:5px;
padding:.15rem .4rem;max-width:100%;min-width:0}input[type=range]{width:min(22rem,55vw);accent-color:var(--mae)}
output{font-variant-numeric:tabular-nums;min-width:3.5rem}
th button{font:inherit;color:inherit;background:none;border:0;padding:0;text-align:inherit;cursor:pointer}
th button::after{content:" \\2195";opacity:.45}
th[aria-sort=ascending] button::after{content:" \\2191";opacity:1}
th[aria-sort=descending] button::after{content:" \\2193";opacity:1}
.album{list-style:none;display:grid;grid-template-columns:repeat(auto-fill,minmax(6.4rem,1fr));gap:.6rem;padding:0;margin:.6rem 0}
.album li{border:1px solid var(--line);border-radius:6px;padding:.3rem;font-size:.76rem;line-height:1.3;background:var(--panel);
overflow-wrap:anywhere}.album li.wrong{border-color:var(--bad)}
.album i{display:block;width:100%;aspect-ratio:1;border-radius:3px;margin-bottom:.25rem;background-image:var(--sprite);
background-size:1200% auto;background-repeat:no-repeat;background-color:#fff}
.album.small i,.slide img{image-rendering:pixelated}
.wide{overflow-x:auto;margin:.6rem 0 1.2rem}
table{border-collapse:collapse;font-size:.9rem;font-variant-numeric:tabular-nums}
caption{padding:0 0 .35rem}.wide caption{max-width:min(44rem,90vw)}
th,td{padding:.3rem .6rem .3rem 0;text-align:left;vertical-align:top;border-bottom:1px solid var(--line)}
thead th{color:var(--muted);font-weight:600;vertical-align:bottom;border-bottom-color:var(--muted)}
tbody th{font-weight:500}
.num{text-align:right;white-space:nowrap}
td code,th code{font-size:.8rem}
tr:has(:target){background:color-mix(in srgb,var(--student) 16%,transparent)}
.two table:not(.confusion){width:100%}
tbody th{white-space:nowrap}.checks{width:100%}.checks tbody th{white-space:normal;width:52%}
.checks tbody th,.checks td{overflow-wrap:anywhere}.checks small{display:block;font-weight:400;color:var(--muted)}
.checks th:nth-child(n+2){white-space:nowrap}
.place{font-size:.8rem;color:var(--muted)}.facts .num{text-align:left}
.confusion td,.confusion th{padding:.2rem;border:0;text-align:center;vertical-align:middle}
.confusion{width:100%;max-width:34rem}
.confusion td{min-width:1.9rem;height:2.2rem;border:1px solid var(--paper)}
.confusion tbody th{text-align:right;padding-right:.5rem;max-width:9rem}
.confusion thead th{max-width:4rem;font-size:.8rem}
.panels:has(.many){grid-template-columns:1fr}
.confusion.many td{min-width:.8rem;height:.8rem;padding:0}
.confusion.many th{font-size:.65rem;line-height:1;padding:0 .3rem 0 0}
.confusion.many thead th{writing-mode:vertical-rl;padding:.2rem 0}
.unseen{position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%)}
details{border:1px solid var(--line);border-radius:6px;margin:.5rem 0;padding:0 .9rem;min-width:0}
summary{cursor:pointer;padding:.45rem 0;font-weight:500}
details[open]>summary{border-bottom:1px solid var(--line);margin-bottom:.6rem}
@media (min-width:56rem){
.pipeline svg{display:block;position:absolute;inset:0;width:100%;height:100%}
.pipeline path{fill:none;stroke:var(--muted);stroke-width:1.6;vector-effect:non-scaling-stroke;opacity:.55}
.strip{grid-template-columns:repeat(6,1fr);grid-template-rows:repeat(3,1fr);gap:0;position:relative}
.strip li{grid-area:var(--row)/var(--column);padding:.4rem .8rem;display:grid;align-items:center}
.strip a{height:auto}}
@media (max-width:36rem){
body{font-size:15px}header{padding-top:1.4rem}
table{font-size:.84rem}th,td{padding-right:.45rem}
.placed th:last-child,.placed td:last-child{display:none}.tiles{grid-template-columns:1fr 1fr}}
@media print{
body{font-size:10pt}header,main,footer{max-width:none;padding:0}h2,figure,tr,.tile{break-inside:avoid}h2{break-after:avoid}
.wide{overflow:visible}details::details-content{content-visibility:visible;block-size:auto}}
"""
