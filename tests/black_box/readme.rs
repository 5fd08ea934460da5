//! The README's tour, run as it is written: every `agena` line of the marked block must succeed, and say something.

use std::path::Path;
use std::process::Stdio;

use crate::servers::{Servers, agena};

const NAME_SERVER_IN_README: &str = "127.0.0.1:9876";

/// The lines of the code block behind the marker.
fn tour(readme: &str) -> Vec<&str> {
    let marker = "<!-- tour: tests/black_box/readme.rs runs these lines -->";
    let (_, rest) = readme.split_once(marker).expect("README.md has the marker");
    let (_, block) = rest
        .split_once("```sh\n")
        .expect("a block follows the marker");
    let (block, _) = block.split_once("```").expect("the block ends");
    block
        .lines()
        .filter(|line| !line.trim().is_empty())
        .collect()
}

/// Splits a line as a shell does with plain words and "quoted ones".
fn words(line: &str) -> Vec<String> {
    line.split('"')
        .enumerate()
        .flat_map(|(at, part)| {
            if at % 2 == 1 {
                vec![part.to_owned()]
            } else {
                part.split_whitespace().map(str::to_owned).collect()
            }
        })
        .collect()
}

#[test]
fn every_line_of_the_tour_works() {
    let readme = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let readme = std::fs::read_to_string(readme).expect("README.md");
    let servers = Servers::start();
    let lines = tour(&readme);
    assert!(lines.len() >= 5, "the tour has become short: {lines:?}");
    for line in lines {
        let words = words(&line.replace(NAME_SERVER_IN_README, &servers.name_server()));
        assert_eq!(words[0], "agena", "{line}");
        let output = agena()
            .args(&words[1..])
            .stdin(Stdio::null())
            .output()
            .expect("agena can be started");
        let stdout = String::from_utf8_lossy(&output.stdout);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{line}\n{stdout}{stderr}");
        assert!(!stdout.trim().is_empty(), "{line} says nothing\n{stderr}");
    }
}

#[test]
fn quoted_words_stay_whole() {
    assert_eq!(
        words(r#"agena admin -p "3 pencils" -c x"#),
        ["agena", "admin", "-p", "3 pencils", "-c", "x"]
    );
}
