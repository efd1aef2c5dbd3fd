"""The words and the looks of the certificate that are the same for every method."""

MEASURES = {"accuracy": "share of right answers"}
ROUGE = "how much a written answer has in common with the true one (ROUGE-L, 0 to 1)"

NOT_TESTED = [
    "Attacks that bring knowledge back: training on related texts, prompts made to get around "
    "the change, forcing other experts, rounding the weights.",
    "The same knowledge asked for in another language, in other words, or over several turns.",
    "What no question asks for, of the data to be forgotten and of everything else.",
]
NOT_COMPARED = (
    "How the model differs from one that was trained again without the data: no such model was "
    "compared."
)
COMPARISONS = ("forget_quality", "privleak", "reference", "retrained")  # need such a model

NEEDS = [
    "Who holds the study and its files can repeat the audit with the first command.",
    "Who does not needs four things and the second command, on any machine, with no network: the "
    "statement (FILE), the delta, the base model, and the public key of whoever signed.",
    "From base and delta together what was forgotten can be recovered in part: give both only to "
    "those who may see the data.",
]
SMALL_FILES = (
    "The hash of a confidential file is left out, as short contents can be guessed from it: the "
    "audit's own report has it."
)

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title>
<style>
:root { color-scheme: light dark; --ink: #1f2933; --soft: #5b6773; --line: #dfe3e8;
  --page: #f6f7f9; --card: #fff; --good: #1b7a43; --bad: #b3261e; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ec; --soft: #a3adb8; --line: #36404a;
  --page: #14181d; --card: #1c2228; --good: #6fce96; --bad: #ff8a80; } }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", "Liberation Sans", Arial, sans-serif; }
main { max-width: 860px; margin: 0 auto; padding: 2.2rem 1.5rem 3rem; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .5rem; letter-spacing: -.015em; }
h2 { font-size: 1.08rem; margin: 1.7rem 0 .5rem; break-after: avoid; }
p { margin: 0 0 .5rem; overflow-wrap: anywhere; }
header { border-left: 5px solid var(--good); padding-left: 1rem; margin-bottom: 1.2rem; }
.failed header { border-color: var(--bad); } .failed h1 { color: var(--bad); }
.cause { font-weight: 600; font-size: 1.05rem; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(8.5rem, 1fr)); gap: .7rem; }
.tiles div, .wide, pre { background: var(--card); border: 1px solid var(--line);
  border-radius: 8px; }
.tiles div { padding: .6rem .9rem; }
.tiles b { display: block; font-size: 1.35em; font-variant-numeric: tabular-nums; }
.tiles span, dt, small { color: var(--soft); } .tiles span { font-size: .9em; }
.wide { overflow-x: auto; margin: .5rem 0; }
table { border-collapse: collapse; width: 100%; font-size: .94em;
  font-variant-numeric: tabular-nums; }
th, td { padding: .32rem .7rem; text-align: left; vertical-align: top; overflow-wrap: anywhere; }
th { color: var(--soft); font-weight: 600; font-size: .9em; white-space: nowrap;
  border-bottom: 1px solid var(--line); }
tbody tr + tr td { border-top: 1px solid var(--line); }
td:first-child { min-width: 7em; }
td b, td code:only-child { white-space: nowrap; }
dl { display: grid; grid-template-columns: 12rem 1fr; gap: .25rem 1.2rem; margin: 0 0 .5rem; }
dd { margin: 0; overflow-wrap: anywhere; }
ul { margin: 0 0 .5rem; padding-left: 1.2rem; } li { margin: .2rem 0; overflow-wrap: anywhere; }
code, pre { font: .85em/1.5 ui-monospace, "Liberation Mono", Menlo, monospace; }
td code, dd code { overflow-wrap: anywhere; font-size: .78rem; }
pre { padding: .6rem .9rem; margin: .5rem 0; white-space: pre-wrap; overflow-wrap: anywhere; }
.good { color: var(--good); } .bad { color: var(--bad); } .open { color: var(--soft); }
@media (max-width: 40rem) { dl { grid-template-columns: 1fr; } dd { margin-bottom: .4rem; }
  td code:only-child { white-space: normal; } }
@page { size: A4; margin: 13mm 14mm; }
@media print {
  :root { color-scheme: light; --ink: #1f2933; --soft: #5b6773; --line: #dfe3e8; --page: #fff;
    --card: #fff; --good: #1b7a43; --bad: #b3261e; }
  body { font-size: 8.6pt; line-height: 1.34; } main { max-width: none; padding: 0; }
  h1 { font-size: 17pt; } h2 { font-size: 10.5pt; margin: .7rem 0 .2rem; }
  p, ul, dl { margin-bottom: .2rem; } pre, .wide { margin: .25rem 0; }
  header { margin-bottom: .6rem; } pre { padding: .3rem .6rem; } li { margin: .08rem 0; }
  .tiles div { padding: .3rem .6rem; }
  th, td { padding: .1rem .5rem; }
  dl { gap: .05rem 1rem; } td code, dd code { font-size: 7.2pt; }
  tr, li, dd, .tiles, pre { break-inside: avoid; } .wide { overflow: visible; }
}
</style>
</head>
<body{% if failed %} class="failed"{% endif %}>
{%- macro cell(value) -%}
{%- if value is digest %}<code>{{ value }}</code>
{%- elif value in marks %}<b class="{{ marks[value] }}">{{ value }}</b>
{%- else %}{{ value }}{% endif -%}
{%- endmacro %}
<main>
<header>
<h1>{{ title }}</h1>
{% for sentence in lead %}
<p{% if failed and loop.first %} class="cause"{% endif %}>{{ sentence }}</p>
{% endfor %}
</header>
{% if tiles %}
<div class="tiles">
{% for value, what in tiles %}
<div><b>{{ value }}</b><span>{{ what }}</span></div>
{% endfor %}
</div>
{% endif %}
{% for part in parts %}
<section>
<h2>{{ part.title }}</h2>
{% for sentence in part.text %}
<p>{{ sentence }}</p>
{% endfor %}
{% if part.facts %}
<dl>
{% for name, value in part.facts %}
<dt>{{ name }}</dt><dd>{{ cell(value) }}</dd>
{% endfor %}
</dl>
{% endif %}
{% if part.table %}
<div class="wide"><table>
<thead><tr>{% for name in part.table[0] %}<th>{{ name }}</th>{% endfor %}</tr></thead>
<tbody>
{% for row in part.table[1:] %}
<tr>{% for value in row %}<td>{{ cell(value) }}</td>{% endfor %}</tr>
{% endfor %}
</tbody>
</table></div>
{% endif %}
{% if part.items %}
<ul>
{% for item in part.items %}
<li>{{ item }}</li>
{% endfor %}
</ul>
{% endif %}
{% if part.commands %}
<pre>
{% for command in part.commands %}
{{ command }}
{% endfor %}
</pre>
{% endif %}
</section>
{% endfor %}
</main>
</body>
</html>
"""
