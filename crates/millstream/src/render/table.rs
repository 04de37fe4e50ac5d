//! Tables of text: columns side by side, a rule under the header, a row a line.
//!
//! On a terminal the widest texts are shortened until a row fits on a line; what has no blank in it (ids, numbers,
//! moments) is left whole as long as that is possible. Without a terminal nothing is shortened.

use console::measure_text_width;
use millstream_core::terminal::{Escapes, escape, escape_line};

/// Blanks between columns.
const GAP: usize = 2;
/// A column is not made narrower than this.
const COLUMN_MIN: usize = 8;
/// A text without blanks is left whole up to this width.
const WORD_MAX: usize = 44;

/// A table in the making.
#[derive(Debug)]
pub struct Table {
    header: Vec<String>,
    rows: Vec<Vec<String>>,
    right: Vec<bool>,
    /// Cells of several lines keep them (the plan of a query); else a line break in a record is written out.
    lines_kept: bool,
}

impl Table {
    /// A table with these columns.
    pub fn new(header: impl IntoIterator<Item = impl AsRef<str>>) -> Self {
        let header: Vec<String> = header.into_iter().map(|name| escape_line(name.as_ref()).into_owned()).collect();
        Self { right: vec![false; header.len()], header, rows: Vec::new(), lines_kept: false }
    }

    /// Columns with this index have their text at the right: numbers.
    #[must_use]
    pub fn right(mut self, columns: impl IntoIterator<Item = usize>) -> Self {
        columns.into_iter().for_each(|column| self.right[column] = true);
        self
    }

    /// Line breaks in cells are kept.
    #[must_use]
    pub fn keep_lines(mut self) -> Self {
        self.lines_kept = true;
        self
    }

    /// Adds a row, with a cell for each column.
    pub fn row(&mut self, cells: Vec<String>) {
        let clean = |cell: String| {
            if self.lines_kept { escape(&cell, Escapes::Text).into_owned() } else { escape_line(&cell).into_owned() }
        };
        self.rows.push(cells.into_iter().map(clean).collect());
    }

    /// The text, at most `width` wide where one is given and it can be done.
    pub fn render(&self, width: Option<usize>) -> String {
        let widths = self.widths(width);
        let mut out = String::new();
        self.line(&self.header, &widths, &mut out);
        let rule: Vec<String> = widths.iter().map(|&width| "─".repeat(width)).collect();
        self.line(&rule, &widths, &mut out);
        for row in &self.rows {
            self.line(row, &widths, &mut out);
        }
        out.pop();
        out
    }

    fn widths(&self, limit: Option<usize>) -> Vec<usize> {
        let columns = self.header.len();
        let natural: Vec<usize> = (0..columns).map(|column| self.natural(column)).collect();
        let Some(limit) = limit.filter(|_| !self.lines_kept) else { return natural };
        let gaps = GAP * columns.saturating_sub(1);
        let mut widths = natural;
        let is_word: Vec<bool> = (0..columns).map(|column| self.is_word(column)).collect();
        // Texts first, then words; always the widest.
        for shrinks in [&|column: usize| !is_word[column], &|_| true] as [&dyn Fn(usize) -> bool; 2] {
            while widths.iter().sum::<usize>() + gaps > limit {
                let too_much = widths.iter().sum::<usize>() + gaps - limit;
                let widest = (0..columns).filter(|&c| shrinks(c) && widths[c] > COLUMN_MIN).max_by_key(|&c| widths[c]);
                let Some(widest) = widest else { break };
                let next = (0..columns).filter(|&c| c != widest && shrinks(c)).map(|c| widths[c]).max().unwrap_or(0);
                let cut = too_much.min((widths[widest] - next).max(1));
                widths[widest] = (widths[widest] - cut).max(COLUMN_MIN);
            }
        }
        widths
    }

    fn cells(&self, column: usize) -> impl Iterator<Item = &String> {
        std::iter::once(&self.header).chain(&self.rows).map(move |row| &row[column])
    }

    fn natural(&self, column: usize) -> usize {
        self.cells(column).flat_map(|cell| cell.lines()).map(measure_text_width).max().unwrap_or(0)
    }

    fn is_word(&self, column: usize) -> bool {
        let word = |cell: &String| !cell.contains(' ') && measure_text_width(cell) <= WORD_MAX;
        self.rows.iter().map(|row| &row[column]).all(word)
    }

    fn line(&self, cells: &[String], widths: &[usize], out: &mut String) {
        let height = cells.iter().map(|cell| cell.lines().count()).max().unwrap_or(0).max(1);
        for number in 0..height {
            let start = out.len();
            for (column, cell) in cells.iter().enumerate() {
                let text = shorten(cell.lines().nth(number).unwrap_or_default(), widths[column]);
                let blanks = widths[column].saturating_sub(measure_text_width(&text));
                if column > 0 {
                    out.extend(std::iter::repeat_n(' ', GAP));
                }
                let (before, after) = if self.right[column] { (blanks, 0) } else { (0, blanks) };
                out.extend(std::iter::repeat_n(' ', before));
                out.push_str(&text);
                out.extend(std::iter::repeat_n(' ', after));
            }
            let end = start + out[start..].trim_end().len();
            out.truncate(end);
            out.push('\n');
        }
    }
}

/// The text, or its beginning and `…`.
fn shorten(text: &str, width: usize) -> String {
    if measure_text_width(text) <= width {
        return text.to_owned();
    }
    let mut short = String::new();
    let mut used = 0;
    for c in text.chars() {
        let wide = measure_text_width(c.encode_utf8(&mut [0; 4]));
        if used + wide + 1 > width {
            break;
        }
        used += wide;
        short.push(c);
    }
    short.push('…');
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let mut table = Table::new(["id", "n", "headline"]).right([1]);
        table.row(vec!["wire-0001/123456".into(), "7".into(), "Profits soar at Acme after a record quarter".into()]);
        table.row(vec!["wire-0002/7".into(), "1234".into(), "Zwei\nZeilen \u{1b}[31m".into()]);
        table
    }

    #[test]
    fn a_row_is_a_line_and_nothing_is_shortened_without_a_terminal() {
        assert_eq!(
            table().render(None),
            "id                   n  headline\n\
             ────────────────  ────  ───────────────────────────────────────────\n\
             wire-0001/123456     7  Profits soar at Acme after a record quarter\n\
             wire-0002/7       1234  Zwei\\nZeilen \\x1b[31m"
        );
    }

    #[test]
    fn a_narrow_terminal_shortens_texts_and_leaves_ids_whole() {
        let text = table().render(Some(40));
        assert!(text.lines().all(|line| measure_text_width(line) <= 40), "{text}");
        assert!(text.contains("wire-0001/123456") && text.contains("Profits soar") && text.contains('…'), "{text}");
    }

    #[test]
    fn the_plan_of_a_query_keeps_its_lines() {
        let mut plan = Table::new(["plan_type", "plan"]).keep_lines();
        plan.row(vec!["logical_plan".into(), "Projection: a\n  TableScan: t".into()]);
        let text = plan.render(None);
        assert_eq!(text.lines().last(), Some("                TableScan: t"), "{text}");
    }

    #[test]
    fn wide_characters_count_twice() {
        let mut table = Table::new(["a", "b"]);
        table.row(vec!["漢字".into(), "x".into()]);
        table.row(vec!["ab".into(), "y".into()]);
        assert!(table.render(None).ends_with("漢字  x\nab    y"), "{}", table.render(None));
    }
}
