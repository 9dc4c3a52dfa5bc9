"""Which texts fit schemas, by the jsonschema library. A line a schema: {"schema", "yes", "no"}; "yes" are texts that infer/constraint_schema.h
promises to take, "no" texts that do not fit. usage: make_schema_golden.py OUT_FILE"""
import json, sys
import jsonschema

S = {"type": "string"}
TREE = {"type": "object", "properties": {"value": {"type": "number"}, "children": {"type": "array", "items": {"$ref": "#/$defs/tree"}}},
        "required": ["value"], "additionalProperties": False}
cases = [
    ({"type": "object", "properties": {"label": {"enum": ["sarcastic", "non_sarcastic"]}, "explanation": S},
      "required": ["label", "explanation"], "additionalProperties": False},
     ['{"label": "sarcastic", "explanation": "so \\n \\"it\\" é"}', '{"label":"non_sarcastic","explanation":""}'],
     ['{"label": "sarcastic"}', '{"label": "s", "explanation": ""}', '{"label": "sarcastic", "explanation": 1}', '{}',
      '{"label": "sarcastic", "explanation": "", "x": 1}']),
    ({"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "boolean"}, "c": {"type": "null"}}, "required": ["b"],
      "additionalProperties": False},
     ['{"b":true}', '{"a": 1, "b": false}', '{"a":-5,"b":true,"c":null}', '{"b": true, "c": null}'],
     ['{"a": 1}', '{"a": 1.5, "b": true}', '{"b": null}', '{"c": null}', '[]', 'true']),
    ({"type": "object", "properties": {"a": S, "ab": S}, "additionalProperties": {"type": "integer"}},
     ['{}', '{"a": "x"}', '{"a": "x", "b": 1}', '{"": 1}', '{"abc": 1, "b": 2}', '{"ab": "", "aa": 3}'], ['{"a": 1}', '{"b": "x"}', '{"ab": 2}']),
    ({"type": "object", "required": ["x"], "additionalProperties": True}, ['{"x": [1, {"y": null}]}', '{"x": 1, "xx": 2}'], ['{}', '{"y": 1}']),
    ({"type": "array", "items": {"type": "integer", "minimum": -12, "maximum": 105}, "minItems": 1, "maxItems": 3},
     ['[0]', '[-12, 105]', '[99,100,101]', '[-9]'], ['[]', '[106]', '[-13]', '[1, 2, 3, 4]', '[1.5]', '["1"]']),
    ({"type": "array", "prefixItems": [S, {"type": "integer"}], "items": False}, ['[]', '["a"]', '["a", 1]'], ['[1]', '["a", "b"]', '["a", 1, 2]']),
    ({"type": "array", "prefixItems": [S], "items": {"type": "null"}, "minItems": 2}, ['["a", null]', '["", null, null]'], ['["a"]', '[]', '["a", 1]']),
    ({"$defs": {"tree": TREE}, "$ref": "#/$defs/tree"},
     ['{"value": 1}', '{"value": -1.5e+3, "children": []}', '{"value": 0.5, "children": [{"value": 2, "children": [{"value": 3}]}, {"value": 4}]}'],
     ['{"children": []}', '{"value": 1, "children": [1]}', '{"value": 1, "children": [{"value": 2, "children": [{}]}]}']),
    ({"anyOf": [{"type": "null"}, {"type": "string", "minLength": 2, "maxLength": 3}, {"const": [1, {"a": "b"}]}]},
     ['null', '"ab"', '"你好é"', '"\\n\\u00e9"', '[1, {"a": "b"}]', '[1,{"a":"b"}]'], ['"a"', '"abcd"', '[1]', '1', '"\\u0041"']),
    ({"type": ["integer", "null"], "exclusiveMinimum": 9, "exclusiveMaximum": 100}, ['10', '99', 'null', '42'], ['9', '100', '"x"', '-10', '0']),
    ({"type": "integer", "minimum": 1234}, ['1234', '1299', '2000', '99999', '100000000000000'], ['1233', '999', '0', '-1234']),
    ({"type": "integer", "maximum": -7}, ['-7', '-10', '-99', '-8'], ['-6', '0', '7', '-1']),
    ({"type": "string", "pattern": "^[A-Z]{2}\\d+$"}, ['"AB1"', '"ZZ007"'], ['"A1"', '"AB"', '"xAB1"', '"AB1x"']),
    ({"type": "string", "pattern": "a.c|^x"}, ['"abc"', '"--a\\"c--"', '"x"', '"xyz"', '"a\\\\c"', '"aéc"'], ['"ac"', '"yx"', '""']),
    ({"type": "string", "pattern": "^[\"\\\\\\n]$"}, ['"\\""', '"\\\\"', '"\\n"'], ['"n"', '"/"', '""', '"\\t"']),
    ({"enum": ["a\"b", 1, 2.5, None, True, [], {"k": -3}], "type": ["string", "number", "array", "object"]},
     ['"a\\"b"', '1', '2.5', '[]', '{"k": -3}'], ['null', 'true', '3', '"a"', '{}']),
    ({"allOf": [{"type": "boolean"}], "description": "x"}, ['true', 'false'], ['null', '0']),
    ({"oneOf": [{"type": "integer"}, {"type": "string", "enum": ["auto"]}]}, ['1', '"auto"'], ['"x"', 'null']),
    ({"properties": {"a": {"type": "object"}}}, ['{}', '{"a": {}}', '{"a": {"z": [true, {"q": "w"}]}}'], ['{"a": 1}']),
    (True, ['1', '"x"', 'null', '[1, [2, {"a": {}}]]', '{"a": -0.5e10}', 'true'], []),
    ({"type": "string", "format": "date"}, ['"2024-02-28"', '"1999-12-31"'], ['"2024-13-01"', '"2024-04-31"', '"x"']),
    ({"type": "string", "format": "ipv4"}, ['"127.0.0.1"', '"255.249.199.9"'], ['"256.0.0.1"', '"1.2.3"', '"01.2.3.4"']),
]
with open(sys.argv[1], "w") as f:
    for schema, yes, no in cases:
        check = jsonschema.Draft202012Validator(schema, format_checker=jsonschema.FormatChecker())
        for t in yes: assert check.is_valid(json.loads(t)), (schema, t)
        for t in no: assert not check.is_valid(json.loads(t)), (schema, t)
        f.write(json.dumps({"schema": schema, "yes": yes, "no": no}, ensure_ascii=False) + "\n")
