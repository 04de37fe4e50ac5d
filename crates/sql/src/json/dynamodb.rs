//! `dynamodb_json(item)`: the typed JSON of DynamoDB, `{"id": {"S": "a"}}`, as plain JSON.
//!
//! An item is an object of attributes; a value is an object with one member, whose name is its type
//! ([AttributeValue](https://docs.aws.amazon.com/amazondynamodb/latest/APIReference/API_AttributeValue.html)). Numbers,
//! which DynamoDB writes as text, keep their digits; sets become arrays; binary stays base64.

use std::sync::Arc;

use arrow::array::{Array, StringBuilder};
use arrow::datatypes::{DataType, FieldRef};
use datafusion::common::{Result, exec_err, plan_err};
use datafusion::logical_expr::{
    ColumnarValue, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDFImpl, Signature, Volatility,
};
use jiter::{Jiter, JiterError, Peek};

use super::{finished, json_field, readable, texts};

/// Levels of lists and maps, as many as DynamoDB has.
const DEPTH_MAX: usize = 32;

/// The function.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct DynamodbJson {
    signature: Signature,
}

impl DynamodbJson {
    pub(super) fn new() -> Self {
        Self { signature: Signature::user_defined(Volatility::Immutable) }
    }
}

impl ScalarUDFImpl for DynamodbJson {
    fn name(&self) -> &str {
        "dynamodb_json"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        let [item] = types else { return plan_err!("dynamodb_json takes an item: dynamodb_json(payload)") };
        match readable(item) {
            Some(kind) => Ok(vec![kind]),
            None => plan_err!("dynamodb_json takes json or a string, not {item}"),
        }
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Utf8)
    }

    fn return_field_from_args(&self, _: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        Ok(Arc::new(json_field(self.name())))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let [item] = args.args.as_slice() else { return exec_err!("dynamodb_json takes one argument") };
        let is_constant = matches!(item, ColumnarValue::Scalar(_));
        let rows = if is_constant { 1 } else { args.number_rows };
        let items = texts(item, rows)?;
        let mut out = StringBuilder::with_capacity(rows, items.value_data().len());
        let mut plain = String::new();
        for row in 0..rows {
            if items.is_null(row) {
                out.append_null();
                continue;
            }
            match write_plain(items.value(row), &mut plain) {
                Ok(()) => out.append_value(&plain),
                Err(why) => return exec_err!("dynamodb_json: {why}"),
            }
        }
        finished(Arc::new(out.finish()), is_constant)
    }
}

/// What a value is instead.
type Wrong = &'static str;

const NO_JSON: Wrong = "a text is no JSON";
const NO_VALUE: Wrong = "this is no typed JSON of DynamoDB: a value is an object with one member, {\"S\": \"text\"}";
const NO_NUMBER: Wrong = "the text of an N is no number";
const TOO_DEEP: Wrong = "lists and maps are nested too deeply";

/// Writes an item or a single value to `out`, which is emptied first.
fn write_plain(text: &str, out: &mut String) -> Result<(), Wrong> {
    // `{"S": "a"}` is a value. An item with one attribute that is called S has an object there, so no text is both;
    // only for M both are objects, and one of them fails further in.
    let mut as_value = Reader { json: Jiter::new(text.as_bytes()), out: &mut *out };
    as_value.out.clear();
    let why = match as_value.value(0).and_then(|()| as_value.finish()) {
        Ok(()) => return Ok(()),
        Err(why) => why,
    };
    let mut as_item = Reader { json: Jiter::new(text.as_bytes()), out };
    as_item.out.clear();
    match as_item.map(0).and_then(|()| as_item.finish()) {
        // An object with one member that has a type's name was meant as a value, more likely than not.
        Err(NO_VALUE) => Err(why),
        outcome => outcome,
    }
}

struct Reader<'a, 'j> {
    json: Jiter<'j>,
    out: &'a mut String,
}

impl Reader<'_, '_> {
    fn finish(&mut self) -> Result<(), Wrong> {
        self.json.finish().map_err(no_json)
    }

    /// `{"S": "a"}`
    fn value(&mut self, depth: usize) -> Result<(), Wrong> {
        if depth > DEPTH_MAX {
            return Err(TOO_DEEP);
        }
        self.expect(Peek::Object)?;
        let kind = match self.json.known_object().map_err(no_json)? {
            Some("S" | "B") => "S",
            Some("N") => "N",
            Some("BOOL") => "BOOL",
            Some("NULL") => "NULL",
            Some("SS" | "BS") => "SS",
            Some("NS") => "NS",
            Some("L") => "L",
            Some("M") => "M",
            _ => return Err(NO_VALUE),
        };
        match kind {
            "S" => self.text()?,
            "N" => self.number()?,
            "SS" => self.array(&mut Self::text)?,
            "NS" => self.array(&mut Self::number)?,
            "L" => self.array(&mut |reader| reader.value(depth + 1))?,
            "M" => self.map(depth + 1)?,
            is_bool => {
                let truth = match self.json.peek().map_err(no_json)? {
                    kind @ (Peek::True | Peek::False) => self.json.known_bool(kind).map_err(no_json)?,
                    _ => return Err(NO_VALUE),
                };
                self.out.push_str(match (is_bool, truth) {
                    ("NULL", true) => "null",
                    ("NULL", false) => return Err(NO_VALUE),
                    (_, true) => "true",
                    (_, false) => "false",
                });
            }
        }
        match self.json.next_key().map_err(no_json)? {
            None => Ok(()),
            Some(_) => Err(NO_VALUE),
        }
    }

    /// `{"id": {"S": "a"}, …}`
    fn map(&mut self, depth: usize) -> Result<(), Wrong> {
        self.expect(Peek::Object)?;
        self.out.push('{');
        let mut is_first = true;
        let mut name = self.json.known_object().map_err(no_json)?;
        while let Some(key) = name {
            if !std::mem::take(&mut is_first) {
                self.out.push(',');
            }
            write_text(self.out, key);
            self.out.push(':');
            self.value(depth)?;
            name = self.json.next_key().map_err(no_json)?;
        }
        self.out.push('}');
        Ok(())
    }

    fn array(&mut self, item: &mut dyn FnMut(&mut Self) -> Result<(), Wrong>) -> Result<(), Wrong> {
        self.expect(Peek::Array)?;
        self.out.push('[');
        let mut next = self.json.known_array().map_err(no_json)?;
        let mut is_first = true;
        while next.is_some() {
            if !std::mem::take(&mut is_first) {
                self.out.push(',');
            }
            item(self)?;
            next = self.json.array_step().map_err(no_json)?;
        }
        self.out.push(']');
        Ok(())
    }

    fn text(&mut self) -> Result<(), Wrong> {
        self.expect(Peek::String)?;
        write_text(self.out, self.json.known_str().map_err(no_json)?);
        Ok(())
    }

    /// The digits as they are.
    fn number(&mut self) -> Result<(), Wrong> {
        self.expect(Peek::String)?;
        let digits = self.json.known_str().map_err(no_json)?;
        let mut number = Jiter::new(digits.as_bytes());
        let is_number = number.peek().is_ok_and(Peek::is_num) && number.current_index() == 0;
        if !is_number || number.next_skip().is_err() || number.current_index() != digits.len() {
            return Err(NO_NUMBER);
        }
        self.out.push_str(digits);
        Ok(())
    }

    fn expect(&mut self, wanted: Peek) -> Result<(), Wrong> {
        match self.json.peek().map_err(no_json)? {
            found if found == wanted => Ok(()),
            _ => Err(NO_VALUE),
        }
    }
}

fn no_json(_: JiterError) -> Wrong {
    NO_JSON
}

/// A text in quotes, with what JSON wants escaped.
fn write_text(out: &mut String, text: &str) {
    out.push('"');
    let mut rest = text;
    while let Some(at) = rest.find(|c: char| c == '"' || c == '\\' || c < ' ') {
        let (before, special) = rest.split_at(at);
        out.push_str(before);
        let byte = special.as_bytes()[0];
        match byte {
            b'"' => out.push_str("\\\""),
            b'\\' => out.push_str("\\\\"),
            b'\n' => out.push_str("\\n"),
            b'\r' => out.push_str("\\r"),
            b'\t' => out.push_str("\\t"),
            control => {
                const DIGITS: &[u8; 16] = b"0123456789abcdef";
                out.push_str("\\u00");
                out.push(DIGITS[usize::from(control >> 4)].into());
                out.push(DIGITS[usize::from(control & 15)].into());
            }
        }
        rest = &special[1..];
    }
    out.push_str(rest);
    out.push('"');
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn plain(text: &str) -> Result<String, Wrong> {
        let mut out = "left over".to_owned();
        write_plain(text, &mut out).map(|()| out)
    }

    #[test]
    fn an_item_becomes_plain_json_with_the_same_digits() {
        let item = r#" {"id": {"S": "a\n\"ü"}, "n": {"N": "1.50"}, "big": {"N": "123456789012345678901234567890E-3"},
            "l": {"L": [{"N": "1"}, {"NULL": true}, {"L": []}]}, "m": {"M": {"S": {"S": "x"}, "M": {"M": {}}}},
            "ss": {"SS": ["a", "b"]}, "ns": {"NS": ["-1", "2.0"]}, "bs": {"BS": ["AQI="]}, "b": {"B": "AQI="},
            "null": {"NULL": true}, "ok": {"BOOL": true}, "no": {"BOOL": false}} "#;
        let is = [
            r#"{"id":"a\n\"ü","n":1.50,"big":123456789012345678901234567890E-3,"l":[1,null,[]],"m":{"S":"x","M":{}},"#,
            r#""ss":["a","b"],"ns":[-1,2.0],"bs":["AQI="],"b":"AQI=","null":null,"ok":true,"no":false}"#,
        ];
        assert_eq!(plain(item).unwrap(), is.concat());
    }

    #[test]
    fn a_single_value_and_an_attribute_with_a_types_name_are_told_apart() {
        for (typed, is) in [
            (r#"{"S": "a"}"#, r#""a""#),
            (r#"{"S": {"S": "a"}}"#, r#"{"S":"a"}"#),
            (r#"{"M": {"S": {"S": "a"}}}"#, r#"{"S":"a"}"#),
            (r#"{"M": {"S": "a"}}"#, r#"{"M":"a"}"#),
            (r#"{"M": {"M": {"M": {}}}}"#, r#"{"M":{}}"#),
            (r#"{"L": [{"S": "a"}]}"#, r#"["a"]"#),
            (r#"{"NULL": true}"#, "null"),
            ("{}", "{}"),
        ] {
            assert_eq!(plain(typed).unwrap(), is, "{typed}");
        }
    }

    #[test]
    fn what_is_no_typed_json_is_refused() {
        for (text, why) in [
            ("", NO_JSON),
            ("x", NO_VALUE),
            (r#"{"id": {"S": "a"}"#, NO_JSON),
            (r#"{"id": {"S": "a"}} x"#, NO_JSON),
            (r#"{"id": "a"}"#, NO_VALUE),
            (r#"{"id": {}}"#, NO_VALUE),
            (r#"{"id": {"X": "a"}}"#, NO_VALUE),
            (r#"{"id": {"S": "a", "N": "1"}}"#, NO_VALUE),
            (r#"{"id": {"S": 1}}"#, NO_VALUE),
            (r#"{"id": {"N": 1}}"#, NO_VALUE),
            (r#"{"id": {"N": "one"}}"#, NO_NUMBER),
            (r#"{"id": {"N": "1 "}}"#, NO_NUMBER),
            (r#"{"id": {"N": " 1"}}"#, NO_NUMBER),
            (r#"{"id": {"N": "NaN"}}"#, NO_NUMBER),
            (r#"{"id": {"N": "01"}}"#, NO_NUMBER),
            (r#"{"id": {"NULL": false}}"#, NO_VALUE),
            (r#"{"N": "one"}"#, NO_NUMBER),
            (r#"["a"]"#, NO_VALUE),
        ] {
            assert_eq!(plain(text), Err(why), "{text}");
        }
        let deep = format!("{}{{\"S\":\"\"}}{}", r#"{"L":["#.repeat(40), "]}".repeat(40));
        assert_eq!(plain(&deep), Err(TOO_DEEP));
    }

    fn typed(value: &Value) -> Value {
        match value {
            Value::Null => json!({"NULL": true}),
            Value::Bool(truth) => json!({"BOOL": truth}),
            Value::Number(number) => json!({"N": number.to_string()}),
            Value::String(text) => json!({"S": text}),
            Value::Array(items) => json!({"L": items.iter().map(typed).collect::<Vec<_>>()}),
            Value::Object(members) => {
                let members: serde_json::Map<_, _> = members.iter().map(|(k, v)| (k.clone(), typed(v))).collect();
                json!({"M": members})
            }
        }
    }

    fn documents() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<String>().prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 30, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::hash_map("S|N|M|L|.{0,3}", inner, 0..4)
                    .prop_map(|members| Value::Object(members.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn any_value_comes_back_from_its_typed_form(value in documents()) {
            let found = plain(&typed(&value).to_string()).unwrap();
            prop_assert_eq!(serde_json::from_str::<Value>(&found).unwrap(), value.clone());
            // An item is what stands in an M.
            if let Value::Object(_) = &value {
                let found = plain(&typed(&value)["M"].to_string()).unwrap();
                prop_assert_eq!(serde_json::from_str::<Value>(&found).unwrap(), value);
            }
        }

        #[test]
        fn no_text_makes_it_panic(text in "[\\[\\]{}:,\"SNMLBOU a0-9.eE\\\\true]{0,32}") {
            let _ = plain(&text);
        }
    }
}
