//! What is on a device, as text: every kind of block by its magic or its CRC, and a whole group.
//!
//! Rules: these are the decoders that nodes use; any bytes are safe; what cannot be read is said and shown raw.

mod block;
mod dump;
mod page;

pub use block::recognise;
pub use dump::dump;
pub use page::page_fields;

/// Bytes that are enough to recognise a block and to decode what it has: a group of redo is the longest.
pub const LOOK_BYTES: usize = 1 << 20;

/// A block that was looked at.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Decoded {
    /// What it is.
    pub kind: &'static str,
    /// Why it cannot be believed.
    pub trouble: Option<String>,
    /// What it says, in order.
    pub fields: Vec<(String, String)>,
}

impl Decoded {
    fn new(kind: &'static str) -> Self {
        Self {
            kind,
            trouble: None,
            fields: Vec::new(),
        }
    }

    fn damaged(kind: &'static str, trouble: impl std::fmt::Display) -> Self {
        Self {
            trouble: Some(trouble.to_string()),
            ..Self::new(kind)
        }
    }

    fn with(mut self, name: impl Into<String>, value: impl std::fmt::Display) -> Self {
        self.fields.push((name.into(), value.to_string()));
        self
    }

    /// The fields, one a line.
    pub fn text(&self) -> String {
        let mut text = match &self.trouble {
            None => format!("{}\n", self.kind),
            Some(trouble) => format!("{}: {trouble}\n", self.kind),
        };
        for (name, value) in &self.fields {
            text += &format!("  {name}: {value}\n");
        }
        text
    }
}

/// Bytes as hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
