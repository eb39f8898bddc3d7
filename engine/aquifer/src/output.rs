//! Output for people and for programs: data on stdout, everything else on stderr.
//!
//! Rules: a JSON answer is one object with `"schema": 1`; colour only on a terminal and never when NO_COLOR is set;
//! a closed stdout (`| head`) ends the process quietly.

use crate::failure::Failure;
use clap::ValueEnum;
use serde_json::{Map, Value};
use std::io::{IsTerminal, Write};

/// Version of every JSON answer.
pub const SCHEMA: u64 = 1;

/// `-o`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Text for people.
    #[default]
    Table,
    /// One JSON object.
    Json,
}

/// The `-o` option, taken by every command that reads.
#[derive(Clone, Copy, Debug, Default, clap::Args)]
pub struct OutputOptions {
    /// Form of the answer on stdout.
    #[arg(short = 'o', long = "output", value_enum, default_value_t = Format::Table)]
    pub format: Format,
}

impl OutputOptions {
    /// Whether programs read the answer.
    pub fn json(self) -> bool {
        self.format == Format::Json
    }

    /// Writes the answer: the object with its schema, or the text that `text` makes.
    pub fn emit(self, object: Value, text: impl FnOnce() -> String) -> Result<(), Failure> {
        if self.json() {
            print_line(&with_schema(object).to_string())
        } else {
            print_line(text().trim_end())
        }
    }
}

/// Puts `schema` first into an object.
pub fn with_schema(object: Value) -> Value {
    let mut all = Map::new();
    all.insert("schema".into(), SCHEMA.into());
    match object {
        Value::Object(fields) => all.extend(fields),
        other => {
            all.insert("data".into(), other);
        }
    }
    Value::Object(all)
}

/// A line of data on stdout.
pub fn print_line(line: &str) -> Result<(), Failure> {
    print_bytes(line.as_bytes())?;
    print_bytes(b"\n")
}

/// Bytes on stdout.
pub fn print_bytes(bytes: &[u8]) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Ok(()) => Ok(()),
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => std::process::exit(0),
        Err(e) => Err(Failure::failed(format!("writing to stdout failed: {e}"))),
    }
}

/// A line of progress on stderr; a closed stderr is nobody's loss.
pub fn note(line: impl std::fmt::Display) {
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}

/// A table without frames: a heading and rows, columns as wide as their widest cell.
pub fn table(heading: &[&str], rows: Vec<Vec<String>>) -> String {
    let mut lines = vec![heading.iter().map(|h| (*h).to_owned()).collect::<Vec<_>>()];
    lines.extend(rows);
    let width = |column: usize| {
        lines
            .iter()
            .filter_map(|l| l.get(column))
            .map(|c| c.chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..heading.len()).map(width).collect();
    let show = |line: &Vec<String>| {
        let cells = line
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    lines
        .iter()
        .map(show)
        .filter(|l| !l.is_empty())
        .collect::<Vec<_>>()
        .join("\n")
}

/// Colours of the verdict.
#[derive(Clone, Copy)]
pub enum Colour {
    /// Good.
    Green,
    /// Look at it.
    Yellow,
    /// Wrong.
    Red,
}

/// `text` in `colour` when stdout is a terminal that wants it.
pub fn paint(colour: Colour, text: &str) -> String {
    let wanted = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
    if !wanted {
        return text.to_owned();
    }
    let code = match colour {
        Colour::Green => 32,
        Colour::Yellow => 33,
        Colour::Red => 31,
    };
    format!("\x1b[{code}m{text}\x1b[0m")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let text = table(
            &["id", "name"],
            vec![vec!["10".into(), "a".into()], vec!["7".into(), "bc".into()]],
        );
        assert_eq!(text, "id  name\n10  a\n7   bc");
    }

    #[test]
    fn the_schema_comes_first() {
        assert_eq!(with_schema(serde_json::json!({"a": 1}))["schema"], 1);
    }
}
