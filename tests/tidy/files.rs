//! What stands in the tracked files: no stubs, no paths of somebody's machine, no dead links, no catch-all file names, no
//! `unsafe` but in the one file made for it, and nothing that grows large unseen.

use std::path::{Path, PathBuf};

use crate::{root, text, tracked};

/// Rust files that may have more than [`LINES_MAX`] lines, each with its own limit: raising one is a decision to be seen in review.
const LARGE: &[(&str, usize)] = &[];

const LINES_MAX: usize = 1000;

fn sources() -> Vec<(PathBuf, String)> {
    tracked()
        .into_iter()
        .filter(|path| path.extension().is_some_and(|e| e == "rs"))
        .filter_map(|path| text(&path).map(|text| (path, text)))
        .collect()
}

/// Our own Rust sources: what came with its own history (the load generator) is kept as it came.
fn own_sources() -> impl Iterator<Item = (PathBuf, String)> {
    sources()
        .into_iter()
        .filter(|(path, _)| !path.starts_with("benches/load"))
}

#[test]
fn nothing_is_left_for_later() {
    // Put together here so that this file does not find itself.
    let banned = [
        ["to", "do!("].concat(),
        ["unimple", "mented!("].concat(),
        ["#[ig", "nore"].concat(),
        ["FIX", "ME"].concat(),
        ["// TO", "DO"].concat(),
    ];
    for (path, text) in own_sources() {
        for word in &banned {
            assert!(!text.contains(word), "{}: {word}", path.display());
        }
    }
}

#[test]
fn no_path_of_a_machine_is_tracked() {
    let banned = [
        ["/wo", "rk/"].concat(),
        ["/ro", "ot/"].concat(),
        ["/ho", "me/"].concat(),
    ];
    for path in tracked() {
        if path.extension().is_some_and(|e| e == "lock") || path.starts_with("tests/fixtures") {
            continue;
        }
        let Some(text) = text(&path) else { continue };
        for (number, line) in text.lines().enumerate() {
            for word in &banned {
                assert!(
                    !line.contains(word),
                    "{}:{}: {line}",
                    path.display(),
                    number + 1
                );
            }
        }
    }
}

#[test]
fn links_between_the_documents_lead_somewhere() {
    for path in tracked() {
        if path.extension().is_none_or(|e| e != "md") {
            continue;
        }
        let folder = path.parent().unwrap_or(Path::new(""));
        for target in links(&text(&path).unwrap_or_default()) {
            let file = target.split('#').next().unwrap_or_default();
            assert!(
                file.is_empty() || root().join(folder).join(file).exists(),
                "{} links to {target}, which is not there",
                path.display()
            );
        }
    }
}

/// The targets of `[text](target)` that are paths of the repository.
fn links(text: &str) -> Vec<&str> {
    text.split("](")
        .skip(1)
        .filter_map(|rest| rest.split_once(')').map(|(target, _)| target))
        .filter(|target| !target.contains("://") && !target.contains(char::is_whitespace))
        .collect()
}

#[test]
fn files_are_named_after_what_they_hold() {
    const CATCH_ALL: &[&str] = &[
        "utils", "util", "common", "helpers", "helper", "types", "manager", "misc", "mod",
    ];
    for (path, _) in own_sources() {
        let stem = path
            .file_stem()
            .and_then(|s| s.to_str())
            .unwrap_or_default();
        assert!(
            !CATCH_ALL.contains(&stem),
            "{}: name it after its noun",
            path.display()
        );
    }
}

#[test]
fn only_the_segment_has_unsafe_code() {
    let keyword = ["un", "safe "].concat();
    for (path, text) in own_sources() {
        if path == Path::new("store/src/segment.rs") {
            continue;
        }
        for (number, line) in text.lines().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            assert!(
                !code.contains(&keyword) || code.contains('"'),
                "{}:{}: {line}",
                path.display(),
                number + 1
            );
        }
    }
}

#[test]
fn files_do_not_grow_in_silence() {
    for (path, text) in own_sources() {
        let lines = text.lines().count();
        let name = path.to_str().unwrap_or_default();
        let limit = LARGE
            .iter()
            .find(|(large, _)| *large == name)
            .map_or(LINES_MAX, |(_, limit)| *limit);
        assert!(
            lines <= limit,
            "{name} has {lines} lines, more than {limit}: split it, or say so in LARGE"
        );
    }
    for (name, _) in LARGE {
        assert!(
            root().join(name).is_file(),
            "{name} is gone: remove it from LARGE"
        );
    }
}

#[test]
fn a_link_is_told_from_an_address() {
    assert_eq!(
        links("[a](b.md) [c](https://d.example) [e](f.md#g)"),
        ["b.md", "f.md#g"]
    );
}
