//! The same as a JSON document: `Content-Type: application/vnd.fly.replay+json`. Pure.

use serde::Deserialize;
use serde_json::Value;

use crate::replay::ask::{Replay, Wrong, remember, wrong};

pub(crate) const CONTENT_TYPE: &str = "application/vnd.fly.replay+json";
/// A longer document is refused.
pub(crate) const MOST_BYTES: usize = 64 * 1024;

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Transform {
    path: Option<String>,
    delete_headers: Vec<String>,
    set_headers: Vec<Header>,
}

#[derive(Debug, Deserialize)]
struct Header {
    name: String,
    value: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Cache {
    prefix: Option<String>,
    ttl: Option<u64>,
    invalidate: bool,
    allow_bypass: bool,
}

/// Read a document.
pub(crate) fn read(document: &[u8]) -> Result<Replay, Wrong> {
    let no_json = |error: serde_json::Error| wrong(format!("its JSON: {error}"));
    let document: Value = serde_json::from_slice(document).map_err(no_json)?;
    let Value::Object(fields) = document else {
        return Err(wrong("its JSON is no object"));
    };
    let mut replay = Replay::default();
    let (mut cache, mut bypass) = (None, false);
    for (name, value) in fields {
        match (name.as_str(), value) {
            (_, Value::Null) => {}
            ("transform", value) => {
                let transform: Transform = serde_json::from_value(value).map_err(no_json)?;
                apply(&transform, &mut replay)?;
            }
            ("cache", value) => {
                cache = Some(serde_json::from_value::<Cache>(value).map_err(no_json)?);
            }
            ("allow_bypass", Value::Bool(allowed)) => bypass = allowed,
            (name, Value::String(text)) => replay.set(name, &text)?,
            (name, Value::Bool(flag)) => replay.set(name, if flag { "true" } else { "false" })?,
            ("region", Value::Array(codes)) => {
                let codes: Option<Vec<&str>> = codes.iter().map(Value::as_str).collect();
                let codes = codes.ok_or_else(|| wrong("region is no list of codes"))?;
                replay.set("region", &codes.join(","))?;
            }
            (name, _) => return Err(wrong(format!("the value of {name}"))),
        }
    }
    if let Some(cache) = cache {
        let pattern = if cache.invalidate {
            Some("invalidate")
        } else {
            cache.prefix.as_deref()
        };
        let pattern = pattern.ok_or_else(|| wrong("cache has no prefix"))?;
        let bypass = bypass || cache.allow_bypass;
        replay.remember = Some(remember(pattern, cache.ttl, bypass)?);
    }
    replay.judged()
}

fn apply(transform: &Transform, replay: &mut Replay) -> Result<(), Wrong> {
    let made = &mut replay.transform;
    if let Some(path) = &transform.path {
        made.set_path(path)?;
    }
    for name in &transform.delete_headers {
        made.delete_header(name)?;
    }
    for Header { name, value } in &transform.set_headers {
        made.set_header(name, value)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::replay::ask::Remember;

    #[test]
    fn a_whole_document_is_read() {
        let document = r#"{"app": "other", "region": ["fra", "any"], "elsewhere": false,
            "state": "s", "timeout": "2s", "fallback": "force_self", "instance": null,
            "transform": {"path": "/x?y", "delete_headers": ["cookie"],
                          "set_headers": [{"name": "X-A", "value": "1"}]}}"#;
        let replay = read(document.as_bytes()).unwrap();
        assert_eq!(replay.app.as_deref(), Some("other"));
        assert_eq!(replay.regions.as_deref(), Some("fra,any"));
        assert_eq!(replay.transform.path.as_deref(), Some("/x?y"));
        assert_eq!(replay.transform.set[0].0, "x-a");
        let cached = r#"{"app": "o", "cache": {"prefix": "/a", "ttl": 60}, "allow_bypass": true}"#;
        let remembered = read(cached.as_bytes()).unwrap().remember;
        assert!(matches!(
            remembered,
            Some(Remember::Prefix { bypass: true, .. })
        ));
        let forget = r#"{"app": "o", "cache": {"invalidate": true}}"#;
        assert_eq!(
            read(forget.as_bytes()).unwrap().remember,
            Some(Remember::Forget)
        );
    }

    proptest! {
        #[test]
        fn no_document_is_a_surprise(document in "\\PC{0,200}") {
            let _ = read(document.as_bytes());
            let _ = read(format!("{{\"app\":{document}}}").as_bytes());
        }
    }
}
