//! The loop of one connection.

use super::client::{Connection, broken};
use crate::error::SqlError;
use crate::session::{Prepared, REPORTED, Server, Session, Status};
use crate::store::Store;
use crate::types::{DataType, Value, decode_binary, parse_text};
use pgwire::messages::data::{NoData, ParameterDescription};
use pgwire::messages::extendedquery::{
    Bind, BindComplete, CloseComplete, Parse, ParseComplete, PortalSuspended,
};
use pgwire::messages::response::{CommandComplete, GssEncResponse, SslResponse};
use pgwire::messages::startup::{Authentication, BackendKeyData, ParameterStatus, SecretKey};
use pgwire::messages::{PgWireFrontendMessage as Frontend, SslNegotiationMetaMessage as Negotiation};
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::Arc;
use tokio::net::TcpStream;

/// A bound statement.
struct Portal {
    prepared: Arc<Prepared>,
    parameters: Vec<Value>,
    formats: Vec<i16>,
    /// Rows that a limited Execute left, with the final tag.
    rest: Option<(VecDeque<Vec<Value>>, String)>,
}

struct Loop<S: Store> {
    connection: Connection,
    session: Session<S>,
    statements: BTreeMap<String, Arc<Prepared>>,
    portals: BTreeMap<String, Portal>,
    /// After an error everything up to Sync is skipped.
    skipping: bool,
}

/// Serves one client until it leaves; what is left open is rolled back.
pub(super) async fn run<S: Store>(socket: TcpStream, server: Arc<Server<S>>, number: u32) -> io::Result<()> {
    let mut this = Loop {
        connection: Connection::new(socket),
        session: Session::new(server),
        statements: BTreeMap::new(),
        portals: BTreeMap::new(),
        skipping: false,
    };
    let outcome = match this.start(number).await {
        Ok(true) => this.serve().await,
        Ok(false) => Ok(()),
        Err(error) => Err(error),
    };
    if let Err(error) = this.session.rollback().await {
        tracing::debug!(%error, "rolling back at the end of a session");
    }
    outcome
}

impl<S: Store> Loop<S> {
    /// Start-up; false when there is no session to serve.
    async fn start(&mut self, number: u32) -> io::Result<bool> {
        loop {
            match self.connection.next().await? {
                None | Some(Frontend::CancelRequest(_)) => return Ok(false),
                Some(Frontend::SslNegotiation(Negotiation::PostgresSsl(_))) => {
                    self.connection.send_byte(SslResponse::BYTE_REFUSE);
                    self.connection.flush().await?;
                }
                Some(Frontend::SslNegotiation(Negotiation::PostgresGss(_))) => {
                    self.connection.send_byte(GssEncResponse::BYTE_REFUSE);
                    self.connection.flush().await?;
                }
                Some(Frontend::SslNegotiation(Negotiation::None)) => {
                    self.connection.context.awaiting_frontend_ssl = false;
                }
                Some(Frontend::Startup(startup)) => {
                    self.connection.context.awaiting_frontend_startup = false;
                    self.connection.context.protocol_version = pgwire::messages::ProtocolVersion::PROTOCOL3_0;
                    for (name, value) in &startup.parameters {
                        self.session.start_setting(name, value);
                    }
                    return self
                        .welcome(number, startup.protocol_number_minor)
                        .await
                        .map(|()| true);
                }
                Some(_) => return Err(io::Error::other("unexpected message at start-up")),
            }
        }
    }

    async fn welcome(&mut self, number: u32, minor: u16) -> io::Result<()> {
        if minor > 0 {
            let answer = pgwire::messages::startup::NegotiateProtocolVersion::new(0, Vec::new());
            self.connection.send(&answer);
        }
        self.connection.send(&Authentication::Ok);
        for name in REPORTED {
            let value = self.session.setting(name).to_owned();
            self.connection
                .send(&ParameterStatus::new((*name).to_owned(), value));
        }
        self.connection
            .send(&BackendKeyData::new(number as i32, SecretKey::I32(0)));
        self.connection.ready(Status::Idle);
        self.connection.flush().await
    }

    async fn serve(&mut self) -> io::Result<()> {
        while let Some(message) = self.connection.next().await? {
            match message {
                Frontend::Terminate(_) => break,
                Frontend::Query(query) => {
                    self.skipping = false;
                    self.portals.clear();
                    self.connection.formats.clear();
                    if let Err(error) = self.session.simple(&query.query, &mut self.connection).await {
                        self.connection.error(&error);
                    }
                    self.connection.ready(self.session.status());
                    self.connection.flush().await?;
                }
                Frontend::Sync(_) => {
                    if !self.skipping
                        && let Err(error) = self.session.finish_implicit().await
                    {
                        self.connection.error(&error);
                    }
                    self.skipping = false;
                    if self.session.status() == Status::Idle {
                        self.portals.clear();
                    }
                    self.connection.ready(self.session.status());
                    self.connection.flush().await?;
                }
                Frontend::Flush(_) => self.connection.flush().await?,
                // What is left of a COPY that failed.
                Frontend::CopyData(_) | Frontend::CopyDone(_) | Frontend::CopyFail(_) => {}
                _ if self.skipping => {}
                other => {
                    if let Err(error) = self.extended(other).await {
                        self.session.fail().await;
                        self.connection.error(&error);
                        self.skipping = true;
                    }
                }
            }
        }
        Ok(())
    }

    async fn extended(&mut self, message: Frontend) -> Result<(), SqlError> {
        match message {
            Frontend::Parse(parse) => self.parse(parse).await?,
            Frontend::Bind(bind) => self.bind(bind)?,
            Frontend::Describe(describe) => {
                let name = describe.name.unwrap_or_default();
                if describe.target_type == b'S' {
                    let prepared = self.statement(&name)?;
                    let types = prepared
                        .parameters()
                        .iter()
                        .map(|data_type| data_type.oid())
                        .collect();
                    self.connection.send(&ParameterDescription::new(types));
                    self.describe(&prepared, &[]);
                } else {
                    let portal = self.portals.get(&name).ok_or_else(|| no_portal(&name))?;
                    let (prepared, formats) = (portal.prepared.clone(), portal.formats.clone());
                    self.describe(&prepared, &formats);
                }
            }
            Frontend::Execute(execute) => {
                self.execute(execute.name.unwrap_or_default(), execute.max_rows)
                    .await?;
            }
            Frontend::Close(close) => {
                let name = close.name.unwrap_or_default();
                if close.target_type == b'S' {
                    self.statements.remove(&name);
                } else {
                    self.portals.remove(&name);
                }
                self.connection.send(&CloseComplete::new());
            }
            other => return Err(SqlError::new("08P01", format!("unexpected message {other:?}"))),
        }
        Ok(())
    }

    fn statement(&self, name: &str) -> Result<Arc<Prepared>, SqlError> {
        self.statements
            .get(name)
            .cloned()
            .ok_or_else(|| SqlError::new("26000", format!("prepared statement \"{name}\" does not exist")))
    }

    fn describe(&mut self, prepared: &Prepared, formats: &[i16]) {
        match prepared.columns() {
            Some(columns) => self.connection.describe_with(&columns, formats),
            None => self.connection.send(&NoData::new()),
        }
    }

    async fn parse(&mut self, parse: Parse) -> Result<(), SqlError> {
        let name = parse.name.unwrap_or_default();
        if !name.is_empty() && self.statements.contains_key(&name) {
            return Err(SqlError::new(
                "42P05",
                format!("prepared statement \"{name}\" already exists"),
            ));
        }
        let given = parse
            .type_oids
            .iter()
            .map(|oid| {
                DataType::from_oid(*oid)
                    .ok_or_else(|| SqlError::unsupported(format!("the type with object id {oid}")))
            })
            .collect::<Result<_, _>>()?;
        let prepared = self.session.prepare(&parse.query, given).await?;
        self.statements.insert(name, prepared);
        self.connection.send(&ParseComplete::new());
        Ok(())
    }

    fn bind(&mut self, bind: Bind) -> Result<(), SqlError> {
        let prepared = self.statement(&bind.statement_name.unwrap_or_default())?;
        let types = prepared.parameters();
        if bind.parameters.len() != types.len() {
            let message = format!(
                "bind message supplies {} parameters, but prepared statement requires {}",
                bind.parameters.len(),
                types.len()
            );
            return Err(SqlError::new("08P01", message));
        }
        let mut parameters = Vec::with_capacity(types.len());
        for (index, (bytes, data_type)) in bind.parameters.iter().zip(types).enumerate() {
            let binary = match bind.parameter_format_codes.as_slice() {
                [] => false,
                [all] => *all == 1,
                each => each.get(index) == Some(&1),
            };
            parameters.push(match bytes {
                None => Value::Null,
                Some(bytes) if binary => decode_binary(data_type, bytes)?,
                Some(bytes) => {
                    let text = std::str::from_utf8(bytes)
                        .map_err(|_| SqlError::new("22021", "invalid byte sequence for encoding \"UTF8\""))?;
                    parse_text(data_type, text)?
                }
            });
        }
        let formats = bind.result_column_format_codes;
        let portal = Portal {
            prepared,
            parameters,
            formats,
            rest: None,
        };
        self.portals.insert(bind.portal_name.unwrap_or_default(), portal);
        self.connection.send(&BindComplete::new());
        Ok(())
    }

    async fn execute(&mut self, name: String, max_rows: i32) -> Result<(), SqlError> {
        let portal = self.portals.get_mut(&name).ok_or_else(|| no_portal(&name))?;
        self.connection.formats.clone_from(&portal.formats);
        if max_rows <= 0 && portal.rest.is_none() {
            let prepared = portal.prepared.clone();
            return self
                .session
                .run(&prepared, &portal.parameters, false, &mut self.connection)
                .await;
        }
        if portal.rest.is_none() {
            let mut kept = Kept::default();
            let prepared = portal.prepared.clone();
            self.session
                .run(&prepared, &portal.parameters, false, &mut kept)
                .await?;
            portal.rest = Some((kept.rows, kept.tag));
        }
        let Some((rows, tag)) = &mut portal.rest else {
            return Ok(());
        };
        let count = if max_rows <= 0 {
            rows.len()
        } else {
            rows.len().min(max_rows as usize)
        };
        for row in rows.drain(..count) {
            crate::exec::Sink::row(&mut self.connection, &row)?;
        }
        if rows.is_empty() {
            self.connection.send(&CommandComplete::new(tag.clone()));
        } else {
            self.connection.send(&PortalSuspended::new());
        }
        crate::exec::Sink::drain(&mut self.connection)
            .await
            .map_err(broken)
    }
}

fn no_portal(name: &str) -> SqlError {
    SqlError::new("34000", format!("portal \"{name}\" does not exist"))
}

/// Keeps the rows of a portal that is read in pieces.
#[derive(Default)]
struct Kept {
    rows: VecDeque<Vec<Value>>,
    tag: String,
}

impl crate::exec::Sink for Kept {
    fn row(&mut self, values: &[Value]) -> Result<(), SqlError> {
        self.rows.push_back(values.to_vec());
        Ok(())
    }

    async fn drain(&mut self) -> Result<(), SqlError> {
        Ok(())
    }
}

impl crate::session::Client for Kept {
    fn describe(&mut self, _columns: &[crate::session::ColumnInfo]) {}

    fn complete(&mut self, tag: &str) {
        tag.clone_into(&mut self.tag);
    }

    fn empty(&mut self) {}

    fn warning(&mut self, _sqlstate: &str, _message: &str) {}

    fn copy_in_begin(&mut self, _columns: usize) {}

    async fn copy_in(&mut self) -> Result<Option<bytes::Bytes>, SqlError> {
        Err(SqlError::unsupported("COPY through a limited portal"))
    }

    fn copy_out_begin(&mut self, _columns: usize) {}

    fn copy_out(&mut self, _line: &[u8]) {}

    fn copy_out_end(&mut self) {}
}
