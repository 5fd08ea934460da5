//! The original's tables: columns padded with blanks, names longer than their column cut at the end.
//!
//! Scripts split these on whitespace; people know them by their look. Both stay.

use std::fmt::{self, Display, Formatter};

/// One column: what Java's `%-Ns` or `%Ns` makes of it.
pub(crate) struct Column {
    title: &'static str,
    width: usize,
    right: bool,
    cut: bool,
    gap: usize,
    row_gap: Option<usize>,
}

/// A column flush left.
pub(crate) const fn left(title: &'static str, width: usize) -> Column {
    Column {
        title,
        width,
        right: false,
        cut: false,
        gap: 2,
        row_gap: None,
    }
}

/// A column flush right.
pub(crate) const fn right(title: &'static str, width: usize) -> Column {
    Column {
        title,
        width,
        right: true,
        cut: false,
        gap: 2,
        row_gap: None,
    }
}

/// The last column, as wide as its text.
pub(crate) const fn rest(title: &'static str) -> Column {
    left(title, 0)
}

impl Column {
    /// The number of blanks before the column; 2 unless told otherwise.
    pub(crate) const fn gap(mut self, blanks: usize) -> Self {
        self.gap = blanks;
        self
    }

    /// As [`Self::gap`] for rows alone, where the original's titles stand elsewhere than what is below them.
    pub(crate) const fn row_gap(mut self, blanks: usize) -> Self {
        self.row_gap = Some(blanks);
        self
    }

    /// Texts longer than the column lose their end.
    pub(crate) const fn cut(mut self) -> Self {
        self.cut = true;
        self
    }
}

/// The two kinds of lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Line {
    Titles,
    Row,
}

/// A table's columns from left to right.
pub(crate) struct Table(pub(crate) &'static [Column]);

impl Table {
    /// The line of titles.
    pub(crate) fn head(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let titles: Vec<&dyn Display> = self
            .0
            .iter()
            .map(|column| &column.title as &dyn Display)
            .collect();
        self.line(f, &titles, Line::Titles)
    }

    /// One line of cells.
    pub(crate) fn row(&self, f: &mut Formatter<'_>, cells: &[&dyn Display]) -> fmt::Result {
        self.line(f, cells, Line::Row)
    }

    fn line(&self, f: &mut Formatter<'_>, cells: &[&dyn Display], line: Line) -> fmt::Result {
        debug_assert_eq!(cells.len(), self.0.len(), "one cell per column");
        for (number, (column, cell)) in self.0.iter().zip(cells).enumerate() {
            let gap = match (number, line) {
                (0, _) => 0,
                (_, Line::Titles) => column.gap,
                (_, Line::Row) => column.row_gap.unwrap_or(column.gap),
            };
            let mut text = cell.to_string();
            if column.cut && line == Line::Row {
                text = text.chars().take(column.width).collect();
            }
            let width = column.width;
            if column.right {
                write!(f, "{:gap$}{text:>width$}", "")?;
            } else {
                write!(f, "{:gap$}{text:<width$}", "")?;
            }
        }
        writeln!(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLE: Table = Table(&[left("#Name", 6).cut(), right("#N", 4).gap(1), rest("#Rest")]);

    struct Shown;

    impl Display for Shown {
        fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
            SAMPLE.head(f)?;
            SAMPLE.row(f, &[&"abcdefgh", &12, &"tail"])
        }
    }

    #[test]
    fn pads_aligns_and_cuts() {
        assert_eq!(Shown.to_string(), "#Name    #N  #Rest\nabcdef   12  tail\n");
    }
}
