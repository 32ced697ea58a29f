//! Laws over random documents that follow the schema, and over bytes that follow nothing.

use fairway_objects::decode::{self, FieldValidation};
use fairway_objects::encode::protobuf;
use fairway_objects::schema::{AnyForm, ListTopology, Scalar, Schema, Type};
use fairway_objects::strategy::{self, Creation};
use fairway_objects::table::{self, IncludeObject};
use fairway_objects::{Document as _, Registry, Resource, defaults, patch, scale, validate};
use serde_json::{Map, Value, json};

/// Documents a kind.
const ROUNDS: u64 = 200;

/// A small generator of numbers: seeded, so that a failure repeats.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn seeded(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    fn next(&mut self) -> u64 {
        // Xorshift of Marsaglia (2003).
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn of<'a>(&mut self, choices: &[&'a str]) -> &'a str {
        choices[usize::try_from(self.below(choices.len() as u64)).unwrap()]
    }
}

/// A document with some of the fields of a structure. Deeper levels have fewer.
pub(crate) fn document(schema: &Schema, ty: &Type, random: &mut Random, depth: u64) -> Value {
    match ty {
        Type::Scalar(scalar) => scalar_value(*scalar, random),
        Type::List(list) => {
            let count = random.below(3);
            let mut items: Vec<Value> =
                (0..count).map(|_| document(schema, &list.item, random, depth)).collect();
            if list.topology == ListTopology::Set {
                items.dedup();
            }
            Value::Array(items)
        }
        Type::Map(map) => {
            let keys =
                (0..random.below(3)).map(|_| random.of(&["a", "app.kubernetes.io/name", "cpu", "", "Ü"]));
            let keys: Vec<&str> = keys.collect();
            keys.into_iter()
                .map(|key| (key.to_owned(), document(schema, &map.value, random, depth)))
                .collect()
        }
        Type::Struct(id) => {
            let mut object = Map::new();
            // Types of embedded objects are not on every wire.
            let structure = schema.types.get(*id);
            let fields = structure.fields().iter();
            for field in fields.filter(|field| depth == 0 || !field.tag.numbers().is_empty()) {
                let many = match field.ty {
                    Type::List(_) => Some(json!([])),
                    Type::Map(_) => Some(json!({})),
                    Type::Scalar(_) | Type::Struct(_) => None,
                };
                if let Some(empty) = many.filter(|_| field.required) {
                    object.insert(field.name.to_string(), empty);
                }
                if depth < 9 && random.below(3 + depth) < 2 {
                    let value = match (structure.any_form(field), &field.ty) {
                        (AnyForm::Raw, ty) => document(schema, ty, random, depth + 1),
                        (form, Type::Map(_)) => json!({"a": inner_schema(form, random)}),
                        (form, _) => inner_schema(form, random),
                    };
                    object.insert(field.name.to_string(), value);
                }
            }
            Value::Object(object)
        }
    }
}

/// What a schema may hold where it holds another, or something else.
fn inner_schema(form: AnyForm, random: &mut Random) -> Value {
    let schemas = [
        json!({}),
        json!({"type": "string", "maximum": 0.0}),
        json!({"properties": {"a": {"items": {"type": "string"}}}, "additionalProperties": {"enum": [1, null]}}),
    ];
    let schema = schemas[random.below(3) as usize].clone();
    match (form, random.below(2)) {
        (AnyForm::SchemaOrBool, 0) => json!(random.below(2) == 0),
        (AnyForm::SchemaOrArray, 0) => json!([schema]),
        (AnyForm::SchemaOrStrings, 0) => json!(["a", ""]),
        (AnyForm::Raw | AnyForm::Empty, _) => json!({}),
        _ => schema,
    }
}

fn scalar_value(scalar: Scalar, random: &mut Random) -> Value {
    match scalar {
        Scalar::String => {
            let choices = [
                "",
                "a",
                "TCP",
                "ClusterIP",
                "LoadBalancer",
                "None",
                "10.96.0.7",
                "::1",
                "x/y",
                "Always",
                "Ü",
            ];
            random.of(&choices).into()
        }
        Scalar::Bytes => random.of(&["", "YQ==", "YWI="]).into(),
        Scalar::Int32 => [0, 1, -1, 80, 30_080, i32::MAX, i32::MIN][random.below(7) as usize].into(),
        Scalar::Int64 => [0, 1, -1, 30, i64::MAX, i64::MIN][random.below(6) as usize].into(),
        Scalar::Bool => (random.below(2) == 0).into(),
        Scalar::Double => 0.5.into(),
        Scalar::Quantity => random.of(&["0", "1", "100m", "1.5Gi", "-2", "1e3"]).into(),
        Scalar::Time => random.of(&["2024-01-02T03:04:05Z", "2024-01-02T03:04:05+02:00"]).into(),
        Scalar::MicroTime => "2024-01-02T03:04:05.000006Z".into(),
        Scalar::IntOrString => {
            [json!(0), json!(80), json!("http"), json!("25%"), json!("")][random.below(5) as usize].clone()
        }
        Scalar::Any => json!({"any": [1, null, {"thing": "x"}]}),
    }
}

/// Random documents of each stored kind, decoded.
fn each_document(check: impl Fn(&Resource, Value, &mut Random)) {
    for resource in Registry::builtin().resources() {
        for round in 1..=ROUNDS {
            let mut random = Random::seeded(round);
            let schema = &resource.object.schema;
            let mut given = document(schema, &Type::Struct(schema.root), &mut random, 0);
            for field in ["apiVersion", "kind"] {
                given.take_at(&[field]);
            }
            let decoded = decode::normalize(&resource.object, given.clone(), FieldValidation::Strict);
            let decoded = decoded.unwrap_or_else(|status| panic!("{}: {status}\n{given}", resource.kind()));
            check(resource, decoded.object, &mut random);
        }
    }
}

#[test]
fn decoding_what_was_decoded_changes_nothing() {
    each_document(|resource, object, _| {
        let bytes = object.to_string();
        let again =
            decode::decode(&resource.object, "application/json", bytes.as_bytes(), FieldValidation::Strict)
                .unwrap();
        assert_eq!(again.object, object);
        assert_eq!(again.warnings, Vec::<String>::new());
    });
}

#[test]
fn protobuf_says_the_same_as_json() {
    each_document(|resource, object, _| {
        let bytes = protobuf::document(resource, &object).unwrap();
        let decoded =
            decode::decode(&resource.object, protobuf::MEDIA_TYPE, &bytes, FieldValidation::Strict).unwrap();
        assert_eq!(decoded.object, object, "{}", resource.kind());
    });
}

#[test]
fn defaults_are_idempotent_and_decode_to_themselves() {
    each_document(|resource, mut object, _| {
        defaults::apply(resource, &mut object);
        let once = object.clone();
        defaults::apply(resource, &mut object);
        assert_eq!(object, once);
        let decoded = decode::normalize(&resource.object, once, FieldValidation::Strict).unwrap();
        let mut again = decoded.object;
        defaults::apply(resource, &mut again);
        assert_eq!(again, object, "what is stored and read back is the same");
    });
}

#[test]
fn no_document_breaks_the_rules() {
    let metadata = json!({});
    let now = jiff::Timestamp::UNIX_EPOCH;
    each_document(|resource, mut object, random| {
        let creation = Creation { namespace: "ns", uid: "u", now, random: random.next() };
        let old = object.clone();
        strategy::prepare_for_create(resource, &mut object, &creation);
        defaults::apply(resource, &mut object);
        validate::create(resource, &object);
        for subresource in ["", "status"] {
            let mut new = old.clone();
            strategy::prepare_for_update(resource, subresource, &mut new, &object);
            validate::update(resource, subresource, &new, &object);
        }
        let options =
            table::Options { now, include: IncludeObject::Metadata, columns: true, metadata: &metadata };
        let table = table::render(resource, [&old], &options);
        assert_eq!(
            table["rows"][0]["cells"].as_array().unwrap().len(),
            table["columnDefinitions"].as_array().unwrap().len()
        );
        scale::read(resource, &old);
    });
}

#[test]
fn an_unchanged_update_is_a_no_op() {
    let now = jiff::Timestamp::UNIX_EPOCH;
    each_document(|resource, mut object, random| {
        let creation = Creation { namespace: "ns", uid: "u", now, random: random.next() };
        strategy::prepare_for_create(resource, &mut object, &creation);
        defaults::apply(resource, &mut object);
        let stored = decode::normalize(&resource.object, object, FieldValidation::Strict).unwrap().object;
        let mut again = stored.clone();
        strategy::prepare_for_update(resource, "", &mut again, &stored);
        defaults::apply(resource, &mut again);
        assert!(strategy::is_no_op(&again, &stored), "{}:\n{again}\n{stored}", resource.kind());
    });
}

#[test]
fn an_object_patched_with_itself_keeps_its_fields() {
    each_document(|resource, object, _| {
        let Ok(patched) = patch::strategic(&resource.object.schema, &object, &object) else { return };
        let names = |value: &Value| -> Vec<String> { value.as_object().unwrap().keys().cloned().collect() };
        assert_eq!(names(&patched), names(&object));
        let twice = patch::strategic(&resource.object.schema, &patched, &object).unwrap();
        assert_eq!(twice, patched, "{}", resource.kind());
    });
}

#[test]
fn bytes_that_follow_nothing_are_refused_not_panicked_over() {
    let pod = &Registry::builtin().kind("", "v1", "Pod").unwrap().object;
    let mut random = Random(1);
    for _ in 0..5_000 {
        let length = random.below(64);
        let noise: Vec<u8> = (0..length).map(|_| random.next() as u8).collect();
        for media_type in decode::ACCEPTED {
            let _ = decode::decode(pod, media_type, &noise, FieldValidation::Strict);
        }
        let body = [b"k8s\0".as_slice(), &noise].concat();
        let _ = decode::decode(pod, "application/vnd.kubernetes.protobuf", &body, FieldValidation::Warn);
        // A well-formed envelope around noise: field 2, its length, the bytes.
        let body = [b"k8s\0\x12".as_slice(), &[u8::try_from(length).unwrap()], &noise].concat();
        let _ = decode::decode(pod, "application/vnd.kubernetes.protobuf", &body, FieldValidation::Warn);
    }
}
