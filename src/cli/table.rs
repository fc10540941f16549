//! Owns how a list of records looks.
//!
//! Must not know what is listed. Invariant: a record is one line with the same number of cells as
//! the header, whatever its texts contain.

use comfy_table::{ContentArrangement, Table as Grid, TableComponent};

use super::printable::printable;

/// Widest cell where there is no terminal to fit, in characters: none is cut.
const CELL_CHARS_MAX_ON_TERMINAL: usize = 60;

/// Rows under a header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    header: Vec<&'static str>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// Begins a table with the names of its columns.
    pub fn new(header: &[&'static str]) -> Self {
        Self { header: header.to_vec(), rows: Vec::new() }
    }

    /// Adds a row; it has a cell for each column.
    pub fn row<const N: usize>(&mut self, cells: [String; N]) {
        assert_eq!(N, self.header.len(), "a cell for each column");
        self.rows.push(cells.iter().map(|cell| printable(cell)).collect());
    }

    /// Tells whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Writes the table: aligned and cut to so many columns for a terminal, else as lines of cells
    /// with tabs between them, for `cut` and `awk`.
    pub fn render(&self, columns: Option<u16>) -> String {
        match columns {
            Some(columns) => self.aligned(columns),
            None => {
                let mut text = self.header.join("\t") + "\n";
                for row in &self.rows {
                    text += &row.join("\t");
                    text.push('\n');
                }
                text
            }
        }
    }

    fn aligned(&self, columns: u16) -> String {
        let mut grid = Grid::new();
        grid.load_preset(comfy_table::presets::NOTHING);
        grid.set_style(TableComponent::VerticalLines, ' ');
        grid.set_content_arrangement(ContentArrangement::Dynamic).set_width(columns);
        grid.set_truncation_indicator("…");
        grid.set_header(self.header.clone());
        for row in &self.rows {
            let mut cells = comfy_table::Row::from(row.iter().map(|cell| cut(cell)));
            cells.max_height(1);
            grid.add_row(cells);
        }
        for column in grid.column_iter_mut() {
            column.set_padding((0, 1));
        }
        let lines = grid.lines().map(|line| line.trim_end().to_owned() + "\n");
        lines.collect()
    }
}

fn cut(cell: &str) -> String {
    if cell.chars().count() <= CELL_CHARS_MAX_ON_TERMINAL {
        return cell.to_owned();
    }
    cell.chars().take(CELL_CHARS_MAX_ON_TERMINAL - 1).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let mut table = Table::new(&["ID", "TITLE", "HOST"]);
        table.row(["ses_1".to_owned(), "Fix the parser".to_owned(), "laptop".to_owned()]);
        table.row(["ses_22".to_owned(), "tab\there\nline".to_owned(), "x".to_owned()]);
        table
    }

    #[test]
    fn without_a_terminal_cells_are_separated_by_one_tab_and_records_by_lines() {
        let text = table().render(None);
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[..2], ["ID\tTITLE\tHOST", "ses_1\tFix the parser\tlaptop"]);
        assert_eq!(lines[2].split('\t').count(), 3, "{lines:?}");
        assert_eq!(lines.len(), 3);
        assert!(!text.contains('\u{1b}'));
    }

    #[test]
    fn on_a_terminal_columns_are_aligned() {
        let text = table().render(Some(80));
        let lines: Vec<_> = text.lines().collect();
        let at = lines[0].find("TITLE").unwrap();
        assert_eq!(lines[1].find("Fix"), Some(at), "{text}");
        assert_eq!(lines.len(), 3, "{text}");
    }

    #[test]
    fn on_a_narrow_terminal_a_record_is_still_one_line() {
        let mut table = table();
        table.row(["ses_3".to_owned(), "long ".repeat(100), "host".to_owned()]);
        let text = table.render(Some(40));
        assert_eq!(text.lines().count(), 4, "{text}");
        assert!(text.lines().all(|line| line.chars().count() <= 40), "{text}");
    }
}
