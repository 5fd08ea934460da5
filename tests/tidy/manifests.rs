//! The direction of the crates: an arrow that is not in this table is a design decision and belongs into ARCHITECTURE.md first.

use crate::root;

const MAY_USE: &[(&str, &[&str])] = &[
    ("protocol", &[]),
    ("store", &["protocol"]),
    ("remoting", &["protocol"]),
    ("namesrv", &["protocol", "remoting"]),
    ("broker", &["protocol", "remoting", "store"]),
    ("client", &["protocol", "remoting"]),
    ("admin", &["protocol", "remoting", "client", "store"]),
];

/// The crates of ours that a manifest names in its `[dependencies]`; tests may use more.
fn used(manifest: &str) -> Vec<String> {
    let mut section = "";
    let mut found = Vec::new();
    for line in manifest.lines() {
        if line.starts_with('[') {
            section = line.trim();
        } else if section == "[dependencies]"
            && let Some(rest) = line.strip_prefix("agena-")
        {
            let name: String = rest
                .chars()
                .take_while(|c| c.is_ascii_lowercase())
                .collect();
            found.push(name);
        }
    }
    found
}

#[test]
fn crates_use_only_what_lies_below_them() {
    for (name, allowed) in MAY_USE {
        let path = root().join(name).join("Cargo.toml");
        let manifest = std::fs::read_to_string(&path).expect("every crate has a manifest");
        for used in used(&manifest) {
            assert!(
                allowed.contains(&used.as_str()),
                "{name} may not use {used}: see MAY_USE in tests/tidy/manifests.rs"
            );
        }
    }
}

#[test]
fn the_table_has_every_member_of_the_workspace() {
    let manifest = std::fs::read_to_string(root().join("Cargo.toml")).expect("the root manifest");
    let line = manifest
        .lines()
        .find(|line| line.starts_with("members"))
        .expect("the workspace lists its members");
    let members: Vec<&str> = line.split('"').skip(1).step_by(2).collect();
    let table: Vec<&str> = MAY_USE.iter().map(|(name, _)| *name).collect();
    for member in members {
        assert!(table.contains(&member), "{member} is missing in MAY_USE");
    }
}

#[test]
fn dependencies_of_tests_do_not_count() {
    let manifest = "[dependencies]\nagena-protocol.workspace = true\n[dev-dependencies]\nagena-broker.workspace = true\n";
    assert_eq!(used(manifest), ["protocol"]);
}
