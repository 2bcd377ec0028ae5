"""The demo page as one HTML document: its styles and its script are inside, and its policy lets the browser run those alone."""

import base64
import hashlib
from collections.abc import Sequence

from stages.lib.reporting import markup, style
from stages.lib.reporting.demo_answers import LARGEST_BYTES, LARGEST_RATIO, LEAST_RATIO

RULES = """
.choose{display:flex;flex-wrap:wrap;gap:.6rem;align-items:center;margin:1rem 0}
.samples{display:flex;flex-wrap:wrap;gap:.4rem;padding:0;margin:.6rem 0}
button,input[type=file]{font:inherit;color:inherit}
button{background:var(--panel);border:1px solid var(--line);border-radius:6px;padding:.3rem .7rem;cursor:pointer}
button:hover{border-color:var(--muted)}
button:focus-visible,input:focus-visible{outline:2px solid var(--student);outline-offset:2px}
.samples button{padding:.15rem;line-height:0}
.samples button[aria-pressed=true]{border-color:var(--student);box-shadow:0 0 0 2px var(--student)}
.samples img{width:3.5rem;height:3.5rem;object-fit:cover;border-radius:3px}
.shown{display:grid;grid-template-columns:repeat(auto-fit,minmax(9rem,1fr));gap:1rem;margin:1rem 0}
.shown figure{margin:0}.shown img{width:100%;max-width:16rem;image-rendering:pixelated;border:1px solid var(--line)}
.heads{display:grid;grid-template-columns:repeat(auto-fit,minmax(15rem,1fr));gap:1.2rem;margin:1rem 0}
.heads h3{margin:.2rem 0 .5rem}
.heads ol{list-style:none;padding:0;margin:0}
.heads li{display:grid;grid-template-columns:1fr auto;gap:0 .6rem;margin:.35rem 0;font-size:.92rem}
.heads .bar{grid-column:1/-1;height:7px;border-radius:4px;background:var(--line);overflow:hidden}
.heads .bar i{display:block;height:100%;background:var(--student)}
.heads b{font-weight:600;overflow-wrap:anywhere}.heads span{font-variant-numeric:tabular-nums}
.slider{display:flex;flex-wrap:wrap;gap:.8rem;align-items:center;margin:1rem 0}
.slider input{flex:1 1 14rem;max-width:26rem;accent-color:var(--mae)}
output{font-variant-numeric:tabular-nums;min-width:3.2rem}
#said{min-height:1.5rem;font-weight:600}#said.bad{white-space:normal}
body.over{outline:4px dashed var(--student);outline-offset:-8px}
[hidden]{display:none!important}
"""

SCRIPT = """
'use strict';
const $ = id => document.getElementById(id);
const most = Number(document.body.dataset.most);
let bytes = null, asked = 0, mask = 0, waiting = 0;

function made(name, text, parent) {
  const one = document.createElement(name);
  if (text !== undefined) one.textContent = text;
  if (parent) parent.append(one);
  return one;
}
function say(text, bad) { $('said').textContent = text; $('said').className = bad ? 'bad' : ''; }
function figure(parent, address, about, caption) {
  const whole = made('figure', undefined, parent), image = made('img', undefined, whole);
  image.src = address; image.alt = about;
  made('figcaption', caption, whole);
}
async function ask(path) {
  const answer = await fetch(path, {method: 'POST', body: bytes, headers: {'Content-Type': 'application/octet-stream'}});
  if (!answer.ok) throw new Error((await answer.text()).trim());
  return answer.json();
}
function told(error) {
  return error instanceof TypeError ? 'The server has gone; start it again with make demo-page.' : error.message;
}
function percent(share, digits) { return (100 * share).toFixed(digits) + ' %'; }

function showHeads(heads) {
  $('heads').replaceChildren();
  for (const head of heads) {
    const whole = made('section', undefined, $('heads'));
    made('h3', head.name, whole);
    const list = made('ol', undefined, whole);
    for (const one of head.top) {
      const row = made('li', undefined, list);
      made('b', one.label, row);
      made('span', percent(one.probability, 1), row);
      const bar = made('div', undefined, row);
      bar.className = 'bar'; bar.setAttribute('aria-hidden', 'true');
      made('i', undefined, bar).style.width = 100 * one.probability + '%';
    }
  }
}
function showTokens(found) {
  $('tokens').replaceChildren();
  const got = 'What the model gets: ' + found.size + ' \\u00d7 ' + found.size + ' pixels';
  figure($('tokens'), found.image, 'The image as the model gets it', got);
  for (const one of found.attention) {
    const about = 'Where the ' + one.name.toLowerCase() + ' looks';
    figure($('tokens'), one.picture, about, one.name + ': ' + percent(one.share, 0) + ' on patches');
  }
}
async function answer() {
  const mine = ++asked;
  say('Asking \\u2026');
  try {
    const found = await ask('/answer');
    if (mine !== asked) return;
    showHeads(found.heads); showTokens(found);
    $('results').hidden = false;
    const first = found.heads[found.heads.length - 1].top[0];
    say(first.label + ', ' + percent(first.probability, 1));
    paint();
  } catch (error) { if (mine === asked) { $('results').hidden = true; say(told(error), true); } }
}
async function paint() {
  if (!$('painted') || !bytes) return;
  const mine = ++waiting, ratio = Number($('ratio').value) / 100;
  try {
    const found = await ask('/paint?ratio=' + ratio + '&draw=' + mask);
    if (mine !== waiting) return;
    $('painted').replaceChildren();
    const saw = 'What it saw: ' + (found.patches - found.hidden) + ' of ' + found.patches + ' patches';
    figure($('painted'), found.seen, 'The image with hidden patches grey', saw);
    const error = 'What it painted; error on hidden patches ' + found.loss.toFixed(3);
    figure($('painted'), found.painted, 'The image with hidden patches painted', error);
    $('trouble').textContent = '';
  } catch (error) { if (mine === waiting) $('trouble').textContent = told(error); }
}
function take(file) {
  for (const one of document.querySelectorAll('[data-sample]')) one.setAttribute('aria-pressed', 'false');
  if (!file) return;
  if (file.size > most) {
    say('The file has ' + file.size + ' bytes; more than ' + most + ' are not taken.', true);
    return;
  }
  bytes = file;
  answer();
}
$('file').addEventListener('click', event => { event.target.value = ''; });
$('file').addEventListener('change', event => take(event.target.files[0]));
document.addEventListener('paste', event => take(event.clipboardData.files[0]));
function over(yes) { document.body.classList.toggle('over', yes); }
document.addEventListener('dragover', event => { event.preventDefault(); over(true); });
document.addEventListener('dragleave', () => over(false));
document.addEventListener('drop', event => { event.preventDefault(); over(false); take(event.dataTransfer.files[0]); });
for (const one of document.querySelectorAll('[data-sample]')) one.addEventListener('click', async () => {
  try {
    const found = await fetch('/sample?number=' + one.dataset.sample);
    if (!found.ok) throw new Error((await found.text()).trim());
    take(await found.blob());
    one.setAttribute('aria-pressed', 'true');
  } catch (error) { say(told(error), true); }
});
if ($('ratio')) {
  let timer = 0;
  $('ratio').addEventListener('input', () => {
    $('percent').textContent = $('ratio').value + ' %';
    clearTimeout(timer); timer = setTimeout(paint, 60);
  });
  $('other').addEventListener('click', () => { mask = (mask + 1) % 65536; paint(); });
}
"""


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


STYLES = style.sheet() + RULES
POLICY = (
    f"default-src 'none'; script-src {_hash(SCRIPT)}; style-src {_hash(STYLES)}; img-src data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""Of the page: nothing from elsewhere, no script but its own."""
FOOTER = "Made by <code>python -m stages.demo_page</code>; only this machine reaches it."


def page(model: str, about: Sequence[str], samples: Sequence[tuple[str, str]], paints: str | None) -> str:
    """The document. about: sentences on the model. samples: (name, small picture as a data: address) of each.

    paints: why nothing is painted, None where something is.
    """
    chosen = "".join(
        markup.element(
            "button",
            f'<img src="{markup.text(picture)}" alt="{markup.text(name)}">',
            type="button",
            data_sample=number,
            aria_pressed="false",
            title=name,
        )
        for number, (name, picture) in enumerate(samples)
    )
    shown = (
        markup.element("div", chosen, class_="samples", role="group", aria_label="Samples of the set")
        if samples
        else ""
    )
    choice = (
        '<div class="choose"><label for="file">An image of yours:</label>'
        '<input type="file" id="file" accept="image/*"></div>'
        '<p class="note">Or drop one here, or paste one. It stays on this machine and is not kept.</p>'
        + (
            f"<p>Or one of the images the model was measured on, which it was not trained on:</p>{shown}"
            if samples
            else ""
        )
        + '<p id="said" role="status" aria-live="polite"></p>'
    )
    results = (
        '<div id="results" hidden>'
        + markup.section("answers", "What each head says", '<div id="heads" class="heads"></div>')
        + markup.section(
            "attention",
            "Where the tokens look",
            "<p>Attention of the last block, mean over its heads: the more amber a patch, the more a token takes from it. It shows "
            'where it looks there, and does not explain the answer.</p><div id="tokens" class="shown"></div>',
        )
        + markup.section("painting", "What the masked autoencoder paints", _painting(paints))
        + "</div>"
    )
    lead = markup.element("p", markup.text(" ".join(about)), class_="lead")
    body = (
        markup.element("header", markup.element("h1", f"Ask the {markup.text(model)}") + lead)
        + markup.element("main", markup.section("image", "An image", choice) + results)
        + markup.element("footer", markup.paragraph(FOOTER))
        + f"<script>{SCRIPT}</script>"
    )
    head = (
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">'
        f"<title>Tutelage: ask the {markup.text(model)}</title><style>{STYLES}</style>"
    )
    return (
        f'<!doctype html>\n<html lang="en"><head>{head}</head><body data-most="{LARGEST_BYTES}">{body}</body></html>\n'
    )


def _painting(paints: str | None) -> str:
    """The slider, or why there is none."""
    if paints is not None:
        return markup.absent(markup.text(paints))
    least, most = round(100 * LEAST_RATIO), round(100 * LARGEST_RATIO)
    return (
        f'<div class="slider"><label for="ratio">Share of patches hidden</label><input type="range" id="ratio" min="{least}" '
        f'max="{most}" value="75"><output id="percent" for="ratio">75 %</output>'
        '<button type="button" id="other">Another mask</button></div>'
        '<p id="trouble" role="status" class="bad"></p><div id="painted" class="shown"></div>'
    )
