"""How the page of the API's document looks: its style, and its template for Jinja."""

from __future__ import annotations

from typing import Final

STYLE: Final = """
:root { color-scheme: light dark; --ink: #1d2430; --faint: #5b6675; --paper: #fff; --edge: #dde2e9;
  --code: #f4f6f9; --link: #0b5cad; --get: #0a6e57; --post: #8a4b00; --bad: #a3262a;
  --mono: ui-monospace, SFMono-Regular, Menlo, Consolas, "Liberation Mono", monospace; }
@media (prefers-color-scheme: dark) { :root { --ink: #e2e7ee; --faint: #9aa6b5; --paper: #14181e;
  --edge: #2e3742; --code: #1c222a; --link: #7db7f5; --get: #5ecfae; --post: #f0b566;
  --bad: #f2898c; } }
* { box-sizing: border-box; }
html { scroll-padding-top: 1rem; }
body { margin: 0; font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Liberation Sans",
  sans-serif; color: var(--ink); background: var(--paper); display: grid;
  grid-template-columns: 17rem minmax(0, 1fr); }
a { color: var(--link); text-decoration: none; }
a:hover, a:focus { text-decoration: underline; }
nav { position: sticky; top: 0; height: 100vh; overflow-y: auto; padding: 1.25rem 1rem 2rem 1.25rem;
  border-right: 1px solid var(--edge); font-size: .875rem; }
nav strong { display: block; font-size: 1.125rem; }
nav h2 { font-size: .75rem; text-transform: uppercase; letter-spacing: .06em; color: var(--faint);
  margin: 1.25rem 0 .25rem; border: 0; padding: 0; }
nav ul { list-style: none; margin: 0; padding: 0; }
nav li { padding: .125rem 0; }
nav a { color: inherit; }
main { padding: 2rem 3rem 6rem; max-width: 62rem; }
h1 { margin: 0 0 .25rem; font-size: 2rem; line-height: 1.2; }
h2 { margin: 3.5rem 0 .25rem; font-size: 1.5rem; border-bottom: 1px solid var(--edge);
  padding-bottom: .375rem; }
h3 { margin: 2.75rem 0 .5rem; font-size: 1.1875rem; }
h4 { margin: 1.5rem 0 .375rem; font-size: .8125rem; color: var(--faint); text-transform: uppercase;
  letter-spacing: .05em; }
h4 a { text-transform: none; letter-spacing: 0; }
p { margin: .5rem 0; }
code, pre { font-family: var(--mono); font-size: .875em; }
code { background: var(--code); padding: .1em .3em; border-radius: 4px; overflow-wrap: anywhere; }
pre { background: var(--code); border: 1px solid var(--edge); border-radius: 6px; margin: .5rem 0;
  padding: .75rem 1rem; overflow-x: auto; line-height: 1.45; font-size: .8125rem; }
.route { font-family: var(--mono); font-size: .9375rem; margin: .25rem 0; overflow-wrap: anywhere; }
.method { font-weight: 700; font-size: .75rem; letter-spacing: .04em; text-transform: uppercase;
  border: 1px solid currentColor; border-radius: 4px; padding: .1rem .4rem; margin-right: .5rem; }
.get { color: var(--get); } .post { color: var(--post); }
.scope { font-size: .8125rem; color: var(--faint); margin: .25rem 0; }
.name { font-family: var(--mono); font-size: .875rem; font-weight: 600; }
.table { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .9375rem; }
td { border-top: 1px solid var(--edge); padding: .5rem .75rem .5rem 0; vertical-align: top; }
tr:last-child td { border-bottom: 1px solid var(--edge); }
td:first-child { width: 13rem; } td p { margin: 0; }
.faint { color: var(--faint); font-size: .8125rem; }
details { border: 1px solid var(--edge); border-radius: 6px; margin: .375rem 0; }
summary { cursor: pointer; padding: .4rem .75rem; }
summary p { display: inline; margin: 0; }
details > div { padding: 0 1rem .75rem; }
.status { font-family: var(--mono); font-weight: 700; margin-right: .5rem; }
.ok { color: var(--get); } .no { color: var(--bad); }
@media (max-width: 56rem) { body { display: block; } nav { position: static; height: auto;
  border-right: 0; border-bottom: 1px solid var(--edge); columns: 2; } nav strong, nav h2 {
  break-after: avoid; } nav .types { display: none; }
  main { padding: 1.5rem 1.25rem 4rem; } td:first-child { width: auto; } }
@media print { body { display: block; font-size: 10pt; } nav { display: none; }
  main { max-width: none; padding: 0; } h2, h3, h4 { break-after: avoid; }
  pre { white-space: pre-wrap; } details::details-content { content-visibility: visible;
  block-size: auto; } }
"""

TEMPLATE: Final = """\
{% macro fields(schema) %}
<div class="table"><table>
{% for name, part in schema.properties.items() %}
<tr><td><span class="name">{{ name }}</span>\
{% if name not in schema.get("required", []) %} <span class="faint">optional</span>{% endif %}</td>
<td><span class="faint">{{ part|kind }}</span>
{% if "description" in part %}{{ part.description|prose }}{% endif %}
{% if part|bounds %}<span class="faint">{{ part|bounds }}</span>{% endif %}</td></tr>
{% endfor %}
</table></div>
{% endmacro %}
{% macro examples(found) %}
{% for name, reference in found.items() %}
{% set example = resolve(reference) %}
<div class="faint">{{ example.summary|prose }}</div>
<pre>{{ example.value|json }}</pre>
{% endfor %}
{% endmacro %}
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ document.info.title }}: the API</title>
<style>{{ style }}</style>
</head>
<body>
<nav aria-label="Contents">
<strong><a href="#top">{{ document.info.title }}</a></strong>
<span class="faint">{{ document.info.version }}</span>
{% for tag, operations in groups %}
<h2>{{ tag.name }}</h2>
<ul>
{% for operation in operations %}
<li><a href="#{{ operation.operationId }}">{{ operation.summary }}</a></li>
{% endfor %}
</ul>
{% endfor %}
<h2 class="types">Types</h2>
<ul class="types">
{% for name in schemas %}
<li><a href="#schema-{{ name }}">{{ name }}</a></li>
{% endfor %}
</ul>
</nav>
<main id="top">
<h1>{{ document.info.title }}: the API</h1>
<p class="faint">Version {{ document.info.version }}, for programs: \
<a href="/openapi.json">OpenAPI {{ document.openapi }}</a></p>
{{ document.info.description|prose }}
<pre>export BASE_URL={{ origin }}
export API_KEY=mk_...</pre>
{% for tag, operations in groups %}
<section>
<h2>{{ tag.name }}</h2>
{{ tag.description|prose }}
{% for operation in operations %}
<article id="{{ operation.operationId }}">
<h3>{{ operation.summary }}</h3>
<p class="route"><span class="method {{ operation.method }}">{{ operation.method }}</span>\
{{ operation.path }}</p>
{% if operation.security %}
<p class="scope">Needs a key of the scope <code>{{ operation["x-scope"] }}</code></p>
{% endif %}
{{ operation.description|prose }}
<pre>{{ curl(operation) }}</pre>
{% if "parameters" in operation %}
<h4>Parameters</h4>
<div class="table"><table>
{% for parameter in operation.parameters %}
<tr><td><span class="name">{{ parameter.name }}</span> \
<span class="faint">{{ parameter.in }}\
{% if not parameter.required %}, optional{% endif %}</span></td>
<td><span class="faint">{{ parameter.schema|kind }}</span> {{ parameter.description|prose }}
{% if parameter.schema|bounds %}\
<span class="faint">{{ parameter.schema|bounds }}</span>{% endif %}</td></tr>
{% endfor %}
</table></div>
{% endif %}
{% if "requestBody" in operation %}
{% set sent = operation.requestBody.content["application/json"] %}
<h4>Body: {{ sent.schema|kind }}</h4>
{% if "properties" in resolve(sent.schema) %}{{ fields(resolve(sent.schema)) }}{% endif %}
<details><summary>Examples</summary><div>{{ examples(sent.examples) }}</div></details>
{% endif %}
<h4>Answers</h4>
{% for status, reference in operation.responses.items() %}
{% set response = resolve(reference) %}
<details><summary><span class="status {{ "ok" if status < "300" else "no" }}">{{ status }}</span>\
{{ response.description|prose }}</summary>
<div>
{% for media, content in response.content.items() %}
<p><code>{{ media }}</code> {{ content.schema|kind }}</p>
{{ examples(content.get("examples", {})) }}
{% endfor %}
{% for name, header in response.get("headers", {}).items() %}
<p><span class="name">{{ name }}</span> <span class="faint">header</span></p>
{{ resolve(header).description|prose }}
{% endfor %}
</div></details>
{% endfor %}
</article>
{% endfor %}
</section>
{% endfor %}
<section>
<h2>Types</h2>
{% for name, schema in schemas.items() %}
<article id="schema-{{ name }}">
<h3>{{ name }}</h3>
{% if "description" in schema %}{{ schema.description|prose }}{% endif %}
{% if "properties" in schema %}{{ fields(schema) }}{% else %}<p>{{ schema|kind }}</p>{% endif %}
</article>
{% endfor %}
</section>
</main>
</body>
</html>
"""
