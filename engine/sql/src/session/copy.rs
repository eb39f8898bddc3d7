//! COPY table FROM STDIN and COPY table | (query) TO STDOUT, text and csv.

use super::{Client, Session};
use crate::error::SqlError;
use crate::exec::{InsertRun, Run, Sink};
use crate::expr::{Expr, fold_ident, object_name};
use crate::plan::{Plan, Planner};
use crate::store::Store;
use crate::system::ViewContext;
use crate::types::{Value, encode_text, parse_text};
use sqlparser::ast;
use std::collections::BTreeMap;

/// How lines are written.
#[derive(Debug, Clone)]
struct Format {
    csv: bool,
    delimiter: u8,
    null: String,
    quote: u8,
    header: bool,
}

impl Format {
    fn new(options: &[ast::CopyOption], legacy: &[ast::CopyLegacyOption]) -> Result<Self, SqlError> {
        let mut csv = false;
        for option in options {
            if let ast::CopyOption::Format(name) = option {
                csv = match name.value.to_lowercase().as_str() {
                    "text" => false,
                    "csv" => true,
                    other => return Err(SqlError::unsupported(format!("COPY format {other}"))),
                };
            }
        }
        csv |= legacy
            .iter()
            .any(|option| matches!(option, ast::CopyLegacyOption::Csv(_)));
        let (delimiter, null) = if csv { (b',', "") } else { (b'\t', "\\N") };
        let mut format = Self {
            csv,
            delimiter,
            null: null.to_owned(),
            quote: b'"',
            header: false,
        };
        for option in options {
            match option {
                ast::CopyOption::Format(_) | ast::CopyOption::Freeze(_) => {}
                ast::CopyOption::Delimiter(delimiter) => format.delimiter = *delimiter as u8,
                ast::CopyOption::Null(null) => format.null = null.clone(),
                ast::CopyOption::Header(header) => format.header = *header,
                ast::CopyOption::Quote(quote) => format.quote = *quote as u8,
                ast::CopyOption::Encoding(name) if name.to_lowercase().starts_with("utf") => {}
                other => return Err(SqlError::unsupported(format!("COPY option {other}"))),
            }
        }
        for option in legacy {
            match option {
                ast::CopyLegacyOption::Csv(options) => {
                    format.header |= options
                        .iter()
                        .any(|option| matches!(option, ast::CopyLegacyCsvOption::Header));
                }
                ast::CopyLegacyOption::Delimiter(delimiter) => format.delimiter = *delimiter as u8,
                ast::CopyLegacyOption::Null(null) => format.null = null.clone(),
                other => return Err(SqlError::unsupported(format!("COPY option {other}"))),
            }
        }
        Ok(format)
    }

    /// Length of the first whole line with its end, `None` when there is none yet.
    fn line_end(&self, data: &[u8]) -> Option<usize> {
        if !self.csv {
            return data.iter().position(|byte| *byte == b'\n').map(|at| at + 1);
        }
        let mut quoted = false;
        for (at, byte) in data.iter().enumerate() {
            if *byte == self.quote {
                quoted = !quoted;
            } else if *byte == b'\n' && !quoted {
                return Some(at + 1);
            }
        }
        None
    }

    fn fields(&self, line: &str) -> Result<Vec<Option<String>>, SqlError> {
        if self.csv {
            self.csv_fields(line)
        } else {
            Ok(self.text_fields(line))
        }
    }

    fn text_fields(&self, line: &str) -> Vec<Option<String>> {
        let field = |raw: &str| {
            if raw == self.null {
                return None;
            }
            if !raw.contains('\\') {
                return Some(raw.to_owned());
            }
            let mut text = String::with_capacity(raw.len());
            let mut rest = raw.chars();
            while let Some(character) = rest.next() {
                text.push(match character {
                    '\\' => match rest.next() {
                        Some('n') => '\n',
                        Some('t') => '\t',
                        Some('r') => '\r',
                        Some('b') => '\u{8}',
                        Some('f') => '\u{c}',
                        Some('v') => '\u{b}',
                        Some(other) => other,
                        None => '\\',
                    },
                    other => other,
                });
            }
            Some(text)
        };
        // A delimiter after a backslash belongs to the field.
        let bytes = line.as_bytes();
        let (mut fields, mut start, mut at) = (Vec::new(), 0, 0);
        while at < bytes.len() {
            if bytes[at] == b'\\' {
                at += 1;
            } else if bytes[at] == self.delimiter {
                fields.push(field(&line[start..at]));
                start = at + 1;
            }
            at += 1;
        }
        fields.push(field(&line[start..]));
        fields
    }

    fn csv_fields(&self, line: &str) -> Result<Vec<Option<String>>, SqlError> {
        let (quote, delimiter) = (char::from(self.quote), char::from(self.delimiter));
        let mut fields = Vec::new();
        let mut characters = line.chars().peekable();
        loop {
            let (mut text, mut was_quoted, mut quoted) = (String::new(), false, false);
            let ended = loop {
                match characters.next() {
                    None if quoted => return Err(SqlError::new("22P04", "unterminated CSV quoted field")),
                    None => break true,
                    Some(character) if character == quote && quoted && characters.peek() == Some(&quote) => {
                        characters.next();
                        text.push(quote);
                    }
                    Some(character) if character == quote => {
                        quoted = !quoted;
                        was_quoted = true;
                    }
                    Some(character) if character == delimiter && !quoted => break false,
                    Some(character) => text.push(character),
                }
            };
            fields.push(if !was_quoted && text == self.null {
                None
            } else {
                Some(text)
            });
            if ended {
                return Ok(fields);
            }
        }
    }

    fn write(&self, values: &[Value], line: &mut String) {
        line.clear();
        let mut text = String::new();
        for (index, value) in values.iter().enumerate() {
            if index > 0 {
                line.push(char::from(self.delimiter));
            }
            if value.is_null() {
                line.push_str(&self.null);
                continue;
            }
            text.clear();
            encode_text(value, &mut text);
            if self.csv {
                self.write_csv(&text, line);
            } else {
                self.write_text(&text, line);
            }
        }
        line.push('\n');
    }

    fn write_text(&self, text: &str, line: &mut String) {
        for character in text.chars() {
            match character {
                '\\' => line.push_str("\\\\"),
                '\n' => line.push_str("\\n"),
                '\r' => line.push_str("\\r"),
                '\t' => line.push_str("\\t"),
                other if other == char::from(self.delimiter) => {
                    line.push('\\');
                    line.push(other);
                }
                other => line.push(other),
            }
        }
    }

    fn write_csv(&self, text: &str, line: &mut String) {
        let quote = char::from(self.quote);
        let special = |character| {
            matches!(character, '\n' | '\r') || character == quote || character == char::from(self.delimiter)
        };
        if text != self.null && !text.contains(special) {
            return line.push_str(text);
        }
        line.push(quote);
        for character in text.chars() {
            if character == quote {
                line.push(quote);
            }
            line.push(character);
        }
        line.push(quote);
    }
}

/// Turns result rows into lines for the client.
struct Lines<'a, C: Client> {
    client: &'a mut C,
    format: Format,
    line: String,
}

impl<C: Client> Sink for Lines<'_, C> {
    fn row(&mut self, values: &[Value]) -> Result<(), SqlError> {
        self.format.write(values, &mut self.line);
        self.client.copy_out(self.line.as_bytes());
        Ok(())
    }

    async fn drain(&mut self) -> Result<(), SqlError> {
        self.client.drain().await
    }
}

impl<S: Store> Session<S> {
    pub(super) async fn copy<C: Client>(
        &mut self,
        statement: &ast::Statement,
        client: &mut C,
    ) -> Result<(), SqlError> {
        let ast::Statement::Copy {
            source,
            to,
            target,
            options,
            legacy_options,
            ..
        } = statement
        else {
            return Err(SqlError::internal("not a COPY"));
        };
        let format = Format::new(options, legacy_options)?;
        self.begin_statement().await?;
        match (to, target, source) {
            (false, ast::CopyTarget::Stdin, ast::CopySource::Table { table_name, columns }) => {
                self.copy_from(&object_name(table_name)?, columns, format, client)
                    .await
            }
            (true, ast::CopyTarget::Stdout, source) => self.copy_to(source, format, client).await,
            _ => Err(SqlError::unsupported("COPY with a file or program on the server")),
        }
    }

    async fn copy_to<C: Client>(
        &mut self,
        source: &ast::CopySource,
        format: Format,
        client: &mut C,
    ) -> Result<(), SqlError> {
        let text = match source {
            ast::CopySource::Query(query) => query.to_string(),
            ast::CopySource::Table { table_name, columns } if columns.is_empty() => {
                format!("SELECT * FROM {table_name}")
            }
            ast::CopySource::Table { table_name, columns } => {
                let names: Vec<_> = columns.iter().map(ToString::to_string).collect();
                format!("SELECT {} FROM {table_name}", names.join(", "))
            }
        };
        let prepared = self.prepare(&text, Vec::new()).await?;
        let Some(crate::parse::Parsed::Ast(statement)) = &prepared.parsed else {
            return Err(SqlError::internal("a query that is none"));
        };
        let planned = self.planned(&prepared, statement, prepared.writes).await?;
        let Plan::Select(_) = &planned.plan else {
            return Err(SqlError::unsupported("COPY of a statement that writes"));
        };
        let columns = planned.plan.columns().unwrap_or_default();
        client.copy_out_begin(columns.len());
        if format.header {
            let names: Vec<_> = columns
                .iter()
                .map(|column| Value::Text(column.name.clone()))
                .collect();
            let mut line = String::new();
            format.write(&names, &mut line);
            client.copy_out(line.as_bytes());
        }
        let mut lines = Lines {
            client,
            format,
            line: String::new(),
        };
        let count = self.run_plan(&planned.plan, &[], &mut lines).await?;
        client.copy_out_end();
        client.complete(&format!("COPY {count}"));
        Ok(())
    }

    async fn copy_from<C: Client>(
        &mut self,
        name: &str,
        columns: &[ast::Ident],
        format: Format,
        client: &mut C,
    ) -> Result<(), SqlError> {
        let table = self
            .written_table(name)
            .await?
            .ok_or_else(|| SqlError::undefined_table(name))?;
        let targets: Vec<usize> = if columns.is_empty() {
            (0..table.columns.len()).collect()
        } else {
            columns
                .iter()
                .map(|column| table.column(&fold_ident(column)))
                .collect::<Result<_, _>>()?
        };
        let tables = BTreeMap::new();
        let mut planner = Planner {
            tables: &tables,
            views: &self.server.views,
            parameters: Vec::new(),
        };
        let defaults: Vec<Option<Expr>> = planner.defaults(&table)?;
        client.copy_in_begin(targets.len());
        client.drain().await?;
        let insert = InsertRun {
            table: &table,
            targets: &targets,
            defaults: &defaults,
        };
        let open = self.open.as_mut().ok_or_else(super::aborted)?;
        let mut run = Run {
            store: &self.server.store,
            transaction: open.transaction.as_mut().ok_or_else(super::aborted)?,
            counters: &self.server.counters,
            parameters: &[],
            now: open.now,
            views: ViewContext::default(),
        };
        let mut lines = LineReader {
            format,
            pending: Vec::new(),
            number: 0,
            ended: false,
        };
        let mut count = 0u64;
        while let Some(data) = client.copy_in().await? {
            lines.pending.extend_from_slice(&data);
            count += lines.insert(&insert, &mut run, false).await?;
        }
        count += lines.insert(&insert, &mut run, true).await?;
        client.complete(&format!("COPY {count}"));
        Ok(())
    }
}

/// Cuts data into lines and inserts them.
struct LineReader {
    format: Format,
    pending: Vec<u8>,
    number: u64,
    ended: bool,
}

impl LineReader {
    async fn insert<S: Store>(
        &mut self,
        insert: &InsertRun<'_>,
        run: &mut Run<'_, S>,
        last: bool,
    ) -> Result<u64, SqlError> {
        let mut start = 0;
        let mut count = 0;
        while start < self.pending.len() {
            let end = match self.format.line_end(&self.pending[start..]) {
                Some(length) => start + length,
                None if last => self.pending.len(),
                None => break,
            };
            let line = std::str::from_utf8(&self.pending[start..end])
                .map_err(|_| SqlError::new("22021", "invalid byte sequence for encoding \"UTF8\""))?;
            let line = line.strip_suffix('\n').unwrap_or(line);
            let line = line.strip_suffix('\r').unwrap_or(line);
            start = end;
            self.number += 1;
            self.ended |= line == "\\.";
            if self.ended || (self.format.header && self.number == 1) {
                continue;
            }
            let row = self.row(line, insert)?;
            let row = insert.complete(run, row).await?;
            insert.put(run, &row).await?;
            count += 1;
        }
        self.pending.drain(..start);
        Ok(count)
    }

    fn row(&self, line: &str, insert: &InsertRun<'_>) -> Result<Vec<Option<Value>>, SqlError> {
        let fields = self.format.fields(line)?;
        let (found, wanted) = (fields.len(), insert.targets.len());
        if found != wanted {
            let which = if found < wanted {
                "missing data for a column"
            } else {
                "extra data after last expected column"
            };
            return Err(SqlError::new(
                "22P04",
                format!("{which} (COPY line {})", self.number),
            ));
        }
        let mut row = Vec::with_capacity(fields.len());
        for (field, &target) in fields.into_iter().zip(insert.targets) {
            row.push(Some(match field {
                None => Value::Null,
                Some(text) => {
                    parse_text(insert.table.columns[target].data_type, &text).map_err(|mut error| {
                        error.detail = Some(format!("COPY {}, line {}", insert.table.name, self.number));
                        error
                    })?
                }
            }));
        }
        Ok(row)
    }
}
