//! The form of the repository, as far as no compiler checks it: which crate may use which, what may not stand in a tracked
//! file, links that lead somewhere, files that do not grow in silence, and what we depend on.

mod dependencies;
mod files;
mod manifests;

use std::path::{Path, PathBuf};
use std::process::Command;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every file that git knows, relative to the root.
fn tracked() -> Vec<PathBuf> {
    let output = Command::new("git")
        .args(["ls-files", "-z"])
        .current_dir(root())
        .output()
        .expect("git lists the tracked files");
    assert!(output.status.success(), "git ls-files failed");
    let names = String::from_utf8(output.stdout).expect("file names are UTF-8");
    names
        .split('\0')
        .filter(|name| !name.is_empty())
        .map(PathBuf::from)
        .filter(|path| root().join(path).is_file())
        .collect()
}

/// The text of a tracked file, or `None` where it is not text.
fn text(path: &Path) -> Option<String> {
    let bytes = std::fs::read(root().join(path)).expect("a tracked file is readable");
    String::from_utf8(bytes)
        .ok()
        .filter(|text| !text.contains('\0'))
}
