//! Licences and duplicate versions of everything that we build, against the lists in deny.toml. Needs no network: the build
//! that runs this test has fetched all of it.

use std::collections::BTreeMap;
use std::process::Command;

use serde_json::Value;

use crate::root;

/// The quoted strings of the list `key = [...]` in deny.toml.
fn list(key: &str) -> Vec<String> {
    let text = std::fs::read_to_string(root().join("deny.toml")).expect("deny.toml");
    let start = text
        .find(&format!("\n{key} = ["))
        .unwrap_or_else(|| panic!("deny.toml has a list {key}"));
    let list = &text[start..];
    let list = &list[..list.find("\n]").expect("the list ends")];
    list.lines()
        .skip(2)
        .filter_map(|line| line.split('"').nth(1))
        .map(str::to_owned)
        .collect()
}

fn packages() -> Vec<Value> {
    let output = Command::new(env!("CARGO"))
        .args([
            "metadata",
            "--locked",
            "--format-version",
            "1",
            "--filter-platform",
        ])
        .arg(format!("{}-unknown-linux-gnu", std::env::consts::ARCH))
        .current_dir(root())
        .output()
        .expect("cargo metadata runs");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let mut metadata: Value = serde_json::from_slice(&output.stdout).expect("metadata is JSON");
    let Value::Array(packages) = metadata["packages"].take() else {
        panic!("metadata lists packages");
    };
    packages
}

/// Whether an SPDX expression can be met with the licences in `allowed`; `/` is the old way to write OR.
fn acceptable(expression: &str, allowed: &[String]) -> bool {
    let expression = expression.replace('/', " OR ");
    let expression = expression.trim();
    if let Some(parts) = split_outside(expression, " AND ") {
        return parts.iter().all(|part| acceptable(part, allowed));
    }
    if let Some(parts) = split_outside(expression, " OR ") {
        return parts.iter().any(|part| acceptable(part, allowed));
    }
    match expression
        .strip_prefix('(')
        .and_then(|e| e.strip_suffix(')'))
    {
        Some(inner) => acceptable(inner, allowed),
        None => allowed.iter().any(|licence| licence == expression),
    }
}

/// Splits at `operator` outside parentheses; `None` when it does not occur there.
fn split_outside<'e>(expression: &'e str, operator: &str) -> Option<Vec<&'e str>> {
    let mut parts = Vec::new();
    let (mut depth, mut start) = (0_usize, 0_usize);
    for (at, c) in expression.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            _ if depth == 0 && at >= start && expression[at..].starts_with(operator) => {
                parts.push(&expression[start..at]);
                start = at + operator.len();
            }
            _ => {}
        }
    }
    if parts.is_empty() {
        return None;
    }
    parts.push(&expression[start..]);
    Some(parts)
}

#[test]
fn every_licence_is_permissive() {
    let allowed = list("allow");
    for package in packages() {
        let name = package["name"].as_str().unwrap_or_default();
        let licence = package["license"].as_str().unwrap_or("(none)");
        assert!(
            acceptable(licence, &allowed),
            "{name}: licence {licence} is not met by deny.toml"
        );
    }
}

#[test]
fn no_crate_comes_in_two_versions_without_a_reason() {
    let skip = list("skip");
    let mut versions: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for package in packages() {
        let text = |key: &str| package[key].as_str().unwrap_or_default().to_owned();
        versions
            .entry(text("name"))
            .or_default()
            .push(text("version"));
    }
    for (name, found) in &versions {
        assert!(
            found.len() == 1 || skip.contains(name),
            "{name} comes in {found:?}: unify it, or give the reason in deny.toml"
        );
    }
    for name in &skip {
        let count = versions.get(name).map_or(0, Vec::len);
        assert!(
            count > 1,
            "{name} in deny.toml has {count} version(s): remove the line"
        );
    }
}

#[test]
fn expressions_are_read_as_spdx() {
    let allowed = vec!["MIT".to_owned(), "Zlib".to_owned()];
    assert!(acceptable("MIT", &allowed));
    assert!(acceptable("GPL-3.0/MIT", &allowed));
    assert!(acceptable("(MIT OR Apache-2.0) AND Zlib", &allowed));
    assert!(!acceptable("MIT AND GPL-3.0", &allowed));
    assert!(!acceptable("GPL-3.0 OR (Zlib AND LGPL-2.1)", &allowed));
}
