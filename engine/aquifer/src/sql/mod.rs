//! `aquifer sql`: statements from `-c` or stdin over the PostgreSQL protocol, results as a table or JSON.

use crate::admin::Locator;
use crate::failure::{Exit, Failure, Outcome};
use crate::load::describe;
use crate::output::{OutputOptions, note, print_bytes, print_line, table, with_schema};
use serde_json::{Value, json};
use std::io::{BufRead, IsTerminal};
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

/// Options of `sql`.
#[derive(Clone, Debug, clap::Args)]
pub struct SqlOptions {
    /// Statements to run; stdin is read when this is missing.
    #[arg(short = 'c', long = "command", value_name = "TEXT")]
    command: Option<String>,
    /// Through which node.
    #[arg(long, env = "AQUIFER_NODE", value_name = "N")]
    node: Option<u8>,
    /// SQL address of a node, instead of finding it through --admin or --device.
    #[arg(long, value_name = "HOST:PORT")]
    address: Option<String>,
    #[command(flatten)]
    locator: Locator,
    #[command(flatten)]
    output: OutputOptions,
}

/// One statement's result.
struct Answer {
    columns: Vec<String>,
    rows: Vec<Vec<Option<String>>>,
    /// Rows that a changing statement touched.
    count: u64,
}

/// Runs it.
pub async fn run(options: SqlOptions) -> Outcome {
    let address = match &options.address {
        Some(address) => address.clone(),
        None => {
            let mut admin = options.locator.connect(options.node).await?;
            let status = admin.status().await?;
            let own = status.nodes.iter().find(|n| n.id == status.node);
            own.map(|n| n.sql.clone())
                .filter(|address| !address.is_empty())
                .ok_or_else(|| Failure::unavailable("the node does not say where it serves SQL"))?
        }
    };
    let client = open(&address).await?;
    if let Some(command) = &options.command {
        execute(&client, command, options.output).await?;
        return Ok(Exit::Done);
    }
    let interactive = std::io::stdin().is_terminal();
    let mut statement = String::new();
    loop {
        if interactive {
            print_bytes(if statement.is_empty() {
                b"aquifer=> "
            } else {
                b"aquifer-> "
            })?;
        }
        let mut line = String::new();
        let length = std::io::stdin()
            .lock()
            .read_line(&mut line)
            .map_err(|e| Failure::failed(format!("reading stdin failed: {e}")))?;
        if length == 0 || matches!(line.trim(), "\\q" | "exit" | "quit") {
            break;
        }
        statement.push_str(&line);
        if !statement.trim_end().ends_with(';') {
            continue;
        }
        let complete = std::mem::take(&mut statement);
        match execute(&client, &complete, options.output).await {
            // Someone at a terminal goes on after a mistake; a script stops.
            Err(failure) if interactive && !client.is_closed() => note(format!("aquifer: {failure}")),
            other => other?,
        }
    }
    if !statement.trim().is_empty() {
        execute(&client, &statement, options.output).await?;
    }
    Ok(Exit::Done)
}

async fn open(address: &str) -> Result<Client, Failure> {
    let (host, port) = address
        .rsplit_once(':')
        .and_then(|(host, port)| Some((host, port.parse::<u16>().ok()?)))
        .ok_or_else(|| Failure::usage(format!("`{address}` is not HOST:PORT")))?;
    let mut config = tokio_postgres::Config::new();
    config
        .host(host)
        .port(port)
        .user("aquifer")
        .dbname("aquifer")
        .application_name("aquifer sql");
    let (client, connection) = config
        .connect(NoTls)
        .await
        .map_err(|e| Failure::unavailable(format!("cannot connect to {address}: {}", describe(&e))))?;
    tokio::spawn(async move {
        // The client sees the same error at its next request.
        let _ = connection.await;
    });
    Ok(client)
}

async fn execute(client: &Client, text: &str, output: OutputOptions) -> Result<(), Failure> {
    let messages = client.simple_query(text).await.map_err(|e| {
        let exit = if e.as_db_error().is_some() {
            Exit::Failed
        } else {
            Exit::Unknown
        };
        Failure::new(exit, describe(&e))
    })?;
    let answers = answers(messages);
    if output.json() {
        let results: Vec<Value> = answers.iter().map(object).collect();
        return print_line(&with_schema(json!({ "results": results })).to_string());
    }
    for answer in answers {
        print_line(&show(answer))?;
    }
    Ok(())
}

fn answers(messages: Vec<SimpleQueryMessage>) -> Vec<Answer> {
    let mut all = Vec::new();
    let (mut columns, mut rows) = (Vec::new(), Vec::new());
    for message in messages {
        match message {
            SimpleQueryMessage::RowDescription(description) => {
                columns = description.iter().map(|c| c.name().to_owned()).collect();
            }
            SimpleQueryMessage::Row(row) => {
                rows.push((0..row.len()).map(|i| row.get(i).map(str::to_owned)).collect())
            }
            SimpleQueryMessage::CommandComplete(count) => {
                all.push(Answer {
                    columns: std::mem::take(&mut columns),
                    rows: std::mem::take(&mut rows),
                    count,
                });
            }
            _ => {}
        }
    }
    all
}

fn object(answer: &Answer) -> Value {
    json!({ "columns": answer.columns, "rows": answer.rows, "count": answer.count })
}

fn show(answer: Answer) -> String {
    if answer.columns.is_empty() {
        return format!("ok, {} rows", answer.count);
    }
    let heading: Vec<&str> = answer.columns.iter().map(String::as_str).collect();
    let count = answer.rows.len();
    let rows = answer.rows.into_iter().map(|row| {
        row.into_iter()
            .map(|v| v.unwrap_or_else(|| "NULL".into()))
            .collect()
    });
    format!("{}\n({count} rows)", table(&heading, rows.collect()))
}
