//! The part of EDN that histories are written in, read with bounds: a value, or the line at which there is none.
//!
//! Tags are dropped (`#jepsen.history.Op{...}` is its map), and so are comments and `#_` with what it hides. Keywords, symbols
//! and strings are all text, keywords without their colon.

use super::input::{BadInput, Value};

/// Deeper nesting is refused: a history has five levels.
const DEEPEST: usize = 64;

/// Reads values one after another.
pub struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    line: usize,
}

impl<'a> Reader<'a> {
    /// At the beginning of `bytes`.
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self {
            bytes,
            at: 0,
            line: 1,
        }
    }

    /// The next value and its line; `None` at the end.
    pub fn next_value(&mut self) -> Result<Option<(usize, Value)>, BadInput> {
        self.skip(0)?;
        if self.peek().is_none() {
            return Ok(None);
        }
        let line = self.line;
        Ok(Some((line, self.value(0)?)))
    }

    /// Whether the next value is a list or vector, which is then entered: its members follow as values.
    pub fn enter_list(&mut self) -> Result<bool, BadInput> {
        self.skip(0)?;
        let entered = matches!(self.peek(), Some(b'[' | b'('));
        if entered {
            self.advance();
        }
        Ok(entered)
    }

    /// Whether an entered list ends here.
    pub fn leave_list(&mut self) -> Result<bool, BadInput> {
        self.skip(0)?;
        let ends = matches!(self.peek(), Some(b']' | b')'));
        if ends {
            self.advance();
        }
        Ok(ends)
    }

    fn error<T>(&self, what: impl Into<String>) -> Result<T, BadInput> {
        Err(BadInput::new(self.line, what))
    }

    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn advance(&mut self) -> Option<u8> {
        let byte = self.peek()?;
        self.at += 1;
        self.line += usize::from(byte == b'\n');
        Some(byte)
    }

    /// Goes on to the next value or closing bracket.
    fn skip(&mut self, depth: usize) -> Result<(), BadInput> {
        loop {
            match self.peek() {
                Some(byte) if byte.is_ascii_whitespace() || byte == b',' => {
                    self.advance();
                }
                Some(b';') => while self.advance().is_some_and(|byte| byte != b'\n') {},
                Some(b'#') if self.bytes.get(self.at + 1) == Some(&b'_') => {
                    self.at += 2;
                    self.value(depth + 1)?;
                }
                _ => return Ok(()),
            }
        }
    }

    fn value(&mut self, depth: usize) -> Result<Value, BadInput> {
        if depth > DEEPEST {
            return self.error("values are nested too deeply");
        }
        self.skip(depth)?;
        match self.peek() {
            None => self.error("the input ends where a value should be"),
            Some(b'[') => self.sequence(b']', depth).map(Value::List),
            Some(b'(') => self.sequence(b')', depth).map(Value::List),
            Some(b'{') => self.map(depth),
            Some(b'"') => self.string(),
            Some(b'#') => {
                self.advance();
                if self.peek() == Some(b'{') {
                    return self.sequence(b'}', depth).map(Value::List);
                }
                if self.token().is_empty() {
                    return self.error("# without a tag");
                }
                self.value(depth + 1)
            }
            Some(b'\\') => {
                // The character after the backslash belongs to it, whatever it is.
                self.advance();
                let first = self.advance().map(|byte| byte as char);
                let rest = String::from_utf8_lossy(self.token()).into_owned();
                Ok(Value::Text(first.into_iter().collect::<String>() + &rest))
            }
            Some(byte @ (b']' | b')' | b'}')) => self.error(format!("`{}` closes nothing", byte as char)),
            Some(_) => self.atom(),
        }
    }

    fn sequence(&mut self, end: u8, depth: usize) -> Result<Vec<Value>, BadInput> {
        self.advance();
        let mut values = Vec::new();
        loop {
            self.skip(depth)?;
            if self.peek() == Some(end) {
                self.advance();
                return Ok(values);
            }
            values.push(self.value(depth + 1)?);
        }
    }

    fn map(&mut self, depth: usize) -> Result<Value, BadInput> {
        let values = self.sequence(b'}', depth)?;
        if values.len() % 2 != 0 {
            return self.error("a map has a key without a value");
        }
        let mut pairs = Vec::with_capacity(values.len() / 2);
        let mut values = values.into_iter();
        while let (Some(key), Some(value)) = (values.next(), values.next()) {
            pairs.push((key, value));
        }
        Ok(Value::Map(pairs))
    }

    fn string(&mut self) -> Result<Value, BadInput> {
        self.advance();
        let mut bytes = Vec::new();
        loop {
            match self.advance() {
                None => return self.error("a string does not end"),
                Some(b'"') => break,
                Some(b'\\') => match self.advance() {
                    Some(b'n') => bytes.push(b'\n'),
                    Some(b't') => bytes.push(b'\t'),
                    Some(b'r') => bytes.push(b'\r'),
                    Some(other) => bytes.push(other),
                    None => return self.error("a string does not end"),
                },
                Some(byte) => bytes.push(byte),
            }
        }
        Ok(Value::Text(String::from_utf8_lossy(&bytes).into_owned()))
    }

    /// Everything up to white space or a bracket.
    fn token(&mut self) -> &'a [u8] {
        let start = self.at;
        while let Some(byte) = self.peek() {
            if byte.is_ascii_whitespace() || b",;\"[](){}".contains(&byte) {
                break;
            }
            self.at += 1;
        }
        &self.bytes[start..self.at]
    }

    fn atom(&mut self) -> Result<Value, BadInput> {
        let token = self.token();
        let Ok(text) = std::str::from_utf8(token) else {
            return self.error("not UTF-8");
        };
        if let Some(keyword) = text.strip_prefix(':') {
            return Ok(Value::Text(keyword.to_owned()));
        }
        let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
        if digits.starts_with(|first: char| first.is_ascii_digit()) {
            return match text.strip_suffix('N').unwrap_or(text).parse() {
                Ok(number) => Ok(Value::Integer(number)),
                Err(_) => Ok(Value::Other(text.to_owned())),
            };
        }
        Ok(match text {
            "nil" => Value::Nil,
            "true" | "false" => Value::Other(text.to_owned()),
            _ => Value::Text(text.to_owned()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(text: &str) -> Result<Option<(usize, Value)>, BadInput> {
        Reader::new(text.as_bytes()).next_value()
    }

    #[test]
    fn values_of_histories_are_read() {
        let text = "; a comment\n#jepsen.history.Op{:process 3, :type :ok #_ hidden :value [[:r \"x\" nil] [:append y -7N]]}";
        let text_of = |text: &str| Value::Text(text.to_owned());
        let read_x = Value::List(vec![text_of("r"), text_of("x"), Value::Nil]);
        let append_y = Value::List(vec![text_of("append"), text_of("y"), Value::Integer(-7)]);
        let map = Value::Map(vec![
            (text_of("process"), Value::Integer(3)),
            (text_of("type"), text_of("ok")),
            (text_of("value"), Value::List(vec![read_x, append_y])),
        ]);
        assert_eq!(read(text), Ok(Some((2, map))));
        assert_eq!(read("  ; nothing"), Ok(None));
        assert_eq!(read(r#""a\n\"b""#), Ok(Some((1, text_of("a\n\"b")))));
        assert_eq!(read(r"\( "), Ok(Some((1, text_of("(")))));
        assert_eq!(read("1.5"), Ok(Some((1, Value::Other("1.5".to_owned())))));
    }

    #[test]
    fn what_is_broken_names_its_line() {
        for (text, line) in [
            ("\n{:a", 2),
            ("{:a 1\n :b}", 2),
            ("]", 1),
            ("\"\n\n", 3),
            ("#", 1),
            ("\\", 1),
        ] {
            match read(text) {
                Err(bad) => assert_eq!(bad.line, line, "{text:?}: {bad}"),
                Ok(value) => assert_eq!(text, "\\", "{value:?}"),
            }
        }
        assert!(read(&"[".repeat(100_000)).is_err());
        assert!(read(&"#_".repeat(100_000)).is_err());
        assert!(read(&"#a ".repeat(100_000)).is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(prop_oneof![
            any::<u8>(),
            prop::sample::select(b"[](){}#_\\\";:, \n-+0123456789rNnil".to_vec()),
        ], 0..300)) {
            let mut reader = Reader::new(&bytes);
            while let Ok(Some(_)) = reader.next_value() {}
        }
    }
}
