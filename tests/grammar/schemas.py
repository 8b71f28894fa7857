"""A hundred JSON schemas like those that people send: each keyword that can be enforced, alone and with others."""

from typing import Any

Schema = dict[str, Any]

STRING, INTEGER, NUMBER, BOOLEAN, NULL = (
    {"type": t} for t in ("string", "integer", "number", "boolean", "null")
)


def closed(required: int | None = None, /, **properties: Any) -> Schema:
    """An object with these properties and no others, of which the first ones (None: all) are required."""
    names = list(properties)
    return {
        "type": "object",
        "properties": properties,
        "required": names if required is None else names[:required],
        "additionalProperties": False,
    }


def listed(items: Any, **bounds: int) -> Schema:
    return {"type": "array", "items": items} | bounds


SCALARS: list[Schema] = [
    STRING,
    INTEGER,
    NUMBER,
    BOOLEAN,
    NULL,
    {"type": ["string", "null"]},
    {"type": ["integer", "boolean"]},
    {"const": "yes"},
    {"const": 12.5},
    {"const": {"a": [1, None, True]}},
    {"enum": ["red", "green", "blue"]},
    {"enum": [1, "one", None, False, [1]]},
    {"enum": ['quote " and \\ backslash', "line\nbreak", "é", "日本", "😀"]},
]
STRINGS: list[Schema] = [
    STRING | {"minLength": 3},
    STRING | {"maxLength": 5},
    STRING | {"minLength": 2, "maxLength": 4},
    STRING | {"minLength": 8, "maxLength": 8},
    STRING | {"maxLength": 0},
    STRING | {"pattern": "^[A-Z]{2}-[0-9]{4}$"},
    STRING | {"pattern": "^(\\+49|0)[1-9][0-9]{2,6}$"},
    STRING | {"pattern": "^[a-z]{1,9}@[a-z]+\\.(com|org)$"},
    STRING | {"pattern": "^\\d{3}$"},
    STRING | {"pattern": '^[^"\\\\]{1,6}$'},
    STRING | {"pattern": "ab", "maxLength": 12},
    STRING | {"format": "date"},
    STRING | {"format": "time"},
    STRING | {"format": "date-time"},
    STRING | {"format": "uuid"},
    STRING | {"format": "ipv4"},
    STRING | {"format": "ipv6"},
    STRING | {"format": "email"},
    STRING | {"format": "hostname"},
    STRING | {"format": "duration"},
]
NUMBERS: list[Schema] = [
    INTEGER | {"minimum": 0},
    INTEGER | {"maximum": -1},
    INTEGER | {"minimum": 1, "maximum": 5},
    INTEGER | {"exclusiveMinimum": 0, "exclusiveMaximum": 3},
    INTEGER | {"minimum": -1000, "maximum": 1000},
    INTEGER | {"multipleOf": 7},
    INTEGER | {"multipleOf": 25, "minimum": 0, "maximum": 1000},
    NUMBER | {"minimum": 0, "maximum": 1},
    NUMBER | {"exclusiveMinimum": 0},
    NUMBER | {"minimum": -273.15},
    NUMBER | {"minimum": 0.5, "maximum": 0.75},
    NUMBER | {"multipleOf": 0.5},
]
ARRAYS: list[Schema] = [
    listed(INTEGER),
    listed(STRING, minItems=1),
    listed(BOOLEAN, maxItems=3),
    listed(INTEGER, minItems=2, maxItems=2),
    listed(STRING | {"maxLength": 3}, minItems=1, maxItems=4),
    listed(listed(INTEGER, maxItems=2), maxItems=3),
    listed({"enum": ["a", "b"]}, minItems=3, maxItems=5),
    listed({"anyOf": [INTEGER, STRING]}, maxItems=4),
    listed(closed(x=NUMBER, y=NUMBER), minItems=1, maxItems=3),
    listed(False, maxItems=0),
    {"type": "array", "prefixItems": [INTEGER, STRING], "items": False, "minItems": 2},
    {"type": "array", "prefixItems": [INTEGER, STRING], "items": BOOLEAN, "maxItems": 5},
    {"type": "array", "prefixItems": [STRING], "items": False},
]
OBJECTS: list[Schema] = [
    closed(),
    closed(name=STRING),
    closed(name=STRING, age=INTEGER),
    closed(1, name=STRING, age=INTEGER),
    closed(0, name=STRING, age=INTEGER, email=STRING),
    closed(2, a=INTEGER, b=BOOLEAN, c=NULL, d=NUMBER),
    closed(**{'quo"te': INTEGER, "spa ce": INTEGER, "é": INTEGER, "": INTEGER}),
    closed(address=closed(street=STRING, city=STRING, zip=STRING | {"pattern": "^[0-9]{5}$"})),
    closed(items=listed(closed(sku=STRING | {"maxLength": 8}, count=INTEGER | {"minimum": 1}), maxItems=3)),
    closed(a=closed(b=closed(c=closed(d=closed(e=INTEGER))))),
    closed(1, kind={"const": "circle"}, radius=NUMBER | {"exclusiveMinimum": 0}),
    closed(when=STRING | {"format": "date-time"}, id=STRING | {"format": "uuid"}),
    closed(tags=listed(STRING | {"maxLength": 5}, maxItems=3), score=NUMBER | {"minimum": 0, "maximum": 10}),
    closed(value={"type": ["number", "null"]}, unit={"enum": ["°C", "°F"]}),
    closed(0, a=BOOLEAN, b=BOOLEAN) | {"minProperties": 1},
    {"type": "object", "additionalProperties": INTEGER},
    {"type": "object", "properties": {"a": INTEGER}, "additionalProperties": STRING | {"maxLength": 4}},
    {"type": "object", "properties": {"a": INTEGER}, "required": ["b"], "additionalProperties": BOOLEAN},
    {"type": "object", "patternProperties": {"^x_[a-z]$": INTEGER}, "additionalProperties": False},
    {"type": "object", "maxProperties": 2, "additionalProperties": NULL},
    {"type": "object", "properties": {"a": STRING | {"maxLength": 3}}, "required": ["a"]},
    {"properties": {"a": INTEGER, "b": STRING}, "required": ["a", "b"], "type": "object"},
]
COMBINED: list[Schema] = [
    {"anyOf": [INTEGER, BOOLEAN]},
    {"anyOf": [STRING | {"maxLength": 3}, listed(INTEGER, maxItems=2)]},
    {"anyOf": [closed(kind={"const": "a"}, x=INTEGER), closed(kind={"const": "b"}, y=STRING)]},
    {"oneOf": [INTEGER, STRING | {"maxLength": 4}]},
    {"oneOf": [closed(a=INTEGER), closed(b=INTEGER)]},
    {"allOf": [INTEGER, {"minimum": 3}, {"maximum": 6}]},
    {"allOf": [STRING | {"minLength": 2}, {"maxLength": 3}]},
    {
        "allOf": [
            {"type": "object", "properties": {"a": INTEGER}, "required": ["a"]},
            closed(0, a={"minimum": 5}),
        ]
    },
    {"$ref": "#/$defs/point", "$defs": {"point": closed(x=INTEGER, y=INTEGER)}},
    {"$defs": {"p": closed(x=INTEGER)}} | closed(start={"$ref": "#/$defs/p"}, end={"$ref": "#/$defs/p"}),
    {"definitions": {"n": INTEGER | {"minimum": 0}}} | listed({"$ref": "#/definitions/n"}, maxItems=3),
    {"$defs": {"tree": closed(1, value=INTEGER, children=listed({"$ref": "#/$defs/tree"}, maxItems=1))}}
    | {"$ref": "#/$defs/tree"},
    {"$defs": {"list": {"anyOf": [NULL, closed(head=INTEGER, tail={"$ref": "#/$defs/list"})]}}}
    | {"$ref": "#/$defs/list"},
    {"title": "Described", "description": "With annotations", "default": 3, "examples": [1], "$comment": "-"}
    | INTEGER,
    {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": "https://example.org/s"}
    | closed(a=INTEGER),
    closed(v={"anyOf": [INTEGER, NULL]}, w={"anyOf": [{"const": "x"}, {"const": "y"}]}),
]
FUNCTIONS: list[Schema] = [
    closed(
        function=closed(
            **{"_name": {"type": "string", "const": name}},
            **{
                argument: STRING | {"maxLength": 12, "description": f"The {argument}"}
                for argument in arguments
            },
        )
    )
    for name, arguments in [
        ("get_weather", ["city"]),
        ("send_mail", ["to", "subject", "body"]),
        ("no_tool", ["content"]),
        ("book_flight", ["from", "to", "date", "seat"]),
    ]
]

SCHEMAS: list[Schema] = [*SCALARS, *STRINGS, *NUMBERS, *ARRAYS, *OBJECTS, *COMBINED, *FUNCTIONS]
