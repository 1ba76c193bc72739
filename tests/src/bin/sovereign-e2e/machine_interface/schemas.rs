//! The published schemas, and whether an output is what they say.

use std::collections::BTreeMap;

use anyhow::{Context, Result, anyhow, bail};
use jsonschema::Validator;
use serde_json::{Value, json};

/// The schemas of `docs/json`, by their names.
macro_rules! published {
    ($($name:literal),+ $(,)?) => {
        &[$(($name, include_str!(concat!("../../../../../docs/json/", $name, ".schema.json")))),+]
    };
}

const PUBLISHED: &[(&str, &str)] = published![
    "command",
    "cp",
    "doctor",
    "end",
    "error",
    "events",
    "fs-change",
    "fs-content",
    "fs-done",
    "fs-entry",
    "fs-written",
    "image-build",
    "image-freed",
    "image-inspect",
    "image-ls",
    "image-verify",
    "inspect",
    "logs",
    "ls",
    "prune",
    "rm",
    "run",
    "sandbox",
    "start",
    "stats",
    "top",
    "version",
];

/// The schemas, ready to judge.
pub(super) struct Schemas(BTreeMap<&'static str, Validator>);

impl Schemas {
    pub(super) fn new() -> Result<Self> {
        let mut all = BTreeMap::new();
        for (name, text) in PUBLISHED {
            let mut schema: Value = serde_json::from_str(text).with_context(|| *name)?;
            close(&mut schema);
            let validator = jsonschema::validator_for(&schema);
            all.insert(
                *name,
                validator.map_err(|error| anyhow!("{name}: {error}"))?,
            );
        }
        Ok(Self(all))
    }

    /// Says what of this value is not what the schema says.
    pub(super) fn judge(&self, name: &str, value: &Value) -> Result<()> {
        let validator = self.0.get(name).context("no such schema")?;
        let faults: Vec<_> = validator
            .iter_errors(value)
            .map(|fault| format!("{}: {fault}", fault.instance_path()))
            .collect();
        if !faults.is_empty() {
            bail!("not as {name} says: {}\n{value:#}", faults.join("; "));
        }
        Ok(())
    }
}

/// Readers let fields pass that they do not know; here each has to be described.
fn close(schema: &mut Value) {
    match schema {
        Value::Object(fields) => {
            if fields.contains_key("properties") && !fields.contains_key("additionalProperties") {
                fields.insert("additionalProperties".to_owned(), json!(false));
            }
            fields.values_mut().for_each(close);
        }
        Value::Array(items) => items.iter_mut().for_each(close),
        _ => {}
    }
}
