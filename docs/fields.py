"""The page of fields: every field of our kinds, as the CRDs have them, which is what `kubectl explain` shows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

Schema = dict[str, Any]

HEAD = """# Fields

Every field of the three kinds, as the API server knows them; `kubectl explain tjob.spec.template` shows the same. A
field in **bold** has to be there, `[]` stands for the entries of a list. What does not fit is refused when it is
applied, with words that name the field; so is what a rule below a table speaks of.
"""


def page(crds: list[Schema]) -> str:
    """Tables of what people write and of what they read, a kind after the other."""
    lines = [HEAD]
    for body in crds:
        names, version = body["spec"]["names"], body["spec"]["versions"][0]
        schema = version["schema"]["openAPIV3Schema"]
        short = ", ".join(f"`{name}`" for name in names.get("shortNames", ()))
        lines += [f"## {names['kind']}", "", f"{schema['description']} Short: {short}.", ""]
        columns = version.get("additionalPrinterColumns", ())
        shown = [f"{each['name']} (`{each['jsonPath']}`)" for each in columns]
        lines += [f"`kubectl get` shows: {', '.join(shown)}.", ""]
        for part, title in (("spec", "what you write"), ("status", "what you read")):
            top = schema["properties"][part]
            lines += [f"### {names['kind']}: {title}", "", "| field | type | what it says |", "|---|---|---|"]
            lines += [f"| {name} | {kind} | {words} |" for name, kind, words in _rows(top, part)]
            lines.append("")
            if part == "spec" and (found := list(dict.fromkeys(_rules(top)))):
                lines += ["Rules:", "", *(f"- {_text(rule)}" for rule in found), ""]
    return "\n".join(lines)


def _rows(schema: Schema, path: str) -> Iterator[tuple[str, str, str]]:
    required = schema.get("required", ())
    for name, field in schema.get("properties", {}).items():
        where = f"{path}.{name}"
        shown = f"**`{where}`**" if name in required else f"`{where}`"
        yield shown, _type(field), " ".join(filter(None, [_text(field.get("description", "")), _bounds(field)]))
        yield from _below(field, where)


def _below(field: Schema, where: str) -> Iterator[tuple[str, str, str]]:
    if "items" in field:
        yield from _below({"properties": {}, **field["items"]}, f"{where}[]")
    elif field.get("properties"):
        yield from _rows(field, where)


def _type(field: Schema) -> str:
    if field.get("x-kubernetes-int-or-string"):
        return "number or string"
    if field.get("type") == "array":
        return f"list of {_type(field['items'])}"
    if field.get("format") == "date-time":
        return "time"
    if isinstance(field.get("additionalProperties"), dict):
        return "map"
    return str(field.get("type", "object"))


def _bounds(field: Schema) -> str:
    """What may stand there, as far as it can be told in a few words."""
    found = []
    if "enum" in field:
        found.append(f"One of {', '.join(f'`{value}`' for value in field['enum'])}.")
    if "default" in field and not isinstance(field["default"], dict):
        found.append(
            f"Default `{str(field['default']).lower() if isinstance(field['default'], bool) else field['default']}`."
        )
    least, most = field.get("minimum"), field.get("maximum")
    if least is not None and most is not None:
        found.append(f"{least} to {most}.")
    elif least is not None:
        found.append(f"At least {least}.")
    if "maxItems" in field and "minItems" in field:
        found.append(f"{field['minItems']} to {field['maxItems']} entries.")
    return " ".join(found)


def _rules(schema: Schema) -> Iterator[str]:
    for rule in schema.get("x-kubernetes-validations", ()):
        if "message" in rule:
            yield rule["message"]
    for field in (*schema.get("properties", {}).values(), *([schema["items"]] if "items" in schema else ())):
        yield from _rules(field)


def _text(words: str) -> str:
    return " ".join(words.split()).replace("|", "\\|").replace("<", "&lt;")
