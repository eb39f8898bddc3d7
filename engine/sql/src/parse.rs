//! From text to statements: `sqlparser` for what it knows, our own small parser for VACUUM, RESET and the like.

use crate::error::SqlError;
use sqlparser::ast;
use sqlparser::dialect::PostgreSqlDialect;
use sqlparser::parser::Parser;
use sqlparser::tokenizer::{Token, TokenWithSpan, Tokenizer};

/// A statement as parsed.
#[derive(Debug, Clone)]
pub(crate) enum Parsed {
    /// By `sqlparser`.
    Ast(Box<ast::Statement>),
    /// VACUUM: nothing to do, versions are pruned as leaves are written.
    Vacuum,
    /// ANALYZE: nothing to do, plans need no statistics.
    Analyze,
    /// CHECKPOINT: nothing to do, the cleaner writes back all the time.
    Checkpoint,
    /// RESET name; `None` is ALL.
    Reset(Option<String>),
    /// LOCK TABLE: not supported, but named.
    Unsupported(&'static str),
}

const DIALECT: PostgreSqlDialect = PostgreSqlDialect {};

/// Splits a text into its statements.
pub(crate) fn parse(text: &str) -> Result<Vec<Parsed>, SqlError> {
    let tokens = Tokenizer::new(&DIALECT, text)
        .tokenize_with_location()
        .map_err(SqlError::syntax)?;
    let mut statements = Vec::new();
    for part in tokens.split(|token| token.token == Token::SemiColon) {
        if part
            .iter()
            .any(|token| !matches!(token.token, Token::Whitespace(_) | Token::EOF))
        {
            statements.push(parse_one(part)?);
        }
    }
    Ok(statements)
}

fn parse_one(tokens: &[TokenWithSpan]) -> Result<Parsed, SqlError> {
    let words: Vec<String> = tokens
        .iter()
        .filter(|token| !matches!(token.token, Token::Whitespace(_) | Token::EOF))
        .take(3)
        .map(|token| match &token.token {
            Token::Word(word) if word.quote_style.is_none() => word.value.to_lowercase(),
            other => other.to_string(),
        })
        .collect();
    match words[0].as_str() {
        "vacuum" => return Ok(Parsed::Vacuum),
        "analyze" | "analyse" => return Ok(Parsed::Analyze),
        "checkpoint" => return Ok(Parsed::Checkpoint),
        "lock" => return Ok(Parsed::Unsupported("LOCK TABLE")),
        "listen" | "notify" | "unlisten" => return Ok(Parsed::Unsupported("LISTEN and NOTIFY")),
        "reset" => {
            return match words.get(1).map(String::as_str) {
                Some("all") => Ok(Parsed::Reset(None)),
                Some(name) => Ok(Parsed::Reset(Some(name.to_owned()))),
                None => Err(SqlError::syntax("RESET needs a name")),
            };
        }
        _ => {}
    }
    // "SET SESSION CHARACTERISTICS AS TRANSACTION ..." and the rest go to the library.
    let mut tokens = tokens.to_vec();
    if words[0] == "copy" {
        spell_switches(&mut tokens);
    }
    let mut parser = Parser::new(&DIALECT).with_tokens_with_locations(tokens);
    let statement = parser.parse_statement().map_err(SqlError::syntax)?;
    let rest = parser.peek_token();
    if rest.token != Token::EOF {
        return Err(SqlError::syntax(format!("at or near \"{}\"", rest.token)));
    }
    Ok(Parsed::Ast(Box::new(statement)))
}

/// The library knows `FREEZE true`, clients write `freeze on`.
fn spell_switches(tokens: &mut [TokenWithSpan]) {
    let mut after_switch = false;
    for token in tokens {
        let Token::Word(word) = &token.token else { continue };
        let text = word.value.to_lowercase();
        if after_switch && matches!(text.as_str(), "on" | "off") {
            token.token = Token::make_keyword(if text == "on" { "TRUE" } else { "FALSE" });
        }
        after_switch = matches!(text.as_str(), "freeze" | "header");
    }
}

/// Parses an expression: the default of a column.
pub(crate) fn parse_expression(text: &str) -> Result<ast::Expr, SqlError> {
    Parser::new(&DIALECT)
        .try_with_sql(text)
        .and_then(|mut parser| parser.parse_expr())
        .map_err(SqlError::syntax)
}
