//! Every row of the tables in `docs/transactions.md`, through a broker: the page is read, the row's state is brought about,
//! its event happens, and what was appended and what state follows is compared with what the row says.
#![expect(clippy::unwrap_used, reason = "in a test, a panic is the report")]

mod checks;
mod crashes;
mod half_broker;
mod states;

/// The rows of the page's table under `heading`, cells without backquotes.
fn rows(heading: &str) -> Vec<Vec<String>> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/transactions.md");
    let page = std::fs::read_to_string(path).unwrap();
    let (_, behind) = page
        .split_once(&format!("## {heading}\n"))
        .unwrap_or_else(|| panic!("no section {heading}"));
    let lines = behind.lines().skip_while(|line| !line.starts_with('|'));
    let table = lines.take_while(|line| line.starts_with('|')).skip(2);
    let cells = |line: &str| {
        let cells = line.trim_matches('|').split('|');
        cells
            .map(|cell| cell.trim().replace('`', ""))
            .collect::<Vec<_>>()
    };
    table.map(cells).collect()
}
