//! The client's end of a connection: buffers in both directions and the encoding of answers.

use crate::error::SqlError;
use crate::exec::Sink;
use crate::session::{Client, ColumnInfo, Status};
use crate::types::{Value, encode_binary, encode_text};
use bytes::{BufMut, Bytes, BytesMut};
use pgwire::messages::copy::{CopyInResponse, CopyOutResponse};
use pgwire::messages::data::{FieldDescription, RowDescription};
use pgwire::messages::response::{
    CommandComplete, ErrorResponse, NoticeResponse, ReadyForQuery, TransactionStatus,
};
use pgwire::messages::{DecodeContext, Message, PgWireFrontendMessage};
use std::io;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Above this the buffer is written before more rows are made.
const LARGE: usize = 64 << 10;

/// A connection.
pub(super) struct Connection {
    socket: TcpStream,
    input: BytesMut,
    output: BytesMut,
    pub(super) context: DecodeContext,
    /// Formats of result columns: none is all text, one is for all.
    pub(super) formats: Vec<i16>,
    scratch: String,
    /// A message that came in the place of COPY data.
    pub(super) stray: Option<PgWireFrontendMessage>,
}

pub(super) fn broken(error: impl std::fmt::Display) -> SqlError {
    SqlError::new("08006", format!("connection lost: {error}"))
}

impl Connection {
    pub(super) fn new(socket: TcpStream) -> Self {
        Self {
            socket,
            input: BytesMut::with_capacity(8 << 10),
            output: BytesMut::with_capacity(8 << 10),
            context: DecodeContext::default(),
            formats: Vec::new(),
            scratch: String::new(),
            stray: None,
        }
    }

    /// The next message; `None` when the client is gone.
    pub(super) async fn next(&mut self) -> io::Result<Option<PgWireFrontendMessage>> {
        if let Some(message) = self.stray.take() {
            return Ok(Some(message));
        }
        loop {
            let decoded = PgWireFrontendMessage::decode(&mut self.input, &self.context);
            match decoded.map_err(io::Error::other)? {
                Some(message) => return Ok(Some(message)),
                None if self.socket.read_buf(&mut self.input).await? == 0 => return Ok(None),
                None => {}
            }
        }
    }

    pub(super) async fn flush(&mut self) -> io::Result<()> {
        if !self.output.is_empty() {
            self.socket.write_all(&self.output).await?;
            self.output.clear();
        }
        Ok(())
    }

    pub(super) fn send(&mut self, message: &impl Message) {
        if let Err(error) = message.encode(&mut self.output) {
            tracing::error!(%error, "an answer could not be encoded");
        }
    }

    pub(super) fn send_byte(&mut self, byte: u8) {
        self.output.put_u8(byte);
    }

    pub(super) fn ready(&mut self, status: Status) {
        self.send(&ReadyForQuery::new(match status {
            Status::Idle => TransactionStatus::Idle,
            Status::InBlock => TransactionStatus::Transaction,
            Status::Failed => TransactionStatus::Error,
        }));
    }

    pub(super) fn error(&mut self, error: &SqlError) {
        self.send(&ErrorResponse::new(fields("ERROR", error)));
    }

    pub(super) fn describe_with(&mut self, columns: &[ColumnInfo], formats: &[i16]) {
        let field = |(index, column): (usize, &ColumnInfo)| {
            FieldDescription::new(
                column.name.clone(),
                0,
                0,
                column.data_type.oid(),
                column.data_type.size(),
                column.data_type.modifier(),
                format_of(formats, index),
            )
        };
        self.send(&RowDescription::new(
            columns.iter().enumerate().map(field).collect(),
        ));
    }
}

fn format_of(formats: &[i16], index: usize) -> i16 {
    match formats {
        [] => 0,
        [all] => *all,
        each => each.get(index).copied().unwrap_or(0),
    }
}

fn fields(severity: &str, error: &SqlError) -> Vec<(u8, String)> {
    let mut fields = vec![
        (b'S', severity.to_owned()),
        (b'V', severity.to_owned()),
        (b'C', error.sqlstate.to_owned()),
        (b'M', error.message.clone()),
    ];
    let optional = [
        (b'D', &error.detail),
        (b't', &error.table),
        (b'n', &error.constraint),
    ];
    fields.extend(
        optional
            .into_iter()
            .filter_map(|(code, text)| Some((code, text.clone()?))),
    );
    if error.constraint.is_some() {
        fields.push((b's', "public".into()));
    }
    fields
}

impl Sink for Connection {
    fn row(&mut self, values: &[Value]) -> Result<(), SqlError> {
        let out = &mut self.output;
        out.put_u8(b'D');
        let start = out.len();
        out.put_u32(0);
        out.put_u16(values.len() as u16);
        for (index, value) in values.iter().enumerate() {
            if value.is_null() {
                out.put_i32(-1);
                continue;
            }
            let at = out.len();
            out.put_u32(0);
            if format_of(&self.formats, index) == 1 {
                encode_binary(value, out);
            } else if let Value::Text(text) = value {
                out.put_slice(text.as_bytes());
            } else {
                self.scratch.clear();
                encode_text(value, &mut self.scratch);
                out.put_slice(self.scratch.as_bytes());
            }
            let length = (out.len() - at - 4) as u32;
            out[at..at + 4].copy_from_slice(&length.to_be_bytes());
        }
        let length = (out.len() - start) as u32;
        out[start..start + 4].copy_from_slice(&length.to_be_bytes());
        Ok(())
    }

    async fn drain(&mut self) -> Result<(), SqlError> {
        if self.output.len() >= LARGE {
            self.flush().await.map_err(broken)
        } else {
            Ok(())
        }
    }
}

impl Client for Connection {
    fn describe(&mut self, columns: &[ColumnInfo]) {
        self.describe_with(columns, &[]);
    }

    fn complete(&mut self, tag: &str) {
        self.send(&CommandComplete::new(tag.to_owned()));
    }

    fn empty(&mut self) {
        self.send(&pgwire::messages::response::EmptyQueryResponse::new());
    }

    fn warning(&mut self, sqlstate: &str, message: &str) {
        let severity = if sqlstate == "00000" || sqlstate == "42P07" {
            "NOTICE"
        } else {
            "WARNING"
        };
        self.send(&NoticeResponse::new(vec![
            (b'S', severity.to_owned()),
            (b'V', severity.to_owned()),
            (b'C', sqlstate.to_owned()),
            (b'M', message.to_owned()),
        ]));
    }

    fn copy_in_begin(&mut self, columns: usize) {
        self.send(&CopyInResponse::new(0, columns as i16, vec![0; columns]));
    }

    async fn copy_in(&mut self) -> Result<Option<Bytes>, SqlError> {
        self.flush().await.map_err(broken)?;
        loop {
            return match self.next().await.map_err(broken)? {
                None => Err(broken("the client went away in COPY")),
                Some(PgWireFrontendMessage::CopyData(data)) => Ok(Some(data.data)),
                Some(PgWireFrontendMessage::CopyDone(_)) => Ok(None),
                Some(PgWireFrontendMessage::CopyFail(fail)) => Err(SqlError::new(
                    "57014",
                    format!("COPY from stdin failed: {}", fail.message),
                )),
                Some(PgWireFrontendMessage::Flush(_) | PgWireFrontendMessage::Sync(_)) => continue,
                Some(other) => {
                    self.stray = Some(other);
                    Err(SqlError::new(
                        "08P01",
                        "unexpected message during COPY from stdin",
                    ))
                }
            };
        }
    }

    fn copy_out_begin(&mut self, columns: usize) {
        self.send(&CopyOutResponse::new(0, columns as i16, vec![0; columns]));
    }

    fn copy_out(&mut self, line: &[u8]) {
        self.output.put_u8(b'd');
        self.output.put_u32(line.len() as u32 + 4);
        self.output.put_slice(line);
    }

    fn copy_out_end(&mut self) {
        self.send(&pgwire::messages::copy::CopyDone::new());
    }
}
