//! Expressions and what they give.

use serde_json::{Value as Json, json};

use super::{Budget, CALL_COST_MAX, EvalError, Program, Type, Value};
use crate::custom::structural::{self, Node};
use crate::field::Path;

fn evaluate(source: &str, this: &Json, node: Option<&Node>) -> Result<String, String> {
    let ty = node.map_or(Type::Dyn, Type::of);
    let program = Program::compile(source, &[("self", ty)]).map_err(|error| error.to_string())?;
    let variables = [("self", Value::json(this, node))];
    let value =
        program.evaluate(&variables, &mut Budget::new(CALL_COST_MAX)).map_err(|error| error.to_string())?;
    Ok(match value {
        Value::Bool(value) => value.to_string(),
        other => format!("{other:?}"),
    })
}

fn schema(schema: Json) -> Node {
    let mut errors = Vec::new();
    let node = structural::parse(&schema, &Path::new("schema"), &mut errors);
    assert_eq!(errors, []);
    node
}

#[test]
fn these_hold() {
    let this = json!({
        "a": 1, "f": 1.5, "s": "hello", "list": [3, 1, 2], "map": {"x": 1, "y z": 2}, "none": null,
        "items": [{"name": "a", "port": 80}, {"name": "b"}], "big": 9007199254740993_i64,
    });
    let cases = [
        "self.a == 1 && self.f > 1.0 && self.s == 'hello'",
        "1 + 2 * 3 - 4 / 2 % 3 == 5",
        "-1 < 0 && - 1 == -1 && --1 == 1 && !false && !!true",
        "0x10 == 16 && 1e3 == 1000.0 && 5u == 5u && -9223372036854775808 < 0",
        "'a\\n\\x41\\u00e9\\101' == \"a\\nAéA\" && r'\\d' == '\\\\d' && '''x'y''' == \"x'y\"",
        "b'abc' == bytes('abc')",
        "self.list[0] == 3 && self.map['y z'] == 2 && 'x' in self.map && 3 in self.list && !(4 in self.list)",
        "has(self.a) && !has(self.zzz) && has(self.none)",
        "size(self.list) == 3 && self.s.size() == 5 && size('é') == 1",
        "self.list.all(x, x > 0) && self.list.exists(x, x == 2) && self.list.exists_one(x, x == 1)",
        "self.list.filter(x, x > 1) == [3, 2] && self.list.map(x, x * 2) == [6, 2, 4]",
        "self.list.map(x, x > 1, x * 2) == [6, 4]",
        "self.map.all(k, k.size() > 0) && self.map.exists(k, self.map[k] == 2)",
        "self.list.all(i, v, i < 3 && v > 0) && self.map.exists(k, v, k == 'x' && v == 1)",
        "self.list.transformList(i, v, v + i) == [3, 2, 4] && {'a': 1}.transformMap(k, v, v + 1) == {'a': 2}",
        "self.items.exists(i, has(i.port) && i.port == 80)",
        "self.zzz == 1 || true",
        "!(self.zzz == 1 && false)",
        "self.items.exists(i, i.port == 80)",
        "(self.a > 0 ? 'yes' : 'no') == 'yes'",
        "self.?zzz.orValue(5) == 5 && self.?a.orValue(5) == 1 && !self.?zzz.hasValue()",
        "self.?map.?x.optMap(v, v + 1).orValue(0) == 2 && self.list[?9].orValue(7) == 7",
        "optional.none().or(optional.of(1)).value() == 1 && optional.ofNonZeroValue('').orValue('d') == 'd'",
        "[1, ?self.?zzz, ?self.?a] == [1, 1]",
        "cel.bind(x, self.a + 1, x * x) == 4",
        "self.s.startsWith('he') && self.s.endsWith('lo') && self.s.contains('ell') && self.s.matches('^h.*o$')",
        "self.s.indexOf('l') == 2 && self.s.lastIndexOf('l') == 3 && self.s.indexOf('z') == -1",
        "'aéaéa'.indexOf('éa', 2) == 3 && 'aéaéa'.lastIndexOf('éa', 2) == 1 && 'aéaéa'.lastIndexOf('éa', 3) == 3",
        "'é'.indexOf('', 1) == 1 && 'é'.lastIndexOf('') == 1 && 'é'.lastIndexOf('', 0) == 0 && 'a'.indexOf('ab') == -1",
        "self.s.substring(1, 3) == 'el' && self.s.charAt(4) == 'o' && self.s.replace('l', 'L', 1) == 'heLlo'",
        "'a,b,c'.split(',') == ['a', 'b', 'c'] && 'a,b,c'.split(',', 2) == ['a', 'b,c'] && ['a', 'b'].join('-') == 'a-b'",
        "' x '.trim() == 'x' && 'aB'.lowerAscii() == 'ab' && 'aB'.upperAscii() == 'AB' && 'ab'.reverse() == 'ba'",
        "'%s is %d, %.2f'.format(['a', 1, 2.5]) == 'a is 1, 2.50' && '%s'.format([[1, 'b']]) == '[1, b]'",
        "'abc 123'.find('[0-9]+') == '123' && 'a1b22'.findAll('[0-9]+') == ['1', '22']",
        "self.list.sum() == 6 && self.list.min() == 1 && self.list.max() == 3 && [1, 2].isSorted() && !self.list.isSorted()",
        "self.list.indexOf(1) == 1 && [1, 2, 1].lastIndexOf(1) == 2 && [1, 1].distinct() == [1] && [2, 1].sort() == [1, 2]",
        "sets.contains([1, 2], [2]) && sets.equivalent([1, 2], [2, 1, 1]) && sets.intersects([1], [1, 3])",
        "duration('1h') > duration('59m59s') && duration('90m').getHours() == 1 && duration('1m') + duration('30s') == duration('90s')",
        "timestamp('2026-01-02T03:04:05Z').getFullYear() == 2026 && timestamp('2026-01-02T03:04:05Z').getMonth() == 0",
        "timestamp('2026-01-02T00:00:00Z') - timestamp('2026-01-01T00:00:00Z') == duration('24h')",
        "int('5') == 5 && string(5) == '5' && double(1) == 1.0 && uint(1) == 1u && bool('true')",
        "type(1) == int && type('a') == string && type([]) == list && type(self.map) == map",
        "isURL('https://a.b:8080/c?d=e') && url('https://a.b:8080/c').getPort() == '8080' && url('https://[::1]:80/').getHostname() == '::1'",
        "isIP('1.2.3.4') && !isIP('1.2.3') && ip('::1').family() == 6 && ip('127.0.0.1').isLoopback() && !isIP('::ffff:1.2.3.4')",
        "cidr('10.0.0.0/8').containsIP('10.1.2.3') && cidr('10.0.0.0/8').containsCIDR('10.1.0.0/16') && isCIDR('10.0.0.0/8')",
        "quantity('1Gi').isGreaterThan(quantity('1G')) && quantity('1').add(quantity('500m')) == quantity('1500m') && isQuantity('1k')",
        "semver('1.2.3').isLessThan(semver('1.10.0')) && !isSemver('1.2') && semver('v1.2.0', true).minor() == 2",
        "!format.dns1123Label().validate('a-b').hasValue() && format.dns1123Label().validate('A').hasValue()",
        "dyn(1) == 1.0 && 1u == dyn(1) && 2 > 1.5 && self.big == 9007199254740993",
        "{'a': [1]} == {'a': [1]} && [1, 2] != [2, 1] && [] == []",
        "// a comment\n true",
    ];
    for source in cases {
        assert_eq!(evaluate(source, &this, None).as_deref(), Ok("true"), "{source}");
    }
}

#[test]
fn these_fail_when_they_are_evaluated() {
    let this = json!({"a": 1, "list": [1], "s": "x"});
    let cases = [
        ("self.zzz == 1", "no such key: zzz"),
        ("self.list[5] == 1", "index out of bounds: 5"),
        ("self.a / 0 == 1", "division by zero"),
        ("9223372036854775807 + self.a > 0", "integer overflow"),
        ("self.a + self.s == 'x'", "no such overload"),
        ("self.a", "Int(1)"),
        ("self.list.all(x, x.foo)", "no such overload"),
        ("'x'.substring(5) == ''", "index out of range: 5"),
        ("duration(self.s) > duration('1s')", "type conversion error from 'string' to 'duration'"),
        ("optional.none().value() == 1", "optional.none() dereference"),
        ("[1, 'a'].sort() == []", "no such overload"),
        ("timestamp('2026-01-02T03:04:05Z').getHours('999999999:00') == 1", "unknown time zone 999999999:00"),
    ];
    for (source, want) in cases {
        let got = evaluate(source, &this, None);
        assert_eq!(got.unwrap_or_else(|error| error), want, "{source}");
    }
}

#[test]
fn these_do_not_compile() {
    let node = schema(json!({"type": "object", "properties": {
        "name": {"type": "string"}, "count": {"type": "integer"}, "list": {"type": "array", "items": {"type": "object",
            "properties": {"port": {"type": "integer"}}}}, "labels": {"type": "object", "additionalProperties": {"type": "string"}},
        "name-space": {"type": "string"}, "namespace": {"type": "string"}, "under_score": {"type": "string"},
        "two__under": {"type": "string"}, "dot.ted": {"type": "string"},
    }}));
    let fine = [
        "self.name == 'a' && self.count > 1 && self.list.all(l, l.port > 1) && self.labels['x'] == 'y'",
        "self.labels.all(k, self.labels[k] != '') && self.name__dash__space == 'a' && self.__namespace__ == 'b'",
        "self.under_score == 'a' && self.two__underscores__under == 'b' && self.dot__dot__ted == 'c'",
    ];
    for source in fine {
        let program = Program::compile_condition(source, &[("self", Type::of(&node))]);
        assert!(program.is_ok(), "{source}: {program:?}");
    }
    let cases = [
        ("self.x == 1", "ERROR: <input>:1:5: undefined field 'x'\n | self.x == 1\n | ....^"),
        ("foo", "undeclared reference to 'foo' (in container '')"),
        ("self.name.frobnicate()", "undeclared reference to 'frobnicate'"),
        ("self.name == 1", "found no matching overload for '_==_' applied to '(string, int)'"),
        ("self.count + 'a' == 'b'", "found no matching overload for '_+_' applied to '(int, string)'"),
        ("self.list.all(l, l.prt > 1)", "undefined field 'prt'"),
        ("self.list.port", "type 'list' does not support field selection"),
        ("self.name", "must evaluate to a bool"),
        ("self.name && true", "found no matching overload for '_&&_'"),
        ("self.under__underscores__score == ''", "undefined field"),
        ("self.name.matches('(')", "invalid matches argument"),
        ("1 +", "mismatched input '<EOF>'"),
        ("(1", "mismatched input <EOF> expecting ')'"),
        ("'abc", "unterminated text"),
        ("1 2", "extraneous input '2'"),
        ("has(self)", "invalid argument to has() macro"),
        ("[1].all(1, true)", "argument must be a simple name in all()"),
        ("if", "reserved identifier: if"),
        ("99999999999999999999", "invalid number"),
        ("self.name.size(1, 2) == 1", "found no matching overload"),
    ];
    for (source, want) in cases {
        let error = Program::compile_condition(source, &[("self", Type::of(&node))]).unwrap_err().to_string();
        assert!(error.contains(want), "{source}: {error}");
    }
}

#[test]
fn the_schema_says_how_a_value_reads() {
    let node = schema(json!({"type": "object", "properties": {
        "when": {"type": "string", "format": "date-time"}, "long": {"type": "string", "format": "duration"},
        "bytes": {"type": "string", "format": "byte"}, "number": {"type": "number"},
        "set": {"type": "array", "items": {"type": "string"}, "x-kubernetes-list-type": "set"},
        "other": {"type": "array", "items": {"type": "string"}, "x-kubernetes-list-type": "set"},
        "either": {"x-kubernetes-int-or-string": true},
    }}));
    let this = json!({
        "when": "2026-01-02T03:04:05Z", "long": "90s", "bytes": "aGk=", "number": 2, "set": ["a", "b"],
        "other": ["b", "a"], "either": "25%",
    });
    let cases = [
        "self.when.getFullYear() == 2026 && self.long == duration('1m30s') && self.bytes == b'hi'",
        "self.number == 2.0 && self.number / 4.0 == 0.5",
        "self.set == self.other",
        "type(self.either) == string ? self.either.endsWith('%') : self.either > 0",
    ];
    for source in cases {
        assert_eq!(evaluate(source, &this, Some(&node)).as_deref(), Ok("true"), "{source}");
    }
}

#[test]
fn what_has_no_order_is_not_sorted() {
    let this = json!({"numbers": (0..100).collect::<Vec<_>>()});
    for source in [
        "self.numbers.map(n, n % 3 == 0 ? double('NaN') : double(n * 7 % 10)).sort().size() == 100",
        "self.numbers.map(n, n % 2 == 0 ? dyn(n) : dyn('a')).sort().size() == 100",
        "self.numbers.map(n, {'a': n}).sort().size() == 100",
    ] {
        assert_eq!(evaluate(source, &this, None).unwrap_err(), "no such overload", "{source}");
    }
}

#[test]
fn a_small_expression_makes_no_large_value_for_nothing() {
    // Each level holds the one before it twice: comparing, writing or joining the last one would go on for ever, or take all memory.
    let doubled = |first: &str, twice: &str, last: &str| {
        let names: Vec<String> = (0..40).map(|level| format!("v{level}")).collect();
        let binds = names.windows(2).map(|pair| {
            let (from, to) = (&pair[0], &pair[1]);
            format!("cel.bind({to}, {}, ", twice.replace('$', from))
        });
        let open: String = std::iter::once(format!("cel.bind(v0, {first}, ")).chain(binds).collect();
        format!("{open}{}{}", last.replace('$', "v39"), ")".repeat(40))
    };
    let this = json!({"list": (0..1000).collect::<Vec<_>>(), "text": "a".repeat(100_000), "blob": "YWFh".repeat(25_000)});
    let node = schema(json!({"type": "object", "properties": {
        "list": {"type": "array", "items": {"type": "integer"}}, "text": {"type": "string"},
        "blob": {"type": "string", "format": "byte"},
    }}));
    let cases = [
        doubled("[1]", "[$, $]", "$ == $"),
        doubled("[1]", "[$, $]", "$ in [$]"),
        doubled("[1]", "[$, $]", "[$].indexOf($) == 0"),
        doubled("[1]", "[$, $]", "sets.intersects([$], [$])"),
        doubled("{'a': 1}", "{'a': $, 'b': $}", "$ == $"),
        doubled("[1]", "[$, $]", "'%s'.format([$]) == ''"),
        doubled("[1, 2]", "[$, $].flatten()", "$.size() > 0"),
        doubled("b'ab'", "$ + $", "$.size() > 0"),
        doubled("'ab'", "[$, $].join()", "$.size() > 0"),
        "self.list.map(a, self.list.map(b, self.text).join()).join().size() > 0".to_owned(),
        "cel.bind(t, self.text + self.text, self.list.all(a, self.list.all(b, t != '')))".to_owned(),
        "self.list.all(a, self.list.all(b, self.blob.size() > 0))".to_owned(),
        "self.list.all(a, self.text.split('').size() > 0)".to_owned(),
        "self.list.all(a, self.list.all(b, self.list.exists(c, true)))".to_owned(),
        "self.list.all(a, self.list.all(b, self.text <= self.text))".to_owned(),
    ];
    for source in cases {
        let program = Program::compile(&source, &[("self", Type::of(&node))]).unwrap();
        let value = program
            .evaluate(&[("self", Value::json(&this, Some(&node)))], &mut Budget::new(CALL_COST_MAX / 10))
            .map(|value| value.type_name());
        assert_eq!(value, Err(EvalError::TooExpensive), "{source}");
    }
    let half = "a".repeat(50_000);
    let this = json!({"text": format!("{half}{half}"), "part": format!("{half}b")});
    assert_eq!(evaluate("self.text.indexOf(self.part) == -1", &this, None).as_deref(), Ok("true"));
}

#[test]
fn work_is_bounded() {
    let this: Json = json!({"list": (0..1000).collect::<Vec<_>>(), "text": "a".repeat(100_000)});
    let expensive = [
        "self.list.all(a, self.list.all(b, self.list.all(c, a + b + c >= 0)))",
        "self.list.map(a, self.list.map(b, a)).size() > 0 && self.list.all(a, self.list == self.list.map(x, x))",
        "self.list.all(a, self.text.matches('(a*)*b') || true)",
        "self.list.all(a, self.text + self.text != '' && self.text + self.text + self.text != '')",
    ];
    for source in expensive {
        let program = Program::compile(source, &[("self", Type::Dyn)]).unwrap();
        let mut budget = Budget::new(10 * CALL_COST_MAX);
        let value = program.evaluate(&[("self", Value::json(&this, None))], &mut budget);
        assert_eq!(value.err(), Some(EvalError::TooExpensive), "{source}");
        assert_eq!(budget.left(), 9 * CALL_COST_MAX);
    }
    for deep in [
        "(".repeat(10_000),
        "[".repeat(10_000),
        "!".repeat(10_000),
        "-".repeat(10_001),
        "a.".repeat(10_000),
        "a?".repeat(10_000),
    ] {
        assert!(Program::compile(&deep, &[]).is_err());
    }
    let long = vec!["true"; 200].join(" && ");
    assert_eq!(evaluate(&long, &this, None).as_deref(), Ok("true"), "a long chain is no deep one");
    let nested = format!("{}1{} != []", "[".repeat(60), "]".repeat(60));
    assert_eq!(evaluate(&nested, &this, None).as_deref(), Ok("true"));
}
